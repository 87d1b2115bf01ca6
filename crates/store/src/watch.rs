//! A watch: a cursor over the history. It holds no queue of its own, so a slow reader costs no memory; one that falls behind the
//! window is told so.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch::Receiver;

use crate::history::Event;
use crate::state::{Below, State};
use crate::{Error, Revision};

/// So many changes are handed out at once, and then the rest of the last revision: a reader that is far behind holds no more than that.
const BATCH: usize = 256;

/// Changes below one prefix, in order.
#[derive(Debug)]
pub struct Watch {
    state: Arc<RwLock<State>>,
    prefix: Arc<str>,
    /// Everything up to here was handed out.
    cursor: Revision,
    changed: Receiver<Below>,
}

impl Watch {
    pub(crate) fn start(state: Arc<RwLock<State>>, prefix: &str, after: Revision) -> Result<Self, Error> {
        let changed = {
            let mut state = state.write().unwrap_or_else(PoisonError::into_inner);
            if after < state.history.oldest {
                return Err(Error::Compacted { asked: after, oldest: state.history.oldest });
            }
            if after > state.revision {
                return Err(Error::Future { asked: after, latest: state.revision });
            }
            state.wait_for(prefix)
        };
        Ok(Watch { state, prefix: Arc::from(prefix), cursor: after, changed })
    }

    /// Waits for the next changes; never empty. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, Error> {
        loop {
            self.changed.mark_unchanged();
            let events = self.ready()?;
            if !events.is_empty() {
                return Ok(events);
            }
            self.changed.changed().await.map_err(|_| Error::Closed)?;
        }
    }

    /// The next changes that are there now, without waiting. When there are none, [`Watch::revision`] is the store's.
    pub fn ready(&mut self) -> Result<Vec<Arc<Event>>, Error> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if self.cursor < self.changed.borrow().dropped {
            return Err(Error::Compacted { asked: self.cursor, oldest: state.history.oldest });
        }
        let mut events: Vec<Arc<Event>> = Vec::new();
        let mut reached = state.revision;
        for event in state.history.after(self.cursor).filter(|event| event.key.starts_with(&*self.prefix)) {
            let begun = events.last().is_some_and(|last| last.revision == event.revision);
            if events.len() >= BATCH && !begun {
                reached = event.revision - 1;
                break;
            }
            events.push(event.clone());
        }
        self.cursor = reached;
        Ok(events)
    }

    /// Everything up to this revision was handed out: what a bookmark may say.
    pub fn revision(&self) -> Revision {
        self.cursor
    }
}
