//! One value for what several followers in a process are told in the same words.
//!
//! What they share is the work of reading a text, and what came of it. Two texts are the same when their SHA-256 is, so nothing is assumed of who
//! sent them, nor of revisions: a watch that selects is told of an object that leaves it under the revision at which another watch has it
//! changed. What only one follows is read and not remembered. Objects are remembered only while somebody holds them, but for the latest few: a
//! follower that is behind finds those too.

use std::any::{Any, TypeId};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// The latest objects of a kind that are kept although nobody holds them: by so many changes one follower may be behind another.
const LATEST: usize = 256;
/// So many objects of a kind are known by their text at most; of more than that, old ones are read once for each follower.
const KNOWN: usize = 16_384;

/// One who follows a kind; counted for as long as it lives.
pub(crate) struct Follower<K>(Arc<Table<K>>);

impl<K: Send + Sync + 'static> Follower<K> {
    pub(crate) fn new() -> Self {
        let table = Table::of_process();
        table.followers.fetch_add(1, Ordering::Relaxed);
        Follower(table)
    }
}

impl<K: DeserializeOwned> Follower<K> {
    /// The object that `text` is; another follower's, if that one was told the same.
    pub(crate) fn read(&self, text: &str) -> serde_json::Result<Arc<K>> {
        if self.0.followers.load(Ordering::Relaxed) < 2 { parse(text) } else { self.0.read(text) }
    }
}

impl<K> Drop for Follower<K> {
    fn drop(&mut self) {
        if self.0.followers.fetch_sub(1, Ordering::Relaxed) <= 2 {
            // Nobody is left to share with.
            *self.0.known() = Known::default();
        }
    }
}

type Text = [u8; 32];

/// The objects of one kind by their texts.
struct Table<K> {
    followers: AtomicUsize,
    known: Mutex<Known<K>>,
}

struct Known<K> {
    by_text: HashMap<Text, Arc<Place<K>>>,
    /// The texts that are known, in the order in which it is asked whether their objects are still held.
    order: VecDeque<Text>,
    latest: VecDeque<Arc<K>>,
}

/// Where the object of one text is, or will be once it has been read. Who comes meanwhile waits: reading it again would take as long.
type Place<K> = OnceLock<Weak<K>>;

impl<K> Default for Known<K> {
    fn default() -> Self {
        Known { by_text: HashMap::new(), order: VecDeque::new(), latest: VecDeque::new() }
    }
}

impl<K> Table<K> {
    fn new() -> Self {
        Table { followers: AtomicUsize::new(0), known: Mutex::default() }
    }

    // A poisoned lock means that somebody panicked while he held plain data: the data are whole.
    fn known(&self) -> MutexGuard<'_, Known<K>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Send + Sync + 'static> Table<K> {
    fn of_process() -> Arc<Table<K>> {
        static TABLES: OnceLock<RwLock<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>> = OnceLock::new();
        let tables = TABLES.get_or_init(RwLock::default);
        let known = tables.read().unwrap_or_else(PoisonError::into_inner).get(&TypeId::of::<K>()).cloned();
        if let Some(table) = known.and_then(|any| any.downcast().ok()) {
            return table;
        }
        let mut tables = tables.write().unwrap_or_else(PoisonError::into_inner);
        let table = tables.entry(TypeId::of::<K>()).or_insert_with(|| Arc::new(Table::<K>::new()));
        // The entry of a type is a table of that type.
        Arc::clone(table).downcast().unwrap_or_else(|_| Arc::new(Table::new()))
    }
}

impl<K: DeserializeOwned> Table<K> {
    /// The object that `text` is.
    fn read(&self, text: &str) -> serde_json::Result<Arc<K>> {
        let digest: Text = Sha256::digest(text.as_bytes()).into();
        let place = self.known().place(digest);
        let mut read: Option<serde_json::Result<Arc<K>>> = None;
        let found = place.get_or_init(|| match read.insert(parse(text)) {
            Ok(object) => Arc::downgrade(object),
            Err(_) => Weak::new(),
        });
        let object = match read {
            Some(read) => read?,
            None => match found.upgrade() {
                Some(object) => return Ok(object),
                // Everybody let go of it, or it could not be read.
                None => {
                    let object = parse(text)?;
                    self.known().replace(digest, &object);
                    object
                }
            },
        };
        self.known().keep(Arc::clone(&object));
        Ok(object)
    }
}

fn parse<K: DeserializeOwned>(text: &str) -> serde_json::Result<Arc<K>> {
    serde_json::from_str(text).map(Arc::new)
}

impl<K> Known<K> {
    fn place(&mut self, digest: Text) -> Arc<Place<K>> {
        if let Some(place) = self.by_text.get(&digest) {
            return Arc::clone(place);
        }
        self.forget_some();
        let place = Arc::<Place<K>>::default();
        self.by_text.insert(digest, Arc::clone(&place));
        self.order.push_back(digest);
        place
    }

    fn replace(&mut self, digest: Text, object: &Arc<K>) {
        if let Some(place) = self.by_text.get_mut(&digest) {
            *place = Arc::new(Place::from(Arc::downgrade(object)));
        }
    }

    fn keep(&mut self, object: Arc<K>) {
        self.latest.push_back(object);
        if self.latest.len() > LATEST {
            self.latest.pop_front();
        }
    }

    /// For each object that comes two are looked at: so those that nobody holds any more are never more than the others.
    fn forget_some(&mut self) {
        for _ in 0..2 {
            let Some(digest) = self.order.pop_front() else { return };
            let gone = |place: &Arc<Place<K>>| place.get().is_some_and(|object| object.strong_count() == 0);
            if self.order.len() >= KNOWN || self.by_text.get(&digest).is_none_or(gone) {
                self.by_text.remove(&digest);
            } else {
                self.order.push_back(digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// A type of its own for each test: a process has one table for each.
    #[derive(Debug, Deserialize)]
    struct Numbered<const TEST: usize> {
        number: u32,
    }

    fn text(number: u32) -> String {
        format!(r#"{{"number":{number}}}"#)
    }

    fn both<K: Send + Sync + 'static>() -> [Follower<K>; 2] {
        [Follower::new(), Follower::new()]
    }

    #[test]
    fn what_two_are_told_in_the_same_words_is_one_object() {
        type Kind = Numbered<1>;
        let both = both::<Kind>();
        let (one, other) = (both[0].read(&text(1)).unwrap(), both[1].read(&text(1)).unwrap());
        assert!(Arc::ptr_eq(&one, &other));
        let different = both[0].read(&text(2)).unwrap();
        assert_eq!((one.number, different.number), (1, 2));
    }

    #[test]
    fn who_is_alone_reads_straight_and_leaves_nothing() {
        type Kind = Numbered<2>;
        let table = Table::<Kind>::of_process();
        let alone = Follower::<Kind>::new();
        assert!(!Arc::ptr_eq(&alone.read(&text(1)).unwrap(), &alone.read(&text(1)).unwrap()));
        assert!(table.known().by_text.is_empty());
        let second = Follower::<Kind>::new();
        let held = alone.read(&text(1)).unwrap();
        assert_eq!(table.known().by_text.len(), 1);
        drop(second);
        assert!(table.known().by_text.is_empty() && table.known().latest.is_empty());
        assert_eq!(Arc::strong_count(&held), 1);
        drop(alone);
    }

    #[test]
    fn a_follower_that_is_behind_finds_what_another_has_let_go() {
        type Kind = Numbered<3>;
        let both = both::<Kind>();
        let first = Arc::downgrade(&both[0].read(&text(0)).unwrap());
        for number in 1..u32::try_from(LATEST).unwrap() {
            drop(both[0].read(&text(number)).unwrap());
        }
        assert!(Arc::ptr_eq(&both[1].read(&text(0)).unwrap(), &first.upgrade().unwrap()));
        drop(both[0].read(&text(u32::MAX)).unwrap());
        assert!(first.upgrade().is_none(), "kept for ever");
        assert_eq!(both[0].read(&text(0)).unwrap().number, 0);
    }

    #[test]
    fn what_nobody_holds_is_forgotten_and_what_is_held_is_found() {
        type Kind = Numbered<4>;
        let table = Table::<Kind>::of_process();
        let both = both::<Kind>();
        let held = both[0].read(&text(u32::MAX)).unwrap();
        for number in 0..10_000 {
            drop(both[0].read(&text(number)).unwrap());
        }
        let known = table.known().by_text.len();
        assert!(known <= 3 * LATEST, "{known} are known, {LATEST} are held");
        assert_eq!(table.known().order.len(), known);
        assert!(Arc::ptr_eq(&held, &both[1].read(&text(u32::MAX)).unwrap()));
    }

    #[test]
    fn a_text_that_cannot_be_read_is_refused_each_time() {
        type Kind = Numbered<5>;
        let both = both::<Kind>();
        for follower in &both {
            let error = follower.read(r#"{"number":"many"}"#).unwrap_err();
            assert!(error.to_string().contains("invalid type: string \"many\""), "{error}");
        }
    }

    #[test]
    fn many_who_read_at_the_same_time_get_one_object() {
        type Kind = Numbered<6>;
        let both = both::<Kind>();
        for number in 0..200 {
            let text = text(number);
            let read: Vec<Arc<Kind>> = std::thread::scope(|scope| {
                let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| both[0].read(&text).unwrap())).collect();
                readers.into_iter().map(|reader| reader.join().unwrap()).collect()
            });
            assert!(read.iter().all(|object| Arc::ptr_eq(object, &read[0]) && object.number == number));
        }
    }
}
