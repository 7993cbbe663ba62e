//! `annotation` of an answer: titles and types of its members (`http-api.md` §5.11).

use serde_json::{Map, Value, json};

use super::shown::{Shown, dimension_type};
use crate::model::granularity::CustomGranularity;
use crate::model::{DimensionId, Grain, MeasureId, MemberId, Model, SegmentId};
use crate::query::request::Request;
use crate::query::{OutputColumn, Query};

/// The name of a time dimension's column, granularity spelled as the client did.
pub(super) fn time_key(model: &Model, echo: &Request, id: DimensionId, grain: Grain) -> String {
    let path = model.path_of(MemberId::Dimension(id));
    let dimension = model.dimension(id);
    let spelled = echo
        .time_dimensions
        .iter()
        .filter(|time| time.dimension == path)
        .find_map(|time| time.granularity.as_deref().filter(|name| dimension.find_grain(name) == Some(grain)));
    format!("{path}.{}", spelled.unwrap_or_else(|| dimension.grain_name(grain)))
}

/// A custom granularity as metadata show it.
pub(super) fn custom_granularity(custom: &CustomGranularity) -> Value {
    let mut item = json!({"name": custom.name, "title": custom.title});
    let written = [
        ("interval", &custom.written.interval),
        ("offset", &custom.written.offset),
        ("origin", &custom.written.origin),
        ("format", &custom.format),
    ];
    for (key, value) in written {
        if let Some(value) = value {
            item[key] = json!(value);
        }
    }
    item
}

fn granularity(model: &Model, id: DimensionId, grain: Grain) -> Value {
    let dimension = model.dimension(id);
    match grain {
        Grain::Custom(index) => dimension.granularities.get(index as usize).map_or(Value::Null, custom_granularity),
        Grain::Standard(_) => {
            let name = dimension.grain_name(grain);
            json!({"name": name, "title": name, "interval": format!("1 {name}")})
        }
    }
}

/// The four objects.
pub(super) fn annotation(model: &Model, query: &Query, echo: &Request) -> Value {
    let (mut measures, mut dimensions, mut segments, mut times) = (Map::new(), Map::new(), Map::new(), Map::new());
    for column in query.columns() {
        match column {
            OutputColumn::Measure(id) => {
                measures.insert(model.path_of(MemberId::Measure(id)), measure(model, id));
            }
            OutputColumn::Dimension(id) => {
                dimensions.insert(model.path_of(MemberId::Dimension(id)), dimension(model, id));
            }
            OutputColumn::Segment(id) => {
                let mut item = segment(model, id);
                item["type"] = json!("boolean");
                dimensions.insert(model.path_of(MemberId::Segment(id)), item);
            }
            OutputColumn::Time(id, grain) => {
                let plain = dimension(model, id);
                let mut item = plain.clone();
                item["granularity"] = granularity(model, id, grain);
                times.insert(time_key(model, echo, id, grain), item);
                if !query.dimensions.contains(&id) {
                    times.insert(model.path_of(MemberId::Dimension(id)), plain);
                }
            }
        }
    }
    for id in &query.segments {
        segments.insert(model.path_of(MemberId::Segment(*id)), segment(model, *id));
    }
    json!({"measures": measures, "dimensions": dimensions, "segments": segments, "timeDimensions": times})
}

/// Puts the keys that are there only when the model gives them.
fn put_given<const N: usize>(item: &mut Value, given: [(&str, Option<Value>); N]) {
    for (key, value) in given {
        if let Some(value) = value {
            item[key] = value;
        }
    }
}

fn measure(model: &Model, id: MeasureId) -> Value {
    let (cube, measure) = (model.cube(id.cube), model.measure(id));
    let mut item = json!({
        "title": format!("{} {}", cube.title, measure.short_title),
        "shortTitle": measure.short_title,
        "type": measure.kind.data_type().as_str(),
    });
    let description = measure.description.clone().map(Value::from);
    let shown = Shown::of_measure(measure);
    let given = [
        ("description", description),
        ("format", shown.format),
        ("currency", shown.currency),
        ("meta", measure.meta.clone()),
    ];
    put_given(&mut item, given);
    let (all, grouped) = drill_members(model, id, &|_| true);
    item["drillMembers"] = all;
    item["drillMembersGrouped"] = grouped;
    item
}

/// `drillMembers` and `drillMembersGrouped`.
pub(super) fn drill_members(model: &Model, id: MeasureId, may_see: &dyn Fn(MemberId) -> bool) -> (Value, Value) {
    let members = &model.measure(id).drill_members;
    let paths = |wanted: fn(&MemberId) -> bool| -> Vec<String> {
        members
            .iter()
            .filter(|member| wanted(member) && may_see(**member))
            .map(|member| model.path_of(*member))
            .collect()
    };
    let grouped = json!({
        "measures": paths(|member| matches!(member, MemberId::Measure(_))),
        "dimensions": paths(|member| matches!(member, MemberId::Dimension(_))),
    });
    (json!(paths(|_| true)), grouped)
}

fn dimension(model: &Model, id: DimensionId) -> Value {
    let (cube, dimension) = (model.cube(id.cube), model.dimension(id));
    let mut item = json!({
        "title": format!("{} {}", cube.title, dimension.short_title),
        "shortTitle": dimension.short_title,
        "type": dimension_type(model, dimension),
    });
    let description = dimension.description.clone().map(Value::from);
    let shown = Shown::of_dimension(dimension);
    let given = [
        ("description", description),
        ("format", shown.format),
        ("currency", shown.currency),
        ("meta", dimension.meta.clone()),
    ];
    put_given(&mut item, given);
    item
}

fn segment(model: &Model, id: SegmentId) -> Value {
    let (cube, segment) = (model.cube(id.cube), model.segment(id));
    let mut item =
        json!({ "title": format!("{} {}", cube.title, segment.short_title), "shortTitle": segment.short_title });
    let description = segment.description.clone().map(Value::from);
    put_given(&mut item, [("description", description), ("meta", segment.meta.clone())]);
    item
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::normalize::{Limits, normalize};
    use crate::query::policy::Asker;
    use crate::query::sample;
    use crate::time::Zone;

    fn annotate(query: &Value) -> Value {
        let model = sample::model();
        let request = super::super::wire::parse_request(query).expect("a valid query");
        let limits = Limits {
            default_rows: 10,
            max_rows: 10,
            timezone: Zone::UTC,
            allow_hidden: false,
            ungrouped_without_key: true,
        };
        let normalized = normalize(&request, &model, &limits, &Asker::default(), 0).expect("a valid query");
        annotation(&model, &normalized.query, &normalized.echo)
    }

    #[test]
    fn members_are_annotated_as_recorded() {
        let query = json!({
            "measures": ["orders.count"], "dimensions": ["orders.amount"], "segments": ["orders.open"],
            "timeDimensions": [{"dimension": "orders.created_at", "granularity": "Day"}],
        });
        let created = json!({"title": "Orders Created at", "shortTitle": "Created at", "type": "time"});
        let mut by_day = created.clone();
        by_day["granularity"] = json!({"name": "day", "title": "day", "interval": "1 day"});
        let expected = json!({
            "measures": {"orders.count": {"title": "Orders Count", "shortTitle": "Count", "type": "number",
                "drillMembers": ["orders.status"],
                "drillMembersGrouped": {"measures": [], "dimensions": ["orders.status"]}}},
            "dimensions": {"orders.amount": {"title": "Orders Amount", "shortTitle": "Amount", "type": "number", "format": "currency"}},
            "segments": {"orders.open": {"title": "Orders Open", "shortTitle": "Open"}},
            "timeDimensions": {"orders.created_at.Day": by_day, "orders.created_at": created},
        });
        assert_eq!(annotate(&query), expected);
    }

    #[test]
    fn a_time_dimension_among_the_dimensions_has_no_bare_key() {
        let query = json!({
            "dimensions": ["orders.created_at"],
            "timeDimensions": [{"dimension": "orders.created_at", "granularity": "day"}],
        });
        let times = annotate(&query)["timeDimensions"].clone();
        let keys: Vec<&String> = times.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["orders.created_at.day"]);
    }
}
