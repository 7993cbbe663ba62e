//! What a rollup is as stored tables. Nouns only: nothing here builds or queries.
//!
//! A rollup is one table a time zone (a *variant*). Its columns are the grouping columns, named by
//! [`layout::dimension_column`] and its neighbours, and one or two state columns a measure ([`layout::StateColumn`]).

pub mod coverage;
pub mod indexes;
pub mod layout;
pub mod partition;
