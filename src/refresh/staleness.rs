//! Published partition + what its refresh keys say now → missing, stale or fresh.

use quarry_storage::Partition;

/// What a partition needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It was never published.
    Missing,
    /// Its refresh keys say something else than when it was built.
    Stale,
    /// Nothing.
    Fresh,
}

/// How fresh a partition is when its refresh keys say `value`.
pub(super) fn freshness(published: Option<&Partition>, value: &str) -> Freshness {
    compare(published.map(|partition| partition.refresh_key.as_str()), value)
}

fn compare(built_with: Option<&str>, value: &str) -> Freshness {
    match built_with {
        None => Freshness::Missing,
        Some(built_with) if built_with == value => Freshness::Fresh,
        Some(_) => Freshness::Stale,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_stale_when_its_keys_have_changed() {
        assert_eq!(compare(None, "[]"), Freshness::Missing);
        assert_eq!(compare(Some("[]"), "[]"), Freshness::Fresh);
        assert_eq!(compare(Some("[1]"), "[2]"), Freshness::Stale);
        // Its keys could not be evaluated when it was built.
        assert_eq!(compare(Some(""), "[2]"), Freshness::Stale);
    }
}
