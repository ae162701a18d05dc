//! What a page says of a chat agent beside its policy: its model and tools, who may call what, what a message and a reply
//! pass, what it says by itself, and every threshold with its place.
//!
//! *Must never* leave a tool or a rule out.

use std::fmt::Write as _;

use carboy_manifest::chat::ChatView;
use carboy_weave::fault::Problem;
use carboy_weave::page::{Cell, Page};
use serde_json::Value;

use super::sections::{origin, plain};
use crate::check::{SEEN_BY_TOOLS, authorization_in_words, has_tools_in_bottle, rules_in_words, tool_in_words};

/// Rows of the table of who it is.
pub fn identity(view: &ChatView) -> Vec<Vec<Cell>> {
    let model = &view.model.value;
    let text = |key: &str| model[key].as_str().unwrap_or_default().to_owned();
    let mut rows = vec![
        vec![Cell::text("Model"), Cell::code(text("name"))],
        vec![Cell::text("Reached at"), Cell::code(format!("{}:{}{}", text("host"), model["port"], text("path")))],
        vec![Cell::text("People are told apart by"), Cell::text(words(&view.identity.value))],
    ];
    if let Some(preset) = view.preset {
        rows.push(vec![Cell::text("Preset"), Cell::code(preset)]);
    }
    rows
}

/// Tools and the rules on them.
pub fn tools(page: &mut Page, view: &ChatView, who: &str) -> Result<(), Problem> {
    page.heading(2, "What it can do");
    if view.tools.value.is_empty() {
        page.paragraph("It has no tools: it can only talk.");
        return Ok(());
    }
    page.paragraph(
        "The model asks for a tool; code decides. Who is asking comes from the service and never from an argument, and what changes \
         something waits for a person's click on a card that code has made of its arguments, unless the file says otherwise.",
    );
    let mut drawing = String::from("flowchart LR\n");
    // Writing to a String cannot fail.
    let _ = writeln!(drawing, "  person([\"person\"]) --> agent[\"{}\"]", plain(who));
    for (n, tool) in view.tools.value.iter().enumerate() {
        let _ = writeln!(drawing, "  agent --> t{n}[\"{}\"]", plain(&tool_in_words(tool)));
    }
    page.diagram(&drawing, 1)?;
    let rows: Vec<Vec<Cell>> = view.tools.value.iter().map(|tool| vec![Cell::text(tool_in_words(tool))]).collect();
    page.table("Tools", &["Tools, and where they come from"], &rows);
    if has_tools_in_bottle(view) {
        page.paragraph(&format!("Of its owner's files, what runs in the bottle sees {SEEN_BY_TOOLS}."));
    }
    let rules: Vec<Vec<Cell>> = view
        .rules
        .iter()
        .map(|(name, rules)| vec![Cell::code(name.clone()), Cell::text(rules_in_words(rules))])
        .collect();
    if !rules.is_empty() {
        page.table("What is demanded of a call", &["Tool", "Demanded"], &rules);
    }
    if !view.authorize.value.is_empty() {
        page.paragraph("Who may call what; the first line that fits decides:");
        page.list(
            &view.authorize.value.iter().map(|rule| Cell::text(authorization_in_words(rule))).collect::<Vec<_>>(),
        );
    }
    Ok(())
}

/// The seven layers, in the order of `crates/carboy-agent/src/turn.rs`.
pub fn layers(page: &mut Page, view: &ChatView) -> Result<(), Problem> {
    page.heading(2, "What every message passes");
    page.diagram(
        "sequenceDiagram\n  autonumber\n  participant P as person\n  participant A as agent\n  participant M as model\n  participant T as tool\n  \
         P->>A: message\n  A->>A: rate limit\n  A->>A: input: length, form\n  A->>A: injection\n  loop until it answers\n    A->>M: prompt, by the gateway\n    \
         M-->>A: words, or a call\n    A->>T: allowed, checked, proven, confirmed\n    T-->>A: result\n  end\n  A->>A: secrets and personal data out\n  \
         A->>A: what it claims stands in a result\n  A-->>P: reply, sentence by sentence\n",
        1,
    )?;
    page.paragraph(
        "Each layer takes the result of the one before it. A reply that fails a check is not shown and never goes back to the model; the \
         person reads the fallback. Every decision is in the log, without a word of what was said.",
    );
    let reply = &view.reply.value;
    let list = |key: &str| {
        let all: Vec<&str> = reply[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if all.is_empty() { "none".to_owned() } else { all.join("   ") }
    };
    let yes = |key: &str, yes: &str, no: &str| if reply[key] == true { yes.to_owned() } else { no.to_owned() };
    let scope = if reply["scope"] == "session" { "of this conversation" } else { "of this turn" };
    let rows = vec![
        vec![Cell::text("Ids that must come from a tool"), Cell::code(list("ids"))],
        vec![Cell::text("Dates must come from a tool"), Cell::text(yes("dates", "yes", "no"))],
        vec![Cell::text("Results that count"), Cell::text(scope)],
        vec![Cell::text("Form"), Cell::text(yes("plain_text", "plain text, no Markdown", "any"))],
        vec![Cell::text("Only beside the refusal"), Cell::code(list("off_topic"))],
    ];
    page.table("What a reply keeps to", &["What", "Which"], &rows);
    Ok(())
}

/// Texts that no model writes.
pub fn texts(page: &mut Page, view: &ChatView) {
    page.heading(2, "What it says by itself");
    let prompt = &view.prompt.value;
    let said = [("Greeting", view.greeting.value.clone())].into_iter().chain(
        [
            ("To what is not its business", "refusal"),
            ("In place of a reply that was withheld", "fallback"),
            ("When no model may be asked", "hand_off"),
        ]
        .map(|(when, key)| (when, prompt[key].as_str().unwrap_or_default().to_owned())),
    );
    let rows: Vec<Vec<Cell>> = said.map(|(when, text)| vec![Cell::text(when), Cell::text(text)]).collect();
    page.table("What it says by itself", &["When", "Words"], &rows);
}

/// Every threshold.
pub fn bounds(page: &mut Page, view: &ChatView) {
    page.heading(2, "Its bounds");
    let row = |(name, one): (&&str, &carboy_manifest::origin::Sourced<Value>)| {
        vec![Cell::code(*name), Cell::text(words(&one.value)), origin(&one.origin)]
    };
    let rows: Vec<Vec<Cell>> = view.limits.iter().chain(&view.screening).map(row).collect();
    page.table("Its bounds", &["Name", "Value", "Said in"], &rows);
    page.paragraph(&format!(
        "{} patterns of attacks and {} filters of replies of its own stand beside the built-in ones.",
        view.injection_patterns.len(),
        view.output_filters.len()
    ));
}

fn words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
