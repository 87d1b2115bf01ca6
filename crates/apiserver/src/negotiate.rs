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
    /// The version that tables and metadata are said to be of, which are the same in all.
    pub(crate) meta: &'static str,
}

const META: &str = "meta.k8s.io/v1";
const META_BETA: &str = "meta.k8s.io/v1beta1";

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
    pub(crate) const JSON: Form = Form { media: Media::Json, shape: Shape::Whole, meta: META };

    /// The first form of `Accept` that we have.
    pub(crate) fn of(headers: &HeaderMap) -> Outcome<Form> {
        Form::among(headers, |_| true)
    }

    /// The first form of `Accept` that is the whole object: what has no metadata of its own has no other.
    pub(crate) fn whole(headers: &HeaderMap) -> Outcome<Form> {
        Form::among(headers, |shape| shape == Shape::Whole)
    }

    /// The first form of `Accept` that is no table: a watch that begins with a list has no columns to begin with.
    pub(crate) fn listed_by_watch(headers: &HeaderMap) -> Outcome<Form> {
        Form::among(headers, |shape| shape != Shape::Table)
    }

    fn among(headers: &HeaderMap, takes: impl Fn(Shape) -> bool) -> Outcome<Form> {
        let accepted = accepted(headers);
        if accepted.is_empty() {
            return Ok(Form::JSON);
        }
        let mut forms = accepted.iter().filter_map(Clause::form).filter(|form| takes(form.shape));
        forms.next().ok_or_else(|| Status::not_acceptable(AVAILABLE).into())
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
        let version = match self.parameter("v") {
            None | Some("v1") => Some(META),
            Some("v1beta1") if media != Media::Protobuf => Some(META_BETA),
            Some(_) => None,
        };
        let ours = version.is_some() && self.parameter("g").is_none_or(|group| group == "meta.k8s.io");
        let shape = match self.parameter("as") {
            None => Shape::Whole,
            Some("Table") if ours && media != Media::Protobuf => Shape::Table,
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if ours => Shape::Partial,
            Some(_) => return None,
        };
        Some(Form { media, shape, meta: version.unwrap_or(META) })
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
