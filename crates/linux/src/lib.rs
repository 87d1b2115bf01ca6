//! The Linux kernel as the rest of Portolan needs it: namespaces, mounts, cgroups, processes, locks.
//!
//! This is one of the two crates that may hold `unsafe` (the other is `netlink`). Everything here is synchronous and
//! small: a call is one act on the kernel, with an error that says which act on which path failed. Policy (what a pod
//! is, which limits it gets) belongs to the callers.

#![allow(unsafe_code)]

pub mod cgroup;
pub mod datagrams;
mod error;
pub mod icmp6;
pub mod lock;
pub mod mounts;
pub mod namespaces;
pub mod netns;
pub mod packet;
pub mod process;
pub mod readiness;
pub mod rooted;
pub mod seccomp;
pub mod socket;
pub mod terminal;

pub use datagrams::Datagrams;
pub use error::{Error, Result};
pub use lock::FileLock;
pub use netns::NetNs;
pub use process::ProcessId;
