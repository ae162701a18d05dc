//! The layers that judge rates and text, made once from an agent's file.

use std::sync::Arc;

use carboy_core::chat::{ChatPrompt, ChatSpec};
use carboy_guard::PatternError;
use carboy_guard::output::{OutputRules, ProtectedPrompt, RUN_WORDS, prompt_sections, redact};
use carboy_guard::override_rules::{Judgement, Rules};

use crate::audit::Record;
use crate::engine::{Asker, EngineError};
use crate::layers::grounds::Grounds;
use crate::layers::input::CleanText;
use crate::layers::limiter::{Admitted, Limited, Limiter, RuleId, Steady, address_key};
use crate::layers::reply::Checker;
use crate::outcome::Card;

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

    /// Counts a request at its person, its address and its session. People and sessions are called as in the log.
    pub(crate) fn admit(&self, asker: &Asker, record: &Record) -> Result<Admitted, Limited> {
        let address = asker.address.map(address_key);
        let person = record.subject.user_id.as_deref().unwrap_or_default();
        let mut keys = vec![(RuleId::UserPerHour, person), (RuleId::SessionPerMinute, record.session.as_str())];
        keys.extend(address.as_deref().map(|address| (RuleId::AddressPerMinute, address)));
        self.limiter.admit(&keys, self.steady.now_ms())
    }

    /// Why a tool did not do something, in its own words, where a reply could say them. Whoever made the tool may not be
    /// whoever answers for the words.
    pub(crate) fn words_of_a_tool<'t>(&self, text: &'t str, grounds: &Grounds) -> Option<&'t str> {
        let (_, redactions) = redact(&self.output, text, &|value| grounds.allows(value));
        (redactions.is_empty() && self.checker.check(text, grounds).is_valid()).then_some(text)
    }

    /// May a person read this on a card? It shows what a model wrote as it will be used, so nothing of it is overwritten:
    /// what may not be shown is not asked. What a person is called is theirs to see; a credential or the prompt is not.
    pub(crate) fn may_stand_on_a_card(&self, card: &Card, grounds: &Grounds) -> bool {
        let is_short = |value: &str| value.split_whitespace().count() < RUN_WORDS;
        let texts = card.rows.iter().flat_map(|(name, value)| [name, value]).chain([&card.title, &card.action]);
        texts
            .into_iter()
            .all(|text| redact(&self.output, text, &|value| is_short(value) || grounds.allows(value)).1.is_empty())
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
