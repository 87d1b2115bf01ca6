//! What DNS keeps of each kind: the few facts that names are made of, read while the object is decoded, so that tens of thousands of them fit
//! in little memory.

use std::borrow::Cow;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;

use crate::zone::{ServiceSpec, SliceRecords};

/// Which Service a slice belongs to.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Service")]
pub(super) struct ServiceView {
    metadata: ObjectMeta,
    pub(super) spec: ServiceSpec,
}

/// An EndpointSlice.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "EndpointSlice")]
pub(super) struct SliceView {
    metadata: ObjectMeta,
    /// The name of its Service, in its own namespace.
    pub(super) service: Option<Box<str>>,
    pub(super) records: SliceRecords,
}

/// A pod that may ask.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Pod")]
pub(super) struct PodView {
    metadata: ObjectMeta,
    /// Its own addresses; none while it shares the node's or has come to its end.
    pub(super) addresses: Box<[IpAddr]>,
    pub(super) policy: Policy,
}

/// How the pod's resolver is set up (`dnsPolicy`, `dnsConfig`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Policy {
    /// The cluster's search domains come first; else there are only the pod's own.
    pub(super) cluster: bool,
    pub(super) searches: Box<[String]>,
    pub(super) ndots: Option<usize>,
}

/// Name, namespace and revision: all else of the metadata is as large as the object.
fn small(metadata: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        resource_version: metadata.resource_version,
        ..ObjectMeta::default()
    }
}

impl From<Service> for ServiceView {
    fn from(service: Service) -> Self {
        ServiceView { spec: ServiceSpec::read(&service), metadata: small(service.metadata) }
    }
}

impl From<EndpointSlice> for SliceView {
    fn from(slice: EndpointSlice) -> Self {
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let service = service.map(|name| name.as_str().into());
        SliceView { service, records: SliceRecords::read(&slice), metadata: small(slice.metadata) }
    }
}

impl From<Pod> for PodView {
    fn from(pod: Pod) -> Self {
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        let ended = matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        let shared = spec.and_then(|s| s.host_network) == Some(true);
        let ips = status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.as_str());
        let addresses = ips.filter_map(|ip| ip.parse().ok()).filter(|_| !ended && !shared).collect();
        let config = spec.and_then(|s| s.dns_config.as_ref());
        let cluster = matches!(
            spec.and_then(|s| s.dns_policy.as_deref()),
            None | Some("ClusterFirst" | "ClusterFirstWithHostNet")
        );
        let searches = config.and_then(|c| c.searches.clone()).unwrap_or_default().into();
        let mut options = config.and_then(|c| c.options.as_ref()).into_iter().flatten();
        let ndots = options.find(|option| option.name.as_deref() == Some("ndots"));
        let ndots = ndots.and_then(|option| option.value.as_deref()?.parse().ok());
        PodView { metadata: small(pod.metadata), addresses, policy: Policy { cluster, searches, ndots } }
    }
}

/// The view is the same resource as the object that it is read from.
macro_rules! same_resource {
    ($view:ty, $object:ty) => {
        impl Resource for $view {
            type DynamicType = ();
            type Scope = <$object as Resource>::Scope;

            fn kind((): &()) -> Cow<'_, str> {
                <$object as Resource>::kind(&())
            }

            fn group((): &()) -> Cow<'_, str> {
                <$object as Resource>::group(&())
            }

            fn version((): &()) -> Cow<'_, str> {
                <$object as Resource>::version(&())
            }

            fn plural((): &()) -> Cow<'_, str> {
                <$object as Resource>::plural(&())
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

same_resource!(ServiceView, Service);
same_resource!(SliceView, EndpointSlice);
same_resource!(PodView, Pod);
