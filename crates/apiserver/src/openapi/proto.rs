//! The single document in its protobuf form (`openapi.v2.Document` of gnostic), which client-go asks for: its JSON, field by field.

use api::protobuf::wire::{put_bytes, put_int};
use serde_json::{Map, Value};

/// The media type, as clients ask for it.
pub(super) const MEDIA: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The same as an answer names it: Go reads no media type with an `@`.
pub(super) const ANSWERED: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// A message while it grows. Empty texts and messages that are absent are not written.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn text(mut self, number: u32, value: &Value) -> Self {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            put_bytes(&mut self.0, number, text.as_bytes());
        }
        self
    }

    fn texts(mut self, number: u32, value: &Value) -> Self {
        for text in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
            put_bytes(&mut self.0, number, text.as_bytes());
        }
        self
    }

    fn flag(mut self, number: u32, value: &Value) -> Self {
        if value == true {
            put_int(&mut self.0, number, 1);
        }
        self
    }

    fn inner(mut self, number: u32, inner: Message) -> Self {
        put_bytes(&mut self.0, number, &inner.0);
        self
    }

    fn all(self, number: u32, inner: impl Iterator<Item = Message>) -> Self {
        inner.fold(self, |message, inner| message.inner(number, inner))
    }

    /// The members that begin with `x-`.
    fn extensions(self, number: u32, object: &Value) -> Self {
        let extensions = members(object).filter(|(name, _)| name.starts_with("x-"));
        self.all(number, extensions.map(|(name, value)| named(name, any(value))))
    }
}

fn members(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flat_map(Map::iter)
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn named(name: &str, value: Message) -> Message {
    Message::default().text(1, &name.into()).inner(2, value)
}

/// A value of any kind is carried as YAML, which JSON is.
fn any(value: &Value) -> Message {
    Message::default().text(2, &format!("{value}\n").into())
}

pub(super) fn document(document: &Value) -> Vec<u8> {
    let info = &document["info"];
    let paths = members(&document["paths"]).map(|(path, item)| named(path, path_item(item)));
    let definitions = members(&document["definitions"]).map(|(name, of)| named(name, schema(of)));
    Message::default()
        .text(1, &document["swagger"])
        .inner(2, Message::default().text(1, &info["title"]).text(2, &info["version"]))
        .inner(8, Message::default().all(2, paths))
        .inner(9, Message::default().all(1, definitions))
        .0
}

fn path_item(item: &Value) -> Message {
    const METHODS: [(u32, &str); 7] =
        [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")];
    let methods = METHODS.into_iter().filter_map(|(number, method)| Some((number, item.get(method)?)));
    methods
        .fold(Message::default(), |message, (number, of)| message.inner(number, operation(of)))
        .all(9, items(&item["parameters"]).map(parameter))
        .extensions(10, item)
}

fn operation(of: &Value) -> Message {
    let responses = members(&of["responses"]).map(|(code, response)| {
        let inner = Message::default()
            .text(1, &response["description"])
            .inner(2, Message::default().inner(1, schema(&response["schema"])));
        named(code, Message::default().inner(1, inner))
    });
    Message::default()
        .text(3, &of["description"])
        .text(5, &of["operationId"])
        .texts(6, &of["produces"])
        .texts(7, &of["consumes"])
        .all(8, items(&of["parameters"]).map(parameter))
        .inner(9, Message::default().all(1, responses))
        .extensions(13, of)
}

fn parameter(of: &Value) -> Message {
    let parameter = match of["in"].as_str().unwrap_or_default() {
        "body" => {
            let body = Message::default()
                .text(1, &of["description"])
                .text(2, &of["name"])
                .text(3, &of["in"])
                .flag(4, &of["required"])
                .inner(5, schema(&of["schema"]));
            Message::default().inner(1, body)
        }
        place => {
            let common = Message::default()
                .flag(1, &of["required"])
                .text(2, &of["in"])
                .text(3, &of["description"])
                .text(4, &of["name"]);
            let other = if place == "path" {
                Message::default().inner(4, common.text(5, &of["type"]).flag(19, &of["uniqueItems"]))
            } else {
                Message::default().inner(3, common.text(6, &of["type"]).flag(20, &of["uniqueItems"]))
            };
            Message::default().inner(2, other)
        }
    };
    Message::default().inner(1, parameter)
}

fn schema(of: &Value) -> Message {
    let mut message = Message::default()
        .text(1, &of["$ref"])
        .text(2, &of["format"])
        .text(4, &of["description"])
        .texts(19, &of["required"])
        .all(20, items(&of["enum"]).map(any));
    if let Some(default) = of.get("default") {
        message = message.inner(5, any(default));
    }
    if let Some(additional) = of.get("additionalProperties") {
        let inner = match additional {
            Value::Bool(_) => Message::default().flag(2, additional),
            of => Message::default().inner(1, schema(of)),
        };
        message = message.inner(21, inner);
    }
    if of["type"].is_string() {
        message = message.inner(22, Message::default().text(1, &of["type"]));
    }
    if let Some(item) = of.get("items") {
        message = message.inner(23, Message::default().inner(1, schema(item)));
    }
    message = message.all(24, items(&of["allOf"]).map(schema));
    if of["properties"].is_object() {
        let properties = members(&of["properties"]).map(|(name, of)| named(name, schema(of)));
        message = message.inner(25, Message::default().all(1, properties));
    }
    message.extensions(31, of)
}

#[cfg(test)]
mod tests {
    use api::protobuf::wire::{Fields, Wire};
    use serde_json::json;

    use super::*;

    /// The bytes of the only field of a number.
    fn only(message: &[u8], number: u32) -> Vec<u8> {
        let found = Fields::new(message).map(Result::unwrap).find(|(found, _)| *found == number).unwrap().1;
        let Wire::Bytes(bytes) = found else { panic!("{number} is no message") };
        bytes.to_vec()
    }

    #[test]
    fn a_reader_finds_a_definition_with_its_properties_and_extensions() {
        let written = document(&json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": "v1"},
            "paths": {"/x": {"get": {"operationId": "getX", "responses": {"200": {"description": "OK", "schema": {}}}}}},
            "definitions": {"io.X": {
                "type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/definitions/io.Y"}},
                "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "X"}],
            }},
        }));
        assert_eq!(only(&written, 1), b"2.0");
        let definition = only(&only(&written, 9), 1);
        assert_eq!(only(&definition, 1), b"io.X");
        let schema = only(&definition, 2);
        assert_eq!(only(&only(&schema, 22), 1), b"object");
        let property = only(&only(&schema, 25), 1);
        assert_eq!((only(&property, 1), only(&only(&property, 2), 1)), (b"a".to_vec(), b"#/definitions/io.Y".to_vec()));
        let extension = only(&schema, 31);
        assert_eq!(only(&extension, 1), b"x-kubernetes-group-version-kind");
        let yaml: Value = serde_json::from_slice(&only(&only(&extension, 2), 2)).unwrap();
        assert_eq!(yaml[0]["kind"], "X");
        let path = only(&only(&written, 8), 2);
        assert_eq!(only(&only(&only(&path, 2), 2), 5), b"getX");
    }
}
