//! The jobs that have not ended, in memory, arranged so that the next one to claim is found at once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::{JobId, JobRecord, JobState, Lease, PartitionKey, TableId};

/// Queued and running jobs. Holds what the catalog holds; the catalog is written first.
#[derive(Debug, Default)]
pub(crate) struct LiveJobs {
    partitions: BTreeMap<PartitionKey, PartitionJobs>,
    /// Where a job is: its partition and context.
    places: HashMap<JobId, (PartitionKey, String)>,
    /// The jobs of each group.
    groups: HashMap<String, BTreeSet<JobId>>,
    /// Partitions that may be claimed, best first.
    ready: BTreeSet<Ready>,
}

/// The jobs of one partition.
#[derive(Debug, Default)]
struct PartitionJobs {
    /// By context, of which there is one live job at most.
    jobs: BTreeMap<String, JobRecord>,
    /// Its entry among the ready ones.
    ready: Option<Ready>,
}

/// Sorts as partitions are claimed: the oldest job first, then the newest bucket, which is looked at most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Ready {
    created_at: i64,
    start: Reverse<i64>,
    key: PartitionKey,
}

impl LiveJobs {
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn find(&self, id: &JobId) -> Option<&JobRecord> {
        let (key, context) = self.places.get(id)?;
        self.partitions.get(key)?.jobs.get(context)
    }

    /// The job of a lease, when it runs and in the lease's attempt.
    pub(crate) fn find_leased(&self, lease: &Lease) -> Option<&JobRecord> {
        self.find(&lease.job).filter(|job| job.state == JobState::Running && job.attempt == lease.attempt)
    }

    /// The live jobs of a partition.
    pub(crate) fn of(&self, key: &PartitionKey) -> impl Iterator<Item = &JobRecord> {
        self.partitions.get(key).into_iter().flat_map(|jobs| jobs.jobs.values())
    }

    /// The live job of a partition and context.
    pub(crate) fn find_equal(&self, key: &PartitionKey, context: &str) -> Option<&JobRecord> {
        self.partitions.get(key)?.jobs.get(context)
    }

    /// How many live jobs a group has.
    pub(crate) fn group_size(&self, group: &str) -> usize {
        self.groups.get(group).map_or(0, BTreeSet::len)
    }

    /// The jobs that end with these ones, being of their groups.
    pub(crate) fn companions<'a>(&'a self, jobs: &[&JobRecord]) -> Vec<&'a JobRecord> {
        let known: HashSet<&JobId> = jobs.iter().map(|job| &job.id).collect();
        let groups: BTreeSet<&String> = jobs.iter().filter_map(|job| job.group.as_ref()).collect();
        let members = groups.into_iter().filter_map(|group| self.groups.get(group)).flatten();
        members.filter(|id| !known.contains(id)).filter_map(|id| self.find(id)).collect()
    }

    /// The queued jobs of the partition to build next, of those whose jobs are admitted; empty when there is none.
    pub(crate) fn next(&self, admits: &dyn Fn(&JobRecord) -> bool) -> Vec<&JobRecord> {
        let mut ready = self.ready.iter().map(|ready| self.queued(ready));
        ready.find(|jobs| jobs.first().is_some_and(|job| admits(job))).unwrap_or_default()
    }

    /// The queued jobs of the partitions of a table that may be claimed, by partition in the order of [`LiveJobs::next`].
    pub(crate) fn ready_of(&self, table: &TableId) -> Vec<Vec<&JobRecord>> {
        let ready = self.ready.iter().filter(|ready| ready.key.table == *table);
        ready.map(|ready| self.queued(ready)).collect()
    }

    /// Those that are built together: the oldest one, and what is of the same group, or as it of none. One that is
    /// published with others must not keep one waiting that is not, and no group may wait for a younger one.
    fn queued(&self, ready: &Ready) -> Vec<&JobRecord> {
        let jobs = self.partitions.get(&ready.key).into_iter().flat_map(|jobs| jobs.jobs.values());
        let queued = jobs.filter(|job| job.state == JobState::Queued);
        let oldest = queued.clone().min_by_key(|job| (job.created_at, &job.group));
        queued.filter(|job| oldest.is_some_and(|oldest| oldest.group == job.group)).collect()
    }

    /// Adds a live job, or replaces what is known of it.
    pub(crate) fn put(&mut self, job: JobRecord) {
        let key = job.partition.clone();
        self.places.insert(job.id.clone(), (key.clone(), job.context.clone()));
        if let Some(group) = &job.group {
            self.groups.entry(group.clone()).or_default().insert(job.id.clone());
        }
        self.partitions.entry(key.clone()).or_default().jobs.insert(job.context.clone(), job);
        self.arrange(&key);
    }

    /// Removes a job that has ended.
    pub(crate) fn remove(&mut self, id: &JobId) {
        let Some((key, context)) = self.places.remove(id) else { return };
        let removed = self.partitions.get_mut(&key).and_then(|jobs| jobs.jobs.remove(&context));
        if let Some(group) = removed.and_then(|job| job.group)
            && let Some(members) = self.groups.get_mut(&group)
        {
            members.remove(id);
            if members.is_empty() {
                self.groups.remove(&group);
            }
        }
        self.arrange(&key);
    }

    /// Puts a partition to its place among the ready ones, after a change of its jobs.
    fn arrange(&mut self, key: &PartitionKey) {
        let Some(jobs) = self.partitions.get_mut(key) else { return };
        if let Some(ready) = jobs.ready.take() {
            self.ready.remove(&ready);
        }
        if jobs.jobs.is_empty() {
            self.partitions.remove(key);
            return;
        }
        let is_running = jobs.jobs.values().any(|job| job.state == JobState::Running);
        let oldest = jobs.jobs.values().filter(|job| job.state == JobState::Queued).map(|job| job.created_at).min();
        if let (false, Some(created_at)) = (is_running, oldest) {
            let ready = Ready { created_at, start: Reverse(key.start()), key: key.clone() };
            self.ready.insert(ready.clone());
            jobs.ready = Some(ready);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bounds, TableId};

    fn job(token: &str, start: i64, created_at: i64) -> JobRecord {
        JobRecord {
            id: JobId::from_token(token),
            partition: PartitionKey {
                table: TableId::new("t").unwrap(),
                bucket: Some(Bounds { start, end: start + 1 }),
            },
            details: String::new(),
            context: token.to_owned(),
            state: JobState::Queued,
            attempt: 0,
            created_at,
            started_at: None,
            ended_at: None,
            group: None,
        }
    }

    fn next(jobs: &LiveJobs) -> Vec<&str> {
        jobs.next(&|_| true).iter().map(|job| job.id.as_str()).collect()
    }

    #[test]
    fn the_oldest_partition_comes_first_and_at_equal_age_the_newest_bucket() {
        let mut jobs = LiveJobs::default();
        for (token, start, created_at) in [("a", 1, 10), ("b", 2, 10), ("c", 3, 11), ("d", 0, 9), ("e", 3, 10)] {
            jobs.put(job(token, start, created_at));
        }
        let mut order = Vec::new();
        while !jobs.next(&|_| true).is_empty() {
            let tokens: Vec<String> = next(&jobs).into_iter().map(str::to_owned).collect();
            tokens.iter().for_each(|token| jobs.remove(&JobId::from_token(token)));
            order.push(tokens.concat());
        }
        assert_eq!(order, ["d", "ce", "b", "a"]);
        assert_eq!((jobs.len(), jobs.partitions.len(), jobs.ready.len()), (0, 0, 0));
    }

    #[test]
    fn a_partition_with_a_running_job_is_not_offered() {
        let mut jobs = LiveJobs::default();
        jobs.put(JobRecord { state: JobState::Running, ..job("a", 1, 1) });
        jobs.put(job("b", 1, 2));
        jobs.put(job("c", 2, 3));
        assert_eq!(next(&jobs), ["c"]);
        jobs.remove(&JobId::from_token("a"));
        assert_eq!(next(&jobs), ["b"]);
    }

    #[test]
    fn jobs_are_found_by_token_and_by_what_they_ask() {
        let mut jobs = LiveJobs::default();
        let a = job("a", 1, 1);
        jobs.put(a.clone());
        assert_eq!(jobs.find(&a.id), Some(&a));
        assert_eq!(jobs.find_equal(&a.partition, "a"), Some(&a));
        assert_eq!(jobs.find_equal(&a.partition, "b"), None);
        assert_eq!(jobs.find_equal(&job("a", 2, 1).partition, "a"), None);
        jobs.remove(&a.id);
        assert_eq!(jobs.find(&a.id), None);
        jobs.remove(&a.id);
    }
}
