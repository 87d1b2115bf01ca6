//! Several followers of one kind in one process, each with its own client of a real API server: none loses a change. And one of a server
//! that fails in the middle of a list.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver::{ApiServer, User};
use client::{Change, Key, Watched};
use http::{Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Lab {
    server: ApiServer,
    _folder: tempfile::TempDir,
}

impl Lab {
    async fn new() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        Lab { server: ApiServer::open(apiserver::Config::new(folder.path())).await.unwrap(), _folder: folder }
    }

    fn client(&self) -> Client {
        client::in_process(self.server.service(User::admin()))
    }

    fn follow(&self, config: watcher::Config, end: &CancellationToken) -> Watched<ConfigMap> {
        Watched::start(Api::namespaced(self.client(), "default"), config, end.clone())
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client(), "default")
    }

    async fn create(&self, name: &str) {
        let map = json!({"metadata": {"name": name, "labels": {"stays": "yes"}}, "data": {"count": "0"}});
        self.maps().create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    }

    async fn change(&self, name: &str, patch: Value) -> u64 {
        let changed = self.maps().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        revision(&changed)
    }
}

fn revision(map: &ConfigMap) -> u64 {
    map.resource_version().unwrap().parse().unwrap()
}

fn count(map: &ConfigMap) -> &str {
    &map.data.as_ref().unwrap()["count"]
}

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    let in_time = tokio::time::timeout(PATIENCE, wait).await;
    in_time.unwrap_or_else(|_| panic!("{what} never came"))
}

/// Everything that is told up to and with that revision, as text.
async fn told(changes: &mut UnboundedReceiver<Change<ConfigMap>>, until: u64) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let change = within("a change", changes.recv()).await.unwrap();
        let (text, object) = match &change {
            Change::Synced => {
                told.push("synced".to_owned());
                continue;
            }
            Change::Applied { object, .. } => (format!("{}={}", object.name_any(), count(object)), object),
            Change::Deleted(object) => (format!("{}={} gone", object.name_any(), count(object)), object),
        };
        told.push(text);
        if revision(object) == until {
            return told;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_lose_no_change_however_slow_or_late_they_are() {
    let (lab, end) = (Lab::new().await, CancellationToken::new());
    lab.create("a").await;
    let first = lab.follow(watcher::Config::default(), &end);
    // Nobody reads this before the end.
    let mut slow = first.changes();
    first.synced().await;
    lab.create("b").await;
    let second = lab.follow(watcher::Config::default(), &end);
    second.synced().await;
    let mut expected: Vec<String> = Vec::new();
    let mut last = 0;
    for round in 1..=600 {
        let name = if round % 3 == 0 { "a" } else { "b" };
        last = lab.change(name, json!({"data": {"count": round.to_string()}})).await;
        expected.push(format!("{name}={round}"));
    }
    let heard = told(&mut slow, last).await;
    assert!(heard.ends_with(&expected), "{heard:?}");
    assert_eq!(heard[..heard.len() - expected.len()], ["a=0", "synced", "b=0"]);
    // Who comes late is told of all that is there, and then of each change.
    let key = Key::new("default", "a");
    within("the last change", async {
        while second.get(&key).is_none_or(|map| count(&map) != "600") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut late = second.changes();
    let next = lab.change("a", json!({"data": {"count": "later"}})).await;
    assert_eq!(told(&mut late, next).await, ["a=600", "b=599", "synced", "a=later"]);
    assert_eq!(told(&mut slow, next).await, ["a=later"]);
    // When nobody follows any more, nothing is kept.
    let held = Arc::downgrade(&first.get(&key).unwrap());
    drop((slow, late));
    end.cancel();
    drop((first, second));
    within("the end", async {
        while held.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// One change under one revision is two different things to a watch of everything and to one that selects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_selects_is_told_what_left_and_not_what_it_became() {
    let (lab, end) = (Lab::new().await, CancellationToken::new());
    let (all, some) = (
        lab.follow(watcher::Config::default(), &end),
        lab.follow(watcher::Config::default().labels("stays=yes"), &end),
    );
    let (mut everything, mut selected) = (all.changes(), some.changes());
    all.synced().await;
    some.synced().await;
    let mut last = BTreeMap::new();
    for round in 0..50 {
        let name = format!("m{round}");
        lab.create(&name).await;
        let gone = lab.change(&name, json!({"metadata": {"labels": null}, "data": {"count": "1"}})).await;
        let (full, part) = (told(&mut everything, gone).await, told(&mut selected, gone).await);
        assert_eq!(full.last(), Some(&format!("{name}=1")));
        assert_eq!(part.last(), Some(&format!("{name}=0 gone")));
        last.insert(name, gone);
    }
    assert!(some.list().iter().all(|map| !last.contains_key(&map.name_any())));
    assert_eq!(all.list().iter().filter(|map| last.contains_key(&map.name_any())).count(), last.len());
    end.cancel();
}

/// A client that gets these answers to its lists, one after another; a watch hears nothing.
fn scripted(answers: Vec<Result<Value, u16>>) -> Client {
    let asked = Arc::new(AtomicUsize::new(0));
    let answers = Arc::new(answers);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (asked, answers) = (Arc::clone(&asked), Arc::clone(&answers));
        async move {
            if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                std::future::pending::<()>().await;
            }
            let (code, body) = match &answers[asked.fetch_add(1, Ordering::Relaxed)] {
                Ok(list) => (200, list.to_string()),
                Err(code) => (*code, String::new()),
            };
            Ok::<_, Infallible>(Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap())
        }
    });
    Client::new(service, "default")
}

fn page(items: impl IntoIterator<Item = Value>, next: Option<&str>) -> Value {
    let meta = json!({"resourceVersion": "9", "continue": next});
    json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": meta, "items": items.into_iter().collect::<Vec<_>>()})
}

fn map(name: &str, data: &Value) -> Value {
    let meta = json!({"name": name, "namespace": "default", "resourceVersion": "5"});
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta, "data": data})
}

/// What the first list tells is told at once; what a second one after it does not have is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_list_that_breaks_off_leaves_nothing_that_is_gone() {
    let data = json!({"count": "0"});
    let client = scripted(vec![
        Ok(page(["a", "b"].map(|name| map(name, &data)), Some("more"))),
        Err(500),
        Ok(page(["a", "c"].map(|name| map(name, &data)), None)),
    ]);
    let end = CancellationToken::new();
    let followed: Watched<ConfigMap> =
        Watched::start(Api::namespaced(client, "default"), watcher::Config::default(), end.clone());
    let mut changes = followed.changes();
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "synced") {
        heard.push(match within("a change", changes.recv()).await.unwrap() {
            Change::Applied { object, .. } => object.name_any(),
            Change::Deleted(object) => format!("{} gone", object.name_any()),
            Change::Synced => "synced".to_owned(),
        });
    }
    assert_eq!(heard, ["a", "b", "b gone", "c", "synced"]);
    end.cancel();
}

/// Many are read by several tasks, and come in their order; one that cannot be read is missing, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_comes_in_its_order_but_for_what_cannot_be_read() {
    let (good, bad) = (&json!({"count": "0"}), &json!("no data"));
    let name = |number: usize| format!("m{number:04}");
    let items = |from: usize| (from..from + 400).map(move |n| map(&name(n), if n == 555 { bad } else { good }));
    let client = scripted(vec![Ok(page(items(0), Some("more"))), Ok(page(items(400), None))]);
    let end = CancellationToken::new();
    let followed: Watched<ConfigMap> =
        Watched::start(Api::namespaced(client, "default"), watcher::Config::default(), end.clone());
    let mut changes = followed.changes();
    let mut heard = Vec::new();
    while let Change::Applied { object, .. } = within("a change", changes.recv()).await.unwrap() {
        heard.push(object.name_any());
    }
    let expected: Vec<String> = (0..800).filter(|number| *number != 555).map(name).collect();
    assert_eq!(heard, expected);
    end.cancel();
}
