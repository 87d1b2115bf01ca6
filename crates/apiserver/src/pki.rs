//! The server's own certificates and keys, below `pki/`: made at the first start, used again at the next, renewed before they expire.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::{Timestamp, ToSpan, Zoned, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::Config;
use crate::error::Error;

const CA_YEARS: i64 = 10;
const LEAF_DAYS: i64 = 365;
/// Renewed when less than this is left.
const MARGIN_DAYS: i64 = 30;
/// The authority is replaced, at a start, as soon as what it signs would outlive it.
const CA_MARGIN_DAYS: i64 = LEAF_DAYS;

/// What an administrator's kubeconfig holds.
#[derive(Clone)]
pub struct Credentials {
    pub ca_pem: String,
    pub certificate_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Everything that the server proves itself and others with.
pub(crate) struct Pki {
    dir: PathBuf,
    pub(crate) ca_pem: String,
    pub(crate) ca_der: CertificateDer<'static>,
    /// The server's own certificate; replaced while serving when it is about to expire.
    server: RwLock<Arc<CertifiedKey>>,
    pub(crate) admin: Credentials,
    /// PKCS#8 of the key that ServiceAccount tokens are signed with.
    pub(crate) tokens: Vec<u8>,
}

/// A certificate and its key, as PEM.
struct Pair {
    certificate: String,
    key: KeyPair,
}

impl Pki {
    /// Reads what is there and makes what is not, or is about to expire, or no longer fits the configuration.
    pub(crate) fn open(config: &Config) -> Result<Pki, Error> {
        let dir = config.data_dir.join("pki");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|source| failed(&dir, source))?;
        let (ca, ca_is_new) = authority(&dir)?;
        let issuer = Issuer::from_ca_cert_pem(&ca.certificate, &ca.key).map_err(certificate)?;
        let names = server_names(config);
        let server = leaf(&dir, "apiserver", &issuer, ca_is_new, || server_params(&names), |der| covers(der, &names))?;
        let admin = leaf(&dir, "admin", &issuer, ca_is_new, admin_params, |_| true)?;
        let ca_der = CertificateDer::from_pem_slice(ca.certificate.as_bytes()).map_err(certificate)?;
        let server_der = CertificateDer::from_pem_slice(server.certificate.as_bytes()).map_err(certificate)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server.key.serialize_der()));
        let key = any_ecdsa_type(&key).map_err(certificate)?;
        let tokens = token_key(&dir)?;
        Ok(Pki {
            server: RwLock::new(Arc::new(CertifiedKey::new(vec![server_der, ca_der.clone()], key))),
            admin: Credentials {
                ca_pem: ca.certificate.clone(),
                certificate_pem: admin.certificate,
                key_pem: admin.key.serialize_pem(),
            },
            ca_pem: ca.certificate,
            ca_der,
            tokens,
            dir,
        })
    }
}

impl Pki {
    /// The certificate to show to clients.
    pub(crate) fn server(&self) -> Arc<CertifiedKey> {
        self.server.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the server a new certificate when the one in use is about to expire.
    pub(crate) fn renew(&self, config: &Config) -> Result<(), Error> {
        let current = self.server();
        let lasting = current.cert.first().is_some_and(|der| {
            let until = Timestamp::now().as_second() + MARGIN_DAYS * 86_400;
            X509Certificate::from_der(der).is_ok_and(|(_, found)| found.validity().not_after.timestamp() > until)
        });
        if lasting {
            return Ok(());
        }
        let fresh = Pki::open(config)?;
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = fresh.server();
        tracing::info!("the server's certificate was renewed");
        Ok(())
    }
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The authority, and whether it was made just now.
fn authority(dir: &Path) -> Result<(Pair, bool), Error> {
    if let Some(pair) = read_pair(dir, "ca")?
        && lasts(&pair.certificate, CA_MARGIN_DAYS)
    {
        return Ok((pair, false));
    }
    let pair = new_authority(CA_YEARS * 365)?;
    write_pair(dir, "ca", &pair)?;
    Ok((pair, true))
}

fn new_authority(days: i64) -> Result<Pair, Error> {
    let mut params = params("portolan-ca", &[], days)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().map_err(certificate)?;
    Ok(Pair { certificate: params.self_signed(&key).map_err(certificate)?.pem(), key })
}

/// A certificate that the authority signs: the one that is there if it still fits.
fn leaf(
    dir: &Path,
    name: &str,
    issuer: &Issuer<'_, &KeyPair>,
    again: bool,
    params: impl Fn() -> Result<CertificateParams, Error>,
    fits: impl Fn(&X509Certificate<'_>) -> bool,
) -> Result<Pair, Error> {
    if !again
        && let Some(pair) = read_pair(dir, name)?
        && lasts(&pair.certificate, MARGIN_DAYS)
        && parsed(&pair.certificate, &fits)
    {
        return Ok(pair);
    }
    let key = KeyPair::generate().map_err(certificate)?;
    let signed = params()?.signed_by(&key, issuer).map_err(certificate)?;
    let pair = Pair { certificate: signed.pem(), key };
    write_pair(dir, name, &pair)?;
    Ok(pair)
}

fn server_names(config: &Config) -> Vec<SanType> {
    let domain = &config.cluster_domain;
    let mut hosts: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    hosts.push(format!("kubernetes.default.svc.{domain}"));
    hosts.extend(config.server_names.iter().cloned());
    let first = config.service_cidrs.iter().filter_map(crate::bootstrap::first_address);
    let local = [IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    let mut addresses: Vec<IpAddr> = config.advertise_addresses.iter().copied().chain(first).chain(local).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let hosts = hosts.into_iter().filter_map(|host| Some(SanType::DnsName(host.try_into().ok()?)));
    hosts.chain(addresses.into_iter().map(SanType::IpAddress)).collect()
}

fn server_params(names: &[SanType]) -> Result<CertificateParams, Error> {
    let mut params = params("portolan-apiserver", &[], LEAF_DAYS)?;
    params.subject_alt_names = names.to_vec();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn admin_params() -> Result<CertificateParams, Error> {
    let mut params = params("kubernetes-admin", &["system:masters"], LEAF_DAYS)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

/// The subject is the user, its organizations are the groups.
fn params(name: &str, groups: &[&str], days: i64) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new()).map_err(certificate)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    let today = Timestamp::now().to_zoned(TimeZone::UTC);
    let day = |at: Zoned| {
        let month = u8::try_from(at.month()).unwrap_or(1);
        let day = u8::try_from(at.day()).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(at.year()), month, day)
    };
    params.not_before = day(today.saturating_sub(1.day()));
    params.not_after = day(today.saturating_add(days.days()));
    Ok(params)
}

/// Whether a certificate is valid for more than so many days yet.
fn lasts(pem: &str, days: i64) -> bool {
    let until = Timestamp::now().as_second() + days * 86_400;
    parsed(pem, &|found: &X509Certificate<'_>| found.validity().not_after.timestamp() > until)
}

fn parsed(pem: &str, holds: &dyn Fn(&X509Certificate<'_>) -> bool) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
    X509Certificate::from_der(&der).is_ok_and(|(_, found)| holds(&found))
}

fn covers(found: &X509Certificate<'_>, names: &[SanType]) -> bool {
    use x509_parser::extensions::GeneralName;
    let Ok(Some(listed)) = found.subject_alternative_name() else { return false };
    names.iter().all(|name| {
        listed.value.general_names.iter().any(|found| match (name, found) {
            (SanType::DnsName(wanted), GeneralName::DNSName(found)) => wanted.as_str() == *found,
            (SanType::IpAddress(IpAddr::V4(wanted)), GeneralName::IPAddress(found)) => wanted.octets() == **found,
            (SanType::IpAddress(IpAddr::V6(wanted)), GeneralName::IPAddress(found)) => wanted.octets() == **found,
            (_, _) => false,
        })
    })
}

fn token_key(dir: &Path) -> Result<Vec<u8>, Error> {
    let path = dir.join("sa.key");
    if let Some(pem) = read(&path)? {
        let key = KeyPair::from_pem(&pem).map_err(certificate)?;
        return Ok(key.serialize_der());
    }
    let key = KeyPair::generate().map_err(certificate)?;
    write(&path, &key.serialize_pem())?;
    write(&dir.join("sa.pub"), &key.public_key_pem())?;
    Ok(key.serialize_der())
}

/// Puts back a file of a backup.
pub(crate) fn put(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| failed(dir, source))?;
    write_bytes(&dir.join(name), bytes)
}

fn read_pair(dir: &Path, name: &str) -> Result<Option<Pair>, Error> {
    let certificate_pem = read(&dir.join(format!("{name}.crt")))?;
    let key_pem = read(&dir.join(format!("{name}.key")))?;
    let (Some(certificate_pem), Some(key_pem)) = (certificate_pem, key_pem) else { return Ok(None) };
    let key = KeyPair::from_pem(&key_pem).map_err(certificate)?;
    Ok(Some(Pair { certificate: certificate_pem, key }))
}

/// The key first: a certificate without its key would be used at the next start.
fn write_pair(dir: &Path, name: &str, pair: &Pair) -> Result<(), Error> {
    write(&dir.join(format!("{name}.key")), &pair.key.serialize_pem())?;
    write(&dir.join(format!("{name}.crt")), &pair.certificate)
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(path, source)),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    write_bytes(path, text.as_bytes())
}

/// Whole or not at all, readable by us only.
fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let half = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&half)
        .map_err(|source| failed(&half, source))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|source| failed(&half, source))?;
    fs::rename(&half, path).map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: std::io::Error) -> Error {
    Error::Pki { path: path.to_owned(), source }
}

fn certificate(error: impl std::fmt::Display) -> Error {
    Error::Certificate(error.to_string())
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::UnixTime;

    use super::*;

    /// Whether a client that trusts `ca` takes the server for who it says it is.
    fn is_trusted(pki: &Pki, ca: &CertificateDer<'static>) -> bool {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).unwrap();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = "localhost".try_into().unwrap();
        verifier.verify_server_cert(&pki.server().cert[0], &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn an_authority_that_runs_out_is_replaced_with_all_that_it_signed() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::new(dir.path());
        let first = Pki::open(&config).unwrap();
        let again = Pki::open(&config).unwrap();
        assert_eq!((&first.ca_pem, &first.admin.certificate_pem), (&again.ca_pem, &again.admin.certificate_pem));
        assert!(is_trusted(&again, &first.ca_der));
        write_pair(&dir.path().join("pki"), "ca", &new_authority(CA_MARGIN_DAYS - 1).unwrap()).unwrap();
        let next = Pki::open(&config).unwrap();
        assert_ne!(next.ca_pem, first.ca_pem);
        assert_ne!(next.admin.certificate_pem, first.admin.certificate_pem);
        assert!(is_trusted(&next, &next.ca_der) && !is_trusted(&next, &first.ca_der));
        // Tokens of ServiceAccounts are signed by a key of their own and go on.
        assert_eq!(next.tokens, first.tokens);
    }

    #[test]
    fn a_certificate_that_no_longer_names_all_addresses_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::open(&Config::new(dir.path())).unwrap();
        let moved = Config { advertise_addresses: vec![IpAddr::from([192, 0, 2, 9])], ..Config::new(dir.path()) };
        let next = Pki::open(&moved).unwrap();
        assert_ne!(first.server().cert[0], next.server().cert[0]);
        assert_eq!(first.ca_pem, next.ca_pem);
    }
}
