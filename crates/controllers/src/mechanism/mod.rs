//! What all controllers share, written once: views of the world, a queue of keys, writes, and the loop that joins them.
//!
//! A controller sees changes ([`Informer`]), turns each into keys of its [`Queue`], and for each key decides [`Write`]s. The loop
//! ([`drive`]) carries them out and then leaves the key alone until the views show what was written: a controller never decides twice on
//! the same facts, so it cannot make a thing twice.

mod drive;
mod informer;
mod inventory;
mod owner;
mod queue;
mod write;

pub use drive::{Controller, Decision, Drive, drive};
pub use informer::{Informer, Informers};
#[cfg(test)]
pub use inventory::ServedKind;
pub use inventory::{Inventory, Item};
pub use owner::{Adoption, adopt, adoption_writes, controller_of, is_controlled_by, owner_reference, wake_owners};
pub use queue::Queue;
pub use write::{Awaited, Propagation, Target, Verb, Write};
