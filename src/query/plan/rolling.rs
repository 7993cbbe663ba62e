//! Rolling windows (`data-model.md` §19): buckets of a series, each with the rows of its window.

use super::shape::shape;
use super::stages::{Planner, measures_under};
use super::{Leaf, NodeKind};
use crate::model::granularity::GranularityKind;
use crate::model::stage::{Extent, WindowOffset};
use crate::model::{AggKind, DimensionId, Grain, MeasureId, MeasureKind, MemberId, Model, RollingWindow};
use crate::query::members::{is_leaf, resolve_alias, resolve_measure};
use crate::query::{Column, Filter, OutputColumn, Query, QueryError, Test, TimeDimension};
use crate::time::{Bins, Granularity, Interval, TimeRange, from_micros, to_micros};

/// A millisecond in microseconds: ends of buckets and ranges are counted in these.
const MILLISECOND: i64 = 1000;

/// The buckets that a rolling query reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Series {
    /// The time dimension, as the query names it.
    pub dimension: DimensionId,
    /// Its finest granularity in the query.
    pub grain: Grain,
    /// The column of the base that holds times.
    pub base: OutputColumn,
    /// Whether the base holds rows with their own times instead of groups by buckets.
    pub raw: bool,
    /// From where to where.
    pub range: SeriesRange,
}

/// The ends of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SeriesRange {
    /// The query's range, local time.
    Given(TimeRange),
    /// From the first to the last row.
    Data,
}

/// Buckets of a granularity as bins, and by how much their borders are moved.
///
/// # Errors
/// The granularity is an expression.
pub(in crate::query) fn bins_of(
    model: &Model,
    dimension: DimensionId,
    grain: Grain,
) -> Result<(Bins, Interval), QueryError> {
    let kind = match grain {
        Grain::Standard(granularity) => return Ok((Bins::of(granularity), Interval::ZERO)),
        Grain::Custom(index) => model.dimension(dimension).granularities.get(index as usize).map(|g| &g.kind),
    };
    match kind {
        Some(GranularityKind::Moved { unit, offset }) => Ok((Bins::of(*unit), *offset)),
        Some(GranularityKind::Bins { bins, .. }) => Ok((*bins, Interval::ZERO)),
        Some(GranularityKind::Sql(_)) | None => {
            let name = model.dimension(dimension).grain_name(grain);
            let text = format!("rolling windows by the granularity '{name}' are not possible: it is given by SQL");
            Err(QueryError::Model(text))
        }
    }
}

/// Windows begin at the borders of standard periods; a calendar's own, which SQL gives, are not known here.
fn check_period(model: &Model, dimension: DimensionId, period: Granularity) -> Result<(), QueryError> {
    match model.dimension(resolve_alias(model, dimension)).find_grain(period.as_str()) {
        None | Some(Grain::Standard(_)) => Ok(()),
        Some(Grain::Custom(_)) => Err(QueryError::Model(format!(
            "a rolling window to_date by the {} of '{}' is not possible: its SQL gives no borders",
            period.as_str(),
            model.path_of(MemberId::Dimension(dimension))
        ))),
    }
}

/// The relation of a measure with a rolling window.
pub(super) fn rolling(planner: &mut Planner<'_>, ask: &Query, unit: MeasureId) -> Result<usize, QueryError> {
    let measure = planner.model.measure(unit);
    let Some(window) = measure.rolling else { return Err(QueryError::Model("not a window".to_owned())) };
    let values = window_values(planner.model, unit)?;
    let timed = ask.time_dimensions.iter().find(|time| time.granularity.is_some());
    if let RollingWindow::ToDate(granularity) = window {
        let used = ask.time_dimensions.iter().filter(|time| time.granularity.is_some() || time.range.is_some());
        used.map(|time| time.dimension).try_for_each(|id| check_period(planner.model, id, granularity))?;
    }
    let part = match timed {
        Some(time) => windows(planner, ask, &values, (window, time.dimension))?,
        None => one_window(planner, ask, &values, window)?,
    };
    if values == [unit] {
        return Ok(part);
    }
    Ok(planner.push(ask.group_columns(), vec![unit], NodeKind::Evaluate(part)))
}

/// The aggregates that a window takes in: the measure itself, or the leaves of a calculated one.
fn window_values(model: &Model, unit: MeasureId) -> Result<Vec<MeasureId>, QueryError> {
    if matches!(model.measure(unit).kind, MeasureKind::Aggregate { .. }) {
        return Ok(vec![unit]);
    }
    let mut values = Vec::new();
    let mut open = measures_under(model, unit);
    while let Some(id) = open.pop().map(|id| resolve_measure(model, id)) {
        let measure = model.measure(id);
        let aggregates = matches!(measure.kind, MeasureKind::Aggregate { .. });
        if measure.stage.is_some() || (!aggregates && is_leaf(model, id)) {
            values.clear();
            break;
        }
        if aggregates {
            values.push(id);
        } else {
            open.extend(measures_under(model, id));
        }
    }
    values.sort_unstable();
    values.dedup();
    if values.is_empty() || is_leaf(model, unit) {
        let name = model.path_of(MemberId::Measure(unit));
        let text = format!("the rolling window of '{name}' needs an aggregate, or an expression over aggregates");
        return Err(QueryError::Model(text));
    }
    Ok(values)
}

/// Without buckets there is one window, at the end of the range (§19.2).
fn one_window(
    planner: &mut Planner<'_>,
    ask: &Query,
    values: &[MeasureId],
    window: RollingWindow,
) -> Result<usize, QueryError> {
    let ranged = ask.time_dimensions.iter().find_map(|time| Some((time.dimension, time.range?)));
    let Some((dimension, range)) = ranged else { return joined(planner, ask, values) };
    let last = to_micros(from_micros(range.end)) - MILLISECOND;
    let moved = |at: i64, by: Interval| to_micros(by.after(from_micros(at)));
    let back = |at: i64, extent: Extent| match extent {
        Extent::Unbounded => None,
        Extent::Interval(interval, _) => Some(moved(at, interval.negated())),
    };
    let forth = |at: i64, extent: Extent| match extent {
        Extent::Unbounded => None,
        Extent::Interval(interval, _) => Some(moved(at, interval)),
    };
    let (start, end) = match window {
        RollingWindow::Fixed { trailing, leading, offset: WindowOffset::End } => {
            (back(last, trailing).map(|t| t + MILLISECOND), forth(last, leading).map(|t| t + MILLISECOND))
        }
        RollingWindow::Fixed { trailing, leading, offset: WindowOffset::Start } => {
            (back(range.start, trailing), forth(range.start, leading))
        }
        RollingWindow::ToDate(granularity) => {
            (Some(to_micros(granularity.truncate(from_micros(range.start)))), Some(range.end))
        }
    };
    let mut inner = without_time(planner.model, ask, dimension);
    inner.filters.extend(in_range(dimension, start, end));
    joined(planner, &inner, values)
}

fn joined(planner: &mut Planner<'_>, ask: &Query, values: &[MeasureId]) -> Result<usize, QueryError> {
    let parts = planner.plain(ask, values)?;
    match parts.as_slice() {
        [one] => Ok(*one),
        many => Ok(planner.push(ask.group_columns(), values.to_vec(), NodeKind::Join(many.to_vec()))),
    }
}

/// One window a bucket of the time dimension.
fn windows(
    planner: &mut Planner<'_>,
    ask: &Query,
    values: &[MeasureId],
    (window, dimension): (RollingWindow, DimensionId),
) -> Result<usize, QueryError> {
    let model = planner.model;
    let grain = finest(model, ask, dimension)?;
    let (bins, moved) = bins_of(model, dimension, grain)?;
    let range = series_range(model, ask, dimension)?;
    let merges = values.iter().all(|id| merges(model, *id));
    let base_grain = base_granularity(model, window, dimension, grain).map(|base| {
        // Ends of months do not add up; distinct values are counted as over rows, so their base is made of days.
        if values.iter().any(|id| by_rows(model, *id)) && counts_months(window) {
            base.min(Granularity::Day)
        } else {
            base
        }
    });
    let base = match base_grain.filter(|_| merges) {
        Some(granularity) => OutputColumn::Time(dimension, Grain::Standard(granularity)),
        None => OutputColumn::Dimension(dimension),
    };
    let raw = matches!(base, OutputColumn::Dimension(_));
    let mut inner = without_time(model, ask, dimension);
    let mut groups = inner.group_columns();
    groups.push(base);
    inner.set_groups(&groups);
    inner.ungrouped = raw;
    if let SeriesRange::Given(range) = range {
        let (start, end) = window_range(bins, moved, window, range);
        inner.filters.extend(in_range(dimension, start, end));
    }
    let query = Query { measures: values.to_vec(), ..inner };
    let leaf_shape = shape(model, &query)?;
    if raw && !leaf_shape.keyed.is_empty() {
        let names: Vec<String> = values.iter().map(|id| model.path_of(MemberId::Measure(*id))).collect();
        return Err(QueryError::Model(format!(
            "joins multiply the rows of '{}', so that its rolling window cannot be computed",
            names.join("', '")
        )));
    }
    let leaf = Leaf { query, shape: leaf_shape, merged: !raw, arguments: raw };
    let base_node = planner.push(groups, values.to_vec(), NodeKind::Leaf(Box::new(leaf)));
    let series = Series { dimension, grain, base, raw, range };
    Ok(planner.push(ask.group_columns(), values.to_vec(), NodeKind::Rolling { base: base_node, series, window }))
}

/// Whether values of groups can be put together to values of windows.
fn merges(model: &Model, id: MeasureId) -> bool {
    match &model.measure(id).kind {
        MeasureKind::Aggregate { agg, .. } => match agg {
            AggKind::Count
            | AggKind::CountDistinct
            | AggKind::CountDistinctApprox
            | AggKind::Sum
            | AggKind::Avg
            | AggKind::Min
            | AggKind::Max => true,
        },
        _ => false,
    }
}

/// Whether a window takes in rows by their own times, not by those of their groups (`data-model.md` §19.1).
fn by_rows(model: &Model, id: MeasureId) -> bool {
    matches!(model.measure(id).kind, MeasureKind::Aggregate { agg: AggKind::CountDistinct, .. })
}

/// Whether an end of a window is a number of months away.
fn counts_months(window: RollingWindow) -> bool {
    let months = |extent: Extent| matches!(extent, Extent::Interval(interval, _) if interval.months != 0);
    match window {
        RollingWindow::Fixed { trailing, leading, .. } => months(trailing) || months(leading),
        RollingWindow::ToDate(_) => false,
    }
}

/// The finest granularity of a time dimension in a query.
fn finest(model: &Model, ask: &Query, dimension: DimensionId) -> Result<Grain, QueryError> {
    let same = |id: DimensionId| resolve_alias(model, id) == resolve_alias(model, dimension);
    let grains = ask.time_dimensions.iter().filter(|time| same(time.dimension)).filter_map(|time| time.granularity);
    let mut best: Option<(i64, Grain)> = None;
    for grain in grains {
        let length = bins_of(model, dimension, grain)?.0.step.approximate_micros();
        if best.is_none_or(|(least, _)| length < least) {
            best = Some((length, grain));
        }
    }
    best.map(|(_, grain)| grain).ok_or_else(|| QueryError::Model("no granularity".to_owned()))
}

fn series_range(model: &Model, ask: &Query, dimension: DimensionId) -> Result<SeriesRange, QueryError> {
    let same = |id: DimensionId| resolve_alias(model, id) == resolve_alias(model, dimension);
    let mut ranges: Vec<TimeRange> =
        ask.time_dimensions.iter().filter(|time| same(time.dimension)).filter_map(|time| time.range).collect();
    ranges.dedup();
    match ranges.as_slice() {
        [] => Ok(SeriesRange::Data),
        [one] => Ok(SeriesRange::Given(*one)),
        _ => Err(QueryError::Model("Can't build query for time dimensions with different date ranges".to_owned())),
    }
}

/// What rows are grouped by before they are put into windows: the coarsest buckets that make up both the window's
/// unit and the series (§19.1).
fn base_granularity(model: &Model, window: RollingWindow, dimension: DimensionId, grain: Grain) -> Option<Granularity> {
    let series = match grain {
        Grain::Standard(granularity) => Some(granularity),
        Grain::Custom(index) => {
            model.dimension(dimension).granularities.get(index as usize).and_then(|custom| custom.kind.made_of())
        }
    }?;
    let mut units = vec![series];
    match window {
        RollingWindow::ToDate(granularity) => units.push(granularity),
        RollingWindow::Fixed { trailing, leading, .. } => {
            for extent in [trailing, leading] {
                if let Extent::Interval(interval, unit) = extent
                    && interval != Interval::ZERO
                {
                    units.push(unit);
                }
            }
        }
    }
    let fits = |granularity: &Granularity| units.iter().all(|unit| granularity.serves(*unit));
    Granularity::ALL.into_iter().rev().find(fits)
}

/// The rows that some window of a range takes in: local times, half open; an open side is none.
fn window_range(bins: Bins, moved: Interval, window: RollingWindow, range: TimeRange) -> (Option<i64>, Option<i64>) {
    let start_of = |at: i64| moved.after(bins.truncate(moved.negated().after(from_micros(at))));
    let end_of = |at: i64| moved.after(bins.next(moved.negated().after(from_micros(at))));
    let (first, last) = (range.start, (range.end - 1).max(range.start));
    let add = |at: i64, by: Interval| to_micros(by.after(from_micros(at)));
    match window {
        RollingWindow::Fixed { trailing, leading, offset: WindowOffset::End } => {
            let start = match trailing {
                Extent::Unbounded => None,
                Extent::Interval(by, _) => {
                    Some(add(to_micros(end_of(first)) - MILLISECOND, by.negated()) + MILLISECOND)
                }
            };
            let end = match leading {
                Extent::Unbounded => None,
                Extent::Interval(by, _) => Some(add(to_micros(end_of(last)) - MILLISECOND, by) + MILLISECOND),
            };
            (start, end)
        }
        RollingWindow::Fixed { trailing, leading, offset: WindowOffset::Start } => {
            let start = match trailing {
                Extent::Unbounded => None,
                Extent::Interval(by, _) => Some(add(to_micros(start_of(first)), by.negated())),
            };
            let end = match leading {
                Extent::Unbounded => None,
                Extent::Interval(by, _) => Some(add(to_micros(start_of(last)), by)),
            };
            (start, end)
        }
        RollingWindow::ToDate(granularity) => {
            (Some(to_micros(granularity.truncate(start_of(first)))), Some(to_micros(end_of(last))))
        }
    }
}

/// The query without a time dimension: neither grouped by nor limited in it.
fn without_time(model: &Model, ask: &Query, dimension: DimensionId) -> Query {
    let same = |id: DimensionId| resolve_alias(model, id) == resolve_alias(model, dimension);
    let kept = ask.time_dimensions.iter().filter(|time: &&TimeDimension| !same(time.dimension)).copied();
    Query { time_dimensions: kept.collect(), ..ask.clone() }
}

fn in_range(dimension: DimensionId, start: Option<i64>, end: Option<i64>) -> Option<Filter<Column>> {
    (start.is_some() || end.is_some())
        .then_some(Filter::Leaf { member: Column::Dimension(dimension), test: Test::InRange { start, end } })
}
