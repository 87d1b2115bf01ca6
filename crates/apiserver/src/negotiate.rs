//! Which form an answer takes: what `Accept` asks for, of what we have.

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING};

use api::status::Status;

use crate::fault::Outcome;

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    Yaml,
    Protobuf,
}

/// What of an object is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Whole,
    /// Rows and columns, as `kubectl get` prints them.
    Table,
    /// Metadata only.
    Partial,
}

/// A form of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) media: Media,
    pub(crate) shape: Shape,
}

pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

const AVAILABLE: &[&str] = &[
    "application/json",
    "application/yaml",
    PROTOBUF,
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

impl Media {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
            Media::Protobuf => PROTOBUF,
        }
    }
}

impl Form {
    pub(crate) const JSON: Form = Form { media: Media::Json, shape: Shape::Whole };

    /// The first form of `Accept` that we have.
    pub(crate) fn of(headers: &HeaderMap) -> Outcome<Form> {
        let accepted = accepted(headers);
        if accepted.is_empty() {
            return Ok(Form::JSON);
        }
        accepted.iter().find_map(|clause| clause.form()).ok_or_else(|| Status::not_acceptable(AVAILABLE).into())
    }
}

/// Whether the client takes compressed answers.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.split(';').next().is_some_and(|name| name.trim() == "gzip"))
}

/// One clause of an `Accept` header.
pub(crate) struct Clause {
    pub(crate) media: String,
    pub(crate) parameters: Vec<(String, String)>,
}

impl Clause {
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn form(&self) -> Option<Form> {
        let media = match self.media.as_str() {
            "application/json" | "*/*" | "application/*" => Media::Json,
            "application/yaml" => Media::Yaml,
            PROTOBUF => Media::Protobuf,
            _ => return None,
        };
        let ours = self.parameter("g").is_none_or(|group| group == "meta.k8s.io")
            && self.parameter("v").is_none_or(|version| version == "v1");
        let shape = match self.parameter("as") {
            None => Shape::Whole,
            Some("Table") if ours && media != Media::Protobuf => Shape::Table,
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if ours => Shape::Partial,
            Some(_) => return None,
        };
        Some(Form { media, shape })
    }
}

/// The clauses of all `Accept` headers in order; weights are not looked at, as upstream's clients list by preference.
pub(crate) fn accepted(headers: &HeaderMap) -> Vec<Clause> {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|media| !media.is_empty())?.to_ascii_lowercase();
            let parameters = parts
                .filter_map(|part| part.split_once('='))
                .map(|(name, value)| (name.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
                .collect();
            Some(Clause { media, parameters })
        })
        .collect()
}
