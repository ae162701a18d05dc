//! The plane under a run without a bottle, a chat agent's or a proxy's: its log, its secrets, its ledger, and the gateway
//! that everything goes through (U1, U2).
//!
//! *Must never* make a gateway that holds a key before this process is protected, or one whose log or ledger is not there.

use std::path::PathBuf;
use std::sync::Arc;

use carboy_core::audit::{ChainKey, Subject};
use carboy_core::ids::RunId;
use carboy_core::ports::{Clock, SecretSource};
use carboy_egress::{Gateway, GatewayConfig, Learning};
use carboy_manifest::Effective;
use carboy_store::audit::AuditLog;
use carboy_store::controller::ClientEvents;

use crate::authority::{self, AuthorityError};
use crate::clock::SystemClock;
use crate::descriptors;
use crate::home::Home;
use crate::notify::{DESKTOP_PROGRAM, LookedFor, Notifier, Notifying};
use crate::registry::RunRecord;
use crate::session::{First, Session};
use crate::supervisor::keeping::Kept;
use crate::supervisor::secrets::{detectors, look_for_renewed, undumpable};
use crate::supervisor::{Keeping, RunError, new_run_id};
use crate::vault::{Lookup, Vault};

/// What it is laid from.
pub(crate) struct Laying<'a> {
    /// `CARBOY_HOME`.
    pub(crate) home: &'a Home,
    /// What may be reached and spent.
    pub(crate) effective: &'a Effective,
    /// Environment and commands of the host.
    pub(crate) lookup: &'a Arc<dyn Lookup>,
    /// Who keeps its ledger.
    pub(crate) keeping: Keeping,
    /// Whose run it is, where an agent was named.
    pub(crate) agent: Option<String>,
    /// How log entries are hashed.
    pub(crate) audit_key: ChainKey,
    /// The log.
    pub(crate) audit_log: PathBuf,
}

/// See the module.
pub(crate) struct Plane {
    pub(crate) run: RunId,
    pub(crate) started_ms: u64,
    pub(crate) subject: Subject,
    pub(crate) audit: Arc<AuditLog>,
    pub(crate) vault: Arc<Vault>,
    pub(crate) ca_pem: String,
    fingerprint_key: [u8; 32],
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) kept: Kept,
    pub(crate) pushes: Option<ClientEvents>,
}

impl Plane {
    /// Opens the log, reads the secrets, and makes the gateway with its ledger.
    pub(crate) async fn lay<E: From<RunError>>(
        laying: Laying<'_>,
        secrets: impl FnOnce() -> Result<Vault, E>,
    ) -> Result<Plane, E> {
        let started_ms = SystemClock.now_ms();
        let run = new_run_id()?;
        let authority = authority::load_or_make(laying.home, started_ms).map_err(RunError::from)?;
        let ca_pem = authority.ca_pem().to_owned();
        undumpable()?;
        let subject = Subject {
            user_id: None,
            agent: laying.agent,
            bottle: Some(laying.effective.bottle.to_string()),
            run: Some(run.to_string()),
        };
        let audit = AuditLog::open(&laying.audit_log, laying.audit_key, Arc::new(SystemClock));
        let audit = Arc::new(audit.map_err(|e| RunError::Audit(e.to_string()))?);
        let vault = Arc::new(secrets()?);
        let fingerprint_key = authority::fingerprint_key(laying.home).map_err(RunError::from)?;
        let looked_for = Arc::new(detectors(fingerprint_key, &vault)?);
        let around = (laying.home, laying.lookup);
        let (kept, pushes) = Kept::open(laying.keeping, around, laying.effective, &run).await?;
        let gateway = Gateway::new(GatewayConfig {
            subject: subject.clone(),
            routes: laying.effective.routes.clone(),
            upstreams: laying.effective.settings.upstreams.clone(),
            ca: Arc::new(authority),
            detectors: looked_for,
            secrets: vault.clone() as Arc<dyn SecretSource>,
            audit: audit.clone(),
            ledger: kept.ledger(),
            clock: Arc::new(SystemClock),
            learning: Learning::Off,
            limits: descriptors::gateway_limits(),
        });
        let gateway = gateway.map_err(|e| RunError::from(AuthorityError::from(e)))?;
        look_for_renewed(&vault, &gateway, fingerprint_key);
        Ok(Plane { run, started_ms, subject, audit, vault, ca_pem, fingerprint_key, gateway, kept, pushes })
    }

    /// The secrets of this run as they are known whenever it is asked; `None` where nobody can tell.
    pub(crate) fn looked_for(&self) -> LookedFor {
        let (known, fingerprint_key) = (self.vault.clone(), self.fingerprint_key);
        Box::new(move || detectors(fingerprint_key, &known).ok())
    }

    /// What calls the operator when nobody is there.
    pub(crate) fn notifier(
        &self,
        effective: &Effective,
        lookup: &Arc<dyn Lookup>,
        record: &RunRecord,
    ) -> Arc<Notifier> {
        let settings = effective.settings.notify.value.clone();
        let token = settings.webhook.as_ref().and_then(|webhook| webhook.token.as_ref());
        Notifier::open(Notifying {
            looked_for: self.looked_for(),
            token: token.and_then(|name| self.vault.current(name)),
            settings,
            upstreams: effective.settings.upstreams.clone(),
            record: record.clone(),
            started_at: None,
            lookup: lookup.clone(),
            desktop: lookup.find(DESKTOP_PROGRAM),
            audit: self.audit.clone(),
            subject: self.subject.clone(),
        })
    }
}

/// Those who wait for the end wait here; there is no program and no terminal.
pub(crate) fn nobodys_session() -> Result<Arc<Session>, RunError> {
    let parts = crate::session::Parts {
        stdio: None,
        first: First::Nobody,
        keep_in: None,
        resize: Box::new(|_, _| {}),
        signal: Box::new(|_| {}),
        hear: Box::new(|_| {}),
        size: (0, 0),
    };
    Session::open(parts).map_err(|source| RunError::System { what: "hold those who wait", source })
}
