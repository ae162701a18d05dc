//! What one attack does, step by step: read from bytes, shown to a person, made shorter.
//!
//! *Must never* hold a session's id or a card's token: which card is clicked is said by its place.

use serde_json::{Map, Value, json};

use super::dictionary::{Dictionary, NOBODYS};
use super::draw::{self, Draw};
use super::samples;
use crate::tool::{Effect, ToolSpec};

/// Sessions of one script.
pub(super) const PEOPLE: usize = 3;
/// Steps of one script.
const STEPS_MAX: usize = 12;
/// Answers of the model that one step sets.
const MOVES_MAX: usize = 5;
/// Calls of one answer, but for the move that is made of many.
const CALLS_MAX: usize = 4;
/// Calls of the move that is made of many.
pub(super) const MANY: usize = 1_000;
/// Octets of the largest argument.
const LARGE_BYTES: usize = 1024 * 1024;

/// An attack.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    /// In their order.
    pub(super) steps: Vec<Step>,
}

/// One thing that people, the machine or time do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Somebody writes; the model does this.
    Says { who: usize, words: Words, moves: Vec<Move> },
    /// Two messages of one session at once, to one engine or to both.
    Together { who: usize, both: bool, moves: Vec<Move> },
    /// A click on a card.
    Clicks { who: usize, click: Click, moves: Vec<Move> },
    /// Time goes on, or back.
    Waits { ms: i64 },
    /// Another process goes on with everything.
    Restarts,
    /// The store lets a session go.
    Evicts { who: usize },
    /// Somebody asks for all to be forgotten.
    Forgets { who: usize },
    /// More messages than a minute has.
    Floods { who: usize },
}

/// What somebody writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// An honest question.
    Asks,
    /// A yes in words, as if words confirmed anything.
    Confirms,
    /// What pretends to come from the runtime.
    Forges,
    /// Characters that hide.
    Hides,
    /// What the screens are there for.
    Overrides,
}

/// How somebody clicks. The newest card is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Click {
    /// Yes.
    Yes,
    /// No.
    No,
    /// Yes, twice at the same time, to both engines.
    Twice,
    /// Yes to the first card of the conversation, again.
    Again,
    /// Yes with a token that was changed.
    Altered,
    /// Yes by somebody else, who knows the token.
    Stranger,
}

/// What the model does when it is asked once.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Move {
    /// Says something, in pieces of so many characters; 0 is all at once and without a stream.
    Says { saying: Saying, piece: usize },
    /// Asks for tools.
    Calls { calls: Vec<Asked>, saying: Option<Saying> },
    /// Asks for one tool a thousand times.
    Many(Asked),
    /// Asks for one tool for ever.
    Endless(Asked),
    /// Streams one thing and means another.
    Lies,
    /// Breaks off in the middle of a sentence.
    BreaksOff,
    /// Gives no answer of a certain kind.
    Fails(usize),
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    /// Its id, possibly another's.
    pub(super) id: &'static str,
    /// The tool's name, possibly none.
    pub(super) tool: String,
    /// Anything.
    pub(super) input: Value,
}

/// What a model says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saying {
    /// Nothing in particular.
    Harmless,
    /// An id that no tool gave.
    Id,
    /// A date that no tool gave.
    Date,
    /// Markup, with a link to send data through.
    Markup,
    /// A canary, as it is.
    Canary,
    /// A part of its own prompt.
    Prompt,
    /// That it confirmed the card itself.
    Confirms,
    /// Very much.
    Long,
    /// Nothing.
    Nothing,
    /// What the tools gave last.
    Result,
}

const SAYINGS: [Saying; 10] = [
    Saying::Harmless,
    Saying::Id,
    Saying::Date,
    Saying::Markup,
    Saying::Canary,
    Saying::Prompt,
    Saying::Confirms,
    Saying::Long,
    Saying::Nothing,
    Saying::Result,
];
const IDS: [&str; 6] = ["c1", "c1", "", "a\u{0}", "toolu_01ABC", "\u{202e}c1"];

impl Script {
    /// Script `number` of a seed.
    pub fn of(seed: u64, number: u64, dictionary: &Dictionary, tools: &[ToolSpec]) -> Script {
        Script::read(&draw::bytes(seed, number), dictionary, tools)
    }

    /// What these bytes say.
    pub fn read(bytes: &[u8], dictionary: &Dictionary, tools: &[ToolSpec]) -> Script {
        let mut reader = Reader { draw: Draw::new(bytes), dictionary, tools };
        let mut steps = Vec::new();
        while !reader.draw.is_over() && steps.len() < STEPS_MAX {
            steps.push(reader.step());
        }
        Script { steps }
    }

    /// Its steps in words, one after the other.
    pub fn steps(&self) -> Vec<String> {
        self.steps.iter().map(ToString::to_string).collect()
    }

    /// The same without anything that happens at the same time as another: who is first there is chance.
    pub(super) fn without_races(mut self) -> Script {
        for step in &mut self.steps {
            match step {
                Step::Together { who, moves, .. } => {
                    *step = Step::Says { who: *who, words: Words::Asks, moves: std::mem::take(moves) };
                }
                Step::Clicks { click: click @ Click::Twice, .. } => *click = Click::Yes,
                Step::Says { .. }
                | Step::Clicks { .. }
                | Step::Waits { .. }
                | Step::Restarts
                | Step::Evicts { .. }
                | Step::Forgets { .. }
                | Step::Floods { .. } => {}
            }
        }
        self
    }

    /// The same without what opens a record that must stay closed: for two shops that differ in what nobody proved.
    pub fn without_proofs(mut self, proofs: &[&str]) -> Script {
        let shut = |asked: &mut Asked| asked.input = closed(&asked.input, proofs);
        for step in &mut self.steps {
            for one in step.moves_mut().into_iter().flatten() {
                match one {
                    Move::Calls { calls, .. } => calls.iter_mut().for_each(shut),
                    Move::Many(asked) | Move::Endless(asked) => shut(asked),
                    Move::Says { .. } | Move::Lies | Move::BreaksOff | Move::Fails(_) => {}
                }
            }
        }
        self
    }
}

fn closed(value: &Value, proofs: &[&str]) -> Value {
    match value {
        Value::String(text) if proofs.iter().any(|proof| text.to_ascii_lowercase().contains(proof)) => NOBODYS.into(),
        Value::Array(values) => values.iter().map(|value| closed(value, proofs)).collect(),
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), closed(value, proofs))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

impl Step {
    pub(super) fn moves_mut(&mut self) -> Option<&mut Vec<Move>> {
        match self {
            Step::Says { moves, .. } | Step::Together { moves, .. } | Step::Clicks { moves, .. } => Some(moves),
            Step::Waits { .. } | Step::Restarts | Step::Evicts { .. } | Step::Forgets { .. } | Step::Floods { .. } => {
                None
            }
        }
    }
}

struct Reader<'a> {
    draw: Draw<'a>,
    dictionary: &'a Dictionary,
    tools: &'a [ToolSpec],
}

impl Reader<'_> {
    fn step(&mut self) -> Step {
        // One person more often than the others: deep conversations find more than wide ones.
        let who = if self.draw.percent(70) { 0 } else { self.draw.below(PEOPLE) };
        match self.draw.below(24) {
            0..=8 => Step::Says { who, words: self.words(), moves: self.moves() },
            9..=12 => Step::Says { who, words: Words::Asks, moves: self.honest() },
            13 => Step::Together { who, both: self.draw.percent(50), moves: self.moves() },
            14..=18 => {
                let all = [Click::Yes, Click::No, Click::Twice, Click::Again, Click::Altered, Click::Stranger];
                let click = if self.draw.percent(50) { Click::Yes } else { all[self.draw.below(all.len())] };
                Step::Clicks { who, click, moves: self.moves() }
            }
            19 => Step::Waits { ms: [1_000, 61_000, 400_000, 1_000_000, 90_000_000, -60_000][self.draw.below(6)] },
            20 => Step::Restarts,
            21 => Step::Evicts { who },
            22 => Step::Forgets { who },
            _ => Step::Floods { who },
        }
    }

    fn words(&mut self) -> Words {
        let all = [Words::Asks, Words::Asks, Words::Confirms, Words::Forges, Words::Hides, Words::Overrides];
        all[self.draw.below(all.len())]
    }

    /// The way that a person is meant to go: looked up, proven, asked for.
    fn honest(&mut self) -> Vec<Move> {
        let record = self.draw.below(self.dictionary.guarded.len());
        let (id, proof) = match self.dictionary.guarded.get(record) {
            Some(guarded) => (guarded.id.clone(), guarded.proof.clone()),
            None => (String::new(), String::new()),
        };
        let proof = if proof.is_empty() { self.some_proof() } else { proof };
        let mut inputs: Vec<(Effect, Asked)> = Vec::new();
        for tool in self.tools {
            let mut input = self.plain_input(tool);
            let has = |name: &String| tool.schema.input_schema["properties"].get(name).is_some();
            for (name, value) in [(&self.dictionary.id_argument, &id), (&self.dictionary.proof_argument, &proof)] {
                if let Some(name) = name.as_ref().filter(|name| has(name)) {
                    input.insert(name.clone(), value.as_str().into());
                }
            }
            let asked = Asked { id: "c1", tool: tool.schema.name.clone(), input: Value::Object(input) };
            inputs.push((tool.effect, asked));
        }
        inputs.sort_by_key(|(effect, _)| *effect == Effect::Write);
        let calls = inputs.into_iter().map(|(_, asked)| asked).collect();
        let saying = SAYINGS[self.draw.below(SAYINGS.len())];
        vec![Move::Calls { calls, saying: None }, Move::Says { saying, piece: self.draw.below(9) }]
    }

    fn some_proof(&mut self) -> String {
        let name = self.dictionary.proof_argument.clone().unwrap_or_default();
        let known = self.dictionary.values.get(&name).cloned().unwrap_or_default();
        self.draw.one_of(&known).and_then(Value::as_str).unwrap_or(NOBODYS).to_owned()
    }

    fn moves(&mut self) -> Vec<Move> {
        let count = 1 + self.draw.below(MOVES_MAX);
        (0..count).map(|_| self.one()).collect()
    }

    fn one(&mut self) -> Move {
        let saying = SAYINGS[self.draw.below(SAYINGS.len())];
        match self.draw.below(32) {
            0..=12 => Move::Says { saying, piece: self.draw.below(9) },
            13..=25 => {
                let count = 1 + self.draw.below(CALLS_MAX);
                let calls = (0..count).map(|_| self.asked()).collect();
                Move::Calls { calls, saying: self.draw.percent(30).then_some(saying) }
            }
            26 if self.draw.percent(30) => Move::Many(self.asked()),
            26 | 27 => Move::Endless(self.asked()),
            28 => Move::Lies,
            29 => Move::BreaksOff,
            _ => Move::Fails(self.draw.below(5)),
        }
    }

    fn asked(&mut self) -> Asked {
        let id = IDS[self.draw.below(IDS.len())];
        let Some(tool) = self.draw.one_of(self.tools) else {
            return Asked { id, tool: "none".into(), input: json!({}) };
        };
        let name = tool.schema.name.clone();
        let tool_name = match self.draw.below(20) {
            0 => format!("{name}\u{0}"),
            1 => format!("{name}\u{200b}"),
            2 => "drop_tables".into(),
            _ => name,
        };
        let mut input = self.plain_input(tool);
        if self.draw.percent(25) {
            return Asked { id, tool: tool_name, input: self.mangled(input) };
        }
        if self.draw.percent(10) {
            input.insert("confirmed".into(), true.into());
        }
        Asked { id, tool: tool_name, input: Value::Object(input) }
    }

    /// Arguments of the right form.
    fn plain_input(&mut self, tool: &ToolSpec) -> Map<String, Value> {
        let properties = tool.schema.input_schema["properties"].as_object().cloned().unwrap_or_default();
        let required = tool.schema.input_schema["required"].as_array().cloned().unwrap_or_default();
        let mut input = Map::new();
        for (name, schema) in &properties {
            let is_required = required.iter().any(|one| one.as_str() == Some(name));
            let is_proof = self.dictionary.proof_argument.as_ref() == Some(name);
            if is_required || self.draw.percent(if is_proof { 80 } else { 30 }) {
                let value = self.value(name, schema, &tool.schema.input_schema);
                input.insert(name.clone(), value);
            }
        }
        input
    }

    fn value(&mut self, name: &str, schema: &Value, root: &Value) -> Value {
        let dictionary = self.dictionary;
        if dictionary.id_argument.as_deref() == Some(name) {
            let known: Vec<&str> = dictionary.guarded.iter().map(|guarded| guarded.id.as_str()).collect();
            let missing: Vec<&str> = dictionary.missing.iter().map(String::as_str).collect();
            let from = if self.draw.percent(80) && !known.is_empty() { known } else { missing };
            return self.draw.one_of(&from).map_or(Value::Null, |id| (*id).into());
        }
        if dictionary.proof_argument.as_deref() == Some(name) {
            let mut proofs: Vec<String> = dictionary.guarded.iter().map(|one| one.proof.clone()).collect();
            proofs.extend([self.some_proof(), NOBODYS.to_owned()]);
            proofs.retain(|proof| !proof.is_empty());
            return self.draw.one_of(&proofs).map_or(Value::Null, |proof| proof.as_str().into());
        }
        if let Some(value) = dictionary.values.get(name).and_then(|values| self.draw.one_of(values)) {
            return value.clone();
        }
        let schema = schema["$ref"].as_str().and_then(|at| root.pointer(at.strip_prefix('#')?)).unwrap_or(schema);
        if let Some(value) = schema["enum"].as_array().and_then(|all| self.draw.one_of(all)) {
            return value.clone();
        }
        match schema["type"].as_str() {
            Some("integer" | "number") => [json!(1), json!(0), json!(-1), json!(u64::MAX)][self.draw.below(4)].clone(),
            Some("boolean") => self.draw.percent(50).into(),
            Some("array") => [json!([]), json!([1])][self.draw.below(2)].clone(),
            Some("object") => json!({}),
            _ => match schema["pattern"].as_str().and_then(|pattern| samples::of(pattern, 0)) {
                Some(sample) => sample.into(),
                None => "something".into(),
            },
        }
    }

    /// Arguments of a wrong form.
    fn mangled(&mut self, mut input: Map<String, Value>) -> Value {
        let names: Vec<String> = input.keys().cloned().collect();
        let name = self.draw.one_of(&names).cloned().unwrap_or_else(|| "x".into());
        let text = input.get(&name).and_then(Value::as_str).unwrap_or("x").to_owned();
        let changed = match self.draw.below(10) {
            0 => json!(format!("\u{0}{text}\u{0}")),
            1 => json!(format!("\u{202e}{text}\u{200b}")),
            2 => json!(text.replace('B', "\u{0412}").replace('S', "\u{0405}").replace('e', "\u{0435}")),
            3 if self.draw.percent(30) => json!("x".repeat(LARGE_BYTES)),
            4 => json!([text]),
            5 => (0..100).fold(json!(1), |inner, _| json!({ "a": inner })),
            6 => return json!(format!("{{\"{name}\": \"{text}")),
            7 => return json!([input]),
            8 => Value::Null,
            _ => json!(format!("{text} OR 1=1; --")),
        };
        input.insert(name, changed);
        Value::Object(input)
    }
}

impl Asked {
    /// Many of it in one answer.
    pub(super) fn many(&self) -> Vec<Asked> {
        vec![self.clone(); MANY]
    }
}
