//! Tools that rules name: each has to be one that the agent has. A rule for a tool that is not there guards nothing.
//!
//! ```text
//!  file alone:    built-in tools and what scripts declare ─▶ an error for a slip, a warning for what no script says
//!  at the start:  what all sources offer                  ─▶ an error for every other name
//! ```
//!
//! *Must never* refuse by the file alone a name that a server may offer: what servers have is known when they run.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use carboy_core::chat::ToolSource;
use regex::Regex;

use super::file::ChatFile;
use super::part::ChatPart;
use super::tools::built_in_name;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position, excerpt, listed};
use crate::schema::Scope;

/// A tool that a rule names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedTool {
    pub(crate) tool: String,
    /// The key that names it, as messages have it.
    pub(crate) key: String,
    pub(crate) at: Position,
}

/// How scripts declare a tool: `"name": "x"`, `name="x"`, `registerTool("x"`, `@server.tool()` over `def x`. The name of the server
/// is none of a tool.
static DECLARED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"(?m)(?P<server>serverInfo["']?\s*[:=]\s*\{\s*)?(?:["']?\bname["']?\s*[:=]\s*|[tT]ool\(\s*)["'](?P<quoted>[A-Za-z0-9_.-]{1,64})["']|^\s*@[^\n]*[tT]ool[^\n]*\n\s*(?:async\s+)?def\s+(?P<def>[A-Za-z0-9_]{1,64})"#,
    )
    .expect("a pattern that a test compiles")
});

/// What the file alone tells of the tools that its rules name.
pub(super) fn report_strangers(scope: &mut Scope<'_>, part: &ChatPart) {
    if part.tools.broken {
        // What a source that is not understood would have offered, nobody knows.
        return;
    }
    let (mut known, mut scripts) = (BTreeSet::new(), Vec::new());
    for source in &part.tools.sources {
        match &source.value {
            ToolSource::BuiltIn(tool) => drop(known.insert(built_in_name(*tool))),
            ToolSource::Script { text, .. } => scripts.push(text.as_str()),
            ToolSource::Command { .. } | ToolSource::Http { .. } | ToolSource::Application => return,
        }
    }
    known.extend(scripts.iter().flat_map(|text| declared(text)));
    for named in &part.rules.named {
        let said = known.contains(named.tool.as_str()) || scripts.iter().any(|text| stands_in(text, &named.tool));
        if said {
            continue;
        }
        let found = match (scripts.is_empty(), nearest(&named.tool, &known)) {
            (true, _) => unknown(named, scope.owner, &known),
            (false, Some(meant)) => {
                let message = format!(
                    "{} of {} names the tool `{}`, which stands in none of its scripts",
                    named.key, scope.owner, named.tool
                );
                let fix = format!(
                    "did you mean `{meant}`? its tools are {}; a name that a script puts together stands in it whole, in a comment",
                    listed(&known)
                );
                Diagnostic::error(Code::UnknownTool, message, fix)
            }
            (false, None) => {
                let message = format!(
                    "{} of {} names the tool `{}`, which stands in none of its scripts",
                    named.key, scope.owner, named.tool
                );
                let fix = "it does not start unless a script offers that tool; correct the name, or write it into the script, in a comment";
                Diagnostic::warning(Code::UnknownTool, message, fix)
            }
        };
        scope.out.push_once(found.at(scope.file, named.at));
    }
}

impl ChatFile {
    /// What its rules name besides `tools`, the names of all that it has when it runs.
    pub fn strangers<'t>(&self, tools: impl IntoIterator<Item = &'t str>) -> Diagnostics {
        let known: BTreeSet<&str> = tools.into_iter().collect();
        let mut out = Diagnostics::default();
        for named in self.named.iter().filter(|named| !known.contains(named.tool.as_str())) {
            out.push_once(unknown(named, &format!("agent `{}`", self.name), &known).at(&self.file, named.at));
        }
        out
    }
}

fn unknown(named: &NamedTool, owner: &str, known: &BTreeSet<&str>) -> Diagnostic {
    let message = format!("{} of {owner} names the tool `{}`, which it does not have", named.key, named.tool);
    let fix = match (known.is_empty(), nearest(&named.tool, known)) {
        (true, _) => "name its tools under `tools`, or remove the rule".to_owned(),
        (false, Some(meant)) => format!("did you mean {}? it has {}", excerpt(meant), listed(known)),
        (false, None) => format!("it has {}", listed(known)),
    };
    Diagnostic::error(Code::UnknownTool, message, fix)
}

/// The tools that a script declares, as far as its text shows them.
fn declared(text: &str) -> impl Iterator<Item = &str> {
    let found = DECLARED.captures_iter(text).filter(|found| found.name("server").is_none());
    found.filter_map(|found| Some(found.name("quoted").or_else(|| found.name("def"))?.as_str()))
}

/// Does it stand there as a word of its own?
fn stands_in(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    text.match_indices(name).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part) && !text[at + name.len()..].chars().next().is_some_and(part)
    })
}

/// The one that is at most two slips away; a short name only one.
fn nearest<'k>(name: &str, known: &BTreeSet<&'k str>) -> Option<&'k str> {
    let most = if name.len() <= 4 { 1 } else { 2 };
    let slips = known.iter().map(|known| (slips(name, known), *known)).filter(|(slips, _)| *slips <= most);
    slips.min().map(|(_, known)| known)
}

/// Letters that are others, missing, too many or have changed places with the next, between two names (optimal string alignment).
fn slips(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase().into_bytes(), b.to_ascii_lowercase().into_bytes());
    let (mut before, mut last): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_counted_and_the_nearest_name_is_meant() {
        assert_eq!((slips("start_retrun", "start_return"), slips("look_order", "lookup_order")), (1, 2));
        assert_eq!((slips("", "ab"), slips("ab", ""), slips("x", "x")), (2, 2, 0));
        let known = BTreeSet::from(["lookup_order", "start_return"]);
        assert_eq!(nearest("lookup_ordr", &known), Some("lookup_order"));
        assert_eq!(nearest("refund", &known), None);
        assert_eq!(nearest("abcd", &BTreeSet::from(["abxy"])), None);
    }

    #[test]
    fn tools_that_a_script_declares_are_seen_in_each_usual_spelling() {
        let script = "T = [{\"name\": \"a_tool\"}, Tool(name='b.tool')]\nserver.registerTool(\"c-tool\", {})\n\
                      @mcp.tool()\nasync def d_tool(x):\n    pass\n{\"serverInfo\": {\"name\": \"shop\"}}\n";
        assert_eq!(declared(script).collect::<Vec<_>>(), ["a_tool", "b.tool", "c-tool", "d_tool"]);
        assert!(stands_in(script, "a_tool") && !stands_in(script, "ool") && !stands_in(script, "a_too"));
    }
}
