//! `queryRewrite`: queries as the hook sees them, and what it makes of them (`http-api.md` §14).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::echo::time_dimension;
use super::error::ApiError;
use super::question::Question;
use super::{ApiParts, Call, wire};
use crate::hooks::Hooks;
use crate::model::Model;
use crate::query::QueryError;
use crate::query::normalize::{Limits, Normalized, normalize};
use crate::query::request::{FilterNode, Request, ResponseFormat};
use crate::sql::{Rewriting, SqlError};
use crate::time::Zone;

impl Question {
    /// Every query, resolved and rewritten: what is answered.
    ///
    /// # Errors
    /// As [`Question::normalize`], also of what the hook gives; or the hook fails.
    pub(super) async fn resolve(
        &self,
        parts: &ApiParts,
        call: &Call,
        model: &Model,
        now: i64,
    ) -> Result<Vec<Normalized>, ApiError> {
        self.resolve_within(parts, call, model, &parts.limits, now).await
    }

    /// As [`Question::resolve`], with other defaults and bounds than those of the settings.
    ///
    /// # Errors
    /// As [`Question::resolve`].
    pub(super) async fn resolve_within(
        &self,
        parts: &ApiParts,
        call: &Call,
        model: &Model,
        limits: &Limits,
        now: i64,
    ) -> Result<Vec<Normalized>, ApiError> {
        let asker = call.asker(parts);
        let mut asked = self.normalize(model, limits, &asker, now)?;
        let Some(hooks) = parts.hooks.as_ref().filter(|hooks| hooks.rewrites()) else { return Ok(asked) };
        // Who finds nothing anyway is not rewritten.
        let open: Vec<&mut Normalized> = asked.iter_mut().filter(|part| !part.query.denied).collect();
        let shown = open.iter().map(|part| Value::Object(shown(&part.echo))).collect();
        let given = Box::pin(hooks.rewrite(shown, &call.caller.request())).await?;
        for (part, given) in open.into_iter().zip(given) {
            let request = taken(&given, &part.echo)?;
            *part = normalize(&request, model, limits, &asker, now)?;
        }
        Ok(asked)
    }
}

/// `queryRewrite` for the questions of SQL; none where there is no such hook.
pub(super) fn rewriting(parts: &ApiParts, call: &Call) -> Option<Rewriting> {
    let hooks = parts.hooks.clone().filter(Hooks::rewrites)?;
    let context = call.caller.request();
    Some(Rewriting(Arc::new(move |request: Request| {
        let (hooks, context) = (hooks.clone(), context.clone());
        Box::pin(async move {
            let given = hooks.rewrite(vec![Value::Object(shown(&request))], &context).await;
            let mut given = given.map_err(|error| SqlError::Refused(error.to_string()))?;
            Ok(taken(&given.pop().unwrap_or_default(), &request)?)
        })
    })))
}

/// The normalised query; lists are always there.
fn shown(request: &Request) -> Map<String, Value> {
    let mut query = Map::new();
    let mut put = |key: &str, value: Value| _ = query.insert(key.to_owned(), value);
    put("measures", json!(request.measures.as_deref().unwrap_or_default()));
    put("dimensions", json!(request.dimensions));
    put("timeDimensions", request.time_dimensions.iter().map(time_dimension).collect());
    put("segments", json!(request.segments.as_deref().unwrap_or_default()));
    put("filters", request.filters.iter().map(FilterNode::to_json).collect());
    put("limit", json!(request.limit));
    put("timezone", json!(request.timezone.unwrap_or(Zone::UTC).name()));
    if let Some(order) = &request.order {
        let direction = |descending: bool| if descending { "desc" } else { "asc" };
        put("order", order.iter().map(|key| json!([key.member, direction(key.descending)])).collect());
    }
    if let Some(offset) = request.offset {
        put("offset", json!(offset));
    }
    if let Some(total) = request.total {
        put("total", json!(total));
    }
    if let Some(ungrouped) = request.ungrouped {
        put("ungrouped", json!(ungrouped));
    }
    if let Some(format) = request.response_format {
        let word = match format {
            ResponseFormat::Default => "default",
            ResponseFormat::Compact => "compact",
            ResponseFormat::Columnar => "columnar",
        };
        put("responseFormat", json!(word));
    }
    if let Some(cache) = request.cache {
        put("cache", json!(cache.as_str()));
    }
    if !request.join_hints.is_empty() {
        put("joinHints", json!(request.join_hints));
    }
    query
}

/// What the hook gave, in place of `before`. Conditions that it added are the server's: the caller needs no leave for
/// their members.
fn taken(given: &Value, before: &Request) -> Result<Request, QueryError> {
    let mut request = wire::parse_request(given)?;
    let compares = |request: &Request| request.time_dimensions.iter().any(|time| time.compare_date_range.is_some());
    if compares(&request) && !compares(before) {
        return Err(QueryError::Invalid("compareDateRange cannot be added by queryRewrite".to_owned()));
    }
    // Lists that were absent are shown to the hook as empty ones.
    let absent = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if before.measures.is_none() && absent(&request.measures) {
        request.measures = None;
    }
    if before.segments.is_none() && absent(&request.segments) {
        request.segments = None;
    }
    let mut own = before.filters.clone();
    let (kept, imposed) = std::mem::take(&mut request.filters).into_iter().partition(|filter| {
        let found = own.iter().position(|known| known == filter);
        found.map(|at| own.swap_remove(at)).is_some()
    });
    (request.filters, request.imposed) = (kept, imposed);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::parse_request;
    use crate::query::normalize::Limits;
    use crate::query::policy::Asker;
    use crate::query::sample;

    fn normalized(query: &Value) -> Request {
        let limits = Limits {
            default_rows: 10,
            max_rows: 100,
            timezone: Zone::UTC,
            allow_hidden: false,
            ungrouped_without_key: true,
        };
        let request = parse_request(query).expect("a valid query");
        normalize(&request, &sample::model(), &limits, &Asker::default(), 0).expect("a valid query").echo
    }

    fn rich() -> Value {
        json!({
            "measures": ["orders.count"], "dimensions": ["orders.status"], "order": {"orders.count": "desc"},
            "timeDimensions": [{"dimension": "orders.created_at", "granularity": "day", "dateRange": "last week"}],
            "filters": [{"member": "orders.status", "operator": "equals", "values": ["a", 5]},
                {"or": [{"member": "orders.created_at", "operator": "inDateRange", "values": ["today"]},
                    {"member": "orders.status", "operator": "set"}]}],
            "segments": [], "offset": 2, "total": true, "responseFormat": "compact", "cache": "no-cache",
            "timezone": "Europe/Berlin",
        })
    }

    #[test]
    fn what_a_hook_leaves_alone_stays_as_it_was() {
        for query in
            [rich(), json!({"measures": ["orders.count"]}), json!({"dimensions": ["orders.status"], "order": []})]
        {
            let before = normalized(&query);
            let after = taken(&Value::Object(shown(&before)), &before).expect("a valid query");
            assert_eq!(after, before, "{query}");
        }
    }

    #[test]
    fn lists_are_there_and_the_order_is_pairs() {
        let query = Value::Object(shown(&normalized(&json!({"measures": ["orders.count"]}))));
        for key in ["measures", "dimensions", "timeDimensions", "segments", "filters"] {
            assert!(query[key].is_array(), "{key}");
        }
        assert_eq!((&query["limit"], &query["timezone"], query.get("order")), (&json!(10), &json!("UTC"), None));
        let query = Value::Object(shown(&normalized(&rich())));
        assert_eq!(query["order"], json!([["orders.count", "desc"]]));
        assert_eq!(query["filters"][0]["values"], json!(["a", "5"]));
    }

    #[test]
    fn added_conditions_are_told_from_the_clients_own() {
        let before = normalized(&rich());
        let mut query = Value::Object(shown(&before));
        let added = json!({"member": "orders.status", "operator": "equals", "values": ["own"]});
        let again = query["filters"][0].clone();
        let filters = query["filters"].as_array_mut().expect("a list");
        filters.insert(0, added.clone());
        filters.push(again.clone());
        let after = taken(&query, &before).expect("a valid query");
        assert_eq!(after.filters, before.filters);
        let imposed: Vec<Value> = after.imposed.iter().map(FilterNode::to_json).collect();
        assert_eq!(imposed, [added, again]);
    }

    #[test]
    fn what_a_hook_gives_is_checked_as_a_clients_query() {
        let before = normalized(&rich());
        let fails = |change: &dyn Fn(&mut Value)| {
            let mut query = Value::Object(shown(&before));
            change(&mut query);
            taken(&query, &before).expect_err("a fault").to_string()
        };
        assert_eq!(fails(&|query| query["foo"] = json!(1)), "Invalid query format: \"foo\" is not allowed");
        assert!(fails(&|query| query["filters"] = json!("x")).contains("\"filters\" must be an array"));
        assert!(
            fails(&|query| {
                query["timeDimensions"][0] =
                    json!({"dimension": "orders.created_at", "compareDateRange": ["today", "yesterday"]});
            })
            .contains("compareDateRange cannot be added")
        );
    }
}
