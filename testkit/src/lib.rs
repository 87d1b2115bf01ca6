//! A machine for a test: network, mounts and processes of its own, thrown away with all that runs in it.
//!
//! [`Machine`] is what end-to-end tests start the real binary in. Nothing of it outlives the test, also when the test is killed: the
//! kernel ends every process of a process namespace with its first one. [`session`] is how a test drives a command-line client.
#![forbid(unsafe_code)]

mod machine;
pub mod session;
mod wait;

pub use machine::{Machine, Said, said};
pub use wait::until;
