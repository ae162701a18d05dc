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
use crate::layers::limiter::{Admitted, Because, Limited, Limiter, RuleId, Steady, Window, address_key};
use crate::layers::reply::Checker;
use crate::metrics::Counter;
use crate::outcome::{Card, TurnError};
use crate::principal::PrincipalKind;
use crate::repeats::{Key, Note, Repeats};

/// Which rates a request counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rates {
    /// All of them: it may cost something.
    All,
    /// Those of a minute: whoever has had their hour may still be forgotten.
    OfTheMinute,
    /// That of the address and the minute: its turn was counted when it began.
    OfTheAddress,
}

impl Rates {
    /// People and sessions are called as in the log. Who is known by a session alone can be somebody new each time: the hour
    /// of their address holds for them too.
    fn keys<'k>(self, asker: &Asker, record: &'k Record, address: Option<&'k str>) -> Vec<(RuleId, &'k str)> {
        let person = record.subject.user_id.as_deref().unwrap_or_default();
        let hour_of_address = match asker.principal.kind {
            PrincipalKind::Anonymous => address,
            PrincipalKind::Terminal | PrincipalKind::Verified => None,
        };
        let keys = [
            (RuleId::UserPerHour, Some(person)),
            (RuleId::SessionPerMinute, Some(record.session.as_str())),
            (RuleId::AddressPerMinute, address),
            (RuleId::AddressPerHour, hour_of_address),
        ];
        let count = |rule: RuleId| match self {
            Rates::All => true,
            Rates::OfTheMinute => rule.window() == Window::Minute,
            Rates::OfTheAddress => rule == RuleId::AddressPerMinute,
        };
        keys.into_iter().filter(|(rule, _)| count(*rule)).filter_map(|(rule, key)| Some((rule, key?))).collect()
    }
}

/// What of a refusal comes again when the same one asks again.
fn repeating(limited: &Limited, keys: &[(RuleId, &str)]) -> Key {
    let key = keys.iter().find(|(rule, _)| *rule == limited.rule).map(|(_, key)| *key).unwrap_or_default();
    match limited.because {
        Because::Quota => Key::Of(limited.rule, key.to_owned()),
        Because::Keys => Key::NoRoom(limited.rule),
    }
}

/// Every screen of one agent.
pub(crate) struct Screens {
    limiter: Limiter,
    steady: Steady,
    repeats: Repeats,
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
        let repeats = Repeats::new();
        Ok(Screens { limiter, steady, repeats, rules, output: Arc::new(output), checker })
    }

    /// Counts a request at its keys, or writes down that one of them has had its requests.
    pub(crate) async fn admit(&self, asker: &Asker, record: &Record, rates: Rates) -> Result<Admitted, TurnError> {
        let address = asker.address.map(address_key);
        let keys = rates.keys(asker, record, address.as_deref());
        let limited = match self.limiter.admit(&keys, self.steady.now_ms()) {
            Ok(admitted) => {
                keys.iter().for_each(|(rule, key)| self.repeats.admitted(*rule, key));
                return Ok(admitted);
            }
            Err(limited) => limited,
        };
        record.metrics.count(Counter::RateLimitExceeded);
        let key = repeating(&limited, &keys);
        match self.repeats.note(key.clone(), record) {
            Note::Counted => {}
            Note::Write => {
                record.rate_limited(&limited).await.inspect_err(|_| self.repeats.unwritten(&key))?;
            }
        }
        Err(limited.into())
    }

    /// Writes down how many more requests were beyond a limit than have entries of their own.
    pub(crate) fn settle(&self) {
        self.repeats.settle();
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
