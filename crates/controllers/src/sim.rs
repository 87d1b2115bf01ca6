//! A world for tests: objects by revision that take writes as an API server does, and views that are fed when the test says so.
//!
//! Changes wait in the sim until [`Sim::deliver`], so a test decides what a controller has seen; within one kind they come in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use client::{Key, Object};
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};

use crate::mechanism::{Informers, Verb, Write};

/// How many changes can be told again.
const REMEMBERED: usize = 64;

type Feed = Box<dyn Fn(&Informers, &Value, bool)>;

#[derive(Default)]
pub struct Sim {
    pub informers: Informers,
    objects: BTreeMap<(String, Key), Value>,
    revision: u64,
    pending: VecDeque<(String, Value, bool)>,
    /// What was delivered last, the newest at the end.
    delivered: VecDeque<(String, Value, bool)>,
    feeds: BTreeMap<String, Feed>,
    pub log: Vec<String>,
}

/// Why the sim refused a write.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    Exists,
    Conflict,
    NotFound,
}

impl Sim {
    /// Lets objects of a kind reach the views.
    pub fn follow<K: Object>(&mut self) {
        let feed = |informers: &Informers, value: &Value, gone: bool| {
            let object: Arc<K> = Arc::new(serde_json::from_value(value.clone()).expect("the sim holds valid objects"));
            if gone { informers.of::<K>().deleted(&object) } else { informers.of::<K>().applied(object) }
        };
        self.feeds.insert(K::kind(&()).into_owned(), Box::new(feed));
    }

    /// A user's or a kubelet's write: creates or replaces.
    pub fn put<K: Resource<DynamicType = ()> + Serialize>(&mut self, object: &K) -> Key {
        let kind = K::kind(&()).into_owned();
        let key = Key::new(object.meta().namespace.clone().unwrap_or_default(), object.meta().name.clone().unwrap());
        let mut value = serde_json::to_value(object).unwrap();
        if let Some(old) = self.objects.get(&(kind.clone(), key.clone())) {
            value["metadata"]["uid"] = old["metadata"]["uid"].clone();
        }
        self.store(&kind, &key, value);
        key
    }

    pub fn remove<K: Resource<DynamicType = ()>>(&mut self, key: &Key) {
        let kind = K::kind(&()).into_owned();
        if let Some(last) = self.objects.remove(&(kind.clone(), key.clone())) {
            self.revision += 1;
            self.pending.push_back((kind, last, true));
        }
    }

    pub fn get<K: Object>(&self, key: &Key) -> Option<K> {
        let value = self.objects.get(&(K::kind(&()).into_owned(), key.clone()))?;
        Some(serde_json::from_value(value.clone()).unwrap())
    }

    pub fn list<K: Object>(&self) -> Vec<K> {
        let kind = K::kind(&()).into_owned();
        let of_kind = self.objects.iter().filter(|((of, _), _)| *of == kind);
        of_kind.map(|(_, value)| serde_json::from_value(value.clone()).unwrap()).collect()
    }

    /// The views learn the oldest `count` changes that they have not seen.
    pub fn deliver(&mut self, count: usize) {
        for _ in 0..count {
            let Some(change) = self.pending.pop_front() else { return };
            self.tell(change);
        }
    }

    fn tell(&mut self, change: (String, Value, bool)) {
        if let Some(feed) = self.feeds.get(&change.0) {
            feed(&self.informers, &change.1, change.2);
        }
        self.delivered.push_back(change);
        if self.delivered.len() > REMEMBERED {
            self.delivered.pop_front();
        }
    }

    /// As [`Sim::deliver`] for one kind, ahead of the others: watches of different kinds keep no order among each other.
    pub fn deliver_kind(&mut self, kind: &str, count: usize) {
        for _ in 0..count {
            let Some(place) = self.pending.iter().position(|(of, _, _)| of == kind) else { return };
            if let Some(change) = self.pending.remove(place) {
                self.tell(change);
            }
        }
    }

    /// The watch of one kind went back: its last `count` changes are told again, in their order.
    pub fn repeat(&mut self, kind: &str, count: usize) {
        let of_kind: Vec<_> = self.delivered.iter().filter(|(of, _, _)| of == kind).cloned().collect();
        for (kind, value, gone) in of_kind.into_iter().rev().take(count).rev() {
            if let Some(feed) = self.feeds.get(&kind) {
                feed(&self.informers, &value, gone);
            }
        }
    }

    /// All views are gone, as after a restart of ours; what they follow stays.
    pub fn forget_views(&mut self) {
        self.informers = Informers::default();
        self.delivered.clear();
    }

    pub fn deliver_all(&mut self) {
        self.deliver(usize::MAX);
    }

    /// The watch broke and was repaired: what was pending is lost, and every view is told the present state.
    pub fn relist<K: Object>(&mut self) {
        let kind = K::kind(&()).into_owned();
        self.pending.retain(|(of, _, _)| *of != kind);
        self.delivered.retain(|(of, _, _)| *of != kind);
        for object in self.informers.of::<K>().list() {
            if !self.objects.contains_key(&(kind.clone(), Key::of(object.as_ref()))) {
                self.informers.of::<K>().deleted(&object);
            }
        }
        for object in self.list::<K>() {
            self.informers.of::<K>().applied(Arc::new(object));
        }
    }

    pub fn execute(&mut self, writes: Vec<Write>) -> Result<(), Refused> {
        for write in writes {
            self.log.push(write.to_string());
            self.apply(write)?;
        }
        Ok(())
    }

    fn replace(&mut self, kind: &str, key: &Key, old: Option<Value>, object: Value) -> Result<(), Refused> {
        check(&old.ok_or(Refused::NotFound)?, &object)?;
        self.store(kind, key, object);
        Ok(())
    }

    fn apply(&mut self, write: Write) -> Result<(), Refused> {
        let (kind, key) = (write.target.kind, write.target.key);
        let id = (kind.clone(), key.clone());
        let old = self.objects.get(&id).cloned();
        match write.verb {
            Verb::Create(object) => {
                let mut object = object.value();
                let key = if key.name.is_empty() { self.name(&key, &mut object) } else { key };
                if self.objects.contains_key(&(kind.clone(), key.clone())) {
                    return Err(Refused::Exists);
                }
                self.store(&kind, &key, object);
            }
            Verb::Replace(object) => self.replace(&kind, &key, old, object.value())?,
            Verb::ReplaceSubresource(_, object) => self.replace(&kind, &key, old, object)?,
            Verb::ReplaceStatus(object) => {
                let object = object.value();
                let mut old = old.ok_or(Refused::NotFound)?;
                check(&old, &object)?;
                old["status"] = object["status"].clone();
                self.store(&kind, &key, old);
            }
            Verb::Patch(patch) | Verb::PatchStatus(patch) => {
                let mut old = old.ok_or(Refused::NotFound)?;
                check(&old, &patch)?;
                let held = is_held(&old);
                merge(&mut old, &patch);
                if held && !is_held(&old) && !old["metadata"]["deletionTimestamp"].is_null() {
                    self.drop_object(id, old);
                    return Ok(());
                }
                self.store(&kind, &key, old);
            }
            Verb::Delete { uid, .. } => {
                let old = old.filter(|old| old["metadata"]["uid"] == json!(uid)).ok_or(Refused::NotFound);
                match old {
                    Ok(mut old) if is_held(&old) => {
                        if old["metadata"]["deletionTimestamp"].is_null() {
                            old["metadata"]["deletionTimestamp"] = json!(self.moment());
                            self.store(&kind, &key, old);
                        }
                    }
                    Ok(old) => self.drop_object(id, old),
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }

    fn drop_object(&mut self, id: (String, Key), last: Value) {
        self.objects.remove(&id);
        self.revision += 1;
        self.pending.push_back((id.0, last, true));
    }

    /// The sim's clock: a second for each revision.
    fn moment(&self) -> String {
        Timestamp::from_second(i64::try_from(self.revision).unwrap()).unwrap().to_string()
    }

    fn name(&mut self, key: &Key, object: &mut Value) -> Key {
        let prefix = object["metadata"]["generateName"].as_str().expect("a name or a prefix").to_owned();
        let name = format!("{prefix}{:05}", self.revision);
        object["metadata"]["name"] = json!(name);
        Key::new(key.namespace.clone(), name)
    }

    fn store(&mut self, kind: &str, key: &Key, mut object: Value) {
        self.revision += 1;
        let spec = object["spec"].clone();
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = json!(self.revision.to_string());
        let old = self.objects.get(&(kind.to_owned(), key.clone()));
        let generation = old.and_then(|old| old["metadata"]["generation"].as_i64()).unwrap_or(0);
        let same_spec = old.is_some_and(|old| old["spec"] == spec);
        meta["generation"] = json!(if same_spec { generation } else { generation + 1 });
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{}", self.revision));
        }
        if meta["creationTimestamp"].is_null() {
            let second = i64::try_from(self.revision).unwrap();
            meta["creationTimestamp"] = json!(Timestamp::from_second(second).unwrap().to_string());
        }
        self.objects.insert((kind.to_owned(), key.clone()), object.clone());
        self.pending.push_back((kind.to_owned(), object, false));
    }
}

/// Whether finalizers keep the object.
fn is_held(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty())
}

fn check(old: &Value, new: &Value) -> Result<(), Refused> {
    let revision = &new["metadata"]["resourceVersion"];
    let uid = &new["metadata"]["uid"];
    let stale = !revision.is_null() && *revision != old["metadata"]["resourceVersion"];
    let other = !uid.is_null() && *uid != old["metadata"]["uid"];
    if stale || other { Err(Refused::Conflict) } else { Ok(()) }
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let into = into.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            into.remove(key);
        } else {
            merge(into.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
