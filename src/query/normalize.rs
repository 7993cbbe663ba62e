//! Request → [`Query`]: names to ids, dates to ranges, defaults, limits.
//!
//! Pure: `now` and the limits are arguments. Nothing after this room can meet an unknown member.

use super::dates::{Now, parse_bounds, parse_text};
use super::filters::{self, Conditions};
use super::members::resolve_alias;
use super::plan::{members_of, tree_of};
use super::policy::{Asker, may_select, raw, restrict};
use super::request::{DateRange, FilterNode, Request, TimeDimensionRequest, filter_node};
use super::{OrderKey, OutputColumn, Query, QueryError, TimeDimension};
use crate::model::{CubeId, DataType, DimensionId, Grain, Hint, MeasureId, MemberId, Model, SegmentId, UnknownMember};
use crate::names::MemberPath;
use crate::preagg::layout::alias;
use crate::time::{TimeRange, Zone};

/// Cube's text.
const NO_GROUPS: &str = "Measure filters aren't allowed in ungrouped query";

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
    /// Whether ungrouped queries need no primary keys (`CUBEJS_ALLOW_UNGROUPED_WITHOUT_PRIMARY_KEY`).
    pub ungrouped_without_key: bool,
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

/// Resolves a request against a model, for who asks.
///
/// # Errors
/// Every [`QueryError`] that a client can cause; no engine errors.
pub fn normalize(
    request: &Request,
    model: &Model,
    limits: &Limits,
    asker: &Asker,
    now: i64,
) -> Result<Normalized, QueryError> {
    let (mut echo, ranges) = fill_in(request, limits, now)?;
    let timezone = echo.timezone.unwrap_or(limits.timezone);
    let measures = resolve_measures(echo.measures.as_deref().unwrap_or_default(), model)?;
    let (dimensions, segment_columns) = resolve_dimensions(&echo.dimensions, model)?;
    let time_dimensions = resolve_time_dimensions(&echo.time_dimensions, &ranges, model)?;
    let segments = resolve_segments(echo.segments.as_deref().unwrap_or_default(), model)?;
    let conditions = filters::resolve(&echo.filters, model, timezone)?;
    let imposed = filters::resolve(&echo.imposed, model, timezone)?;
    let mut query = Query {
        measures,
        dimensions,
        segment_columns,
        time_dimensions,
        segments,
        filters: conditions.rows,
        measure_filters: conditions.groups,
        limit: echo.limit,
        offset: echo.offset.unwrap_or(0),
        total: echo.total.unwrap_or(false),
        timezone,
        ungrouped: echo.ungrouped.unwrap_or(false),
        join_hints: resolve_hints(&echo.join_hints, model)?,
        ..Query::default()
    };
    check_visible(&query, model, limits, asker)?;
    query.order = resolve_order(&echo, &query, model);
    if query.ungrouped {
        check_ungrouped(&query, model, limits)?;
    }
    echo.filters.append(&mut echo.imposed);
    add_default_filters(&mut query, &imposed, model, now)?;
    let mut query = restrict(query, model, asker, now)?;
    impose(&mut query, imposed)?;
    Ok(Normalized { query, echo })
}

/// Adds the server's conditions. They hold for values as they are, also where the caller sees masks.
fn impose(query: &mut Query, imposed: Conditions) -> Result<(), QueryError> {
    if query.ungrouped && !imposed.groups.is_empty() {
        return Err(QueryError::Model(NO_GROUPS.to_owned()));
    }
    let masked = !query.masks.is_empty();
    query.filters.extend(imposed.rows.into_iter().map(|filter| if masked { raw(filter) } else { filter }));
    query.measure_filters.extend(imposed.groups);
    Ok(())
}

fn resolve_hints(hints: &[Vec<String>], model: &Model) -> Result<Vec<Hint>, QueryError> {
    let cube = |name: &String| match model.find_cube(name) {
        Some(cube) if cube.view().is_none() => Ok(cube.id),
        _ => Err(QueryError::Model(format!("Cube '{name}' not found for path '{name}'"))),
    };
    hints.iter().map(|hint| hint.iter().map(cube).collect()).collect()
}

/// Ungrouped queries have no groups to filter, and each row must be told apart by its keys.
fn check_ungrouped(query: &Query, model: &Model, limits: &Limits) -> Result<(), QueryError> {
    if !query.measure_filters.is_empty() {
        return Err(QueryError::Model(NO_GROUPS.to_owned()));
    }
    if limits.ungrouped_without_key {
        return Ok(());
    }
    let tree = tree_of(model, query)?;
    let keys = tree.cubes().flat_map(|cube| model.cube(cube).primary_key());
    let selected = |id: DimensionId| query.dimensions.iter().any(|dimension| resolve_alias(model, *dimension) == id);
    let missing: Vec<String> = keys
        .filter(|key| !selected(key.id))
        .map(|key| format!("'{}'", model.path_of(MemberId::Dimension(key.id))))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(QueryError::Model(format!(
        "Ungrouped query requires primary keys to be present in dimensions: {}. Pass allowUngroupedWithoutPrimaryKey \
         option to disable this check.",
        missing.join(", ")
    )))
}

/// Conditions of the views that the query touches, unless a condition of its own releases them
/// (`data-model.md` §8.5).
fn add_default_filters(query: &mut Query, imposed: &Conditions, model: &Model, now: i64) -> Result<(), QueryError> {
    let filtered: Vec<MemberId> = query
        .filters
        .iter()
        .chain(&imposed.rows)
        .flat_map(members_of)
        .map(super::Column::member)
        .chain(query.measure_filters.iter().chain(&imposed.groups).flat_map(members_of).map(MemberId::Measure))
        .collect();
    let mut views: Vec<CubeId> = Vec::new();
    let times = query.time_dimensions.iter().map(|time| MemberId::Dimension(time.dimension));
    for member in selected(query).chain(filtered.iter().copied()).chain(times) {
        if !views.contains(&member.cube()) {
            views.push(member.cube());
        }
    }
    let zone = query.timezone;
    let local_now = Now::at(now, zone);
    for view in views.into_iter().filter_map(|cube| model.cube(cube).view()) {
        for default in &view.default_filters {
            if default.unless.iter().any(|member| filtered.contains(member)) {
                continue;
            }
            let mut nodes = [filter_node(&default.filter)?];
            filters::resolve_dates(&mut nodes, local_now)?;
            let conditions = filters::resolve(&nodes, model, zone)?;
            query.filters.extend(conditions.rows);
            query.measure_filters.extend(conditions.groups);
        }
    }
    Ok(())
}

/// Conditions that a multi-stage measure adds.
///
/// # Errors
/// They are no conditions on dimensions.
pub(super) fn stage_filters(
    model: &Model,
    written: &[serde_json::Value],
    zone: Zone,
) -> Result<Vec<super::Filter<super::Column>>, QueryError> {
    let nodes: Vec<FilterNode> = written.iter().map(filter_node).collect::<Result<_, _>>()?;
    Ok(filters::resolve(&nodes, model, zone)?.rows)
}

/// The request as it is echoed, and the date ranges of its time dimensions. Needs no model.
fn fill_in(request: &Request, limits: &Limits, now: i64) -> Result<(Request, Vec<Option<TimeRange>>), QueryError> {
    let mut echo = request.clone();
    split_three_part_names(&mut echo);
    let selects = echo.measures.as_ref().is_some_and(|measures| !measures.is_empty())
        || !echo.dimensions.is_empty()
        || echo.time_dimensions.iter().any(|time| time.granularity.is_some());
    if !selects {
        let text = "Query should contain either measures, dimensions or timeDimensions with granularities in order to be valid";
        return Err(QueryError::Invalid(text.to_owned()));
    }
    filters::check_values(&echo.filters)?;
    filters::check_values(&echo.imposed)?;
    let limit = echo.limit.unwrap_or_else(|| limits.default_rows.min(limits.max_rows));
    if limit > limits.max_rows {
        return Err(QueryError::LimitExceeded);
    }
    echo.limit = Some(limit);
    let zone = *echo.timezone.get_or_insert(limits.timezone);
    let now = Now::at(now, zone);
    let ranges = echo.time_dimensions.iter_mut().map(|time| resolve_range(time, now)).collect::<Result<_, _>>()?;
    filters::resolve_dates(&mut echo.filters, now)?;
    filters::resolve_dates(&mut echo.imposed, now)?;
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

fn resolve_granularity(name: &str, id: DimensionId, member: &str, model: &Model) -> Result<Grain, QueryError> {
    let dimension = model.dimension(id);
    let offered = |grain: &Grain| match grain {
        Grain::Standard(granularity) => dimension.offered.as_ref().is_none_or(|list| list.contains(granularity)),
        Grain::Custom(_) => true,
    };
    dimension
        .find_grain(name)
        .filter(offered)
        .ok_or_else(|| QueryError::Model(format!("Granularity \"{name}\" does not exist in dimension {member}")))
}

/// Every member that a query selects: its columns.
fn selected(query: &Query) -> impl Iterator<Item = MemberId> {
    query.columns().into_iter().map(|column| match column {
        OutputColumn::Dimension(id) | OutputColumn::Time(id, _) => MemberId::Dimension(id),
        OutputColumn::Segment(id) => MemberId::Segment(id),
        OutputColumn::Measure(id) => MemberId::Measure(id),
    })
}

/// What is not public, or not granted by a policy of its own cube, cannot be selected.
fn check_visible(query: &Query, model: &Model, limits: &Limits, asker: &Asker) -> Result<(), QueryError> {
    for member in selected(query) {
        let public = match member {
            MemberId::Measure(id) => model.measure(id).public,
            MemberId::Dimension(id) => model.dimension(id).public,
            MemberId::Segment(id) => model.segment(id).public,
        };
        let shown = limits.allow_hidden || (public && model.cube(member.cube()).public);
        if !(shown && may_select(model, asker, member)) {
            // Recorded servers name the column's alias here, not the member.
            return Err(QueryError::HiddenMember { member: alias(&model.alias_path(member)) });
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
        let wanted = OutputColumn::Time(dimension, model.dimension(dimension).find_grain(granularity)?);
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
            (OutputColumn::Time(a, grain), MemberId::Dimension(b)) if *a == b => {
                Some((model.dimension(b).grain_length(*grain), at))
            }
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
        Limits {
            default_rows: 10_000,
            max_rows: 50_000,
            timezone: Zone::UTC,
            allow_hidden: false,
            ungrouped_without_key: true,
        }
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
        normalize(request, &sample::model(), &limits(), &Asker::default(), 0)
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
        assert!(normalize(&hidden, &sample::model(), &shown, &Asker::default(), 0).is_ok());
        let mut filtered = select(&["orders.count"], &[], &[]);
        filtered.filters = vec![equals("orders.id", "7")];
        assert!(run(&filtered).is_ok());
    }

    #[test]
    fn custom_granularities_are_found_by_name() {
        let query = run(&select(&["orders.count"], &["orders.created_at.fiscal_year"], &[])).expect("valid");
        assert_eq!(query.query.time_dimensions[0].granularity, Some(Grain::Custom(0)));
    }

    #[test]
    fn ungrouped_queries_need_keys_when_told_so() {
        let ungrouped = Request { ungrouped: Some(true), ..select(&["orders.count"], &["orders.status"], &[]) };
        assert!(run(&ungrouped).is_ok());
        let strict = Limits { ungrouped_without_key: false, ..limits() };
        let error = normalize(&ungrouped, &sample::model(), &strict, &Asker::default(), 0).expect_err("no key");
        assert!(
            error
                .to_string()
                .starts_with("Ungrouped query requires primary keys to be present in dimensions: 'orders.id'. Pass"),
            "{error}"
        );
        let mut filtered = ungrouped;
        filtered.filters = vec![equals("orders.count", "7")];
        check_fails(&filtered, "Measure filters aren't allowed in ungrouped query");
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
        let normalized = normalize(&request, &sample::model(), &limits(), &Asker::default(), now).expect("valid");
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
