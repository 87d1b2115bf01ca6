//! The node's kernel, over netlink.

use linux::NetNs;
use netlink::{Conntrack, Flow, NfTables};
use nft::{Batch, CtStatus, Op, Table};
use service_model::Model;

use crate::error::Error;
use crate::flows::{Expected, Stale, StaleFlows, UdpFlow};
use crate::layout::table_id;
use crate::plan::frontends_in;
use crate::sync::Kernel;

const UDP: u8 = 17;

/// nf_tables and conntrack of one network namespace.
#[derive(Debug)]
pub(crate) struct NodeKernel {
    tables: NfTables,
    flows: Conntrack,
    /// The ruleset's number after our last read or commit, as long as nobody else wrote.
    generation: u32,
}

impl NodeKernel {
    pub fn open(netns: &NetNs) -> Result<Self, Error> {
        let tables = NfTables::open(netns).map_err(Error::Open)?;
        let flows = Conntrack::open(netns).map_err(Error::Open)?;
        Ok(NodeKernel { tables, flows, generation: 0 })
    }

    /// What our own commits are told apart by.
    pub fn port(&self) -> u32 {
        self.tables.port()
    }
}

impl Kernel for NodeKernel {
    fn read(&mut self) -> Result<Option<Table>, Error> {
        let snapshot = self.tables.dump(&table_id()).map_err(Error::Read)?;
        self.generation = snapshot.generation;
        Ok(snapshot.table)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        self.tables.commit(batch).map_err(|source| Error::Commit { operations: batch.ops.len(), source })?;
        self.generation = self.generation.wrapping_add(1);
        Ok(())
    }

    fn disturbed(&mut self) -> Result<bool, Error> {
        Ok(self.tables.generation().map_err(Error::Read)? != self.generation)
    }

    fn forget(&mut self, stale: &[Stale]) -> Result<usize, Error> {
        let stale = StaleFlows::new(stale);
        self.flows.delete_where(UDP, |flow| stale.contain(udp(flow))).map_err(Error::Flows)
    }

    fn reconcile(&mut self, actual: &Table, model: &Model) -> Result<usize, Error> {
        let expected = Expected::new(model, frontends_in(actual));
        self.flows.delete_where(UDP, |flow| expected.refuse(udp(flow))).map_err(Error::Flows)
    }
}

/// Our table in a namespace, as nft prints it; empty if there is none.
///
/// # Errors
/// When the namespace or its nf_tables cannot be read.
pub fn dump(netns: &NetNs) -> Result<String, Error> {
    let snapshot = NfTables::open(netns).map_err(Error::Open)?.dump(&table_id()).map_err(Error::Read)?;
    Ok(snapshot.into_ruleset(table_id()).to_string())
}

/// Takes our table out of a namespace, if there is one. Open connections go on.
///
/// # Errors
/// When the kernel refuses.
pub fn cleanup(netns: &NetNs) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.push(Op::DeleteTable { table: table_id(), must_exist: false });
    let committed = NfTables::open(netns).map_err(Error::Open)?.commit(&batch);
    committed.map_err(|source| Error::Commit { operations: batch.ops.len(), source })
}

fn udp(flow: &Flow) -> UdpFlow {
    let translated = flow.status & CtStatus::DNAT.0 != 0;
    UdpFlow { to: flow.original.destination, sent_to: translated.then_some(flow.reply.source) }
}
