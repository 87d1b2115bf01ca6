//! Which components of this process say that they have stopped sending to an endpoint, so that its pod may end.

use anyhow::Result;
use clap::Args;
use client::drain::{Acknowledger, End, acknowledge};
use kube::Client;
use tokio_util::sync::CancellationToken;

/// The flag of components that run alone.
#[derive(Debug, Clone, Args)]
pub struct AcknowledgeAs {
    /// Name in the Lease that says up to which change nothing is sent to ending pods any more, so that they may end; or `off`
    /// [default: that of the component and this machine]
    #[arg(long, value_name = "NAME")]
    pub acknowledge_as: Option<String>,
}

impl AcknowledgeAs {
    /// The name, unless it is switched off; `machine` says whose part of the cluster this is.
    pub fn name(&self, component: &str, machine: impl FnOnce() -> Result<String>) -> Result<Option<String>> {
        match self.acknowledge_as.as_deref() {
            Some("off") => Ok(None),
            Some(name) => Ok(Some(name.to_owned())),
            None => Ok(Some(format!("{component}-{}", machine()?))),
        }
    }
}

/// Speaks for a proxy until `shutdown`, by what its configuration says is in the kernel.
pub fn proxy(
    name: String,
    config: &proxy::Config,
    client: Client,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let who = Acknowledger {
        name,
        follows: proxy::FOLLOWED.to_owned(),
        node: Some(config.node_name.clone()),
        end: End::RulesStay,
    };
    acknowledge(who, client, config.applied.subscribe(), |applied| applied.slices, shutdown)
}
