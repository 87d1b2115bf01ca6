//! A map in shards that clones share: a change copies one shard, whatever the size of the whole. Large values are best put in an `Arc`.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

const SHARDS: usize = 256;

type Shard<K, V> = Arc<HashMap<K, V>>;

#[derive(Debug, Clone)]
pub(crate) struct Sharded<K, V> {
    shards: Arc<[Shard<K, V>]>,
    hasher: RandomState,
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::new());
        Sharded { shards: (0..SHARDS).map(|_| Arc::clone(&empty)).collect(), hasher: RandomState::new() }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Sharded<K, V> {
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards[self.shard(key)].get(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        let shard = self.shard(&key);
        self.change(shard, |map| {
            map.insert(key, value);
        });
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if self.get(key).is_some() {
            self.change(self.shard(key), |map| {
                map.remove(key);
            });
        }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // The remainder is below SHARDS, so the conversion keeps it whole.
        (self.hasher.hash_one(key) % SHARDS as u64) as usize
    }

    fn change(&mut self, shard: usize, act: impl FnOnce(&mut HashMap<K, V>)) {
        let shards = Arc::make_mut(&mut self.shards);
        act(Arc::make_mut(&mut shards[shard]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_does_not_see_later_changes() {
        let mut map = Sharded::default();
        (0..1000).for_each(|n| map.insert(n, n));
        let before = map.clone();
        map.insert(7, 70);
        map.remove(&8);
        assert_eq!((before.get(&7), before.get(&8)), (Some(&7), Some(&8)));
        assert_eq!((map.get(&7), map.get(&8)), (Some(&70), None));
        assert_eq!((before.len(), map.len()), (1000, 999));
    }
}
