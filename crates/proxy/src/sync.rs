//! apply: keeps one node's kernel at what the planner says.
//!
//! The kernel is the truth about the kernel: after a start and after any failure the table is read before it is written. While all is
//! well a change is a delta and nothing is read.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use nft::{Batch, Ruleset, Table, diff};
use service_model::{Change, Fault, Model, ObjectRef};
use tracing::{error, info, warn};

use crate::error::Error;
use crate::flows::{Stale, stale};
use crate::layout::table_id;
use crate::metrics::Metrics;
use crate::plan::{Delta, Planner, Ranges};
use crate::split::split;

/// The first wait after a failure; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// No packet needs so long from one lookup to the next.
const RETIREMENT: Duration = Duration::from_secs(1);

/// What the proxy asks of a node's kernel. Calls block while the kernel works: microseconds for a change, a second for a large table.
pub(crate) trait Kernel: Send {
    /// Our table as it is, if there is one.
    fn read(&mut self) -> Result<Option<Table>, Error>;
    fn commit(&mut self, batch: &Batch) -> Result<(), Error>;
    /// Whether anyone wrote since our last read or commit, ours excepted.
    fn disturbed(&mut self) -> Result<bool, Error>;
    /// Forgets UDP flows; says how many there were.
    fn forget(&mut self, stale: &[Stale]) -> Result<usize, Error>;
    /// Forgets UDP flows of a table's frontends that lead elsewhere than the model says, whoever left them.
    fn reconcile(&mut self, actual: &Table, model: &Model) -> Result<usize, Error>;
}

/// What we know of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing: read before the next write. After a failure, not before this time.
    Nothing { not_before: Option<Instant> },
    /// It holds what the planner says.
    InSync,
}

/// What a step did, for whoever reports.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub new_faults: Vec<Fault>,
    /// A Service with a health check node port changed, or the node did.
    pub health_checks: bool,
    /// The table was not as we left it.
    pub repaired: bool,
    pub failed: bool,
}

/// One node's apply stage.
pub(crate) struct Sync<K> {
    kernel: K,
    ranges: Ranges,
    planner: Planner,
    skeleton: Table,
    known: Known,
    wait: Duration,
    /// Whether a table of ours was ever brought in sync by this process.
    began: bool,
    flows: Vec<Stale>,
    /// How long the kernel worked for the last step.
    committing: Duration,
    /// When what nobody needs any more is taken away.
    retire_at: Option<Instant>,
}

impl<K: Kernel> Sync<K> {
    pub fn new(kernel: K, ranges: Ranges) -> Self {
        let planner = Planner::new(&ranges);
        Sync {
            kernel,
            skeleton: planner.table(),
            planner,
            ranges,
            known: Known::Nothing { not_before: None },
            wait: FIRST_WAIT,
            began: false,
            flows: Vec::new(),
            committing: Duration::ZERO,
            retire_at: None,
        }
    }

    /// Somebody else touched our table, or may have.
    pub fn doubt(&mut self) {
        if self.known == Known::InSync {
            self.known = Known::Nothing { not_before: None };
        }
    }

    /// Notifications were lost: look whether anyone else wrote.
    pub fn suspect(&mut self) {
        if !matches!(self.kernel.disturbed(), Ok(false)) {
            self.doubt();
        }
    }

    /// Whether the kernel holds what the planner says.
    pub fn in_sync(&self) -> bool {
        self.known == Known::InSync
    }

    /// When the next step is due although nothing was observed.
    pub fn retry_at(&self) -> Option<Instant> {
        match self.known {
            Known::Nothing { not_before } => Some(not_before.unwrap_or_else(Instant::now)),
            Known::InSync => self.retire_at,
        }
    }

    /// Takes the model's changes in and brings the kernel up to date.
    pub fn step(&mut self, model: &mut Model, metrics: &Metrics) -> Step {
        let changes = model.take_changes();
        let mut step = Step { new_faults: changes.iter().flat_map(new_faults).collect(), ..Step::default() };
        step.health_checks =
            changes.iter().any(|c| [&c.old, &c.new].into_iter().flatten().any(|v| v.health_check.is_some()));
        let mut delta = Delta::default();
        for change in &changes {
            // Before the first sync nothing is known of the kernel, and all is planned at once then.
            if self.began {
                self.planner.apply(change, &mut delta);
            }
            self.flows.extend(stale(change.old.as_deref(), change.new.as_deref()));
        }
        let began = Instant::now();
        self.retire(began, &mut delta);
        self.committing = Duration::ZERO;
        let known = self.known;
        let done = match known {
            Known::InSync => self.change(&delta, metrics),
            Known::Nothing { not_before: Some(time) } if time > began => return step,
            Known::Nothing { .. } => self.whole(model, metrics, &mut step),
        };
        match done {
            Ok(()) => self.succeeded(known, changes.len(), began, metrics),
            Err(fault) => {
                error!(error = %Chain(&fault), "cannot bring the kernel up to date, reading it again");
                metrics.sync_failures.inc();
                step.failed = true;
                self.known = Known::Nothing { not_before: Some(Instant::now() + self.wait) };
                self.wait = (self.wait * 2).min(LONGEST_WAIT);
            }
        }
        step
    }

    fn retire(&mut self, now: Instant, delta: &mut Delta) {
        if self.retire_at.is_some_and(|time| time <= now) {
            self.planner.retire(delta);
            self.retire_at = None;
        }
        if self.planner.has_retired() {
            self.retire_at.get_or_insert(now + RETIREMENT);
        }
    }

    fn succeeded(&mut self, known: Known, services: usize, began: Instant, metrics: &Metrics) {
        self.known = Known::InSync;
        self.wait = FIRST_WAIT;
        metrics.synced(began.elapsed(), known == Known::InSync);
        metrics.standing(self.planner.services());
        if services > 0 {
            let (took_us, commit_us) = (began.elapsed().as_micros(), self.committing.as_micros());
            info!(services, took_us, commit_us, "applied");
        }
    }

    /// In one transaction, or in several where the kernel has no room for that.
    fn commit(&mut self, batch: &Batch, metrics: &Metrics) -> Result<(), Error> {
        let began = Instant::now();
        let committed = self.kernel.commit(batch);
        self.committing += began.elapsed();
        metrics.commit.observe(began.elapsed().as_secs_f64());
        match committed {
            Err(fault) if fault.is_too_large() => {
                let parts = split(batch, batch.elements() / 2).filter(|parts| parts.len() > 1);
                let Some(parts) = parts else { return Err(fault) };
                warn!(error = %Chain(&fault), parts = parts.len(), "the kernel has no room for a transaction, doing it in parts");
                parts.iter().try_for_each(|part| self.commit(part, metrics))
            }
            done => done,
        }
    }

    fn change(&mut self, delta: &Delta, metrics: &Metrics) -> Result<(), Error> {
        if !delta.is_empty() {
            let batch = delta.batch(&self.skeleton);
            metrics.elements(delta.added.len(), delta.removed.len());
            self.commit(&batch, metrics)?;
        }
        let flows = std::mem::take(&mut self.flows);
        self.forget(&flows, metrics);
        Ok(())
    }

    /// Reads the table and writes what is different. On the first time, endpoints keep the numbers that the table gives them.
    fn whole(&mut self, model: &Model, metrics: &Metrics, step: &mut Step) -> Result<(), Error> {
        let actual = self.kernel.read()?;
        if !self.began {
            self.adopt(actual.as_ref(), model);
        }
        let mut has = Ruleset::default();
        has.tables.extend(actual.clone().map(|table| (table_id(), table)));
        let wanted = Ruleset { tables: [(table_id(), self.planner.table())].into() };
        let batch = diff(&has, &wanted);
        if !batch.is_empty() {
            metrics.elements(batch.elements(), 0);
            self.commit(&batch, metrics)?;
            if self.began {
                warn!(operations = batch.ops.len(), "the table was not as we left it, repaired");
                step.repaired = true;
            } else {
                info!(services = self.planner.services(), operations = batch.ops.len(), "table written");
            }
        } else if !self.began {
            info!(services = self.planner.services(), "table found as it should be");
        }
        let flows = std::mem::take(&mut self.flows);
        if self.began {
            self.forget(&flows, metrics);
        } else {
            let before = actual.unwrap_or_default();
            told(self.kernel.reconcile(&before, model), metrics);
        }
        self.began = true;
        Ok(())
    }

    fn adopt(&mut self, table: Option<&Table>, model: &Model) {
        self.planner = Planner::adopting(&self.ranges, table.unwrap_or(&Table::default()), model);
        self.skeleton = self.planner.table();
        for view in model.views() {
            let change = Change { key: view.key.clone(), old: None, new: Some(view.clone()) };
            self.planner.apply(&change, &mut Delta::default());
        }
        self.planner.settle();
    }

    /// A failure here leaves a flow that goes nowhere, not a wrong table: it is told, and the flow times out.
    fn forget(&mut self, flows: &[Stale], metrics: &Metrics) {
        if flows.is_empty() {
            return;
        }
        told(self.kernel.forget(flows), metrics);
    }
}

fn told(forgotten: Result<usize, Error>, metrics: &Metrics) {
    match forgotten {
        Ok(count) => metrics.stale_flows(count),
        Err(fault) => warn!(error = %Chain(&fault), "stale flows may live on"),
    }
}

/// Faults that were not there before, told once.
fn new_faults(change: &Change) -> Vec<Fault> {
    let known = change.old.as_ref().map_or(&[][..], |view| &view.faults);
    let now = change.new.as_ref().map_or(&[][..], |view| &view.faults);
    let new: Vec<Fault> = now.iter().filter(|fault| !known.contains(fault)).cloned().collect();
    for fault in &new {
        match &fault.culprit {
            ObjectRef::Service(key) => warn!(service = %key, reason = %fault.reason, "left out"),
            ObjectRef::EndpointSlice(key) => warn!(slice = %key, reason = %fault.reason, "left out"),
            ObjectRef::Node(key) => warn!(node = %key, reason = %fault.reason, "left out"),
        }
    }
    new
}

/// An error with its causes, in one line.
pub(crate) struct Chain<'a>(pub &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
