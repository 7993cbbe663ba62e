//! `quarry partitions --columns`: what takes the space of a table. Sets of distinct values are as large as the values are
//! many; this is where it shows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;

use anyhow::Context as _;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use quarry_storage::{Inspection, TableId};
use serde_json::{Value, json};

use super::{print_table, rollup_of, size};
use crate::engine::functions::states::STATE_KEY;

/// A stored column of a table.
#[derive(Debug, Default)]
struct Column {
    /// The kind of a state, or the type of plain values.
    stored_as: String,
    size_bytes: u64,
}

/// Prints the columns of the tables, in the order in which they are stored.
pub(super) fn print(store: &Inspection, tables: &[TableId], as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut rows = vec![["TABLE", "COLUMN", "STORED AS", "SIZE", "SHARE"].map(str::to_owned)];
    let mut objects: Vec<Value> = Vec::new();
    for table in tables {
        let columns = columns_of(store, table)?;
        let total: u64 = columns.values().map(|(_, column)| column.size_bytes).sum();
        let mut columns: Vec<(String, (usize, Column))> = columns.into_iter().collect();
        columns.sort_by_key(|(_, (position, _))| *position);
        for (name, (_, column)) in columns {
            let Column { stored_as, size_bytes } = column;
            let share = format!("{} %", (size_bytes * 100).checked_div(total).unwrap_or_default());
            rows.push([table.to_string(), name.clone(), stored_as.clone(), size(size_bytes), share]);
            objects.push(json!({
                "table": table.as_str(),
                "rollup": rollup_of(table),
                "column": name,
                "storedAs": stored_as,
                "bytes": size_bytes,
            }));
        }
    }
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(&objects)?)?;
        return Ok(());
    }
    print_table(&mut out, &rows)
}

/// By name, each with its place.
fn columns_of(store: &Inspection, table: &TableId) -> anyhow::Result<BTreeMap<String, (usize, Column)>> {
    let mut found: BTreeMap<String, (usize, Column)> = BTreeMap::new();
    let live = store.snapshot().table(table).into_iter().flat_map(|table| table.partitions.values());
    for partition in live.filter(|partition| partition.path.is_file()) {
        let file = File::open(&partition.path).with_context(|| partition.path.display().to_string())?;
        let footer = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default())
            .with_context(|| format!("{}: run quarry fsck", partition.path.display()))?;
        for (position, field) in footer.schema().fields().iter().enumerate() {
            let stored_as = field.metadata().get(STATE_KEY).cloned().unwrap_or_else(|| field.data_type().to_string());
            let (_, column) = found.entry(field.name().clone()).or_insert_with(|| (position, Column::default()));
            column.stored_as = stored_as;
        }
        for chunk in footer.metadata().row_groups().iter().flat_map(|group| group.columns()) {
            let root = chunk.column_path().parts().first().map(String::as_str).unwrap_or_default();
            if let Some((_, column)) = found.get_mut(root) {
                column.size_bytes += u64::try_from(chunk.compressed_size()).unwrap_or_default();
            }
        }
    }
    Ok(found)
}
