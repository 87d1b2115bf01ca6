//! watch: a stream of changes after a revision, as lines of JSON or frames of protobuf.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use rand::RngExt;
use serde_json::{Value, json};
use store::{Change, Entry, Event, RangeOptions, Revision, Watch};
use telemetry::prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use crate::Server;
use crate::body::{BoxError, ResponseBody};
use crate::fault::{Fault, Outcome};
use crate::kinds::Kind;
use crate::negotiate::{Media, Shape};
use crate::object;
use crate::query::Query;
use crate::read;
use crate::render::Renderer;
use crate::selection::Selection;

/// How long a watch lives whose client does not say: upstream's half hour to an hour, so that clients do not all come back at once.
const SHORTEST: u64 = 1800;

/// One watch on its way.
struct Watching {
    kind: &'static Kind,
    renderer: Renderer,
    selection: Selection,
    watch: Watch,
    /// Objects of the state that the watch begins with, not sent yet.
    initial: std::vec::IntoIter<Entry>,
    /// After the initial objects: the revision that they are as of.
    say_when: Option<Revision>,
    /// Frames to send before the next change is waited for.
    ready: VecDeque<Bytes>,
    bookmarks: Option<Duration>,
    ends: Instant,
    /// The next table is the first, which has the columns.
    first: bool,
    /// What was sent ends the stream.
    over: bool,
    shutdown: tokio_util::sync::CancellationToken,
    _counted: Counted,
}

/// Counts a watch for as long as it lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

pub(crate) fn watch(
    server: &Arc<Server>,
    kind: &'static Kind,
    namespace: &str,
    query: &Query,
    renderer: Renderer,
) -> Outcome<ResponseBody> {
    let selection = Selection::of(kind, query)?;
    let asked = read::revision(query)?;
    read::check_options(query, true)?;
    let initial = initial_events(query, asked);
    if let Some(asked) = asked {
        let latest = server.store.revision();
        if asked > latest {
            return Err(Fault::too_new(asked, latest));
        }
    }
    let prefix = object::prefix(kind, namespace);
    let allowed = query.flag("allowWatchBookmarks");
    let state = if initial.any() { Some(server.store.range(&prefix, RangeOptions::default())?) } else { None };
    // Without a version and without the state a watch begins now.
    let now = || asked.filter(|asked| *asked > 0).unwrap_or_else(|| server.store.revision());
    let after = state.as_ref().map_or_else(now, |state| state.revision);
    let begun = server.store.watch(&prefix, after);
    let seconds = query.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok()).filter(|s| *s > 0);
    let seconds = seconds.unwrap_or_else(|| rand::rng().random_range(SHORTEST..2 * SHORTEST));
    let watch = match begun {
        Ok(watch) => watch,
        // The stream has begun for clients of a watch: what is too old is told as its only event.
        Err(error) => return Ok(only(renderer, &Fault::from(error))),
    };
    let say_when = state.as_ref().filter(|_| initial == Initial::AndSayWhen).map(|state| state.revision);
    let watching = Watching {
        kind,
        renderer,
        selection,
        watch,
        initial: state.map(|state| state.entries).unwrap_or_default().into_iter(),
        say_when,
        ready: VecDeque::new(),
        bookmarks: allowed.then_some(server.config.bookmark_every),
        ends: Instant::now() + Duration::from_secs(seconds),
        first: true,
        over: false,
        shutdown: server.shutdown.clone(),
        _counted: Counted::new(&server.metrics.watches),
    };
    Ok(body(watching.frames()))
}

/// Which state a watch begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Initial {
    None,
    /// The current objects as if they were new: what a watch without a version has always got.
    State,
    /// The same, and a bookmark that says that this was all.
    AndSayWhen,
}

impl Initial {
    fn any(self) -> bool {
        self != Initial::None
    }
}

fn initial_events(query: &Query, asked: Option<u64>) -> Initial {
    match query.choice("sendInitialEvents") {
        Some(true) if query.flag("allowWatchBookmarks") => Initial::AndSayWhen,
        Some(true) => Initial::State,
        None if asked.unwrap_or(0) == 0 => Initial::State,
        Some(false) | None => Initial::None,
    }
}

fn body(frames: impl Stream<Item = Bytes> + Send + 'static) -> ResponseBody {
    BodyExt::boxed_unsync(StreamBody::new(frames.map(|frame| Ok::<_, BoxError>(Frame::data(frame)))))
}

fn only(renderer: Renderer, fault: &Fault) -> ResponseBody {
    let event = json!({"type": "ERROR", "object": fault.0.to_value()});
    let frame = framed(&event, renderer.form.media).unwrap_or_default();
    body(stream::iter([frame]))
}

/// One event as it goes over the wire.
fn framed(event: &Value, media: Media) -> Outcome<Bytes> {
    match media {
        Media::Json | Media::Yaml => {
            // The type first, as upstream writes it: who reads a stream must know what an object is before it comes.
            let mut out = Vec::with_capacity(1024);
            out.extend_from_slice(br#"{"type":"#);
            object::write_json(&event["type"], &mut out);
            out.extend_from_slice(br#","object":"#);
            object::write_json(&event["object"], &mut out);
            out.extend_from_slice(b"}\n");
            Ok(out.into())
        }
        Media::Protobuf => crate::wire::frame(event).map(Bytes::from),
    }
}

impl Watching {
    /// The stream of frames, until the time is over, the server stops or the history is gone.
    fn frames(self) -> impl Stream<Item = Bytes> + Send + 'static {
        stream::unfold(self, |mut watching| async move {
            loop {
                if let Some(frame) = watching.ready.pop_front() {
                    return Some((frame, watching));
                }
                if watching.over {
                    return None;
                }
                if let Err(fault) = watching.step().await {
                    let event = json!({"type": "ERROR", "object": fault.0.to_value()});
                    watching.ready.extend(framed(&event, watching.renderer.form.media));
                    watching.over = true;
                }
            }
        })
    }

    /// Finds something to say: what was there at the start, then what changes.
    async fn step(&mut self) -> Outcome<()> {
        if let Some(entry) = self.initial.next() {
            if self.selection.matches_at(self.kind, &entry.key, &entry.value)? {
                self.push("ADDED", &entry.value)?;
            }
            return Ok(());
        }
        match self.say_when.take() {
            Some(revision) => self.bookmark(revision, true),
            None => self.wait().await,
        }
    }

    /// Waits for a change, the time for a bookmark, or the end.
    async fn wait(&mut self) -> Outcome<()> {
        let bookmark = self.bookmarks.unwrap_or(Duration::from_secs(3600));
        let shutdown = self.shutdown.clone();
        tokio::select! {
            events = self.watch.next() => self.push_all(&events?),
            () = tokio::time::sleep_until(self.ends) => {
                self.over = true;
                Ok(())
            }
            () = tokio::time::sleep(bookmark) => {
                // Also without bookmarks the cursor moves on, so that a quiet watch never falls behind the history.
                let events = self.watch.ready()?;
                self.push_all(&events)?;
                if self.bookmarks.is_some() { self.bookmark(self.watch.revision(), false) } else { Ok(()) }
            }
            () = shutdown.cancelled() => {
                self.over = true;
                Ok(())
            }
        }
    }

    fn push_all(&mut self, events: &[Arc<Event>]) -> Outcome<()> {
        for event in events {
            match (self.seen_as(event)?, &event.previous) {
                (None, _) => {}
                // For this watch the object goes as it last was in the selection, at the revision of the change.
                (Some("DELETED"), Some(previous)) if event.change != Change::Deleted => {
                    let mut object = object::decode(self.kind, previous)?;
                    object::set_meta(&mut object, "resourceVersion", event.revision.to_string());
                    self.push_value("DELETED", &object)?;
                }
                (Some(r#type), _) => self.push(r#type, &event.value)?,
            }
        }
        Ok(())
    }

    /// What a change is for this watch: an object that leaves the selection is deleted for it, one that enters is added.
    fn seen_as(&self, event: &Event) -> Outcome<Option<&'static str>> {
        let now = match event.change {
            Change::Deleted => false,
            Change::Created | Change::Updated => self.selection.matches_at(self.kind, &event.key, &event.value)?,
        };
        let before = match &event.previous {
            Some(previous) => self.selection.matches_at(self.kind, &event.key, previous)?,
            None => false,
        };
        Ok(match (before, now) {
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
            (false, false) => None,
        })
    }

    fn push(&mut self, r#type: &'static str, stored: &[u8]) -> Outcome<()> {
        let mut out = Vec::with_capacity(self.renderer.room(stored));
        out.extend_from_slice(format!(r#"{{"type":"{type}","object":"#).as_bytes());
        if !self.renderer.write_stored(stored, &mut out)? {
            return self.push_value(r#type, &object::decode(self.kind, stored)?);
        }
        out.extend_from_slice(b"}\n");
        self.ready.push_back(out.into());
        Ok(())
    }

    fn push_value(&mut self, r#type: &'static str, object: &Value) -> Outcome<()> {
        let shown = self.renderer.event_object(object, self.first)?;
        self.ready.push_back(framed(&json!({"type": r#type, "object": shown}), self.renderer.form.media)?);
        self.first = false;
        Ok(())
    }

    fn bookmark(&mut self, revision: u64, initial: bool) -> Outcome<()> {
        let mut bookmark = json!({"metadata": {"resourceVersion": revision.to_string()}});
        if initial {
            bookmark["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        object::name_kind(self.kind, &mut bookmark);
        let shown = match self.renderer.form.shape {
            Shape::Whole => bookmark,
            Shape::Partial => self.renderer.event_object(&bookmark, false)?,
            // A row for an object that is none: upstream sends a table without cells worth reading, too.
            Shape::Table => self.renderer.event_object(&bookmark, self.first)?,
        };
        let frame = framed(&json!({"type": "BOOKMARK", "object": shown}), self.renderer.form.media)?;
        self.ready.push_back(frame);
        Ok(())
    }
}
