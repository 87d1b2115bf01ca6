//! The kubeconfig: our own file, and a context in the user's file without disturbing what else is in it.
//!
//! The user's file is edited as YAML values, never through typed structs, so that fields and contexts that we do not know survive.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_norway::{Mapping, Value};
use thiserror::Error;

/// Why a kubeconfig was not written. The file that was there is as it was.
#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot read `{path}`")]
    Read { path: PathBuf, source: io::Error },
    #[error("`{path}` is not a kubeconfig\n  hint: repair it, or leave it alone with --no-kubeconfig")]
    Parse { path: PathBuf, source: Option<serde_norway::Error> },
    #[error("cannot write `{path}`")]
    Write { path: PathBuf, source: io::Error },
}

/// How to reach a cluster as its administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Name of context, cluster and user alike.
    pub name: String,
    /// `https://127.0.0.1:6443`
    pub server: String,
    /// Base64 of the PEM texts.
    pub certificate_authority: String,
    pub client_certificate: String,
    pub client_key: String,
}

/// Whose a file is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// A kubeconfig that knows this cluster alone.
pub fn render(access: &Access) -> String {
    let mut config = Value::Mapping(Mapping::new());
    add(&mut config, access);
    // A tree of strings that we have just built always serialises.
    serde_norway::to_string(&config).unwrap_or_default()
}

/// Writes our own file, readable by its owner alone.
///
/// # Errors
/// [`Error::Write`]; the old file is untouched then.
pub fn write(path: &Path, access: &Access, owner: Option<Owner>) -> Result<(), Error> {
    replace(path, &render(access), owner)
}

/// Adds or renews the context in a user's kubeconfig and makes it the current one. A missing file is made.
///
/// # Errors
/// When the file is not a kubeconfig, or cannot be read or written; it is untouched then.
pub fn merge(path: &Path, access: &Access, owner: Option<Owner>) -> Result<(), Error> {
    let mut config = read(path)?.unwrap_or_else(|| Value::Mapping(Mapping::new()));
    if !add(&mut config, access) {
        return Err(Error::Parse { path: path.to_owned(), source: None });
    }
    store(path, &config, owner)
}

/// Takes the context out of a user's kubeconfig again; the current context is unset if it was ours. Tells whether anything changed.
///
/// # Errors
/// As [`merge`]. A missing file is fine.
pub fn remove(path: &Path, name: &str, owner: Option<Owner>) -> Result<bool, Error> {
    let Some(mut config) = read(path)? else { return Ok(false) };
    let before = config.clone();
    for list in ["clusters", "users", "contexts"] {
        if let Some(Value::Sequence(entries)) = config.get_mut(list) {
            entries.retain(|entry| entry.get("name").and_then(Value::as_str) != Some(name));
        }
    }
    if config.get("current-context").and_then(Value::as_str) == Some(name) {
        config["current-context"] = Value::from("");
    }
    if config == before {
        return Ok(false);
    }
    store(path, &config, owner).map(|()| true)
}

/// The file that kubectl of the invoking user reads first: `KUBECONFIG`'s first entry, else `~/.kube/config` of that user.
pub fn users_file(kubeconfig: Option<&str>, home: &Path) -> PathBuf {
    let first = kubeconfig.and_then(|list| list.split(':').find(|entry| !entry.is_empty()));
    first.map_or_else(|| home.join(".kube/config"), PathBuf::from)
}

fn read(path: &Path) -> Result<Option<Value>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    match serde_norway::from_str(&text) {
        Ok(Value::Null) => Ok(None),
        Ok(config @ Value::Mapping(_)) => Ok(Some(config)),
        Ok(_) => Err(Error::Parse { path: path.to_owned(), source: None }),
        Err(source) => Err(Error::Parse { path: path.to_owned(), source: Some(source) }),
    }
}

fn mapping(entries: &[(&str, Value)]) -> Value {
    Value::Mapping(entries.iter().map(|(k, v)| (Value::from(*k), v.clone())).collect())
}

/// False when the tree has another shape than a kubeconfig.
fn add(config: &mut Value, access: &Access) -> bool {
    let name = Value::from(access.name.as_str());
    let text = |value: &str| Value::from(value);
    let cluster = mapping(&[
        ("certificate-authority-data", text(&access.certificate_authority)),
        ("server", text(&access.server)),
    ]);
    let user = mapping(&[
        ("client-certificate-data", text(&access.client_certificate)),
        ("client-key-data", text(&access.client_key)),
    ]);
    let context = mapping(&[("cluster", name.clone()), ("user", name.clone())]);
    let Some(root) = config.as_mapping_mut() else { return false };
    root.entry("apiVersion".into()).or_insert_with(|| "v1".into());
    root.entry("kind".into()).or_insert_with(|| "Config".into());
    for (list, field, value) in
        [("clusters", "cluster", cluster), ("contexts", "context", context), ("users", "user", user)]
    {
        let entry = root.entry(list.into()).or_insert_with(|| Value::Sequence(Vec::new()));
        if entry.is_null() {
            *entry = Value::Sequence(Vec::new());
        }
        let Some(entries) = entry.as_sequence_mut() else { return false };
        let new = mapping(&[("name", name.clone()), (field, value)]);
        match entries.iter_mut().find(|entry| entry.get("name") == Some(&name)) {
            Some(old) => *old = new,
            None => entries.push(new),
        }
    }
    root.insert("current-context".into(), name);
    true
}

fn store(path: &Path, config: &Value, owner: Option<Owner>) -> Result<(), Error> {
    let text = serde_norway::to_string(config);
    let text = text.map_err(|source| Error::Parse { path: path.to_owned(), source: Some(source) })?;
    replace(path, &text, owner)
}

/// Writes beside the file and renames over it, so that a reader sees the old or the new and a crash leaves one of both.
fn replace(path: &Path, text: &str, owner: Option<Owner>) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    // A kubeconfig that is a link (dotfile managers do that) stays one.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        fs::create_dir_all(folder).map_err(failed)?;
        if let Some(owner) = owner {
            std::os::unix::fs::chown(folder, Some(owner.uid), Some(owner.gid)).map_err(failed)?;
        }
    }
    let beside = path.with_extension(format!("portolan-{}", std::process::id()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        if let Some(owner) = owner {
            fchown(&file, Some(owner.uid), Some(owner.gid))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)
    })();
    written.map_err(|source| {
        let _ = fs::remove_file(&beside);
        failed(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access {
            name: "portolan".into(),
            server: "https://127.0.0.1:6443".into(),
            certificate_authority: "Y2E=".into(),
            client_certificate: "Y2VydA==".into(),
            client_key: "a2V5".into(),
        }
    }

    #[test]
    fn a_context_comes_and_goes_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let theirs = "apiVersion: v1\nkind: Config\ncurrent-context: work\nx-note: keep me\nclusters:\n- name: work\n  cluster:\n    server: https://work.example\nusers: null\ncontexts:\n- name: work\n  context:\n    cluster: work\n    user: me\n";
        fs::write(&path, theirs).unwrap();
        merge(&path, &access(), None).unwrap();
        merge(&path, &access(), None).unwrap();
        let config: Value = serde_norway::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(config["current-context"], "portolan");
        assert_eq!(config["x-note"], "keep me");
        assert_eq!(config["clusters"].as_sequence().unwrap().len(), 2);
        assert_eq!(config["users"].as_sequence().unwrap().len(), 1);
        assert!(remove(&path, "portolan", None).unwrap());
        assert!(!remove(&path, "portolan", None).unwrap());
        let config: Value = serde_norway::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(config["current-context"], "");
        assert_eq!(config["clusters"].as_sequence().unwrap().len(), 1);
    }

    #[test]
    fn a_file_that_is_no_kubeconfig_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        for text in ["- a\n- list\n", "clusters: 7\n", "a: [1,\n"] {
            fs::write(&path, text).unwrap();
            assert!(matches!(merge(&path, &access(), None), Err(Error::Parse { .. })), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn the_first_entry_of_kubeconfig_wins() {
        let home = Path::new("/home/ada");
        assert_eq!(users_file(None, home), Path::new("/home/ada/.kube/config"));
        assert_eq!(users_file(Some(""), home), Path::new("/home/ada/.kube/config"));
        assert_eq!(users_file(Some(":/a:/b"), home), Path::new("/a"));
    }
}
