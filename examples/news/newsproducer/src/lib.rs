//! The parts of the news producer: where the broker is, what the feed says, how a STOMP message is sent.
#![forbid(unsafe_code)]

pub mod broker;
pub mod feed;
pub mod stomp;
