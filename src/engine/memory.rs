//! The memory that statements share.

use std::fmt;

use datafusion::error::Result;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// What DataFusion's exchange calls what it holds for a partition.
const EXCHANGE: &str = "RepartitionExec[";

/// Fair shares of a number of bytes, for everything but the batches between the two sides of an exchange.
///
/// An exchange whose batches do not fit puts them on disk, and then can wait for itself for ever, without an error:
/// two writers have a file each, and the reader looks into the older one only (datafusion issue 24883, open in 55.2).
/// So they always fit. An exchange holds its writers back while every reader has something to read, so that they are
/// few; and other operators get larger shares.
#[derive(Debug)]
pub(super) struct SharedMemory(FairSpillPool);

impl SharedMemory {
    /// `bytes` for all statements together.
    pub(super) fn new(bytes: usize) -> Self {
        Self(FairSpillPool::new(bytes))
    }
}

fn is_exchange(consumer: &MemoryConsumer) -> bool {
    consumer.can_spill() && consumer.name().starts_with(EXCHANGE)
}

impl MemoryPool for SharedMemory {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if !is_exchange(consumer) {
            self.0.register(consumer);
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if !is_exchange(consumer) {
            self.0.unregister(consumer);
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        if !is_exchange(reservation.consumer()) {
            self.0.grow(reservation, additional);
        }
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        if !is_exchange(reservation.consumer()) {
            self.0.shrink(reservation, shrink);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if is_exchange(reservation.consumer()) { Ok(()) } else { self.0.try_grow(reservation, additional) }
    }

    fn reserved(&self) -> usize {
        self.0.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.0.memory_limit()
    }
}

impl fmt::Display for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::physical_plan::{ExecutionPlan, collect};
    use datafusion::prelude::SessionContext;

    use crate::engine::EngineOptions;
    use crate::engine::session::base_state;

    /// How often exchanges and others have put rows on disk.
    fn spills(plan: &Arc<dyn ExecutionPlan>) -> (usize, usize) {
        let own = plan.metrics().and_then(|metrics| metrics.spill_count()).unwrap_or(0);
        let own = if plan.name() == "RepartitionExec" { (own, 0) } else { (0, own) };
        plan.children().into_iter().map(spills).fold(own, |sum, next| (sum.0 + next.0, sum.1 + next.1))
    }

    #[tokio::test]
    async fn exchanges_put_nothing_on_disk() {
        let state = base_state(&EngineOptions { memory_bytes: 16 << 20, cores: 2 }).unwrap();
        let context = SessionContext::new_with_state(state);
        let sql = "SELECT repeat((value % 60000)::text, 40) AS k, count(*) FROM generate_series(1, 180000) AS g(value) GROUP BY 1";
        let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let batches = collect(Arc::clone(&plan), context.task_ctx()).await.unwrap();
        assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 60_000);
        let (exchanges, others) = spills(&plan);
        assert_eq!(exchanges, 0, "it can wait for itself for ever");
        assert!(others > 0, "nothing was short of memory: the test shows nothing");
    }
}
