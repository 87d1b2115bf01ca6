//! What every namespace has from its start: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.

mod decide;
mod reconcile;
#[cfg(test)]
mod tests;

pub use reconcile::{start_accounts, start_roots};
