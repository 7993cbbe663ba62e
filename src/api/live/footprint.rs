//! What an answer rests on: when it has to be looked at again.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::preagg::layout::stem;
use crate::query::QueryError;
use crate::query::normalize::Normalized;
use crate::query::rollups::Rollups;
use crate::query::route::concerned;

/// What an answer rests on. Handed on beside the response, to those who will look again.
#[derive(Debug, Clone)]
pub(in crate::api) struct Footprint {
    /// Stems of the tables of rollups that may have a part in it.
    pub(super) stems: Arc<BTreeSet<String>>,
    /// Whether a part of it came from the source, of whose changes nobody tells.
    pub(super) from_source: bool,
}

impl Footprint {
    /// That of the answers to the queries of one request; `is_stored` where the state of the store alone decides them.
    ///
    /// # Errors
    /// A query cannot be planned.
    pub(in crate::api) fn of(rollups: &Rollups, asked: &[Normalized], is_stored: bool) -> Result<Self, QueryError> {
        let model = rollups.model();
        let mut stems = BTreeSet::new();
        for part in asked {
            let found = concerned(model, &part.query)?.into_iter();
            stems.extend(found.map(|id| stem(&model.cube(id.cube).name, &model.preagg(id).name)));
        }
        Ok(Self { stems: Arc::new(stems), from_source: !is_stored })
    }
}
