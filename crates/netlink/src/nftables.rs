//! nf_tables of one network namespace: commit a batch, read a table back, hear of changes.
//!
//! Calls block for as long as the kernel works, which is microseconds for a change and up to a second or two for a table
//! with hundreds of thousands of elements. Only waiting for notifications is asynchronous.

mod monitor;

use std::io;
use std::sync::Arc;

use linux::NetNs;
use nft::wire::{Assembly, Decoded, Message, Messages, Request, decode, encode, kind};
use nft::{Base, Batch, Chain, Elements, Errno, Expr, Family, Op, Ruleset, SetRef, Table, TableId};

pub use monitor::{Monitor, Notice};

use crate::socket::Socket;
use crate::{Error, Result};

/// How often a dump is begun again because others changed the ruleset while it was read.
const DUMP_TRIES: u32 = 20;
/// Room for the replies of a batch: one acknowledgement, or an error for each of many operations.
const REPLIES: usize = 4 << 20;

/// The nf_tables socket of one namespace.
#[derive(Debug)]
pub struct NfTables {
    socket: Socket,
    sequence: u32,
}

/// A table as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// `None`: there is no such table.
    pub table: Option<Table>,
    /// The number of the ruleset's state that was read. Every commit of anyone's in the namespace raises it.
    pub generation: u32,
}

impl Snapshot {
    /// The table as a ruleset that can be compared with another.
    pub fn into_ruleset(self, id: TableId) -> Ruleset {
        Ruleset { tables: self.table.into_iter().map(|table| (id.clone(), table)).collect() }
    }
}

impl NfTables {
    /// Opens a socket inside `ns`.
    pub fn open(ns: &NetNs) -> Result<NfTables> {
        let socket = Socket::open(ns, "nf_tables")?;
        socket
            .reserve_receive(REPLIES)
            .map_err(|source| Error::Open { purpose: "nf_tables (it needs CAP_NET_ADMIN)", source })?;
        Ok(NfTables { socket, sequence: 1 })
    }

    /// The port that notifications of our own commits carry.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Has the kernel carry the batch out. An error means that nothing of it happened, except [`Error::Unknown`], after
    /// which one must look.
    pub fn commit(&mut self, batch: &Batch) -> Result<()> {
        self.send_batch(batch, None)
    }

    /// As [`NfTables::commit`], unless anyone changed the ruleset since that generation: then `ERESTART`.
    pub fn commit_at(&mut self, generation: u32, batch: &Batch) -> Result<()> {
        self.send_batch(batch, Some(generation))
    }

    fn send_batch(&mut self, batch: &Batch, generation: Option<u32>) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.drain();
        let encoded = encode(batch, self.sequence, generation);
        self.sequence = self.sequence.wrapping_add(encoded.messages());
        let ops = batch.ops.len();
        let refused = |op: Option<usize>, errno, message| Error::Commit {
            ops,
            op,
            what: op.and_then(|op| batch.ops.get(op)).map(describe),
            errno,
            message,
        };
        let sent = self.socket.reserve_send(encoded.bytes.len() * 2).and_then(|()| self.socket.send(&encoded.bytes));
        sent.map_err(|error| refused(None, Errno(error.raw_os_error().unwrap_or(0)), None))?;

        // The kernel has worked on the batch when send(2) returns, so all its replies are there to be read.
        let mut acknowledged = false;
        let mut failure = None;
        loop {
            let bytes = match self.socket.receive() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Replies were lost, but those before them were not.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(source) => return Err(Error::Unknown { ops, source: Some(source) }),
            };
            for reply in Messages(bytes).filter(|reply| encoded.owns(reply.sequence)) {
                match reply.errno() {
                    Some(0) => acknowledged |= reply.sequence == encoded.last(),
                    Some(errno) if failure.is_none() => {
                        failure = Some((encoded.op(reply.sequence), Errno(errno), extended(&reply)));
                    }
                    Some(_) | None => {}
                }
            }
        }
        match failure {
            Some((op, errno, message)) => Err(refused(op, errno, message)),
            None if acknowledged => Ok(()),
            None => Err(Error::Unknown { ops, source: None }),
        }
    }

    /// The number of the ruleset's present state.
    pub fn generation(&mut self) -> Result<u32> {
        let mut number = None;
        self.ask(&Request::Generation, "read the generation of the ruleset", &mut |decoded| {
            if let Decoded::Generation { number: found, .. } = decoded {
                number = Some(found);
            }
        })?;
        number.ok_or(Error::Dump { act: "read the generation of the ruleset", errno: Errno::ENOENT })
    }

    /// The tables of all families.
    pub fn tables(&mut self) -> Result<Vec<TableId>> {
        let mut tables = Vec::new();
        for family in [Family::Inet, Family::Ip, Family::Ip6] {
            self.ask(&Request::Tables(family), "list tables", &mut |decoded| {
                tables.extend(decoded.table().cloned());
            })?;
        }
        Ok(tables)
    }

    /// The names of a table's chains.
    pub fn chains(&mut self, table: &TableId) -> Result<Vec<Arc<str>>> {
        let mut chains = Vec::new();
        self.ask(&Request::Chains(table.clone()), "list chains", &mut |decoded| match decoded {
            Decoded::Chain { table: of, name, .. } if of == *table => chains.push(name),
            Decoded::Table { .. }
            | Decoded::Chain { .. }
            | Decoded::Set { .. }
            | Decoded::Elements(_)
            | Decoded::Rule { .. }
            | Decoded::Generation { .. } => {}
        })?;
        Ok(chains)
    }

    /// A table's chains at which packets enter, and where that is.
    pub fn base_chains(&mut self, table: &TableId) -> Result<Vec<(Arc<str>, Base)>> {
        let mut chains = Vec::new();
        self.ask(&Request::Chains(table.clone()), "list chains", &mut |decoded| {
            if let Decoded::Chain { table: of, name, chain: Chain { base: Some(base), .. }, .. } = decoded
                && of == *table
            {
                chains.push((name, base));
            }
        })?;
        Ok(chains)
    }

    /// What the rules of a table consist of, one after the other, as far as it is known here.
    pub fn expressions(&mut self, table: &TableId) -> Result<Vec<Expr>> {
        let mut all = Vec::new();
        self.ask(&Request::Rules(table.clone()), "list rules", &mut |decoded| {
            if let Decoded::Rule { table: of, exprs, .. } = decoded
                && of == *table
            {
                all.extend(exprs);
            }
        })?;
        Ok(all)
    }

    /// Reads a table with all that is in it, as one state: it begins again while others write.
    pub fn dump(&mut self, table: &TableId) -> Result<Snapshot> {
        self.consistently(|nft, generation| {
            let mut assembly = Assembly::new();
            let mut exists = false;
            nft.ask(&Request::Tables(table.family), "list tables", &mut |decoded| {
                if decoded.table() == Some(table) {
                    exists = true;
                    assembly.add(decoded);
                }
            })?;
            if !exists {
                return Ok(Snapshot { table: None, generation });
            }
            let mut ours = |decoded: Decoded| {
                if decoded.table() == Some(table) {
                    assembly.add(decoded);
                }
            };
            nft.ask(&Request::Sets(table.clone()), "list sets", &mut ours)?;
            nft.ask(&Request::Chains(table.clone()), "list chains", &mut ours)?;
            nft.ask(&Request::Rules(table.clone()), "list rules", &mut ours)?;
            for (table, set) in assembly.sets() {
                nft.ask(&Request::Elements(table, set), "list elements", &mut |decoded| assembly.add(decoded))?;
            }
            let table = assembly.finish().tables.remove(table);
            Ok(Snapshot { table, generation })
        })
    }

    /// Reads the elements of one set, as one state.
    pub fn elements(&mut self, set: &SetRef) -> Result<Elements> {
        self.consistently(|nft, _| {
            let mut assembly = Assembly::new();
            let spec = Box::new((*set.spec).clone());
            assembly.add(Decoded::Set { added: true, table: set.table.clone(), name: set.name.clone(), spec });
            let request = Request::Elements(set.table.clone(), set.name.clone());
            nft.ask(&request, "list elements", &mut |decoded| assembly.add(decoded))?;
            let mut tables = assembly.finish().tables;
            let found = tables.get_mut(&set.table).and_then(|table| table.sets.remove(&set.name));
            Ok(found.map(|set| set.elements).unwrap_or_default())
        })
    }

    /// Reads again until nobody wrote meanwhile.
    fn consistently<T>(&mut self, read: impl Fn(&mut NfTables, u32) -> Result<T>) -> Result<T> {
        let mut tries = 0;
        loop {
            tries += 1;
            let before = self.generation()?;
            let result = read(self, before);
            let disturbed = match &result {
                Ok(_) => self.generation()? != before,
                // What was listed a moment ago is gone.
                Err(Error::Dump { errno, .. }) => *errno == Errno::EINTR || *errno == Errno::ENOENT,
                Err(_) => false,
            };
            if !disturbed || tries == DUMP_TRIES {
                return result;
            }
        }
    }

    /// Sends a question and gives every message of the answer to `take`.
    fn ask(&mut self, request: &Request, act: &'static str, take: &mut dyn FnMut(Decoded)) -> Result<()> {
        self.drain();
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let failed = |error: io::Error| Error::Dump { act, errno: Errno(error.raw_os_error().unwrap_or(0)) };
        self.socket.send(&request.encode(sequence)).map_err(failed)?;
        let one_answer = *request == Request::Generation;
        loop {
            // The kernel fills in the next part of a dump while we take this one, so there is always something to read.
            let bytes = self.socket.receive().map_err(failed)?;
            for message in Messages(bytes).filter(|message| message.sequence == sequence) {
                if message.interrupted() {
                    return Err(Error::Dump { act, errno: Errno::EINTR });
                }
                match message.errno() {
                    Some(0) => return Ok(()),
                    Some(errno) => return Err(Error::Dump { act, errno: Errno(errno) }),
                    None => decode(&message).into_iter().for_each(&mut *take),
                }
                if one_answer || message.kind == kind::DONE {
                    return Ok(());
                }
            }
        }
    }

    /// Throws away what an earlier, broken-off exchange left to be read.
    fn drain(&mut self) {
        while self.socket.receive().is_ok() {}
    }
}

/// An operation in a few words, for errors.
fn describe(op: &Op) -> String {
    match op {
        Op::AddTable { table, .. } => format!("add table {table}"),
        Op::DeleteTable { table, .. } => format!("delete table {table}"),
        Op::AddChain { table, chain, .. } => format!("add chain {table} {chain}"),
        Op::DeleteChain { table, chain } => format!("delete chain {table} {chain}"),
        Op::FlushChain { table, chain } => format!("flush chain {table} {chain}"),
        Op::AddRule { table, chain, .. } => format!("add rule {table} {chain}"),
        Op::DeleteRule { table, chain, handle } => format!("delete rule {table} {chain} handle {handle}"),
        Op::AddSet { set } => format!("add set {} {}", set.table, set.name),
        Op::DeleteSet { set } => format!("delete set {} {}", set.table, set.name),
        Op::FlushSet { set } => format!("flush set {} {}", set.table, set.name),
        Op::AddElements { set, elements } => format!("add {} elements {} {}", elements.len(), set.table, set.name),
        Op::DeleteElements { set, elements } => {
            format!("delete {} elements {} {}", elements.len(), set.table, set.name)
        }
    }
}

/// The kernel's own words beside an error, `NLMSGERR_ATTR_MSG`.
fn extended(reply: &Message<'_>) -> Option<String> {
    /// `NLM_F_ACK_TLVS`
    const ATTRIBUTES: u16 = 0x200;
    /// The error number and the header of the message that it is about, which is all that `NETLINK_CAP_ACK` leaves of it.
    const FIXED: usize = 4 + 16;
    const MESSAGE: u16 = 1;
    if reply.flags & ATTRIBUTES == 0 {
        return None;
    }
    let mut rest = reply.body.get(FIXED..)?;
    loop {
        let len = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..len)?;
        if kind == MESSAGE {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
}
