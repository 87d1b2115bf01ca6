//! Answers of our own: a status, and a line that says why in words that give nothing away about the cluster.

use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION, SERVER};
use http::{Response, StatusCode};

use super::body::Body;

/// Why a request is not passed on, or why no response came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request is malformed or means two things at once.
    BadRequest(&'static str),
    NoRoute,
    /// As [`Refusal::NoRoute`], on the listener of names on the machine.
    NoName,
    MethodNotAllowed,
    Forbidden,
    /// This client asks for too much.
    Limited,
    TooLarge,
    /// The client did not finish its request.
    ClientTimeout,
    /// The Service or its port does not exist, or its users are not known.
    NotConfigured,
    NoEndpoint,
    /// Endpoints are there but none takes a connection.
    NoConnection,
    ConnectTimeout,
    /// The backend closed or broke the protocol.
    BadResponse,
    ResponseTimeout,
}

impl Refusal {
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::BadRequest(_) => StatusCode::BAD_REQUEST,
            Refusal::NoRoute | Refusal::NoName => StatusCode::NOT_FOUND,
            Refusal::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::Forbidden => StatusCode::FORBIDDEN,
            Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Refusal::NotConfigured | Refusal::NoEndpoint | Refusal::Limited => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::NoConnection | Refusal::BadResponse => StatusCode::BAD_GATEWAY,
            Refusal::ConnectTimeout | Refusal::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn why(self) -> &'static str {
        match self {
            Refusal::BadRequest(why) => why,
            Refusal::NoRoute => "no Ingress has a rule for this host and path",
            Refusal::NoName => "no HTTP Service has this name; it is <service>.<namespace>.localhost",
            Refusal::MethodNotAllowed => "this is not a forward proxy",
            Refusal::Forbidden => "requests from this address are not allowed",
            Refusal::Limited => "too many requests from this address",
            Refusal::TooLarge => "the request body is too large",
            Refusal::ClientTimeout => "the request was not finished in time",
            Refusal::NotConfigured => "the Service is not available",
            Refusal::NoEndpoint => "no endpoint of the Service is ready",
            Refusal::NoConnection => "no endpoint of the Service takes connections",
            Refusal::ConnectTimeout => "no endpoint of the Service takes connections in time",
            Refusal::BadResponse => "the Service broke off or sent no valid response",
            Refusal::ResponseTimeout => "the Service did not respond in time",
        }
    }

    /// The rest of the client's request is not wanted: the connection cannot be used again.
    fn closes(self) -> bool {
        match self {
            Refusal::BadRequest(_) | Refusal::TooLarge | Refusal::ClientTimeout => true,
            Refusal::NoRoute
            | Refusal::NoName
            | Refusal::MethodNotAllowed
            | Refusal::Forbidden
            | Refusal::Limited
            | Refusal::NotConfigured
            | Refusal::NoEndpoint
            | Refusal::NoConnection
            | Refusal::ConnectTimeout
            | Refusal::BadResponse
            | Refusal::ResponseTimeout => false,
        }
    }

    pub fn response(self) -> Response<Body> {
        let status = self.status();
        let text = format!("{} {}: {}\n", status.as_u16(), status.canonical_reason().unwrap_or_default(), self.why());
        let mut response = plain(status, text);
        if self.closes() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A response of ours with a line of text.
pub(crate) fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(SERVER, HeaderValue::from_static(SERVER_NAME));
    response
}

pub(crate) const SERVER_NAME: &str = "portolan";

/// A redirect.
pub(crate) fn redirect(status: StatusCode, to: HeaderValue) -> Response<Body> {
    let mut response = plain(status, String::new());
    response.headers_mut().remove(CONTENT_TYPE);
    response.headers_mut().insert(LOCATION, to);
    response
}
