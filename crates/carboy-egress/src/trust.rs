//! What makes programs in a bottle trust the gateway: the CA's certificate in the places and variables where they look.
//!
//! The stores hold this one certificate and nothing else: inside a bottle no other issuer can be met, and a program
//! that pins the public ones would only find out later that it is intercepted. The CA's *key* has no way in here.

use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha1::{Digest, Sha1};

/// Where the certificate always stands inside a bottle; the variables name it.
pub const CA_FILE: &str = "/etc/carboy/ca.pem";
/// Where the Java trust store always stands inside a bottle.
pub const JAVA_STORE_FILE: &str = "/etc/carboy/cacerts.jks";
/// The password of Java's own trust stores since their beginning; it guards nothing.
pub const JAVA_STORE_PASSWORD: &str = "changeit";

/// System bundles that are overlaid where the host has them.
const PEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Arch
    "/etc/ssl/cert.pem",                                 // Alpine, OpenSSL's default name
    "/etc/ssl/ca-bundle.pem",                            // SUSE
    "/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL
    "/etc/pki/tls/cert.pem",                             // the same, OpenSSL's default name
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // the file behind both
];

/// Java's system trust stores, overlaid where the host has them.
const JAVA_STORES: &[&str] =
    &["/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts", "/etc/pki/ca-trust/extracted/java/cacerts"];

/// The variables that TLS libraries and tools read (OpenSSL and rustls, Node, Python, curl, git, cargo, AWS, Deno,
/// pip, gRPC).
const VARIABLES: &[&str] = &[
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
    "PIP_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];

/// Files to show inside, by absolute path. The first two always; the others replace a file that the host has at that
/// path and are left out where it has none.
pub fn trust_files(ca_pem: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let store = java_store(ca_pem);
    let pem = [CA_FILE].iter().chain(PEM_BUNDLES).map(|path| (PathBuf::from(path), ca_pem.as_bytes().to_vec()));
    let java = [JAVA_STORE_FILE].iter().chain(JAVA_STORES).map(|path| (PathBuf::from(path), store.clone()));
    let mut files: Vec<_> = pem.chain(java).collect();
    files.sort_by_key(|(path, _)| !path.starts_with("/etc/carboy"));
    files
}

/// Variables to set inside.
pub fn trust_env() -> Vec<(&'static str, String)> {
    VARIABLES.iter().map(|name| (*name, CA_FILE.to_owned())).collect()
}

/// A Java key store of the classic kind (JKS) with one trusted certificate. Every Java since 1.2 reads it, whatever
/// its default type; a PKCS#12 store without encryption needs Java 18, and with it a pile of ASN.1 and old ciphers.
/// Layout: `sun.security.provider.JavaKeyStore`; integers are big-endian, texts are UTF with a 16-bit length.
fn java_store(ca_pem: &str) -> Vec<u8> {
    const MAGIC: u32 = 0xfeed_feed;
    const VERSION: u32 = 2;
    const TRUSTED_CERTIFICATE: u32 = 2;
    // A fixed date: the store is the same bytes for the same CA.
    const CREATED_MS: u64 = 1_577_836_800_000;
    let Ok(certificate) = CertificateDer::from_pem_slice(ca_pem.as_bytes()) else {
        // Without a certificate there is nothing to trust; Java then trusts nothing.
        return Vec::new();
    };
    let mut out = Vec::with_capacity(certificate.len() + 64);
    for word in [MAGIC, VERSION, 1, TRUSTED_CERTIFICATE] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    push_text(&mut out, "carboy");
    out.extend_from_slice(&CREATED_MS.to_be_bytes());
    push_text(&mut out, "X.509");
    out.extend_from_slice(&(certificate.len() as u32).to_be_bytes());
    out.extend_from_slice(&certificate);
    // The integrity check: SHA-1 over the password in UTF-16, a salt that is part of the format, and the store.
    let mut check = Sha1::new();
    for unit in JAVA_STORE_PASSWORD.encode_utf16() {
        check.update(unit.to_be_bytes());
    }
    check.update(b"Mighty Aphrodite");
    check.update(&out);
    out.extend_from_slice(&check.finalize());
    out
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::CertificateAuthority;

    #[test]
    fn every_place_gets_the_certificate_and_no_place_gets_the_key() {
        let (ca, files) = CertificateAuthority::generate(1_800_000_000_000).unwrap();
        let key = files.key_pem.expose().as_bytes();
        for (path, bytes) in trust_files(ca.ca_pem()) {
            let java = path.to_string_lossy().contains("cacerts");
            let want = if java { ca.ca_der() } else { ca.ca_pem().as_bytes() };
            assert!(bytes.windows(want.len()).any(|w| w == want), "{path:?}");
            assert!(!bytes.windows(40).any(|w| w == &key[40..80]), "{path:?}");
        }
        assert!(trust_env().iter().all(|(_, path)| path == CA_FILE));
    }
}
