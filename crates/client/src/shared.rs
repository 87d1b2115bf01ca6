//! One value for what several followers in a process are told in the same words.
//!
//! Each follower has its own client, its own rights and its own watch, as if it were alone; what they share is the work of reading a text,
//! and what came of it. Two texts are the same when their SHA-256 is, so nothing is assumed of who sent them, nor of revisions: a watch that
//! selects is told of an object that leaves it under the revision at which another watch has it changed. A kind that only one follows is read
//! straight. Objects are remembered only while somebody holds them, but for the latest few: a follower that is behind finds those too.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Debug};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::task::{Context, Poll};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::Object;

/// The latest objects of a kind that are kept although nobody holds them: by so many changes one follower may be behind another.
const LATEST: usize = 256;
/// So many objects of a kind are known by their text at most; of more than that, old ones are read once for each follower.
const KNOWN: usize = 16_384;

/// An object that others in this process may hold too.
pub struct Shared<K>(Arc<K>);

impl<K> Shared<K> {
    pub fn into_inner(self) -> Arc<K> {
        self.0
    }
}

impl<K> From<K> for Shared<K> {
    fn from(object: K) -> Self {
        Shared(Arc::new(object))
    }
}

impl<K> Clone for Shared<K> {
    fn clone(&self) -> Self {
        Shared(Arc::clone(&self.0))
    }
}

impl<K> Deref for Shared<K> {
    type Target = K;

    fn deref(&self) -> &K {
        &self.0
    }
}

impl<K: Debug> Debug for Shared<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<K: Resource<DynamicType = ()> + Clone> Resource for Shared<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        Arc::make_mut(&mut self.0).meta_mut()
    }
}

/// As JSON only, and of a watch's event after its type, which every API server writes first.
impl<'de, K: DeserializeOwned + Send + Sync + 'static> Deserialize<'de> for Shared<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = Table::<K>::of_process();
        if table.followers.load(Ordering::Relaxed) < 2 {
            return K::deserialize(deserializer).map(Shared::from);
        }
        let text = Box::<RawValue>::deserialize(deserializer)?;
        table.read(text.get()).map(Shared).map_err(D::Error::custom)
    }
}

/// Follows what `api` and `config` select, with kube's watcher: faults are told and ridden out.
pub fn follow<K: Object>(api: Api<Shared<K>>, config: watcher::Config) -> Following<K> {
    let follower = Follower::new(Table::of_process());
    Following { events: watcher::watcher(api, config).default_backoff().boxed(), _follower: follower }
}

/// The changes of one kind as one follower hears of them. What it is told in the words of another follower is the other's object.
pub struct Following<K: Object> {
    events: BoxStream<'static, watcher::Result<Event<Shared<K>>>>,
    _follower: Follower<K>,
}

impl<K: Object> Debug for Following<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following").finish_non_exhaustive()
    }
}

impl<K: Object> Stream for Following<K> {
    type Item = watcher::Result<Event<Shared<K>>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(cx)
    }
}

/// Counts a follower for as long as it lives.
struct Follower<K>(Arc<Table<K>>);

impl<K> Follower<K> {
    fn new(table: Arc<Table<K>>) -> Self {
        table.followers.fetch_add(1, Ordering::Relaxed);
        Follower(table)
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
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::json;

    use super::*;

    /// A type of its own for each test: a process has one table for each.
    #[derive(Debug, Deserialize)]
    struct Numbered<const TEST: usize> {
        number: u32,
    }

    fn text(number: u32) -> String {
        format!(r#"{{"type":"MODIFIED","object":{{"number":{number}}}}}"#)
    }

    fn event<K: DeserializeOwned + Send + Sync + 'static>(text: &str) -> Arc<K> {
        match serde_json::from_str::<WatchEvent<Shared<K>>>(text).unwrap() {
            WatchEvent::Modified(object) => object.into_inner(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_two_are_told_in_the_same_words_is_one_object() {
        type Kind = Numbered<1>;
        let _both = [0, 1].map(|_| Follower::new(Table::<Kind>::of_process()));
        let (one, other) = (event::<Kind>(&text(1)), event::<Kind>(&text(1)));
        assert!(Arc::ptr_eq(&one, &other));
        let different = event::<Kind>(&text(2));
        assert_eq!((one.number, different.number), (1, 2));
        // An object of a list is the one of a watch, if it is told the same way.
        let list = format!(r#"{{"metadata":{{}},"items":[{},{}]}}"#, json!({"number": 1}), json!({"number": 3}));
        let list: ObjectList<Shared<Kind>> = serde_json::from_str(&list).unwrap();
        assert!(Arc::ptr_eq(&one, &list.items[0].0));
        assert_eq!(list.items[1].number, 3);
    }

    #[test]
    fn who_is_alone_reads_straight_and_leaves_nothing() {
        type Kind = Numbered<2>;
        let table = Table::<Kind>::of_process();
        let alone = Follower::new(Arc::clone(&table));
        assert!(!Arc::ptr_eq(&event::<Kind>(&text(1)), &event::<Kind>(&text(1))));
        assert!(table.known().by_text.is_empty());
        let second = Follower::new(Arc::clone(&table));
        let held = event::<Kind>(&text(1));
        assert_eq!(table.known().by_text.len(), 1);
        drop(second);
        assert!(table.known().by_text.is_empty() && table.known().latest.is_empty());
        assert_eq!(Arc::strong_count(&held), 1);
        drop(alone);
    }

    #[test]
    fn a_follower_that_is_behind_finds_what_another_has_let_go() {
        type Kind = Numbered<3>;
        let _both = [0, 1].map(|_| Follower::new(Table::<Kind>::of_process()));
        let first = Arc::downgrade(&event::<Kind>(&text(0)));
        for number in 1..u32::try_from(LATEST).unwrap() {
            drop(event::<Kind>(&text(number)));
        }
        assert!(Arc::ptr_eq(&event::<Kind>(&text(0)), &first.upgrade().unwrap()));
        drop(event::<Kind>(&text(u32::MAX)));
        assert!(first.upgrade().is_none(), "kept for ever");
        assert_eq!(event::<Kind>(&text(0)).number, 0);
    }

    #[test]
    fn what_nobody_holds_is_forgotten_and_what_is_held_is_found() {
        type Kind = Numbered<4>;
        let table = Table::<Kind>::of_process();
        let _both = [0, 1].map(|_| Follower::new(Arc::clone(&table)));
        let held = event::<Kind>(&text(u32::MAX));
        for number in 0..10_000 {
            drop(event::<Kind>(&text(number)));
        }
        let known = table.known().by_text.len();
        assert!(known <= 3 * LATEST, "{known} are known, {LATEST} are held");
        assert_eq!(table.known().order.len(), known);
        assert!(Arc::ptr_eq(&held, &event::<Kind>(&text(u32::MAX))));
    }

    #[test]
    fn a_text_that_cannot_be_read_is_refused_each_time() {
        type Kind = Numbered<5>;
        let _both = [0, 1].map(|_| Follower::new(Table::<Kind>::of_process()));
        let wrong = r#"{"type":"MODIFIED","object":{"number":"many"}}"#;
        for _ in 0..2 {
            let error = serde_json::from_str::<WatchEvent<Shared<Kind>>>(wrong).unwrap_err();
            assert!(error.to_string().contains("invalid type: string \"many\""), "{error}");
        }
    }

    #[test]
    fn many_who_read_at_the_same_time_get_one_object() {
        type Kind = Numbered<6>;
        let _both = [0, 1].map(|_| Follower::new(Table::<Kind>::of_process()));
        for number in 0..200 {
            let text = text(number);
            let read: Vec<Arc<Kind>> = std::thread::scope(|scope| {
                let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| event::<Kind>(&text))).collect();
                readers.into_iter().map(|reader| reader.join().unwrap()).collect()
            });
            assert!(read.iter().all(|object| Arc::ptr_eq(object, &read[0]) && object.number == number));
        }
    }

    #[test]
    fn who_changes_his_object_changes_it_for_himself() {
        let mut mine = Shared::from(ConfigMap::default());
        let theirs = mine.clone();
        mine.meta_mut().name = Some("mine".to_owned());
        assert_eq!((mine.meta().name.as_deref(), theirs.meta().name.as_deref()), (Some("mine"), None));
    }
}
