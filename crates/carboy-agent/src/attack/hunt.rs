//! Many scripts, one after the other, until a law is broken; then the shortest script that still breaks it.
//!
//! *Must never* go on for ever: rounds are counted, and so is every attempt at something shorter.

use super::law::{Law, Violation};
use super::laws::observed;
use super::play::{Patience, Run};
use super::script::{Move, Script, Step};
use super::world::World;

/// Attempts at a shorter script.
const SHRINKS_MAX: usize = 300;
/// The same where each that succeeds is one that does not end.
const SHRINKS_OF_ENDLESS_MAX: usize = 60;

/// What a hunt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hunt {
    /// The first script's number; a long hunt goes on in another world where the last one ended.
    pub from: u64,
    /// Scripts that are tried.
    pub rounds: u64,
    /// The same seed tries the same scripts.
    pub seed: u64,
}

/// A hole.
#[derive(Clone, Debug)]
pub struct Found {
    /// The law, and how it was broken.
    pub violation: Violation,
    /// The shortest script that was found to break it.
    pub script: Script,
    /// The number of the script in which it was met first.
    pub number: u64,
}

/// How far a hunt is.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// The script of this number was played.
    Played(u64),
    /// A hole was found.
    Found(&'a Found),
}

/// Plays scripts until one breaks a law.
pub async fn hunt(world: &World, hunt: Hunt) -> Option<Found> {
    hunt_but(world, hunt, &mut |_| true, &mut |_| {}).await
}

/// The same for those violations that are `wanted`.
pub(super) async fn hunt_but(
    world: &World,
    hunt: Hunt,
    wanted: &mut (dyn FnMut(&Violation) -> bool + Send),
    played: &mut (dyn FnMut(u64) + Send),
) -> Option<Found> {
    for number in hunt.from..hunt.from.saturating_add(hunt.rounds) {
        let script = Script::of(hunt.seed, number, world.dictionary(), world.tools());
        let run = Run { seed: hunt.seed, number, patience: Patience::Full };
        let violation = world.play(&script, run, &mut |_| {}).await;
        played(number);
        if let Some(violation) = violation
            && wanted(&violation)
        {
            let (violation, script) = shrunk(world, hunt.seed, violation, script).await;
            return Some(Found { violation, script, number });
        }
    }
    None
}

/// All holes of a world, one for each law and tool. `told` hears of each script and of each hole, so that whoever does not wait
/// for the end has what was found until then.
pub async fn holes(world: &World, hunt: Hunt, told: &mut (dyn FnMut(Progress<'_>) + Send)) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut from = hunt.from;
    let end = hunt.from.saturating_add(hunt.rounds);
    while from < end {
        let known: Vec<(Law, Option<String>)> =
            found.iter().map(|hole| (hole.violation.law, hole.violation.tool.clone())).collect();
        let rest = Hunt { from, rounds: end - from, seed: hunt.seed };
        let mut new = |violation: &Violation| !known.contains(&(violation.law, violation.tool.clone()));
        let mut played = |number| told(Progress::Played(number));
        let Some(hole) = hunt_but(world, rest, &mut new, &mut played).await else { break };
        told(Progress::Found(&hole));
        from = hole.number + 1;
        found.push(hole);
    }
    found
}

/// Steps, answers and calls are left out as long as the same law is still broken.
async fn shrunk(world: &World, seed: u64, violation: Violation, script: Script) -> (Violation, Script) {
    let first = Script { steps: script.steps.into_iter().take(violation.step).collect() };
    if violation.law != Law::I11 {
        return shorter(world, Run { seed, number: u64::MAX, patience: Patience::Full }, violation, first).await;
    }
    let hurried = Run { seed, number: u64::MAX, patience: Patience::Short };
    let (_, short) = shorter(world, hurried, violation.clone(), first.clone()).await;
    // What did not end shortly may end all the same: the word of the full wait counts.
    match world.play(&short, Run { seed, number: 0, patience: Patience::Full }, &mut |_| {}).await {
        Some(same) if same.law == violation.law => (same, short),
        Some(_) | None => (violation, first),
    }
}

async fn shorter(world: &World, run: Run, mut violation: Violation, mut best: Script) -> (Violation, Script) {
    let mut left = match run.patience {
        Patience::Full => SHRINKS_MAX,
        Patience::Short => SHRINKS_OF_ENDLESS_MAX,
    };
    let mut number = run.number;
    let mut at = 0;
    while at < candidates(&best).len() && left > 0 {
        left -= 1;
        number -= 1;
        let shorter = candidates(&best).swap_remove(at);
        match world.play(&shorter, Run { number, ..run }, &mut |_| {}).await {
            Some(other) if other.law == violation.law && other.tool == violation.tool => {
                best = Script { steps: shorter.steps.into_iter().take(other.step).collect() };
                violation = other;
                at = 0;
            }
            Some(_) | None => at += 1,
        }
    }
    (violation, best)
}

/// Every script with one thing less, the largest things first.
fn candidates(script: &Script) -> Vec<Script> {
    let mut all = Vec::new();
    for at in 0..script.steps.len() {
        let mut shorter = script.clone();
        shorter.steps.remove(at);
        all.push(shorter);
    }
    for at in 0..script.steps.len() {
        let mut probe = script.clone();
        let count = probe.steps[at].moves_mut().map_or(0, |moves| moves.len());
        for one in 0..count {
            all.extend(with(script, at, |moves| drop(moves.remove(one))));
            let calls = match probe.steps[at].moves_mut().and_then(|moves| moves.get(one)) {
                Some(Move::Calls { calls, .. }) if calls.len() > 1 => calls.len(),
                Some(_) | None => 0,
            };
            for call in 0..calls {
                all.extend(with(script, at, |moves| {
                    if let Move::Calls { calls, .. } = &mut moves[one] {
                        calls.remove(call);
                    }
                }));
            }
        }
    }
    all
}

fn with(script: &Script, at: usize, change: impl FnOnce(&mut Vec<Move>)) -> Option<Script> {
    let mut shorter = script.clone();
    change(shorter.steps[at].moves_mut()?);
    Some(shorter)
}

/// Non-interference: the same scripts in two worlds that differ in what nobody in them proves. `proofs` open what differs,
/// and nobody shows them. The first difference is a violation.
pub async fn compare(one: &World, other: &World, hunt: Hunt, proofs: &[&str]) -> Option<Found> {
    for number in hunt.from..hunt.from.saturating_add(hunt.rounds) {
        let script = Script::of(hunt.seed, number, one.dictionary(), one.tools());
        let script = script.without_races().without_proofs(proofs);
        let (first, second) =
            (trace(one, &script, hunt.seed, number).await, trace(other, &script, hunt.seed, number).await);
        let longest = first.len().max(second.len());
        let at = (0..longest).find(|at| first.get(*at) != second.get(*at));
        if let Some(at) = at {
            let what = first_difference(first.get(at), second.get(at));
            let violation = Violation {
                law: Law::NonInterference,
                what: format!("the two differ in step {}: {what}", at + 1),
                step: at + 1,
                tool: None,
                rule: "in the tool: nothing before the proof may depend on the record".into(),
            };
            let steps: Vec<Step> = script.steps.into_iter().take(at + 1).collect();
            return Some(Found { violation, script: Script { steps }, number });
        }
    }
    None
}

async fn trace(world: &World, script: &Script, seed: u64, number: u64) -> Vec<String> {
    let (mut steps, mut tokens) = (Vec::new(), Vec::new());
    let minted = &world.dictionary().minted;
    let mut look = |seen: &super::seen::Seen| steps.push(observed(seen, minted, &mut tokens));
    let broken = world.play(script, Run { seed, number, patience: Patience::Full }, &mut look).await;
    steps.extend(broken.map(|violation| violation.what));
    steps
}

fn first_difference(one: Option<&String>, other: Option<&String>) -> String {
    let (one, other) = (one.map_or("", String::as_str), other.map_or("", String::as_str));
    let at = one.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
    let part = |text: &str| text.chars().skip(at.saturating_sub(60)).take(160).collect::<String>();
    format!("`{}` and `{}`", part(one), part(other))
}
