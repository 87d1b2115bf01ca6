//! What several kinds share, written once: reading JSON, names, addresses, quantities, metadata, and the cells of tables.

pub mod errors;
pub mod get;
pub mod internal;
pub mod meta;
pub mod names;
pub mod net;
pub mod paths;
pub mod resources;
pub mod selector;
pub mod table;
pub mod workload;
