//! Partitions that are also kept in other orders, or put together by fewer columns: a scan reads the copy that gives
//! its rows with the least reading.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use quarry_storage::Partition;

use super::error::PartitionFileError;
use super::partition_table::{PartitionFile, PartitionTable};
use super::resident::Resident;

/// Partitions in one order.
#[derive(Debug, Clone)]
pub struct Sorted {
    /// The table, or the index that the copy is kept for.
    pub name: String,
    /// Columns that the rows of each file are sorted by, strongest first.
    pub sort_by: Vec<String>,
    /// The only columns, with rows put together by those of `sort_by`; none for all.
    pub columns: Option<Vec<String>>,
    /// The files.
    pub partitions: Vec<Arc<Partition>>,
}

/// A table whose rows are kept several times.
#[derive(Debug)]
pub struct IndexedTable {
    schema: SchemaRef,
    kept: Vec<Sorted>,
    resident: Resident,
}

impl Sorted {
    /// Rows of all its files.
    pub fn rows(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.rows).sum()
    }
}

impl IndexedTable {
    /// Over partitions with the columns of `schema` and copies of all of them, the partitions first. Where a copy has
    /// rows put together, the statement must do the same with whatever it reads.
    pub fn new(schema: SchemaRef, kept: Vec<Sorted>, resident: Resident) -> Self {
        Self { schema, kept, resident }
    }

    /// The first file that cannot be read to its end. Reads everything: for the moment after a failure.
    pub(super) fn find_broken_file(&self) -> Option<PartitionFileError> {
        self.kept.iter().find_map(|kept| self.file_table(kept).find_broken_file())
    }

    fn file_table(&self, kept: &Sorted) -> PartitionTable {
        PartitionTable::new(self.schema_of(kept), kept.partitions.iter().map(|one| PartitionFile::of(one)).collect())
    }

    /// The columns of a copy, as the table has them.
    fn schema_of(&self, kept: &Sorted) -> SchemaRef {
        let Some(columns) = &kept.columns else { return Arc::clone(&self.schema) };
        let fields = self.schema.fields().iter().filter(|field| columns.contains(field.name()));
        Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
    }

    /// What is read for these columns and conditions. Rows that are put together are fewer, of those the fewest win.
    /// Of orders the one that wins has the most leading columns that the conditions fix, then one that they bound.
    fn choose(&self, needed: &BTreeSet<&str>, filters: &[Expr]) -> Option<&Sorted> {
        let tests = Tests::of(filters);
        let mut best: Option<&Sorted> = None;
        for kept in &self.kept {
            let has_all = |columns: &Vec<String>| {
                // How many rows there are is what was put together.
                !needed.is_empty() && needed.iter().all(|name| columns.iter().any(|column| column == name))
            };
            if !kept.columns.as_ref().is_none_or(has_all) {
                continue;
            }
            let grade = |kept: &Sorted| {
                let fewer = kept.columns.as_ref().map(|_| Reverse(kept.rows()));
                (fewer, tests.fixed_and_bounded(&kept.sort_by))
            };
            if best.is_none_or(|best| grade(best) < grade(kept)) {
                best = Some(kept);
            }
        }
        best
    }
}

#[async_trait]
impl TableProvider for IndexedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted: Vec<&str> = match projection {
            Some(projection) => {
                projection.iter().map(|position| self.schema.field(*position).name().as_str()).collect()
            }
            None => self.schema.fields().iter().map(|field| field.name().as_str()).collect(),
        };
        let tested: Vec<&Column> = filters.iter().flat_map(Expr::column_refs).collect();
        let needed = wanted.iter().copied().chain(tested.iter().map(|column| column.name.as_str())).collect();
        let (Some(mut kept), Some(own)) = (self.choose(&needed, filters), self.kept.first()) else {
            return Err(DataFusionError::Internal("a table without partitions".to_owned()));
        };
        tracing::debug!(rows = kept.name, "reading");
        let mut resident = self.resident.table(&kept.partitions).await;
        if let (Err(error), false) = (&resident, std::ptr::eq(kept, own)) {
            // What it was made of is there.
            tracing::warn!(index = kept.name, %error, "a copy for an index cannot be read");
            kept = own;
            resident = self.resident.table(&kept.partitions).await;
        }
        let resident = resident.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let schema = self.schema_of(kept);
        // Rows of other types than the table has are converted where they are read from their files.
        let table: Arc<dyn TableProvider> = match resident.filter(|table| has_types(&table.schema(), &schema)) {
            Some(table) => table,
            None => Arc::new(self.file_table(kept)),
        };
        let positions = table.schema();
        let positions: Vec<usize> = wanted.iter().map(|name| positions.index_of(name)).collect::<Result<_, _>>()?;
        table.scan(state, Some(&positions), filters, limit).await
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// Whether a table has all columns of another, of the same types.
fn has_types(found: &Schema, wanted: &Schema) -> bool {
    wanted
        .fields()
        .iter()
        .all(|field| found.field_with_name(field.name()).is_ok_and(|found| found.data_type() == field.data_type()))
}

/// What conditions say of single columns.
#[derive(Debug, Default)]
struct Tests<'a> {
    /// Columns with one value, or few.
    fixed: BTreeSet<&'a str>,
    /// Columns with values up to or from one.
    bounded: BTreeSet<&'a str>,
}

impl<'a> Tests<'a> {
    fn of(filters: &'a [Expr]) -> Self {
        let mut tests = Self::default();
        for test in filters.iter().flat_map(split_conjunction) {
            match test {
                Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                    let column = match (left.as_ref(), right.as_ref()) {
                        (Expr::Column(column), other) | (other, Expr::Column(column)) if is_constant(other) => column,
                        _ => continue,
                    };
                    match op {
                        Operator::Eq | Operator::IsNotDistinctFrom => &mut tests.fixed,
                        Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => &mut tests.bounded,
                        _ => continue,
                    }
                    .insert(&column.name);
                }
                Expr::InList(list) if !list.negated && list.list.iter().all(is_constant) => {
                    if let Expr::Column(column) = list.expr.as_ref() {
                        tests.fixed.insert(&column.name);
                    }
                }
                Expr::Between(between) if !between.negated => {
                    if let Expr::Column(column) = between.expr.as_ref() {
                        tests.bounded.insert(&column.name);
                    }
                }
                Expr::IsNull(inner) => {
                    if let Expr::Column(column) = inner.as_ref() {
                        tests.fixed.insert(&column.name);
                    }
                }
                _ => {}
            }
        }
        tests
    }

    /// How many leading columns of an order are fixed, and whether the next one is bounded.
    fn fixed_and_bounded(&self, sort_by: &[String]) -> (usize, bool) {
        let fixed = sort_by.iter().take_while(|column| self.fixed.contains(column.as_str())).count();
        (fixed, sort_by.get(fixed).is_some_and(|column| self.bounded.contains(column.as_str())))
    }
}

fn is_constant(expression: &Expr) -> bool {
    matches!(expression, Expr::Literal(value, _) if *value != ScalarValue::Null)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use quarry_storage::{Gate, PartitionKey, Publish, Store, StoreOptions, TableId};

    use super::super::partition_table::single_table_catalog;
    use super::super::testing::{engine, rows};
    use super::*;

    /// A partition of the columns `names`, published as `table`.
    fn publish(store: &Store, table: &str, names: &[&str], columns: &[Vec<i64>]) -> Arc<Partition> {
        let key = PartitionKey { table: TableId::new(table).expect("a name"), bucket: None };
        let columns = columns.iter().map(|values| Arc::new(Int64Array::from(values.clone())) as ArrayRef);
        let batch = RecordBatch::try_from_iter_with_nullable(
            names.iter().zip(columns).map(|(name, column)| (*name, column, true)),
        );
        let batch = batch.expect("columns of one length");
        let mut writer = store.writer(&key, batch.schema(), None).expect("a file");
        writer.write(&batch).expect("written");
        let file = writer.finish().expect("finished");
        let refresh_key = String::new();
        let publish = Publish { key: key.clone(), file, refresh_key, build_ms: 0, jobs: Vec::new(), gate: Gate::Open };
        store.publish(publish, 0).expect("published");
        Arc::clone(store.snapshot().find(&key).expect("it was published"))
    }

    /// `t(a, b, n)`: sorted by a, copied by b, and put together by b alone and by a and b.
    fn table(store: &Store, memory: u64) -> IndexedTable {
        let by_a = publish(store, "t@own", &["a", "b", "n"], &[vec![1, 1, 2, 2], vec![7, 8, 7, 8], vec![1, 2, 3, 4]]);
        let by_b = publish(store, "t@by_b", &["a", "b", "n"], &[vec![1, 2, 1, 2], vec![7, 7, 8, 8], vec![1, 3, 2, 4]]);
        let only_b = publish(store, "t@only_b", &["b", "n"], &[vec![7, 8], vec![4, 6]]);
        let kept = |name: &str, sort_by: &[&str], is_grouped: bool, partition: &Arc<Partition>| {
            let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            Sorted {
                name: name.to_owned(),
                sort_by: own(sort_by),
                columns: is_grouped.then(|| own(&[sort_by, &["n"]].concat())),
                partitions: vec![Arc::clone(partition)],
            }
        };
        let schema = super::super::partition_table::read_schema(&by_a.path).expect("readable");
        let all = vec![
            kept("own", &["a", "b"], false, &by_a),
            kept("by_b", &["b", "a"], false, &by_b),
            kept("only_b", &["b"], true, &only_b),
        ];
        IndexedTable::new(schema, all, Resident::new(memory))
    }

    fn run(sql: &str, memory: u64) -> Vec<String> {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(StoreOptions::new(dir.path().to_owned())).expect("a store");
        let catalog = single_table_catalog("t", Arc::new(table(&store, memory)));
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        runtime.block_on(rows(&engine(), sql, catalog)).expect(sql)
    }

    /// What is read, as the plan of a statement over files names it; and its rows, from files and from memory.
    #[track_caller]
    fn check(sql: &str, read: &str, expected: &[&str]) {
        let plan = run(&format!("EXPLAIN FORMAT INDENT {sql}"), 1).join("\n");
        assert!(plan.contains(&format!("/t@{read}/")), "{sql} does not read {read}:\n{plan}");
        for memory in [1, 1 << 20] {
            assert_eq!(run(sql, memory), expected, "{sql}");
        }
    }

    #[test]
    fn conditions_and_columns_say_what_is_read() {
        check("SELECT sum(n) FROM t WHERE a = 2", "own", &["7"]);
        check("SELECT a, sum(n) FROM t WHERE b = 8 GROUP BY a ORDER BY 1", "by_b", &["1|2", "2|4"]);
        check("SELECT a, sum(n) FROM t WHERE b > 7 GROUP BY a ORDER BY 1", "by_b", &["1|2", "2|4"]);
        check("SELECT a, sum(n) FROM t WHERE b IN (8, 9) AND a = 1 GROUP BY a", "own", &["1|2"]);
        check("SELECT sum(n) FROM t WHERE b <> 8 OR a = 3", "own", &["4"]);
        check("SELECT sum(n) FROM t WHERE b = 8", "only_b", &["6"]);
        check("SELECT b, sum(n) FROM t GROUP BY b ORDER BY b", "only_b", &["7|4", "8|6"]);
        check("SELECT sum(n) FROM t", "only_b", &["10"]);
        check("SELECT sum(n) FROM t WHERE a BETWEEN 2 AND 3", "own", &["7"]);
        check("SELECT a FROM t WHERE b IS NULL", "by_b", &[]);
        check("SELECT * FROM t WHERE n = 3", "own", &["2|7|3"]);
    }

    #[test]
    fn rows_are_counted_where_each_is_itself() {
        for memory in [1, 1 << 20] {
            assert_eq!(run("SELECT count(*) FROM t", memory), ["4"]);
            assert_eq!(run("SELECT count(*) FROM t WHERE a = 1", memory), ["2"]);
        }
    }
}
