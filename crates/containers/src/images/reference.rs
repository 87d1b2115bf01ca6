//! Image names as people write them, parsed once: `busybox`, `registry:5000/team/app:v1`, `app@sha256:…`.

use std::fmt;

use super::Error;

/// A name with its defaults filled in: `docker.io/library/busybox:latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    pub fn parse(name: &str) -> Result<Reference, Error> {
        let parsed: oci_client::Reference = name
            .parse()
            .map_err(|e: oci_client::ParseError| Error::InvalidName { name: name.to_owned(), reason: e.to_string() })?;
        Ok(Reference {
            registry: parsed.registry().to_owned(),
            repository: parsed.repository().to_owned(),
            tag: parsed.tag().map(str::to_owned),
            digest: parsed.digest().map(str::to_owned),
        })
    }

    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Without the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// `registry/repository:tag`, for a name that has a tag.
    pub fn without_digest(&self) -> String {
        Reference { digest: None, ..self.clone() }.to_string()
    }

    /// `registry/repository@digest`: the name that never means anything else.
    pub fn with_digest(&self, digest: &str) -> String {
        format!("{}/{}@{digest}", self.registry, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}
