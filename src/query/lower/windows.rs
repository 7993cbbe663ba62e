//! Rolling windows → SQL (`data-model.md` §19.1): every bucket of a series with the rows of its window.
//!
//! Comparing every bucket with every row takes their product. So, where it can be told beforehand:
//! - of a window that only grows from bucket to bucket, what was seen is carried on ([`Writer::running`]);
//! - of a window that is short beside the series, each row is put into the few buckets whose windows may hold it, and
//!   only these are compared ([`near`]).
//!
//! What is left are windows of many buckets that rows enter and leave: those are compared one by one.

use std::collections::HashMap;

use super::expr::{aggregate, average, interval};
use super::stages::Writer;
use super::{Literal, group_by, quote};
use crate::model::stage::{Extent, WindowOffset};
use crate::model::{AggKind, DimensionId, Grain, MeasureId, MeasureKind, RollingWindow};
use crate::preagg::layout::{self, StateColumn};
use crate::query::OutputColumn;
use crate::query::lower::column_alias;
use crate::query::members::resolve_alias;
use crate::query::plan::{Node, Series, SeriesRange, Stages, bins_of};
use crate::time::{Bins, DAY_MICROS, Interval};

/// So many comparisons of a row with a bucket take the time of one that a hash table finds (measured: 30 or so).
const COMPARISONS: i64 = 32;
/// By so much a month's end may be cut short where months are counted.
const MONTH_ENDS: Interval = Interval { months: 0, micros: 4 * DAY_MICROS };

/// What is put into windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rolled {
    /// The node with the rows.
    pub(super) base: usize,
    /// The buckets.
    pub(super) series: Series,
    /// The window of each bucket.
    pub(super) window: RollingWindow,
}

/// The buckets of a series: their length, and by how much their borders are moved.
struct Buckets {
    bins: Bins,
    moved: Interval,
}

impl Buckets {
    /// The last arguments of our bucket functions.
    fn length(&self) -> String {
        format!("{}, {}, {}", self.bins.step.months, self.bins.step.micros, self.bins.origin)
    }

    /// A time before borders are moved.
    fn back(&self, sql: &str) -> String {
        plus(sql, self.moved.negated())
    }

    /// A border where it is.
    fn forth(&self, sql: &str) -> String {
        plus(sql, self.moved)
    }
}

/// A window that takes in all rows up to a moment of the bucket, or all from it on.
struct Growing {
    /// The moment.
    edge: String,
    /// Whether rows of that very moment belong to it.
    inclusive: bool,
    /// Whether it takes in what comes before.
    forward: bool,
    /// It starts again with every one of these.
    period: Option<&'static str>,
    /// Whether it takes in everything, also rows without time.
    everything: bool,
}

impl Writer<'_, '_> {
    /// Every bucket of the series with the rows of its window.
    pub(super) fn rolling(&self, stages: &Stages, node: &Node, rolled: Rolled) -> String {
        let Rolled { base, series, window } = rolled;
        let Ok((bins, moved)) = bins_of(self.model, series.dimension, series.grain) else { return String::new() };
        let buckets = Buckets { bins, moved };
        let list = self.series(rolled, &buckets);
        if let Some(growing) = growing(series, window).filter(|_| !series.raw) {
            let rows = self.running(node, rolled, &list, &growing);
            let columns = self.window_columns(stages, node, series, &|id| {
                let value = format!("\"base\".{}", quote(&layout::measure_column(self.model, id)));
                // No rows have no different values: that is a number too.
                if self.counts_values(id) { format!("COALESCE({value}, 0)") } else { value }
            });
            return format!(
                "SELECT {columns} FROM ({list}) AS \"series\" LEFT JOIN ({rows}) AS \"base\" \
                 ON \"base\".\"date_from\" = \"series\".\"date_from\"",
            );
        }
        let columns = self.window_columns(stages, node, series, &|id| self.window_value(id, series.raw, ""));
        let time = format!("\"base\".{}", quote(&column_alias(self.model, series.base)));
        let mut conditions = predicate(&time, series.raw, window);
        let rows = match near(&buckets, window, series.range) {
            Some((before, after)) => {
                conditions.push("\"base\".\"bucket\" = \"series\".\"bucket\"".to_owned());
                let (first, last) = (plus(&buckets.back(&time), before), plus(&buckets.back(&time), after));
                format!(
                    "(SELECT \"base\".*, unnest(time_series({first}, {last}, {})) AS \"bucket\" FROM {} AS \"base\")",
                    buckets.length(),
                    self.cte(base)
                )
            }
            None => self.cte(base),
        };
        let on = if conditions.is_empty() { "1 = 1".to_owned() } else { conditions.join(" AND ") };
        format!(
            "SELECT {columns} FROM ({list}) AS \"series\" LEFT JOIN {rows} AS \"base\" ON {on}{}",
            group_by(node.groups.len())
        )
    }

    /// The columns of the node: buckets by themselves and coarser, other groups, and values.
    fn window_columns(
        &self,
        stages: &Stages,
        node: &Node,
        series: Series,
        value: &dyn Fn(MeasureId) -> String,
    ) -> String {
        let leaves = HashMap::new();
        let groups = HashMap::new();
        let scope = self.scope(&stages.query, &leaves, &groups);
        let mut columns = Vec::new();
        for group in &node.groups {
            let column = quote(&column_alias(self.model, *group));
            let sql = match group {
                OutputColumn::Time(id, grain) if self.is_series(series, *id) && *grain == series.grain => {
                    "\"series\".\"date_from\"".to_owned()
                }
                OutputColumn::Time(id, grain) if self.is_series(series, *id) => {
                    scope.truncated(*id, *grain, "\"series\".\"date_from\"")
                }
                _ => format!("\"base\".{column}"),
            };
            columns.push(format!("{sql} AS {column}"));
        }
        for id in &node.values {
            columns.push(format!("{} AS {}", value(*id), quote(&layout::measure_column(self.model, *id))));
        }
        columns.join(", ")
    }

    fn is_series(&self, series: Series, id: DimensionId) -> bool {
        resolve_alias(self.model, id) == resolve_alias(self.model, series.dimension)
    }

    /// The buckets: `bucket`, where they start before borders are moved; `date_from`; and `date_to`, their last
    /// millisecond.
    fn series(&self, rolled: Rolled, buckets: &Buckets) -> String {
        let length = buckets.length();
        let list = match rolled.series.range {
            SeriesRange::Given(range) => {
                let at = |micros| buckets.back(&self.literals.place(Literal::Timestamp(micros)));
                let (first, last) = (at(range.start), at(range.end - 1));
                format!("SELECT unnest(time_series({first}, {last}, {length})) AS \"s\"")
            }
            SeriesRange::Data => {
                let column = quote(&column_alias(self.model, rolled.series.base));
                let (first, last) = (buckets.back(&format!("min({column})")), buckets.back(&format!("max({column})")));
                format!(
                    "SELECT unnest(\"l\") AS \"s\" FROM (SELECT time_series({first}, {last}, {length}) AS \"l\" \
                     FROM {}) AS \"ends\"",
                    self.cte(rolled.base)
                )
            }
        };
        format!(
            "SELECT \"s\" AS \"bucket\", {} AS \"date_from\", {} AS \"date_to\" FROM ({list}) AS \"buckets\"",
            buckets.forth("\"s\""),
            buckets.forth(&format!("time_bucket_end(\"s\", {length})"))
        )
    }

    /// Whether the measure counts different values.
    fn counts_values(&self, id: MeasureId) -> bool {
        matches!(
            self.model.measure(id).kind,
            MeasureKind::Aggregate { agg: AggKind::CountDistinct | AggKind::CountDistinctApprox, .. }
        )
    }

    /// The values of every bucket and group whose window holds rows. Rows and the edges of the buckets' windows are
    /// put in one order; what has been seen up to an edge is that bucket's.
    fn running(&self, node: &Node, rolled: Rolled, list: &str, growing: &Growing) -> String {
        let time = format!("\"rows\".{}", quote(&column_alias(self.model, rolled.series.base)));
        let period = |time: &str| growing.period.map(|period| format!("date_trunc('{period}', {time})"));
        let other =
            |group: &&OutputColumn| !matches!(group, OutputColumn::Time(id, _) if self.is_series(rolled.series, *id));
        let dimensions: Vec<String> =
            node.groups.iter().filter(other).map(|group| quote(&column_alias(self.model, *group))).collect();
        let values: Vec<String> = node.values.iter().flat_map(|id| self.stored(*id)).collect();
        // At one moment what belongs to the window comes before its edge, the rest after.
        let (row_turn, edge_turn) = if growing.inclusive { (0, 1) } else { (1, 0) };
        let listed = |columns: &mut dyn Iterator<Item = String>| columns.map(|column| format!("{column}, ")).collect();

        let source = self.cte(rolled.base);
        let rows: String =
            listed(&mut dimensions.iter().chain(&values).map(|name| format!("\"rows\".{name} AS {name}")));
        let edges: String = listed(
            &mut (dimensions.iter().map(|name| format!("\"groups\".{name} AS {name}")))
                .chain(values.iter().map(|name| format!("NULL AS {name}"))),
        );
        let timed = if growing.everything { String::new() } else { format!(" WHERE {time} IS NOT NULL") };
        let row_period = period(&time).map(|sql| format!("{sql} AS \"period\", ")).unwrap_or_default();
        let mut grouped: Vec<String> = dimensions.iter().map(|name| format!("\"rows\".{name} AS {name}")).collect();
        grouped.extend(period(&time).map(|sql| format!("{sql} AS \"period\"")));
        let groups = match (grouped.is_empty(), period("\"series\".\"date_from\"")) {
            (true, _) => String::new(),
            (false, None) => " CROSS JOIN ".to_owned(),
            (false, Some(_)) => " JOIN ".to_owned(),
        };
        let groups = if grouped.is_empty() {
            groups
        } else {
            let on = period("\"series\".\"date_from\"").map(|sql| format!(" ON {sql} = \"groups\".\"period\""));
            format!(
                "{groups}(SELECT DISTINCT {} FROM {source} AS \"rows\"{timed}) AS \"groups\"{}",
                grouped.join(", "),
                on.unwrap_or_default()
            )
        };
        let edge_period = growing.period.map_or("", |_| "\"groups\".\"period\" AS \"period\", ");

        let mut parts = dimensions.clone();
        parts.extend(growing.period.map(|_| "\"period\"".to_owned()));
        let parts = if parts.is_empty() { String::new() } else { format!("PARTITION BY {} ", parts.join(", ")) };
        let direction = if growing.forward { "ASC NULLS LAST" } else { "DESC NULLS LAST" };
        let upto = if growing.everything { "UNBOUNDED FOLLOWING" } else { "CURRENT ROW" };
        let over =
            format!(" OVER ({parts}ORDER BY \"at\" {direction}, \"turn\" ROWS BETWEEN UNBOUNDED PRECEDING AND {upto})");
        let kept: String = listed(&mut dimensions.iter().cloned());
        let found = node.values.iter().map(|id| {
            let column = quote(&layout::measure_column(self.model, *id));
            format!("{} AS {column}", self.window_value(*id, false, &over))
        });
        let found: String = listed(&mut found.into_iter());
        format!(
            "SELECT * FROM (SELECT {kept}{found}\"date_from\", count(\"row\"){over} AS \"found\" FROM (\
             SELECT {rows}{row_period}{time} AS \"at\", {row_turn} AS \"turn\", NULL AS \"date_from\", \
             1 AS \"row\" FROM {source} AS \"rows\"{timed} UNION ALL \
             SELECT {edges}{edge_period}{} AS \"at\", {edge_turn} AS \"turn\", \"series\".\"date_from\" AS \"date_from\", \
             NULL AS \"row\" FROM ({list}) AS \"series\"{groups}) AS \"base\") AS \"windows\" \
             WHERE \"date_from\" IS NOT NULL AND \"found\" > 0",
            growing.edge
        )
    }

    /// The columns that hold a measure's values, or its states.
    fn stored(&self, id: MeasureId) -> Vec<String> {
        let state = |state| quote(&layout::state_column(self.model, id, state));
        match &self.model.measure(id).kind {
            MeasureKind::Aggregate { agg: AggKind::Avg, .. } => {
                vec![state(StateColumn::Sum), state(StateColumn::Count)]
            }
            _ => vec![quote(&layout::measure_column(self.model, id))],
        }
    }

    /// The value of a window: states of groups merged, or rows aggregated. `over` follows every aggregate.
    fn window_value(&self, id: MeasureId, raw: bool, over: &str) -> String {
        let column = |state| format!("\"base\".{}", quote(&layout::state_column(self.model, id, state)));
        let value = format!("\"base\".{}", quote(&layout::measure_column(self.model, id)));
        let agg = match &self.model.measure(id).kind {
            MeasureKind::Aggregate { agg, .. } => *agg,
            _ => AggKind::Max,
        };
        match (agg, raw) {
            (agg, true) => aggregate(agg, &value),
            (AggKind::Count, false) => format!("CAST(exact_sum({value}){over} AS BIGINT)"),
            (AggKind::Sum, false) => format!("exact_sum({value}){over}"),
            (AggKind::Min, false) => format!("min({value}){over}"),
            (AggKind::Avg, false) => average(
                &format!("exact_sum({}){over}", column(StateColumn::Sum)),
                &format!("exact_sum({}){over}", column(StateColumn::Count)),
            ),
            (AggKind::Max, false) => format!("max({value}){over}"),
            (AggKind::CountDistinct, false) => format!("distinct_count({value}){over}"),
            (AggKind::CountDistinctApprox, false) => format!("hll_count({value}){over}"),
        }
    }
}

fn plus(sql: &str, by: Interval) -> String {
    if by == Interval::ZERO { sql.to_owned() } else { format!("{sql} + {}", interval(by)) }
}

/// How a window grows from bucket to bucket; none when rows leave it.
fn growing(series: Series, window: RollingWindow) -> Option<Growing> {
    let (from, to) = ("\"series\".\"date_from\"", "\"series\".\"date_to\"");
    let plain = Growing { edge: to.to_owned(), inclusive: true, forward: true, period: None, everything: false };
    match window {
        RollingWindow::ToDate(period) => match series.grain {
            // Every bucket lies in one period.
            Grain::Standard(grain) if grain.serves(period) => Some(Growing { period: Some(period.as_str()), ..plain }),
            Grain::Standard(_) | Grain::Custom(_) => None,
        },
        RollingWindow::Fixed { trailing, leading, offset } => {
            let (at, at_end) = match offset {
                WindowOffset::End => (to, true),
                WindowOffset::Start => (from, false),
            };
            match (trailing, leading) {
                (Extent::Unbounded, Extent::Unbounded) => Some(Growing { everything: true, ..plain }),
                (Extent::Unbounded, Extent::Interval(by, _)) => {
                    Some(Growing { edge: plus(at, by), inclusive: at_end, ..plain })
                }
                (Extent::Interval(by, _), Extent::Unbounded) => {
                    Some(Growing { edge: plus(at, by.negated()), inclusive: !at_end, forward: false, ..plain })
                }
                (Extent::Interval(..), Extent::Interval(..)) => None,
            }
        }
    }
}

/// How much earlier and later than a row the buckets may lie whose windows hold it; none when they are a good part of
/// the series, or nobody knows.
fn near(buckets: &Buckets, window: RollingWindow, range: SeriesRange) -> Option<(Interval, Interval)> {
    let SeriesRange::Given(range) = range else { return None };
    let (before, after) = match window {
        RollingWindow::ToDate(period) => (Interval::ZERO, Interval::of(period)),
        RollingWindow::Fixed {
            trailing: Extent::Interval(trailing, _), leading: Extent::Interval(leading, _), ..
        } => (leading.negated(), trailing),
        RollingWindow::Fixed { .. } => return None,
    };
    let wider = |by: Interval, slack: Interval| {
        let slack = if by.months == 0 { Interval::ZERO } else { slack };
        Interval { months: by.months, micros: by.micros.saturating_add(slack.micros) }
    };
    let (before, after) = (wider(before, MONTH_ENDS.negated()), wider(after, MONTH_ENDS));
    let length = after.approximate_micros().saturating_sub(before.approximate_micros());
    let step = buckets.bins.step.approximate_micros().max(1);
    let most = range.end.saturating_sub(range.start) / step / COMPARISONS;
    (length / step < most).then_some((before, after))
}

/// Which times belong to a bucket's window; every one when it is empty.
fn predicate(time: &str, raw: bool, window: RollingWindow) -> Vec<String> {
    // Ends of buckets are milliseconds; a row within the last one belongs to the bucket.
    let time = if raw { format!("date_trunc('millisecond', {time})") } else { time.to_owned() };
    let (from, to) = ("\"series\".\"date_from\"", "\"series\".\"date_to\"");
    let mut conditions = Vec::new();
    match window {
        RollingWindow::ToDate(granularity) => {
            conditions.push(format!("{time} >= date_trunc('{granularity}', {from})"));
            conditions.push(format!("{time} <= {to}"));
        }
        RollingWindow::Fixed { trailing, leading, offset } => {
            let (at, after, before) = match offset {
                WindowOffset::End => (to, ">", "<="),
                WindowOffset::Start => (from, ">=", "<"),
            };
            if let Extent::Interval(by, _) = trailing {
                conditions.push(format!("{time} {after} {at} - {}", interval(by)));
            }
            if let Extent::Interval(by, _) = leading {
                conditions.push(format!("{time} {before} {at} + {}", interval(by)));
            }
        }
    }
    conditions
}
