//! Notifications: links and addresses of a namespace change, so whoever cares looks again.

use std::time::Duration;

use futures::StreamExt;
use linux::NetNs;
use rtnetlink::MulticastGroup;

use super::Connection;
use crate::{Error, Result};

/// Changes that come together are told once.
const TOGETHER: Duration = Duration::from_millis(20);

/// Tells when links or addresses of one namespace change.
#[derive(Debug)]
pub struct LinkChanges {
    told: tokio::sync::watch::Receiver<u64>,
    _connection: Connection,
}

impl LinkChanges {
    /// Listens inside `ns`. Must be called within a tokio runtime.
    pub fn open(ns: &NetNs) -> Result<LinkChanges> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let runtime = tokio::runtime::Handle::current();
        let opened = ns.run(|| {
            let _entered = runtime.enter();
            rtnetlink::new_multicast_connection(&groups)
        });
        let open = |source| Error::Open { purpose: "changes of links", source };
        let (connection, _, mut messages) = opened.map_err(Error::Enter)?.map_err(open)?;
        let (tell, told) = tokio::sync::watch::channel(0);
        let task = tokio::spawn(async move {
            let read = async {
                while messages.next().await.is_some() {
                    tokio::time::sleep(TOGETHER).await;
                    while futures::FutureExt::now_or_never(messages.next()).flatten().is_some() {}
                    tell.send_modify(|count| *count += 1);
                }
            };
            tokio::join!(connection, read);
        });
        Ok(LinkChanges { told, _connection: Connection(task) })
    }

    /// Waits for the next change; several since the last call are one. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) {
        // A socket that failed tells nothing any more: whoever waits goes on without.
        if self.told.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
