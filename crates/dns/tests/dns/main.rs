//! DNS as a whole: the server with its sockets, against an API and a resolver outside that the tests hold in their hands.
#![allow(clippy::unwrap_used)]

mod alive;
mod messages;
mod outside;
mod recorded;
mod search;
mod support;
