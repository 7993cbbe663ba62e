//! How queries wait for sources, and what is kept of their answers.

use std::time::Duration;

use super::reader::Reader;
use crate::refresh::Concurrency;

/// Queries that a data source runs at the same time at least, where no setting says.
const LEAST_QUERIES: usize = 5;

/// How queries wait for sources, and what is kept of their answers.
#[derive(Debug, Clone)]
pub struct WaitSettings {
    /// `QUARRY_QUERY_CONCURRENCY`, `CUBEJS_DS_<NAME>_CONCURRENCY`, `CUBEJS_CONCURRENCY`, or the number of cores and at
    /// least 5: queries that a data source runs at the same time.
    pub concurrency: Concurrency,
    /// `QUARRY_CONTINUE_WAIT`: how long a request waits for a source before its client is to ask again.
    pub continue_wait: Duration,
    /// `QUARRY_ORPHANED_TIMEOUT`: how long a query waits for a source without anybody asking for it.
    pub orphaned: Duration,
    /// `QUARRY_BACKGROUND_RENEW`: an answer whose refresh keys have changed is given at once, and made anew behind it.
    pub background_renew: bool,
    /// `QUARRY_RESULT_CACHE`: bytes for answers that are kept.
    pub result_bytes: usize,
}

impl Reader {
    pub(super) fn waits(&mut self, cores: usize) -> WaitSettings {
        WaitSettings {
            concurrency: self.query_concurrency(cores),
            continue_wait: self.continue_wait(),
            orphaned: self.duration("QUARRY_ORPHANED_TIMEOUT", Duration::from_secs(120)),
            background_renew: self.boolean("QUARRY_BACKGROUND_RENEW", false),
            result_bytes: self.bytes("QUARRY_RESULT_CACHE", 256 << 20, 0..=usize::MAX),
        }
    }

    /// The setting for queries alone wins. Faults of the others were told with those of builds.
    fn query_concurrency(&mut self, cores: usize) -> Concurrency {
        const OF_QUERIES: &str = "QUARRY_QUERY_CONCURRENCY";
        let told = self.faults.len();
        let found = self.source_concurrency(cores.max(LEAST_QUERIES));
        self.faults.truncate(told);
        match self.text(OF_QUERIES) {
            Some(_) => Concurrency::of_all(self.number(OF_QUERIES, found.default, 1..=256)),
            None => found,
        }
    }

    /// Clients that ask again do so at once: it is a second at least.
    fn continue_wait(&mut self) -> Duration {
        const NAME: &str = "QUARRY_CONTINUE_WAIT";
        let wait = self.duration(NAME, Duration::from_secs(5));
        if wait.as_secs() > 90 {
            self.fault(NAME, &wait.as_secs().to_string(), "a wait of at most 90 seconds");
        }
        wait.max(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load;
    use super::*;

    #[test]
    fn waits_are_bounded() {
        let wait = |text| load(&[("CUBEJS_API_SECRET", "s"), ("QUARRY_CONTINUE_WAIT", text)]);
        assert_eq!(wait("10").expect("valid").waits.continue_wait, Duration::from_secs(10));
        assert_eq!(wait("0").expect("valid").waits.continue_wait, Duration::from_secs(1));
        for bad in ["91", "soon"] {
            assert!(wait(bad).expect_err("out of bounds").0[0].starts_with("QUARRY_CONTINUE_WAIT"), "{bad}");
        }
    }
}
