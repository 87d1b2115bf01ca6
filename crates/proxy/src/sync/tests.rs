//! The apply stage against a kernel in memory that refuses, forgets and is short of memory.

use std::collections::VecDeque;

use nft::Errno;
use nft::kernel::Memory;
use serde_json::json;
use service_model::NodeView;

use super::*;
use crate::plan::plan;

/// A kernel that meets what is next in these lists before it does as it is told.
#[derive(Default)]
struct Moody {
    memory: Memory,
    refusals: VecDeque<Errno>,
    interruptions: VecDeque<Errno>,
    /// More elements in one transaction are too many.
    room: Option<usize>,
    reads: usize,
    largest: usize,
}

impl Kernel for Moody {
    fn read(&mut self) -> Result<Option<Table>, Error> {
        self.reads += 1;
        match self.interruptions.pop_front() {
            Some(errno) => Err(Error::Read(netlink::Error::Dump { act: "list elements", errno })),
            None => Ok(self.memory.ruleset().tables.get(&table_id()).cloned()),
        }
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        let refused = |op, errno| {
            let ops = batch.ops.len();
            let source = netlink::Error::Commit { ops, op, what: None, errno, message: None };
            Error::Commit { operations: ops, source }
        };
        if let Some(errno) = self.refusals.pop_front() {
            return Err(refused(None, errno));
        }
        if self.room.is_some_and(|room| batch.elements() > room) {
            return Err(refused(None, Errno::EMSGSIZE));
        }
        self.largest = self.largest.max(batch.elements());
        self.memory.commit(batch).map_err(|refusal| refused(Some(refusal.op), refusal.errno))
    }

    fn disturbed(&mut self) -> Result<bool, Error> {
        Ok(false)
    }

    fn forget(&mut self, _: &[Stale]) -> Result<usize, Error> {
        Ok(0)
    }

    fn reconcile(&mut self, _: &Table, _: &Model) -> Result<usize, Error> {
        Ok(0)
    }
}

/// Service `n` with that many endpoints.
fn serve(model: &mut Model, n: usize, endpoints: usize) {
    let name = format!("web-{n}");
    let metadata = json!({"name": name, "namespace": "ns", "labels": {"kubernetes.io/service-name": name}});
    let spec = json!({"clusterIP": format!("10.96.{}.{}", n / 250, n % 250 + 1), "ports": [{"port": 80}]});
    let address = |at: usize| json!({"addresses": [format!("10.{}.{}.{}", n % 250, at / 250, at % 250 + 1)]});
    let endpoints: Vec<_> = (0..endpoints).map(address).collect();
    let slice = json!({"metadata": metadata, "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints});
    model.apply_service(&serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap());
    model.apply_slice(&serde_json::from_value(slice).unwrap());
}

/// A proxy's apply stage that has brought these many Services into the kernel.
fn started(kernel: Moody, services: usize) -> (Sync<Moody>, Model, Metrics) {
    let (mut sync, mut model, metrics) =
        (Sync::new(kernel, Ranges::default()), Model::new(NodeView::default()), Metrics::default());
    (0..services).for_each(|n| serve(&mut model, n, 3));
    until_in_sync(&mut sync, &mut model, &metrics);
    (sync, model, metrics)
}

/// Takes steps when they are due; says what they did.
fn until_in_sync(sync: &mut Sync<Moody>, model: &mut Model, metrics: &Metrics) -> Vec<Step> {
    let mut steps = vec![sync.step(model, metrics)];
    while !sync.in_sync() {
        let due = sync.retry_at().expect("who is out of sync tries again");
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        steps.push(sync.step(model, metrics));
    }
    steps
}

fn holds_the_plan(sync: &Sync<Moody>, model: &Model) {
    let wanted = Ruleset { tables: [(table_id(), plan(model, &Ranges::default()))].into() };
    let left = diff(sync.kernel.memory.ruleset(), &wanted);
    assert!(left.is_empty(), "{:?}", left.ops.first());
}

#[test]
fn what_the_kernel_refuses_is_tried_again_after_a_look() {
    for errno in [Errno::EBUSY, Errno::ENOMEM, Errno::ENOBUFS, Errno::EAGAIN, Errno::EINTR, Errno::ENOENT] {
        let (mut sync, mut model, metrics) = started(Moody::default(), 3);
        let reads = sync.kernel.reads;
        // A change of one element is as small as it can be: no use in parts of it.
        sync.kernel.refusals = [errno, errno].into();
        serve(&mut model, 1, 4);
        let steps = until_in_sync(&mut sync, &mut model, &metrics);
        assert!(steps[0].failed && !steps.last().unwrap().failed, "{errno}: {steps:?}");
        assert!(sync.kernel.refusals.is_empty() && metrics.sync_failures.get() > 0, "{errno}");
        assert!(sync.kernel.reads > reads, "{errno}: nobody looked");
        holds_the_plan(&sync, &model);
    }
}

#[test]
fn a_read_that_is_interrupted_is_begun_again() {
    let interruptions = [Errno::EINTR, Errno::ENOBUFS, Errno::EAGAIN].into();
    let (sync, model, metrics) = started(Moody { interruptions, ..Moody::default() }, 3);
    assert_eq!((sync.kernel.reads, metrics.sync_failures.get()), (4, 3));
    holds_the_plan(&sync, &model);
}

#[test]
fn what_failed_is_said_with_its_cause() {
    let source = netlink::Error::Dump { act: "list elements", errno: Errno::ENOBUFS };
    let told = Chain(&Error::Read(source)).to_string();
    assert_eq!(told, "read of the table failed: list elements: ENOBUFS: the socket buffer is too small");
}

#[test]
fn a_kernel_without_room_gets_the_table_in_parts() {
    let (mut sync, mut model, metrics) = started(Moody { room: Some(40), ..Moody::default() }, 60);
    assert!(sync.kernel.largest <= 40 && metrics.sync_failures.get() == 0, "{}", sync.kernel.largest);
    holds_the_plan(&sync, &model);
    // One Service that is larger than that by itself, and then is gone.
    serve(&mut model, 7, 300);
    serve(&mut model, 1000, 300);
    sync.kernel.room = Some(700);
    until_in_sync(&mut sync, &mut model, &metrics);
    holds_the_plan(&sync, &model);
    sync.kernel.room = Some(50);
    let keys: Vec<_> = model.views().map(|view| view.key.clone()).collect();
    keys.iter().for_each(|key| model.remove_service(key));
    until_in_sync(&mut sync, &mut model, &metrics);
    assert_eq!(metrics.sync_failures.get(), 0);
}

#[test]
fn a_foreign_edit_is_undone_and_told() {
    let (mut sync, mut model, metrics) = started(Moody::default(), 3);
    let table = sync.kernel.memory.ruleset_mut().tables.get_mut(&table_id()).unwrap();
    table.sets.values_mut().for_each(|set| set.elements.clear());
    sync.doubt();
    assert!(until_in_sync(&mut sync, &mut model, &metrics)[0].repaired);
    holds_the_plan(&sync, &model);
}
