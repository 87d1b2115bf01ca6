//! `custom-http-errors`: in place of an error of the backend, what the default backend makes of it.
//!
//! It is asked as ingress-nginx asks, with headers that say what happened (`X-Code` and others); its own status is the answer's.

use std::sync::Arc;

use http::header::ACCEPT;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};

use super::body::RequestBody;
use crate::routes::Route;

/// What is kept of a request until it is known whether another page is wanted.
#[derive(Debug)]
pub(crate) struct Wanted {
    format: Option<HeaderValue>,
    target: String,
}

impl Wanted {
    /// None where no page is wanted for any status.
    pub fn of(route: &Route, parts: &Parts) -> Option<Self> {
        if route.options.custom_errors.is_empty() || route.fallback.is_none() {
            return None;
        }
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        Some(Wanted { format: parts.headers.get(ACCEPT).cloned(), target })
    }

    /// The request for the page, and its way.
    pub fn ask_for(self, route: &Route, status: StatusCode) -> Option<(Arc<Route>, Request<RequestBody>)> {
        let fallback = route.fallback.clone().filter(|_| route.options.custom_errors.contains(&status.as_u16()))?;
        let mut request = Request::new(RequestBody::Empty);
        *request.method_mut() = Method::GET;
        *request.headers_mut() = self.headers(route, status);
        Some((fallback, request))
    }

    fn headers(self, route: &Route, status: StatusCode) -> HeaderMap {
        let service = &route.backend.service;
        let told = [
            ("host", &*service.name),
            ("x-code", status.as_str()),
            ("x-original-uri", &self.target),
            ("x-namespace", &route.ingress.namespace),
            ("x-ingress-name", &route.ingress.name),
            ("x-service-name", &service.name),
            ("x-service-port", &route.backend.port),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in told {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        if let Some(format) = self.format {
            headers.insert("x-format", format);
        }
        headers
    }
}
