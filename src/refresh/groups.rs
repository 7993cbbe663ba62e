//! Partitions that are published in one step (`pre-aggregations.md` §21.4): each is built as any other, and waits here
//! until the last of its group is there.
//!
//! Nothing of it is durable: after a restart the whole group is built anew, as the jobs of a group end together
//! ([`NewJob::group`](quarry_storage::NewJob::group)).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quarry_storage::{Bounds, PartitionKey, Publish, StorageError, Store, TableId, TableState};

use super::jobs::Claimed;

/// The files that wait, by group.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<HashMap<String, Vec<Member>>>);

/// A partition of a group.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) publish: Publish,
    /// What its table is to claim with it.
    pub(super) claim: Option<Claimed>,
}

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
        member: Member,
        now: i64,
    ) -> Result<Vec<PartitionKey>, StorageError> {
        let leases: Vec<_> = {
            let mut waiting = self.lock();
            let members = waiting.entry(group.to_owned()).or_default();
            // Of an earlier try under this name that has ended since.
            members.retain(|member| store.holds_any(&member.publish.jobs));
            members.push(member);
            members.iter().flat_map(|member| member.publish.jobs.iter().cloned()).collect()
        };
        if !store.completes_group(group, &leases)? {
            return Ok(Vec::new());
        }
        // Two that come at the same moment may both see that all are there: the first one takes them.
        let Some(members) = self.lock().remove(group) else { return Ok(Vec::new()) };
        let published: Vec<PartitionKey> = members.iter().map(|member| member.publish.key.clone()).collect();
        let (publishes, claims): (Vec<_>, Vec<_>) =
            members.into_iter().map(|member| (member.publish, member.claim)).unzip();
        let claim = |table: &TableId, known: TableState| {
            let of_table = || published.iter().zip(&claims).filter(|(key, _)| key.table == *table);
            let mut built: Vec<Bounds> = of_table().filter_map(|(key, _)| key.bucket).collect();
            built.sort_unstable_by_key(|bucket| bucket.start);
            Some(of_table().find_map(|(_, claim)| *claim)?.over(known, &built))
        };
        store.publish_claiming(publishes, &claim, now)?;
        tracing::info!(group, partitions = published.len(), "published in one step");
        Ok(published)
    }

    /// Whether a partition of a group waits here.
    pub(super) fn has(&self, group: &str, key: &PartitionKey) -> bool {
        self.lock().get(group).is_some_and(|members| members.iter().any(|member| member.publish.key == *key))
    }

    /// Drops the files of groups that have come to an end without them.
    pub(super) fn sweep(&self, store: &Store) {
        self.lock().retain(|_, members| {
            members.retain(|member| store.holds_any(&member.publish.jobs));
            !members.is_empty()
        });
    }

    /// A map is whole after every statement here, also in a thread that panicked.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Member>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
