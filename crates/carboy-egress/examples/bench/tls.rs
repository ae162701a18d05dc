//! Certificates of the bench, and the two ends of TLS: HTTP/1.1 alone, so that all peers speak the same.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Failure;

/// Names in the certificate of the upstream and of the bare proxy.
const NAMES: &[&str] = &["bench.example", "localhost"];

/// Makes an authority and one certificate: `ca.pem`, `leaf.pem` and `leaf.key` in `directory`.
pub fn make_certificates(directory: &Path) -> Result<(), Failure> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    // Its own name: OpenSSL takes a certificate whose issuer is called like itself for self-signed.
    ca.distinguished_name = DistinguishedName::new();
    ca.distinguished_name.push(DnType::CommonName, "carboy bench CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    std::fs::write(directory.join("ca.pem"), ca.self_signed(&ca_key)?.pem())?;
    let issuer = Issuer::new(ca, ca_key);
    let leaf_key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(NAMES.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    // OpenSSL's strict mode wants it.
    leaf.use_authority_key_identifier_extension = true;
    std::fs::write(directory.join("leaf.pem"), leaf.signed_by(&leaf_key, &issuer)?.pem())?;
    std::fs::write(directory.join("leaf.key"), leaf_key.serialize_pem())?;
    Ok(())
}

/// The server's side with the certificate in `directory`.
pub fn acceptor(directory: &Path) -> Result<TlsAcceptor, Failure> {
    let leaf = CertificateDer::from_pem_file(directory.join("leaf.pem"))?;
    let key = PrivateKeyDer::from_pem_file(directory.join("leaf.key"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The client's side: trusts what stands in `ca`, or else what programs on this system trust.
pub fn connector(ca: Option<&Path>) -> Result<TlsConnector, Failure> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => roots.add(CertificateDer::from_pem_file(file)?)?,
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
