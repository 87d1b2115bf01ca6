//! The service proxy: observe → model → plan → diff → commit.
//!
//! [`run`] follows Services, EndpointSlices and the node through the API, keeps a `service_model::Model`, and brings the node's nf_tables
//! to what [`Planner`] makes of it. All decisions are pure; only `run` and what it starts touch the kernel.
#![forbid(unsafe_code)]

mod run;

mod config;
mod error;
mod settings;

mod observe;
mod plan;
mod render;
mod trace;

mod layout;
mod pool;
mod programmed;

mod flows;
mod kernel;
mod split;
mod sync;

mod connections;
mod events;
mod health;
mod metrics;

pub use config::{Applied, Config, NodePortAddresses};
pub use error::Error;
pub use flows::{Expected, Stale, StaleFlows, UdpFlow, stale};
pub use kernel::{cleanup, dump};
pub use layout::{Class, PodInterface, SetId, TABLE, table_id};
pub use observe::FOLLOWED;
pub use plan::{Delta, Planner, Ranges, plan};
pub use render::{RenderError, describe, render};
pub use run::run;
pub use settings::{ConntrackMax, Local, Settings, SettingsError, parse_bind_address};
pub use split::split;
pub use trace::{Question, trace};
