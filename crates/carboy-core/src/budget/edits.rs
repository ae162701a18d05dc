//! What an operator changed while things run: it stands over what the files say, and never touches what was spent.
//!
//! *Must never* lift a cap that it was not told of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::caps::{BudgetSet, Cap, CapKind, Scope};
use super::usage::{Amount, Count};
use super::window::Window;
use crate::ids::MeterName;

/// Which cap: there is at most one of a kind for a scope and a meter that an operator can name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CapKey {
    /// Whose.
    pub scope: Scope,
    /// What is metered.
    pub meter: MeterName,
    /// Replaceable or not.
    pub kind: CapKind,
}

/// A cap as the operator set it. It takes the place of everything that the files say under its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapEdit {
    /// How much.
    pub amount: Amount,
    /// How tokens are counted; as the file says where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
    /// Over which time; as the file says where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
}

/// An amount that was given on top, in the window in which that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopUp {
    /// How much.
    pub amount: Amount,
    /// When.
    pub at_ms: u64,
}

/// Most top-ups of one cap: it is raised then.
pub const TOP_UPS_MAX: usize = 1_000;

/// Everything that the operator changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    caps: BTreeMap<CapKey, CapEdit>,
    top_ups: BTreeMap<CapKey, Vec<TopUp>>,
}

impl Edits {
    /// Sets a cap.
    pub fn set(&mut self, key: CapKey, edit: CapEdit) {
        self.caps.insert(key, edit);
    }

    /// What the files say holds again; whether anything else did.
    pub fn unset(&mut self, key: &CapKey) -> Option<CapEdit> {
        self.caps.remove(key)
    }

    /// Gives an amount on top; `None`, and nothing is changed, after [`TOP_UPS_MAX`].
    pub fn top_up(&mut self, key: CapKey, top_up: TopUp) -> Option<()> {
        let all = self.top_ups.entry(key).or_default();
        (all.len() < TOP_UPS_MAX).then(|| all.push(top_up))
    }

    /// The caps that the operator set.
    pub fn caps(&self) -> impl Iterator<Item = (&CapKey, &CapEdit)> {
        self.caps.iter()
    }

    /// The caps that bind a request of a run now, nearest first, with everything that was changed.
    pub fn binding(&self, set: &BudgetSet, meter: &MeterName, now_ms: u64) -> Vec<Cap> {
        if self.caps.is_empty() && self.top_ups.is_empty() {
            return set.binding(meter).into_iter().cloned().collect();
        }
        set.binding_of(&self.all(set, meter, now_ms)).into_iter().cloned().collect()
    }

    /// Every cap of a run's scopes now, those that a nearer budget replaces included.
    pub fn all(&self, set: &BudgetSet, meter: &MeterName, now_ms: u64) -> Vec<Cap> {
        let files = set.caps.get(meter).map(Vec::as_slice).unwrap_or_default();
        let mut all: Vec<Cap> = files.iter().filter_map(|cap| self.left(cap, meter)).collect();
        for (key, edit) in self.caps.iter().filter(|(key, _)| key.meter == *meter && set.chain.contains(&key.scope)) {
            let file = files.iter().find(|cap| cap.scope == key.scope && cap.kind == key.kind);
            let cap = Cap {
                scope: key.scope.clone(),
                kind: key.kind,
                amount: edit.amount,
                count: edit.count.or(file.map(|cap| cap.count)).unwrap_or_default(),
                window: edit.window.clone().or(file.map(|cap| cap.window.clone())).unwrap_or_default(),
                most: None,
            };
            // By the same measure they are one cap.
            match all.iter_mut().find(|known| by_one_measure(known, &cap)) {
                Some(known) => known.amount = cap.amount,
                None => all.push(cap),
            }
        }
        for cap in &mut all {
            let amount = cap.amount.plus(self.given(cap, meter, now_ms)).unwrap_or(Amount::milli(u64::MAX));
            cap.amount = cap.most.map_or(amount, |most| most.min(amount));
        }
        all
    }

    /// What is left of a file's cap beside an edit: what the machine's settings say of it.
    fn left(&self, cap: &Cap, meter: &MeterName) -> Option<Cap> {
        match (self.caps.contains_key(&key_of(cap, meter)), cap.most) {
            (false, _) => Some(cap.clone()),
            (true, Some(most)) => Some(Cap { amount: most, ..cap.clone() }),
            (true, None) => None,
        }
    }

    /// What was given on top of a cap in its present window.
    fn given(&self, cap: &Cap, meter: &MeterName, now_ms: u64) -> Amount {
        let since = cap.window.since_ms(now_ms);
        let all = self.top_ups.get(&key_of(cap, meter)).map(Vec::as_slice).unwrap_or_default();
        let counts = all.iter().filter(|top_up| top_up.at_ms >= since);
        counts.fold(Amount::ZERO, |sum, top_up| sum.plus(top_up.amount).unwrap_or(sum))
    }
}

fn by_one_measure(one: &Cap, other: &Cap) -> bool {
    Cap { amount: other.amount, most: other.most, ..one.clone() } == *other
}

fn key_of(cap: &Cap, meter: &MeterName) -> CapKey {
    CapKey { scope: cap.scope.clone(), meter: meter.clone(), kind: cap.kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> MeterName {
        MeterName::parse("anthropic").unwrap()
    }

    fn cap(scope: Scope, kind: CapKind, tokens: u64, window: Window) -> Cap {
        Cap { scope, kind, amount: Amount::tokens(tokens).unwrap(), count: Count::Raw, window, most: None }
    }

    fn key(scope: Scope, kind: CapKind) -> CapKey {
        CapKey { scope, meter: meter(), kind }
    }

    fn edit(tokens: u64) -> CapEdit {
        CapEdit { amount: Amount::tokens(tokens).unwrap(), count: None, window: None }
    }

    fn set(caps: Vec<Cap>) -> BudgetSet {
        let chain = vec![Scope::Run("r".into()), Scope::Bottle("b".into()), Scope::Host];
        BudgetSet { chain, caps: [(meter(), caps)].into(), ..BudgetSet::default() }
    }

    fn amounts(edits: &Edits, set: &BudgetSet, now_ms: u64) -> Vec<u64> {
        edits.binding(set, &meter(), now_ms).iter().map(|cap| cap.amount.tokens_down()).collect()
    }

    #[test]
    fn what_the_operator_set_stands_over_the_files_until_it_is_unset() {
        let hour = Window::Rolling { ms: 3_600_000 };
        let set = set(vec![
            cap(Scope::Host, CapKind::Budget, 100, hour.clone()),
            cap(Scope::Host, CapKind::Ceiling, 900, hour.clone()),
        ]);
        let mut edits = Edits::default();
        edits.set(key(Scope::Host, CapKind::Budget), edit(50));
        assert_eq!(amounts(&edits, &set, 0), [50, 900]);
        let bound = edits.binding(&set, &meter(), 0);
        assert!(
            bound.iter().all(|cap| cap.window == hour && cap.count == Count::Raw),
            "the file's window and count stay"
        );
        // A budget of the run is nearer than the host's, a cap of another run is nobody's here.
        edits.set(key(Scope::Run("r".into()), CapKind::Budget), edit(7));
        edits.set(key(Scope::Run("other".into()), CapKind::Ceiling), edit(1));
        assert_eq!(amounts(&edits, &set, 0), [7, 900]);
        assert!(edits.unset(&key(Scope::Run("r".into()), CapKind::Budget)).is_some());
        assert!(edits.unset(&key(Scope::Host, CapKind::Budget)).is_some());
        assert_eq!(amounts(&edits, &set, 0), [100, 900]);
    }

    #[test]
    fn c7_no_edit_and_no_top_up_goes_beyond_what_the_machine_allows() {
        let hour = Window::Rolling { ms: 3_600_000 };
        let ceiling = cap(Scope::Host, CapKind::Ceiling, 100, Window::Lifetime);
        let set = set(vec![Cap { most: Amount::tokens(900), ..ceiling }]);
        let key = key(Scope::Host, CapKind::Ceiling);
        let mut edits = Edits::default();
        assert_eq!(amounts(&edits, &set, 0), [100]);
        edits.set(key.clone(), edit(700));
        assert_eq!(amounts(&edits, &set, 0), [700]);
        edits.set(key.clone(), edit(5_000));
        assert_eq!(amounts(&edits, &set, 0), [900]);
        // Another measure is no way around it: both bind then.
        edits.set(key.clone(), CapEdit { window: Some(hour), ..edit(5_000) });
        assert_eq!(amounts(&edits, &set, 0), [900, 5_000]);
        edits.unset(&key);
        edits.top_up(key, TopUp { amount: Amount::tokens(5_000).unwrap(), at_ms: 0 }).unwrap();
        assert_eq!(amounts(&edits, &set, 0), [900]);
    }

    #[test]
    fn a_top_up_counts_in_the_window_in_which_it_was_made() {
        let set = set(vec![
            cap(Scope::Host, CapKind::Budget, 100, Window::Rolling { ms: 3_600_000 }),
            cap(Scope::Bottle("b".into()), CapKind::Ceiling, 100, Window::Lifetime),
        ]);
        let mut edits = Edits::default();
        let top_up = TopUp { amount: Amount::tokens(20).unwrap(), at_ms: 1_000 };
        edits.top_up(key(Scope::Host, CapKind::Budget), top_up).unwrap();
        edits.top_up(key(Scope::Bottle("b".into()), CapKind::Ceiling), top_up).unwrap();
        assert_eq!(amounts(&edits, &set, 2_000), [120, 120]);
        assert_eq!(amounts(&edits, &set, 3_602_000), [120, 100]);
        // It comes on top of what is set later, too.
        edits.set(key(Scope::Host, CapKind::Budget), edit(10));
        assert_eq!(amounts(&edits, &set, 2_000), [120, 30]);
    }

    #[test]
    fn there_is_an_end_to_top_ups() {
        let mut edits = Edits::default();
        let top_up = TopUp { amount: Amount::milli(1), at_ms: 0 };
        for _ in 0..TOP_UPS_MAX {
            edits.top_up(key(Scope::Host, CapKind::Budget), top_up).unwrap();
        }
        assert_eq!(edits.top_up(key(Scope::Host, CapKind::Budget), top_up), None);
    }
}
