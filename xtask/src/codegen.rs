//! `cargo xtask codegen`: writes `crates/api/src/schema/table.rs`, the one table of all Kubernetes API types that Portolan serves.
//!
//! Three sources, read only here: the crate `k8s-pb` (protobuf numbers, wire types and the list and patch markers in its comments), the
//! crate `k8s-openapi` (exact JSON names of the release we serve, and which fields are required) and `crates/api/schema/go-types.txt`
//! (what neither of them says: which fields are pointers or embedded in upstream's Go types, the Go names of string types, and the numbers
//! of fields that are newer than `k8s-pb`). The table is checked in, so that nobody needs the sources to build.

mod emit;
mod openapi;
mod prost;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The roots, `package/version: Kind …`; lists and everything reachable follow.
const ROOTS: &[(&str, &str)] = &[
    (
        "core/v1",
        "Namespace Node Pod Service Endpoints Event ConfigMap Secret ServiceAccount ReplicationController PodTemplate LimitRange \
         ResourceQuota PersistentVolume PersistentVolumeClaim ComponentStatus Binding PodLogOptions PodExecOptions PodAttachOptions \
         PodPortForwardOptions PodProxyOptions ServiceProxyOptions NodeProxyOptions PodStatusResult",
    ),
    ("apps/v1", "Deployment ReplicaSet StatefulSet DaemonSet ControllerRevision"),
    ("batch/v1", "Job CronJob"),
    ("discovery/v1", "EndpointSlice"),
    ("networking/v1", "Ingress IngressClass NetworkPolicy ServiceCIDR IPAddress"),
    ("events/v1", "Event"),
    ("coordination/v1", "Lease"),
    ("policy/v1", "PodDisruptionBudget Eviction"),
    ("rbac/v1", "Role ClusterRole RoleBinding ClusterRoleBinding"),
    ("scheduling/v1", "PriorityClass"),
    ("authentication/v1", "TokenReview TokenRequest SelfSubjectReview"),
    ("authorization/v1", "SubjectAccessReview LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview"),
    ("autoscaling/v1", "HorizontalPodAutoscaler Scale"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("storage/v1", "StorageClass VolumeAttachment CSIDriver CSINode CSIStorageCapacity VolumeAttributesClass"),
    ("node/v1", "RuntimeClass"),
    (
        "meta/v1",
        "Status DeleteOptions CreateOptions UpdateOptions PatchOptions ListOptions GetOptions ApplyOptions WatchEvent \
         PartialObjectMetadata PartialObjectMetadataList APIGroup APIGroupList APIResourceList APIVersions LabelSelector List",
    ),
];

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// A variant of the table's `Element` without content, such as `Int32`.
    Plain(&'static str),
    Message(TypeId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    One,
    List,
    Map,
}

/// `core/v1`, `ServicePort`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeId {
    pub module: String,
    pub name: String,
}

/// One field of the table to be.
#[derive(Debug, Clone)]
pub struct Field {
    pub json: String,
    /// 0 when protobuf does not carry it.
    pub number: u32,
    pub element: Element,
    pub shape: Shape,
    pub inline: bool,
    pub presence: &'static str,
    /// The Go type's own name where it is not the plain one.
    pub go: String,
    pub markers: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct Type {
    pub id: TypeId,
    pub atomic: bool,
    pub fields: Vec<Field>,
}

/// Reads the three sources and writes the table.
pub fn run(workspace: &Path) -> Result<()> {
    let pb = prost::read(&source("k8s-pb-0.9")?)?;
    let openapi = openapi::read(&source("k8s-openapi-0.29")?.join("src/v1_37"))?;
    let facts = read_facts(&workspace.join("crates/api/schema/go-types.txt"))?;
    let mut types = BTreeMap::new();
    let mut open: Vec<TypeId> = Vec::new();
    for (module, names) in ROOTS {
        for name in names.split_whitespace() {
            open.push(TypeId { module: (*module).to_owned(), name: name.to_owned() });
            let list = TypeId { module: (*module).to_owned(), name: format!("{name}List") };
            if pb.contains_key(&normal_id(&list)) {
                open.push(list);
            }
        }
    }
    while let Some(id) = open.pop() {
        if types.contains_key(&normal_id(&id)) {
            continue;
        }
        let joined = join(&id, &pb, &openapi, &facts).with_context(|| format!("type {}.{}", id.module, id.name))?;
        for field in &joined.fields {
            if let Element::Message(inner) = &field.element {
                open.push(inner.clone());
            }
        }
        types.insert(normal_id(&id), joined);
    }
    let text = emit::table(&types, &roots());
    let path = workspace.join("crates/api/src/schema/table.rs");
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// The types that stand alone, with their lists.
fn roots() -> BTreeSet<TypeId> {
    ROOTS
        .iter()
        .flat_map(|(module, names)| {
            names.split_whitespace().flat_map(|name| {
                [name.to_owned(), format!("{name}List")].map(|name| TypeId { module: (*module).to_owned(), name })
            })
        })
        .map(|id| normal_id(&id))
        .collect()
}

/// Where cargo unpacked a crate whose folder starts with `prefix`.
fn source(prefix: &str) -> Result<PathBuf> {
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))?;
    let registry = Path::new(&home).join("registry/src");
    for index in std::fs::read_dir(&registry).with_context(|| format!("read {}", registry.display()))? {
        for entry in std::fs::read_dir(index?.path())? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)) {
                return Ok(path);
            }
        }
    }
    bail!("no sources of {prefix} in {}: add it to a scratch crate and run `cargo fetch` there", registry.display())
}

/// Names compare without case and underscores: the generators of the two crates disagree about both.
pub fn normal(name: &str) -> String {
    name.trim_start_matches("r#").replace('_', "").to_lowercase()
}

pub fn normal_id(id: &TypeId) -> TypeId {
    TypeId { module: id.module.clone(), name: normal(&id.name) }
}

/// One Go fact: `json#7@key!:*Name`.
#[derive(Debug, Clone)]
pub struct Fact {
    pub json: String,
    /// 0 when `k8s-pb` has it; then it has the markers as well.
    pub number: u32,
    pub markers: Vec<(String, String)>,
    pub always: bool,
    pub pointer: bool,
    pub go: String,
}

type Facts = BTreeMap<TypeId, (String, Vec<Fact>)>;

fn read_facts(path: &Path) -> Result<Facts> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut facts = Facts::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let mut words = line.split_whitespace();
        let (Some(module), Some(name)) = (words.next(), words.next()) else { bail!("bad line: {line}") };
        let id = TypeId { module: module.to_owned(), name: name.to_owned() };
        let row = words.map(read_fact).collect::<Result<Vec<_>>>()?;
        facts.entry(normal_id(&id)).or_insert_with(|| (name.to_owned(), Vec::new())).1.extend(row);
    }
    Ok(facts)
}

fn read_fact(word: &str) -> Result<Fact> {
    if let Some(embedded) = word.strip_prefix('<') {
        let json = format!("<{embedded}");
        let go = embedded.to_owned();
        return Ok(Fact { json, number: 0, markers: Vec::new(), always: false, pointer: false, go });
    }
    let (name, go) = word.split_once(':').with_context(|| format!("bad fact: {word}"))?;
    let (rest, merged) = name.trim_end_matches('!').split_once('@').unwrap_or((name.trim_end_matches('!'), ""));
    let (json, number) = match rest.split_once('#') {
        Some((json, number)) => (json, number.parse().with_context(|| format!("bad number: {word}"))?),
        None => (rest, 0),
    };
    let key = merged.trim_start_matches('@');
    let by_patches = [("patchStrategy", "merge"), ("patchMergeKey", key)];
    let by_apply = [("listType", "map"), ("listMapKey", key)];
    let markers = match merged {
        "" => Vec::new(),
        "set" => vec![("listType", "set")],
        merged if merged.starts_with('@') => by_apply.to_vec(),
        _ => [by_patches, by_apply].concat(),
    };
    Ok(Fact {
        json: json.to_owned(),
        number,
        markers: markers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        always: name.ends_with('!'),
        pointer: go.starts_with('*'),
        go: go.trim_start_matches('*').to_owned(),
    })
}

/// One type out of the three sources.
fn join(id: &TypeId, pb: &prost::Module, openapi: &openapi::Module, facts: &Facts) -> Result<Type> {
    let key = normal_id(id);
    let empty = Vec::new();
    let (go_name, known) = facts.get(&key).map_or((None, &empty), |(name, facts)| (Some(name.clone()), facts));
    let message = pb.get(&key);
    // k8s-openapi has an enum of its own for watch events.
    let object = openapi.get(&key).filter(|object| object.name != "WatchEvent");
    if message.is_none() && object.is_none() {
        bail!("neither source knows it");
    }
    let name = object.map(|object| object.name.clone()).or(go_name).unwrap_or_else(|| id.name.clone());
    let mut left: Vec<openapi::Property> = object.map(|object| object.properties.clone()).unwrap_or_default();
    let mut fields = Vec::new();
    for field in message.iter().flat_map(|message| &message.fields) {
        let at = left.iter().position(|property| normal(&property.json) == normal(&field.name));
        let property = at.map(|at| left.remove(at));
        if object.is_some() && property.is_none() && !is_inlined(field, pb, &left) {
            say(id, &field.name, "is gone from k8s-openapi");
            continue;
        }
        fields.push(from_protobuf(field, property, object.is_some(), known));
    }
    for inline in fields.iter().filter(|field| field.inline) {
        if let Element::Message(inner) = &inline.element {
            let inner = join(inner, pb, openapi, facts)?;
            left.retain(|property| !inner.fields.iter().any(|field| field.json == property.json));
        }
    }
    for property in left {
        let json = property.json.clone();
        if matches!(json.as_str(), "apiVersion" | "kind") {
            continue;
        }
        let mut field = property.into_field();
        let fact = known.iter().find(|fact| fact.json == json);
        apply_fact(&mut field, fact);
        match fact.filter(|fact| fact.number > 0) {
            Some(fact) => (field.number, field.markers) = (fact.number, fact.markers.clone()),
            None => say(id, &json, "has no protobuf number"),
        }
        fields.push(field);
    }
    let typed = object.is_some_and(|object| object.properties.iter().any(|property| property.json == "apiVersion"));
    // Lists and options are not in k8s-openapi as definitions; these two are the roots that are no objects.
    let alone = roots().contains(&key) && !matches!(id.name.as_str(), "LabelSelector" | "WatchEvent");
    if alone || typed {
        for (at, json) in ["apiVersion", "kind"].into_iter().enumerate() {
            if !fields.iter().any(|field| field.json == json) {
                fields.insert(at.min(fields.len()), openapi::Property::text(json).into_field());
            }
        }
    }
    let atomic = message.is_some_and(|message| message.atomic);
    Ok(Type { id: TypeId { module: id.module.clone(), name }, atomic, fields })
}

/// Protobuf nests embedded Go structs whose fields JSON has in the parent; k8s-openapi shows them there.
fn is_inlined(field: &prost::Field, pb: &prost::Module, left: &[openapi::Property]) -> bool {
    let Element::Message(inner) = &field.element else { return false };
    let inner = pb.get(&normal_id(inner)).map(|message| message.fields.as_slice()).unwrap_or_default();
    inner.iter().any(|field| {
        left.iter().any(|property| normal(&property.json) == normal(&field.name)) || is_inlined(field, pb, left)
    })
}

#[expect(clippy::print_stderr, reason = "a developer's command says what its sources disagree about")]
fn say(id: &TypeId, json: &str, what: &str) {
    eprintln!("{}.{}.{json} {what}", id.module, id.name);
}

fn from_protobuf(field: &prost::Field, property: Option<openapi::Property>, has_object: bool, known: &[Fact]) -> Field {
    let fact = known.iter().find(|fact| normal(fact.json.trim_start_matches('<')) == normal(&field.name));
    let inline = fact.is_some_and(|fact| fact.json.starts_with('<'))
        || (fact.is_none() && property.is_none() && has_object && matches!(field.element, Element::Message(_)));
    let json = match (&property, fact) {
        _ if inline => String::new(),
        (Some(property), _) => property.json.clone(),
        (None, Some(fact)) => fact.json.clone(),
        (None, None) => camel(&field.name),
    };
    let required = property.as_ref().is_some_and(|property| property.required);
    let mut joined = Field {
        json,
        number: field.number,
        element: field.element.clone(),
        shape: field.shape,
        inline,
        presence: openapi::presence(&field.element, field.shape, required),
        go: String::new(),
        markers: field.markers.clone(),
    };
    apply_fact(&mut joined, fact);
    joined
}

/// What Go says overrules what the other sources let us guess.
fn apply_fact(field: &mut Field, fact: Option<&Fact>) {
    let Some(fact) = fact.filter(|_| !field.inline) else { return };
    field.presence = match (fact.pointer, fact.always) {
        (true, true) => "Nullable",
        (true, false) => "Pointer",
        (false, true) => "Always",
        (false, false) => match (field.shape, &field.element) {
            (
                Shape::One,
                Element::Message(_) | Element::Plain("Time" | "MicroTime" | "IntOrString" | "Quantity" | "Raw"),
            ) => "Always",
            (Shape::One | Shape::List | Shape::Map, Element::Message(_) | Element::Plain(_)) => "OmitEmpty",
        },
    };
    if fact.pointer && fact.go == "omitzero" {
        field.presence = "OmitEmpty";
        return;
    }
    field.go = fact.go.clone();
}

fn camel(snake: &str) -> String {
    let mut out = String::new();
    for (i, part) in snake.trim_start_matches("r#").split('_').enumerate() {
        let mut chars = part.chars();
        match chars.next() {
            Some(first) if i > 0 => out.extend(first.to_uppercase().chain(chars)),
            Some(_) => out.push_str(part),
            None => {}
        }
    }
    out
}
