//! What the cluster adds to an object before it is judged (upstream's admission plugins), as far as it concerns one kind.
//!
//! The server looks up what a function needs and calls it between defaults and validation. An `Err` is the reason for a `403 Forbidden`.

use serde_json::{Value, json};

use super::common::get;

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_VOLUME: &str = "kube-api-access-";
/// An hour and seven seconds: upstream's way to tell its own tokens from those that were asked for.
const TOKEN_SECONDS: i64 = 3607;
const UNAVAILABLE_SECONDS: i64 = 300;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The service account that a new pod runs as, which [`pod_account`] needs as an object.
pub fn pod_account_name(pod: &Value) -> &str {
    match get::text(pod, "/spec/serviceAccountName") {
        "" => "default",
        name => name,
    }
}

/// Gives a new pod its service account: the name, its pull secrets, and a volume with its token in each container.
///
/// `account` is the ServiceAccount of [`pod_account_name`], if it exists; `suffix` five random characters.
pub fn pod_account(pod: &mut Value, account: Option<&Value>, suffix: &str) -> Result<(), String> {
    if get::map(pod, "/metadata/annotations").is_some_and(|all| all.contains_key(MIRROR)) {
        return Ok(());
    }
    let name = pod_account_name(pod).to_owned();
    get::set(pod, "/spec/serviceAccountName", name.as_str());
    get::set(pod, "/spec/serviceAccount", name.as_str());
    let Some(account) = account else {
        let namespace = get::text(pod, "/metadata/namespace");
        return Err(format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"));
    };
    let of_pod = get::flag_opt(pod, "/spec/automountServiceAccountToken");
    let automount = of_pod.or_else(|| get::flag_opt(account, "/automountServiceAccountToken")).unwrap_or(true);
    if automount {
        mount_token(pod, suffix);
    }
    if get::list(pod, "/spec/imagePullSecrets").is_empty() && !get::list(account, "/imagePullSecrets").is_empty() {
        get::copy_from(pod, "/spec/imagePullSecrets", account, "/imagePullSecrets");
    }
    Ok(())
}

fn mount_token(pod: &mut Value, suffix: &str) {
    let volumes = get::list(pod, "/spec/volumes");
    let known = volumes.iter().map(|volume| get::text(volume, "/name")).find(|name| name.starts_with(TOKEN_VOLUME));
    let has_volume = known.is_some();
    let name = known.map_or_else(|| format!("{TOKEN_VOLUME}{suffix}"), str::to_owned);
    let mut mounted = false;
    for containers in ["/spec/initContainers", "/spec/containers"] {
        for container in get::list_mut(pod, containers).into_iter().flatten() {
            let taken =
                get::list(container, "/volumeMounts").iter().any(|mount| get::text(mount, "/mountPath") == TOKEN_PATH);
            if !taken {
                let mount = json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH});
                get::push(container, "/volumeMounts", mount);
                mounted = true;
            }
        }
    }
    if mounted && !has_volume {
        get::push(pod, "/spec/volumes", token_volume(&name));
    }
}

/// Token, certificate authorities and namespace. The last source is one that clusters may do without: readers treat its absence as empty.
fn token_volume(name: &str) -> Value {
    let authority = |map: &str, key: &str| json!({"configMap": {"name": map, "items": [{"key": key, "path": key}]}});
    let namespace = json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        authority("kube-root-ca.crt", "ca.crt"),
        {"downwardAPI": {"items": [namespace]}},
        authority("openshift-service-ca.crt", "service-ca.crt"),
    ]);
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": sources}})
}

/// Lets a pod stay five minutes on a node that became unavailable, unless it says otherwise.
pub fn pod_tolerations(pod: &mut Value) {
    for key in [NOT_READY, "node.kubernetes.io/unreachable"] {
        let tolerated = get::list(pod, "/spec/tolerations").iter().any(|one| {
            [key, ""].contains(&get::text(one, "/key")) && ["NoExecute", ""].contains(&get::text(one, "/effect"))
        });
        if !tolerated {
            let toleration = json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": UNAVAILABLE_SECONDS,
            });
            get::push(pod, "/spec/tolerations", toleration);
        }
    }
}

/// Gives a new pod the number of its priority class, or of the default class among `classes`, or 0.
pub fn pod_priority(pod: &mut Value, classes: &[Value]) -> Result<(), String> {
    let name = get::text(pod, "/spec/priorityClassName").to_owned();
    let class = if name.is_empty() {
        // Of several default classes the lowest counts.
        classes.iter().filter(|class| get::flag(class, "/globalDefault")).min_by_key(|class| get::int(class, "/value"))
    } else {
        let found = classes.iter().find(|class| get::text(class, "/metadata/name") == name);
        Some(found.ok_or_else(|| format!("no PriorityClass with name {name} was found"))?)
    };
    let value = class.map_or(0, |class| get::int(class, "/value"));
    let policy = class.and_then(|class| get::text_opt(class, "/preemptionPolicy")).unwrap_or("PreemptLowerPriority");
    if let Some(class) = class {
        get::copy_from(pod, "/spec/priorityClassName", class, "/metadata/name");
    }
    const BY: &str = "must not be provided in pod spec; priority admission controller computed";
    const FROM: &str = "from the given PriorityClass name";
    if let Some(given) = get::int_opt(pod, "/spec/priority").filter(|given| *given != value) {
        return Err(format!("the integer value of priority ({given}) {BY} {value} {FROM}"));
    }
    if let Some(given) = get::text_opt(pod, "/spec/preemptionPolicy").filter(|given| *given != policy) {
        return Err(format!("the string value of PreemptionPolicy ({given}) {BY} {policy} {FROM}"));
    }
    get::set(pod, "/spec/priority", value);
    get::set(pod, "/spec/preemptionPolicy", policy);
    Ok(())
}

/// Leaves a pod what the cluster gave it when it was made, where an update does not mention it.
///
/// Upstream keeps priority and tolerations alone, and refuses a manifest that is sent again for lack of the token's volume, unless its
/// plugin for service accounts is off, as it is where its own scripts run. None of this can be changed by an update, so nothing is lost.
pub fn pod_keeps(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy", "priorityClassName", "serviceAccountName", "serviceAccount"] {
        let path = format!("/spec/{field}");
        if !get::has(pod, &path) && get::has(old, &path) {
            get::copy_from(pod, &path, old, &path);
        }
    }
    let is_token = |volume: &&Value| get::text(volume, "/name").starts_with(TOKEN_VOLUME);
    let Some(volume) = get::list(old, "/spec/volumes").iter().find(is_token) else { return };
    if get::list(pod, "/spec/volumes").iter().any(|volume| is_token(&volume)) {
        return;
    }
    get::push(pod, "/spec/volumes", volume.clone());
    for containers in ["/spec/initContainers", "/spec/containers"] {
        for container in get::list_mut(pod, containers).into_iter().flatten() {
            let of_old = get::list(old, containers).iter().find(|one| one["name"] == container["name"]);
            let is_mount = |mount: &&Value| get::text(mount, "/mountPath") == TOKEN_PATH;
            let mount = of_old.and_then(|one| get::list(one, "/volumeMounts").iter().find(is_mount));
            if let Some(mount) =
                mount.filter(|_| !get::list(container, "/volumeMounts").iter().any(|one| is_mount(&one)))
            {
                get::push(container, "/volumeMounts", mount.clone());
            }
        }
    }
}

/// The runtime class that a new pod asks for, which [`pod_runtime`] needs as an object.
pub fn pod_runtime_name(pod: &Value) -> Option<&str> {
    get::text_opt(pod, "/spec/runtimeClassName").filter(|name| !name.is_empty())
}

/// Gives a new pod what its runtime class costs beside the containers. `class` is that of [`pod_runtime_name`], if it exists.
pub fn pod_runtime(pod: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let overhead = match (pod_runtime_name(pod), class) {
        (Some(name), None) => return Err(format!("pod rejected: RuntimeClass {name:?} not found")),
        (_, class) => {
            class.and_then(|class| class.pointer("/overhead/podFixed")).filter(|cost| cost.is_object()).cloned()
        }
    };
    match (pod.pointer("/spec/overhead").filter(|given| given.is_object()), overhead) {
        (Some(given), Some(overhead)) if *given == overhead => Ok(()),
        (Some(_), Some(_)) => {
            Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned())
        }
        (Some(_), None) => {
            Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned())
        }
        (None, Some(overhead)) => {
            get::set(pod, "/spec/overhead", overhead);
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

/// Keeps Pods from a new node until the node lifecycle controller has seen that it is ready, and takes the taint off
/// (upstream's plugin `TaintNodesByCondition`).
pub fn node_taint(node: &mut Value) {
    let is = |taint: &Value| get::text(taint, "/key") == NOT_READY && get::text(taint, "/effect") == "NoSchedule";
    if !get::list(node, "/spec/taints").iter().any(is) {
        get::push(node, "/spec/taints", json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}

/// Gives a new Ingress the default class among `classes`, if it names none; the newest of several counts.
pub fn ingress_class(ingress: &mut Value, classes: &[Value]) {
    let annotated =
        get::map(ingress, "/metadata/annotations").is_some_and(|all| all.contains_key("kubernetes.io/ingress.class"));
    if annotated || get::has(ingress, "/spec/ingressClassName") {
        return;
    }
    let is_default = |class: &&Value| {
        let annotation = get::map(class, "/metadata/annotations")
            .and_then(|all| all.get("ingressclass.kubernetes.io/is-default-class"));
        annotation.is_some_and(|value| value == "true")
    };
    let newest = classes.iter().filter(is_default).max_by_key(|class| get::text(class, "/metadata/creationTimestamp"));
    if let Some(class) = newest {
        get::copy_from(ingress, "/spec/ingressClassName", class, "/metadata/name");
    }
}

/// Holds a new claim or volume as long as it is in use: a controller takes the finalizer away (upstream's `StorageObjectInUseProtection`).
pub fn protect(object: &mut Value, finalizer: &str) {
    if !get::list(object, "/metadata/finalizers").iter().any(|one| one == finalizer) {
        get::push(object, "/metadata/finalizers", finalizer.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_what_its_account_and_the_cluster_give() {
        let mut pod = json!({"metadata": {"namespace": "n"}, "spec": {"containers": [{"name": "c"}]}});
        let account = json!({"imagePullSecrets": [{"name": "s"}]});
        pod_account(&mut pod, Some(&account), "abcde").unwrap();
        pod_tolerations(&mut pod);
        pod_priority(&mut pod, &[]).unwrap();
        let spec = &pod["spec"];
        assert_eq!((&spec["serviceAccountName"], &spec["priority"]), (&json!("default"), &json!(0)));
        assert_eq!(spec["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], TOKEN_PATH);
        assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "s"}]));
    }

    #[test]
    fn a_new_node_takes_no_pods_yet() {
        let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
        let tainted = |taints: Value| {
            let mut node = json!({"spec": {"taints": taints}});
            node_taint(&mut node);
            node["spec"]["taints"].take()
        };
        assert_eq!(tainted(Value::Null), json!([taint]));
        assert_eq!(tainted(json!([taint])), json!([taint]));
        let (mine, other) = (
            json!({"key": "mine", "effect": "NoSchedule"}),
            json!({"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}),
        );
        assert_eq!(tainted(json!([mine, other])), json!([mine, other, taint]));
    }

    #[test]
    fn a_pod_that_is_sent_again_keeps_what_it_was_given() {
        let manifest = json!({"metadata": {"namespace": "n"}, "spec": {"containers": [{"name": "c"}], "volumes": [{"name": "v"}]}});
        let mut pod = manifest.clone();
        pod_account(&mut pod, Some(&json!({})), "abcde").unwrap();
        pod_tolerations(&mut pod);
        pod_priority(&mut pod, &[]).unwrap();
        let mut again = manifest;
        pod_keeps(&mut again, &pod);
        pod_tolerations(&mut again);
        assert_eq!(again, pod);
        pod_keeps(&mut again, &pod);
        assert_eq!(again, pod, "a second time changes nothing");
    }

    #[test]
    fn a_claim_is_held_once() {
        let mut claim = json!({"metadata": {"finalizers": ["mine/first"]}});
        for _ in 0..2 {
            protect(&mut claim, "kubernetes.io/pvc-protection");
            assert_eq!(claim["metadata"]["finalizers"], json!(["mine/first", "kubernetes.io/pvc-protection"]));
        }
    }

    #[test]
    fn what_does_not_exist_is_refused_by_name() {
        let mut pod =
            json!({"metadata": {"namespace": "n"}, "spec": {"serviceAccountName": "x", "priorityClassName": "y"}});
        let refused = pod_account(&mut pod, None, "abcde");
        assert_eq!(refused, Err("error looking up service account n/x: serviceaccount \"x\" not found".to_owned()));
        assert_eq!(pod_priority(&mut pod, &[]), Err("no PriorityClass with name y was found".to_owned()));
        let mut pod = json!({"spec": {"runtimeClassName": "z"}});
        assert_eq!(pod_runtime(&mut pod, None), Err("pod rejected: RuntimeClass \"z\" not found".to_owned()));
        let class = json!({"overhead": {"podFixed": {"cpu": "1"}}});
        pod_runtime(&mut pod, Some(&class)).unwrap();
        assert_eq!(pod["spec"]["overhead"], json!({"cpu": "1"}));
    }
}
