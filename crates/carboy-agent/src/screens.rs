//! The layers that judge rates and text, made once from an agent's file.

use carboy_core::chat::ChatSpec;
use carboy_guard::PatternError;
use carboy_guard::override_rules::{Judgement, Rules};

use crate::audit::Record;
use crate::engine::{Asker, EngineError};
use crate::layers::input::CleanText;
use crate::layers::limiter::{Admitted, Limited, Limiter, RuleId, Steady, address_key};

/// Every screen of one agent.
pub(crate) struct Screens {
    limiter: Limiter,
    steady: Steady,
    rules: Rules,
}

impl Screens {
    pub(crate) fn new(spec: &ChatSpec) -> Result<Screens, EngineError> {
        let rules = Rules::new(&spec.screening.injection_patterns).map_err(pattern)?;
        Ok(Screens { limiter: Limiter::new(&spec.limits), steady: Steady::start(), rules })
    }

    /// Counts a request at its person, its address and its session. People and sessions are called as in the log.
    pub(crate) fn admit(&self, asker: &Asker, record: &Record) -> Result<Admitted, Limited> {
        let address = asker.address.map(address_key);
        let person = record.subject.user_id.as_deref().unwrap_or_default();
        let mut keys = vec![(RuleId::UserPerHour, person), (RuleId::SessionPerMinute, record.session.as_str())];
        keys.extend(address.as_deref().map(|address| (RuleId::AddressPerMinute, address)));
        self.limiter.admit(&keys, self.steady.now_ms())
    }

    /// What the patterns say of a message.
    pub(crate) fn judge(&self, text: &CleanText) -> Judgement {
        self.rules.judge(text.as_str())
    }
}

fn pattern(error: PatternError) -> EngineError {
    EngineError::Pattern(error.to_string())
}
