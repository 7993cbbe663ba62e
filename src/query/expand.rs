//! One request → the queries it stands for: compared date ranges, and arrays to be blended
//! (`http-api.md` §5.14). Pure, and before names mean anything.

use super::QueryError;
use super::request::{DateRange, FilterNode, Request};

/// Most bytes that the members and filter values of a query may come to when they are repeated for every
/// range that is compared.
const MAX_REPEATED_BYTES: usize = 64 << 20;

/// What the `query` of a request holds.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one a request, and not for long")]
pub enum Asked {
    /// One query object.
    One(Request),
    /// An array of them, also of one or none: their series are blended.
    Many(Vec<Request>),
}

/// How the queries of a request belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryType {
    /// There is one, on its own.
    Regular,
    /// One for each range that is compared.
    CompareDateRange {
        /// Position, in every query, of the time dimension whose ranges are compared.
        time_dimension: usize,
    },
    /// Any number, with a granularity in common.
    Blending,
}

impl QueryType {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regularQuery",
            Self::CompareDateRange { .. } => "compareDateRangeQuery",
            Self::Blending => "blendingQuery",
        }
    }
}

/// The queries that a request stands for, in the order of their results.
#[derive(Debug, Clone, PartialEq)]
pub struct Expansion {
    /// How they belong together.
    pub kind: QueryType,
    /// The queries. None of them compares ranges, except in a blend, where that has no effect.
    pub requests: Vec<Request>,
}

/// Takes a request apart into at most `most` queries.
///
/// # Errors
/// [`QueryError::Invalid`]: there would be more, there is no range to compare, or two time dimensions
/// compare ranges.
pub fn expand(asked: Asked, most: usize) -> Result<Expansion, QueryError> {
    let too_many = |what: &str, count: usize| {
        QueryError::Invalid(format!("{what}: {count} given, at most {most} are answered in one request"))
    };
    let request = match asked {
        Asked::Many(requests) if requests.len() > most => return Err(too_many("Too many queries", requests.len())),
        Asked::Many(requests) => return Ok(Expansion { kind: QueryType::Blending, requests }),
        Asked::One(request) => request,
    };
    let Some((time_dimension, ranges)) = compared(&request)? else {
        return Ok(Expansion { kind: QueryType::Regular, requests: vec![request] });
    };
    if ranges.len() > most {
        return Err(too_many("Too many ranges in compareDateRange", ranges.len()));
    }
    if weight(&request).saturating_mul(ranges.len()) > MAX_REPEATED_BYTES {
        let text = format!("The query is too large to be repeated for {} ranges in compareDateRange", ranges.len());
        return Err(QueryError::Invalid(text));
    }
    let requests = ranges.iter().map(|range| with_range(&request, time_dimension, range)).collect();
    Ok(Expansion { kind: QueryType::CompareDateRange { time_dimension }, requests })
}

/// The time dimension that compares ranges, and these.
fn compared(request: &Request) -> Result<Option<(usize, &[DateRange])>, QueryError> {
    let times = request.time_dimensions.iter().enumerate();
    let mut comparing = times.filter_map(|(at, time)| Some((at, time.compare_date_range.as_deref()?)));
    let found = comparing.next();
    if comparing.next().is_some() {
        return Err(QueryError::Invalid("compareDateRange can only exist for one timeDimension".to_owned()));
    }
    match found {
        Some((at, [])) => Err(QueryError::Invalid(format!(
            "Invalid query format: \"timeDimensions[{at}].compareDateRange\" must contain at least 1 items"
        ))),
        found => Ok(found),
    }
}

/// About how many bytes a copy of the request takes.
fn weight(request: &Request) -> usize {
    const LEAF: usize = 64;
    fn filter(node: &FilterNode) -> usize {
        match node {
            FilterNode::And(children) | FilterNode::Or(children) => LEAF + children.iter().map(filter).sum::<usize>(),
            FilterNode::Leaf(leaf) => {
                let values = leaf.values.as_deref().unwrap_or_default().iter();
                let bytes = values.map(|value| LEAF + value.as_deref().map_or(0, str::len)).sum::<usize>();
                LEAF + leaf.member.len() + bytes
            }
        }
    }
    let names = request.measures.iter().chain([&request.dimensions]).chain(&request.segments).flatten();
    let order = request.order.iter().flatten().map(|key| &key.member);
    let times = request.time_dimensions.iter().map(|time| &time.dimension);
    let names = names.chain(order).chain(times).chain(request.join_hints.iter().flatten());
    names.map(|name| LEAF + name.len()).sum::<usize>() + request.filters.iter().map(filter).sum::<usize>()
}

fn with_range(request: &Request, time_dimension: usize, range: &DateRange) -> Request {
    let mut request = request.clone();
    if let Some(time) = request.time_dimensions.get_mut(time_dimension) {
        time.compare_date_range = None;
        time.date_range = Some(range.clone());
    }
    request
}

/// The granularity that the queries of a blend have in common: that of their first time dimensions, as
/// it is spelled. A query without time dimensions may have one among its dimensions
/// (`orders.created_at.day`).
///
/// # Errors
/// [`QueryError::Invalid`]: there are two, or a query has none.
pub fn blended_granularity(requests: &[Request]) -> Result<String, QueryError> {
    let granularities: Vec<Option<&str>> = requests.iter().map(first_granularity).collect();
    let mut given = granularities.iter().flatten();
    let first = given.next();
    if given.any(|other| Some(other) != first) {
        return Err(QueryError::Invalid("Data blending query granularities must match".to_owned()));
    }
    match first {
        Some(granularity) if !granularities.contains(&None) => Ok((*granularity).to_owned()),
        _ => Err(QueryError::Invalid("Data blending query without granularity is not supported".to_owned())),
    }
}

fn first_granularity(request: &Request) -> Option<&str> {
    match request.time_dimensions.first() {
        Some(time) => time.granularity.as_deref(),
        None => {
            let three_parts = |name: &&String| name.matches('.').count() == 2;
            request.dimensions.iter().find(three_parts)?.rsplit_once('.').map(|(_, granularity)| granularity)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::request::{FilterLeaf, Operator, TimeDimensionRequest};

    fn by(granularity: &str) -> TimeDimensionRequest {
        TimeDimensionRequest {
            dimension: "orders.created_at".to_owned(),
            granularity: (!granularity.is_empty()).then(|| granularity.to_owned()),
            ..TimeDimensionRequest::default()
        }
    }

    fn comparing(words: &[&str]) -> TimeDimensionRequest {
        let ranges = words.iter().map(|word| DateRange::Text((*word).to_owned())).collect();
        TimeDimensionRequest { compare_date_range: Some(ranges), ..by("day") }
    }

    fn request(time_dimensions: Vec<TimeDimensionRequest>) -> Request {
        Request { time_dimensions, limit: Some(7), ..Request::default() }
    }

    #[track_caller]
    fn check_fails(asked: Asked, expected: &str) {
        assert_eq!(expand(asked, 3).expect_err("a fault").to_string(), expected);
    }

    #[test]
    fn a_plain_query_stands_for_itself() {
        let plain = request(vec![by("day")]);
        let expansion = expand(Asked::One(plain.clone()), 1).expect("one query");
        assert_eq!(expansion, Expansion { kind: QueryType::Regular, requests: vec![plain] });
    }

    #[test]
    fn every_compared_range_is_a_query_of_its_own() {
        let asked = Asked::One(request(vec![by(""), comparing(&["last month", "this month"])]));
        let Expansion { kind, requests } = expand(asked, 3).expect("two ranges");
        assert_eq!(kind, QueryType::CompareDateRange { time_dimension: 1 });
        let ranges: Vec<_> = requests.iter().map(|request| request.time_dimensions[1].date_range.clone()).collect();
        let word = |word: &str| Some(DateRange::Text(word.to_owned()));
        assert_eq!(ranges, [word("last month"), word("this month")]);
        for request in &requests {
            assert_eq!(request.limit, Some(7), "everything else is kept");
            assert_eq!(request.time_dimensions[0], by(""));
            assert!(request.time_dimensions.iter().all(|time| time.compare_date_range.is_none()));
        }
    }

    #[test]
    fn ranges_and_queries_are_bounded() {
        let text = "Too many ranges in compareDateRange: 4 given, at most 3 are answered in one request";
        check_fails(Asked::One(request(vec![comparing(&["today"; 4])])), text);
        let text = "Too many queries: 4 given, at most 3 are answered in one request";
        check_fails(Asked::Many(vec![Request::default(); 4]), text);
        assert_eq!(expand(Asked::One(request(vec![comparing(&["today"; 3])])), 3).expect("three").requests.len(), 3);
        assert_eq!(expand(Asked::Many(vec![Request::default(); 3]), 3).expect("three").requests.len(), 3);
    }

    #[test]
    fn large_queries_are_not_repeated_without_bound() {
        let leaf = |bytes: usize| FilterLeaf {
            member: "orders.status".to_owned(),
            operator: Operator::Equals,
            values: Some(vec![Some("x".repeat(bytes)), None]),
        };
        let large = |bytes: usize| Request {
            filters: vec![FilterNode::Or(vec![FilterNode::Leaf(leaf(bytes))])],
            ..request(vec![comparing(&["today", "yesterday"])])
        };
        assert_eq!(expand(Asked::One(large(31 << 20)), 3).expect("small enough").requests.len(), 2);
        let text = "The query is too large to be repeated for 2 ranges in compareDateRange";
        check_fails(Asked::One(large(32 << 20)), text);
        let many = Request { measures: Some(vec!["a.b".to_owned(); 1 << 20]), ..large(1) };
        check_fails(Asked::One(many), text);
    }

    #[test]
    fn faulty_comparisons_are_refused() {
        let text = "compareDateRange can only exist for one timeDimension";
        check_fails(Asked::One(request(vec![comparing(&["today"]), comparing(&[])])), text);
        let text = "Invalid query format: \"timeDimensions[0].compareDateRange\" must contain at least 1 items";
        check_fails(Asked::One(request(vec![comparing(&[])])), text);
    }

    #[test]
    fn comparing_has_no_effect_in_a_blend() {
        let blended = vec![request(vec![comparing(&["today", "yesterday"])])];
        let expansion = expand(Asked::Many(blended.clone()), 3).expect("one query");
        assert_eq!(expansion, Expansion { kind: QueryType::Blending, requests: blended });
    }

    #[track_caller]
    fn check_blend(granularities: &[&str], expected: Result<&str, &str>) {
        let requests: Vec<Request> = granularities
            .iter()
            .map(|granularity| match granularity.strip_prefix('.') {
                Some("") => Request::default(),
                Some(granularity) => {
                    Request { dimensions: vec!["a.b".to_owned(), format!("a.t.{granularity}")], ..Request::default() }
                }
                None => request(vec![by(granularity), by("year")]),
            })
            .collect();
        let found = blended_granularity(&requests).map_err(|error| error.to_string());
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{granularities:?}");
    }

    #[test]
    fn a_blend_has_one_granularity() {
        let none = Err("Data blending query without granularity is not supported");
        let differ = Err("Data blending query granularities must match");
        check_blend(&["day", "day"], Ok("day"));
        check_blend(&["day"], Ok("day"));
        check_blend(&["day", ".day"], Ok("day"));
        check_blend(&[], none);
        check_blend(&["", ""], none);
        check_blend(&["day", ""], none);
        check_blend(&[".", "day"], none);
        check_blend(&["day", "month"], differ);
        check_blend(&["day", "Day"], differ);
        check_blend(&["day", "", ".month"], differ);
    }
}
