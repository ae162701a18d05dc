//! A card's question: what code made of an action's arguments, and a person's y or n.
//!
//! *Must never* be answered by a pipe, a flag or a model: without a person the answer is no.

use carboy_control::chat::Card;

use super::page::shown;
use crate::report::{columns, wrapped};

/// Cards that one message may lead to, one after the other.
pub const CARDS_MAX: usize = 8;

/// What is asked.
pub fn question(card: &Card) -> String {
    let action = shown(&card.action).replace('\n', " ");
    let action = if action.trim().is_empty() { "Do it".to_owned() } else { action.trim().to_owned() };
    wrapped(&format!("  {action}? [y/N] "), columns(std::io::stdout()))
}
