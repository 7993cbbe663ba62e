//! Stored rows of several tables as one relation with the columns of a definition: put one after the other
//! (lambdas, and what the source adds), or joined (`pre-aggregations.md` §11, §12).

use super::quote;
use crate::model::rollup_join::RollupJoin;
use crate::model::{DimensionId, MemberId, Model, Part, Preagg, PreaggId, PreaggTime};
use crate::preagg::layout::{self, states};
use crate::query::members::{resolve_alias, resolve_segment};

/// What stands for the rows of a definition after FROM.
const ALIAS: &str = "\"rollup\"";

/// Name of the stored column of buckets of a time.
fn time_column(model: &Model, time: PreaggTime) -> String {
    layout::time_column(model, time.dimension, model.dimension(time.dimension).grain_name(time.grain))
}

/// The stored columns of a definition: dimensions, segments, times, states of measures.
pub fn stored_columns(model: &Model, preagg: &Preagg) -> Vec<String> {
    let dimensions = preagg.dimensions.iter().map(|id| layout::dimension_column(model, *id));
    let segments = preagg.segments.iter().map(|id| layout::segment_column(model, *id));
    let times = preagg.time.iter().chain(&preagg.more_times).map(|time| time_column(model, *time));
    let measures = preagg.measures.iter().flat_map(|id| {
        states(&model.measure(*id).kind).iter().map(move |state| layout::state_column(model, *id, *state))
    });
    dimensions.chain(segments).chain(times).chain(measures).collect()
}

/// The rows of some tables one after the other, as columns of `whole`. A table is given with the definition whose
/// columns it has: as many as `whole` has, in its order.
pub fn union_table(model: &Model, whole: &Preagg, parts: &[(&Preagg, String)]) -> String {
    let wanted = stored_columns(model, whole);
    let select = |(preagg, table): &(&Preagg, String)| {
        let own = stored_columns(model, preagg);
        let columns = own.iter().zip(&wanted).map(|(own, wanted)| {
            if own == wanted { quote(own) } else { format!("{} AS {}", quote(own), quote(wanted)) }
        });
        format!("SELECT {} FROM {}", columns.collect::<Vec<_>>().join(", "), quote(table))
    };
    let parts: Vec<String> = parts.iter().map(select).collect();
    format!("({}) AS {ALIAS}", parts.join(" UNION ALL "))
}

/// The rows of some rollups joined, as columns of `whole`; `tables` hold them in the order of the steps.
pub fn join_table(model: &Model, whole: &Preagg, join: &RollupJoin, tables: &[String]) -> String {
    let side = |position: usize| quote(&format!("side_{position}"));
    let find = |column: &dyn Fn(&Preagg) -> Option<String>| {
        let found = join.steps.iter().enumerate().find_map(|(position, step)| {
            let column = column(model.preagg(step.rollup))?;
            Some(format!("{}.{}", side(position), quote(&column)))
        });
        found.unwrap_or_else(|| "NULL".to_owned())
    };
    let mut columns: Vec<(String, String)> = Vec::new();
    for id in &whole.dimensions {
        let sql = find(&|rollup| stored_dimension(model, rollup, *id));
        columns.push((sql, layout::dimension_column(model, *id)));
    }
    for id in &whole.segments {
        let wanted = resolve_segment(model, *id);
        let sql = find(&|rollup| {
            let stored = rollup.segments.iter().find(|stored| resolve_segment(model, **stored) == wanted)?;
            Some(layout::segment_column(model, *stored))
        });
        columns.push((sql, layout::segment_column(model, *id)));
    }
    for time in whole.time.iter().chain(&whole.more_times) {
        let sql = find(&|rollup| stored_time(model, rollup, *time).map(|time| time_column(model, time)));
        columns.push((sql, time_column(model, *time)));
    }
    for id in &whole.measures {
        for state in states(&model.measure(*id).kind) {
            let column = layout::state_column(model, *id, *state);
            let sql = find(&|rollup| rollup.measures.contains(id).then(|| column.clone()));
            columns.push((sql, column));
        }
    }
    let columns: Vec<String> =
        columns.into_iter().map(|(sql, column)| format!("{sql} AS {}", quote(&column))).collect();
    let mut from = String::new();
    for (position, (step, table)) in join.steps.iter().zip(tables).enumerate() {
        let table = format!("{} AS {}", quote(table), side(position));
        match step.edge {
            None => from.push_str(&table),
            Some((edge, left)) => {
                let sql = &model.cube(edge.from).joins[edge.join].sql;
                let column = |id: DimensionId| {
                    let (position, rollup) =
                        if id.cube == edge.to { (position, step.rollup) } else { (left, join.steps[left].rollup) };
                    key_column(model, rollup, id).map(|column| format!("{}.{column}", side(position)))
                };
                let on = sql.parts.iter().map(|part| match part {
                    Part::Text(text) => text.clone(),
                    Part::Member(MemberId::Dimension(id)) => column(*id).unwrap_or_else(|| "NULL".to_owned()),
                    _ => String::new(),
                });
                from.push_str(&format!(" LEFT JOIN {table} ON ({})", on.collect::<String>()));
            }
        }
    }
    format!("(SELECT {} FROM {from}) AS {ALIAS}", columns.join(", "))
}

fn key_column(model: &Model, rollup: PreaggId, id: DimensionId) -> Option<String> {
    stored_dimension(model, model.preagg(rollup), id).map(|column| quote(&column))
}

fn stored_dimension(model: &Model, rollup: &Preagg, id: DimensionId) -> Option<String> {
    let wanted = resolve_alias(model, id);
    let stored = rollup.dimensions.iter().find(|stored| resolve_alias(model, **stored) == wanted)?;
    Some(layout::dimension_column(model, *stored))
}

/// The time of a rollup that has the same buckets.
pub fn stored_time(model: &Model, rollup: &Preagg, wanted: PreaggTime) -> Option<PreaggTime> {
    let dimension = resolve_alias(model, wanted.dimension);
    let mut times = rollup.time.iter().chain(&rollup.more_times);
    times.find(|time| resolve_alias(model, time.dimension) == dimension && time.grain == wanted.grain).copied()
}
