//! The nodes' network: what is planned ([`plan`]), and how it is made and taken away ([`make`]).
//!
//! One node is joined to the machine by a veth pair. Several nodes hang on a bridge that lives in a namespace of its own, so that what
//! they send each other never meets the machine's firewall.

mod dns_address;
mod make;
mod plan;
mod way_out;

pub use dns_address::serve_on_node;
pub use make::{UPLINK, facts, make, remove};
pub use plan::{Facts, Network6, NodePlan, Plan, Wish, plan};
pub use way_out::{WayOut, close_way_out, forwarding_is_off, open_way_out, primary_address, remove_service_rules};
