//! `/v1/sql`: shows the statement that a query would run (`http-api.md` §7.1, format `rest`).

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::error::{ApiError, json_response};
use super::explain;
use super::load::logical_table;
use super::question::Question;
use super::transformed::transformed;
use super::{ApiParts, Call, cubesql};
use crate::model::{MemberId, Model};
use crate::query::execute::SqlPreview;
use crate::query::expand::QueryType;
use crate::query::explain::explain as explain_query;
use crate::query::fresh::KeyStatement;
use crate::query::normalize::Normalized;
use crate::query::request::Request;
use crate::query::{OutputColumn, Query};

/// Plans, and runs nothing. Several queries make an array.
pub(super) async fn sql(parts: &ApiParts, call: &Call) -> Result<Response<Body>, ApiError> {
    if call.arguments.get("format").and_then(Value::as_str) == Some("sql") {
        return cubesql::preview(parts, call).await;
    }
    let question = Question::read(&call.arguments, parts.options.max_queries)?;
    let explained = explain::is_wanted(&call.arguments)?;
    let current = call.model(parts);
    let snapshot = parts.store.snapshot();
    let model = current.rollups.model();
    let mut bodies = Vec::new();
    for Normalized { query, echo } in question.resolve(parts, call, model, parts.clock.now()).await? {
        let preview = parts.queries.preview(&current.rollups, &snapshot, &query)?;
        let mut body = describe(model, &query, &echo, &preview, call.preagg_schema(parts));
        if explained {
            let account = explain_query(&current.rollups, &snapshot, &query)?;
            body["quarry"] = json!({"explain": explain::describe(&account)});
        }
        bodies.push(body);
    }
    let body = match question.kind {
        QueryType::Regular => bodies.pop().unwrap_or_default(),
        QueryType::CompareDateRange { .. } | QueryType::Blending => Value::Array(bodies),
    };
    Ok(json_response(StatusCode::OK, body.to_string()))
}

fn describe(model: &Model, query: &Query, echo: &Request, preview: &SqlPreview, schema: &str) -> Value {
    let rollups: Vec<Value> = preview
        .used
        .iter()
        .map(|used| {
            json!({
                "preAggregationId": used.id,
                "tableName": logical_table(schema, &used.logical),
                "targetTableName": used.table.as_str(),
                "type": used.kind,
                "timezone": query.timezone.name(),
                "preAggregationsSchema": schema,
                "dataSource": preview.data_source,
            })
        })
        .collect();
    let members: Map<String, Value> =
        preview.aliases.iter().map(|(alias, member)| (alias.clone(), json!(member))).collect();
    let names: Vec<String> = query.read_members(model).into_iter().map(|member| model.path_of(member)).collect();
    let mut sql = json!({
        "external": preview.used.iter().any(|used| used.external),
        "sql": [preview.text, preview.params],
        "lambdaQueries": preview
            .from_source
            .iter()
            .map(|(table, text, params)| (table.clone(), json!({"sql": [text, params]})))
            .collect::<Map<String, Value>>(),
        "order": order(model, query, echo),
        "cacheKeyQueries": preview.keys.iter().map(key_query).collect::<Vec<_>>(),
        "preAggregations": rollups,
        "dataSource": preview.data_source,
        "aliasNameToMember": members,
        "canUseTransformedQuery": transformed(model, query),
        "memberNames": names,
    });
    let first_time = query.columns().into_iter().find_map(|column| match column {
        OutputColumn::Time(id, grain) => {
            Some((model.path_of(MemberId::Dimension(id)), model.dimension(id).grain_name(grain)))
        }
        _ => None,
    });
    if let Some((path, granularity)) = first_time {
        let wanted = format!("{path}.{granularity}");
        if let Some((alias, _)) = preview.aliases.iter().find(|(_, member)| *member == wanted) {
            sql["timeDimensionAlias"] = json!(alias);
        }
        sql["timeDimensionField"] = json!(path);
    }
    json!({"sql": sql, "dataSource": preview.data_source})
}

/// A refresh key: statement, request values, and how long its result is good.
fn key_query(key: &KeyStatement) -> Value {
    json!([key.text, key.params, {"external": false, "renewalThreshold": key.threshold}])
}

/// Member → direction; the default order names a time dimension by its bare name.
pub(super) fn order(model: &Model, query: &Query, echo: &Request) -> Value {
    let direction = |descending: bool| json!(if descending { "desc" } else { "asc" });
    let mut order = Map::new();
    match &echo.order {
        Some(keys) => {
            for key in keys {
                order.entry(key.member.clone()).or_insert_with(|| direction(key.descending));
            }
        }
        None => {
            let columns = query.columns();
            for key in &query.order {
                let member = match columns[key.column] {
                    OutputColumn::Dimension(id) | OutputColumn::Time(id, _) => MemberId::Dimension(id),
                    OutputColumn::Segment(id) => MemberId::Segment(id),
                    OutputColumn::Measure(id) => MemberId::Measure(id),
                };
                order.insert(model.path_of(member), direction(key.descending));
            }
        }
    }
    Value::Object(order)
}

#[cfg(test)]
mod tests {
    use super::super::wire;
    use super::*;
    use crate::query::normalize::{Limits, normalize};
    use crate::query::policy::Asker;
    use crate::query::sample;
    use crate::time::Zone;

    fn run(query: &Value) -> Value {
        let model = sample::model();
        let request = wire::parse_request(query).expect("a valid query");
        let limits = Limits {
            default_rows: 10,
            max_rows: 10,
            timezone: Zone::UTC,
            allow_hidden: false,
            ungrouped_without_key: true,
        };
        let Normalized { query, echo } =
            normalize(&request, &model, &limits, &Asker::default(), 0).expect("a valid query");
        let preview = SqlPreview {
            text: "SELECT 1".to_owned(),
            params: vec!["x".to_owned()],
            used: Vec::new(),
            keys: vec![KeyStatement { text: "SELECT 2".to_owned(), params: vec!["y".to_owned()], threshold: 10 }],
            from_source: Vec::new(),
            data_source: "default".to_owned(),
            aliases: vec![("orders__created_at_day".to_owned(), "orders.created_at.day".to_owned())],
        };
        describe(&model, &query, &echo, &preview, "prod")
    }

    #[test]
    fn the_default_order_names_time_dimensions_bare() {
        let times = json!([{"dimension": "orders.created_at", "granularity": "day"}]);
        let body = run(&json!({"measures": ["orders.count"], "timeDimensions": times}));
        assert_eq!(body["sql"]["order"], json!({"orders.created_at": "asc"}));
        assert_eq!(body["sql"]["timeDimensionAlias"], json!("orders__created_at_day"));
        assert_eq!(body["sql"]["timeDimensionField"], json!("orders.created_at"));
        assert_eq!(body["sql"]["sql"], json!(["SELECT 1", ["x"]]));
        let key = json!(["SELECT 2", ["y"], {"external": false, "renewalThreshold": 10}]);
        assert_eq!(body["sql"]["cacheKeyQueries"], json!([key]));
        assert_eq!(body["dataSource"], json!("default"));
    }

    #[test]
    fn a_given_order_is_shown_as_given() {
        let body = run(&json!({"measures": ["orders.count"], "order": [["orders.count", "asc"]]}));
        assert_eq!(body["sql"]["order"], json!({"orders.count": "asc"}));
        assert!(body["sql"].get("timeDimensionField").is_none());
    }
}
