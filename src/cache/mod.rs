//! Work that is done once for all who ask for it, and results that are kept: knows keys and bytes, nothing of queries.
//!
//! [`queue`] puts work for a source in line; [`memory`] keeps values, bounded in bytes. Whoever uses them decides what
//! is equal: two keys are equal only where the results would be.

pub mod memory;
pub mod queue;
