//! Partitions that are published in one step (`pre-aggregations.md` §21.4): each is built as any other, and waits here
//! until the last of its group is there.
//!
//! Nothing of it is durable: after a restart the whole group is built anew, as the jobs of a group end together
//! ([`NewJob::group`](quarry_storage::NewJob::group)).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quarry_storage::{PartitionKey, Publish, StorageError, Store};

/// The files that wait, by group.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<HashMap<String, Vec<Publish>>>);

impl Groups {
    /// Publishes a partition of a group, and the whole group with it, if it is the last one. Gives what was published:
    /// nothing while others are missing.
    ///
    /// # Errors
    /// As [`Store::publish_all`].
    pub(super) fn publish(
        &self,
        store: &Store,
        group: &str,
        publish: Publish,
        now: i64,
    ) -> Result<Vec<PartitionKey>, StorageError> {
        let leases: Vec<_> = {
            let mut waiting = self.lock();
            let members = waiting.entry(group.to_owned()).or_default();
            // Of an earlier try under this name that has ended since.
            members.retain(|member| store.holds_any(&member.jobs));
            members.push(publish);
            members.iter().flat_map(|member| member.jobs.iter().cloned()).collect()
        };
        if !store.completes_group(group, &leases)? {
            return Ok(Vec::new());
        }
        // Two that come at the same moment may both see that all are there: the first one takes them.
        let Some(members) = self.lock().remove(group) else { return Ok(Vec::new()) };
        let published: Vec<PartitionKey> = members.iter().map(|member| member.key.clone()).collect();
        store.publish_all(members, now)?;
        tracing::info!(group, partitions = published.len(), "published in one step");
        Ok(published)
    }

    /// Whether a partition of a group waits here.
    pub(super) fn has(&self, group: &str, key: &PartitionKey) -> bool {
        self.lock().get(group).is_some_and(|members| members.iter().any(|member| member.key == *key))
    }

    /// Drops the files of groups that have come to an end without them.
    pub(super) fn sweep(&self, store: &Store) {
        self.lock().retain(|_, members| {
            members.retain(|member| store.holds_any(&member.jobs));
            !members.is_empty()
        });
    }

    /// A map is whole after every statement here, also in a thread that panicked.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Publish>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
