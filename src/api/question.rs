//! What a request asks: its `query` read, taken apart into single queries, and all of them normalised
//! against one model at one moment (`http-api.md` §5.1, §5.14). Shared by `/v1/load`, `/v1/sql` and
//! `/v1/dry-run`.

use serde_json::{Map, Value};

use super::error::ApiError;
use super::{extract, wire};
use crate::model::Model;
use crate::query::QueryError;
use crate::query::expand::{Expansion, QueryType, blended_granularity, expand};
use crate::query::normalize::{Limits, Normalized, normalize};
use crate::query::policy::Asker;
use crate::query::request::{CacheMode, Request};

/// A request's `query`, read and taken apart.
#[derive(Debug)]
pub(super) struct Question {
    /// How the queries belong together.
    pub(super) kind: QueryType,
    requests: Vec<Request>,
}

impl Question {
    /// Reads the arguments `query` and `cache`, for at most `most` queries.
    ///
    /// # Errors
    /// They are missing or malformed, or there are too many queries.
    pub(super) fn read(arguments: &Map<String, Value>, most: usize) -> Result<Self, ApiError> {
        Self::of(&extract::query_argument(arguments)?, cache_argument(arguments)?, most)
    }

    /// As [`Question::read`], for clients that may be too old for more than one result: those send no
    /// `queryType`, and are told so before anything else (`http-api.md` §5.14).
    ///
    /// # Errors
    /// As [`Question::read`]; or the client does not know what it asks for.
    pub(super) fn read_for_client(arguments: &Map<String, Value>, most: usize) -> Result<Self, ApiError> {
        let query = extract::query_argument(arguments)?;
        let kind = if query.is_array() {
            Some(QueryType::Blending)
        } else {
            wire::compares_ranges(&query).then_some(QueryType::CompareDateRange { time_dimension: 0 })
        };
        match kind {
            Some(kind) if query_type(arguments).is_none() => Err(ApiError::Invalid(format!(
                "'{}' query type is not supported by the client.Please update the client.",
                kind.as_str()
            ))),
            _ => Self::of(&query, cache_argument(arguments)?, most),
        }
    }

    fn of(query: &Value, cache: Option<CacheMode>, most: usize) -> Result<Self, ApiError> {
        let Expansion { kind, mut requests } = expand(wire::parse_asked(query)?, most)?;
        for request in &mut requests {
            request.cache = cache.or(request.cache);
        }
        Ok(Self { kind, requests })
    }

    /// Every query, resolved. Faults of form come before those of the blend, these before faults of the model.
    ///
    /// # Errors
    /// The first fault of any query.
    pub(super) fn normalize(
        &self,
        model: &Model,
        limits: &Limits,
        asker: &Asker,
        now: i64,
    ) -> Result<Vec<Normalized>, QueryError> {
        let mut normalized: Vec<Result<Normalized, QueryError>> =
            self.requests.iter().map(|request| normalize(request, model, limits, asker, now)).collect();
        if self.kind == QueryType::Blending {
            let of_form = |error: &QueryError| matches!(error, QueryError::Invalid(_) | QueryError::LimitExceeded);
            if let Some(at) = normalized.iter().position(|result| result.as_ref().is_err_and(of_form)) {
                return normalized.swap_remove(at).map(|only| vec![only]);
            }
            blended_granularity(&self.requests)?;
        }
        normalized.into_iter().collect()
    }
}

/// The argument `queryType`, when it is given.
pub(super) fn query_type(arguments: &Map<String, Value>) -> Option<&Value> {
    arguments.get("queryType").filter(|value| !value.is_null())
}

/// The argument `cache`; stronger than what queries say.
fn cache_argument(arguments: &Map<String, Value>) -> Result<Option<CacheMode>, QueryError> {
    arguments.get("cache").filter(|value| !value.is_null()).map(wire::cache_mode).transpose()
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;
    use serde_json::json;

    use super::*;
    use crate::query::sample;
    use crate::time::Zone;

    const MOST: usize = 3;

    fn run(arguments: Value) -> Result<(QueryType, Vec<Normalized>), String> {
        let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
        let question = Question::read_for_client(&arguments, MOST).map_err(|error| error.to_string())?;
        let limits = Limits {
            default_rows: 10,
            max_rows: 10,
            timezone: Zone::UTC,
            allow_hidden: false,
            ungrouped_without_key: true,
        };
        let normalized =
            question.normalize(&sample::model(), &limits, &Asker::default(), 0).map_err(|error| error.to_string())?;
        Ok((question.kind, normalized))
    }

    #[track_caller]
    fn check_fails(query: Value, expected: &str) {
        let arguments = json!({"query": query, "queryType": "multi"});
        assert_eq!(run(arguments).map(|(kind, _)| kind), Err(expected.to_owned()), "{query}");
    }

    fn by(granularity: &str) -> Value {
        json!({"measures": ["orders.count"],
            "timeDimensions": [{"dimension": "orders.created_at", "granularity": granularity}]})
    }

    fn comparing(ranges: Value) -> Value {
        json!({"measures": ["orders.count"],
            "timeDimensions": [{"dimension": "orders.created_at", "compareDateRange": ranges}]})
    }

    #[test]
    fn old_clients_are_told_before_anything_else() {
        for arguments in [json!({"query": [{"foo": 1}]}), json!({"query": [], "queryType": null, "cache": "bogus"})] {
            let text = "'blendingQuery' query type is not supported by the client.Please update the client.";
            assert_eq!(run(arguments).map(|(kind, _)| kind), Err(text.to_owned()));
        }
        let mut both = comparing(json!(["today"]));
        both["timeDimensions"][0]["dateRange"] = json!("today");
        let text = "'compareDateRangeQuery' query type is not supported by the client.Please update the client.";
        assert_eq!(run(json!({ "query": both })).map(|(kind, _)| kind), Err(text.to_owned()));
        let peers = "contains a conflict between optional exclusive peers [dateRange, compareDateRange]";
        check_fails(both, &format!("Invalid query format: \"timeDimensions[0]\" {peers}"));
        assert_eq!(run(json!({"query": [by("day")], "queryType": "x"})).map(|(kind, _)| kind), Ok(QueryType::Blending));
        assert_eq!(run(json!({ "query": by("day") })).map(|(kind, _)| kind), Ok(QueryType::Regular));
    }

    #[test]
    fn faults_of_blends_come_between_form_and_model() {
        let (none, differ) = (
            "Data blending query without granularity is not supported",
            "Data blending query granularities must match",
        );
        let counting = json!({"measures": ["orders.count"]});
        check_fails(json!([]), none);
        check_fails(json!([counting, counting]), none);
        check_fails(json!([by("day"), counting]), none);
        check_fails(json!([by("day"), by("month")]), differ);
        check_fails(json!([by("day"), by("month"), {"foo": 1}]), "Invalid query format: \"foo\" is not allowed");
        let mut large = by("month");
        large["limit"] = json!(11);
        check_fails(json!([by("day"), large]), "The query limit has been exceeded.");
        let empty = "Query should contain either measures, dimensions or timeDimensions with granularities in order to be valid";
        check_fails(json!([by("day"), {}]), empty);
        let mut unknown = by("month");
        unknown["measures"] = json!(["orders.nope"]);
        check_fails(json!([by("day"), unknown]), differ);
        unknown["timeDimensions"][0]["granularity"] = json!("day");
        check_fails(json!([by("day"), unknown]), "'nope' not found for path 'orders.nope'");
    }

    #[test]
    fn questions_are_bounded() {
        check_fails(json!([{}, {}, {}, {}]), "Too many queries: 4 given, at most 3 are answered in one request");
        check_fails(
            comparing(json!(["today", "today", "today", "today"])),
            "Too many ranges in compareDateRange: 4 given, at most 3 are answered in one request",
        );
    }

    #[test]
    fn compared_ranges_are_resolved_one_by_one() {
        let query = comparing(json!(["today", ["1970-01-05"], ["1970-02-01", "1970-02-28"]]));
        let (kind, parts) = run(json!({"query": query, "queryType": "multi"})).expect("three queries");
        assert_eq!(kind, QueryType::CompareDateRange { time_dimension: 0 });
        let starts: Vec<i64> = parts
            .iter()
            .map(|part| part.query.time_dimensions[0].range.expect("a range").start / 86_400_000_000)
            .collect();
        assert_eq!(starts, [0, 4, 31]);
        check_fails(comparing(json!(["today", "garbage"])), "Can't parse date: 'garbage'");
    }

    #[test]
    fn the_argument_decides_over_the_query() {
        let mode = |arguments: Value| {
            let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
            Question::read(&arguments, MOST).map(|question| question.requests[0].cache).map_err(|e| e.to_string())
        };
        assert_eq!(mode(json!({"query": {}})), Ok(None));
        assert_eq!(mode(json!({"query": {"cache": "no-cache"}})), Ok(Some(CacheMode::NoCache)));
        let both = json!({"query": {"cache": "no-cache"}, "cache": "must-revalidate"});
        assert_eq!(mode(both), Ok(Some(CacheMode::MustRevalidate)));
        assert!(
            mode(json!({"query": {}, "cache": "x"})).expect_err("no mode").contains("\"cacheMode\" must be one of")
        );
    }

    /// Puts another value at a random place.
    fn mutate(random: &mut ChaCha8Rng, value: &mut Value) {
        const WORDS: [&str; 20] = [
            "orders.count",
            "orders.status",
            "orders.created_at",
            "orders.created_at.day",
            "orders.nope",
            "orders",
            "day",
            "Month",
            "fiscal_year",
            "last 3 months",
            "from 2 weeks ago to now",
            "2024-02-30",
            "last 99999999 years",
            "inDateRange",
            "compact",
            "",
            "{",
            "\u{0}",
            "💥",
            "10",
        ];
        let children: Vec<&mut Value> = match value {
            Value::Array(items) => items.iter_mut().collect(),
            Value::Object(entries) => entries.values_mut().collect(),
            _ => Vec::new(),
        };
        if !children.is_empty() && random.random_ratio(5, 6) {
            let at = random.random_range(0..children.len());
            return children.into_iter().nth(at).into_iter().for_each(|child| mutate(random, child));
        }
        *value = match random.random_range(0..9) {
            0 => Value::Null,
            1 => json!(random.random::<bool>()),
            2 => json!(random.random_range(-3..20_i64)),
            3 => json!(random.random::<f64>() * 1e300),
            4 => json!([]),
            5 => json!([value, WORDS[random.random_range(0..WORDS.len())]]),
            6 => json!({ WORDS[random.random_range(0..WORDS.len())]: value }),
            _ => json!(WORDS[random.random_range(0..WORDS.len())]),
        };
    }

    #[test]
    fn random_queries_are_answered_or_refused() {
        let mut random = ChaCha8Rng::seed_from_u64(20_240_515);
        let filter = json!({"or": [{"member": "orders.created_at", "operator": "inDateRange", "values": ["today"]},
            {"member": "orders.status", "operator": "equals", "values": ["x", null]}]});
        let mut rich = comparing(json!(["today", ["2024-01-01", "2024-01-02"]]));
        for (key, value) in [
            ("dimensions", json!(["orders.status"])),
            ("filters", json!([filter])),
            ("order", json!([["orders.count", "desc"]])),
            ("limit", json!(5)),
            ("timezone", json!("Europe/Berlin")),
            ("joinHints", json!([])),
        ] {
            rich[key] = value;
        }
        let bases = [by("day"), rich.clone(), json!([by("day"), by("day")]), json!([rich])];
        let (mut several, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let mut query = bases[random.random_range(0..bases.len())].clone();
            for _ in 0..random.random_range(0..3) {
                mutate(&mut random, &mut query);
            }
            match run(json!({"query": query, "queryType": "multi"})) {
                Ok((kind, parts)) => {
                    several += usize::from(kind != QueryType::Regular);
                    assert!(!parts.is_empty() && parts.len() <= MOST, "{query}");
                }
                Err(text) => {
                    refused += 1;
                    assert!(!text.is_empty(), "{query}");
                }
            }
        }
        assert!(several > 1000 && refused > 1000, "{several} of several queries, {refused} refused");
    }
}
