//! The environment of a container: Services, config maps, secrets, the pod's own fields and the `env` of its spec.
//!
//! Pure: what is referred to has been fetched before ([`crate::references`]). The image's own variables are below these and are the
//! runtime's to add.

pub mod expand;
pub mod fields;
pub mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvFromSource, EnvVar, EnvVarSource, Pod, Secret, Service};

use fields::{FieldError, Placement};

/// What the kernel takes as arguments and environment together with the usual 8 MiB stack: a quarter of it (execve(2)).
pub const EXEC_LIMIT: usize = 2 * 1024 * 1024;
/// What the kernel takes as one argument or variable (`MAX_ARG_STRLEN`).
const STRING_LIMIT: usize = 128 * 1024;
/// Room for what the image, the runtime and the auxiliary vector add to [`EXEC_LIMIT`].
const RESERVE: usize = 16 * 1024;

/// Why a container's environment cannot be made. Each is the pod author's to mend; the kubelet's wording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("couldn't find key {key} in file {path}")]
    NoFileKey { key: String, path: String },
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error(
        "arguments and environment of {bytes} bytes are more than the {EXEC_LIMIT} that the kernel takes (E2BIG): {services} Services \
         of the namespace are in it\n  hint: set `enableServiceLinks: false` in the pod's spec"
    )]
    TooLarge { bytes: usize, services: usize },
    #[error("variable `{name}` of {bytes} bytes is more than the {STRING_LIMIT} that the kernel takes (E2BIG)")]
    VariableTooLarge { name: String, bytes: usize },
}

/// Config maps and secrets of the pod's namespace that were found. What is missing here does not exist.
#[derive(Debug, Clone, Default)]
pub struct Maps {
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

/// All that decides a container's environment.
#[derive(Debug)]
pub struct Request<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub placement: &'a Placement,
    /// Services of the pod's namespace and of `default`.
    pub services: &'a [Arc<Service>],
    pub maps: &'a Maps,
    /// Where the pod's volumes are on the node, by name: for `fileKeyRef`.
    pub volumes: &'a BTreeMap<String, PathBuf>,
}

/// A variable each, in the order in which they are declared; Services that nothing overrides come last.
pub fn compose(request: &Request<'_>) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = request.pod.metadata.namespace.as_deref().unwrap_or_default();
    let linked = request.pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let services = links::variables(request.services.iter().map(AsRef::as_ref), namespace, linked);
    let by_name: BTreeMap<&str, &str> = services.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();

    let mut own = Ordered::default();
    for source in request.container.env_from.iter().flatten() {
        from_source(request, source, &mut own)?;
    }
    for variable in request.container.env.iter().flatten() {
        if let Some(value) = value_of(request, variable, &own, &by_name)? {
            own.set(variable.name.clone(), value);
        }
    }
    let declared: BTreeSet<String> = own.index.keys().cloned().collect();
    let rest = services.into_iter().filter(|(name, _)| !declared.contains(name));
    let all: Vec<_> = own.list.into_iter().chain(rest).collect();
    fits(request, &all, namespace, linked)?;
    Ok(all)
}

/// `command` and `args` with `$(VAR)` replaced from the finished environment.
pub fn expand_all(words: Option<&Vec<String>>, environment: &[(String, String)]) -> Option<Vec<String>> {
    let by_name: BTreeMap<&str, &str> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    words.map(|words| words.iter().map(|w| expand::expand(w, |name| by_name.get(name).copied())).collect())
}

#[derive(Default)]
struct Ordered {
    list: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl Ordered {
    fn set(&mut self, name: String, value: String) {
        match self.index.get(&name) {
            Some(&at) => self.list[at].1 = value,
            None => {
                self.index.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|&at| self.list[at].1.as_str())
    }
}

fn from_source(request: &Request<'_>, source: &EnvFromSource, own: &mut Ordered) -> Result<(), EnvError> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    if let Some(reference) = &source.config_map_ref {
        match request.maps.config_maps.get(&reference.name) {
            Some(map) => {
                for (key, value) in map.data.iter().flatten() {
                    own.set(format!("{prefix}{key}"), value.clone());
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(EnvError::NoConfigMap(reference.name.clone())),
        }
    }
    if let Some(reference) = &source.secret_ref {
        match request.maps.secrets.get(&reference.name) {
            Some(secret) => {
                for (key, value) in secret.data.iter().flatten() {
                    own.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(EnvError::NoSecret(reference.name.clone())),
        }
    }
    Ok(())
}

fn value_of(
    request: &Request<'_>,
    variable: &EnvVar,
    own: &Ordered,
    services: &BTreeMap<&str, &str>,
) -> Result<Option<String>, EnvError> {
    match (variable.value.as_deref().filter(|v| !v.is_empty()), &variable.value_from) {
        (Some(value), _) => {
            Ok(Some(expand::expand(value, |name| own.get(name).or_else(|| services.get(name).copied()))))
        }
        (None, Some(source)) => referred(request, source),
        (None, None) => Ok(Some(String::new())),
    }
}

fn referred(request: &Request<'_>, source: &EnvVarSource) -> Result<Option<String>, EnvError> {
    if let Some(reference) = &source.field_ref {
        return Ok(Some(fields::field(request.pod, request.placement, &reference.field_path)?));
    }
    if let Some(reference) = &source.resource_field_ref {
        return Ok(Some(fields::resource(request.pod, request.container, request.placement, reference)?));
    }
    let namespace = || request.pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(reference) = &source.config_map_key_ref {
        let found = request.maps.config_maps.get(&reference.name);
        let value = found.and_then(|map| map.data.as_ref()?.get(&reference.key).cloned());
        let missing = || match found {
            None => EnvError::NoConfigMap(reference.name.clone()),
            Some(_) => no_key("ConfigMap", namespace(), &reference.name, &reference.key),
        };
        return optional(value, reference.optional, missing);
    }
    if let Some(reference) = &source.secret_key_ref {
        let found = request.maps.secrets.get(&reference.name);
        let value = found.and_then(|secret| secret.data.as_ref()?.get(&reference.key));
        let text = value.map(|v| String::from_utf8_lossy(&v.0).into_owned());
        let missing = || match found {
            None => EnvError::NoSecret(reference.name.clone()),
            Some(_) => no_key("Secret", namespace(), &reference.name, &reference.key),
        };
        return optional(text, reference.optional, missing);
    }
    if let Some(reference) = &source.file_key_ref {
        let text = request.volumes.get(&reference.volume_name).map(|root| root.join(&reference.path));
        let text = text.and_then(|path| std::fs::read_to_string(path).ok());
        let value = text.and_then(|text| file_key(&text, &reference.key));
        let missing = || EnvError::NoFileKey { key: reference.key.clone(), path: reference.path.clone() };
        return optional(value, reference.optional, missing);
    }
    Ok(Some(String::new()))
}

/// The value of `key` in a file of `KEY='value'` lines (KEP-3721).
fn file_key(text: &str, key: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let value = lines.filter_map(|line| line.split_once('=')).find(|(k, _)| k.trim() == key)?.1.trim();
    let quoted = ['\'', '"'].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
    Some(quoted.unwrap_or(value).to_owned())
}

fn optional(
    value: Option<String>,
    allowed: Option<bool>,
    missing: impl FnOnce() -> EnvError,
) -> Result<Option<String>, EnvError> {
    match value {
        Some(value) => Ok(Some(value)),
        None if allowed == Some(true) => Ok(None),
        None => Err(missing()),
    }
}

fn no_key(kind: &'static str, namespace: String, name: &str, key: &str) -> EnvError {
    EnvError::NoKey { kind, namespace, name: name.to_owned(), key: key.to_owned() }
}

/// Refuses what `execve` would refuse, because its E2BIG tells nobody which variables were too many.
fn fits(request: &Request<'_>, all: &[(String, String)], namespace: &str, linked: bool) -> Result<(), EnvError> {
    let pointer = size_of::<usize>();
    for (name, value) in all {
        let bytes = name.len() + value.len() + 2;
        if bytes > STRING_LIMIT {
            return Err(EnvError::VariableTooLarge { name: name.clone(), bytes });
        }
    }
    let words = request.container.command.iter().chain(&request.container.args).flatten();
    let arguments: usize = words.map(|word| word.len() + 1 + pointer).sum();
    let bytes = arguments + all.iter().map(|(k, v)| k.len() + v.len() + 2 + pointer).sum::<usize>();
    if bytes + RESERVE > EXEC_LIMIT {
        let services = links::count(request.services.iter().map(AsRef::as_ref), namespace, linked);
        return Err(EnvError::TooLarge { bytes, services });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pod_spec: serde_json::Value, services: usize) -> Result<Vec<String>, EnvError> {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns"}, "spec": pod_spec}))
        .unwrap();
        let service = |n: usize| {
            let json = serde_json::json!({"metadata": {"name": format!("service-number-{n}"), "namespace": "ns"},
                "spec": {"clusterIP": "10.96.3.4", "ports": [{"port": 80}]}});
            Arc::new(serde_json::from_value::<Service>(json).unwrap())
        };
        let services: Vec<_> = (0..services).map(service).collect();
        let config: ConfigMap = serde_json::from_value(serde_json::json!({"data": {"k": "v", "A": "from"}})).unwrap();
        let secret: Secret = serde_json::from_value(serde_json::json!({"data": {"pw": "aHVzaA=="}})).unwrap();
        let maps = Maps {
            config_maps: [("cm".to_owned(), Arc::new(config))].into(),
            secrets: [("sec".to_owned(), Arc::new(secret))].into(),
        };
        let request = Request {
            pod: &pod,
            container: &pod.spec.as_ref().unwrap().containers[0],
            placement: &Placement { node_name: "n1".into(), ..Placement::default() },
            services: &services,
            maps: &maps,
            volumes: &BTreeMap::new(),
        };
        Ok(compose(&request)?.into_iter().map(|(k, v)| format!("{k}={v}")).collect())
    }

    fn container(env: serde_json::Value, from: serde_json::Value) -> serde_json::Value {
        serde_json::json!({"enableServiceLinks": false, "containers": [{"name": "c", "env": env, "envFrom": from}]})
    }

    #[test]
    fn own_variables_win_keep_their_order_and_expand_what_came_before() {
        let env = serde_json::json!([
            {"name": "Z", "value": "1"}, {"name": "A", "value": "$(Z)$(k)$(LATER)"}, {"name": "LATER", "value": "x"},
            {"name": "Z", "value": "2"}, {"name": "E"},
            {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "P", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "pw"}}},
            {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "no", "optional": true}}}]);
        let from = serde_json::json!([{"configMapRef": {"name": "cm"}}, {"prefix": "S_", "secretRef": {"name": "sec"}},
            {"configMapRef": {"name": "none", "optional": true}}]);
        let expected = ["A=1v$(LATER)", "k=v", "S_pw=hush", "Z=2", "LATER=x", "E=", "N=n1", "P=hush"];
        assert_eq!(run(container(env, from), 0).unwrap(), expected);
    }

    #[test]
    fn the_pods_own_variable_hides_a_service_and_can_use_another() {
        let spec = serde_json::json!({"containers": [{"name": "c", "env": [
            {"name": "SERVICE_NUMBER_0_PORT", "value": "mine"}, {"name": "URL", "value": "http://$(SERVICE_NUMBER_0_SERVICE_HOST)/"}]}]});
        let all = run(spec, 1).unwrap();
        assert_eq!(all[..2], ["SERVICE_NUMBER_0_PORT=mine", "URL=http://10.96.3.4/"]);
        assert_eq!(all.iter().filter(|v| v.starts_with("SERVICE_NUMBER_0_PORT=")).count(), 1);
    }

    #[test]
    fn what_is_missing_is_named() {
        let reference = |kind: &str, name: &str, key: &str| {
            let env = serde_json::json!([{"name": "X", "valueFrom": {kind: {"name": name, "key": key}}}]);
            run(container(env, serde_json::json!([])), 0).unwrap_err().to_string()
        };
        assert_eq!(reference("configMapKeyRef", "nope", "k"), "configmap \"nope\" not found");
        assert_eq!(reference("configMapKeyRef", "cm", "nope"), "couldn't find key nope in ConfigMap ns/cm");
        assert_eq!(reference("secretKeyRef", "nope", "k"), "secret \"nope\" not found");
        assert_eq!(reference("secretKeyRef", "sec", "nope"), "couldn't find key nope in Secret ns/sec");
        let from = serde_json::json!([{"secretRef": {"name": "gone"}}]);
        assert_eq!(
            run(container(serde_json::json!([]), from), 0).unwrap_err().to_string(),
            "secret \"gone\" not found"
        );
    }

    #[test]
    fn too_many_services_are_said_before_exec_fails() {
        let spec = |links: bool| serde_json::json!({"enableServiceLinks": links, "containers": [{"name": "c"}]});
        assert!(run(spec(true), 2000).is_ok());
        let error = run(spec(true), 12_000).unwrap_err();
        assert!(matches!(error, EnvError::TooLarge { services: 12_000, .. }), "{error}");
        assert!(error.to_string().contains("enableServiceLinks: false"), "{error}");
        assert!(run(spec(false), 12_000).is_ok());
    }

    #[test]
    fn keys_in_files() {
        let text = "# note\nA=1\nB = 'two words'\nC=\"x=y\"\n";
        assert_eq!(file_key(text, "A").as_deref(), Some("1"));
        assert_eq!(file_key(text, "B").as_deref(), Some("two words"));
        assert_eq!(file_key(text, "C").as_deref(), Some("x=y"));
        assert_eq!(file_key(text, "D"), None);
    }
}
