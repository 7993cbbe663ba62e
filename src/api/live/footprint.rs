//! What an answer rests on: when it has to be looked at again.

use std::collections::BTreeSet;
use std::sync::Arc;

use quarry_storage::TableId;

use crate::query::QueryError;
use crate::query::normalize::Normalized;
use crate::query::rollups::Rollups;
use crate::query::route::{concerned, zones};

/// What an answer rests on. Handed on beside the response, to those who will look again.
#[derive(Debug, Clone)]
pub(in crate::api) struct Footprint {
    /// The tables of rollups that may have a part in it, built or not. Each model has tables of its own.
    pub(super) tables: Arc<BTreeSet<TableId>>,
    /// Whether a part of it came from the source, of whose changes nobody tells.
    pub(super) from_source: bool,
}

impl Footprint {
    /// That of the answers to the queries of one request; `is_stored` where the state of the store alone decides them.
    ///
    /// # Errors
    /// A query cannot be planned.
    pub(in crate::api) fn of(rollups: &Rollups, asked: &[Normalized], is_stored: bool) -> Result<Self, QueryError> {
        let mut tables = BTreeSet::new();
        for part in asked {
            for id in concerned(rollups.model(), &part.query)? {
                // What has no table, or cannot be planned, has no part in any answer.
                tables.extend(zones(&part.query).filter_map(|zone| rollups.table(id, zone).ok()));
            }
        }
        Ok(Self { tables: Arc::new(tables), from_source: !is_stored })
    }

    /// The tables that may have a part in it.
    pub(in crate::api) fn tables(&self) -> &BTreeSet<TableId> {
        &self.tables
    }
}
