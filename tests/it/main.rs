//! The acceptance tests: the built binary over real HTTP, one file an area.
//!
//! [`server`] starts a server of a copied project on a free port, [`answers`] compares rows and
//! [`tables`] writes source data. No handler is called directly.

mod answers;
mod atomic;
mod auth;
mod cli;
mod clients;
mod conformance;
#[cfg(target_os = "linux")]
mod connections;
mod copies;
mod crash;
mod cubesql;
mod description;
mod differential;
mod duckdb;
mod errors;
mod events;
mod exports;
mod faults;
mod generate;
mod graphql;
mod hooks;
mod jobs;
mod kept;
mod key_server;
mod keys;
mod kinds;
mod languages;
mod matching;
mod metadata;
mod multi;
mod node;
mod operations;
mod property;
mod raw;
mod readme;
mod recorded;
mod refresh;
mod sequences;
mod server;
mod sockets;
mod states;
mod system;
mod tables;
mod tpch;
mod transport;
mod traps;
mod waiting;

mod commands;
mod manage;
mod memory;
mod orchestrators;
mod python;
mod selection;
mod stored_cases;
