//! A map that forgets what was not used for long instead of growing.

use std::collections::BTreeMap;
use std::mem;

/// At most so many values. Two halves: what is used moves into the young one, and when that is
/// full the old one is dropped and the young one becomes it.
#[derive(Debug, Clone)]
pub struct Bounded<K, V> {
    half: usize,
    young: BTreeMap<K, V>,
    old: BTreeMap<K, V>,
}

impl<K: Ord + Clone, V: Clone> Bounded<K, V> {
    /// Room for `most` values, at least two.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        let half = if most < 2 { 1 } else { most / 2 };
        Self { half, young: BTreeMap::new(), old: BTreeMap::new() }
    }

    /// The value of `key`, which counts as a use.
    pub fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    /// Keeps `value`, in the place of an earlier one of the same key.
    pub fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if !self.young.contains_key(&key) && self.young.len() >= self.half {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Forgets the value of `key`.
    pub fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// How many values are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut map = Bounded::new(10);
        for key in 0..1000 {
            map.insert(key, key);
            assert_eq!(map.get(&0), Some(0), "used at each step");
            assert!(map.len() <= 10);
        }
        assert_eq!(map.get(&999), Some(999));
        assert_eq!(map.get(&900), None);
        map.insert(0, 7);
        assert_eq!(map.get(&0), Some(7));
        map.remove(&0);
        assert_eq!(map.get(&0), None);
    }

    #[test]
    fn the_smallest_still_holds_something() {
        for most in [0, 1, 2] {
            let mut map = Bounded::new(most);
            assert!(map.is_empty());
            for key in 0..9 {
                map.insert(key, ());
                assert!(map.get(&key).is_some() && map.len() <= 2);
            }
        }
    }
}
