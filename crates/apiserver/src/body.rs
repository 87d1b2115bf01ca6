//! Bodies in: read with a limit, decoded by content type. Bodies out: one boxed type.

use api::status::Status;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use crate::fault::{Fault, Outcome};
use crate::negotiate::PROTOBUF;

/// Any error that a body may end with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every answer.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Reads a whole body, up to `limit` bytes.
pub(crate) async fn read<B>(body: B, limit: usize) -> Outcome<Bytes>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fault::bad_request(format!("reading the body failed: {}", error.into())))?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > limit {
                return Err(Status::entity_too_large(limit).into());
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

/// The media type of a request's body, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Formats of a body that holds an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

impl Encoding {
    pub(crate) fn of(headers: &HeaderMap) -> Outcome<Encoding> {
        match media_type(headers).as_str() {
            "" | "application/json" => Ok(Encoding::Json),
            "application/yaml" => Ok(Encoding::Yaml),
            PROTOBUF => Ok(Encoding::Protobuf),
            _ => Err(Status::unsupported_media_type(&["application/json", "application/yaml", PROTOBUF]).into()),
        }
    }
}

/// YAML as the JSON value it stands for.
pub(crate) fn yaml(bytes: &[u8]) -> Outcome<Value> {
    serde_norway::from_slice(bytes)
        .map_err(|error| Fault::bad_request(format!("error converting YAML to JSON: yaml: {error}")))
}
