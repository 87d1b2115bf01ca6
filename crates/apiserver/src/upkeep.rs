//! What the server does unasked: its own Service stays as it should, Events that are an hour old go, and certificates are renewed before
//! they expire.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use store::{Body, RangeOptions, Transaction};

use crate::Server;
use crate::kinds::find;
use crate::object;

/// Upstream keeps Service `kubernetes` and its endpoints this often.
const EVERY: Duration = Duration::from_secs(10);
/// One in so many rounds looks at what moves slowly.
const SLOWLY: u64 = 6;
/// How long an Event is kept after it last happened.
const EVENT_SECONDS: i64 = 3600;
/// So many deletions share a transaction.
const BATCH: usize = 500;

/// Starts the upkeep; it ends with the server.
pub(crate) fn start(server: &Arc<Server>) {
    let (shutdown, server) = (server.shutdown.clone(), Arc::downgrade(server));
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(EVERY);
        let mut round: u64 = 0;
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let Some(server) = server.upgrade() else { return };
            if let Err(error) = crate::bootstrap::keep(&server).await {
                tracing::warn!(%error, "the Service of the API server itself could not be kept");
            }
            if round.is_multiple_of(SLOWLY) {
                tick(&server).await;
            }
            round += 1;
        }
    });
}

async fn tick(server: &Server) {
    if let Err(error) = expire_events(server, Timestamp::now()).await {
        tracing::warn!(%error, "old events could not be removed");
    }
    if let Err(error) = server.pki.renew(&server.config) {
        tracing::error!(%error, "certificates could not be renewed");
    }
}

/// The times of an Event, all optional.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Times {
    metadata: Made,
    event_time: Option<String>,
    last_timestamp: Option<String>,
    series: Option<Series>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Made {
    creation_timestamp: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Series {
    last_observed_time: Option<String>,
}

/// The latest second that an Event speaks of.
fn last_seen(stored: &[u8]) -> Option<i64> {
    let times: Times = serde_json::from_slice(stored).ok()?;
    let series = times.series.and_then(|series| series.last_observed_time);
    [times.metadata.creation_timestamp, times.event_time, times.last_timestamp, series]
        .into_iter()
        .flatten()
        .filter_map(|text| api::time::parse(&text))
        .map(Timestamp::as_second)
        .max()
}

async fn expire_events(server: &Server, now: Timestamp) -> Result<(), store::Error> {
    let Some(kind) = find("", "v1", "events") else { return Ok(()) };
    let before = now.as_second() - EVENT_SECONDS;
    let range = server.store.range(&object::prefix(kind, ""), RangeOptions::default())?;
    let old = range.entries.into_iter().filter(|entry| last_seen(&entry.value).is_some_and(|seen| seen < before));
    let old: Vec<_> = old.collect();
    for batch in old.chunks(BATCH) {
        let transaction = batch.iter().fold(Transaction::new(), |transaction, entry| {
            let last = match object::decode(kind, &entry.value) {
                Ok(event) => object::encode(kind, &event),
                Err(_) => Body::Plain(entry.value.to_vec()),
            };
            transaction.unchanged(entry.key.clone(), entry.modified).delete(entry.key.clone(), last)
        });
        match server.store.commit(transaction).await {
            // An Event that happened again meanwhile keeps its batch for a minute.
            Ok(_) | Err(store::Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_time_counts() {
        let event =
            br#"{"metadata":{"creationTimestamp":"2026-01-01T00:00:00Z"},"lastTimestamp":"2026-01-01T01:00:00Z",
            "eventTime":null,"series":{"count":2,"lastObservedTime":"2026-01-01T02:00:00.000000Z"}}"#;
        assert_eq!(last_seen(event), Timestamp::from_second(1_767_232_800).ok().map(Timestamp::as_second));
        assert_eq!(last_seen(b"{}"), None);
    }
}
