//! Refusals: the `Status` of every answer that is not what was asked for, by the kind that the request was about.

use std::fmt;

use api::field::FieldError;
use api::status::{Cause, Status};

use crate::kinds::Kind;

/// A request that was not carried out, and why. Boxed, as it travels through every result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fault(pub(crate) Box<Status>);

/// An answer, or why there is none.
pub(crate) type Outcome<T> = Result<T, Fault>;

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Fault(Box::new(status))
    }
}

impl Fault {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Status::bad_request(message).into()
    }

    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        Status::not_found(kind.group, kind.plural, name).into()
    }

    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        Status::already_exists(kind.group, kind.plural, name).into()
    }

    /// `why` completes "Operation cannot be fulfilled on services "a": …".
    pub(crate) fn conflict(kind: &Kind, name: &str, why: impl fmt::Display) -> Self {
        Status::conflict(kind.group, kind.plural, name, why).into()
    }

    /// A precondition of a delete; upstream names the kind here, not the resource.
    pub(crate) fn precondition(kind: &Kind, name: &str, why: &str) -> Self {
        Status::conflict(kind.group, kind.kind, name, why).into()
    }

    /// The optimistic lock that every client knows.
    pub(crate) fn modified(kind: &Kind, name: &str) -> Self {
        Status::modified(kind.group, kind.plural, name).into()
    }

    pub(crate) fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        Status::forbidden(kind.group, kind.plural, name, why).into()
    }

    /// What validation found, all of it.
    pub(crate) fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        Status::invalid(kind.group, kind.kind, name, errors).into()
    }

    pub(crate) fn method_not_allowed() -> Self {
        Status::method_not_allowed().into()
    }

    /// The revision asked for is gone: list again.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Status::expired(message).into()
    }

    /// A revision that is not reached yet; clients try again.
    pub(crate) fn too_new(asked: u64, latest: u64) -> Self {
        let mut status = Status::timeout(format!("Too large resource version: {asked}, current: {latest}"), 1);
        if let Some(details) = &mut status.details {
            details.causes = vec![Cause {
                reason: "ResourceVersionTooLarge".to_owned(),
                message: "Too large resource version".to_owned(),
                field: String::new(),
            }];
        }
        status.into()
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Status::service_unavailable(message).into()
    }

    pub(crate) fn internal(message: impl fmt::Display) -> Self {
        Status::internal(message).into()
    }

    /// Options that do not validate, such as those of a list; they have no name.
    pub(crate) fn invalid_options(kind: &str, errors: &[FieldError]) -> Self {
        Status::invalid("meta.k8s.io", kind, "", errors).into()
    }

    pub(crate) fn is(&self, reason: &str) -> bool {
        self.0.reason == reason
    }
}

impl From<store::Error> for Fault {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Compacted { asked, oldest } => {
                Fault::expired(format!("too old resource version: {asked} ({oldest})"))
            }
            store::Error::Future { asked, latest } => Fault::too_new(asked, latest),
            store::Error::Full(_) => Fault::unavailable("the disk of the API server is full, nothing was changed"),
            store::Error::Closed => Fault::unavailable("the API server is shutting down"),
            error @ (store::Error::InUse { .. }
            | store::Error::Open { .. }
            | store::Error::Damaged { .. }
            | store::Error::Format { .. }
            | store::Error::Conflict { .. }
            | store::Error::Write(_)) => Fault::internal(error),
        }
    }
}
