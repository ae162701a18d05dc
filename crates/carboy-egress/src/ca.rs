//! The certificate authority of this host and the leaf certificates it mints, one per name.
//!
//! The CA's key stays in this process (its file is 0600 and never in a bottle); leaves share one key that lives as
//! long as the process. *Must never* mint for anything but the server name of a connection that came from a bottle,
//! and never keep more leaves than `leaves_max`: the bottle chooses the names.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carboy_core::host::Host;
use carboy_core::secret::{Secret, SecretText};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider, sign};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use zeroize::Zeroize;

use crate::alpn::Alpn;

/// How far a leaf's life starts in the past: bottles may have a slow clock.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);
/// How far it reaches into the future; a leaf is replaced at half of this.
const AHEAD: Duration = Duration::from_secs(6 * 24 * 3600);
/// How long the CA itself is valid, and how far its life starts in the past: a machine whose clock was ahead when it was made
/// still trusts it once the clock is right.
const CA_AHEAD: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// When the life of every CA has begun: 2020, before any clock that is right.
const CA_SINCE_MS: u64 = 1_577_836_800_000;
/// TLS 1.2 sessions that are kept for resumption (TLS 1.3 uses tickets).
const SESSIONS_MAX: usize = 1024;
/// The CA's subject. It is the same for every CA, so that an issuer can be rebuilt from its key alone.
const CA_COMMON_NAME: &str = "carboy host CA";

/// Why the CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// rcgen refused.
    #[error("a certificate could not be made: {0}")]
    Mint(#[from] rcgen::Error),
    /// rustls refused.
    #[error("a certificate could not be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The file's text is not what `generate` gave.
    #[error("the CA certificate is not PEM; delete both CA files to have new ones made")]
    NotPem,
    /// Certificate and key are not a pair.
    #[error("the CA certificate and the CA key do not belong together; delete both files to have new ones made")]
    NotAPair,
    /// A CA from somewhere else.
    #[error("the CA certificate was not made by carboy; delete both CA files to have new ones made")]
    NotOurs,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandom,
}

/// Signs leaf certificates for intercepted connections.
pub struct CertificateAuthority {
    issuer: Issuer<'static, CaKey>,
    certificate: CertificateDer<'static>,
    pem: String,
    leaf_key: Arc<dyn rustls::sign::SigningKey>,
    leaf_public: CaKey,
}

/// A private key whose PKCS#8 bytes are overwritten when it goes. (ring keeps the bare scalar besides, and has no
/// way to overwrite it.)
struct CaKey(KeyPair);

impl Drop for CaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

/// The PEM texts of a fresh CA, for its two files.
pub struct CaFiles {
    /// The certificate; may be read by anybody.
    pub certificate_pem: String,
    /// The private key (PKCS#8); for a file with mode 0600.
    pub key_pem: SecretText,
}

impl CertificateAuthority {
    /// Makes a new CA (P-256), valid for ten years from `now_ms`.
    pub fn generate(now_ms: u64) -> Result<(CertificateAuthority, CaFiles), CaError> {
        let key = CaKey(KeyPair::generate()?);
        let mut params = ca_params();
        set_life(&mut params, CA_SINCE_MS.min(backdated(now_ms)), now_ms, CA_AHEAD);
        params.serial_number = Some(random_serial()?);
        let certificate_pem = params.self_signed(&key)?.pem();
        let key_pem = Secret::new(key.0.serialize_pem());
        let ca = CertificateAuthority::from_pem(&certificate_pem, &key_pem)?;
        Ok((ca, CaFiles { certificate_pem, key_pem }))
    }

    /// Reads what [`generate`](Self::generate) made.
    pub fn from_pem(certificate_pem: &str, key_pem: &SecretText) -> Result<CertificateAuthority, CaError> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|_| CaError::NotPem)?;
        let key = CaKey(KeyPair::from_pem(key_pem.expose())?);
        let signer = signing_key(&key)?;
        if CertifiedKey::new(vec![certificate.clone()], signer).keys_match().is_err() {
            return Err(CaError::NotAPair);
        }
        // Leaves name their issuer as `ca_params` does; under another subject no client would find the chain.
        if !certificate.windows(CA_COMMON_NAME.len()).any(|window| window == CA_COMMON_NAME.as_bytes()) {
            return Err(CaError::NotOurs);
        }
        let leaf_public = CaKey(KeyPair::generate()?);
        Ok(CertificateAuthority {
            issuer: Issuer::new(ca_params(), key),
            certificate,
            pem: certificate_pem.to_owned(),
            leaf_key: signing_key(&leaf_public)?,
            leaf_public,
        })
    }

    /// The CA's certificate as PEM, for the bottle's trust stores.
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// The CA's certificate as DER.
    pub fn ca_der(&self) -> &[u8] {
        &self.certificate
    }

    /// A certificate for `host` with its key and chain, valid from a day ago for a week in all.
    pub fn mint(&self, host: &Host, now_ms: u64) -> Result<CertifiedKey, CaError> {
        let mut params = CertificateParams::default();
        set_life(&mut params, backdated(now_ms), now_ms, AHEAD);
        params.serial_number = Some(random_serial()?);
        params.distinguished_name = DistinguishedName::new();
        let text = host.to_string();
        // X.520 bounds a common name at 64 characters; the alternative name below is what clients look at.
        if text.len() <= 64 {
            params.distinguished_name.push(DnType::CommonName, text.clone());
        }
        params.subject_alt_names = vec![match host.as_ip() {
            Some(ip) => SanType::IpAddress(ip),
            None => SanType::DnsName(text.try_into()?),
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&self.leaf_public, &self.issuer)?;
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        Ok(CertifiedKey::new(chain, self.leaf_key.clone()))
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CA_COMMON_NAME);
    params.distinguished_name.push(DnType::OrganizationName, "carboy");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Is a leaf of then still far from both ends of its life? The clock may have been set back since.
fn is_fresh(minted_ms: u64, now_ms: u64) -> bool {
    let half = |span: Duration| span.as_millis() as u64 / 2;
    match now_ms.checked_sub(minted_ms) {
        Some(age) => age < half(AHEAD),
        None => minted_ms - now_ms < half(BACKDATED),
    }
}

fn set_life(params: &mut CertificateParams, since_ms: u64, now_ms: u64, ahead: Duration) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(since_ms);
    params.not_after = epoch + Duration::from_millis(now_ms) + ahead;
}

fn backdated(now_ms: u64) -> u64 {
    now_ms.saturating_sub(BACKDATED.as_millis() as u64)
}

fn random_serial() -> Result<SerialNumber, CaError> {
    let mut serial = [0_u8; 16];
    getrandom::fill(&mut serial).map_err(|_| CaError::NoRandom)?;
    // Positive, and 20 bytes at most (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

fn signing_key(key: &CaKey) -> Result<Arc<dyn rustls::sign::SigningKey>, CaError> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.0.serialized_der()));
    Ok(sign::any_ecdsa_type(&der)?)
}

/// TLS configurations for the bottle's side of a connection, by server name and protocol, with what resumption
/// needs shared between them.
pub(crate) struct Leaves {
    authority: Arc<CertificateAuthority>,
    provider: Arc<CryptoProvider>,
    sessions: Arc<dyn StoresServerSessions>,
    ticketer: Arc<dyn ProducesTickets>,
    leaves_max: usize,
    kept: Mutex<Kept>,
}

type LeafKey = (Host, Option<Alpn>);

#[derive(Default)]
struct Kept {
    configs: HashMap<LeafKey, (Arc<ServerConfig>, u64)>,
    oldest_first: VecDeque<LeafKey>,
}

impl Leaves {
    pub(crate) fn new(authority: Arc<CertificateAuthority>, leaves_max: usize) -> Result<Leaves, CaError> {
        Ok(Leaves {
            authority,
            provider: Arc::new(default_provider()),
            sessions: ServerSessionMemoryCache::new(SESSIONS_MAX),
            ticketer: Ticketer::new()?,
            leaves_max,
            kept: Mutex::default(),
        })
    }

    /// The configuration that presents a leaf for `host` and speaks `alpn` (`None`: no ALPN extension).
    pub(crate) fn config(&self, host: &Host, alpn: Option<Alpn>, now_ms: u64) -> Result<Arc<ServerConfig>, CaError> {
        let key = (host.clone(), alpn);
        if let Some((config, minted_ms)) = self.kept.lock().expect("no panic under this lock").configs.get(&key)
            && is_fresh(*minted_ms, now_ms)
        {
            return Ok(config.clone());
        }
        // Minted outside the lock: two connections that race mint twice, and the later one is kept.
        let config = self.build(host, alpn, now_ms)?;
        let mut kept = self.kept.lock().expect("no panic under this lock");
        if kept.configs.insert(key.clone(), (config.clone(), now_ms)).is_none() {
            kept.oldest_first.push_back(key);
        }
        while kept.oldest_first.len() > self.leaves_max {
            if let Some(oldest) = kept.oldest_first.pop_front() {
                kept.configs.remove(&oldest);
            }
        }
        Ok(config)
    }

    fn build(&self, host: &Host, alpn: Option<Alpn>, now_ms: u64) -> Result<Arc<ServerConfig>, CaError> {
        let leaf = self.authority.mint(host, now_ms)?;
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
        config.alpn_protocols = alpn.iter().map(|alpn| alpn.wire().to_vec()).collect();
        config.session_storage = self.sessions.clone();
        config.ticketer = self.ticketer.clone();
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn a_ca_comes_back_from_its_files_and_only_with_its_own_key() {
        let (ca, files) = CertificateAuthority::generate(NOW).unwrap();
        let again = CertificateAuthority::from_pem(&files.certificate_pem, &files.key_pem).unwrap();
        assert_eq!(again.ca_pem(), ca.ca_pem());
        let (_, other) = CertificateAuthority::generate(NOW).unwrap();
        let mixed = CertificateAuthority::from_pem(&files.certificate_pem, &other.key_pem);
        assert!(matches!(mixed, Err(CaError::NotAPair)));
    }

    #[test]
    fn leaves_are_kept_up_to_the_bound_and_replaced_at_half_their_life() {
        let (ca, _) = CertificateAuthority::generate(NOW).unwrap();
        let leaves = Leaves::new(Arc::new(ca), 2).unwrap();
        let host = |text| Host::parse(text).unwrap();
        let first = leaves.config(&host("a.example"), Some(Alpn::H2), NOW).unwrap();
        assert!(Arc::ptr_eq(&first, &leaves.config(&host("a.example"), Some(Alpn::H2), NOW + 1).unwrap()));
        let later = leaves.config(&host("a.example"), Some(Alpn::H2), NOW + 3 * 24 * 3_600_000).unwrap();
        assert!(!Arc::ptr_eq(&first, &later));
        // The clock was set back: the life of the one that is kept begins tomorrow.
        let hour = 3_600_000;
        let kept = leaves.config(&host("a.example"), Some(Alpn::H2), NOW + 3 * 24 * hour - 6 * hour).unwrap();
        assert!(Arc::ptr_eq(&later, &kept));
        let back = leaves.config(&host("a.example"), Some(Alpn::H2), NOW + 24 * hour).unwrap();
        assert!(!Arc::ptr_eq(&later, &back));
        leaves.config(&host("b.example"), None, NOW).unwrap();
        leaves.config(&host("192.0.2.1"), None, NOW).unwrap();
        assert_eq!(leaves.kept.lock().unwrap().configs.len(), 2);
    }
}
