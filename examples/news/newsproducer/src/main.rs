//! The news producer: polls a feed and sends each new item to the queue `news`.
//!
//! It is what an ordinary app looks like to Kubernetes: it finds its broker by the Service's constant address, goes on when the broker's
//! pod moves, logs each step, and leaves cleanly on SIGTERM. `newsproducer read HOST:PORT [COUNT]` reads messages back.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use newsproducer::stomp::Connection;
use newsproducer::{broker, feed};
use tracing::{info, warn};

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_target(false).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => produce(),
        ["read", address] => read_back(address, 1),
        ["read", address, count] => read_back(address, count.parse().context("COUNT is not a number")?),
        _ => bail!("usage: newsproducer | newsproducer read HOST:PORT [COUNT]"),
    }
}

/// What the environment asks for.
struct Settings {
    feed_url: String,
    poll: Duration,
    queue: String,
    broker: String,
    login: Option<(String, String)>,
}

impl Settings {
    fn read(env: &BTreeMap<String, String>) -> Result<Self> {
        let feed_url =
            env.get("FEED_URL").cloned().context("FEED_URL is not set\n  hint: the address of an RSS or Atom feed")?;
        let seconds =
            env.get("POLL_SECONDS").map_or(Ok(10), |text| text.parse()).context("POLL_SECONDS is not a number")?;
        let (broker, by) = broker::discover(env)?;
        info!(%broker, by, "found the broker");
        let login = env.get("BROKER_USER").cloned().zip(env.get("BROKER_PASSWORD").cloned());
        let queue = env.get("QUEUE").cloned().unwrap_or_else(|| "news".to_owned());
        Ok(Settings { feed_url, poll: Duration::from_secs(seconds), queue, broker, login })
    }
}

fn produce() -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot listen for signals")?;
    }
    let settings = Settings::read(&std::env::vars().collect())?;
    let mut sent = BTreeSet::new();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        match feed::fetch(&settings.feed_url, ANSWER_WITHIN) {
            Ok(items) => {
                let seen: BTreeSet<String> = items.iter().map(|item| item.id.clone()).collect();
                let new: Vec<feed::Item> = items.into_iter().filter(|item| !sent.contains(&item.id)).collect();
                info!(url = %settings.feed_url, items = seen.len(), new = new.len(), "read the feed");
                for item in &new {
                    deliver(&settings, item, &mut connection, &stop);
                    sent.insert(item.id.clone());
                }
                // What the feed no longer lists will not come again: forget it, so that memory stays bounded.
                sent.retain(|id| seen.contains(id));
            }
            Err(error) => warn!(error = format!("{error:#}"), "cannot read the feed, trying again"),
        }
        rest(settings.poll, &stop);
    }
    info!("asked to stop, leaving");
    Ok(())
}

/// Sends one item, however long the broker is away; gives up only when asked to stop.
fn deliver(settings: &Settings, item: &feed::Item, connection: &mut Option<Connection>, stop: &AtomicBool) {
    let mut pause = RETRY_FIRST;
    while !stop.load(Ordering::Relaxed) {
        match attempt(settings, item, connection) {
            Ok(()) => return info!(title = %item.title, queue = %settings.queue, "sent"),
            Err(error) => {
                warn!(error = format!("{error:#}"), broker = %settings.broker, "lost the broker, connecting again");
                *connection = None;
                rest(pause, stop);
                pause = (pause * 2).min(RETRY_MOST);
            }
        }
    }
}

fn attempt(settings: &Settings, item: &feed::Item, connection: &mut Option<Connection>) -> Result<()> {
    let open = match connection.take() {
        Some(open) => open,
        None => {
            let login = settings.login.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
            let open = Connection::open(&settings.broker, login, ANSWER_WITHIN)?;
            info!(broker = %settings.broker, "connected");
            open
        }
    };
    let open = connection.insert(open);
    open.send(&settings.queue, &[("item-id", &item.id), ("link", &item.link)], &item.title)
}

/// Sleeps in short steps, so that a request to stop is heard at once.
fn rest(duration: Duration, stop: &AtomicBool) {
    let end = Instant::now() + duration;
    while !stop.load(Ordering::Relaxed) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50).min(end.saturating_duration_since(Instant::now())));
    }
}

#[expect(clippy::print_stdout, reason = "what it reads is this command's output")]
fn read_back(address: &str, count: usize) -> Result<()> {
    let mut connection = Connection::open(address, None, Duration::from_secs(30))?;
    connection.subscribe("news")?;
    for _ in 0..count {
        let message = connection.receive()?;
        if message.command != "MESSAGE" {
            bail!("the broker sent {}: {}", message.command, message.header("message").unwrap_or("-"));
        }
        println!("{}", String::from_utf8_lossy(&message.body));
    }
    Ok(())
}
