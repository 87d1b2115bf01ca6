//! OpenAPI: what `kubectl explain` shows, and what clients validate and patch with.
//!
//! Descriptions and types come from `k8s-openapi`, list types and merge keys from the schema table. A document is made when it is first
//! asked for and kept compressed: most servers are never asked, and they pay nothing.

mod marks;
mod paths;
mod proto;
mod schemas;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Mutex, PoisonError};

use api::status::Status;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::fault::{Fault, Outcome};
use crate::handle::{Answer, AnswerBody};
use crate::kinds::KINDS;
use crate::negotiate::accepted;
use crate::reviews::REVIEWS;

/// Documents by path, compressed. Volatile.
static MADE: Mutex<BTreeMap<String, Bytes>> = Mutex::new(BTreeMap::new());

const TITLE: &str = "Kubernetes";
const VERSION: &str = "v1.37.0";

/// The old, single document, as JSON or in the protobuf form that client-go asks for.
pub(crate) fn v2(headers: &HeaderMap, gzip: bool) -> Outcome<Answer> {
    let clauses = accepted(headers);
    let wanted = clauses.iter().find_map(|clause| match clause.media.as_str() {
        "application/json" | "*/*" | "application/*" => Some(false),
        proto::MEDIA | proto::ANSWERED => Some(true),
        _ => None,
    });
    if wanted.is_none() && !clauses.is_empty() {
        return Err(Status::not_acceptable(&["application/json", proto::MEDIA]).into());
    }
    let whole = || {
        let mut definitions = Map::new();
        let mut all = Map::new();
        for (group, version) in group_versions() {
            definitions.extend(schemas::of(group, version, schemas::Dialect::Swagger));
            all.extend(paths::v2(group, version));
        }
        json!({"swagger": "2.0", "info": {"title": TITLE, "version": VERSION}, "paths": all, "definitions": definitions})
    };
    if wanted == Some(true) {
        let answer = document("v2.proto", gzip, || proto::document(&whole()))?;
        return Ok(Answer { content_type: HeaderValue::from_static(proto::ANSWERED), ..answer });
    }
    document("v2", gzip, || json_bytes(&whole()))
}

/// The index of documents, or the one of a group and version.
pub(crate) fn v3(path: Option<&str>, gzip: bool) -> Outcome<Answer> {
    let Some(path) = path.filter(|path| !path.is_empty()) else { return Ok(Answer::json(StatusCode::OK, &index())) };
    let found = group_versions().find(|(group, version)| document_path(group, version) == path);
    let Some((group, version)) = found else { return Ok(Answer::no_such_path()) };
    document(path, gzip, || {
        json_bytes(&json!({
            "openapi": "3.0.0",
            "info": {"title": TITLE, "version": VERSION},
            "paths": paths::v3(group, version),
            "components": {"schemas": schemas::of(group, version, schemas::Dialect::OpenApi3)},
        }))
    })
}

fn index() -> Value {
    let paths: Map<String, Value> = group_versions()
        .map(|(group, version)| {
            let path = document_path(group, version);
            // A document only changes with the program, so clients may keep it for as long as that.
            let hash = Sha256::digest(format!("{path} {VERSION} {}", env!("CARGO_PKG_VERSION")));
            let hash: String = hash.iter().map(|byte| format!("{byte:02X}")).collect();
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn group_versions() -> impl Iterator<Item = (&'static str, &'static str)> {
    let stored = KINDS.iter().map(|kind| (kind.group, kind.version));
    let mut all: Vec<_> = stored.chain(REVIEWS.iter().map(|review| (review.group, review.version))).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
}

fn json_bytes(document: &Value) -> Vec<u8> {
    crate::object::json_bytes(document).to_vec()
}

/// The document of a name, made if it is not there yet.
fn document(name: &str, gzip: bool, make: impl FnOnce() -> Vec<u8>) -> Outcome<Answer> {
    let kept = MADE.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
    let zipped = match kept {
        Some(zipped) => zipped,
        None => {
            // Made outside the lock: two who ask at once make it twice, which costs less than making others wait.
            let zipped = zip(&make()).map_err(Fault::internal)?;
            MADE.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), zipped.clone());
            zipped
        }
    };
    let body =
        if gzip { AnswerBody::Zipped(zipped) } else { AnswerBody::Whole(unzip(&zipped).map_err(Fault::internal)?) };
    Ok(Answer {
        code: StatusCode::OK,
        content_type: HeaderValue::from_static("application/json"),
        body,
        warnings: Vec::new(),
    })
}

fn zip(document: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(document)?;
    encoder.finish().map(Bytes::from)
}

fn unzip(zipped: &[u8]) -> std::io::Result<Bytes> {
    let mut plain = Vec::new();
    GzDecoder::new(zipped).read_to_end(&mut plain)?;
    Ok(plain.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(answer: Answer) -> Value {
        match answer.body {
            AnswerBody::Whole(bytes) => serde_json::from_slice(&bytes).unwrap(),
            AnswerBody::Zipped(_) | AnswerBody::Stream(_) | AnswerBody::Foreign(_) => panic!("not plain"),
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_kind_is_marked() {
        for (group, version) in group_versions() {
            let document = body(v3(Some(&document_path(group, version)), false).unwrap());
            let text = document.to_string();
            for reference in text.split("\"#/components/schemas/").skip(1) {
                let name = reference.split('"').next().unwrap();
                assert!(document["components"]["schemas"][name].is_object(), "{group}/{version}: {name}");
            }
            for kind in KINDS.iter().filter(|kind| kind.group == group && kind.version == version) {
                let marked = document["components"]["schemas"].as_object().unwrap().values().any(|schema| {
                    schema["x-kubernetes-group-version-kind"]
                        .as_array()
                        .is_some_and(|all| all.iter().any(|one| one["kind"] == kind.kind && one["group"] == group))
                });
                assert!(marked, "{}", kind.kind);
            }
        }
    }

    #[test]
    fn a_service_port_merges_by_its_number() {
        let document = body(v3(Some("api/v1"), false).unwrap());
        let ports = &document["components"]["schemas"]["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
        assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
        assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["port", "protocol"]));
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]["patch"];
        assert!(patch["parameters"].as_array().unwrap().iter().any(|parameter| parameter["name"] == "fieldValidation"));
    }
}
