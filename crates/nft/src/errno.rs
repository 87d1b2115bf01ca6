//! The kernel's error numbers that a ruleset can meet, with what each means here.

use std::fmt;

/// An error number as the kernel gives it, positive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

impl Errno {
    pub const EPERM: Errno = Errno(1);
    pub const ENOENT: Errno = Errno(2);
    pub const EINTR: Errno = Errno(4);
    pub const EAGAIN: Errno = Errno(11);
    pub const ENOMEM: Errno = Errno(12);
    pub const EBUSY: Errno = Errno(16);
    pub const EEXIST: Errno = Errno(17);
    pub const EINVAL: Errno = Errno(22);
    pub const ENFILE: Errno = Errno(23);
    pub const EMLINK: Errno = Errno(31);
    pub const ERANGE: Errno = Errno(34);
    pub const ENOTEMPTY: Errno = Errno(39);
    pub const ELOOP: Errno = Errno(40);
    pub const EMSGSIZE: Errno = Errno(90);
    pub const EOPNOTSUPP: Errno = Errno(95);
    pub const ENOBUFS: Errno = Errno(105);

    /// The C name, where we know it, and what nf_tables means by it.
    pub fn explain(self) -> Option<(&'static str, &'static str)> {
        EXPLAINED.iter().find(|(errno, ..)| *errno == self).map(|&(_, name, meaning)| (name, meaning))
    }
}

const EXPLAINED: [(Errno, &str, &str); 16] = [
    (Errno::EPERM, "EPERM", "needs CAP_NET_ADMIN in the network namespace"),
    (Errno::ENOENT, "ENOENT", "no such table, chain, set, rule or element"),
    (Errno::EINTR, "EINTR", "the ruleset changed while it was read"),
    (Errno::EAGAIN, "EAGAIN", "try again"),
    (Errno::ENOMEM, "ENOMEM", "out of kernel memory"),
    (Errno::EBUSY, "EBUSY", "still referred to"),
    (Errno::EEXIST, "EEXIST", "exists with other content"),
    (Errno::EINVAL, "EINVAL", "not a valid operation"),
    (Errno::ENFILE, "ENFILE", "the set has reached its declared size"),
    (Errno::EMLINK, "EMLINK", "too many references"),
    (Errno::ERANGE, "ERANGE", "a value is out of range"),
    (Errno::ENOTEMPTY, "ENOTEMPTY", "ranges overlap"),
    (Errno::ELOOP, "ELOOP", "chains would loop"),
    (Errno::EMSGSIZE, "EMSGSIZE", "more than one send may hold"),
    (Errno::EOPNOTSUPP, "EOPNOTSUPP", "this kernel lacks the feature, or the hook does not allow it"),
    (Errno::ENOBUFS, "ENOBUFS", "the socket buffer is too small"),
];

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.explain() {
            Some((name, meaning)) => write!(f, "{name}: {meaning}"),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
