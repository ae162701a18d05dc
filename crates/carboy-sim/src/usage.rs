//! What an answer costs: as much as its words, or a random usage within the bounds that the request set.
//!
//! A random usage is the adversary of whoever meters: input anywhere up to what the bytes can hold, split between plain,
//! written to the cache and read from it; thinking that nobody sees; compaction that stands in `iterations[]` alone; an
//! answer as long as the cap that was *received* allows. Everything follows from the seed and the request's serial number.
//!
//! *Must never* generate more than the cap it received, or write to a cache that the request did not ask for.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::cache::{PromptCache, Split};
use crate::count::{Bill, Cost, tokens};
use crate::script::{Answer, Ended, Reply};

/// How much an answer costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UsageMode {
    /// Bytes divided by four; nothing cached, nothing hidden.
    #[default]
    Fixed,
    /// Bytes divided by four of what a model reads; what an earlier request wrote to the cache is read from it.
    Cached,
    /// Any usage that the request allows.
    Random(RandomUsage),
}

/// Which random usages there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RandomUsage {
    /// Everything follows from it.
    pub seed: u64,
    /// How many tokens a request's text has.
    pub input: InputTokens,
    /// Whether some of the output is thinking that is not shown.
    pub thinking: Thinking,
    /// How fast that is written.
    pub thinking_tokens_per_s: u64,
    /// How the usage is told; one of them for each answer. Empty is [`Shown::AtEnd`].
    pub shown: Vec<Shown>,
    /// The longest answer where the cap leaves it open.
    pub output_tokens_max: u64,
}

/// How many tokens a request's text has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputTokens {
    /// A quarter of its body's bytes.
    Quarter,
    /// Depending on the text, a quarter to five quarters of the bytes of what a model reads of it: the most that was found
    /// for any tokenizer. The count endpoints are off by as much as 1 in 128 or 32 tokens, whichever is more.
    UpToBound,
}

/// Whether some of the output is thinking that is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// Up to half of it.
    Hidden,
    /// None.
    None,
}

/// How the usage is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Where the provider documents it.
    AtEnd,
    /// Zeros wherever it could stand before the end, the real figures there.
    ZeroThenReal,
    /// In several events, each with what it was until then, before the last.
    Repeated,
    /// Nowhere.
    Missing,
}

impl RandomUsage {
    /// All of it but the missing usage, which has to be asked for.
    pub fn seeded(seed: u64) -> RandomUsage {
        RandomUsage {
            seed,
            input: InputTokens::UpToBound,
            thinking: Thinking::Hidden,
            thinking_tokens_per_s: 1_500,
            shown: vec![Shown::AtEnd, Shown::ZeroThenReal, Shown::Repeated],
            output_tokens_max: 32_000,
        }
    }
}

impl UsageMode {
    pub(crate) fn seed(&self) -> u64 {
        match self {
            UsageMode::Fixed | UsageMode::Cached => 0,
            UsageMode::Random(random) => random.seed,
        }
    }
}

impl UsageMode {
    /// How long a model thinks to write so many tokens unseen.
    pub(crate) fn thinks_for(&self, hidden: u64) -> Duration {
        match self {
            UsageMode::Fixed | UsageMode::Cached => Duration::ZERO,
            UsageMode::Random(random) => Duration::from_millis(hidden * 1000 / random.thinking_tokens_per_s.max(1)),
        }
    }
}

/// Earlier responses that are remembered; the oldest are forgotten.
const CONTEXTS_MAX: usize = 4096;

/// What is remembered of earlier requests: how many tokens each response holds, question and answer together, and the cache.
#[derive(Debug, Default)]
pub(crate) struct Contexts {
    kept: Mutex<VecDeque<(String, u64)>>,
    /// What was written to the cache of prompts.
    pub cache: PromptCache,
}

impl Contexts {
    pub fn keep(&self, id: String, tokens: u64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == CONTEXTS_MAX {
            kept.pop_front();
        }
        kept.push_back((id, tokens));
    }

    pub fn of(&self, id: &str) -> Option<u64> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().find(|(known, _)| known == id).map(|(_, tokens)| *tokens)
    }
}

/// Random numbers that are the same for the same seed (SplitMix64).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, serial: u64) -> Dice {
        let mut dice = Dice(seed ^ serial.wrapping_mul(0xd1b5_4a32_d192_ed03));
        dice.next();
        dice
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `most`, both included.
    pub fn up_to(&mut self, most: u64) -> u64 {
        let number = self.next();
        most.checked_add(1).map_or(number, |count| number % count)
    }
}

/// What a request asks for, as far as it bears on the cost.
pub(crate) struct Wants<'a> {
    pub request: &'a Map<String, Value>,
    pub body_bytes: usize,
    /// Of each answer.
    pub cap: Option<u64>,
    pub answers: u32,
    /// May some of the input be written to a cache?
    pub writes_cache: bool,
    /// Does it ask for a compaction?
    pub compacts: bool,
    /// May some of the output be thinking? Anthropic's models have to be told to, others think when they please.
    pub thinks: bool,
    /// What an earlier conversation adds to the input.
    pub earlier: u64,
    /// What of the input is cached, where that is looked at.
    pub cached: Option<Split>,
}

/// What will be generated, and what it costs.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// At least one.
    pub answers: Vec<Answer>,
    pub usage: Figures,
}

/// The figures that the answer tells, in tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Of the answer itself: input, cache and output; `requests` is not used.
    pub bill: Bill,
    /// Part of the output, not shown.
    pub thinking: u64,
    /// Beside all that, in `iterations[]` alone.
    pub compaction: Option<Bill>,
    /// How they are told; `None` is a fixed usage, told in the plainest way.
    pub random: Option<Telling>,
}

/// How a random usage is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Telling {
    pub shown: Shown,
    /// For padding.
    pub salt: u64,
}

impl Figures {
    /// Everything that is read.
    pub fn read(&self) -> u64 {
        self.bill.input + self.bill.cache_write + self.bill.cache_read
    }

    pub fn cost(&self) -> Cost {
        let mut before = Bill { output: 0, requests: 0, ..self.bill };
        if let Some(compaction) = &self.compaction {
            before.add(compaction);
        }
        Cost { before, output: self.bill.output }
    }
}

/// What the keys hold that a model reads; the others steer it.
const READ: [&str; 10] = [
    "messages",
    "system",
    "tools",
    "input",
    "instructions",
    "contents",
    "systemInstruction",
    "prompt",
    "generateContentRequest",
    "functions",
];

/// Input tokens of a request's text.
pub(crate) fn input_tokens(mode: &UsageMode, request: &Map<String, Value>, body_bytes: usize) -> u64 {
    match mode {
        UsageMode::Random(RandomUsage { seed, input: InputTokens::UpToBound, .. }) => {
            let inner = request.get("generateContentRequest").and_then(Value::as_object).unwrap_or(request);
            let read: Vec<String> = READ.iter().filter_map(|key| inner.get(*key)).map(Value::to_string).collect();
            let text = read.concat();
            let hash = text.bytes().fold(*seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            // 64 to 320 of 256: a quarter to five quarters.
            let factor = 64 + Dice::new(hash, 0).up_to(256);
            (text.len() as u64 * factor / 256).max(1)
        }
        UsageMode::Fixed | UsageMode::Cached | UsageMode::Random(_) => tokens(body_bytes as u64),
    }
}

/// What a count endpoint says: near it, as those of real providers.
pub(crate) fn counted_tokens(mode: &UsageMode, request: &Map<String, Value>, body_bytes: usize) -> u64 {
    let real = input_tokens(mode, request, body_bytes);
    match mode {
        UsageMode::Random(RandomUsage { seed, input: InputTokens::UpToBound, .. }) => {
            real - Dice::new(*seed, real).up_to((real / 128).max(32).min(real - 1))
        }
        UsageMode::Fixed | UsageMode::Cached | UsageMode::Random(_) => real,
    }
}

/// Decides what is generated for this request.
pub(crate) fn plan(mode: &UsageMode, serial: u64, reply: Reply, wants: &Wants<'_>) -> Planned {
    match mode {
        UsageMode::Fixed | UsageMode::Cached => fixed(mode, reply, wants),
        UsageMode::Random(random) => {
            let mut dice = Dice::new(random.seed, serial);
            randomly(mode, random, &mut dice, reply, wants)
        }
    }
}

fn fixed(mode: &UsageMode, reply: Reply, wants: &Wants<'_>) -> Planned {
    let answer = Answer::within(reply, wants.cap);
    let answers = vec![answer; wants.answers.max(1) as usize];
    let output = answers.iter().map(|answer| tokens(answer.bytes())).sum();
    let all = || Split { input: input_tokens(mode, wants.request, wants.body_bytes), ..Split::default() };
    let Split { read, write, input } = wants.cached.unwrap_or_else(all);
    let bill = Bill { input, cache_write: write, cache_read: read, output, ..Bill::default() };
    Planned { answers, usage: Figures { bill, ..Figures::default() } }
}

fn randomly(mode: &UsageMode, random: &RandomUsage, dice: &mut Dice, reply: Reply, wants: &Wants<'_>) -> Planned {
    let cap = wants.cap.unwrap_or(random.output_tokens_max).max(1);
    let read = input_tokens(mode, wants.request, wants.body_bytes) + wants.earlier;
    let compaction = (wants.compacts && cap > 1).then(|| {
        let output = 1 + dice.up_to(cap / 2 - 1);
        Bill { input: read, output, ..Bill::default() }
    });
    let cap = cap - compaction.map_or(0, |compaction| compaction.output);
    let mut thinking_all = 0;
    let mut output = 0;
    let answers = (0..wants.answers.max(1)).map(|index| {
        let (answer, thinking) = random_answer(random, dice, index, &reply, wants, cap);
        thinking_all += thinking;
        output += thinking + tokens(answer.bytes());
        answer
    });
    let answers = answers.collect();
    let cache_read = if dice.up_to(2) == 0 { dice.up_to(read) } else { 0 };
    let cache_write = if wants.writes_cache { dice.up_to(read - cache_read) } else { 0 };
    let input = read - cache_read - cache_write;
    let bill = Bill { input, cache_write, cache_read, output, ..Bill::default() };
    let shown = match random.shown.len() as u64 {
        0 => Shown::AtEnd,
        count => random.shown[usize::try_from(dice.up_to(count - 1)).unwrap_or(0)],
    };
    let telling = Telling { shown, salt: dice.next() };
    Planned { answers, usage: Figures { bill, thinking: thinking_all, compaction, random: Some(telling) } }
}

/// One in three goes on to the cap; a tool's call is made where it fits.
fn random_answer(
    random: &RandomUsage,
    dice: &mut Dice,
    index: u32,
    reply: &Reply,
    wants: &Wants<'_>,
    cap: u64,
) -> (Answer, u64) {
    if index == 0 && reply.tool.is_some() {
        return (Answer::within(reply.clone(), Some(cap)), 0);
    }
    let most = cap.min(random.output_tokens_max);
    let (total, ended) = match dice.up_to(2) {
        0 if most == cap => (cap, Ended::ByCap),
        _ => (1 + dice.up_to(most - 1), Ended::ByItself),
    };
    let thinking = match random.thinking {
        Thinking::Hidden if wants.thinks && dice.up_to(1) == 0 => dice.up_to(total / 2),
        Thinking::Hidden | Thinking::None => 0,
    };
    // Four bytes to a token; the words are long enough that an answer has no more than some dozens.
    let bytes = usize::try_from((total - thinking) * 4).unwrap_or(usize::MAX);
    let word = (bytes / 24).max(8);
    // Letters that do not come again and again: clients take that for a model that has lost its way, and ask anew.
    let mut state = total;
    let mut letter = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap_or(0))
    };
    let text: String = (0..bytes).map(|at| if at % word == word - 1 { ' ' } else { letter() }).collect();
    (Answer { text, tool: None, ended, thinking }, thinking)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wants(request: &Map<String, Value>, cap: u64) -> Wants<'_> {
        let (answers, writes_cache, compacts, thinks) = (2, true, true, true);
        Wants {
            request,
            body_bytes: 100,
            cap: Some(cap),
            answers,
            writes_cache,
            compacts,
            thinks,
            earlier: 0,
            cached: None,
        }
    }

    #[test]
    fn a_random_usage_stays_within_what_the_request_allows_and_is_the_same_again() {
        let Value::Object(request) = json!({"messages": [{"role": "user", "content": "hello there"}]}) else {
            panic!()
        };
        let text = request["messages"].to_string().len() as u64;
        let mode = UsageMode::Random(RandomUsage::seeded(7));
        let mut at_cap = 0;
        for serial in 0..500 {
            for cap in [1, 2, 300] {
                let planned = plan(&mode, serial, Reply::text("x"), &wants(&request, cap));
                let again = plan(&mode, serial, Reply::text("x"), &wants(&request, cap));
                let usage = &planned.usage;
                assert_eq!((usage.bill, usage.compaction), (again.usage.bill, again.usage.compaction));
                assert!((1..=2 * cap).contains(&usage.bill.output) && usage.thinking <= usage.bill.output);
                assert!((text / 4..=text * 5 / 4).contains(&usage.read()));
                let shown: u64 = planned.answers.iter().map(|answer| tokens(answer.bytes())).sum();
                assert_eq!(shown + usage.thinking, usage.bill.output);
                at_cap += u64::from(planned.answers.iter().any(|answer| answer.ended == Ended::ByCap));
                let counted = counted_tokens(&mode, &request, 100);
                assert!(counted <= usage.read() && usage.read() - counted <= 32);
            }
        }
        assert!(at_cap > 100, "{at_cap}");
    }
}
