//! Random histories of writes, watches, compactions and crashes against a model.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use store::{Body, Change, Error, Options, RangeOptions, Revision, Storage, Store, Transaction};

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    /// Two keys at one revision.
    Move(u8, u8),
    /// A check that cannot hold.
    Refused(u8),
    /// The files as they are, as after a power failure, opened by another.
    Crash,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        3 => (0..6u8).prop_map(Step::Delete),
        2 => (0..6u8, 0..6u8).prop_filter("two keys", |(a, b)| a != b).prop_map(|(a, b)| Step::Move(a, b)),
        1 => (0..6u8).prop_map(Step::Refused),
        1 => Just(Step::Crash),
        1 => Just(Step::Reopen),
    ]
}

/// Key → (value, created, modified).
type Model = BTreeMap<String, (String, Revision, Revision)>;

#[derive(Debug, Default)]
struct World {
    now: Model,
    revision: Revision,
    /// The state at each revision.
    past: Vec<Model>,
    /// (revision, key, change, value)
    events: Vec<(Revision, String, Change, String)>,
}

impl World {
    fn put(&mut self, key: &str, value: &str) {
        let revision = self.revision + 1;
        let created = self.now.get(key).map_or(revision, |old| old.1);
        let change = if self.now.contains_key(key) { Change::Updated } else { Change::Created };
        let value = format!("{value}@{revision}");
        self.now.insert(key.to_owned(), (value.clone(), created, revision));
        self.events.push((revision, key.to_owned(), change, value));
    }

    fn delete(&mut self, key: &str) -> bool {
        let revision = self.revision + 1;
        let was = self.now.remove(key).is_some();
        if was {
            self.events.push((revision, key.to_owned(), Change::Deleted, format!("gone@{revision}")));
        }
        was
    }

    fn settle(&mut self) {
        self.past.push(self.now.clone());
        self.revision += 1;
    }
}

fn key(number: u8) -> String {
    format!("/{}/{number}", if number.is_multiple_of(2) { "even" } else { "odd" })
}

fn stamped(text: &str) -> Body {
    Body::Stamped { head: format!("{text}@").into_bytes(), tail: Vec::new() }
}

fn listed(store: &Store, prefix: &str, at: Option<Revision>) -> Result<Model, Error> {
    let range = store.range(prefix, RangeOptions { at, ..RangeOptions::default() })?;
    Ok(range
        .entries
        .into_iter()
        .map(|entry| {
            let value = String::from_utf8(entry.value.to_vec()).expect("text");
            (entry.key.to_string(), (value, entry.created, entry.modified))
        })
        .collect())
}

async fn carry_out(store: &Store, world: &mut World, step: &Step) {
    let transaction = match step {
        Step::Put(number, value) => {
            world.put(&key(*number), &value.to_string());
            Transaction::new().put(key(*number), stamped(&value.to_string()))
        }
        Step::Delete(number) => {
            let was = world.delete(&key(*number));
            let transaction = Transaction::new().delete(key(*number), stamped("gone"));
            if !was {
                assert_eq!(store.commit(transaction).await.unwrap(), world.revision);
                return;
            }
            transaction
        }
        Step::Move(from, to) => {
            world.delete(&key(*from));
            world.put(&key(*to), "moved");
            Transaction::new().delete(key(*from), stamped("gone")).put(key(*to), stamped("moved"))
        }
        Step::Refused(number) => {
            let transaction = Transaction::new().unchanged(key(*number), 999_999).put(key(*number), stamped("never"));
            assert!(matches!(store.commit(transaction).await, Err(Error::Conflict { .. })));
            return;
        }
        Step::Crash | Step::Reopen => return,
    };
    world.settle();
    assert_eq!(store.commit(transaction).await.unwrap(), world.revision);
}

/// Everything that can be asked agrees with the model.
async fn compare(store: &Store, world: &World) {
    assert_eq!(store.revision(), world.revision);
    assert_eq!(listed(store, "/", None).unwrap(), world.now);
    for at in 1..=world.revision {
        let expected = &world.past[at as usize - 1];
        match listed(store, "/", Some(at)) {
            Ok(found) => assert_eq!(&found, expected, "at {at}"),
            Err(Error::Compacted { .. }) => assert!(at < store.oldest()),
            Err(other) => panic!("{other}"),
        }
    }
    for prefix in ["/", "/even/", "/odd/"] {
        for after in store.oldest()..=world.revision {
            let mut watch = store.watch(prefix, after).unwrap();
            let mut events = Vec::new();
            while let Some(more) = Some(watch.ready().unwrap()).filter(|more| !more.is_empty()) {
                events.extend(more);
            }
            let found: Vec<_> = events
                .iter()
                .map(|e| (e.revision, e.key.to_string(), e.change, String::from_utf8(e.value.to_vec()).unwrap()))
                .collect();
            let expected: Vec<_> =
                world.events.iter().filter(|e| e.0 > after && e.1.starts_with(prefix)).cloned().collect();
            assert_eq!(found, expected, "{prefix} after {after}");
        }
    }
}

fn copied(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    std::fs::copy(from.join("data.redb"), to.path().join("data.redb")).unwrap();
    to
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_model(steps in prop::collection::vec(step(), 1..40), kept in 1..30usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let options = Options { history_events: kept, ..Options::default() };
            let mut dir = tempfile::tempdir().unwrap();
            let mut store = Store::open_with(dir.path(), options).unwrap();
            let mut world = World::default();
            for step in &steps {
                carry_out(&store, &mut world, step).await;
                match step {
                    Step::Crash => {
                        let image = copied(dir.path());
                        drop(store);
                        dir = image;
                        store = Store::open_with(dir.path(), options).unwrap();
                    }
                    Step::Reopen => {
                        drop(store);
                        store = Store::open_with(dir.path(), options).unwrap();
                    }
                    Step::Put(..) | Step::Delete(_) | Step::Move(..) | Step::Refused(_) => {}
                }
            }
            compare(&store, &world).await;
        });
    }
}

#[tokio::test]
async fn concurrent_writers_share_commits_and_watchers_miss_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = std::sync::Arc::new(Store::open(dir.path()).unwrap());
    let mut watch = store.watch("/k/", 0).unwrap();
    let writers: Vec<_> = (0..32)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..10 {
                    let key = format!("/k/{writer}-{n}");
                    store
                        .commit(Transaction::new().absent(&*key).put(&*key, Body::Plain(b"v".to_vec())))
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    let mut revisions = Vec::new();
    while revisions.len() < 320 {
        let events = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.unwrap().unwrap();
        revisions.extend(events.iter().map(|event| event.revision));
    }
    assert_eq!(revisions, (1..=320).collect::<Vec<_>>());
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn pages_continue_at_the_revision_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for name in ["a", "b", "c", "d"] {
        store.commit(Transaction::new().put(format!("/p/{name}"), Body::Plain(name.into()))).await.unwrap();
    }
    let first = store.range("/p/", RangeOptions { limit: 2, ..RangeOptions::default() }).unwrap();
    assert_eq!((first.entries.len(), first.remaining, first.revision), (2, 2, 4));
    store
        .commit(Transaction::new().delete("/p/c", Body::Plain(Vec::new())).put("/p/e", Body::Plain(Vec::new())))
        .await
        .unwrap();
    let rest = store
        .range("/p/", RangeOptions { after: Some(&first.entries[1].key), limit: 0, at: Some(first.revision) })
        .unwrap();
    let names: Vec<_> = rest.entries.iter().map(|entry| &*entry.key).collect();
    assert_eq!(names, ["/p/c", "/p/d"]);
}

#[tokio::test]
async fn a_quiet_watch_outlives_compaction_and_a_slow_one_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_events: 4, ..Options::default() };
    let store = Store::open_with(dir.path(), options).unwrap();
    let mut quiet = store.watch("/quiet/", 0).unwrap();
    let mut slow = store.watch("/busy/", 0).unwrap();
    for n in 0..20 {
        store.commit(Transaction::new().put(format!("/busy/{n}"), Body::Plain(Vec::new()))).await.unwrap();
    }
    store.commit(Transaction::new().put("/quiet/one", Body::Plain(Vec::new()))).await.unwrap();
    assert_eq!(quiet.next().await.unwrap().len(), 1);
    assert!(matches!(slow.next().await, Err(Error::Compacted { .. })));
    assert!(matches!(store.watch("/busy/", 1), Err(Error::Compacted { .. })));
}

#[test]
fn a_second_opener_learns_who_holds_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _store = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::InUse { holder, .. } if *holder == std::process::id().to_string()), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_reported_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = Store::open(dir.path()).unwrap();
        for n in 0..50 {
            store.commit(Transaction::new().put(format!("/d/{n}"), Body::Plain(vec![b'x'; 500]))).await.unwrap();
        }
    }
    let file = dir.path().join("data.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(100).position(|w| w == [b'x'; 100]).unwrap();
    for place in (at..bytes.len()).step_by(4096) {
        bytes[place] ^= 0x55;
    }
    std::fs::write(&file, &bytes).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert_eq!(std::fs::read(&file).unwrap().len(), bytes.len());

    std::fs::write(&file, b"not a store at all").unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
}
