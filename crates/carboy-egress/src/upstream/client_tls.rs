//! TLS configurations for the way out: the platform's roots, and the operator's extra CA where one is named.
//!
//! *Must never* turn a check off. There is no such option.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;

use crate::alpn::Offer;

/// Sessions that are kept for resumption per configuration.
const SESSIONS_MAX: usize = 256;

/// Extra CA and ALPN offer.
type Wanted = (Option<String>, Offer);

/// Configurations by extra CA and ALPN offer. Both come from settings and from a two-bit set: the table is bounded.
#[derive(Default)]
pub(crate) struct ClientTls {
    platform: OnceCell<Arc<RootCertStore>>,
    configs: Mutex<HashMap<Wanted, Arc<ClientConfig>>>,
}

impl ClientTls {
    /// The configuration for one connection; sessions are resumed among connections with the same one.
    pub(crate) async fn config(&self, extra_pem: Option<&str>, offer: Offer) -> Result<Arc<ClientConfig>, String> {
        let key = (extra_pem.map(str::to_owned), offer);
        if let Some(config) = self.configs.lock().expect("no panic under this lock").get(&key) {
            return Ok(config.clone());
        }
        let platform = self.platform.get_or_init(platform_roots).await;
        let roots = match extra_pem {
            None => platform.clone(),
            Some(pem) => {
                let mut roots = RootCertStore::clone(platform);
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    let certificate =
                        certificate.map_err(|e| format!("the extra CA in `upstreams` is not PEM: {e}"))?;
                    roots.add(certificate).map_err(|e| format!("the extra CA in `upstreams` cannot be used: {e}"))?;
                }
                Arc::new(roots)
            }
        };
        if roots.is_empty() {
            return Err("the platform has no root certificates: install `ca-certificates`".to_owned());
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = offer.wire();
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        let config = Arc::new(config);
        self.configs.lock().expect("no panic under this lock").insert(key, config.clone());
        Ok(config)
    }
}

/// Read once, at the first TLS connection: it takes milliseconds that the start of a bottle should not pay.
/// `SSL_CERT_FILE` and `SSL_CERT_DIR` of the supervisor are honoured.
async fn platform_roots() -> Arc<RootCertStore> {
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let mut roots = RootCertStore::empty();
    if let Ok(loaded) = loaded {
        // Platforms carry a few certificates that no strict parser takes; those vouch for nobody here.
        roots.add_parsable_certificates(loaded.certs);
    }
    Arc::new(roots)
}
