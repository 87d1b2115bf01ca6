//! How image registries are spoken to: flags that `up` and `image pull` share.

use clap::Args;
use containers::images::PullOptions;

#[derive(Debug, Clone, Args)]
pub struct RegistryOptions {
    /// Speak plain HTTP to this image registry; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    pub insecure_registry: Vec<String>,
    /// Ask a mirror before the registry, such as `docker.io=mirror.example:5000`; may be given several times
    #[arg(long, value_name = "REGISTRY=MIRROR", value_parser = mirror)]
    pub registry_mirror: Vec<(String, String)>,
}

fn mirror(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((registry, mirror)) if !registry.is_empty() && !mirror.is_empty() && !mirror.contains("://") => {
            Ok((registry.to_owned(), mirror.to_owned()))
        }
        Some(_) | None => Err("give it as REGISTRY=MIRROR, both a host and perhaps a port".to_owned()),
    }
}

impl RegistryOptions {
    pub fn pull_options(&self) -> PullOptions {
        let mut options = PullOptions { insecure_registries: self.insecure_registry.clone(), ..PullOptions::default() };
        for (registry, mirror) in &self.registry_mirror {
            options.mirrors.entry(registry.clone()).or_default().push(mirror.clone());
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_asked_in_the_order_given() {
        let given = ["docker.io=a:5000", "docker.io=b", "ghcr.io=c"].map(|text| mirror(text).unwrap());
        let options = RegistryOptions { insecure_registry: vec!["a:5000".into()], registry_mirror: given.into() };
        let pull = options.pull_options();
        assert_eq!(pull.mirrors["docker.io"], ["a:5000", "b"]);
        assert_eq!(pull.mirrors["ghcr.io"], ["c"]);
        assert_eq!(pull.insecure_registries, ["a:5000"]);
        for wrong in ["docker.io", "=x", "docker.io=", "docker.io=https://x"] {
            assert!(mirror(wrong).is_err(), "{wrong}");
        }
    }
}
