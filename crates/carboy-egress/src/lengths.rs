//! How long the latest answers were, together with what they were answers to: to go on from one by its name costs that, and
//! from another one the model's whole context.
//!
//! *Must never* take one host's word for what another one keeps, or a shorter length for a longer one.

use std::collections::{BTreeMap, VecDeque};

use carboy_core::host::Host;

/// Answers that are remembered.
const KNOWN_MAX: usize = 4_096;

/// See the module.
#[derive(Default)]
pub(crate) struct Lengths {
    tokens: BTreeMap<(Host, String), u64>,
    order: VecDeque<(Host, String)>,
}

impl Lengths {
    /// Tokens of an answer of this host.
    pub(crate) fn of(&self, host: &Host, name: &str) -> Option<u64> {
        self.tokens.get(&(host.clone(), name.to_owned())).copied()
    }

    /// An answer has ended.
    pub(crate) fn remember(&mut self, host: &Host, name: &str, tokens: u64) {
        let key = (host.clone(), name.to_owned());
        if let Some(known) = self.tokens.get_mut(&key) {
            *known = tokens.max(*known);
            return;
        }
        if self.order.len() >= KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
        self.order.push_back(key.clone());
        self.tokens.insert(key, tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_hosts_and_its_longest_length_stands() {
        let (one, other) = (Host::parse("a.example").unwrap(), Host::parse("b.example").unwrap());
        let mut lengths = Lengths::default();
        lengths.remember(&one, "msg_1", 900);
        lengths.remember(&one, "msg_1", 5);
        assert_eq!((lengths.of(&one, "msg_1"), lengths.of(&other, "msg_1")), (Some(900), None));
        (0..KNOWN_MAX).for_each(|n| lengths.remember(&one, &format!("m{n}"), 1));
        assert_eq!((lengths.of(&one, "msg_1"), lengths.tokens.len()), (None, KNOWN_MAX));
    }
}
