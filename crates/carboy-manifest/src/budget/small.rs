//! Budgets that let no request through: what is held for the shortest one is more.
//!
//! *Must never* be an error: a budget may be meant so, and a lower `output_min` may come with the next file.

use carboy_core::budget::{Amount, Terms, shown};

use crate::diagnostic::{Code, Diagnostic};

/// What is said of such a budget; `what` names it. One of nothing says by itself that nothing is let through.
pub fn too_small(what: &str, amount: Amount, terms: &Terms) -> Option<Diagnostic> {
    let least = terms.least_hold().filter(|least| amount < *least && amount > Amount::ZERO)?.tokens_up();
    let (tokens, output) = (shown(amount.tokens_down()), terms.output_min);
    let message = format!(
        "{what} is {tokens} tokens, and {least} are held for the shortest request: every request will be refused"
    );
    let fix = format!(
        "write more: {least} are an answer of `output_min` ({output}) and its margin, and what a request reads is held beside them"
    );
    Some(Diagnostic::warning(Code::BudgetTooSmall, message, fix))
}
