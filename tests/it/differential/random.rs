//! Choices, from a seed.

use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Equal seeds make equal choices.
#[derive(Debug)]
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// The seed of other choices.
    pub(crate) fn seed(&mut self) -> u64 {
        self.0.random()
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    /// At least `least`, less than `end`.
    pub(crate) fn between(&mut self, least: i64, end: i64) -> i64 {
        self.0.random_range(least..end)
    }

    pub(crate) fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list.choose(&mut self.0).expect("lists of choices are not empty").clone()
    }

    /// Up to `most` of a list, in any order.
    pub(crate) fn some<T: Clone>(&mut self, list: &[T], least: usize, most: usize) -> Vec<T> {
        let mut list = list.to_vec();
        list.shuffle(&mut self.0);
        let most = most.min(list.len());
        list.truncate(if most <= least { most } else { self.0.random_range(least..=most) });
        list
    }

    pub(crate) fn shuffled<T>(&mut self, mut list: Vec<T>) -> Vec<T> {
        list.shuffle(&mut self.0);
        list
    }

    pub(crate) fn maybe<T>(&mut self, null_percent: u32, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.chance(null_percent) { None } else { Some(value(self)) }
    }
}
