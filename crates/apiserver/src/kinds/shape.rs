//! The shape of the table: what a kind consists of.
//!
//! A row is written as `Kind { kind: "Lease", …, ..Kind::NAMESPACED }`, so that only what differs from the rule is said.

use api::field::FieldError;
use serde_json::Value;

use super::common::{meta, table};

/// Whether objects of a kind live in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// One kind: its names, its rules, its columns.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// API group, empty for core.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    /// Subresources of the object itself, such as `status` and `scale`; streams and other verbs are routed apart.
    pub subresources: &'static [Subresource],
    /// Parts of the object that are written through a subresource of their own, with rules of their own.
    pub parts: &'static [ObjectPart],
    /// A `PUT` to a name that does not exist creates it (upstream's `AllowCreateOnUpdate`).
    pub create_on_update: bool,
    /// An update without a `resourceVersion` is taken as the writer's last word (upstream's `AllowUnconditionalUpdate`).
    pub unconditional_update: bool,
    /// The rules; see [`Rules`].
    pub rules: Rules,
    /// Printer columns of `kubectl get`, without the rows' values.
    pub columns: &'static [Column],
    /// The cells of one row, in the order of `columns`; `now` is seconds since the epoch, for ages.
    pub cells: fn(object: &Value, now: i64) -> Vec<Value>,
    /// Field labels beyond `metadata.name` and `metadata.namespace` that a field selector may use.
    pub selectable: &'static [Selectable],
    /// A warning that goes with every answer about the kind, whatever the request and its outcome.
    pub deprecation: Option<&'static str>,
    /// The kind whose objects these are under another group's names, if any.
    pub alias: Option<Alias>,
}

/// What a kind adds to the generic life of an object. All functions are pure; addresses and ports are allocated elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Fills what the writer left out, on create, update and on reading a patch's result (upstream's `SetDefaults_*`).
    pub default: fn(&mut Value),
    /// Before a create is validated: drops what a creator may not set (status), sets generation.
    pub prepare_create: fn(&mut Value),
    /// Before an update is validated: keeps status, carries over what an update may leave out, moves generation. `(new, old)`.
    pub prepare_update: fn(&mut Value, &Value),
    /// Before an update of the `status` subresource: keeps everything but status. `(new, old)`.
    pub prepare_status: fn(&mut Value, &Value),
    /// Metadata included.
    pub validate_create: fn(&Value) -> Vec<FieldError>,
    /// `(new, old)`
    pub validate_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// `(new, old)`
    pub validate_status: fn(&Value, &Value) -> Vec<FieldError>,
    /// Texts for HTTP `Warning` headers of a write that was valid. `(new, old)`
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// How a name is validated: a DNS subdomain for most kinds, a label for some.
    pub name: NameRule,
}

/// Which names a kind accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    DnsSubdomain,
    /// RFC 1123 label (Namespace, and Service since 1.37).
    DnsLabel,
    /// Any path segment (RBAC).
    PathSegment,
    /// A canonical IP address (IPAddress).
    Address,
}

/// A subresource that reads and writes the object itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    Status,
    /// `autoscaling/v1 Scale` over `spec.replicas`, `status.replicas` and the selector.
    Scale,
}

/// A part of the object that one subresource writes: it reads the whole object, and its writes change that part alone.
#[derive(Debug, Clone, Copy)]
pub struct ObjectPart {
    /// As the path names it: `ephemeralcontainers`.
    pub name: &'static str,
    /// Keeps everything but the part. `(new, old)`
    pub prepare: fn(&mut Value, &Value),
    /// `(new, old)`
    pub validate: fn(&Value, &Value) -> Vec<FieldError>,
}

/// Two are the same when they have one name: names are unique within a kind, and a part is never compared across kinds.
impl PartialEq for ObjectPart {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for ObjectPart {}

/// A field that a field selector may name.
#[derive(Debug, Clone, Copy)]
pub struct Selectable {
    /// As the selector writes it: `spec.nodeName`.
    pub label: &'static str,
    /// JSON pointers to try in order; the first that is there and not empty counts.
    pub pointers: &'static [&'static str],
    /// What an absent field reads as: empty for texts, `false` for flags, `0` for counts.
    pub absent: &'static str,
}

/// One set of objects under two groups (core and `events.k8s.io` Events): this row's objects are stored as the other kind's.
#[derive(Debug, Clone, Copy)]
pub struct Alias {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// From this row's form to the stored one.
    pub to_stored: fn(&mut Value),
    /// From the stored form to this row's.
    pub from_stored: fn(&mut Value),
}

/// A printer column as the Table answer defines it.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `date`, `boolean`.
    pub r#type: &'static str,
    /// `name` for the Name column, else empty.
    pub format: &'static str,
    /// 0 is always shown, 1 and more only with `-o wide`.
    pub priority: i32,
    pub description: &'static str,
}

impl Kind {
    /// What most namespaced kinds are: no subresources, generic rules, Name and Age.
    pub const NAMESPACED: Kind = Kind {
        group: "",
        version: "v1",
        kind: "",
        plural: "",
        singular: "",
        short_names: &[],
        categories: &[],
        scope: Scope::Namespaced,
        subresources: &[],
        parts: &[],
        create_on_update: false,
        unconditional_update: true,
        rules: Rules::GENERIC,
        columns: table::NAME_AGE,
        cells: table::name_age,
        selectable: &[],
        deprecation: None,
        alias: None,
    };

    /// The same for kinds without a namespace.
    pub const CLUSTER: Kind = Kind { scope: Scope::Cluster, rules: Rules::CLUSTER, ..Kind::NAMESPACED };
}

impl Rules {
    /// Metadata is kept well-formed and nothing else is known.
    pub const GENERIC: Rules = Rules {
        default: meta::default,
        prepare_create: meta::prepare_create,
        prepare_update: meta::prepare_update,
        prepare_status: meta::prepare_status,
        validate_create: meta::validate_create,
        validate_update: meta::validate_update,
        validate_status: meta::validate_update,
        warnings: meta::warnings,
        name: NameRule::DnsSubdomain,
    };

    /// The same for kinds without a namespace.
    pub const CLUSTER: Rules = Rules { validate_create: meta::validate_create_cluster, ..Rules::GENERIC };
}

impl Selectable {
    /// A text field whose label is its path.
    pub const fn text(label: &'static str, pointers: &'static [&'static str]) -> Selectable {
        Selectable { label, pointers, absent: "" }
    }
}

impl Column {
    pub const NAME: Column =
        Column { name: "Name", r#type: "string", format: "name", priority: 0, description: "Name of the object" };
    pub const AGE: Column = Column::text("Age", "Time since the object was created");

    pub const fn text(name: &'static str, description: &'static str) -> Column {
        Column { name, r#type: "string", format: "", priority: 0, description }
    }

    pub const fn int(name: &'static str, description: &'static str) -> Column {
        Column { name, r#type: "integer", format: "", priority: 0, description }
    }

    /// Shown with `-o wide` only.
    pub const fn wide(name: &'static str, description: &'static str) -> Column {
        Column { name, r#type: "string", format: "", priority: 1, description }
    }
}
