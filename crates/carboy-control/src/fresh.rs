//! Secrets that are made for one run and known to nobody else: the key of the offline model, the password of a proxy.
//!
//! *Must never* be written to a file that others read, or outlive its run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use carboy_core::audit::hex;
use carboy_core::ids::SecretName;
use carboy_core::secret::SecretText;
use zeroize::Zeroizing;

use crate::authority::AuthorityError;
use crate::host_programs::Program;
use crate::vault::Lookup;

/// Random octets of one.
const SECRET_BYTES: usize = 32;

/// 64 hex digits, each as likely as every other.
pub(crate) fn random_text() -> Result<Zeroizing<String>, AuthorityError> {
    let mut bytes = Zeroizing::new([0_u8; SECRET_BYTES]);
    getrandom::fill(&mut *bytes).map_err(AuthorityError::Random)?;
    Ok(Zeroizing::new(hex(&*bytes)))
}

/// The host, with one variable more: a key that is made for one run, which the scanners then look for like every other one.
pub(crate) struct WithKey {
    lookup: Arc<dyn Lookup>,
    name: String,
    key: Arc<SecretText>,
}

impl WithKey {
    /// A fresh key under this name.
    pub(crate) fn fresh(lookup: Arc<dyn Lookup>, name: &SecretName) -> Result<WithKey, AuthorityError> {
        let key = Arc::new(SecretText::new(random_text()?.to_string()));
        Ok(WithKey { lookup, name: name.as_str().to_owned(), key })
    }

    pub(crate) fn key(&self) -> &Arc<SecretText> {
        &self.key
    }
}

impl Lookup for WithKey {
    fn variable(&self, name: &str) -> Option<OsString> {
        if name == self.name { Some(self.key.expose().into()) } else { self.lookup.variable(name) }
    }

    fn find(&self, name: &str) -> Result<Program, String> {
        self.lookup.find(name)
    }

    fn command(&self, argv: &[String], wait_max: Duration) -> Result<Vec<u8>, String> {
        self.lookup.command(argv, wait_max)
    }

    fn fenced(&self, never: &[PathBuf]) -> Arc<dyn Lookup> {
        let lookup = self.lookup.fenced(never);
        Arc::new(WithKey { lookup, name: self.name.clone(), key: self.key.clone() })
    }
}
