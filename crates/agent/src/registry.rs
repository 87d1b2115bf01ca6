//! Credentials of image registries, from secrets of type `kubernetes.io/dockerconfigjson` and the older `dockercfg`. Pure.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use containers::images::{Auth, Reference};
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Debug, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, alias = "registrytoken")]
    identitytoken: String,
}

/// What the secret holds for the registry of `image`, the longest matching entry first.
pub fn auths(secret: &Secret, image: &str) -> Vec<Auth> {
    let Ok(reference) = Reference::parse(image) else { return Vec::new() };
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|bytes| bytes.0.as_slice());
    let entries = if let Some(bytes) = data(".dockerconfigjson") {
        serde_json::from_slice::<File>(bytes).map(|file| file.auths).unwrap_or_default()
    } else if let Some(bytes) = data(".dockercfg") {
        serde_json::from_slice(bytes).unwrap_or_default()
    } else {
        BTreeMap::new()
    };
    let mut matching: Vec<(usize, Auth)> = entries
        .iter()
        .filter(|(at, _)| covers(at, reference.registry(), reference.repository()))
        .filter_map(|(at, entry)| Some((at.len(), auth(entry)?)))
        .collect();
    matching.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    matching.into_iter().map(|(_, auth)| auth).collect()
}

fn covers(entry: &str, registry: &str, repository: &str) -> bool {
    let bare = entry.split_once("://").map_or(entry, |(_, rest)| rest).trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    // The path of `https://index.docker.io/v1/` is an API version, not a repository.
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let hub = DOCKER_HUB.contains(&host) && DOCKER_HUB.contains(&registry);
    let below = path.is_empty() || repository == path || repository.starts_with(&format!("{path}/"));
    below && (hub || host == registry || host.strip_prefix("*.").is_some_and(|d| one_label_below(registry, d)))
}

fn one_label_below(registry: &str, domain: &str) -> bool {
    registry.split_once('.').is_some_and(|(_, rest)| rest == domain)
}

fn auth(entry: &Entry) -> Option<Auth> {
    if !entry.identitytoken.is_empty() {
        return Some(Auth::Bearer(entry.identitytoken.clone()));
    }
    if !entry.username.is_empty() {
        return Some(Auth::Basic { username: entry.username.clone(), password: entry.password.clone() });
    }
    let decoded = String::from_utf8(STANDARD.decode(entry.auth.trim()).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(Auth::Basic { username: username.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_cover_registries_and_folders() {
        for (entry, registry, repository, expected) in [
            ("https://index.docker.io/v1/", "docker.io", "library/busybox", true),
            ("localhost:5000", "localhost:5000", "a/b", true),
            ("localhost:5000/a", "localhost:5000", "a/b", true),
            ("localhost:5000/a", "localhost:5000", "ab", false),
            ("*.example.org", "reg.example.org", "x", true),
            ("*.example.org", "a.reg.example.org", "x", false),
            ("ghcr.io", "docker.io", "x", false),
        ] {
            assert_eq!(covers(entry, registry, repository), expected, "{entry} {registry}/{repository}");
        }
    }

    #[test]
    fn an_entry_is_a_login() {
        let entry = Entry { auth: STANDARD.encode("me:a:b"), ..Entry::default() };
        assert_eq!(auth(&entry), Some(Auth::Basic { username: "me".into(), password: "a:b".into() }));
        assert_eq!(auth(&Entry::default()), None);
    }
}
