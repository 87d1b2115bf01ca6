//! What we send, judged by a real kernel in network namespaces of the tests' own.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../../nft/tests/laws/generate.rs"]
mod generate;
mod laws;
mod links;
mod listing;
mod nftables;
mod packets;
