//! A map whose usual look-up is one comparison.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::ops::Index;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Values by key. Whoever looks for what was looked for last finds it without a search: messages
/// come and go in rows.
#[derive(Clone, Debug)]
pub(crate) struct Table<K, V> {
    /// Places in `entries`.
    order: BTreeMap<K, usize>,
    entries: Vec<Option<(K, V)>>,
    free: Vec<usize>,
    /// Where the last was found that was to be changed.
    recent: usize,
}

impl<K: Ord + Copy, V> Table<K, V> {
    pub fn new() -> Table<K, V> {
        Table {
            order: BTreeMap::new(),
            entries: Vec::new(),
            free: Vec::new(),
            recent: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_some()
    }

    #[inline]
    pub fn get(&self, key: &K) -> Option<&V> {
        let entry = self.entries[self.find(key)?].as_ref();
        entry.map(|(_, value)| value)
    }

    #[inline]
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.find(key)?;
        self.recent = at;
        let entry = self.entries[at].as_mut();
        entry.map(|(_, value)| value)
    }

    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if !self.contains_key(&key) {
            self.insert(key, make());
        }
        self.get_mut(&key).expect("it is there now")
    }

    /// Puts a value in the place of the one that there was.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let entry = Some((key, value));
        if let Some(at) = self.find(&key) {
            let before = std::mem::replace(&mut self.entries[at], entry);
            return before.map(|(_, value)| value);
        }
        let at = match self.free.pop() {
            Some(at) => {
                self.entries[at] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        };
        self.order.insert(key, at);
        None
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.order.remove(key)?;
        self.free.push(at);
        self.entries[at].take().map(|(_, value)| value)
    }

    pub fn clear(&mut self) {
        *self = Table::new();
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        let gone: Vec<K> = self
            .iter_mut()
            .filter_map(|(key, value)| (!keep(key, value)).then_some(*key))
            .collect();
        for key in gone {
            self.remove(&key);
        }
    }

    /// In the order of the keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.order.keys()
    }

    /// In the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        let entries = self.order.values().map(|&at| self.entries[at].as_ref());
        entries.flatten().map(|(key, value)| (key, value))
    }

    /// In the order of the keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// In the order of their places, which is the same whenever the same was done.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        let entries = self.entries.iter_mut().flatten();
        entries.map(|(key, value)| (&*key, value))
    }

    /// As [`Table::iter_mut`].
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.iter_mut().map(|(_, value)| value)
    }

    /// As [`Table::iter_mut`].
    pub fn into_values(self) -> impl Iterator<Item = V> {
        self.entries.into_iter().flatten().map(|(_, value)| value)
    }

    #[inline]
    fn find(&self, key: &K) -> Option<usize> {
        match self.entries.get(self.recent) {
            Some(Some((here, _))) if here == key => Some(self.recent),
            _ => self.search(key),
        }
    }

    #[cold]
    fn search(&self, key: &K) -> Option<usize> {
        self.order.get(key).copied()
    }
}

impl<K: Ord + Copy, V> Default for Table<K, V> {
    fn default() -> Table<K, V> {
        Table::new()
    }
}

impl<K: Ord + Copy, V> Index<&K> for Table<K, V> {
    type Output = V;
    fn index(&self, key: &K) -> &V {
        self.get(key).expect("no such key")
    }
}

impl<K: Ord + Copy, V> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Table<K, V> {
        let mut table = Table::new();
        for (key, value) in entries {
            table.insert(key, value);
        }
        table
    }
}

/// As a map hashes: what was looked for last makes no difference, nor do places.
impl<K: Ord + Copy + Hash, V: Hash> Hash for Table<K, V> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.len().hash(hasher);
        self.iter().for_each(|entry| entry.hash(hasher));
    }
}

impl<K: Ord + Copy + Serialize, V: Serialize> Serialize for Table<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Its length is told, which not every format can do without.
        let entries: Vec<(&K, &V)> = self.iter().collect();
        serializer.collect_map(entries)
    }
}

impl<'de, K: Ord + Copy + Deserialize<'de>, V: Deserialize<'de>> Deserialize<'de> for Table<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Table<K, V>, D::Error> {
        let map = BTreeMap::<K, V>::deserialize(deserializer)?;
        Ok(map.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is done to it, it holds what a map would.
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0_u8..8, 0_u8..6, 0_u16..100), 0..60)) {
            let (mut table, mut map) = (Table::new(), BTreeMap::new());
            for (step, key, value) in steps {
                match step {
                    0..=2 => prop_assert_eq!(table.insert(key, value), map.insert(key, value)),
                    3 => prop_assert_eq!(table.remove(&key), map.remove(&key)),
                    4 => prop_assert_eq!(table.get_mut(&key), map.get_mut(&key)),
                    5 => {
                        let there = *map.entry(key).or_insert(value);
                        prop_assert_eq!(*table.get_or_insert_with(key, || value), there);
                    }
                    6 => {
                        table.retain(|_, kept| *kept != value);
                        map.retain(|_, kept| *kept != value);
                    }
                    _ => prop_assert_eq!(table.contains_key(&key), map.contains_key(&key)),
                }
                prop_assert_eq!(table.len(), map.len());
                prop_assert_eq!(table.get(&key), map.get(&key));
                prop_assert!(table.iter().eq(map.iter()));
                let mut all: Vec<_> = table.values_mut().map(|value| *value).collect();
                all.sort_unstable();
                let mut expected: Vec<_> = map.values().copied().collect();
                expected.sort_unstable();
                prop_assert_eq!(all, expected);
            }
            let bytes = postcard::to_stdvec(&table).expect("it is plain data");
            prop_assert_eq!(&bytes, &postcard::to_stdvec(&map).expect("it is plain data"));
            let back: Table<u8, u16> = postcard::from_bytes(&bytes).expect("it was written so");
            prop_assert!(back.iter().eq(map.iter()));
        }
    }
}
