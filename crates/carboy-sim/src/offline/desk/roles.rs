//! Which tool of an agent does what a support desk does: by the names that such tools have.

use super::super::conversation::{Conversation, Offer, Outcome};
use super::super::words::{spoken, words};

/// What a tool is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Lookup,
    Check,
    Start,
    Policy,
}

/// The tools of a desk; some desks lack some.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Roles<'a> {
    pub lookup: Option<&'a Offer>,
    pub check: Option<&'a Offer>,
    pub start: Option<&'a Offer>,
    pub policy: Option<&'a Offer>,
}

impl<'a> Roles<'a> {
    /// `None` where this is no desk: one that knows orders does something with them, or has the look-up by its usual name.
    pub fn of(conversation: &'a Conversation) -> Option<Roles<'a>> {
        let find = |role| conversation.tools.iter().find(|tool| fits(&tool.name, role));
        let roles = Roles {
            lookup: find(Role::Lookup),
            check: find(Role::Check),
            start: find(Role::Start),
            policy: find(Role::Policy),
        };
        let usual = roles.lookup.is_some_and(|tool| tool.name == "lookup_order") || roles.policy.is_some();
        let pair = roles.lookup.is_some() && (roles.check.is_some() || roles.start.is_some());
        (usual || pair || roles.check.is_some()).then_some(roles)
    }

    /// What shows that an order can be returned: the check, or the look-up where there is none.
    pub fn proof(&self) -> Option<&'a Offer> {
        self.check.or(self.lookup)
    }

    /// What the tool of an outcome is for.
    pub fn role_of(&self, outcome: &Outcome) -> Option<Role> {
        let is = |tool: Option<&Offer>| tool.is_some_and(|tool| tool.name == outcome.tool);
        let roles = [
            (self.lookup, Role::Lookup),
            (self.check, Role::Check),
            (self.start, Role::Start),
            (self.policy, Role::Policy),
        ];
        roles.into_iter().find(|(tool, _)| is(*tool)).map(|(_, role)| role)
    }
}

fn fits(name: &str, role: Role) -> bool {
    let words = words(&spoken(name));
    let has = |any: &[&str]| any.iter().any(|word| words.iter().any(|own| own == word));
    match role {
        Role::Lookup => has(&["order", "orders"]) && has(&["lookup", "look", "find", "track", "status"]),
        Role::Check => has(&["eligibility", "eligible"]),
        Role::Start => {
            has(&["return", "refund"]) && has(&["start", "initiate", "create", "request", "open", "begin", "register"])
        }
        Role::Policy => has(&["policy", "policies", "faq"]),
    }
}
