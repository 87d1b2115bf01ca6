//! Certificates from Secrets of type `kubernetes.io/tls`: read, checked, and found by name.
//!
//! A Secret that cannot be used is told by name, and its hosts get the certificate of another section that has them, or the default
//! one; what other Secrets hold is not disturbed.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};
use service_model::ObjectKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::Error;
use crate::routes::{Culprit, Fault, Reason, TlsBinding};

/// Names to certificates; immutable.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By what follows the `*`.
    wildcards: HashMap<Box<str>, Arc<CertifiedKey>>,
    only: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// The certificate of a host: its own, or that of the wildcard one label above.
    pub fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let lower = name.to_ascii_lowercase();
        let name = lower.trim_end_matches('.');
        self.exact.get(name).or_else(|| self.wildcards.get(&name[name.find('.')?..]))
    }

    /// The certificate, if there is exactly one.
    pub fn only(&self) -> Option<&Arc<CertifiedKey>> {
        self.only.as_ref()
    }

    fn bind(&mut self, host: &str, key: &Arc<CertifiedKey>) {
        let (map, name) = match host.strip_prefix('*') {
            Some(suffix) => (&mut self.wildcards, suffix),
            None => (&mut self.exact, host),
        };
        // Bindings come with the oldest Ingress first.
        map.entry(name.into()).or_insert_with(|| Arc::clone(key));
    }
}

/// Reads all certificates of a plan; those of `before` whose Secret did not change are not read again.
pub(crate) fn read_certificates(plan: &[TlsBinding], cache: &mut Cache) -> (Certificates, Vec<Fault>) {
    let mut certificates = Certificates::default();
    let mut faults = Vec::new();
    let mut next = Cache::default();
    for binding in plan {
        let Some(secret) = &binding.content else {
            let reason = Reason::NoSecret { secret: binding.secret.clone() };
            faults.push(Fault { culprit: Culprit::Ingress(binding.ingress.clone()), reason });
            continue;
        };
        match next.read(&binding.secret, secret, cache) {
            Ok(read) => {
                let names = if binding.hosts.is_empty() { &read.names } else { &binding.hosts };
                names.iter().for_each(|host| certificates.bind(host, &read.key));
            }
            Err(why) => {
                let reason = Reason::Certificate { secret: binding.secret.clone(), why };
                let about = [Culprit::Ingress(binding.ingress.clone()), Culprit::Secret(binding.secret.clone())];
                faults.extend(about.map(|culprit| Fault { culprit, reason: reason.clone() }));
            }
        }
    }
    let mut usable = next.read.values().filter_map(|(_, read)| read.as_ref().ok());
    certificates.only = usable.next().map(|read| Arc::clone(&read.key)).filter(|_| usable.next().is_none());
    *cache = next;
    (certificates, faults)
}

/// What Secrets were read into, by version.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    read: HashMap<ObjectKey, (Option<String>, Outcome)>,
}

/// A certificate, or why there is none.
type Outcome = Result<Arc<Read>, String>;

#[derive(Debug)]
struct Read {
    key: Arc<CertifiedKey>,
    names: Vec<Box<str>>,
}

impl Cache {
    fn read(&mut self, name: &ObjectKey, secret: &Secret, before: &Cache) -> Outcome {
        let version = secret.metadata.resource_version.clone();
        let known =
            |cache: &Cache| cache.read.get(name).filter(|(known, _)| known.is_some() && *known == version).cloned();
        let (_, result) =
            known(self).or_else(|| known(before)).unwrap_or_else(|| (version.clone(), read(secret).map(Arc::new)));
        self.read.insert(name.clone(), (version, result.clone()));
        result
    }
}

fn read(secret: &Secret) -> Result<Read, String> {
    let part = |name: &str| {
        let part = secret.data.as_ref().and_then(|data| data.get(name)).filter(|part| !part.0.is_empty());
        part.map(|part| part.0.as_slice()).ok_or_else(|| format!("`{name}` is missing"))
    };
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(part("tls.crt")?).collect();
    let chain = chain.map_err(|error| format!("`tls.crt` is not PEM: {error}"))?;
    let Some(first) = chain.first() else { return Err("`tls.crt` holds no certificate".to_owned()) };
    let names = names(first)?;
    let key = PrivateKeyDer::from_pem_slice(part("tls.key")?);
    let key = key.map_err(|error| format!("`tls.key` holds no private key: {error}"))?;
    let key = ring::sign::any_supported_type(&key).map_err(|error| format!("`tls.key` cannot be used: {error}"))?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|error| format!("`tls.key` is not the key of `tls.crt`: {error}"))?;
    Ok(Read { key: Arc::new(certified), names })
}

/// The DNS names in a certificate.
fn names(certificate: &CertificateDer<'_>) -> Result<Vec<Box<str>>, String> {
    let parsed = X509Certificate::from_der(certificate);
    let (_, parsed) = parsed.map_err(|error| format!("`tls.crt` is not a certificate: {error}"))?;
    let alternative = parsed.subject_alternative_name().map_err(|error| format!("`tls.crt` is damaged: {error}"))?;
    let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
    let dns = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
        _ => None,
    });
    Ok(dns.collect())
}

/// The certificate for names that no Secret has; made anew at each start.
pub(crate) fn self_signed() -> Result<CertifiedKey, Error> {
    let mut params = rcgen::CertificateParams::new(vec!["ingress.local".to_owned()]).map_err(Error::SelfSigned)?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "Portolan ingress, default certificate");
    let signing = rcgen::KeyPair::generate().map_err(Error::SelfSigned)?;
    let certificate = params.self_signed(&signing).map_err(Error::SelfSigned)?;
    let key = PrivateKeyDer::try_from(signing.serialize_der()).map_err(|_| Error::SelfSignedKey)?;
    let key = ring::sign::any_supported_type(&key).map_err(Error::Tls)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// Takes any certificate but still wants the handshake signed with its key.
#[derive(Debug)]
pub(super) struct AnyCertificate {
    algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
}

impl AnyCertificate {
    pub fn new(provider: &CryptoProvider) -> Self {
        AnyCertificate { algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::ByteString;

    use super::*;

    fn secret(crt: &str, key: &str) -> Option<Arc<Secret>> {
        let data = BTreeMap::from([
            ("tls.crt".to_owned(), ByteString(crt.into())),
            ("tls.key".to_owned(), ByteString(key.into())),
        ]);
        Some(Arc::new(Secret { data: Some(data), ..Secret::default() }))
    }

    fn made(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn binding(hosts: &[&str], secret: &str, content: Option<Arc<Secret>>) -> TlsBinding {
        TlsBinding {
            ingress: ObjectKey::new("default", "web"),
            hosts: hosts.iter().map(|host| (*host).into()).collect(),
            secret: ObjectKey::new("default", secret),
            content,
        }
    }

    #[test]
    fn a_bad_secret_is_named_and_others_are_served() {
        let ((crt, key), (_, other)) = (made(&["a.example", "*.b.example"]), made(&["c.example"]));
        let plan = [
            binding(&["missing.example"], "missing", None),
            binding(&["broken.example"], "broken", secret("nothing", &key)),
            binding(&["keyless.example"], "keyless", secret(&crt, "")),
            binding(&["mixed.example"], "mixed", secret(&crt, &other)),
            binding(&["a.example", "*.b.example"], "good", secret(&crt, &key)),
        ];
        let (certificates, faults) = read_certificates(&plan, &mut Cache::default());
        for name in ["a.example", "A.Example.", "x.b.example"] {
            assert!(certificates.find(name).is_some(), "{name}");
        }
        for name in ["b.example", "x.y.b.example", "missing.example", "broken.example", "mixed.example", ""] {
            assert!(certificates.find(name).is_none(), "{name}");
        }
        let told: Vec<String> = faults.iter().map(|fault| fault.reason.to_string()).collect();
        for (secret, why) in
            [("missing", "does not exist"), ("keyless", "`tls.key` is missing"), ("mixed", "is not the key of")]
        {
            assert!(
                told.iter().any(|t| t.contains(&format!("default/{secret}")) && t.contains(why)),
                "{secret}: {told:?}"
            );
        }
        assert!(faults.iter().any(|f| f.culprit == Culprit::Secret(ObjectKey::new("default", "broken"))));
        assert!(certificates.only().is_some());
    }

    #[test]
    fn names_of_the_certificate_stand_in_for_hosts_that_are_not_given() {
        let (crt, key) = made(&["a.example", "*.b.example"]);
        let (certificates, faults) = read_certificates(&[binding(&[], "s", secret(&crt, &key))], &mut Cache::default());
        assert!(faults.is_empty());
        assert!(certificates.find("a.example").is_some() && certificates.find("x.b.example").is_some());
    }
}
