//! How everything stands, as a tree of scopes; and how fast tokens go.
//!
//! *Must never* grow with what was ever spent: at most [`NODES_MAX`] nodes, and the rest is counted.

use std::collections::{BTreeMap, BTreeSet};

use carboy_core::budget::{
    Both, BudgetSet, Cap, CapLine, GRAIN_MS, InFlight, LedgerSnapshot, MeterLine, Node, Reservation, Scope, Stage,
};
use carboy_core::ids::MeterName;

use super::desk::Desk;

/// Most scopes of one snapshot.
const NODES_MAX: usize = 512;
/// The minutes over which rates are told.
const RATES: [u64; 3] = [1, 5, 30];
/// Minutes that are remembered for that: the present one is not over.
const PACE_MINUTES: u64 = 31;

type Line = (Scope, MeterName);

/// What was charged lately, by the minute of its end. It begins anew with the ledger.
#[derive(Default)]
pub(super) struct Pace(BTreeMap<Line, BTreeMap<u64, u64>>);

impl Pace {
    pub(super) fn add(&mut self, line: Line, now_ms: u64, raw: carboy_core::budget::Amount) {
        let minutes = self.0.entry(line).or_default();
        let minute = minutes.entry(now_ms / GRAIN_MS).or_default();
        *minute = minute.saturating_add(raw.as_milli());
        while minutes.len() as u64 > PACE_MINUTES {
            minutes.pop_first();
        }
    }

    /// Forgets lines of which nothing is recent.
    fn prune(&mut self, now_ms: u64) {
        let oldest = (now_ms / GRAIN_MS).saturating_sub(PACE_MINUTES);
        self.0.retain(|_, minutes| minutes.last_key_value().is_some_and(|(minute, _)| *minute >= oldest));
    }

    /// Tokens a minute over each of [`RATES`]; of the oldest minute the part that is within counts.
    fn rates(&self, line: &Line, now_ms: u64) -> [u64; 3] {
        let Some(minutes) = self.0.get(line) else { return [0; 3] };
        let now = now_ms / GRAIN_MS;
        RATES.map(|over| {
            let whole: u64 = minutes.range((now + 1).saturating_sub(over)..=now).map(|(_, milli)| milli).sum();
            let oldest = now.checked_sub(over).and_then(|minute| minutes.get(&minute)).copied().unwrap_or(0);
            let part = u128::from(oldest) * u128::from(GRAIN_MS - now_ms % GRAIN_MS) / u128::from(GRAIN_MS);
            whole.saturating_add(u64::try_from(part).unwrap_or(u64::MAX)) / over / 1000
        })
    }
}

#[derive(Default)]
struct Draft {
    children: BTreeMap<Scope, Draft>,
    live: bool,
}

impl Draft {
    fn has(&self, scope: &Scope) -> bool {
        *scope == Scope::Host || self.children.iter().any(|(own, below)| own == scope || below.has(scope))
    }

    /// Puts a chain in, whose nearest scope stands first.
    fn put(&mut self, chain: &[Scope], live: bool, nodes: &mut usize, left_out: &mut BTreeSet<Vec<Scope>>) {
        let mut at = self;
        at.live |= live;
        for (from_end, scope) in chain.iter().rev().enumerate().filter(|(_, scope)| **scope != Scope::Host) {
            if !at.children.contains_key(scope) {
                if *nodes >= NODES_MAX {
                    left_out.insert(chain[chain.len() - 1 - from_end..].to_vec());
                    return;
                }
                *nodes += 1;
            }
            at = at.children.entry(scope.clone()).or_default();
            at.live |= live;
        }
    }
}

impl Desk {
    /// How everything stands.
    /// `foreseen`: what files say and no client has brought yet.
    pub(super) fn snapshot(&mut self, foreseen: &[BudgetSet], now_ms: u64) -> LedgerSnapshot {
        self.pace.prune(now_ms);
        let (mut top, mut nodes, mut left_out) = (Draft::default(), 1, BTreeSet::new());
        // Those that run come first, so that a long past does not crowd them out.
        for client in self.clients.values() {
            if let Some(set) = &client.set {
                top.put(&set.chain, true, &mut nodes, &mut left_out);
            }
        }
        for reservation in self.book.reservations() {
            top.put(&reservation.chain, false, &mut nodes, &mut left_out);
        }
        for chain in &self.places {
            top.put(chain, false, &mut nodes, &mut left_out);
        }
        for set in foreseen {
            let chain = capped(set);
            // Where it ran, there it stands already.
            if chain.first().is_some_and(|nearest| !top.has(nearest)) {
                top.put(chain, false, &mut nodes, &mut left_out);
            }
        }
        // What an operator set is shown also where nothing of that name has run yet.
        for (key, _) in self.edits.caps() {
            if !top.has(&key.scope) {
                top.put(&[key.scope.clone(), Scope::Host], false, &mut nodes, &mut left_out);
            }
        }
        let mut flights = BTreeMap::<&Scope, Vec<&Reservation>>::new();
        for reservation in self.book.reservations() {
            for run in reservation.chain.iter().filter(|scope| matches!(scope, Scope::Run(_))) {
                flights.entry(run).or_default().push(reservation);
            }
        }
        LedgerSnapshot {
            at_ms: now_ms,
            host: self.node(Scope::Host, &top, &Seen { flights, foreseen }, now_ms),
            failing: None,
            waiting: self.waiting.len() as u64,
            left_out: left_out.len() as u64,
        }
    }

    fn node(&self, scope: Scope, draft: &Draft, seen: &Seen<'_>, now_ms: u64) -> Node {
        let mut in_flight: Vec<InFlight> =
            seen.flights.get(&scope).into_iter().flatten().map(|reservation| flight(reservation, now_ms)).collect();
        in_flight.sort_by_key(|flight| std::cmp::Reverse(flight.age_ms));
        let child = |(scope, draft): (&Scope, &Draft)| self.node(scope.clone(), draft, seen, now_ms);
        let children = draft.children.iter().map(child).collect();
        Node { meters: self.meter_lines(&scope, seen.foreseen, now_ms), live: draft.live, in_flight, children, scope }
    }

    fn meter_lines(&self, scope: &Scope, foreseen: &[BudgetSet], now_ms: u64) -> Vec<MeterLine> {
        let mut caps = BTreeMap::<MeterName, Vec<CapLine>>::new();
        for (client, set) in self.clients.values().rev().filter_map(|client| Some((client, client.set.as_ref()?))) {
            let meters = set.caps.keys().chain(&client.meters).collect::<BTreeSet<_>>();
            for meter in meters.into_iter().filter(|_| set.chain.contains(scope)) {
                let binding = self.edits.binding(set, meter, now_ms);
                for cap in self.edits.all(set, meter, now_ms).iter().filter(|cap| cap.scope == *scope) {
                    let lines = caps.entry(meter.clone()).or_default();
                    self.cap_line(cap, meter, binding.contains(cap), now_ms, lines);
                }
            }
        }
        self.foresee(scope, foreseen, now_ms, &mut caps);
        let alone = BudgetSet { chain: vec![scope.clone()], ..BudgetSet::default() };
        for meter in self.edits.caps().filter(|(key, _)| key.scope == *scope).map(|(key, _)| &key.meter) {
            for cap in self.edits.all(&alone, meter, now_ms) {
                let lines = caps.entry(meter.clone()).or_default();
                if !lines.iter().any(|line| line.kind == cap.kind) {
                    self.cap_line(&cap, meter, true, now_ms, lines);
                }
            }
        }
        // Everything ever spent by a scope stands under one of the meters that anybody ever used: those are few.
        let used = self.used.iter().filter(|meter| {
            let line = (scope.clone(), (*meter).clone());
            self.totals.contains_key(&line) || self.book.held(scope, meter) != Both::default()
        });
        let meters: BTreeSet<MeterName> = used.chain(caps.keys()).cloned().collect();
        let line = |meter: MeterName| {
            let line = (scope.clone(), meter);
            let total = self.totals.get(&line).copied().unwrap_or_default();
            MeterLine {
                spent: self.book.total(scope, &line.1),
                held: self.book.held(scope, &line.1),
                caps: caps.remove(&line.1).unwrap_or_default(),
                rate: self.pace.rates(&line, now_ms),
                usage: total.usage,
                estimated: total.estimated,
                requests: total.requests,
                meter: line.1,
            }
        };
        meters.into_iter().map(line).collect()
    }

    /// Adds the caps that files say, where no run has brought one of its kind.
    fn foresee(
        &self,
        scope: &Scope,
        foreseen: &[BudgetSet],
        now_ms: u64,
        caps: &mut BTreeMap<MeterName, Vec<CapLine>>,
    ) {
        let brought: BTreeSet<_> =
            caps.iter().flat_map(|(meter, lines)| lines.iter().map(|line| (meter.clone(), line.kind))).collect();
        for set in foreseen.iter().filter(|set| set.chain.contains(scope)) {
            // An operator's cap binds where the files say nothing, too.
            let set_by_hand = self.edits.caps().map(|(key, _)| &key.meter);
            for meter in set.caps.keys().chain(set_by_hand).collect::<BTreeSet<_>>() {
                let binding = self.edits.binding(set, meter, now_ms);
                let own = |cap: &&Cap| cap.scope == *scope && !brought.contains(&(meter.clone(), cap.kind));
                for cap in self.edits.all(set, meter, now_ms).iter().filter(own) {
                    let lines = caps.entry(meter.clone()).or_default();
                    self.cap_line(cap, meter, binding.contains(cap), now_ms, lines);
                }
            }
        }
    }

    /// Adds a cap to the lines, once: that of the newest owner stands.
    fn cap_line(&self, cap: &Cap, meter: &MeterName, binds: bool, now_ms: u64, lines: &mut Vec<CapLine>) {
        let since_ms = cap.window.since_ms(now_ms);
        let until_ms = cap.window.until_ms(now_ms);
        let same =
            |line: &&mut CapLine| line.kind == cap.kind && (line.since_ms, line.until_ms) == (since_ms, until_ms);
        match lines.iter_mut().find(same) {
            Some(line) => line.replaced &= !binds,
            None => {
                let standing = self.book.standing(cap, meter, now_ms);
                lines.push(CapLine { kind: cap.kind, standing, since_ms, until_ms, replaced: !binds });
            }
        }
    }
}

/// What a snapshot is made of beside the desk itself.
struct Seen<'s> {
    flights: BTreeMap<&'s Scope, Vec<&'s Reservation>>,
    foreseen: &'s [BudgetSet],
}

/// The chain from its nearest scope that has a cap: of the others there is nothing to show.
fn capped(set: &BudgetSet) -> &[Scope] {
    let has = |scope: &Scope| set.caps.values().flatten().any(|cap| cap.scope == *scope);
    let from = set.chain.iter().position(has).unwrap_or(set.chain.len());
    &set.chain[from..]
}

fn flight(reservation: &Reservation, now_ms: u64) -> InFlight {
    InFlight {
        id: reservation.id,
        meter: reservation.meter.clone(),
        model: reservation.model.clone(),
        age_ms: now_ms.saturating_sub(reservation.at_ms),
        hold: reservation.hold,
        sent: reservation.stage == Stage::Dispatched,
    }
}
