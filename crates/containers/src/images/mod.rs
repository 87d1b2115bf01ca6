//! The content store of a node: images by name, digest and id; their layers unpacked once, mounted as often as wanted.
//!
//! On disk, below the folder given to [`ImageStore::open`]:
//!
//! ```text
//! partial/<hex>          a layer that is being fetched, named by its digest; gone when it is unpacked
//! layers/<hex>/          a layer's files, named by its chain id; <hex>.json beside it says what is known about it
//! images/<hex>.json      one image: its names, layers and configuration; <hex> is the image id
//! tmp/                   what is being written; emptied at open
//! ```
//!
//! A file or folder appears under its final name only when it is complete, so a crash leaves nothing that looks whole
//! and is not. Nothing here is volatile; two processes must not open one store.

mod archive;
pub mod build;
mod error;
mod ingest;
mod layer;
mod pull;
mod reference;
mod store;

pub use error::{Error, PullError};
pub use layer::LayerError;
pub use pull::{Auth, Progress, PullOptions};
pub use reference::Reference;
pub use store::{Image, ImageConfig, ImageStore, Pruned};
