//! Tells which stored tables have changed, so that only those who may be concerned look again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use quarry_storage::{Snapshot, Table, TableId};
use tokio::sync::broadcast;

use super::super::ApiState;
use crate::query::rollups::CurrentModel;

/// How often the store is looked at: one load of a pointer. Level-triggered, so that no way to change the store
/// needs to know of us.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Changes that one who is slow may be behind; who is further behind looks again whatever it was.
const MOST_BEHIND: usize = 64;

/// What may answer differently from now on.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// Questions about these tables.
    Stored(Arc<BTreeSet<TableId>>),
    /// All questions: the model files are others.
    Everything,
}

/// Where changes are told.
#[derive(Debug)]
pub(super) struct Changes(broadcast::Sender<Change>);

impl Default for Changes {
    fn default() -> Self {
        Self(broadcast::Sender::new(MOST_BEHIND))
    }
}

impl Changes {
    /// What changes from now on.
    pub(super) fn subscribe(&self) -> Changed {
        Changed(self.0.subscribe())
    }

    /// Looks for changes until the server stops.
    pub(super) fn watch(state: &ApiState) {
        let (stop, state) = (state.0.parts.tasks.stop_signal(), state.clone());
        state.0.parts.tasks.clone().spawn("changes of the store", move || {
            let (stop, state) = (stop.clone(), state.clone());
            async move {
                let parts = &state.0.parts;
                let mut seen = Seen::of(&parts.store.snapshot());
                let mut model: Weak<CurrentModel> = Arc::downgrade(&parts.model.load_full());
                while stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
                    let current = Arc::downgrade(&parts.model.load_full());
                    if !Weak::ptr_eq(&model, &current) {
                        model = current;
                        state.0.live.changes.tell(Change::Everything);
                    }
                    let snapshot = parts.store.snapshot();
                    if snapshot.id().get() != seen.id {
                        let now = Seen::of(&snapshot);
                        drop(snapshot);
                        state.0.live.changes.tell(Change::Stored(Arc::new(now.since(&seen))));
                        seen = now;
                    }
                }
            }
        });
    }

    fn tell(&self, change: Change) {
        // Nobody listens: nobody is concerned.
        let _ = self.0.send(change);
    }
}

/// The changes since one began to listen.
#[derive(Debug)]
pub(super) struct Changed(broadcast::Receiver<Change>);

impl Changed {
    /// The next change.
    pub(super) async fn next(&mut self) -> Change {
        match self.0.recv().await {
            Ok(change) => change,
            Err(broadcast::error::RecvError::Lagged(_)) => Change::Everything,
            // The server is being taken down.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// A state of the store, recognisable and without a hold on its files.
struct Seen {
    id: u64,
    tables: BTreeMap<TableId, Weak<Table>>,
}

impl Seen {
    fn of(snapshot: &Snapshot) -> Self {
        let tables = snapshot.tables().map(|(id, table)| (id.clone(), Arc::downgrade(table))).collect();
        Self { id: snapshot.id().get(), tables }
    }

    /// The tables that are others than before.
    fn since(&self, before: &Self) -> BTreeSet<TableId> {
        let changed = self.tables.iter().filter(|(id, table)| {
            // While the former is remembered nothing else can be at its address.
            before.tables.get(*id).is_none_or(|known| !Weak::ptr_eq(known, table))
        });
        let gone = before.tables.keys().filter(|id| !self.tables.contains_key(*id));
        changed.map(|(id, _)| id).chain(gone).cloned().collect()
    }
}
