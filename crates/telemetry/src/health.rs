//! Health by named checks, answered as Kubernetes components answer `/livez` and `/readyz`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// The state of one check: fine, or not and why.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The checks of one component. Clones share them.
#[derive(Clone, Default)]
pub struct Health {
    checks: Arc<RwLock<BTreeMap<String, Check>>>,
}

/// What a health endpoint answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub healthy: bool,
    /// `ok`, or with `verbose` or a failure one line a check, as kube-apiserver prints them.
    pub text: String,
}

impl Health {
    /// Adds or replaces the check of that name.
    pub fn add(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.checks.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::new(check));
    }

    /// Runs all checks. `endpoint` is the path's name, such as `readyz`; reasons stay in the log, as upstream withholds them.
    pub fn report(&self, endpoint: &str, verbose: bool) -> Report {
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner);
        let mut lines = String::new();
        let mut healthy = true;
        for (name, check) in checks.iter() {
            match check() {
                Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
                Err(reason) => {
                    tracing::warn!(check = %name, %reason, "health check failed");
                    healthy = false;
                    lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
                }
            }
        }
        let text = match (healthy, verbose) {
            (true, false) => "ok".to_owned(),
            (true, true) => format!("{lines}{endpoint} check passed\n"),
            (false, _) => format!("{lines}{endpoint} check failed\n"),
        };
        Report { healthy, text }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(checks.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_is_named_and_its_reason_withheld() {
        let health = Health::default();
        health.add("ping", || Ok(()));
        assert_eq!(health.report("livez", false), Report { healthy: true, text: "ok".into() });
        assert_eq!(health.report("livez", true).text, "[+]ping ok\nlivez check passed\n");
        health.add("store", || Err("disk is full".into()));
        let report = health.report("readyz", false);
        assert!(!report.healthy);
        assert_eq!(report.text, "[+]ping ok\n[-]store failed: reason withheld\nreadyz check failed\n");
    }
}
