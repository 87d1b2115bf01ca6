//! The paths of one group and version, with the parameters that clients look for before they use them.

use serde_json::{Map, Value, json};

use crate::kinds::{KINDS, Kind, Scope};
use crate::parts::{self, Part};
use crate::reviews::REVIEWS;

use super::schemas::Dialect;

/// A parameter of the query: name and type.
type Parameter = (&'static str, &'static str);

const WRITE: &[Parameter] =
    &[("pretty", "string"), ("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const APPLY: &[Parameter] = &[("force", "boolean")];
const LIST: &[Parameter] = &[
    ("pretty", "string"),
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const DELETE: &[Parameter] = &[
    ("pretty", "string"),
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const GET: &[Parameter] = &[("pretty", "string")];

/// What a parameter is for, as people read it.
fn meaning(parameter: &str) -> &'static str {
    match parameter {
        "allowWatchBookmarks" => "Ask for watch events of type BOOKMARK, which tell how far the watch has come.",
        "continue" => "The token of the page before, for the next page of the list.",
        "dryRun" => "With `All`, everything is done but the storing.",
        "fieldManager" => "The name of who makes the change, for the bookkeeping of fields.",
        "fieldSelector" => {
            "A selector to restrict the list of returned objects by their fields. Defaults to everything."
        }
        "fieldValidation" => "What becomes of unknown and duplicate fields: Ignore, Warn or Strict.",
        "force" => "Take over fields that are owned by other managers.",
        "gracePeriodSeconds" => "Seconds that the object has before it is gone; zero is at once.",
        "labelSelector" => {
            "A selector to restrict the list of returned objects by their labels. Defaults to everything."
        }
        "limit" => "The most objects that one answer holds; what is left follows with `continue`.",
        "orphanDependents" => "Deprecated: leave the objects behind that this one owns.",
        "pretty" => "With 'true', the answer is written over several lines.",
        "propagationPolicy" => "What becomes of the objects that this one owns: Orphan, Background or Foreground.",
        "resourceVersion" => "How new the answer has to be.",
        "resourceVersionMatch" => "How `resourceVersion` is meant: NotOlderThan or Exact.",
        "sendInitialEvents" => "Begin a watch with what is there, and a bookmark behind it.",
        "timeoutSeconds" => "Seconds after which a list or watch ends, whatever happens.",
        "watch" => {
            "Watch for changes to the described resources and return them as a stream of add, update, and remove notifications. Specify resourceVersion."
        }
        _ => "",
    }
}

/// An operation before it is written in a dialect.
struct Operation {
    method: &'static str,
    action: &'static str,
    parameters: Vec<Parameter>,
    takes_object: bool,
    /// The definition of what is sent and answered; empty for what is no object.
    of: String,
}

fn operation(method: &'static str, action: &'static str, parameters: &[&[Parameter]], takes_object: bool) -> Operation {
    Operation { method, action, parameters: parameters.concat(), takes_object, of: String::new() }
}

fn of_object() -> Vec<Operation> {
    let mut all = of_part();
    all.push(operation("delete", "delete", &[DELETE], false));
    all
}

fn of_part() -> Vec<Operation> {
    vec![
        operation("get", "get", &[GET], false),
        operation("put", "put", &[WRITE], true),
        operation("patch", "patch", &[WRITE, APPLY], true),
    ]
}

/// The operations of a subresource, by its verbs. What only streams is no object.
fn of_verbs(kind: &Kind, part: &Part) -> Vec<Operation> {
    let (group, version) = part.group_version.unwrap_or((kind.group, kind.version));
    let streams = part.kind.ends_with("Options");
    let definition = if streams { String::new() } else { definition(group, version, part.kind) };
    let of = |verb: &&str| match *verb {
        "get" => Some(operation("get", "get", &[GET], false)),
        "create" => Some(operation("post", "post", &[WRITE], true)),
        "update" => Some(operation("put", "put", &[WRITE], true)),
        "patch" => Some(operation("patch", "patch", &[WRITE, APPLY], true)),
        "delete" => Some(operation("delete", "delete", &[DELETE], false)),
        _ => None,
    };
    part.verbs.iter().filter_map(of).map(|operation| Operation { of: definition.clone(), ..operation }).collect()
}

fn of_collection() -> Vec<Operation> {
    vec![
        operation("get", "list", &[LIST], false),
        operation("post", "post", &[WRITE], true),
        operation("delete", "deletecollection", &[LIST, DELETE], false),
    ]
}

pub(super) fn v3(group: &str, version: &str) -> Map<String, Value> {
    all(group, version, Dialect::OpenApi3, &|named, operation| {
        let schema = schema("#/components/schemas/", operation);
        let parameters: Vec<Value> = operation
            .parameters
            .iter()
            .map(|(name, r#type)| json!({"name": name, "in": "query", "description": meaning(name), "schema": {"type": r#type, "uniqueItems": true}}))
            .collect();
        let content = json!({"application/json": {"schema": schema}});
        let mut written = json!({
            "operationId": operation_id(named, operation),
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": content}},
        });
        if operation.takes_object {
            written["requestBody"] = json!({"content": {"*/*": {"schema": schema}}, "required": true});
        }
        written
    })
}

pub(super) fn v2(group: &str, version: &str) -> Map<String, Value> {
    all(group, version, Dialect::Swagger, &|named, operation| {
        let schema = schema("#/definitions/", operation);
        let mut parameters: Vec<Value> = operation
            .parameters
            .iter()
            .map(|(name, r#type)| json!({"name": name, "in": "query", "description": meaning(name), "type": r#type, "uniqueItems": true}))
            .collect();
        if operation.takes_object {
            parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
        }
        json!({
            "operationId": operation_id(named, operation),
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "schema": schema}},
        })
    })
}

fn schema(root: &str, operation: &Operation) -> Value {
    if operation.of.is_empty() {
        return json!({"type": "string"});
    }
    json!({"$ref": format!("{root}{}", operation.of)})
}

/// What an operation is about.
#[derive(Debug, Clone, Copy)]
struct Named {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
}

impl Named {
    fn of(kind: &Kind) -> Named {
        let namespaced = kind.scope == Scope::Namespaced;
        Named { group: kind.group, version: kind.version, kind: kind.kind, plural: kind.plural, namespaced }
    }
}

/// What is only created: questions, and bindings.
fn asked(group: &str, version: &str) -> Vec<Named> {
    let reviews = REVIEWS.iter().filter(|review| review.group == group && review.version == version);
    let mut all: Vec<Named> = reviews
        .map(|review| Named {
            group: review.group,
            version: review.version,
            kind: review.kind,
            plural: review.plural,
            namespaced: review.namespaced,
        })
        .collect();
    if group.is_empty() {
        all.push(Named { group: "", version: "v1", kind: "Binding", plural: "bindings", namespaced: true });
    }
    all
}

type Write<'a> = &'a dyn Fn(Named, &Operation) -> Value;

/// The path of a collection, and the names in it.
fn collection(root: &str, named: Named) -> (String, &'static [&'static str]) {
    if named.namespaced {
        return (format!("{root}/namespaces/{{namespace}}/{}", named.plural), &["namespace"]);
    }
    (format!("{root}/{}", named.plural), &[])
}

fn item(named: Named, operations: Vec<Operation>, place: &[&str], dialect: Dialect, write: Write<'_>) -> Value {
    let mut item = Map::new();
    for operation in operations {
        let mut written = write(named, &operation);
        written["x-kubernetes-action"] = operation.action.into();
        written["x-kubernetes-group-version-kind"] =
            json!({"group": named.group, "version": named.version, "kind": named.kind});
        item.insert(operation.method.to_owned(), written);
    }
    let place = place.iter().map(|name| match dialect {
        Dialect::OpenApi3 => json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}),
        Dialect::Swagger => json!({"name": name, "in": "path", "required": true, "type": "string"}),
    });
    item.insert("parameters".to_owned(), place.collect());
    Value::Object(item)
}

fn all(group: &str, version: &str, dialect: Dialect, write: Write<'_>) -> Map<String, Value> {
    let mut paths = Map::new();
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    for kind in KINDS.iter().filter(|kind| kind.group == group && kind.version == version) {
        let named = Named::of(kind);
        let (collection, outer) = collection(&root, named);
        let object = format!("{collection}/{{name}}");
        let inner: &[&str] = if named.namespaced { &["name", "namespace"] } else { &["name"] };
        let mut add = |path: String, operations: Vec<Operation>, place: &[&str]| {
            paths.insert(path, item(named, operations, place, dialect, write));
        };
        add(collection, about(named, of_collection()), outer);
        add(object.clone(), about(named, of_object()), inner);
        for part in parts::of(kind) {
            add(format!("{object}/{}", part.name), of_verbs(kind, &part), inner);
        }
        if named.namespaced {
            let everywhere = vec![operation("get", "list", &[LIST], false)];
            add(format!("{root}/{}", kind.plural), about(named, everywhere), &[]);
        }
    }
    for named in asked(group, version) {
        let (path, place) = collection(&root, named);
        let create = about(named, vec![operation("post", "post", &[WRITE], true)]);
        paths.insert(path, item(named, create, place, dialect, write));
    }
    paths
}

fn about(named: Named, operations: Vec<Operation>) -> Vec<Operation> {
    let of = definition(named.group, named.version, named.kind);
    operations.into_iter().map(|operation| Operation { of: of.clone(), ..operation }).collect()
}

fn definition(group: &str, version: &str, kind: &str) -> String {
    api::schema::kind(group, version, kind).map(api::schema::Type::definition).unwrap_or_default()
}

fn operation_id(named: Named, operation: &Operation) -> String {
    let version =
        if named.group.is_empty() { named.version.to_owned() } else { format!("{}/{}", named.group, named.version) };
    let version: String = version.split(['/', '.']).map(capitalized).collect();
    let namespaced = if named.namespaced { "Namespaced" } else { "" };
    format!("{}{version}{namespaced}{}", operation.action, named.kind)
}

fn capitalized(word: &str) -> String {
    let mut characters = word.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}
