//! The status of Ingresses: the addresses where they are reached. Written where it differs, tried again when the API server refuses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::{debug, warn};

const AGAIN: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 5;

/// Writes in the background, in order.
#[derive(Debug)]
pub(crate) struct Status {
    addresses: Arc<[IpAddr]>,
    queue: mpsc::UnboundedSender<(String, String)>,
}

impl Status {
    /// Ends when dropped.
    pub fn new(client: Client, addresses: Vec<IpAddr>) -> Self {
        let (queue, mut received) = mpsc::unbounded_channel::<(String, String)>();
        let addresses: Arc<[IpAddr]> = addresses.into();
        let published = Arc::clone(&addresses);
        tokio::spawn(async move {
            while let Some((namespace, name)) = received.recv().await {
                write(&client, &namespace, &name, &published).await;
            }
        });
        Status { addresses, queue }
    }

    /// Has the status written if this Ingress is ours and says otherwise.
    pub fn look_at(&self, ingress: &Ingress, ours: bool) {
        if !ours || self.addresses.is_empty() || says(ingress, &self.addresses) {
            return;
        }
        // Refused only at the end of the runtime.
        let _ = self.queue.send((ingress.namespace().unwrap_or_default(), ingress.name_any()));
    }
}

fn says(ingress: &Ingress, addresses: &[IpAddr]) -> bool {
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let said = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let mut said = said.iter().map(|one| one.ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()));
    let same = addresses.iter().all(|address| said.next() == Some(Some(*address)));
    same && said.next().is_none()
}

async fn write(client: &Client, namespace: &str, name: &str, addresses: &[IpAddr]) {
    let api: Api<Ingress> = Api::namespaced(client.clone(), namespace);
    let said: Vec<BTreeMap<&str, String>> = addresses.iter().map(|a| BTreeMap::from([("ip", a.to_string())])).collect();
    let patch = json!({"status": {"loadBalancer": {"ingress": said}}});
    for attempt in 1..=ATTEMPTS {
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            Err(error) if attempt == ATTEMPTS => warn!(%namespace, %name, %error, "the status was not written"),
            Err(error) => {
                debug!(%namespace, %name, %error, "the status is written again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
