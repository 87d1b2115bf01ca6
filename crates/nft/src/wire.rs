//! Rulesets as nfnetlink messages, both ways.
//!
//! [`encode`] makes the bytes of a batch for one send, and remembers which message belongs to which operation, so that
//! an error in a reply can name the operation. [`Message`] splits what a kernel sends; [`decode`] says what one message
//! means, and [`Assembly`] puts the messages of a dump together again. The constants are those of the kernel's uapi
//! headers `nf_tables.h`, `nfnetlink.h` and `netlink.h`; what only `nft` itself reads is in `userdata`.

pub mod attribute;
mod decode;
mod element;
mod encode;
mod expr;
mod message;
mod userdata;

pub use decode::{Assembly, Decoded, RawElements, decode};
pub use encode::{Encoded, encode};
pub use message::{Message, Messages, Request, kind};
