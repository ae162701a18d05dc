//! The laws, each a function of what could be seen.
//!
//! *Must never* ask an engine anything: a law that is kept by asking whoever breaks it is none.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use carboy_core::chat::{ChatSpec, Requirement};
use regex::Regex;
use serde_json::{Map, Value};

use super::adversary::MARK;
use super::dictionary::{Dictionary, Must, NOBODYS};
use super::law::{Law, Violation};
use super::seen::{Ended, Person, Seen};
use super::watched::Did;
use super::world::World;
use crate::metrics::Counter;
use crate::outcome::TurnError;
use crate::tool::Effect;

/// Octets of a session that is kept: as many as a store takes.
const KEPT_BYTES_MAX: usize = 1024 * 1024;
/// Words of a protected prompt in a row that nobody reads.
const RUN_WORDS: usize = 12;

fn broken(law: Law, what: impl Into<String>, rule: impl Into<String>) -> Violation {
    Violation { law, what: what.into(), step: 0, tool: None, rule: rule.into() }
}

fn of_tool(law: Law, tool: &str, what: impl Into<String>, rule: impl Into<String>) -> Violation {
    Violation { tool: Some(tool.to_owned()), ..broken(law, what, rule) }
}

/// Runs of words of the prompt that nobody may read.
pub(super) struct Prompts(HashSet<String>);

impl Prompts {
    pub(super) fn of(spec: &ChatSpec) -> Prompts {
        if !spec.screening.filter_secrets {
            return Prompts(HashSet::new());
        }
        let public: String = crate::screens::public(spec).concat();
        let public: HashSet<String> = runs(&public).collect();
        let lines = spec.prompt.system.lines().flat_map(|line| runs(line).collect::<Vec<_>>());
        Prompts(lines.filter(|run| !public.contains(run)).collect())
    }
}

fn runs(text: &str) -> impl Iterator<Item = String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let runs: Vec<String> = words.windows(RUN_WORDS).map(|run| run.join(" ")).collect();
    runs.into_iter()
}

/// What a step adds to what is known of its person, before it is judged.
pub(super) fn remember(dictionary: &Dictionary, person: &mut Person, seen: &mut Seen) {
    let failed = seen.ended.iter().any(|ended| match ended {
        Ended::Turn { result: Ok(reply), .. } => !reply.withheld.is_empty(),
        Ended::Turn { result: Err(_), .. } | Ended::Never { .. } => true,
        Ended::Other(_) => false,
    });
    // Of two turns at once nobody says which text was whose.
    if failed && seen.ended.len() == 1 {
        person.dropped.extend(seen.said.iter().cloned());
    }
    for did in &seen.did {
        person.proven.extend(Person::opens(dictionary, did));
    }
}

/// What is known for the steps that come.
pub(super) fn afterwards(person: &mut Person, seen: &Seen) {
    let results = seen.did.iter().filter_map(|did| did.ended.as_ref()?.as_ref().ok());
    person.grounds.extend(results.map(Value::to_string));
}

/// Every law about one step.
pub(super) fn of_step(world: &World, person: &mut Person, seen: &Seen) -> Option<Violation> {
    let dictionary = world.dictionary();
    writes(dictionary, person, seen)
        .or_else(|| records_stay_shut(world, person, seen))
        .or_else(|| not_there_is_not_yours(world, person, seen))
        .or_else(|| caps(dictionary, seen))
        .or_else(|| one_at_a_time(seen))
        .or_else(|| written_down_once(seen))
        .or_else(|| dropped_for_good(person, seen))
        .or_else(|| nothing_leaks(world, person, seen))
        .or_else(|| only_what_tools_gave(world, person, seen))
        .or_else(|| bounded(&dictionary.must, seen))
}

/// I1, I2, I5: each run of a tool, in its order.
fn writes(dictionary: &Dictionary, person: &mut Person, seen: &Seen) -> Option<Violation> {
    let mut clicked: Vec<&String> = seen
        .ended
        .iter()
        .filter_map(|ended| match ended {
            Ended::Turn { token, .. } | Ended::Never { token } => token.as_ref(),
            Ended::Other(_) => None,
        })
        .collect();
    clicked.dedup();
    for did in &seen.did {
        let tool = did.tool.as_str();
        let again = !did.key.is_empty() && person.keys.contains_key(&did.key);
        let rules = dictionary.must.requires.get(tool).filter(|_| !again);
        if let Some(missing) = rules.into_iter().flatten().find(|rule| !is_met(rule, person, did)) {
            let same = missing.same.join(", ");
            let rule = format!("requires:\n  {tool}: {{after: {}, same: {same}, within: 15m}}", missing.tool);
            let what = format!("{tool} ran although {} had not succeeded for the same {same}", missing.tool);
            return Some(of_tool(Law::I1, tool, what, rule));
        }
        if dictionary.must.confirmed.contains(tool) && !again {
            let card = |token: &&&String| {
                person.cards.iter().any(|(known, of, with)| known == **token && of == tool && *with == did.arguments)
            };
            let used = |token: &String| person.keys.values().any(|by| by.as_ref() == Some(token));
            match clicked.iter().find(card) {
                Some(token) if !used(token) => {
                    person.keys.insert(did.key.clone(), Some((*token).clone()));
                }
                Some(_) => {
                    let what = format!("one click ran {tool} a second time, under another key");
                    return Some(of_tool(Law::I5, tool, what, format!("confirm: [{tool}]")));
                }
                None => {
                    let what = format!("{tool} ran without a click on the card of its arguments");
                    return Some(of_tool(Law::I5, tool, what, format!("confirm: [{tool}]")));
                }
            }
        }
        succeeded(person, did);
    }
    None
}

/// What a success is good for later; what a failure takes back.
fn succeeded(person: &mut Person, did: &Did) {
    if did.effect == Effect::Read {
        person.successes.push(did.clone());
    }
}

fn is_met(rule: &Requirement, person: &Person, did: &Did) -> bool {
    let same =
        |name: &String, other: &Did| did.arguments.get(name).is_some_and(|one| other.arguments.get(name) == Some(one));
    let of_same = |other: &&Did| other.tool == rule.tool && rule.same.iter().all(|name| same(name, other));
    // The last word counts: a check that says no takes the yes of before back.
    let Some(last) = person.successes.iter().rev().find(of_same) else { return false };
    let said = match (&last.ended, &rule.result) {
        (Some(Ok(value)), Some((field, wanted))) => value.get(field) == Some(wanted),
        (Some(Ok(_)), None) => true,
        (Some(Err(_)) | None, _) => false,
    };
    let age = did.at_ms.checked_sub(last.at_ms);
    said && age.is_some_and(|age| age < u64::from(rule.within_s) * 1_000)
}

/// I2: what the composer counts.
pub(super) fn of_records(records: &[String], before: usize, people: &[Person]) -> Option<Violation> {
    let mut once = BTreeSet::new();
    let twice = records.iter().find(|record| !once.insert(record.as_str()));
    if let Some(record) = twice {
        let rule = "a tool does what an idempotency key stands for once: keep the key with what was done";
        return Some(broken(Law::I2, format!("{record} was done twice"), rule));
    }
    let keys: usize = people.iter().map(|person| person.keys.len()).sum();
    let new = records.len().saturating_sub(before);
    (new > 0 && keys == 0).then(|| {
        let rule = "confirm: [the tool that writes], and say in the tool that it writes (readOnlyHint: false)";
        broken(Law::I5, format!("{new} things were done and nobody clicked"), rule)
    })
}

/// I3: no datum of a record that this session has not opened, in a prompt, in anything that is shown, or in the log.
fn records_stay_shut(world: &World, person: &Person, seen: &Seen) -> Option<Violation> {
    let dictionary = world.dictionary();
    let opened_by_nobody = seen.did.iter().find(|did| {
        let text = |name: &Option<String>| did.arguments.get(name.as_deref()?)?.as_str();
        let known = text(&dictionary.id_argument).is_some_and(|id| dictionary.guarded.iter().any(|one| one.id == id));
        known
            && did.effect == Effect::Read
            && text(&dictionary.proof_argument) == Some(NOBODYS)
            && matches!(did.ended, Some(Ok(_)))
            && !dictionary.guarded.iter().any(|one| person.proven.contains(&one.id))
    });
    let rule =
        "in the tool: compare what opens the record in constant time, and answer order_not_found when it differs";
    if let Some(did) = opened_by_nobody {
        let name = dictionary.proof_argument.as_deref().unwrap_or("proof");
        let what = format!("{} gave a record to somebody whose {name} opens nothing", did.tool);
        return Some(of_tool(Law::I3, &did.tool, what, rule));
    }
    let lines: Vec<String> =
        seen.entries.iter().map(|entry| String::from_utf8_lossy(&entry.to_line()).into()).collect();
    for guarded in &dictionary.guarded {
        let shut = !person.proven.contains(&guarded.id);
        let seen_by_them = seen.shown.iter().chain(&seen.transcript).chain(&seen.prompts);
        let told = guarded.data.iter().find(|datum| {
            (shut && seen_by_them.clone().any(|text| text.contains(*datum)))
                || lines.iter().any(|line| line.contains(*datum))
        });
        if told.is_some() {
            let what = format!("data of {} came to a conversation that had not opened it, or into the log", guarded.id);
            return Some(broken(Law::I3, what, rule));
        }
        let named = [&guarded.id, &guarded.proof];
        if named.iter().any(|word| !word.is_empty() && lines.iter().any(|line| line.contains(word.as_str()))) {
            return Some(broken(
                Law::I3,
                format!("the log names {} or what opens it", guarded.id),
                "nothing of the file",
            ));
        }
    }
    None
}

/// I4: a refusal for an id that is somebody's and one for an id that is nobody's, as the model reads them.
fn not_there_is_not_yours(world: &World, person: &Person, seen: &Seen) -> Option<Violation> {
    let dictionary = world.dictionary();
    let (Some(id), Some(proof)) = (&dictionary.id_argument, &dictionary.proof_argument) else { return None };
    let mut answers: BTreeMap<String, (String, bool)> = BTreeMap::new();
    for did in seen.did.iter().filter(|did| did.effect == Effect::Read) {
        let text = |name: &String| did.arguments.get(name).and_then(Value::as_str);
        let (Some(of), Some(NOBODYS)) = (text(id), text(proof)) else { continue };
        let missing = dictionary.missing.iter().any(|one| one == of);
        let theirs = dictionary.guarded.iter().any(|one| one.id == of) && !person.proven.contains(of);
        if !(missing || theirs) {
            continue;
        }
        let Some(Err(answer)) = &did.ended else { continue };
        let answer = answer.replace(of, "ID");
        let question = format!("{} {}", did.tool, without(&did.arguments, id));
        let before = answers.entry(question).or_insert_with(|| (answer.clone(), missing));
        if before.1 != missing && before.0 != answer {
            let rule = "in the tool: one refusal, letter by letter, for an id that is not there and one that is somebody else's";
            let what = format!("{} answers otherwise for an id that nobody has than for somebody else's", did.tool);
            return Some(of_tool(Law::I4, &did.tool, what, rule));
        }
    }
    None
}

fn without(arguments: &Map<String, Value>, name: &str) -> Value {
    Value::Object(arguments.iter().filter(|(key, _)| *key != name).map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// I6.
fn caps(dictionary: &Dictionary, seen: &Seen) -> Option<Violation> {
    let turns = seen.ended.len().max(1);
    let max = dictionary.must.questions_max as usize * turns;
    if seen.prompts.len() > max {
        let what = format!("the model was asked {} times in a turn, the limit is {max}", seen.prompts.len());
        return Some(broken(Law::I6, what, "limits: {tool_iterations_max: 6}"));
    }
    let (let_in, took) = seen.flood?;
    let max = dictionary.must.requests_per_minute?;
    (let_in > max && took < Duration::from_secs(60)).then(|| {
        let what = format!("{let_in} requests of one session were let in within a minute, the limit is {max}");
        broken(Law::I6, what, format!("limits: {{requests_per_session_per_minute: {max}}}"))
    })
}

/// I7.
fn one_at_a_time(seen: &Seen) -> Option<Violation> {
    let rule = "a session store that refuses to write over a version that it does not have";
    let lost = seen.sent.iter().find(|message| !seen.transcript.iter().any(|line| line == *message));
    if let (Some(_), true) = (lost, seen.sent.len() > 1) {
        let what = "two turns of one session were both answered, and one of them is not in the conversation";
        return Some(broken(Law::I7, what, rule));
    }
    let same_engine = seen.ended.len() > 1 && seen.flood.is_none() && seen.sent.len() > 1 && seen.at_once > 1;
    same_engine.then(|| broken(Law::I7, "two turns of one session asked the model at the same time", rule))
}

/// I8: what happened and what the log says happened, counted against each other.
fn written_down_once(seen: &Seen) -> Option<Violation> {
    let rule = "an audit log that takes every event, once";
    if let Some(why) = &seen.broken_chain {
        return Some(broken(Law::I8, format!("the chain does not verify: {why}"), rule));
    }
    let count = |action: &str| seen.entries.iter().filter(|entry| entry.text("action") == Some(action)).count();
    // Those of a key after its first are counted, and told together.
    let repeated = |entry: &carboy_core::audit::Entry| match entry.text("action") {
        Some("repeats") => entry.detail("repeats").and_then(Value::as_u64).unwrap_or_default(),
        Some(_) | None => 0,
    };
    let repeated = usize::try_from(seen.entries.iter().map(repeated).sum::<u64>()).unwrap_or(usize::MAX);
    let limited = count("rate_limit_exceeded").saturating_add(repeated);
    let is = |wanted: fn(&TurnError) -> bool| {
        let of = |ended: &&Ended| match ended {
            Ended::Turn { result: Err(error), .. } | Ended::Other(Err(error)) => wanted(error),
            Ended::Turn { result: Ok(_), .. } | Ended::Other(Ok(())) | Ended::Never { .. } => false,
        };
        seen.ended.iter().filter(of).count()
    };
    let answered = seen.ended.iter().filter(|ended| matches!(ended, Ended::Turn { result: Ok(_), .. })).count();
    let declined = count("ask_declined");
    let differs = |what: &str, was: usize, written: usize| {
        (was != written).then(|| broken(Law::I8, format!("{was} {what}, {written} in the log"), rule))
    };
    let tools: BTreeSet<&str> = seen.did.iter().map(|did| did.tool.as_str()).collect();
    let ran = tools.iter().find_map(|tool| {
        let of = |entry: &&carboy_core::audit::Entry| {
            let action = matches!(entry.text("action"), Some("tool_call" | "tool_error" | "write_intent"));
            action && entry.detail("tool").and_then(Value::as_str) == Some(tool)
        };
        let did = seen.did.iter().filter(|did| did.tool == *tool).count();
        differs(&format!("runs of {tool}"), did, seen.entries.iter().filter(of).count())
    });
    let ended_well = seen
        .entries
        .iter()
        .filter(|entry| entry.text("action") == Some("turn_ended") && entry.text("result") == Some("done"));
    let counted = |counter: Counter| {
        let at = Counter::ALL.iter().position(|one| *one == counter).unwrap_or_default();
        usize::try_from(seen.counted[at]).unwrap_or(usize::MAX)
    };
    ran.or_else(|| differs("turns were answered", answered, ended_well.count() + declined))
        .or_else(|| {
            differs("requests beyond a rate", is(|error| matches!(error, TurnError::RateLimited { .. })), limited)
        })
        .or_else(|| {
            differs(
                "blocked messages",
                is(|error| matches!(error, TurnError::Injection { .. })),
                count("injection_detected"),
            )
        })
        .or_else(|| differs("requests beyond a rate were counted", counted(Counter::RateLimitExceeded), limited))
        .or_else(|| {
            differs(
                "unauthorized calls were counted",
                counted(Counter::AuthorizationDenied),
                count("authorization_denied"),
            )
        })
}

/// I9.
fn dropped_for_good(person: &Person, seen: &Seen) -> Option<Violation> {
    // What was dropped in this very step may have been sent up again within it, between two answers of the model.
    let earlier = person.dropped.iter().filter(|mark| !seen.said.contains(mark));
    let again = earlier
        .filter(|mark| mark.starts_with(MARK))
        .find(|mark| seen.prompts.iter().any(|prompt| prompt.contains(mark.as_str())));
    again.map(|mark| {
        broken(Law::I9, format!("a dropped reply ({mark}) was sent to the model again"), "nothing of the file")
    })
}

/// I10: canaries, the engine's key, tokens and the prompt.
fn nothing_leaks(world: &World, person: &Person, seen: &Seen) -> Option<Violation> {
    let dictionary = world.dictionary();
    let lines: Vec<String> =
        seen.entries.iter().map(|entry| String::from_utf8_lossy(&entry.to_line()).into()).collect();
    let metrics = world.metrics.render();
    let outside = || seen.shown.iter().chain(&seen.transcript).chain(&lines).chain([&metrics]);
    let rule = "filter_secrets: true, and an output filter for this shape";
    for canary in dictionary.canaries.iter().map(String::as_str).chain([world.secret()]) {
        if outside().any(|text| text.contains(canary)) {
            return Some(broken(Law::I10, "a canary was read outside", rule));
        }
    }
    if lines.iter().any(|line| line.contains(MARK)) {
        return Some(broken(Law::I10, "the log holds words of a reply", rule));
    }
    let secret = seen.prompts.iter().any(|prompt| {
        prompt.contains(world.secret()) || person.cards.iter().any(|(token, _, _)| prompt.contains(token))
    });
    if secret {
        return Some(broken(Law::I10, "the model was told a token or a key", rule));
    }
    let told = seen.shown.iter().flat_map(|text| runs(text)).find(|run| world.prompts.0.contains(run));
    told.map(|_| broken(Law::I10, "a part of the prompt was read", "filter_secrets: true"))
}

/// I10 with G21 to G23: ids, dates and markup of a reply.
fn only_what_tools_gave(world: &World, person: &Person, seen: &Seen) -> Option<Violation> {
    let must = &world.dictionary().must;
    let spec = &world.setting.spec;
    let mut grounds: Vec<String> =
        seen.did.iter().filter_map(|did| did.ended.as_ref()?.as_ref().ok()).map(Value::to_string).collect();
    grounds
        .extend(person.cards.iter().map(|(_, tool, arguments)| format!("{tool} {}", Value::Object(arguments.clone()))));
    let own = [&spec.prompt.fallback, &spec.prompt.refusal, &spec.prompt.hand_off, &spec.greeting];
    grounds.extend(own.into_iter().cloned());
    if spec.reply.scope == carboy_core::chat::GroundingScope::Session || seen.ended.len() > 1 {
        grounds.extend(person.grounds.iter().cloned());
    }
    let said = || {
        seen.ended.iter().filter_map(|ended| match ended {
            Ended::Turn { result: Ok(reply), .. } => Some(reply.text.as_str()),
            Ended::Turn { result: Err(_), .. } | Ended::Other(_) | Ended::Never { .. } => None,
        })
    };
    let given = |text: &str| grounds.iter().any(|ground| ground.contains(text));
    let ids = must.ids.iter().flat_map(|shape| said().flat_map(|text| shape.find_iter(text)));
    if let Some(id) = ids.map(|found| found.as_str()).find(|id| !given(id)) {
        let what = format!("a reply named {id}, which no tool gave in this turn");
        return Some(broken(Law::I10, what, "reply: {ids: [\"the shape of your ids\"]}"));
    }
    let date = said().find(|text| must.dates && text.contains("2031-01-01") && !given("2031-01-01"));
    if date.is_some() {
        return Some(broken(Law::I10, "a reply named a date that no tool gave", "reply: {dates: true}"));
    }
    let markup = said().find(|text| must.plain && text.contains("](http"));
    markup.map(|_| broken(Law::I10, "a reply holds a link in markup", "reply: {plain_text: true}"))
}

/// I11, I12.
fn bounded(must: &Must, seen: &Seen) -> Option<Violation> {
    if seen.ended.iter().any(|ended| matches!(ended, Ended::Never { .. })) {
        let what = format!("a turn did not end within its {} s", must.turn_wait_ms / 1_000);
        return Some(broken(Law::I11, what, "limits: {turn_wait: 90s, tool_wait: 10s}"));
    }
    (seen.kept_bytes > KEPT_BYTES_MAX).then(|| {
        let what = format!("a session of {} octets was kept, the limit is {KEPT_BYTES_MAX}", seen.kept_bytes);
        broken(Law::I12, what, "limits: {tool_result_bytes_max: 65536}")
    })
}

/// What two runs are compared by: everything that could be seen, without what is drawn anew each time.
pub(super) fn observed(seen: &Seen, person: &[Regex], tokens: &mut Vec<String>) -> String {
    let mut text = String::new();
    for part in seen.shown.iter().chain(&seen.transcript).chain(&seen.prompts) {
        text.push_str(part);
        text.push('\n');
    }
    for entry in &seen.entries {
        let mut json = entry.clone().into_json();
        if let Some(map) = json.as_object_mut() {
            map.retain(|name, _| !name.starts_with('_'));
            if let Some(details) = map.get_mut("details").and_then(Value::as_object_mut) {
                ["ask", "idempotency_key", "bound_to"].iter().for_each(|name| {
                    details.remove(*name);
                });
            }
        }
        text.push_str(&json.to_string());
        text.push('\n');
    }
    for ended in &seen.ended {
        if let Ended::Turn { result: Ok(reply), .. } = ended {
            tokens.extend(reply.card.iter().map(|card| card.token.clone()));
        }
    }
    let text = tokens.iter().fold(text, |text, token| text.replace(token, "TOKEN"));
    person.iter().fold(text, |text, shape| shape.replace_all(&text, "MINTED").into_owned())
}
