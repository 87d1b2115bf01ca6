//! Streams to a pod as kubectl opens them: SPDY/3.1, the WebSocket that it comes in since KEP-4006, and the pairs of `port-forward`.
//!
//! Both ends are here. A node's agent answers clients; the API server answers those whose forwards follow a Service, and is then a client
//! of the agents itself. What a stream means is left to them.
#![forbid(unsafe_code)]

pub mod portforward;
pub mod spdy;
mod tunnel;
