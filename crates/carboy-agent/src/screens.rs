//! The layers that judge rates and text, made once from an agent's file.

use carboy_core::chat::ChatSpec;

use crate::audit::Record;
use crate::engine::{Asker, EngineError};
use crate::layers::input::CleanText;
use crate::layers::limiter::{Admitted, Limited, Limiter, RuleId, Steady, address_key};

/// Every screen of one agent.
pub(crate) struct Screens {
    limiter: Limiter,
    steady: Steady,
}

pub(crate) struct Judgement { pub(crate) confidence_percent: u8, pub(crate) patterns: Vec<String> }

impl Screens {
    pub(crate) fn new(spec: &ChatSpec) -> Result<Screens, EngineError> {
        Ok(Screens { limiter: Limiter::new(&spec.limits), steady: Steady::start() })
    }

    /// Counts a request at its person, its address and its session. People and sessions are called as in the log.
    pub(crate) fn admit(&self, asker: &Asker, record: &Record) -> Result<Admitted, Limited> {
        let address = asker.address.map(address_key);
        let person = record.subject.user_id.as_deref().unwrap_or_default();
        let mut keys = vec![(RuleId::UserPerHour, person), (RuleId::SessionPerMinute, record.session.as_str())];
        keys.extend(address.as_deref().map(|address| (RuleId::AddressPerMinute, address)));
        self.limiter.admit(&keys, self.steady.now_ms())
    }

    pub(crate) fn judge(&self, text: &CleanText) -> Judgement {
        let _ = text; Judgement { confidence_percent: 0, patterns: Vec::new() }
    }
}
