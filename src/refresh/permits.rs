//! How many builds run at the same time, by data source (`pre-aggregations.md` §15).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quarry_storage::{JobRecord, StorageError, Store, TableId};

use super::jobs::Details;

/// Builds at the same time.
#[derive(Debug, Clone)]
pub struct Concurrency {
    /// On a data source that is not named.
    pub default: usize,
    /// On data sources by name, in lower case.
    pub by_source: BTreeMap<String, usize>,
}

impl Concurrency {
    /// As many on each source.
    pub fn of_all(default: usize) -> Self {
        Self { default, by_source: BTreeMap::new() }
    }

    /// On one source: at least one.
    pub fn on(&self, source: &str) -> usize {
        self.by_source.get(&source.to_ascii_lowercase()).copied().unwrap_or(self.default).max(1)
    }
}

/// The builds that run.
#[derive(Debug)]
pub(super) struct Permits {
    limits: Concurrency,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    /// By source.
    builds: HashMap<String, usize>,
    /// Tables of which somebody claims what goes into one build. A job that another worker took meanwhile would cost a
    /// scan of its own.
    gathering: HashSet<TableId>,
}

/// The right to build for a source, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    permits: Arc<Permits>,
    source: String,
    gathering: Option<TableId>,
}

impl Permits {
    pub(super) fn new(limits: Concurrency) -> Self {
        Self { limits, running: Mutex::default() }
    }

    /// Claims the next jobs whose source has room; none when there are none. Nobody else claims jobs of that table here
    /// before [`Permit::end_gathering`].
    pub(super) fn claim(
        self: &Arc<Self>,
        store: &Store,
        now: i64,
    ) -> Result<Option<(Vec<JobRecord>, Permit)>, StorageError> {
        // Held over the claim, so that two workers cannot both take the last place of a source.
        let mut running = self.lock();
        let has_room = |job: &JobRecord| {
            let source = source_of(job);
            running.builds.get(&source).copied().unwrap_or(0) < self.limits.on(&source)
                && !running.gathering.contains(&job.partition.table)
        };
        let Some(jobs) = store.claim_if(now, &has_room)? else { return Ok(None) };
        let source = jobs.first().map(source_of).unwrap_or_default();
        *running.builds.entry(source.clone()).or_default() += 1;
        let gathering = jobs.first().map(|job| job.partition.table.clone());
        running.gathering.extend(gathering.clone());
        Ok(Some((jobs, Permit { permits: Arc::clone(self), source, gathering })))
    }

    /// The maps are whole after every statement here, also in a thread that panicked.
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// All that is built together is claimed: the rest of the table is for others, who are to be woken.
    pub(super) fn end_gathering(&mut self) {
        if let Some(table) = self.gathering.take() {
            self.permits.lock().gathering.remove(&table);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end_gathering();
        let mut running = self.permits.lock();
        if let Some(count) = running.builds.get_mut(&self.source) {
            *count = count.saturating_sub(1);
        }
    }
}

fn source_of(job: &JobRecord) -> String {
    Details::parse(&job.details).map(|details| details.data_source).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use quarry_storage::{Bounds, NewJob, PartitionKey, StoreOptions};

    use super::*;

    fn job(source: &str, start: i64) -> NewJob {
        let details = serde_json::json!({ "preagg": "a.b", "timezone": "UTC", "context": {}, "data_source": source,
            "forced": true });
        let table = TableId::new(&format!("{source}@UTC-0")).expect("a name");
        let bucket = Some(Bounds { start, end: start + 1 });
        NewJob {
            partition: PartitionKey { table, bucket },
            details: details.to_string(),
            context: String::new(),
            group: None,
        }
    }

    #[test]
    fn a_source_that_is_full_lets_others_go_first() {
        let dir = tempfile::tempdir().expect("a folder");
        let options = StoreOptions::new(dir.path().to_owned());
        let store = Store::open(options).expect("an empty folder");
        let limits = Concurrency { default: 2, by_source: BTreeMap::from([("slow".to_owned(), 1)]) };
        let permits = Arc::new(Permits::new(limits));
        store
            .enqueue(&[job("slow", 3), job("slow", 2), job("fast", 1), job("fast", 0), job("fast", -1)], 0)
            .expect("enqueued");
        let claim = || {
            let mut claimed = permits.claim(&store, 1).expect("the store works")?;
            claimed.1.end_gathering();
            Some((
                claimed.0[0].partition.table.as_str().to_owned(),
                claimed.0[0].partition.bucket.expect("a bucket").start,
                claimed.1,
            ))
        };
        let name = |claimed: &Option<(String, i64, Permit)>| {
            claimed.as_ref().map(|(table, start, _)| (table[..4].to_owned(), *start))
        };
        let slow = claim();
        assert_eq!(name(&slow), Some(("slow".to_owned(), 3)));
        let fast = claim();
        assert_eq!(name(&fast), Some(("fast".to_owned(), 1)));
        let other = claim();
        assert_eq!(name(&other), Some(("fast".to_owned(), 0)));
        assert_eq!(name(&claim()), None, "both sources are full");
        drop(slow);
        let again = claim();
        assert_eq!(name(&again), Some(("slow".to_owned(), 2)));
        drop(fast);
        assert_eq!(name(&claim()), Some(("fast".to_owned(), -1)));
    }

    #[test]
    fn while_one_gathers_others_claim_of_other_tables() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(StoreOptions::new(dir.path().to_owned())).expect("an empty folder");
        let permits = Arc::new(Permits::new(Concurrency::of_all(4)));
        store.enqueue(&[job("first", 3), job("first", 2), job("other", 1)], 0).expect("enqueued");
        let claim = || permits.claim(&store, 1).expect("the store works");
        let start = |claimed: &(Vec<JobRecord>, Permit)| claimed.0[0].partition.bucket.map(|bucket| bucket.start);
        let mut gathers = claim().expect("a job");
        let other = claim().expect("a job of another table");
        assert_eq!((start(&gathers), start(&other)), (Some(3), Some(1)));
        assert!(claim().is_none(), "the other one of the first table was taken by somebody else");
        gathers.1.end_gathering();
        let rest = claim().expect("what was not gathered");
        assert_eq!(start(&rest), Some(2));
        store.enqueue(&[job("first", 4)], 2).expect("enqueued");
        assert!(claim().is_none());
        drop(rest);
        assert_eq!(claim().as_ref().map(start), Some(Some(4)), "who is gone gathers no more");
    }
}
