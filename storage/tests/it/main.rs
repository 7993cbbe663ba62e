//! The store as its callers see it, over real folders.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash;
mod each;
mod faults;
mod format;
mod groups;
mod model;
mod open;
mod publish;
mod queue;
mod repair;
mod support;
mod versions;
