//! The one schema of the Kubernetes API: for each type its fields with JSON name, protobuf number, type and merge rules.
//!
//! Protobuf, strict decoding, strategic merge and server-side apply are all driven by this table, so that a field is described once.
//! The table itself is generated (`cargo xtask codegen`) and static: looking up a kind or a field allocates nothing.

mod table;

/// A type, named as upstream names it.
#[derive(Debug)]
pub struct Type {
    /// The Go and OpenAPI name, such as `ServicePort`.
    pub name: &'static str,
    /// The OpenAPI package, such as `io.k8s.api.core.v1`.
    pub package: &'static str,
    /// Server-side apply owns it as one value (`+structType=atomic`).
    pub atomic: bool,
    /// In upstream's order, which is the order of protobuf.
    pub fields: &'static [Field],
}

/// A field of a type.
#[derive(Debug)]
pub struct Field {
    /// The JSON name; empty for an [inlined](Field::inline) type.
    pub name: &'static str,
    /// The protobuf number; 0 if protobuf does not carry the field.
    pub number: u32,
    pub element: Element,
    pub shape: Shape,
    pub presence: Presence,
    /// Protobuf nests this type under `number`, JSON writes its fields into the parent.
    pub inline: bool,
    /// The Go type of a scalar where it has a name of its own, such as `v1.Protocol` or `Protocol`; else empty.
    pub go: &'static str,
    /// `patchStrategy: merge`: a strategic merge patch merges the list instead of replacing it.
    pub merge: bool,
    /// `patchStrategy: retainKeys`: a strategic merge patch may name the keys that stay.
    pub retain_keys: bool,
    /// `patchMergeKey`; empty for a list of scalars.
    pub merge_key: &'static str,
    /// `listType`; `Atomic` where nothing is said.
    pub list: ListType,
    /// The default text that upstream's schema itself declares: what an absent key of a list item counts as. Empty if there is none.
    pub default: &'static str,
    /// `mapType: atomic` or `structType: atomic` of the field.
    pub atomic: bool,
}

/// What a field, a list item or a map value is.
#[derive(Debug, Clone, Copy)]
pub enum Element {
    String,
    Int32,
    Int64,
    Bool,
    Double,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339 with seconds; protobuf `Timestamp`.
    Time,
    /// RFC 3339 with microseconds; protobuf `Timestamp`.
    MicroTime,
    /// `100m`, `1Gi`; a number is accepted.
    Quantity,
    /// A port name or number, a count or a percentage.
    IntOrString,
    /// Any JSON (`runtime.RawExtension`).
    Raw,
    /// `FieldsV1`: JSON, as text within protobuf.
    Fields,
    /// A list of strings that protobuf wraps in a message (`ExtraValue`).
    Strings,
    Message(&'static Type),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    One,
    List,
    /// Keys are strings.
    Map,
}

/// When upstream writes a field, which decides what an absent one and a zero one mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Not a pointer, no `omitempty`: written even when zero (`0`, `""`, `{}`; `null` for a nil list or map).
    Always,
    /// Not a pointer, `omitempty`: a zero value is not written, and so is the same as absent.
    OmitEmpty,
    /// A pointer: zero and absent differ.
    Pointer,
    /// A pointer without `omitempty`: written as `null` when absent.
    Nullable,
}

/// How server-side apply owns a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    /// Items are identified by these fields.
    Map(&'static [&'static str]),
}

/// The type of a kind; list kinds (`ServiceList`) too. `Status`, `DeleteOptions` and the other option types of `meta/v1` are found in any
/// group, since every group registers them.
pub fn kind(group: &str, version: &str, kind: &str) -> Option<&'static Type> {
    let find = |group: &str, version: &str| {
        table::KINDS
            .binary_search_by(|row| (row.0, row.1, row.2).cmp(&(group, version, kind)))
            .ok()
            .and_then(|at| table::KINDS.get(at))
            .map(|row| row.3)
    };
    let everywhere = kind == "Status"
        || kind == "List"
        || kind == "WatchEvent"
        || kind.starts_with("API")
        || kind.ends_with("Options");
    find(group, version).or_else(|| if everywhere { find("meta.k8s.io", "v1") } else { None })
}

/// The same by `apiVersion`, as objects carry it.
pub fn kind_of(api_version: &str, kind: &str) -> Option<&'static Type> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    self::kind(group, version, kind)
}

/// Every kind of the table as `(group, version, kind, type)`, sorted.
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static str, &'static Type)> {
    table::KINDS.iter().copied()
}

impl Type {
    /// The field that JSON calls `name`, looked for in inlined types too.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find_map(|field| match (field.inline, field.element) {
            (true, Element::Message(inner)) => inner.field(name),
            (false | true, _) => (field.name == name).then_some(field),
        })
    }

    /// All fields as JSON sees them: those of inlined types in place of the inlined field.
    pub fn json_fields(&self) -> Vec<&'static Field> {
        let mut all = Vec::with_capacity(self.fields.len());
        for field in self.fields {
            match (field.inline, field.element) {
                (true, Element::Message(inner)) => all.extend(inner.json_fields()),
                (false | true, _) => all.push(field),
            }
        }
        all
    }

    /// The OpenAPI definition name, such as `io.k8s.api.core.v1.ServicePort`.
    pub fn definition(&self) -> String {
        format!("{}.{}", self.package, self.name)
    }
}

impl Field {
    /// The type of the field, its items or its values, if that is one of ours.
    pub fn message(&self) -> Option<&'static Type> {
        match self.element {
            Element::Message(of) => Some(of),
            Element::String
            | Element::Int32
            | Element::Int64
            | Element::Bool
            | Element::Double
            | Element::Bytes
            | Element::Time
            | Element::MicroTime
            | Element::Quantity
            | Element::IntOrString
            | Element::Raw
            | Element::Fields
            | Element::Strings => None,
        }
    }

    const fn new(name: &'static str, number: u32, element: Element, shape: Shape, presence: Presence) -> Field {
        Field {
            name,
            number,
            element,
            shape,
            presence,
            inline: false,
            go: "",
            merge: false,
            retain_keys: false,
            merge_key: "",
            list: ListType::Atomic,
            default: "",
            atomic: false,
        }
    }

    const fn inline(mut self) -> Field {
        self.inline = true;
        self
    }

    const fn go(mut self, name: &'static str) -> Field {
        self.go = name;
        self
    }

    const fn merge(mut self) -> Field {
        self.merge = true;
        self
    }

    const fn retain_keys(mut self) -> Field {
        self.retain_keys = true;
        self
    }

    const fn merge_key(mut self, key: &'static str) -> Field {
        self.merge_key = key;
        self
    }

    const fn default(mut self, text: &'static str) -> Field {
        self.default = text;
        self
    }

    const fn set(mut self) -> Field {
        self.list = ListType::Set;
        self
    }

    const fn keys(mut self, keys: &'static [&'static str]) -> Field {
        self.list = ListType::Map(keys);
        self
    }

    const fn atomic(mut self) -> Field {
        self.atomic = true;
        self
    }
}

const fn one(name: &'static str, number: u32, element: Element, presence: Presence) -> Field {
    Field::new(name, number, element, Shape::One, presence)
}

const fn list(name: &'static str, number: u32, element: Element, presence: Presence) -> Field {
    Field::new(name, number, element, Shape::List, presence)
}

const fn map(name: &'static str, number: u32, element: Element, presence: Presence) -> Field {
    Field::new(name, number, element, Shape::Map, presence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_sorted_and_found() {
        let rows: Vec<_> = kinds().map(|(group, version, kind, _)| (group, version, kind)).collect();
        assert!(rows.is_sorted());
        for (group, version, name, of) in kinds() {
            assert_eq!(kind(group, version, name).map(Type::definition), Some(of.definition()));
        }
        assert!(kind("policy", "v1", "DeleteOptions").is_some());
        assert!(kind("", "v1", "Deployment").is_none());
        assert!(kind_of("apps/v1", "Deployment").is_some());
    }

    #[test]
    fn fields_know_numbers_and_merge_rules() {
        let service = kind("", "v1", "Service").unwrap();
        let ports = service.field("spec").unwrap().message().unwrap().field("ports").unwrap();
        assert_eq!((ports.number, ports.merge, ports.merge_key), (1, true, "port"));
        assert_eq!(ports.list, ListType::Map(&["port", "protocol"]));
        let template = kind("", "v1", "PodTemplate").unwrap().field("template").unwrap().message().unwrap();
        let volume = template.field("spec").unwrap().message().unwrap().field("volumes").unwrap().message().unwrap();
        assert_eq!(volume.field("hostPath").unwrap().number, 1, "inlined from VolumeSource");
        let responders = template.field("spec").unwrap().message().unwrap().field("evictionResponders").unwrap();
        assert_eq!((responders.number, responders.merge, responders.merge_key), (44, true, "name"));
        assert_eq!(responders.list, ListType::Map(&["name"]));
        let job = kind("batch", "v1", "Job").unwrap().field("spec").unwrap().message().unwrap();
        assert_eq!(job.field("scheduling").unwrap().number, 17);
        assert!(volume.json_fields().iter().all(|field| !field.name.is_empty()));
    }

    #[test]
    fn field_names_are_unique_within_a_type() {
        fn check(of: &'static Type, seen: &mut Vec<*const Type>) {
            if seen.contains(&std::ptr::from_ref(of)) {
                return;
            }
            seen.push(of);
            let mut names: Vec<_> = of.json_fields().iter().map(|field| field.name).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{}", of.definition());
            of.fields.iter().filter_map(Field::message).for_each(|inner| check(inner, seen));
        }
        let mut seen = Vec::new();
        kinds().for_each(|(_, _, _, of)| check(of, &mut seen));
    }
}
