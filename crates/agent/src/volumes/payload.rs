//! Which files a config map, secret, projected or downward volume holds. Pure: what they are made of has been fetched.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};

use crate::env::fields::{self, Placement};

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// Files by path below the volume.
pub type Files = BTreeMap<PathBuf, File>;

/// Why a volume's files cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("references non-existent {kind} key: {key}")]
    NoKey { kind: &'static str, key: String },
    #[error("`{0}` is not a path below the volume")]
    Path(String),
    #[error(transparent)]
    Field(#[from] fields::FieldError),
}

pub const DEFAULT_MODE: i32 = 0o644;

/// Contents of a config map or secret, all keys or those that `items` picks.
pub fn of_keys(
    kind: &'static str,
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<Files, Error> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let file = |bytes: &Vec<u8>| File { bytes: bytes.clone(), mode: bits(mode) };
        return Ok(data.iter().map(|(key, bytes)| (PathBuf::from(key), file(bytes))).collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                let file = File { bytes: bytes.clone(), mode: bits(item.mode.unwrap_or(mode)) };
                files.insert(inside(&item.path)?, file);
            }
            None if optional => {}
            None => return Err(Error::NoKey { kind, key: item.key.clone() }),
        }
    }
    Ok(files)
}

/// Text and binary data of a config map.
pub fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    text.chain(map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()))).collect()
}

pub fn secret_data(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

/// The pod's own fields as files.
pub fn downward(pod: &Pod, at: &Placement, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Files, Error> {
    let nobody = Container::default();
    let mut files = Files::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::field(pod, at, &field.field_path)?,
            (None, Some(resource)) => fields::resource(pod, &nobody, at, resource)?,
            (None, None) => String::new(),
        };
        let file = File { bytes: text.into_bytes(), mode: bits(item.mode.unwrap_or(mode)) };
        files.insert(inside(&item.path)?, file);
    }
    Ok(files)
}

/// A relative path without `..`, and not one of the volume's own links.
pub fn inside(path: &str) -> Result<PathBuf, Error> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        return Err(Error::Path(path.to_owned()));
    }
    Ok(PathBuf::from(path))
}

pub fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0) & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> BTreeMap<String, Vec<u8>> {
        [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())].into()
    }

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath { key: key.into(), path: path.into(), mode, ..KeyToPath::default() }
    }

    #[test]
    fn all_keys_or_the_picked_ones() {
        let all = of_keys("config", &data(), None, 0o644, false).unwrap();
        assert_eq!(all.keys().map(|p| p.to_str().unwrap()).collect::<Vec<_>>(), ["a", "b"]);
        let picked = of_keys("config", &data(), Some(&[item("b", "x/y", Some(0o400))]), 0o644, false).unwrap();
        assert_eq!(picked, Files::from([(PathBuf::from("x/y"), File { bytes: b"2".to_vec(), mode: 0o400 })]));
        let missing = [item("no", "x", None)];
        let error = of_keys("config", &data(), Some(&missing), 0o644, false).unwrap_err();
        assert_eq!(error.to_string(), "references non-existent config key: no");
        assert!(of_keys("config", &data(), Some(&missing), 0o644, true).unwrap().is_empty());
    }

    #[test]
    fn no_path_leaves_the_volume() {
        for path in ["/etc/passwd", "../x", "a/../../b", "", "..data"] {
            assert!(of_keys("config", &data(), Some(&[item("a", path, None)]), 0o644, false).is_err(), "{path}");
        }
    }
}
