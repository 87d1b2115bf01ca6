//! Notifications: what anyone changes in the nf_tables of a namespace, while it happens.

use std::io;

use linux::NetNs;
use nft::wire::{Decoded, Messages, decode};
use tokio::io::unix::AsyncFd;

use crate::socket::Socket;
use crate::{Error, Result};

/// `NFNLGRP_NFTABLES`
const GROUP: i32 = 7;
/// Room for the notifications of a large commit. What does not fit is told as [`Notice::Lost`].
const BACKLOG: usize = 8 << 20;

/// Listens to one namespace.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<Socket>,
    waiting: std::collections::VecDeque<Notice>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Something was added or deleted, by the socket with that port.
    Change { port: u32, change: Decoded },
    /// The changes since the last such notice were one commit, which gave the ruleset this number.
    Commit { port: u32, generation: u32, process: Option<u32>, name: Option<std::sync::Arc<str>> },
    /// More happened than could be kept: whoever wants to know must look.
    Lost,
}

impl Monitor {
    /// Listens inside `ns`. Must be called within a tokio runtime.
    pub fn open(ns: &NetNs) -> Result<Monitor> {
        let socket = Socket::open(ns, "nf_tables notifications")?;
        let open = |source| Error::Open { purpose: "nf_tables notifications", source };
        socket.reserve_receive(BACKLOG).map_err(open)?;
        socket.join(GROUP).map_err(open)?;
        // SAFETY: `Socket` owns its descriptor, always gives the same one, and closes it only when it is dropped, which the
        // `AsyncFd` that owns it does after it has taken the descriptor off the reactor.
        #[allow(unsafe_code)]
        let socket = unsafe { AsyncFd::register(socket) }.map_err(|error| open(error.into()))?;
        Ok(Monitor { socket, waiting: std::collections::VecDeque::new() })
    }

    /// Waits for the next notice. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Notice> {
        loop {
            if let Some(notice) = self.waiting.pop_front() {
                return Ok(notice);
            }
            let listening = |source| Error::Listen { source };
            let mut ready = self.socket.readable_mut().await.map_err(listening)?;
            match ready.get_inner_mut().receive() {
                Ok(bytes) => self.waiting.extend(Messages(bytes).filter_map(|message| notice(&message))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Notice::Lost),
                Err(error) => return Err(listening(error)),
            }
        }
    }
}

fn notice(message: &nft::wire::Message<'_>) -> Option<Notice> {
    Some(match decode(message)? {
        Decoded::Generation { number, process, name } => {
            Notice::Commit { port: message.port, generation: number, process, name }
        }
        change => Notice::Change { port: message.port, change },
    })
}
