//! Quarry: an analytics API server over pre-aggregated columnar data, in one binary.
//!
//! The map, in reading order; a module uses only modules of lower floors (`ARCHITECTURE.md`):
//! [`names`], [`time`], [`tasks`] and [`script`] (vocabulary and ground services) · [`model`] (what exists) ·
//! [`auth`] (who asks) · [`hooks`] (what a `cube.js` says) · [`engine`] (DataFusion) · [`preagg`] (rollups as stored tables) ·
//! [`sources`] (where data come from) · [`cache`] (work done once, results kept) · [`query`] (answers one question) · [`refresh`] (keeps rollups
//! fresh) · [`api`] (speaks HTTP) · [`config`], [`app`], [`cli`] (put it together).
#![warn(missing_docs)]
#![cfg_attr(test, expect(clippy::needless_pass_by_value, reason = "one-line cases read better without &"))]

pub mod names;
pub mod script;
pub mod tasks;
pub mod time;

pub mod auth;
pub mod engine;
pub mod hooks;
pub mod model;

pub mod cache;
pub mod preagg;
pub mod sources;

pub mod query;

pub mod refresh;
pub mod sql;

pub mod api;
pub mod pg;

pub mod app;
pub mod cli;
pub mod config;
pub mod demo;
