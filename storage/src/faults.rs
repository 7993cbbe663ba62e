//! Faults on demand: lets a test see what the store does when its n-th operation fails.
//!
//! Every call of the store to the file system or to RocksDB that changes something asks here first. Without a
//! plan, which is how a server runs, that is one look at an empty option.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::StorageError;

/// A switch for faults; clones share it. [`Faults::default`] never fails anything.
#[derive(Debug, Clone, Default)]
pub struct Faults(Option<Arc<Switch>>);

/// What fails, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// How many operations go well before.
    pub after: u64,
    /// What the system says: an `errno`, such as 28 for a full disk.
    pub errno: i32,
    /// Whether all operations fail from then on, and not only one.
    pub lasting: bool,
}

#[derive(Debug, Default)]
struct Switch {
    fault: Mutex<Option<Fault>>,
    operations: AtomicU64,
    has_struck: AtomicBool,
}

impl Faults {
    /// A switch that can be armed.
    pub fn armable() -> Self {
        Self(Some(Arc::default()))
    }

    /// Fails operations from now on as `fault` says; none goes back to normal. Starts to count anew.
    pub fn arm(&self, fault: Option<Fault>) {
        let Some(switch) = &self.0 else { return };
        switch.operations.store(0, Ordering::SeqCst);
        switch.has_struck.store(false, Ordering::SeqCst);
        *switch.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Whether an operation has failed since the switch was armed.
    pub fn has_struck(&self) -> bool {
        self.0.as_ref().is_some_and(|switch| switch.has_struck.load(Ordering::SeqCst))
    }

    /// What the system would say to the next operation.
    pub(crate) fn strike(&self) -> io::Result<()> {
        let Some(switch) = &self.0 else { return Ok(()) };
        let fault = *switch.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fault) = fault else { return Ok(()) };
        let done = switch.operations.fetch_add(1, Ordering::SeqCst);
        if done == fault.after || (fault.lasting && done > fault.after) {
            switch.has_struck.store(true, Ordering::SeqCst);
            return Err(io::Error::from_raw_os_error(fault.errno));
        }
        Ok(())
    }

    /// As [`Faults::strike`], as the store says it.
    pub(crate) fn check(&self, action: &'static str, path: &Path) -> Result<(), StorageError> {
        self.strike().map_err(|error| StorageError::io(action, path, error))
    }
}
