//! Values kept in memory, bounded in bytes.

use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// Values that the cache expects; a hint for its tables.
const EXPECTED: usize = 4096;
/// What an entry takes beside its value, in bytes.
const OVERHEAD_BYTES: u64 = 128;

/// Values by the digest of what decides them.
#[derive(Debug)]
pub struct Memory<V: Clone> {
    cache: Cache<u128, Held<V>, ByBytes>,
}

#[derive(Debug, Clone)]
struct Held<V> {
    value: V,
    bytes: u64,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl<V> Weighter<u128, Held<V>> for ByBytes {
    fn weight(&self, _key: &u128, held: &Held<V>) -> u64 {
        held.bytes
    }
}

impl<V: Clone> Memory<V> {
    /// Holds at most `bytes`.
    pub fn new(bytes: u64) -> Self {
        Self { cache: Cache::with_weighter(EXPECTED, bytes, ByBytes) }
    }

    /// The value, when it is still there.
    pub fn get(&self, key: u128) -> Option<V> {
        self.cache.get(&key).map(|held| held.value)
    }

    /// Keeps a value of `bytes`; others may have to go, and one that is too large is not kept.
    pub fn put(&self, key: u128, value: V, bytes: usize) {
        self.cache.insert(key, Held { value, bytes: (bytes as u64).saturating_add(OVERHEAD_BYTES) });
    }

    /// Forgets a value.
    pub fn forget(&self, key: u128) {
        self.cache.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_bounded() {
        let memory = Memory::new(1 << 20);
        for key in 0..10_000 {
            memory.put(key, key, 4096);
        }
        assert!(memory.cache.weight() <= 1 << 20);
        let kept = (0..10_000).filter(|key| memory.get(*key) == Some(*key)).count();
        assert!((50..=256).contains(&kept), "{kept}");
        memory.put(1, 7, 2 << 20);
        assert_eq!(memory.get(1), None, "too large to be kept");
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let memory = Memory::new(0);
        memory.put(1, 1, 10);
        assert_eq!(memory.get(1), None);
    }

    #[test]
    fn what_is_forgotten_is_gone() {
        let memory = Memory::new(1 << 20);
        memory.put(1, "a", 1);
        memory.forget(1);
        assert_eq!(memory.get(1), None);
    }
}
