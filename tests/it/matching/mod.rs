//! Which rollup answers: the truth table (`pre-aggregations.md` §5), times and zones, pruning and choice, raw rows, and
//! the explanation of all of it. Every answer is compared with the source's.

mod explain;
mod fixture;
mod times;
mod truth;
