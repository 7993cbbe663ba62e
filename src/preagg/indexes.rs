//! The orders that a rollup's rows are kept in: that of its files, and further copies where they are asked for
//! (`pre-aggregations.md` §2.4).
//!
//! A copy is a table of its own, which holds the rows of one partition in each of its partitions: sorted in another
//! way, or put together by fewer columns. It says of which file it is a copy, and serves while that file is live.

use std::sync::Arc;

use quarry_storage::{FileId, Partition, Snapshot, TableId};

use super::layout::{self, StateColumn};
use crate::model::{MeasureId, Model, Preagg, PreaggId, PreaggIndex, PreaggKind};

/// A further copy of a rollup's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexCopy {
    /// Name of the index that it is declared by.
    pub index: String,
    /// Columns that its rows are sorted by, strongest first.
    pub sort_by: Vec<String>,
    /// The states that it holds beside the columns of `sort_by`, which its rows are grouped by; none for one that holds
    /// all rows and columns.
    pub states: Option<Vec<(MeasureId, StateColumn)>>,
}

impl IndexCopy {
    /// The names of its columns; none for all of the rollup's.
    pub fn columns(&self, model: &Model) -> Option<Vec<String>> {
        let states = self.states.as_ref()?;
        let states = states.iter().map(|(measure, state)| layout::state_column(model, *measure, *state));
        Some(self.sort_by.iter().cloned().chain(states).collect())
    }

    /// The table of the copies of a stored table's partitions: `table.index-digest`.
    pub fn table(&self, of: &TableId) -> TableId {
        let definition = format!("{}\n{}", self.states.is_some(), self.sort_by.join("\n"));
        let digest = xxhash_rust::xxh3::xxh3_64(definition.as_bytes()) >> 32;
        let allowed = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_';
        let index: String = self.index.chars().filter(allowed).take(MOST_NAME).collect();
        let text = format!("{of}.{index}-{digest:08x}");
        TableId::new(&text).expect("the name of a table leaves room for letters and a digest")
    }

    /// The copies of partitions that serve in their place; none unless each has one.
    pub fn find(&self, snapshot: &Snapshot, table: &TableId, of: &[Arc<Partition>]) -> Option<Vec<Arc<Partition>>> {
        let copies = snapshot.table(&self.table(table))?;
        let copy_of = |partition: &Arc<Partition>| {
            let start = partition.bucket.map_or(i64::MIN, |bucket| bucket.start);
            copies.partitions.get(&start).filter(|copy| is_of(copy, partition)).cloned()
        };
        of.iter().map(copy_of).collect()
    }
}

/// Letters of an index in the name of its table.
const MOST_NAME: usize = 10;

/// What a copy says in the place of refresh keys: the file that it was made from.
pub fn mark_of(file: FileId) -> String {
    file.to_string()
}

/// Whether a partition of copies holds the rows of a partition as it is.
pub fn is_of(copy: &Partition, partition: &Partition) -> bool {
    copy.bucket == partition.bucket && copy.refresh_key == mark_of(partition.file)
}

/// The table that a table holds copies of; none for one that holds rows of its own.
pub fn copied_table(table: &TableId) -> Option<TableId> {
    let (stem, variant) = table.as_str().rsplit_once('@')?;
    let (variant, _) = variant.split_once('.')?;
    TableId::new(&format!("{stem}@{variant}"))
}

/// The columns a rollup's files are sorted by: those of its first index; then dimensions first, time last, so
/// that a filter on a dimension skips pages; time is pruned by partition already (`performance.md` §5).
pub fn sort_columns(model: &Model, preagg: PreaggId) -> Vec<String> {
    let rollup = model.preagg(preagg);
    order(model, rollup, own_index(rollup).map_or(&[], |index| &index.columns))
}

/// The copies that a definition's further indexes ask for: one a sort order that the files do not have, and one a set
/// of columns of `type: aggregate`.
pub fn copies(model: &Model, preagg: PreaggId) -> Vec<IndexCopy> {
    let rollup = model.preagg(preagg);
    if !rollup.is_stored() {
        return Vec::new();
    }
    let (own, groups) = (sort_columns(model, preagg), group_columns(model, rollup));
    let mut found: Vec<IndexCopy> = Vec::new();
    for index in &rollup.indexes {
        // Of a cube's rows it is not known how they are put together.
        let is_grouped = index.aggregate && rollup.kind == PreaggKind::Rollup;
        let copy = if is_grouped {
            let sort_by = without_repeats(index.columns.iter().filter(|column| groups.contains(column)));
            IndexCopy { index: index.name.clone(), sort_by, states: Some(mergeable_states(model, rollup)) }
        } else {
            IndexCopy { index: index.name.clone(), sort_by: order(model, rollup, &index.columns), states: None }
        };
        let is_new = !found.iter().any(|known| known.sort_by == copy.sort_by && known.states == copy.states);
        let is_other = if is_grouped { !copy.sort_by.is_empty() } else { copy.sort_by != own };
        if is_new && is_other {
            found.push(copy);
        }
    }
    found
}

/// The index that decides the order of the files.
fn own_index(rollup: &Preagg) -> Option<&PreaggIndex> {
    rollup.indexes.iter().find(|index| !index.aggregate).or(rollup.indexes.first())
}

fn order(model: &Model, rollup: &Preagg, index: &[String]) -> Vec<String> {
    if rollup.kind == PreaggKind::OriginalSql {
        // Of a cube's rows nothing but these names is known.
        return index.to_vec();
    }
    let groups = group_columns(model, rollup);
    // An order of sums is of no use to anyone.
    without_repeats(index.iter().filter(|column| groups.contains(column)).chain(&groups))
}

fn without_repeats<'a>(columns: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for column in columns {
        if !found.contains(column) {
            found.push(column.clone());
        }
    }
    found
}

fn group_columns(model: &Model, rollup: &Preagg) -> Vec<String> {
    let dimensions = rollup.dimensions.iter().map(|id| layout::dimension_column(model, *id));
    let segments = rollup.segments.iter().map(|id| layout::segment_column(model, *id));
    let times = rollup.times().map(|time| layout::stored_time_column(model, time));
    dimensions.chain(segments).chain(times).collect()
}

/// All but finished values.
fn mergeable_states(model: &Model, rollup: &Preagg) -> Vec<(MeasureId, StateColumn)> {
    let of = |id: &'_ MeasureId| {
        let id = *id;
        layout::states(&model.measure(id).kind).iter().map(move |state| (id, *state))
    };
    rollup.measures.iter().flat_map(of).filter(|(_, state)| *state != StateColumn::Value).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::CompileContext;
    use crate::model::compile::compile_sources;
    use crate::names::MemberPath;

    /// The model with these indexes.
    fn model(indexes: &str) -> Model {
        let text = format!(
            "cubes:
  - name: sales
    sql_table: sales
    dimensions:
      - {{name: city, sql: city, type: string}}
      - {{name: kind, sql: kind, type: string}}
      - {{name: at, sql: at, type: time}}
    measures:
      - {{name: mean, sql: n, type: avg}}
      - {{name: total, sql: n, type: sum}}
      - {{name: rate, sql: \"max(n) - min(n)\", type: number}}
    pre_aggregations:
      - {{name: rows, type: original_sql, indexes: [{{name: a, columns: [x]}}, {{name: b, columns: [y], type: aggregate}}]}}
      - name: main
        measures: [mean, total, rate]
        dimensions: [city, kind]
        time_dimension: at
        granularity: day
        indexes: [{indexes}]
"
        );
        let compiled = compile_sources(&[(PathBuf::from("model/sales.yml"), text)], &CompileContext::default());
        compiled.unwrap_or_else(|faults| panic!("{faults:?}")).model
    }

    fn find(model: &Model, name: &str) -> PreaggId {
        model.find_preagg(&MemberPath::parse(name).expect("a path")).expect("it is defined")
    }

    #[track_caller]
    fn check(indexes: &str, own: &[&str], expected: &[(&str, &[&str])]) {
        let model = model(indexes);
        let main = find(&model, "sales.main");
        assert_eq!(sort_columns(&model, main), own);
        let found = copies(&model, main);
        let told: Vec<(&str, Vec<String>)> = found
            .iter()
            .map(|copy| (copy.index.as_str(), copy.columns(&model).unwrap_or_else(|| copy.sort_by.clone())))
            .collect();
        let expected: Vec<(&str, Vec<String>)> = expected
            .iter()
            .map(|(index, columns)| (*index, columns.iter().map(|column| (*column).to_owned()).collect()))
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn the_first_regular_index_is_the_order_of_the_files_and_the_others_are_copies() {
        let plain = ["sales__city", "sales__kind", "sales__at_day"];
        let by_kind = ["sales__kind", "sales__city", "sales__at_day"];
        check("", &plain, &[]);
        check("{name: a, columns: [kind]}", &by_kind, &[]);
        check("{name: a, columns: [city]}, {name: b, columns: [kind]}", &plain, &[("b", &by_kind)]);
        // One order is kept once, whatever it is called.
        check("{name: a, columns: [city]}, {name: b, columns: [city, kind]}", &plain, &[]);
        check(
            "{name: a, columns: [city]}, {name: b, columns: [kind]}, {name: c, columns: [kind]}",
            &plain,
            &[("b", &by_kind)],
        );
    }

    #[test]
    fn an_aggregate_index_holds_its_columns_and_all_states_that_can_be_merged() {
        let by_kind = ["sales__kind", "sales__city", "sales__at_day"];
        let grouped = ["sales__kind", "sales__mean__sum", "sales__mean__count", "sales__total"];
        check("{name: a, columns: [kind], type: aggregate}", &by_kind, &[("a", &grouped)]);
        check("{name: a, columns: [kind, total, kind], type: aggregate}", &by_kind, &[("a", &grouped)]);
        check("{name: a, columns: [total], type: aggregate}", &["sales__city", "sales__kind", "sales__at_day"], &[]);
        let model = model("");
        let rows = copies(&model, find(&model, "sales.rows"));
        assert_eq!(rows.iter().map(|copy| (&copy.index[..], &copy.states)).collect::<Vec<_>>(), [("b", &None)]);
    }

    #[test]
    fn tables_of_copies_are_told_from_others_and_fit_into_a_name() {
        let model = model("{name: a_very_long_name_of_an_index, columns: [city]}, {name: b, columns: [kind]}");
        let longest = format!("{}@America_Argentina_ComodRivadavia-0123456789abcdef", "x.".repeat(65));
        for table in ["sales.main@UTC-0123456789abcdef", &longest] {
            let table = TableId::new(table).expect("a name");
            assert_eq!(copied_table(&table), None);
            for copy in copies(&model, find(&model, "sales.main")) {
                assert_eq!(copied_table(&copy.table(&table)), Some(table.clone()));
                let other = IndexCopy { sort_by: vec!["sales__at_day".to_owned()], ..copy.clone() };
                assert_ne!(other.table(&table), copy.table(&table));
            }
        }
    }
}
