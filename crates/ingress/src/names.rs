//! What names outside the cluster resolve to, asked again and again by the machine's own resolver: the backends of ExternalName Services.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// The resolver tells no time to live; this is about what the shortest ones are.
const AGAIN: Duration = Duration::from_secs(10);

/// The names that are wanted, and what came of them.
#[derive(Debug)]
pub(crate) struct Names {
    wanted: watch::Sender<BTreeSet<Box<str>>>,
    pub resolved: mpsc::UnboundedReceiver<(Box<str>, Vec<IpAddr>)>,
}

impl Names {
    pub fn start(shutdown: &CancellationToken) -> Self {
        let (wanted, names) = watch::channel(BTreeSet::new());
        let (tell, resolved) = mpsc::unbounded_channel();
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(follow(names, tell)));
        Names { wanted, resolved }
    }

    /// Says which names matter from now on.
    pub fn want(&self, names: BTreeSet<Box<str>>) {
        self.wanted.send_if_modified(|known| {
            let changed = *known != names;
            *known = names;
            changed
        });
    }
}

async fn follow(mut names: watch::Receiver<BTreeSet<Box<str>>>, tell: mpsc::UnboundedSender<(Box<str>, Vec<IpAddr>)>) {
    loop {
        let wanted = names.borrow_and_update().clone();
        let asked = wanted.into_iter().map(|name| async {
            let found = resolve(&name).await;
            if let Some(addresses) = found {
                // Nobody listens any more: the end has come.
                let _ = tell.send((name, addresses));
            }
        });
        futures::future::join_all(asked).await;
        let idle = names.borrow().is_empty();
        tokio::select! {
            changed = names.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if !idle => {}
        }
    }
}

/// None leaves what was known: a resolver that is away for a moment is no reason to stop serving.
async fn resolve(name: &str) -> Option<Vec<IpAddr>> {
    match tokio::net::lookup_host((name, 0)).await {
        Ok(found) => {
            let addresses: BTreeSet<IpAddr> = found.map(|address| address.ip()).collect();
            Some(addresses.into_iter().collect())
        }
        Err(error) => {
            debug!(name, %error, "an external name is not resolved");
            None
        }
    }
}
