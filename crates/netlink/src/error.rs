//! What can go wrong between us and the kernel, said as the act that failed.

use nft::Errno;

/// A failed act, with the kernel's reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open a netlink socket for {purpose}")]
    Open {
        purpose: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("enter the network namespace")]
    Enter(#[source] linux::Error),
    /// A change of links, addresses, routes, neighbours or rules.
    #[error("{act} `{target}`: {errno}")]
    Refused { act: &'static str, target: String, errno: Errno },
    #[error("{act} `{target}`: the kernel's answer was not understood: {answer}")]
    Answer { act: &'static str, target: String, answer: String },
    /// The kernel took nothing of a batch.
    #[error("commit of {ops} nftables operations failed{}: {errno}{}", blame(.op, .what), aside(.message))]
    Commit {
        ops: usize,
        /// The index of the operation that failed; none when the kernel refused the batch as a whole.
        op: Option<usize>,
        what: Option<String>,
        errno: Errno,
        /// The kernel's own words.
        message: Option<String>,
    },
    /// Whether the batch was taken could not be read: look.
    #[error("the kernel's answer to {ops} nftables operations was lost")]
    Unknown {
        ops: usize,
        #[source]
        source: Option<std::io::Error>,
    },
    #[error("{act}: {errno}")]
    Dump { act: &'static str, errno: Errno },
    #[error("listen to notifications")]
    Listen {
        #[source]
        source: std::io::Error,
    },
    #[error("{act}: no link named `{name}`")]
    NoLink { act: &'static str, name: String },
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The kernel's error number, where it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { errno, .. } | Error::Commit { errno, .. } | Error::Dump { errno, .. } => Some(*errno),
            Error::Open { source, .. } | Error::Listen { source } => source.raw_os_error().map(Errno),
            Error::Unknown { source, .. } => source.as_ref()?.raw_os_error().map(Errno),
            Error::Enter(_) | Error::Answer { .. } | Error::NoLink { .. } => None,
        }
    }

    /// Whether the thing to be made was there already.
    pub fn already_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }

    /// Whether the thing to be changed or deleted was not there (the kernel says ENOENT, ENODEV, ESRCH or EADDRNOTAVAIL).
    pub fn not_found(&self) -> bool {
        const GONE: [i32; 4] = [libc::ENOENT, libc::ENODEV, libc::ESRCH, libc::EADDRNOTAVAIL];
        matches!(self, Error::NoLink { .. }) || self.errno().is_some_and(|errno| GONE.contains(&errno.0))
    }

    /// Whether the same call may well succeed when made again soon: the kernel was short of something or busy.
    pub fn is_transient(&self) -> bool {
        const SHORT: [i32; 6] = [libc::EAGAIN, libc::EINTR, libc::EBUSY, libc::ENOBUFS, libc::ENOMEM, libc::ERESTART];
        self.errno().is_some_and(|errno| SHORT.contains(&errno.0))
    }
}

fn blame(op: &Option<usize>, what: &Option<String>) -> String {
    match (op, what) {
        (Some(op), Some(what)) => format!(" at operation {op} (`{what}`)"),
        (Some(op), None) => format!(" at operation {op}"),
        (None, _) => String::new(),
    }
}

fn aside(message: &Option<String>) -> String {
    message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default()
}
