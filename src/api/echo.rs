//! The normalised query as answers show it, and the pivot query of an answer with several results
//! (`http-api.md` §5.3, §5.14).

use serde_json::{Map, Value, json};

use crate::query::expand::QueryType;
use crate::query::request::{DateRange, FilterNode, Request, ResponseFormat, TimeDimensionRequest};
use crate::time::Zone;

/// The key that rows of compared ranges carry.
pub(super) const COMPARED_KEY: &str = "compareDateRange";

/// The query of a result; keys in the recorded order.
pub(super) fn echo(request: &Request) -> Map<String, Value> {
    let mut echo = Map::new();
    let mut put = |key: &str, value: Value| {
        echo.insert(key.to_owned(), value);
    };
    if let Some(measures) = &request.measures {
        put("measures", json!(measures));
    }
    put("dimensions", json!(request.dimensions));
    put("timeDimensions", request.time_dimensions.iter().map(time_dimension).collect());
    if let Some(segments) = &request.segments {
        put("segments", json!(segments));
    }
    put("limit", json!(request.limit));
    if let Some(offset) = request.offset {
        put("offset", json!(offset));
    }
    if let Some(total) = request.total {
        put("total", json!(total));
    }
    put("timezone", json!(request.timezone.unwrap_or(Zone::UTC).name()));
    if let Some(ungrouped) = request.ungrouped {
        put("ungrouped", json!(ungrouped));
    }
    match request.response_format {
        None => {}
        Some(ResponseFormat::Default) => put("responseFormat", json!("default")),
        Some(ResponseFormat::Compact) => put("responseFormat", json!("compact")),
        Some(ResponseFormat::Columnar) => put("responseFormat", json!("columnar")),
    }
    if !request.join_hints.is_empty() {
        put("joinHints", json!(request.join_hints));
    }
    put("filters", request.filters.iter().map(FilterNode::to_json).collect());
    put("rowLimit", json!(request.limit));
    if let Some(order) = &request.order {
        put("order", order.iter().map(|key| json!({"id": key.member, "desc": key.descending})).collect());
    }
    echo
}

pub(super) fn time_dimension(time: &TimeDimensionRequest) -> Value {
    let mut echo = json!({ "dimension": time.dimension });
    if let Some(range) = &time.date_range {
        echo["dateRange"] = date_range(range);
    }
    if let Some(ranges) = &time.compare_date_range {
        echo[COMPARED_KEY] = ranges.iter().map(date_range).collect();
    }
    if let Some(granularity) = &time.granularity {
        echo["granularity"] = json!(granularity);
    }
    echo
}

fn date_range(range: &DateRange) -> Value {
    match range {
        DateRange::Text(text) => json!(text),
        DateRange::Bounds(bounds) => json!(bounds),
    }
}

/// What is common to a pivot's series: `pivotQuery` of an answer, made from `first`, the shown form of the
/// first query, and from all queries.
pub(super) fn pivot_query(kind: QueryType, first: Map<String, Value>, echoes: &[&Request]) -> Map<String, Value> {
    let mut pivot = first;
    match kind {
        QueryType::Regular => {}
        QueryType::CompareDateRange { .. } => {
            if let Some(dimensions) = pivot.get_mut("dimensions").and_then(Value::as_array_mut) {
                dimensions.insert(0, json!(COMPARED_KEY));
            }
        }
        QueryType::Blending => blend_into(&mut pivot, echoes),
    }
    pivot.insert("queryType".to_owned(), json!(kind.as_str()));
    pivot
}

/// Members of all queries, each once, in order of first appearance; absent where there are none. Time is
/// common to them.
fn blend_into(pivot: &mut Map<String, Value>, echoes: &[&Request]) {
    let measures = echoes.iter().flat_map(|echo| echo.measures.as_deref().unwrap_or_default());
    let dimensions = echoes.iter().flat_map(|echo| &echo.dimensions);
    for (key, members) in [("measures", each_once(measures)), ("dimensions", each_once(dimensions))] {
        if members.is_empty() {
            pivot.remove(key);
        } else {
            pivot.insert(key.to_owned(), json!(members));
        }
    }
    let granularity = echoes.first().and_then(|echo| echo.time_dimensions.first()?.granularity.as_deref());
    let time = json!([{"dimension": "time", "granularity": granularity}]);
    pivot.insert("timeDimensions".to_owned(), time);
}

fn each_once<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name.as_str()) {
            seen.push(name.as_str());
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::parse_request;

    fn request(query: Value) -> Request {
        parse_request(&query).unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    #[test]
    fn the_echo_has_the_recorded_keys_in_order() {
        let mut request = request(json!({
            "measures": ["a.n"], "segments": ["a.s"], "order": {"a.n": "desc"}, "offset": 5, "total": true,
            "timeDimensions": [{"dimension": "a.t", "granularity": "day", "dateRange": ["x", "y"]}],
        }));
        request.limit = Some(10);
        let expected = r#"{"measures":["a.n"],"dimensions":[],"timeDimensions":[{"dimension":"a.t","dateRange":["x","y"],"granularity":"day"}],"segments":["a.s"],"limit":10,"offset":5,"total":true,"timezone":"UTC","filters":[],"rowLimit":10,"order":[{"id":"a.n","desc":true}]}"#;
        assert_eq!(Value::Object(echo(&request)).to_string(), expected);
    }

    #[test]
    fn flags_and_hints_are_echoed_where_they_were_sent() {
        let echoed = |query: Value| Value::Object(echo(&request(query)));
        let given = echoed(json!({"ungrouped": true, "joinHints": [["a", "b"]], "responseFormat": "columnar"}));
        assert_eq!(given["ungrouped"], json!(true));
        assert_eq!(given["joinHints"], json!([["a", "b"]]));
        assert_eq!(given["responseFormat"], json!("columnar"));
        let plain = echoed(json!({"cache": "no-cache", "renewQuery": true}));
        for key in ["ungrouped", "joinHints", "responseFormat", "cache", "cacheMode", "renewQuery", "measures"] {
            assert!(plain.get(key).is_none(), "{key}");
        }
    }

    #[track_caller]
    fn check_pivot(kind: QueryType, queries: &[Value], expected: Value) {
        let requests: Vec<Request> = queries.iter().cloned().map(request).collect();
        let requests: Vec<&Request> = requests.iter().collect();
        let pivot = pivot_query(kind, echo(requests[0]), &requests);
        let keys = ["measures", "dimensions", "timeDimensions", "queryType"];
        let shown: Map<String, Value> =
            keys.iter().filter_map(|key| Some(((*key).to_owned(), pivot.get(*key)?.clone()))).collect();
        assert_eq!(Value::Object(shown), expected);
        assert!(pivot.contains_key("filters"), "the other keys are the first query's");
    }

    #[test]
    fn pivots_are_made_for_each_type() {
        let by_day = |measure: &str, dimensions: Value| {
            json!({"measures": [measure], "dimensions": dimensions,
                "timeDimensions": [{"dimension": "a.t", "granularity": "day"}]})
        };
        let first = by_day("a.n", json!(["a.x"]));
        let times = json!([{"dimension": "a.t", "granularity": "day"}]);
        check_pivot(
            QueryType::Regular,
            std::slice::from_ref(&first),
            json!({"measures": ["a.n"], "dimensions": ["a.x"], "timeDimensions": times, "queryType": "regularQuery"}),
        );
        check_pivot(
            QueryType::CompareDateRange { time_dimension: 0 },
            &[first.clone(), first.clone()],
            json!({"measures": ["a.n"], "dimensions": ["compareDateRange", "a.x"], "timeDimensions": times,
                "queryType": "compareDateRangeQuery"}),
        );
        let blended = json!([{"dimension": "time", "granularity": "day"}]);
        check_pivot(
            QueryType::Blending,
            &[first, by_day("b.n", json!(["b.x", "a.x"])), by_day("a.n", json!([]))],
            json!({"measures": ["a.n", "b.n"], "dimensions": ["a.x", "b.x"], "timeDimensions": blended,
                "queryType": "blendingQuery"}),
        );
        check_pivot(
            QueryType::Blending,
            &[by_day("a.n", json!([]))],
            json!({"measures": ["a.n"], "timeDimensions": blended, "queryType": "blendingQuery"}),
        );
    }
}
