//! Rollup = source? Reads a published partition, asks the source the same question again, and compares row by row.
//!
//! The source may have changed since the build: then the difference is one of age, which looks the same.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Float64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use quarry_storage::{Bounds, Partition, PartitionKey, StorageError, TableId};

use super::build::BuildError;
use super::copies::copied_rows;
use super::planning::{self, Target, find_source};
use super::{RefreshError, Refresher, Selection};
use crate::engine::functions::states::{STATE_KEY, state_difference};
use crate::engine::{Batches, EngineError};
use crate::model::{Model, PreaggId, PreaggKind};
use crate::names::MemberPath;
use crate::preagg::indexes::sort_columns;
use crate::preagg::partition::is_selected;
use crate::query::QueryError;
use crate::query::lower::CubeTables;
use crate::tasks::blocking;

/// Most differences that are told of one partition; all are counted.
const MOST_TOLD: usize = 10;
/// Sums of floats depend on the order of their terms.
const TOLERANCE: f64 = 1e-9;

/// A published partition.
#[derive(Debug, Clone)]
pub struct Stored {
    target: Target,
    partition: Arc<Partition>,
}

impl Stored {
    /// `cube.rollup`.
    pub fn preagg(&self) -> &str {
        &self.target.path
    }

    /// The zone's name.
    pub fn timezone(&self) -> &'static str {
        self.target.zone.name()
    }

    /// In local time; none for an unpartitioned rollup.
    pub fn bucket(&self) -> Option<Bounds> {
        self.partition.bucket
    }
}

/// A group whose stored value is not the source's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `column=value, …` of the stored dimensions and times.
    pub group: String,
    /// The column of the measure; none when the whole row is on one side only.
    pub measure: Option<String>,
    /// As stored; none when there is no such row.
    pub stored: Option<String>,
    /// As the source says; none when there is no such row.
    pub source: Option<String>,
}

/// What comparing a partition gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// Rows compared.
    pub rows: usize,
    /// The first differences, by group.
    pub differences: Vec<Difference>,
    /// How many there are.
    pub differing: usize,
}

impl Refresher {
    /// The published partitions that a selection means; of each rollup and zone at most `sample`, evenly spread and
    /// with the newest among them.
    ///
    /// # Errors
    /// See [`RefreshError`]; among others, nothing that was selected is published.
    pub fn published(&self, selection: &Selection, sample: Option<usize>) -> Result<Vec<Stored>, RefreshError> {
        let rollups = (self.inner.parts.rollups)();
        let zones = if selection.zones.is_empty() { &self.inner.options.zones } else { &selection.zones };
        let snapshot = self.inner.parts.store.snapshot();
        let mut found = Vec::new();
        // What has no partitions of its own is as right as what it is made of.
        let parts = selection.preaggs.iter().flat_map(|name| parts_of(rollups.model(), name));
        let selection = &Selection { preaggs: parts.collect(), ..selection.clone() };
        for target in planning::targets(&rollups, selection, zones)? {
            let Some(table) = snapshot.table(&target.table) else { continue };
            let selected = table.partitions.values().filter(|part| is_selected(part.bucket, selection.range));
            let selected: Vec<_> = selected.cloned().collect();
            for partition in spread(selected, sample) {
                found.push(Stored { target: target.clone(), partition });
            }
        }
        if found.is_empty() { Err(RefreshError::NothingSelected) } else { Ok(found) }
    }

    /// Compares one partition with its source, and its copies for indexes with it.
    ///
    /// # Errors
    /// The source failed. `RefreshError::Storage`: the partition's file is missing or damaged.
    pub async fn verify(&self, stored: &Stored) -> Result<Verification, RefreshError> {
        let parts = &self.inner.parts;
        let rollups = (parts.rollups)();
        let Stored { target, partition } = stored;
        let source = find_source(parts, &target.data_source)?;
        check_file(&target.table, partition).await?;
        // What stands for cubes' own SQL in a build is itself held against the source, as a rollup of its own.
        let statement = rollups.build_sql(target.preagg, target.zone, partition.bucket, &CubeTables::new())?;
        let is_grouped = rollups.model().preagg(target.preagg).kind != PreaggKind::OriginalSql;
        let keys = sort_columns(rollups.model(), target.preagg);
        let fresh = source.collect(statement).await.map_err(QueryError::from)?;
        let mut found = compare_with(Arc::clone(partition), fresh, is_grouped.then(|| keys.clone())).await?;
        let snapshot = parts.store.snapshot();
        for copy in rollups.copies(target.preagg) {
            let Some(copied) = copy.find(&snapshot, &target.table, std::slice::from_ref(partition)) else { continue };
            let made = copied_rows(source, rollups.model(), copy, partition).await?;
            let keys = if copy.states.is_some() { copy.sort_by.clone() } else { keys.clone() };
            for one in copied {
                check_file(&copy.table(&target.table), &one).await?;
                let compared = compare_with(one, made.clone(), is_grouped.then(|| keys.clone())).await?;
                found.add_copy(&copy.index, compared);
            }
        }
        Ok(found)
    }
}

impl Verification {
    /// Adds what comparing a copy gave.
    fn add_copy(&mut self, index: &str, compared: Self) {
        let room = MOST_TOLD.saturating_sub(self.differences.len());
        let told = compared.differences.into_iter().take(room);
        self.differences.extend(told.map(|difference| Difference {
            group: format!("{} (copy for the index {index})", difference.group),
            ..difference
        }));
        self.differing += compared.differing;
    }
}

/// Compares a stored partition with the rows that it should have; `keys` tell them apart, all columns where none.
async fn compare_with(
    partition: Arc<Partition>,
    fresh: Batches,
    keys: Option<Vec<String>>,
) -> Result<Verification, RefreshError> {
    let compared = blocking(move || -> Result<Verification, BuildError> {
        let kept = read(&partition)?;
        let fresh = concat_batches(&fresh.schema, &fresh.batches)?;
        let fresh = conform(&fresh, &kept.schema())?;
        let all = || kept.schema().fields().iter().map(|field| field.name().clone()).collect();
        Ok(compare(&kept, &fresh, &keys.unwrap_or_else(all))?)
    });
    compared.await.map_err(|error| QueryError::Engine(EngineError::Execution(error.to_string())).into())
}

/// The file is what was written: else there is nothing to compare.
async fn check_file(table: &TableId, partition: &Arc<Partition>) -> Result<(), RefreshError> {
    let read = Arc::clone(partition);
    if blocking(move || read.is_intact()).await? {
        return Ok(());
    }
    let (path, key) = (partition.path.clone(), PartitionKey { table: table.clone(), bucket: partition.bucket });
    let fault = "its bytes are not those that were written".to_owned();
    Err(StorageError::CorruptFile { path, partition: key, fault }.into())
}

/// The stored rollups that a definition is made of; the name itself for one that is stored, or is not there.
fn parts_of(model: &Model, name: &str) -> Vec<String> {
    let found = MemberPath::parse(name).ok().and_then(|path| model.find_preagg(&path));
    match found.map(|id| &model.preagg(id).kind) {
        Some(PreaggKind::Join { rollups } | PreaggKind::Lambda { rollups, .. }) => {
            let named = |id: &PreaggId| format!("{}.{}", model.cube(id.cube).name, model.preagg(*id).name);
            rollups.iter().map(named).collect()
        }
        Some(PreaggKind::Rollup | PreaggKind::OriginalSql) | None => vec![name.to_owned()],
    }
}

/// At most `most` of these, evenly spread, the last one among them.
fn spread<T>(all: Vec<T>, most: Option<usize>) -> Vec<T> {
    let (count, most) = (all.len(), most.unwrap_or(all.len()));
    let is_taken = |position: usize| (position + 1) * most / count > position * most / count;
    all.into_iter()
        .enumerate()
        .filter(|(position, _)| most >= count || is_taken(*position))
        .map(|(_, one)| one)
        .collect()
}

fn read(partition: &Partition) -> Result<RecordBatch, BuildError> {
    let fault = |error: &dyn std::fmt::Display| {
        BuildError::Engine(EngineError::Execution(format!("{}: {error}", partition.path.display())))
    };
    let file = File::open(&partition.path).map_err(|error| fault(&error))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| fault(&error))?;
    let schema = Arc::clone(reader.schema());
    let batches = reader.build().map_err(|error| fault(&error))?.collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(&schema, &batches)?)
}

/// The source's rows in the columns and types of the stored ones.
fn conform(fresh: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, BuildError> {
    let column = |field: &Arc<arrow::datatypes::Field>| -> Result<ArrayRef, BuildError> {
        let column = fresh.column_by_name(field.name());
        let column = column.ok_or_else(|| BuildError::MissingColumn(field.name().clone()))?;
        Ok(cast(column, field.data_type())?)
    };
    let columns = schema.fields().iter().map(column).collect::<Result<_, _>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// Both have one schema; `keys` are the columns that tell rows apart.
fn compare(kept: &RecordBatch, fresh: &RecordBatch, keys: &[String]) -> Result<Verification, ArrowError> {
    let schema = kept.schema();
    let is_key = |name: &String| keys.contains(name);
    let key_fields = schema.fields().iter().filter(|field| is_key(field.name()));
    let converter = RowConverter::new(key_fields.map(|field| SortField::new(field.data_type().clone())).collect())?;
    let columns_of = |batch: &RecordBatch| -> Vec<ArrayRef> {
        let columns = schema.fields().iter().zip(batch.columns());
        columns.filter(|(field, _)| is_key(field.name())).map(|(_, column)| Arc::clone(column)).collect()
    };
    let rows_of = |batch: &RecordBatch| {
        // Without key columns there is one row, the total.
        let columns = columns_of(batch);
        if columns.is_empty() { Ok(None) } else { converter.convert_columns(&columns).map(Some) }
    };
    let (kept_rows, fresh_rows) = (rows_of(kept)?, rows_of(fresh)?);
    // Where keys are all columns, rows may be equal.
    let mut unseen: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for row in (0..fresh.num_rows()).rev() {
        let key = fresh_rows.as_ref().map_or(&[][..], |rows| rows.row(row).data());
        unseen.entry(key).or_default().push(row);
    }
    let measures: Vec<usize> = (0..schema.fields().len()).filter(|i| !is_key(schema.field(*i).name())).collect();
    let mut found = Verification { rows: kept.num_rows(), ..Verification::default() };
    let mut tell = |difference: Difference| {
        found.differing += 1;
        if found.differences.len() < MOST_TOLD {
            found.differences.push(difference);
        }
    };
    for row in 0..kept.num_rows() {
        let key = kept_rows.as_ref().map_or(&[][..], |rows| rows.row(row).data());
        let Some(other) = unseen.get_mut(key).and_then(Vec::pop) else {
            let (group, stored) = (group_of(kept, keys, row)?, Some("a row".to_owned()));
            tell(Difference { group, measure: None, stored, source: None });
            continue;
        };
        for measure in &measures {
            let (stored, source) = ((kept.column(*measure), row), (fresh.column(*measure), other));
            if let Some([stored, source]) = difference(schema.field(*measure), stored, source)? {
                tell(Difference {
                    group: group_of(kept, keys, row)?,
                    measure: Some(schema.field(*measure).name().clone()),
                    stored: Some(stored),
                    source: Some(source),
                });
            }
        }
    }
    let mut missing: Vec<usize> = unseen.into_values().flatten().collect();
    missing.sort_unstable();
    for row in missing {
        let (group, source) = (group_of(fresh, keys, row)?, Some("a row".to_owned()));
        tell(Difference { group, measure: None, stored: None, source });
    }
    Ok(found)
}

/// How two values of a column differ; none when they are the same.
fn difference(
    field: &Field,
    (stored, row): (&ArrayRef, usize),
    (source, other): (&ArrayRef, usize),
) -> Result<Option<[String; 2]>, ArrowError> {
    let are_there = stored.is_valid(row) && source.is_valid(other);
    if are_there && field.metadata().contains_key(STATE_KEY) {
        let state = |column: &ArrayRef, row: usize| -> Result<Vec<u8>, ArrowError> {
            let column = cast(column, &DataType::LargeBinary)?;
            Ok(column.as_binary::<i64>().value(row).to_vec())
        };
        let (stored, source) = (state(&stored.slice(row, 1), 0)?, state(&source.slice(other, 1), 0)?);
        return state_difference(&stored, &source).map_err(ArrowError::ComputeError);
    }
    if are_there && field.data_type() == &DataType::Float64 {
        let (a, b) =
            (stored.as_primitive::<Float64Type>().value(row), source.as_primitive::<Float64Type>().value(other));
        if a.total_cmp(&b).is_eq() || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()) {
            return Ok(None);
        }
    }
    let told = [shown(stored, row)?, shown(source, other)?];
    let is_same = stored.is_null(row) == source.is_null(other) && told[0] == told[1];
    Ok((!is_same).then_some(told))
}

fn shown(column: &ArrayRef, row: usize) -> Result<String, ArrowError> {
    let options = FormatOptions::default().with_null("null");
    Ok(ArrayFormatter::try_new(column, &options)?.value(row).to_string())
}

fn group_of(batch: &RecordBatch, keys: &[String], row: usize) -> Result<String, ArrowError> {
    let mut parts = Vec::new();
    for key in keys {
        if let Some(column) = batch.column_by_name(key) {
            parts.push(format!("{key}={}", shown(column, row)?));
        }
    }
    Ok(if parts.is_empty() { "the total".to_owned() } else { parts.join(", ") })
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringArray};

    use super::*;

    fn rows(rows: &[(Option<&str>, i64, f64)]) -> RecordBatch {
        let columns: [(&str, ArrayRef); 3] = [
            ("city", Arc::new(StringArray::from(rows.iter().map(|row| row.0).collect::<Vec<_>>()))),
            ("count", Arc::new(Int64Array::from(rows.iter().map(|row| row.1).collect::<Vec<_>>()))),
            ("mean", Arc::new(Float64Array::from(rows.iter().map(|row| row.2).collect::<Vec<_>>()))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).expect("columns")
    }

    /// Group, measure, as stored, as the source says.
    type Told<'a> = (&'a str, Option<&'a str>, Option<&'a str>, Option<&'a str>);

    #[track_caller]
    fn check(kept: &RecordBatch, fresh: &RecordBatch, expected: &[Told<'_>]) {
        let fresh = conform(fresh, &kept.schema()).expect("the same columns");
        let found = compare(kept, &fresh, &["city".to_owned()]).expect("comparable");
        let told = |d: &Difference| (d.group.clone(), d.measure.clone(), d.stored.clone(), d.source.clone());
        let own = |text: Option<&str>| text.map(str::to_owned);
        let expected: Vec<_> =
            expected.iter().map(|(g, m, a, b)| ((*g).to_owned(), own(*m), own(*a), own(*b))).collect();
        assert_eq!(found.differences.iter().map(told).collect::<Vec<_>>(), expected);
        assert_eq!(found.differing, expected.len());
    }

    #[test]
    fn what_differs_in_a_copy_names_its_index() {
        let kept = rows(&[(Some("Rome"), 1, 0.5), (Some("Bonn"), 2, 1.0)]);
        let compare = |kept: &RecordBatch| compare(kept, &rows(&[(Some("Rome"), 3, 0.5)]), &["city".to_owned()]);
        let mut found = Verification { rows: 9, ..Verification::default() };
        found.add_copy("by_city", compare(&kept).expect("comparable"));
        let told: Vec<&str> = found.differences.iter().map(|difference| &difference.group[..]).collect();
        assert_eq!(told, ["city=Rome (copy for the index by_city)", "city=Bonn (copy for the index by_city)"]);
        assert_eq!((found.rows, found.differing), (9, 2));
    }

    #[test]
    fn the_order_of_rows_and_the_last_digits_of_floats_do_not_matter() {
        let kept = rows(&[(Some("Rome"), 1, 0.1 + 0.2), (None, 2, 1.0)]);
        check(&kept, &rows(&[(None, 2, 1.0), (Some("Rome"), 1, 0.3)]), &[]);
    }

    #[test]
    fn a_difference_names_group_measure_and_both_values() {
        let kept = rows(&[(Some("Rome"), 1, 0.5), (None, 2, 1.0)]);
        let fresh = rows(&[(Some("Rome"), 3, 0.5), (None, 2, 1.1)]);
        check(
            &kept,
            &fresh,
            &[
                ("city=Rome", Some("count"), Some("1"), Some("3")),
                ("city=null", Some("mean"), Some("1.0"), Some("1.1")),
            ],
        );
    }

    #[test]
    fn rows_on_one_side_only_are_differences() {
        let (kept, fresh) = (rows(&[(Some("Rome"), 1, 0.5)]), rows(&[(Some("Bonn"), 1, 0.5)]));
        check(&kept, &fresh, &[("city=Rome", None, Some("a row"), None), ("city=Bonn", None, None, Some("a row"))]);
    }

    #[test]
    fn rows_that_are_not_grouped_are_counted() {
        let all: Vec<String> = ["city", "count", "mean"].map(str::to_owned).into();
        let rome = (Some("Rome"), 1, 0.5);
        let (kept, fresh) = (rows(&[rome, (None, 2, 1.0), rome, rome]), rows(&[rome, rome, (None, 2, 1.0)]));
        assert_eq!(compare(&kept, &kept.slice(0, 4), &all).expect("comparable").differing, 0);
        let found = compare(&kept, &fresh, &all).expect("comparable");
        assert_eq!((found.rows, found.differing), (4, 1));
        let told = &found.differences[0];
        assert_eq!((told.group.as_str(), told.stored.as_deref()), ("city=Rome, count=1, mean=0.5", Some("a row")));
        assert_eq!(compare(&fresh, &kept, &all).expect("comparable").differences[0].source.as_deref(), Some("a row"));
    }

    #[test]
    fn a_sample_is_spread_and_holds_the_last() {
        assert_eq!(spread((0..10).collect(), Some(3)), [3, 6, 9]);
        assert_eq!(spread((0..3).collect(), Some(5)), [0, 1, 2]);
        assert_eq!(spread((0..3).collect(), None), [0, 1, 2]);
        assert_eq!(spread(Vec::<u8>::new(), Some(2)), [0_u8; 0]);
        assert_eq!(spread((0..4).collect(), Some(1)), [3]);
    }
}
