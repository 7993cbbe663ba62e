//! Forgets what nobody needs: replaced files, ended jobs, tables of former definitions.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use quarry_storage::{StorageError, TableId};

use super::Inner;
use crate::query::rollups::Rollups;
use crate::tasks::blocking;
use crate::time::micros;

/// How often it looks.
const PAUSE: Duration = Duration::from_secs(30);
/// Ended jobs can be asked for that long (`http-api.md` §8.3).
const JOB_MEMORY: Duration = Duration::from_secs(86_400);
/// A model has to last that long before the tables of its predecessors go, so that an edit that is
/// taken back costs no rebuild.
const MODEL_PROBATION: Duration = Duration::from_secs(600);

/// The body of the task: until the stop signal.
pub(super) async fn keep_house(inner: Arc<Inner>) {
    let stop = inner.tasks.stop_signal();
    let mut model = Probation { version: 0, since: i64::MAX, is_over: true };
    loop {
        let now = inner.parts.clock.now();
        let rollups = (inner.parts.rollups)();
        let is_settled = model.observe(rollups.model().version(), now);
        // Of several models not all are known: their tables stay.
        let settled = (is_settled && inner.parts.tenants.is_none()).then_some(rollups);
        let store = inner.parts.store.clone();
        let swept: Result<(), StorageError> = blocking(move || {
            store.forget_jobs(now.saturating_sub(micros(JOB_MEMORY)))?;
            if let Some(current) = settled.and_then(|rollups| current_tables(&rollups)) {
                let dropped = store.retain_tables(&|table| current.contains(table), now)?;
                if dropped > 0 {
                    tracing::info!(tables = dropped, "dropped tables that the data model no longer defines");
                }
            }
            store.collect_garbage(now).map(|_| ())
        })
        .await;
        if let Err(error) = swept {
            tracing::warn!(%error, "failed to collect garbage");
        }
        // Losing the pause is harmless.
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// How long the same model has been in use.
#[derive(Debug, Clone, Copy)]
struct Probation {
    version: u64,
    since: i64,
    is_over: bool,
}

impl Probation {
    /// Whether the model has just been in use for long enough: true once a model.
    fn observe(&mut self, version: u64, now: i64) -> bool {
        if self.version != version || self.since > now {
            *self = Self { version, since: now, is_over: false };
        }
        let ends_now = !self.is_over && now.saturating_sub(self.since) >= micros(MODEL_PROBATION);
        self.is_over |= ends_now;
        ends_now
    }
}

/// The tables that the model defines, in whatever zone, and those of their copies; none when some definition cannot be planned,
/// as its tables are unknown then.
fn current_tables(rollups: &Rollups) -> Option<HashSet<TableId>> {
    let mut current = HashSet::new();
    let stored = rollups.model().cubes().iter().flat_map(|cube| &cube.preaggs).filter(|preagg| preagg.is_stored());
    for preagg in stored {
        for zone in chrono_tz::TZ_VARIANTS {
            let table = rollups.table(preagg.id, zone).ok()?;
            current.extend(rollups.copies(preagg.id).iter().map(|copy| copy.table(&table)));
            current.insert(table);
        }
    }
    Some(current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_kept_with_the_tables_they_are_copies_of() {
        let text = "cubes:
  - name: sales
    sql_table: sales
    dimensions: [{name: city, sql: city, type: string}, {name: kind, sql: kind, type: string}]
    pre_aggregations:
      - {name: main, dimensions: [city, kind], indexes: [{name: a, columns: [city]}, {name: b, columns: [kind]}]}
";
        let sources = [(std::path::PathBuf::from("model/sales.yml"), text.to_owned())];
        let compiled = crate::model::compile::compile_sources(&sources, &crate::model::CompileContext::default());
        let model = Arc::new(compiled.expect("no faults").model);
        let without = current_tables(&Rollups::new(Arc::clone(&model))).expect("plain definitions");
        let with = current_tables(&Rollups::new(model).with_index_copies()).expect("plain definitions");
        let copied = crate::preagg::indexes::copied_table;
        assert!(without.iter().all(|table| copied(table).is_none()) && without.is_subset(&with));
        let of: HashSet<TableId> = with.difference(&without).filter_map(copied).collect();
        assert_eq!(of, without);
    }

    #[test]
    fn a_model_is_settled_once_after_ten_minutes() {
        const MINUTE: i64 = 60_000_000;
        let mut model = Probation { version: 0, since: i64::MAX, is_over: true };
        let seen = [(0, 0), (0, 9), (0, 10), (0, 11), (1, 12), (0, 13), (0, 22), (0, 23), (0, 24)];
        let settled: Vec<i64> = seen
            .into_iter()
            .filter_map(|(version, minute)| model.observe(version, minute * MINUTE).then_some(minute))
            .collect();
        assert_eq!(settled, [10, 23]);
    }
}
