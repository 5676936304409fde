//! Values by key, of which one is found and taken out as fast beside many as beside few.

use alloc::vec::Vec;

/// Values in the order of their keys, which mostly come in that order.
///
/// None is moved when another goes: it leaves a gap, and gaps are closed once there are more of them than of values.
#[derive(Debug)]
pub(crate) struct Sparse<K, V> {
    /// Ascending. `None` is a gap, and never the last.
    places: Vec<(K, Option<V>)>,
    len: usize,
}

impl<K, V> Default for Sparse<K, V> {
    fn default() -> Self {
        Self { places: Vec::new(), len: 0 }
    }
}

impl<K: Ord + Copy, V> Sparse<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn last_key(&self) -> Option<K> {
        self.places.last().map(|(key, _)| *key)
    }

    pub(crate) fn contains(&self, key: K) -> bool {
        self.place(key).is_ok_and(|at| self.places.get(at).is_some_and(|(_, value)| value.is_some()))
    }

    /// Puts a value in. No other has its key.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self.place(key) {
            Ok(at) => {
                if let Some((_, gap)) = self.places.get_mut(at) {
                    *gap = Some(value);
                }
            }
            Err(at) => self.places.insert(at, (key, Some(value))),
        }
        self.len += 1;
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        let at = self.place(key).ok()?;
        let value = self.places.get_mut(at)?.1.take()?;
        self.len -= 1;
        while self.places.pop_if(|(_, last)| last.is_none()).is_some() {}
        if self.places.len() > 2 * self.len {
            self.places.retain(|(_, value)| value.is_some());
        }
        Some(value)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.places.iter().filter_map(|(_, value)| value.as_ref())
    }

    fn place(&self, key: K) -> Result<usize, usize> {
        match self.places.last() {
            Some((last, _)) if *last >= key => self.places.binary_search_by_key(&key, |(key, _)| *key),
            _ => Err(self.places.len()),
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use alloc::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_in_it_is_what_is_in_a_map(steps in prop::collection::vec((any::<bool>(), 0_u8..24), 0..200)) {
            let (mut sparse, mut map) = (Sparse::default(), BTreeMap::new());
            for (number, (comes, key)) in steps.into_iter().enumerate() {
                if comes && !map.contains_key(&key) {
                    sparse.insert(key, number);
                    map.insert(key, number);
                } else {
                    prop_assert_eq!(sparse.remove(key), map.remove(&key));
                }
                prop_assert!(sparse.iter().eq(map.values()));
                prop_assert_eq!((sparse.len(), sparse.is_empty()), (map.len(), map.is_empty()));
                prop_assert!((0..24).all(|key| sparse.contains(key) == map.contains_key(&key)));
                prop_assert!(sparse.places.len() <= 2 * sparse.len(), "as many gaps as values at the most");
                prop_assert!(sparse.last_key() == map.last_key_value().map(|(key, _)| *key));
            }
        }
    }
}
