//! Writes source tables as Parquet files.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, RecordBatch, TimestampMicrosecondArray};
use parquet::arrow::ArrowWriter;

/// Microseconds of a second.
pub(crate) const SECOND: i64 = 1_000_000;
/// Microseconds of a day of 24 hours.
pub(crate) const DAY: i64 = 86_400 * SECOND;

/// UTC microseconds of `2024-01-31T10:00:00` or `2024-01-31`.
pub(crate) fn micros(text: &str) -> i64 {
    let text = if text.len() == 10 { format!("{text}T00:00:00") } else { text.to_owned() };
    quarry::time::to_micros(text.parse().unwrap_or_else(|error| panic!("{text}: {error}")))
}

/// Timestamps without zone, as sources have them.
pub(crate) fn timestamps(values: Vec<Option<i64>>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values))
}

/// `DECIMAL(12, 2)` from hundredths.
pub(crate) fn money(hundredths: Vec<Option<i64>>) -> ArrayRef {
    let values = hundredths.into_iter().map(|value| value.map(i128::from)).collect::<Decimal128Array>();
    Arc::new(values.with_precision_and_scale(12, 2).expect("12 digits are enough for test data"))
}

/// Writes `data/TABLE.parquet`, all columns nullable; an existing file is replaced by a rename, so that a reader
/// sees the old rows or the new.
pub(crate) fn write_table(project: &Path, table: &str, columns: Vec<(&str, ArrayRef)>) {
    let columns = columns.into_iter().map(|(name, values)| (name, values, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length");
    let dir = project.join("data");
    fs::create_dir_all(&dir).expect("the folder can be created");
    let path = dir.join(format!("{table}.parquet"));
    // Not in `data/`, where it would be a table for a moment.
    let unfinished = project.join(format!("{table}.unfinished"));
    let file = File::create(&unfinished).expect("the file can be created");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a plain schema");
    writer.write(&batch).expect("the rows can be written");
    writer.close().expect("the file can be finished");
    fs::rename(&unfinished, &path).expect("one folder, one file system");
}
