//! Two hundred Services over a hundred pods on three nodes. Each selects twenty pods, each pod belongs to some forty Services, and all of it
//! comes and goes: endpoints converge to what selectors and readiness define, and how long they are out of date is measured and told.
//!
//! `PORTOLAN_TEST_CHURN` says for how many seconds things come and go (15 without it), `PORTOLAN_TEST_PACE` how many milliseconds lie between
//! one disturbance and the next (none without it: the machine is kept busy), `PORTOLAN_TEST_GROUPS` over how many groups of five pods the
//! Services are spread (20; with 800 each Service has twenty pods of its own), and `PORTOLAN_TEST_NODES` over how many nodes (3; a node holds
//! 250 pods). Times decide nothing here: they are told beside the result, by when an observer of both, outside of the
//! cluster's process, heard of a pod's change and of the slice that says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Machine, until};

/// Pods of a group, a Deployment each.
const PODS: usize = 5;
const SERVICES: usize = 200;
/// Groups that are begun together.
const AT_ONCE: usize = 20;
/// The Services from here on are themselves changed, deleted and made again; how late those are is not measured.
const STEADY: usize = 180;

/// The groups that a Service selects, as distances from its first.
const DISTANCES: [[usize; 4]; 10] = [
    [0, 1, 2, 3],
    [0, 1, 4, 9],
    [0, 2, 5, 11],
    [0, 3, 7, 12],
    [0, 1, 6, 13],
    [0, 2, 8, 15],
    [0, 4, 9, 14],
    [0, 5, 10, 16],
    [0, 3, 8, 17],
    [0, 6, 11, 18],
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn groups() -> usize {
    number("PORTOLAN_TEST_GROUPS").and_then(|groups| usize::try_from(groups).ok()).unwrap_or(20)
}

/// None is another Service's where there are enough of them.
fn groups_of(service: usize) -> [usize; 4] {
    if groups() >= SERVICES * 4 {
        return [0, 1, 2, 3].map(|number| service * 4 + number);
    }
    DISTANCES[service * DISTANCES.len() / SERVICES].map(|distance| (service + distance) % groups())
}

fn services_of(group: usize) -> impl Iterator<Item = usize> {
    (0..SERVICES).filter(move |service| groups_of(*service).contains(&group))
}

fn deployment(group: usize) -> String {
    let labels = services_of(group).fold(String::new(), |mut labels, service| {
        let _ = write!(labels, ", s{service}: member");
        labels
    });
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: g{group}}}\nspec:\n  replicas: {PODS}\n  \
         selector: {{matchLabels: {{group: g{group}}}}}\n  template:\n    metadata: {{labels: {{group: g{group}{labels}}}}}\n    \
         spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n        - name: web\n          \
         image: localhost/busybox:test\n          command: [httpd, -f, -p, \"8080\"]\n---\n"
    )
}

fn service(number: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{number}}}\nspec: {{selector: {{s{number}: member}}, \
         ports: [{{port: 80, targetPort: 8080}}]}}\n---\n"
    )
}

struct Cluster {
    machine: Machine,
}

impl Cluster {
    fn up() -> Result<Self> {
        let nodes = number("PORTOLAN_TEST_NODES").unwrap_or(3).to_string();
        let cluster = Cluster { machine: Machine::with_cluster(&["--nodes", &nodes, "--max-pods", "250"])? };
        cluster.create(&(0..SERVICES).map(service).collect::<String>())?;
        for start in (0..groups()).step_by(AT_ONCE) {
            let end = groups().min(start + AT_ONCE);
            cluster.create(&(start..end).map(deployment).collect::<String>())?;
            let begun: Vec<String> = (start..end).map(|group| format!("deployment/g{group}")).collect();
            let begun = begun.iter().map(String::as_str);
            let words: Vec<&str> =
                ["wait", "--for=condition=Available", "--timeout=90s"].into_iter().chain(begun).collect();
            cluster.kubectl(&words)?;
        }
        Ok(cluster)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.machine.kubectl(arguments)?.ok()?.out)
    }

    fn create(&self, manifest: &str) -> Result<()> {
        let file = self.machine.file("manifest.yaml", manifest)?;
        self.kubectl(&["create", "-f", &file.to_string_lossy()]).map(drop)
    }

    /// Waits until each Service sends to exactly the ready pods that it selects, twenty of them.
    fn settled(&self) -> Result<()> {
        until("each Service has the ready pods that it selects", || {
            let pods = self.kubectl(&["get", "pods", "-o", "json"])?;
            let pods: Value = serde_json::from_str(&pods)?;
            let mut ready: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
            for pod in pods["items"].as_array().context("no pods")? {
                let pod = Pod::read(pod).context("no group")?;
                if let Some(State { ready: true, .. }) = pod.state {
                    ready.entry(pod.group).or_default().insert(pod.uid);
                }
            }
            let slices = self.kubectl(&["get", "endpointslices", "-o", "json"])?;
            let slices: Value = serde_json::from_str(&slices)?;
            let mut sent: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
            for slice in slices["items"].as_array().context("no slices")?.iter().filter_map(Slice::read) {
                let uids = slice.endpoints.into_iter().filter(|(_, state)| state.ready).map(|(uid, _)| uid);
                sent.entry(slice.service).or_default().extend(uids);
            }
            for service in 0..SERVICES {
                let sent = sent.remove(&service).unwrap_or_default();
                let groups = groups_of(service);
                let expected: BTreeSet<String> =
                    groups.iter().filter_map(|group| ready.get(group)).flatten().cloned().collect();
                ensure!(sent == expected, "s{service} sends to {sent:?}, its ready pods are {expected:?}");
                ensure!(sent.len() == groups.len() * PODS, "s{service} has {} endpoints", sent.len());
            }
            Ok(())
        })
    }

    /// One change of something.
    fn disturb(&self, round: usize) -> Result<()> {
        // Neighbours in time are no neighbours in number.
        let group = round * 7 % groups();
        let deployment = format!("deployment/g{group}");
        let number = STEADY + round * 3 % (SERVICES - STEADY);
        let changed = format!("service/s{number}");
        match round % 5 {
            0 => drop(self.kubectl(&["delete", "pods", "-l", &format!("group=g{group}"), "--wait=false"])?),
            1 => drop(self.kubectl(&["scale", &deployment, &format!("--replicas={}", 2 + round % 6)])?),
            2 => self.machine.rollout_restart(&deployment)?,
            3 => {
                let selector = |value: &str| format!(r#"{{"spec": {{"selector": {{"s{number}": "{value}"}}}}}}"#);
                self.kubectl(&["patch", &changed, "-p", &selector("nobody")])?;
                self.kubectl(&["patch", &changed, "-p", &selector("member")])?;
            }
            _ => {
                self.kubectl(&["delete", &changed])?;
                self.create(&service(number))?;
            }
        }
        Ok(())
    }
}

/// What an endpoint says of a pod, and what follows from the pod itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    ready: bool,
    serving: bool,
    terminating: bool,
}

struct Pod {
    uid: String,
    group: usize,
    /// Nothing for one that is no endpoint.
    state: Option<State>,
}

impl Pod {
    fn read(pod: &Value) -> Option<Pod> {
        let group = pod["metadata"]["labels"]["group"].as_str()?.strip_prefix('g')?.parse().ok()?;
        let uid = pod["metadata"]["uid"].as_str()?.to_owned();
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let serving = conditions.any(|one| one["type"] == "Ready" && one["status"] == "True");
        let terminating = !pod["metadata"]["deletionTimestamp"].is_null();
        let state = State { ready: serving && !terminating, serving, terminating };
        let state = (pod["status"]["podIP"].is_string() && !ended).then_some(state);
        Some(Pod { uid, group, state })
    }
}

struct Slice {
    name: String,
    service: usize,
    endpoints: BTreeMap<String, State>,
}

impl Slice {
    fn read(slice: &Value) -> Option<Slice> {
        let service = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str()?;
        let service = service.strip_prefix('s')?.parse().ok()?;
        let endpoint = |endpoint: &Value| {
            let is = |condition: &str| endpoint["conditions"][condition] == true;
            let state = State { ready: is("ready"), serving: is("serving"), terminating: is("terminating") };
            Some((endpoint["targetRef"]["uid"].as_str()?.to_owned(), state))
        };
        let endpoints = slice["endpoints"].as_array().into_iter().flatten().filter_map(endpoint).collect();
        Some(Slice { name: slice["metadata"]["name"].as_str()?.to_owned(), service, endpoints })
    }
}

/// Watches pods and slices from outside, and knows of each pod and Service since when the slices have not said what the pod is.
struct Observer {
    heard: Receiver<(Instant, String)>,
    watches: Vec<Child>,
    pods: BTreeMap<String, Pod>,
    slices: BTreeMap<usize, BTreeMap<String, BTreeMap<String, State>>>,
    stale: BTreeMap<(usize, String), Instant>,
    /// How long each change took that had to be waited for, by what the pod has become, and how many were there before the pod's was heard of.
    took: BTreeMap<&'static str, Vec<Duration>>,
    early: usize,
}

impl Observer {
    fn start(cluster: &Cluster) -> Result<Observer> {
        let (tell, heard) = channel();
        let paths = ["/api/v1/namespaces/default/pods", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"];
        let watches = paths.map(|path| watch(cluster, path, tell.clone())).into_iter().collect::<Result<_>>()?;
        let (pods, slices, stale) = Default::default();
        Ok(Observer { heard, watches, pods, slices, stale, took: BTreeMap::new(), early: 0 })
    }

    fn listen(&mut self) -> Result<()> {
        while let Ok((at, line)) = self.heard.try_recv() {
            let event: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            let gone = match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") => false,
                Some("DELETED") => true,
                _ => anyhow::bail!("the watch ended: {line}"),
            };
            match event["object"]["kind"].as_str() {
                Some("Pod") => self.pod(at, &event["object"], gone),
                _ => self.slice(at, &event["object"], gone),
            }
        }
        Ok(())
    }

    fn pod(&mut self, at: Instant, object: &Value, gone: bool) {
        let Some(mut pod) = Pod::read(object) else { return };
        if gone {
            pod.state = None;
        }
        let (uid, group, state) = (pod.uid.clone(), pod.group, pod.state);
        if self.pods.insert(uid.clone(), pod).and_then(|before| before.state) == state {
            return;
        }
        for service in services_of(group).filter(|service| *service < STEADY) {
            if self.said(service, &uid) == state {
                self.early += 1;
                self.stale.remove(&(service, uid.clone()));
            } else {
                self.stale.entry((service, uid.clone())).or_insert(at);
            }
        }
    }

    fn slice(&mut self, at: Instant, object: &Value, gone: bool) {
        let Some(slice) = Slice::read(object) else { return };
        let of_service = self.slices.entry(slice.service).or_default();
        match gone {
            true => drop(of_service.remove(&slice.name)),
            false => drop(of_service.insert(slice.name, slice.endpoints)),
        }
        let of_service = (slice.service, String::new())..(slice.service + 1, String::new());
        let stale: Vec<String> = self.stale.range(of_service).map(|((_, uid), _)| uid.clone()).collect();
        for uid in stale {
            let due = self.pods.get(&uid).and_then(|pod| pod.state);
            if self.said(slice.service, &uid) == due
                && let Some(since) = self.stale.remove(&(slice.service, uid))
            {
                self.took.entry(became(due)).or_default().push(at.duration_since(since));
            }
        }
    }

    /// What the slices of a Service say of a pod.
    fn said(&self, service: usize, uid: &str) -> Option<State> {
        self.slices.get(&service)?.values().find_map(|endpoints| endpoints.get(uid)).copied()
    }

    fn caught_up(&mut self) -> Result<()> {
        until("the slices say of every pod what it is", || {
            self.listen()?;
            let stale: Vec<_> = self.stale.keys().take(5).collect();
            ensure!(stale.is_empty(), "{} are stale, such as {stale:?}", self.stale.len());
            Ok(())
        })
    }

    fn report(&mut self) -> String {
        let mut told = String::new();
        for (what, took) in &mut self.took {
            took.sort();
            let millis = |part: usize| took[(took.len() - 1) * part / 1000].as_secs_f64() * 1000.0;
            let (half, most, all) = (millis(500), millis(990), millis(1000));
            let _ =
                write!(told, "\n{what}: {} times, p50 {half:.1} ms, p99 {most:.1} ms, longest {all:.1} ms", took.len());
        }
        format!("{} were there before the pod's change was heard of{told}", self.early)
    }
}

fn became(state: Option<State>) -> &'static str {
    match state {
        None => "gone",
        Some(State { terminating: true, serving: true, .. }) => "ends, serving",
        Some(State { terminating: true, .. }) => "ends",
        Some(State { ready: true, .. }) => "ready",
        Some(_) => "not ready",
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        for watch in &mut self.watches {
            let _ = watch.kill();
            let _ = watch.wait();
        }
    }
}

/// A watch whose events are told with the time at which they were read.
fn watch(cluster: &Cluster, path: &str, tell: Sender<(Instant, String)>) -> Result<Child> {
    let kubectl = std::env::var_os("KUBECTL_NEWEST").unwrap_or_else(|| "kubectl".into());
    let mut watch = cluster.machine.command(kubectl);
    watch.args(["get", "--raw", &format!("{path}?watch=true&timeoutSeconds=86400")]).stdout(Stdio::piped());
    let mut child = watch.spawn().context("no kubectl")?;
    let output = child.stdout.take().context("no output")?;
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if tell.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    Ok(child)
}

#[test]
fn two_hundred_services_follow_a_hundred_pods() -> Result<()> {
    let seconds = number("PORTOLAN_TEST_CHURN").unwrap_or(15);
    let pace = Duration::from_millis(number("PORTOLAN_TEST_PACE").unwrap_or(0));
    let cluster = Cluster::up()?;
    cluster.settled()?;
    let mut observer = Observer::start(&cluster)?;
    until("the observer knows every pod and slice", || {
        observer.listen()?;
        ensure!(observer.pods.len() == groups() * PODS && observer.slices.len() == SERVICES);
        Ok(())
    })?;
    observer.caught_up()?;
    observer.took.clear();
    observer.early = 0;
    let (began, mut rounds) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(seconds) {
        let next = Instant::now() + pace;
        cluster.disturb(rounds)?;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        observer.listen()?;
        rounds += 1;
    }
    cluster.kubectl(&["scale", "deployment", "--all", &format!("--replicas={PODS}")])?;
    cluster.settled()?;
    observer.caught_up()?;
    ensure!(!observer.took.is_empty(), "nothing has changed");
    println!("{rounds} disturbances in {} s; {}", began.elapsed().as_secs(), observer.report());
    Ok(())
}
