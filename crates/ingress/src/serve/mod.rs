//! The serving side: sockets in the namespaces they belong to, workers behind them, and the way of a request through both.

mod admit;
mod backend;
mod body;
mod client;
mod codec;
mod connection;
mod downstream;
mod exchange;
mod head;
mod headers;
mod http1;
mod http2;
mod listen;
mod pages;
mod policy;
mod refusal;
mod sticky;
mod timer;
mod upgrade;
mod worker;

pub(crate) use backend::BackendTls;
pub(crate) use client::{Door, Serves};
pub(crate) use downstream::Patience;
pub(crate) use listen::{Bound, bind};
pub(crate) use worker::{Shared, Workers};
