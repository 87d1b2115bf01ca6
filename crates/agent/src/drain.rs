//! The drain of a pod that ends: its containers are told only after everyone has stopped sending to it.
//!
//! The endpoint is first marked terminating by the EndpointSlice controller; then every proxy, DNS server, ingress and load balancer says
//! that it has applied that; only then come `preStop` and SIGTERM. `preStop` waits as well, because it is often what begins an app's end; a
//! `preStop` that sleeps only to bridge this gap loses nothing but its purpose. All of it is part of the grace period, bounded to two
//! seconds for each, and skipped for pods that no Service selects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use client::drain::{Drains, Silence, SliceAt};
use client::{Change, Key, Watched};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use linux::NetNs;
use netlink::{Conntrack, Flow};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use crate::config::Config;
use crate::context::Context;
use crate::events::Kind;
use crate::spec;

/// What was sent just before may still be between two nodes; after so long this one's kernel knows of it.
const UNDER_WAY: Duration = Duration::from_millis(100);
/// Connections that began before the last sender stopped may come to their end for so long, and datagrams be answered …
const LINGER: Duration = Duration::from_millis(500);
/// … or, if the pod's annotation says so, until none is left or the grace period is nearly over. `none` is no drain at all.
const DRAIN: &str = "portolan.dev/drain";
const NO_FLOWS: &str = "no-flows";
const NONE: &str = "none";
/// So much of the grace period is left to the containers at least.
const LEAST: Duration = Duration::from_secs(1);
/// Between the first two looks at the tracked connections, and between later ones: each takes the kernel through all that the machine has.
const LOOK: Duration = Duration::from_millis(25);
const LATER_LOOK: Duration = Duration::from_millis(100);
/// Only slices of this controller are sure to follow the pod's deletion.
const MANAGED: &str = "endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io";

/// Drains the pods of one node.
pub(crate) struct Drain {
    client: Client,
    drains: Drains,
    /// Of the API server, as the node's Lease sees it.
    pub silence: Silence,
    netns: NetNs,
    bound: Duration,
    shutdown: CancellationToken,
    /// Slices of which a pod leaves right now, by namespace and selector.
    following: Mutex<BTreeMap<(String, String), Weak<Following>>>,
    /// Pods of several containers are drained once.
    pods: Mutex<BTreeMap<String, Weak<OnceCell<()>>>>,
}

struct Following {
    slices: Watched<EndpointSlice>,
    _end: DropGuard,
}

impl Drain {
    pub fn start(client: &Client, config: &Config, shutdown: &CancellationToken) -> Drain {
        Drain {
            client: client.clone(),
            drains: Drains::start(client.clone(), &config.node_name, shutdown),
            silence: Silence::default(),
            netns: config.netns.clone(),
            bound: config.drain_bound,
            shutdown: shutdown.clone(),
            following: Mutex::default(),
            pods: Mutex::default(),
        }
    }

    /// Holds a pod that ends until nobody sends to it; gives what is left of the grace period.
    pub async fn hold(&self, node: &Context, pod: &Pod, ips: &[IpAddr], grace: Duration) -> Duration {
        let began = Instant::now();
        let services = node.services.list_in(pod.metadata.namespace.as_deref().unwrap_or_default());
        let asked = pod.annotations().get(DRAIN).map(String::as_str);
        let selecting: Vec<String> =
            services.iter().filter(|service| selects(service, pod)).map(|service| service.name_any()).collect();
        if grace.is_zero() || asked == Some(NONE) || selecting.is_empty() {
            return grace;
        }
        let once = {
            let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
            pods.retain(|_, once| once.strong_count() > 0);
            let known = pods.get(spec::uid(pod)).and_then(Weak::upgrade);
            let once = known.unwrap_or_default();
            pods.insert(spec::uid(pod).to_owned(), Arc::downgrade(&once));
            once
        };
        once.get_or_init(|| self.drain(node, pod, &selecting, ips, grace)).await;
        grace.saturating_sub(began.elapsed()).max(LEAST.min(grace))
    }

    async fn drain(&self, node: &Context, pod: &Pod, services: &[String], ips: &[IpAddr], grace: Duration) {
        let began = Instant::now();
        // A short grace period is the app's more than ours. What the controller takes is not taken from the senders' time.
        let patience = || self.silence.patience(self.bound, began + grace / 2);
        let following = self.follow(pod.metadata.namespace.as_deref().unwrap_or_default(), slices_of(services));
        let Some(left) = patience().wait(leave(&following.slices, spec::uid(pod))).await else {
            self.late(node, pod, "the EndpointSlice controller, which has not marked the endpoint as terminating");
            return;
        };
        drop(following);
        if left.is_empty() {
            return;
        }
        if let Err(late) = self.drains.passed(&left, &patience()).await {
            self.late(node, pod, &late.to_string());
        }
        debug!(pod = %spec::long_name(pod), took_ms = began.elapsed().as_millis(), "nobody sends any more");
        tokio::time::sleep_until((Instant::now() + UNDER_WAY).min(began + grace / 2)).await;
        let patient = pod.annotations().get(DRAIN).map(String::as_str) == Some(NO_FLOWS);
        let end = if patient {
            began + grace.saturating_sub(LEAST)
        } else {
            (Instant::now() + LINGER).min(began + grace / 2)
        };
        // The host's own connections are not the pod's alone.
        if !spec::on_host_network(pod) {
            self.flows_gone(ips, patient, end).await;
        }
    }

    fn late(&self, node: &Context, pod: &Pod, who: &str) {
        let message =
            format!("Stopping without the acknowledgement of {who}: connections may still be sent to this pod");
        node.recorder.pod(pod, Kind::Warning, "DrainLate", message);
    }

    /// Slices of a namespace, followed while a pod leaves them.
    fn follow(&self, namespace: &str, selector: String) -> Arc<Following> {
        let mut all = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, following| following.strong_count() > 0);
        let name = (namespace.to_owned(), selector);
        if let Some(known) = all.get(&name).and_then(Weak::upgrade) {
            return known;
        }
        let end = self.shutdown.child_token();
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), namespace);
        let slices = Watched::start(api, watcher::Config::default().labels(&name.1), end.clone());
        let following = Arc::new(Following { slices, _end: end.drop_guard() });
        all.insert(name, Arc::downgrade(&following));
        following
    }

    /// Waits until no connection to the pod is left, or until `end`.
    async fn flows_gone(&self, ips: &[IpAddr], all: bool, end: Instant) {
        let (netns, ips) = (self.netns.clone(), ips.to_vec());
        let mut pause = LOOK;
        while Instant::now() < end {
            let (netns, ips) = (netns.clone(), ips.clone());
            match tokio::task::spawn_blocking(move || flows(&netns, &ips, all)).await {
                Ok(Ok(0)) | Err(_) => return,
                Ok(Ok(_)) => {
                    tokio::time::sleep_until((Instant::now() + pause).min(end)).await;
                    pause = LATER_LOOK.min(2 * pause);
                }
                Ok(Err(error)) => {
                    warn!(error = %chain(&error), "cannot see which connections are left");
                    return;
                }
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// How many connections to these addresses are open. UDP knows no end, so a flow that has had an answer counts only for who waits for all.
fn flows(netns: &NetNs, ips: &[IpAddr], all: bool) -> netlink::Result<usize> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let mut conntrack = Conntrack::open(netns)?;
    // Whoever the client addressed: the answer comes from the pod.
    let ours = |flow: &Flow| ips.contains(&flow.reply.source.ip());
    conntrack.count(|flow| {
        ours(flow)
            && match flow.protocol {
                TCP => flow.is_open(),
                UDP => all || !flow.is_answered(),
                _ => false,
            }
    })
}

/// Selects the slices of these Services: a namespace may have thousands of others. Of very many Services it is all slices, because a selector
/// goes into the address of a request.
fn slices_of(services: &[String]) -> String {
    const MANY: usize = 64;
    match services.len() {
        1..=MANY => format!("{MANAGED},kubernetes.io/service-name in ({})", services.join(",")),
        _ => MANAGED.to_owned(),
    }
}

/// Waits until every slice that has the pod's endpoint says that it goes, or has it no more.
async fn leave(slices: &Watched<EndpointSlice>, uid: &str) -> Vec<SliceAt> {
    let mut changes = slices.changes();
    let mut departure = Departure::of(uid);
    let mut synced = false;
    while let Some(change) = changes.recv().await {
        match change {
            Change::Applied { object, .. } => departure.saw(&object),
            Change::Deleted(object) => departure.deleted(&object),
            Change::Synced => synced = true,
        }
        if synced && departure.staying.is_empty() {
            return departure.left.into_values().collect();
        }
    }
    // The watch has ended with the agent: nothing is ended any more.
    std::future::pending().await
}

/// In which slices a pod's endpoint is as if it stayed, and since when it is not in the others.
#[derive(Debug, Default)]
struct Departure {
    uid: String,
    staying: BTreeSet<Key>,
    left: BTreeMap<Key, SliceAt>,
}

impl Departure {
    fn of(uid: &str) -> Departure {
        Departure { uid: uid.to_owned(), ..Departure::default() }
    }

    fn saw(&mut self, slice: &EndpointSlice) {
        let key = Key::of(slice);
        let mut own = slice.endpoints.iter().flatten().filter(|endpoint| {
            endpoint.target_ref.as_ref().is_some_and(|target| target.uid.as_deref() == Some(&*self.uid))
        });
        let conditions = own.next().map(|endpoint| endpoint.conditions.clone().unwrap_or_default());
        match conditions {
            Some(conditions) if conditions.terminating == Some(true) => self.leaves(key, slice),
            Some(_) => {
                self.left.remove(&key);
                self.staying.insert(key);
            }
            None if self.staying.contains(&key) => self.leaves(key, slice),
            None => {}
        }
    }

    fn deleted(&mut self, slice: &EndpointSlice) {
        let key = Key::of(slice);
        if self.staying.contains(&key) {
            self.leaves(key, slice);
        }
    }

    /// The first revision that says so counts: later ones are about other endpoints.
    fn leaves(&mut self, key: Key, slice: &EndpointSlice) {
        self.staying.remove(&key);
        let revision = slice.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0);
        let labels = slice.labels().clone();
        self.left.entry(key).or_insert(SliceAt { labels, revision });
    }
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return false };
    !selector.is_empty() && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, revision: u64, endpoints: &[(&str, bool)]) -> EndpointSlice {
        let endpoint = |(uid, terminating): &(&str, bool)| json!({"addresses": ["10.0.0.1"], "conditions": {"terminating": terminating}, "targetRef": {"kind": "Pod", "uid": uid}});
        let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
        let metadata = json!({"name": name, "namespace": "default", "resourceVersion": revision.to_string()});
        serde_json::from_value(json!({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints})).unwrap()
    }

    fn left(departure: &Departure) -> Vec<u64> {
        departure.left.values().map(|slice| slice.revision).collect()
    }

    #[test]
    fn a_pod_has_left_when_every_slice_says_so() {
        let mut departure = Departure::of("a");
        departure.saw(&slice("one", 3, &[("a", false), ("b", false)]));
        departure.saw(&slice("two", 4, &[("a", false)]));
        departure.saw(&slice("other", 5, &[("b", false)]));
        assert_eq!(departure.staying.len(), 2);
        departure.saw(&slice("one", 7, &[("a", true), ("b", false)]));
        departure.saw(&slice("one", 8, &[("a", true), ("b", true)]));
        assert_eq!((departure.staying.len(), left(&departure)), (1, vec![7]));
        departure.deleted(&slice("two", 9, &[("a", false)]));
        assert_eq!((departure.staying.len(), left(&departure)), (0, vec![7, 9]));
    }

    #[test]
    fn only_slices_of_what_selects_the_pod_are_followed() {
        let services = |count: usize| (0..count).map(|number| format!("s{number}")).collect::<Vec<_>>();
        assert_eq!(slices_of(&services(2)), format!("{MANAGED},kubernetes.io/service-name in (s0,s1)"));
        assert_eq!(slices_of(&services(1000)), MANAGED);
    }

    #[test]
    fn an_endpoint_that_vanishes_has_left_as_well() {
        let mut departure = Departure::of("a");
        departure.saw(&slice("one", 3, &[("a", false)]));
        departure.saw(&slice("one", 6, &[]));
        assert_eq!((departure.staying.len(), left(&departure)), (0, vec![6]));
    }

    #[test]
    fn a_pod_of_no_slice_has_nothing_to_leave() {
        let mut departure = Departure::of("a");
        departure.saw(&slice("one", 3, &[("b", false)]));
        departure.deleted(&slice("one", 4, &[]));
        assert!(departure.staying.is_empty() && departure.left.is_empty());
    }
}
