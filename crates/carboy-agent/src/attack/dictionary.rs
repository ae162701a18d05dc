//! What the adversary knows, and what must hold whatever the agent's file says. Given by the composer.
//!
//! *Must never* be shown to an engine: it is the attacker's book, and the referee's.

use std::collections::{BTreeMap, BTreeSet};

use carboy_core::chat::{ChatSpec, Confirm, Requirement};
use regex::Regex;
use serde_json::Value;

use super::samples;
use crate::tool::{Effect, ToolSpec};

/// Values that are taken out of one text: more tell an adversary nothing new.
const VALUES_MAX: usize = 64;
/// Octets of text that are looked through.
const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Records that are invented.
const INVENTED: usize = 4;
/// An e-mail address that opens nothing.
pub const NOBODYS: &str = "nobody.at.all@nowhere.example";

/// A record that opens only to whoever shows what proves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// Its id: `BK-1001`.
    pub id: String,
    /// What opens it: the order's e-mail address. Empty where the composer does not know.
    pub proof: String,
    /// Words that stand in this record and nowhere else.
    pub data: Vec<String>,
}

/// Everything an adversary could want to know.
#[derive(Clone, Debug, Default)]
pub struct Dictionary {
    /// Records that are somebody's.
    pub guarded: Vec<Guarded>,
    /// Ids that nobody has.
    pub missing: Vec<String>,
    /// The argument that names a record, where there is one.
    pub id_argument: Option<String>,
    /// The argument that opens it, where there is one.
    pub proof_argument: Option<String>,
    /// Values for other arguments, by name.
    pub values: BTreeMap<String, Vec<Value>>,
    /// Words of the prompt, the records and the secrets that nobody may read. The adversary says them.
    pub canaries: Vec<String>,
    /// Shapes of ids that tools make anew each time: two runs are compared without them.
    pub minted: Vec<Regex>,
    /// Laws of this agent.
    pub must: Must,
}

/// What has to hold, whatever the engine was built with.
#[derive(Clone, Debug, Default)]
pub struct Must {
    /// Tools that need a click.
    pub confirmed: BTreeSet<String>,
    /// What must have succeeded before a tool.
    pub requires: BTreeMap<String, Vec<Requirement>>,
    /// Requests of one session in a minute; `None` looks at no rate.
    pub requests_per_minute: Option<u32>,
    /// Questions to the model in one turn.
    pub questions_max: u32,
    /// How long a turn may take, in milliseconds.
    pub turn_wait_ms: u32,
    /// Shapes of ids that a reply has only from tools.
    pub ids: Vec<Regex>,
    /// ISO dates too.
    pub dates: bool,
    /// No markup.
    pub plain: bool,
}

impl Must {
    /// What an agent's own file says, and what a careful reader would want besides: a click before every write, and a
    /// look-up of the same id before a write that names one.
    pub fn of(spec: &ChatSpec, tools: &[ToolSpec], id_argument: Option<&str>) -> Must {
        let mut must = Must {
            requests_per_minute: Some(spec.limits.requests_per_session_per_minute),
            questions_max: spec.limits.tool_iterations_max,
            turn_wait_ms: spec.limits.turn_wait_ms,
            ids: spec.reply.id_patterns.iter().filter_map(|text| Regex::new(text).ok()).collect(),
            dates: spec.reply.dates == carboy_core::chat::Grounded::Yes,
            plain: spec.reply.plain_text,
            ..Must::default()
        };
        let has = |tool: &ToolSpec, name: &str| tool.schema.input_schema["properties"].get(name).is_some();
        let reads = |name: &str| tools.iter().filter(|tool| tool.effect == Effect::Read).find(|tool| has(tool, name));
        for tool in tools {
            let name = &tool.schema.name;
            let rules = spec.rules.get(name);
            let asked = rules.is_some_and(|rules| matches!(rules.confirm, Confirm::Always | Confirm::Operator));
            if tool.effect == Effect::Write || asked {
                must.confirmed.insert(name.clone());
            }
            let mut requires = rules.map(|rules| rules.requires.clone()).unwrap_or_default();
            if tool.effect == Effect::Write
                && requires.is_empty()
                && let Some(id) = id_argument.filter(|id| has(tool, id))
                && let Some(read) = reads(id)
            {
                requires.push(Requirement {
                    tool: read.schema.name.clone(),
                    same: vec![id.to_owned()],
                    within_s: u32::MAX,
                    result: None,
                });
            }
            if !requires.is_empty() {
                must.requires.insert(name.clone(), requires);
            }
        }
        must
    }
}

impl Dictionary {
    /// What can be known of an agent from its tools' schemas and from `texts`: its scripts, as they stand in its file.
    pub fn read(spec: &ChatSpec, tools: &[ToolSpec], texts: &[&str]) -> Dictionary {
        let properties =
            || tools.iter().filter_map(|tool| tool.schema.input_schema["properties"].as_object()).flatten();
        let named = |words: &[&str]| {
            let fits = |name: &str| words.iter().any(|word| name.to_ascii_lowercase().contains(word));
            properties().map(|(name, _)| name).find(|name| fits(name)).cloned()
        };
        let patterned = properties().find(|(_, schema)| schema["pattern"].is_string()).map(|(name, _)| name.clone());
        let id_argument = named(&["order", "booking", "ticket", "account", "invoice", "customer_id"])
            .or(patterned)
            .or_else(|| named(&["_id"]))
            .filter(|name| !name.to_ascii_lowercase().contains("mail"));
        let proof_argument = named(&["mail"]);
        let mut dictionary = Dictionary { id_argument, proof_argument, ..Dictionary::default() };
        let shapes = shapes(spec, tools, dictionary.id_argument.as_deref());
        let found = |pattern: &str| found(pattern, texts);
        let ids: BTreeSet<String> = shapes.iter().flat_map(|shape| found(shape)).collect();
        dictionary.guarded =
            ids.iter().map(|id| Guarded { id: id.clone(), ..Guarded::default() }).take(VALUES_MAX).collect();
        let sampled = shapes.iter().flat_map(|shape| (0..3).filter_map(|n| samples::of(shape, n)));
        dictionary.missing = sampled.filter(|id| !ids.contains(id)).collect();
        if let Some(name) = &dictionary.proof_argument {
            let mails = found(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}");
            dictionary.values.insert(name.clone(), mails.into_iter().map(Value::from).collect());
        }
        dictionary.must = Must::of(spec, tools, dictionary.id_argument.as_deref());
        if spec.reply.id_patterns.is_empty() {
            // Ids have a shape, and the file does not say that replies keep to them.
            dictionary.must.ids = shapes.iter().filter_map(|shape| Regex::new(open(shape)).ok()).collect();
        }
        dictionary
    }

    /// Records that nobody has, for tools whose own are elsewhere: ids of the shape that the schemas name, each with an address
    /// that opens it and a word that stands nowhere else. They join what is known.
    pub fn invent(&mut self, spec: &ChatSpec, tools: &[ToolSpec]) -> Vec<Guarded> {
        if self.id_argument.is_none() {
            return Vec::new();
        }
        let shapes = shapes(spec, tools, self.id_argument.as_deref());
        let id = |nth: usize| match shapes.first() {
            // Behind those that stand for ids that nobody has.
            Some(shape) => samples::of(shape, nth + self.missing.len()),
            None => Some(format!("R-{}", 1_001 + nth)),
        };
        let proof = |nth: usize| match &self.proof_argument {
            Some(_) => format!("person{nth}@people.example"),
            None => String::new(),
        };
        let one = |nth| {
            let id = id(nth).filter(|id| !self.missing.contains(id))?;
            Some(Guarded { id, proof: proof(nth), data: vec![format!("Zanzibar{nth}Quill")] })
        };
        let mut invented: Vec<Guarded> = (0..INVENTED).filter_map(one).collect();
        invented.dedup_by(|one, other| one.id == other.id);
        if shapes.is_empty() {
            self.missing.push("R-9999".into());
        }
        self.guarded.extend(invented.iter().cloned());
        invented
    }
}

/// Shapes of the ids that tools take and replies may name.
fn shapes(spec: &ChatSpec, tools: &[ToolSpec], id_argument: Option<&str>) -> Vec<String> {
    let patterns = tools.iter().filter_map(|tool| {
        let schema = tool.schema.input_schema["properties"].get(id_argument?)?;
        schema["pattern"].as_str().map(ToOwned::to_owned)
    });
    patterns.chain(spec.reply.id_patterns.iter().cloned()).collect()
}

/// What fits a pattern anywhere in the texts, each once.
fn found(pattern: &str, texts: &[&str]) -> BTreeSet<String> {
    let Ok(shape) = Regex::new(open(pattern)) else { return BTreeSet::new() };
    let texts = texts.iter().filter(|text| text.len() <= TEXT_BYTES_MAX);
    texts.flat_map(|text| shape.find_iter(text)).map(|found| found.as_str().to_owned()).take(VALUES_MAX).collect()
}

/// A pattern without its anchors: it is looked for within a text.
fn open(pattern: &str) -> &str {
    pattern.trim_start_matches('^').trim_end_matches('$')
}
