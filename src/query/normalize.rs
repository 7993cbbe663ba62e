//! Request → [`Query`]: names to ids, dates to ranges, defaults, limits.
//!
//! Pure: `now` and the limits are arguments. Nothing after this room can meet an unknown member.

use super::dates::{Now, parse_bounds, parse_text};
use super::filters;
use super::request::{DateRange, Request, TimeDimensionRequest};
use super::{OrderKey, OutputColumn, Query, QueryError, TimeDimension};
use crate::model::{DataType, DimensionId, MeasureId, MemberId, Model, SegmentId, UnknownMember};
use crate::names::MemberPath;
use crate::preagg::layout::alias;
use crate::time::{Granularity, TimeRange, Zone};

/// Defaults and bounds from the configuration.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `CUBEJS_DB_QUERY_DEFAULT_LIMIT`.
    pub default_rows: u64,
    /// `CUBEJS_DB_QUERY_LIMIT`.
    pub max_rows: u64,
    /// `CUBEJS_DEFAULT_TIMEZONE`.
    pub timezone: Zone,
    /// Whether members that are not public may be selected (development mode).
    pub allow_hidden: bool,
}

/// A normalised question: the resolved query, and the request with everything filled in, as it is
/// echoed to the client.
#[derive(Debug, Clone)]
pub struct Normalized {
    /// What to answer.
    pub query: Query,
    /// What the answer's `query` shows (`http-api.md` §5.3): dates resolved, limit and zone filled in,
    /// three-part dimensions moved to time dimensions.
    pub echo: Request,
}

/// Resolves a request against a model.
///
/// # Errors
/// Every [`QueryError`] that a client can cause; no engine errors.
pub fn normalize(request: &Request, model: &Model, limits: &Limits, now: i64) -> Result<Normalized, QueryError> {
    let (echo, ranges) = fill_in(request, limits, now)?;
    let timezone = echo.timezone.unwrap_or(limits.timezone);
    let measures = resolve_measures(echo.measures.as_deref().unwrap_or_default(), model)?;
    let (dimensions, segment_columns) = resolve_dimensions(&echo.dimensions, model)?;
    let time_dimensions = resolve_time_dimensions(&echo.time_dimensions, &ranges, model)?;
    let segments = resolve_segments(echo.segments.as_deref().unwrap_or_default(), model)?;
    let conditions = filters::resolve(&echo.filters, model, timezone)?;
    let mut query = Query {
        measures,
        dimensions,
        segment_columns,
        time_dimensions,
        segments,
        filters: conditions.rows,
        measure_filters: conditions.groups,
        order: Vec::new(),
        limit: echo.limit,
        offset: echo.offset.unwrap_or(0),
        total: echo.total.unwrap_or(false),
        timezone,
    };
    check_supported(&query, model)?;
    if !limits.allow_hidden {
        check_visible(&query, model)?;
    }
    query.order = resolve_order(&echo, &query, model);
    Ok(Normalized { query, echo })
}

/// The request as it is echoed, and the date ranges of its time dimensions. Needs no model.
fn fill_in(request: &Request, limits: &Limits, now: i64) -> Result<(Request, Vec<Option<TimeRange>>), QueryError> {
    let mut echo = request.clone();
    if echo.ungrouped == Some(true) {
        return Err(QueryError::Invalid("ungrouped queries are not supported by this version".to_owned()));
    }
    if !echo.join_hints.is_empty() {
        return Err(QueryError::Invalid("joinHints are not supported by this version".to_owned()));
    }
    split_three_part_names(&mut echo);
    let selects = echo.measures.as_ref().is_some_and(|measures| !measures.is_empty())
        || !echo.dimensions.is_empty()
        || echo.time_dimensions.iter().any(|time| time.granularity.is_some());
    if !selects {
        let text = "Query should contain either measures, dimensions or timeDimensions with granularities in order to be valid";
        return Err(QueryError::Invalid(text.to_owned()));
    }
    filters::check_values(&echo.filters)?;
    let limit = echo.limit.unwrap_or_else(|| limits.default_rows.min(limits.max_rows));
    if limit > limits.max_rows {
        return Err(QueryError::LimitExceeded);
    }
    echo.limit = Some(limit);
    let zone = *echo.timezone.get_or_insert(limits.timezone);
    let now = Now::at(now, zone);
    let ranges = echo.time_dimensions.iter_mut().map(|time| resolve_range(time, now)).collect::<Result<_, _>>()?;
    filters::resolve_dates(&mut echo.filters, now)?;
    Ok((echo, ranges))
}

/// Dimensions `cube.member.granularity` move behind the time dimensions.
fn split_three_part_names(echo: &mut Request) {
    let (plain, timed): (Vec<String>, Vec<String>) =
        std::mem::take(&mut echo.dimensions).into_iter().partition(|name| name.matches('.').count() < 2);
    echo.dimensions = plain;
    for name in timed {
        if let Some((dimension, granularity)) = name.rsplit_once('.') {
            echo.time_dimensions.push(TimeDimensionRequest {
                dimension: dimension.to_owned(),
                granularity: Some(granularity.to_owned()),
                ..TimeDimensionRequest::default()
            });
        }
    }
}

fn resolve_range(time: &mut TimeDimensionRequest, now: Now) -> Result<Option<TimeRange>, QueryError> {
    let span = match &time.date_range {
        None => return Ok(None),
        Some(DateRange::Text(text)) => parse_text(text, now)?,
        Some(DateRange::Bounds(bounds)) => parse_bounds(bounds)?,
    };
    time.date_range = Some(DateRange::Bounds(span.echo().into()));
    Ok(Some(span.range()))
}

fn path(name: &str) -> Result<MemberPath, QueryError> {
    MemberPath::parse(name).map_err(|error| QueryError::Invalid(error.to_string()))
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn resolve_measures(names: &[String], model: &Model) -> Result<Vec<MeasureId>, QueryError> {
    let mut measures = Vec::with_capacity(names.len());
    for name in names {
        push_new(&mut measures, model.resolve_measure(&path(name)?)?);
    }
    Ok(measures)
}

fn resolve_segments(names: &[String], model: &Model) -> Result<Vec<SegmentId>, QueryError> {
    let mut segments = Vec::with_capacity(names.len());
    for name in names {
        push_new(&mut segments, model.resolve_segment(&path(name)?)?);
    }
    Ok(segments)
}

/// A segment among the dimensions is selected as a boolean.
fn resolve_dimensions(names: &[String], model: &Model) -> Result<(Vec<DimensionId>, Vec<SegmentId>), QueryError> {
    let (mut dimensions, mut segments) = (Vec::with_capacity(names.len()), Vec::new());
    for name in names {
        let path = path(name)?;
        match model.resolve_dimension(&path) {
            Ok(id) => push_new(&mut dimensions, id),
            Err(error @ UnknownMember::Cube { .. }) => return Err(error.into()),
            Err(error @ UnknownMember::Member { .. }) => match model.resolve_segment(&path) {
                Ok(id) => push_new(&mut segments, id),
                Err(_) => return Err(error.into()),
            },
        }
    }
    Ok((dimensions, segments))
}

/// Time dimensions with neither granularity nor range have no effect and are left out.
fn resolve_time_dimensions(
    requests: &[TimeDimensionRequest],
    ranges: &[Option<TimeRange>],
    model: &Model,
) -> Result<Vec<TimeDimension>, QueryError> {
    let mut times = Vec::with_capacity(requests.len());
    for (request, range) in requests.iter().zip(ranges) {
        let dimension = model.resolve_dimension(&path(&request.dimension)?)?;
        let granularity = match &request.granularity {
            None => None,
            Some(name) => Some(resolve_granularity(name, dimension, &request.dimension, model)?),
        };
        if granularity.is_none() && range.is_none() {
            continue;
        }
        if model.dimension(dimension).data_type != DataType::Time {
            let (name, data_type) = (&request.dimension, model.dimension(dimension).data_type.as_str());
            let text = format!("Error: '{name}' is of type {data_type}; a time dimension must be of type time");
            return Err(QueryError::Invalid(text));
        }
        push_new(&mut times, TimeDimension { dimension, granularity, range: *range });
    }
    Ok(times)
}

fn resolve_granularity(
    name: &str,
    dimension: DimensionId,
    member: &str,
    model: &Model,
) -> Result<Granularity, QueryError> {
    if let Some(granularity) = Granularity::parse(name) {
        return Ok(granularity);
    }
    let custom = model.dimension(dimension).custom_granularities.iter().any(|custom| custom == name);
    Err(QueryError::Model(if custom {
        format!("Granularity \"{name}\" of dimension {member} is a custom one, which this version does not support")
    } else {
        format!("Granularity \"{name}\" does not exist in dimension {member}")
    }))
}

/// Every member that a query selects: its columns.
fn selected(query: &Query) -> impl Iterator<Item = MemberId> {
    query.columns().into_iter().map(|column| match column {
        OutputColumn::Dimension(id) | OutputColumn::Time(id, _) => MemberId::Dimension(id),
        OutputColumn::Segment(id) => MemberId::Segment(id),
        OutputColumn::Measure(id) => MemberId::Measure(id),
    })
}

fn check_visible(query: &Query, model: &Model) -> Result<(), QueryError> {
    for member in selected(query) {
        let public = match member {
            MemberId::Measure(id) => model.measure(id).public,
            MemberId::Dimension(id) => model.dimension(id).public,
            MemberId::Segment(id) => model.segment(id).public,
        };
        if !(public && model.cube(member.cube()).public) {
            // Recorded servers name the column's alias here, not the member.
            return Err(QueryError::HiddenMember { member: alias(&model.path_of(member)) });
        }
    }
    Ok(())
}

/// Refuses members that this version cannot compute, wherever they are used.
fn check_supported(query: &Query, model: &Model) -> Result<(), QueryError> {
    let mut members: Vec<MemberId> = selected(query).collect();
    members.extend(query.time_dimensions.iter().map(|time| MemberId::Dimension(time.dimension)));
    for filter in &query.filters {
        filters::visit(filter, &mut |column| {
            members.push(match column {
                super::Column::Dimension(id) => MemberId::Dimension(*id),
                super::Column::Segment(id) => MemberId::Segment(*id),
            });
        });
    }
    for filter in &query.measure_filters {
        filters::visit(filter, &mut |id| members.push(MemberId::Measure(*id)));
    }
    for member in members {
        let key = match member {
            MemberId::Measure(id) => model.measure(id).unsupported,
            MemberId::Dimension(id) => model.dimension(id).unsupported,
            MemberId::Segment(_) => None,
        };
        if let Some(key) = key {
            let name = model.path_of(member);
            return Err(QueryError::Model(format!("'{name}' uses `{key}`, which this version does not support")));
        }
    }
    Ok(())
}

fn resolve_order(echo: &Request, query: &Query, model: &Model) -> Vec<OrderKey> {
    let columns = query.columns();
    let Some(requested) = &echo.order else {
        return default_order(&columns).into_iter().collect();
    };
    let mut keys: Vec<OrderKey> = Vec::with_capacity(requested.len());
    for order in requested {
        if let Some(column) = find_column(&order.member, &columns, model)
            && keys.iter().all(|key| key.column != column)
        {
            keys.push(OrderKey { column, descending: order.descending });
        }
    }
    keys
}

/// First time dimension ascending, else first measure descending, else first dimension ascending.
fn default_order(columns: &[OutputColumn]) -> Option<OrderKey> {
    let time = columns.iter().position(|column| matches!(column, OutputColumn::Time(..)));
    let measure = || columns.iter().position(|column| matches!(column, OutputColumn::Measure(_)));
    let key = |descending| move |column| OrderKey { column, descending };
    let first = (!columns.is_empty()).then_some(0);
    time.map(key(false)).or_else(|| measure().map(key(true))).or_else(|| first.map(key(false)))
}

/// The column that an order key names. A bare time dimension that is not selected itself stands for
/// its finest granularity.
fn find_column(name: &str, columns: &[OutputColumn], model: &Model) -> Option<usize> {
    if name.matches('.').count() == 2 {
        let (member, granularity) = name.rsplit_once('.')?;
        let dimension = model.resolve_dimension(&MemberPath::parse(member).ok()?).ok()?;
        let wanted = OutputColumn::Time(dimension, Granularity::parse(granularity)?);
        return columns.iter().position(|column| *column == wanted);
    }
    let member = model.resolve_member(&MemberPath::parse(name).ok()?).ok()?;
    let plain = columns.iter().position(|column| match (column, member) {
        (OutputColumn::Dimension(a), MemberId::Dimension(b)) => *a == b,
        (OutputColumn::Segment(a), MemberId::Segment(b)) => *a == b,
        (OutputColumn::Measure(a), MemberId::Measure(b)) => *a == b,
        _ => false,
    });
    let finest = || {
        let buckets = columns.iter().enumerate().filter_map(|(at, column)| match (column, member) {
            (OutputColumn::Time(a, granularity), MemberId::Dimension(b)) if *a == b => Some((*granularity, at)),
            _ => None,
        });
        buckets.min().map(|(_, at)| at)
    };
    plain.or_else(finest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::request::{FilterLeaf, FilterNode, Operator, OrderRequest};
    use crate::query::{Column, Filter, Test, Value, sample};

    fn limits() -> Limits {
        Limits { default_rows: 10_000, max_rows: 50_000, timezone: Zone::UTC, allow_hidden: false }
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn select(measures: &[&str], dimensions: &[&str], times: &[(&str, &str)]) -> Request {
        Request {
            measures: Some(list(measures)),
            dimensions: list(dimensions),
            time_dimensions: times
                .iter()
                .map(|(dimension, granularity)| TimeDimensionRequest {
                    dimension: (*dimension).to_owned(),
                    granularity: (!granularity.is_empty()).then(|| (*granularity).to_owned()),
                    ..TimeDimensionRequest::default()
                })
                .collect(),
            ..Request::default()
        }
    }

    fn run(request: &Request) -> Result<Normalized, QueryError> {
        normalize(request, &sample::model(), &limits(), 0)
    }

    #[track_caller]
    fn check_fails(request: &Request, expected: &str) {
        assert_eq!(run(request).expect_err("a faulty request").to_string(), expected);
    }

    #[track_caller]
    fn check_order(request: &Request, order: Option<&[(&str, bool)]>, expected: &[(usize, bool)]) {
        let mut request = request.clone();
        request.order = order.map(|order| {
            let entry = |(member, descending): &(&str, bool)| OrderRequest {
                member: (*member).to_owned(),
                descending: *descending,
            };
            order.iter().map(entry).collect()
        });
        let keys = run(&request).expect("a valid request").query.order;
        let keys: Vec<(usize, bool)> = keys.iter().map(|key| (key.column, key.descending)).collect();
        assert_eq!(keys, expected, "{order:?}");
    }

    #[test]
    fn default_order_is_time_then_measure_then_dimension() {
        let all = select(&["orders.count"], &["orders.status"], &[("orders.created_at", "day")]);
        check_order(&all, None, &[(1, false)]);
        check_order(&select(&["orders.count"], &["orders.status"], &[]), None, &[(1, true)]);
        check_order(&select(&[], &["orders.status"], &[]), None, &[(0, false)]);
        check_order(&all, Some(&[]), &[]);
    }

    #[test]
    fn order_keys_name_columns_or_vanish() {
        let all = select(
            &["orders.count"],
            &["orders.status", "orders.amount"],
            &[("orders.created_at", "month"), ("orders.created_at", "day")],
        );
        check_order(&all, Some(&[("orders.count", true), ("orders.status", false)]), &[(4, true), (0, false)]);
        check_order(&all, Some(&[("orders.created_at", true)]), &[(3, true)]);
        check_order(&all, Some(&[("orders.created_at.month", true)]), &[(2, true)]);
        check_order(&all, Some(&[("orders.created_at.year", true), ("nope.x", true), ("count", true)]), &[]);
        check_order(&all, Some(&[("orders.total", false)]), &[]);
        check_order(&all, Some(&[("orders.count", true), ("orders.count", false)]), &[(4, true)]);
    }

    #[test]
    fn names_of_the_wrong_kind_are_not_found() {
        check_fails(&select(&["orders.status"], &[], &[]), "'status' not found for path 'orders.status'");
        check_fails(&select(&[], &["orders.count"], &[]), "'count' not found for path 'orders.count'");
        check_fails(&select(&["nope.count"], &[], &[]), "Cube 'nope' not found for path 'nope.count'");
        check_fails(&select(&[], &["orders.users.city"], &[]), "'users' not found for path 'orders.users'");
        check_fails(
            &select(&["orders.count"], &[], &[("orders.created_at", "fortnight")]),
            "Granularity \"fortnight\" does not exist in dimension orders.created_at",
        );
        check_fails(
            &select(&["orders.count"], &["orders.created_at.fiscal_year"], &[]),
            "Granularity \"fiscal_year\" of dimension orders.created_at is a custom one, which this version does not support",
        );
        check_fails(
            &select(&["orders.count"], &[], &[("orders.status", "day")]),
            "Error: 'orders.status' is of type string; a time dimension must be of type time",
        );
    }

    #[test]
    fn requests_without_columns_are_refused() {
        let text = "Query should contain either measures, dimensions or timeDimensions with granularities in order to be valid";
        check_fails(&Request::default(), text);
        check_fails(&select(&[], &[], &[("orders.created_at", "")]), text);
    }

    #[test]
    fn hidden_members_may_filter_but_not_be_selected() {
        let hidden = select(&["orders.count"], &["orders.id"], &[]);
        let error = run(&hidden).expect_err("hidden");
        assert!(
            error.to_string().starts_with("You requested hidden member: 'orders__id'. Please make it visible"),
            "{error}"
        );
        let shown = Limits { allow_hidden: true, ..limits() };
        assert!(normalize(&hidden, &sample::model(), &shown, 0).is_ok());
        let mut filtered = select(&["orders.count"], &[], &[]);
        filtered.filters = vec![equals("orders.id", "7")];
        assert!(run(&filtered).is_ok());
    }

    #[test]
    fn unsupported_members_are_refused_wherever_they_are_used() {
        let text = "'orders.running' uses `rolling_window`, which this version does not support";
        check_fails(&select(&["orders.running"], &[], &[]), text);
        let mut filtered = select(&["orders.count"], &[], &[]);
        filtered.filters = vec![equals("orders.running", "7")];
        check_fails(&filtered, text);
    }

    #[test]
    fn duplicates_and_idle_time_dimensions_vanish() {
        let times = [("orders.created_at", "day"), ("orders.created_at", "Day"), ("orders.created_at", "")];
        let query = run(&select(&["orders.count", "orders.count"], &["orders.status", "orders.status"], &times))
            .expect("a valid request")
            .query;
        assert_eq!((query.measures.len(), query.dimensions.len(), query.time_dimensions.len()), (1, 1, 1));
    }

    #[test]
    fn segments_among_dimensions_are_columns() {
        let query = run(&select(&[], &["orders.open", "orders.status"], &[])).expect("a valid request").query;
        assert_eq!((query.segment_columns.len(), query.dimensions.len()), (1, 1));
    }

    #[test]
    fn three_part_dimensions_become_time_dimensions_of_the_echo() {
        let echo = run(&select(&["orders.count"], &["orders.created_at.year"], &[("orders.created_at", "day")]))
            .expect("a valid request")
            .echo;
        assert!(echo.dimensions.is_empty());
        let granularities: Vec<_> = echo.time_dimensions.iter().filter_map(|t| t.granularity.as_deref()).collect();
        assert_eq!(granularities, ["day", "year"]);
    }

    #[test]
    fn limits_are_filled_in_and_guarded() {
        let request = |limit| Request { limit, ..select(&["orders.count"], &[], &[]) };
        let filled = run(&request(None)).expect("valid");
        assert_eq!((filled.query.limit, filled.echo.limit), (Some(10_000), Some(10_000)));
        assert_eq!(run(&request(Some(50_000))).expect("valid").query.limit, Some(50_000));
        assert_eq!(run(&request(Some(0))).expect("valid").query.limit, Some(0));
        assert!(matches!(run(&request(Some(50_001))), Err(QueryError::LimitExceeded)));
    }

    #[test]
    fn date_ranges_are_resolved_in_the_zone_of_the_query() {
        // 2024-05-15T03:00:00Z is still the 14th in Los Angeles.
        let now = 1_715_742_000_000_000;
        let mut request = select(&["orders.count"], &[], &[("orders.created_at", "")]);
        request.time_dimensions[0].date_range = Some(DateRange::Text("today".to_owned()));
        request.timezone = Some("America/Los_Angeles".parse().expect("a zone"));
        let normalized = normalize(&request, &sample::model(), &limits(), now).expect("valid");
        let bounds = list(&["2024-05-14T00:00:00.000", "2024-05-14T23:59:59.999"]);
        assert_eq!(normalized.echo.time_dimensions[0].date_range, Some(DateRange::Bounds(bounds)));
        let range = normalized.query.time_dimensions[0].range.expect("a range");
        assert_eq!(range.end - range.start, 86_400_000_000);
    }

    fn equals(member: &str, value: &str) -> FilterNode {
        FilterNode::Leaf(FilterLeaf {
            member: member.to_owned(),
            operator: Operator::Equals,
            values: Some(vec![Some(value.to_owned())]),
        })
    }

    #[track_caller]
    fn check_filter(node: FilterNode) -> Query {
        run(&Request { filters: vec![node], ..select(&["orders.count"], &[], &[]) }).expect("a valid filter").query
    }

    #[test]
    fn filters_part_into_rows_and_groups() {
        let (status, count) = (equals("orders.status", "a"), equals("orders.count", "1"));
        let query = check_filter(FilterNode::And(vec![status.clone()]));
        assert!(matches!(query.filters.as_slice(), [Filter::Leaf { member: Column::Dimension(_), .. }]));
        let query = check_filter(FilterNode::Or(vec![count.clone(), count.clone()]));
        assert!(matches!(query.measure_filters.as_slice(), [Filter::Or(children)] if children.len() == 2));
        let mixed = FilterNode::Or(vec![count, FilterNode::And(vec![status])]);
        check_fails(
            &Request { filters: vec![mixed], ..select(&["orders.count"], &[], &[]) },
            "You cannot use dimension and measure in same condition: {\"or\":[{\"member\":\"orders.count\",\"operator\":\"equals\",\"values\":[\"1\"]},{\"and\":[{\"member\":\"orders.status\",\"operator\":\"equals\",\"values\":[\"a\"]}]}]}",
        );
    }

    #[test]
    fn empty_groups_vanish_and_idle_conditions_are_true() {
        let status = equals("orders.status", "a");
        let always = FilterNode::Leaf(FilterLeaf {
            member: "orders.count".to_owned(),
            operator: Operator::MeasureFilter,
            values: None,
        });
        assert!(check_filter(FilterNode::Or(vec![])).filters.is_empty());
        let query = check_filter(FilterNode::Or(vec![FilterNode::And(vec![]), status.clone()]));
        assert!(matches!(query.filters.as_slice(), [Filter::Leaf { .. }]));
        assert!(check_filter(FilterNode::Or(vec![always.clone(), status.clone()])).filters.is_empty());
        assert_eq!(check_filter(FilterNode::And(vec![always, status])).filters.len(), 1);
    }

    #[test]
    fn filters_without_values_are_named() {
        let mut node = equals("orders.status", "a");
        if let FilterNode::Leaf(leaf) = &mut node {
            leaf.values = Some(vec![]);
        }
        check_fails(
            &Request { filters: vec![FilterNode::Or(vec![node])], ..select(&["orders.count"], &[], &[]) },
            "Values required for filter: {\"member\":\"orders.status\",\"operator\":\"equals\",\"values\":[]}",
        );
    }

    #[test]
    fn segments_filter_as_booleans() {
        let query = check_filter(equals("orders.open", "true"));
        let expected = Test::In { values: vec![Value::Boolean(true)], null: false };
        assert!(
            matches!(query.filters.as_slice(), [Filter::Leaf { member: Column::Segment(_), test }] if *test == expected)
        );
    }
}
