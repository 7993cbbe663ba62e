//! Grouping over codes. Sources of rollups are large files of few distinct values: what rows are grouped and filtered by
//! are texts and dates that repeat. Their Parquet files say so: a text column is a dictionary and numbers. So the scan
//! reads it as that, filters and keys over such a column are evaluated once for each distinct value, and rows find their
//! group by small numbers instead of by the values of all keys.
//!
//! It takes the place of the filter, the projection and the *partial* aggregation over a scan of Parquet files; the
//! aggregates themselves and the final aggregation, which may spill, stay DataFusion's. What does not fit that form is
//! left as it was planned.

mod columns;
mod exec;
mod folds;
mod groups;
mod keys;
mod rewrite;
mod scan;
mod state;

pub(super) use rewrite::with_codes;

#[cfg(test)]
mod tests;
