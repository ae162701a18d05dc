//! The layers that judge rates and text, made once from an agent's file.

use std::sync::Arc;

use carboy_core::chat::{ChatPrompt, ChatSpec};
use carboy_guard::PatternError;
use carboy_guard::output::{OutputRules, ProtectedPrompt, prompt_sections};
use carboy_guard::override_rules::{Judgement, Rules};

use crate::audit::Record;
use crate::engine::{Asker, EngineError};
use crate::layers::input::CleanText;
use crate::layers::limiter::{Admitted, Limited, Limiter, RuleId, Steady, address_key};
use crate::layers::reply::Checker;
use crate::principal::PrincipalKind;

/// Every screen of one agent.
pub(crate) struct Screens {
    limiter: Limiter,
    steady: Steady,
    rules: Rules,
    /// What is overwritten in replies.
    pub(crate) output: Arc<OutputRules>,
    /// What replies keep to.
    pub(crate) checker: Checker,
}

impl Screens {
    pub(crate) fn new(spec: &ChatSpec) -> Result<Screens, EngineError> {
        let rules = Rules::new(&spec.screening.injection_patterns).map_err(pattern)?;
        let output = OutputRules::new(&spec.screening, protected(spec, &public(spec))).map_err(pattern)?;
        let checker = Checker::new(&spec.reply, &spec.prompt.refusal).map_err(pattern)?;
        let (limiter, steady) = (Limiter::new(&spec.limits), Steady::start());
        Ok(Screens { limiter, steady, rules, output: Arc::new(output), checker })
    }

    /// Counts a request at its person, its address and its session. People and sessions are called as in the log. Who is
    /// known by a session alone can be somebody new each time: the hour of their address holds for them too.
    pub(crate) fn admit(&self, asker: &Asker, record: &Record) -> Result<Admitted, Limited> {
        let address = asker.address.map(address_key);
        let person = record.subject.user_id.as_deref().unwrap_or_default();
        let mut keys = vec![(RuleId::UserPerHour, person), (RuleId::SessionPerMinute, record.session.as_str())];
        if let Some(address) = &address {
            keys.push((RuleId::AddressPerMinute, address));
            match asker.principal.kind {
                PrincipalKind::Anonymous => keys.push((RuleId::AddressPerHour, address)),
                PrincipalKind::Terminal | PrincipalKind::Verified => {}
            }
        }
        self.limiter.admit(&keys, self.steady.now_ms())
    }

    /// What the patterns say of a message.
    pub(crate) fn judge(&self, text: &CleanText) -> Judgement {
        self.rules.judge(text.as_str())
    }
}

/// Sections of a prompt that a reply may quote word for word: what is published anyway, and answers given as examples.
const PUBLIC_SECTIONS: &[&str] = &["return_policy", "policy", "policies", "examples"];

/// What a person may read of the prompt, and what takes the place of a reply.
pub(crate) fn public(spec: &ChatSpec) -> Vec<&str> {
    let ChatPrompt { system, reminder: _, long_reminder: _, refusal, fallback, hand_off } = &spec.prompt;
    let mut public = prompt_sections(system, PUBLIC_SECTIONS);
    public.extend([spec.title.as_str(), &spec.greeting, refusal, fallback, hand_off]);
    public
}

fn protected<'a>(spec: &'a ChatSpec, public: &'a [&'a str]) -> ProtectedPrompt<'a> {
    ProtectedPrompt { text: &spec.prompt.system, public }
}

fn pattern(error: PatternError) -> EngineError {
    EngineError::Pattern(error.to_string())
}
