//! The simulated provider's own certificate authority and the one certificate it signs.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::Alpn;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A name that no certificate can carry.
    #[error("the certificate cannot be made: {0}; look at the names in the configuration")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused the certificate.
    #[error("the TLS listener cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// The acceptor, and the PEM text of the authority that a client has to trust.
pub(crate) fn acceptor(names: &[String], alpn: Alpn) -> Result<(TlsAcceptor, String), TlsError> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name = named("carboy simulated provider CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let own = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut leaf = CertificateParams::new(own.into_iter().chain(names.iter().cloned()).collect::<Vec<_>>())?;
    leaf.distinguished_name = named("carboy simulated provider");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Python's strict mode wants it.
    leaf.use_authority_key_identifier_extension = true;
    let leaf_key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&leaf_key, &issuer)?;

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    let offered: &[&[u8]] = match alpn {
        Alpn::Both => &[b"h2", b"http/1.1"],
        Alpn::Http1Only => &[b"http/1.1"],
        Alpn::Http2Only => &[b"h2"],
    };
    config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
    Ok((TlsAcceptor::from(Arc::new(config)), ca_pem))
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}
