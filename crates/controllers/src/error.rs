//! What can go wrong in a controller, and whether deciding again on newer facts is all that it takes.

use thiserror::Error;

/// A controller's failure. All of them are taken again later, except a wrong name at start.
#[derive(Debug, Error)]
pub enum Error {
    #[error("there is no controller `{name}`\n  hint: there are {}", crate::Name::ALL.map(crate::Name::as_str).join(", "))]
    UnknownController { name: String },
    #[error("cannot {what}")]
    Write { what: String, source: Box<kube::Error> },
    #[error("cannot read {what}")]
    Read { what: String, source: Box<kube::Error> },
}

impl Error {
    /// Whether the server refused because the world is not what we thought: a conflict, a name taken, a thing or its namespace gone.
    pub fn is_race(&self) -> bool {
        self.status().is_some_and(|status| {
            matches!(status.code, 404 | 409) || status.message.contains("because it is being terminated")
        })
    }

    /// The API server's answer, if it was one.
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Error::Write { source, .. } | Error::Read { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Error::UnknownController { .. } => None,
        }
    }

    /// The error and its causes in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}
