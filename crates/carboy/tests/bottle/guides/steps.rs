//! A guide's commands, and what it shows below them.

use std::collections::BTreeMap;

use regex::Regex;

/// One `$ ` line, with its here-document, and the lines that follow it.
#[derive(Debug, Default)]
pub struct Step {
    /// Where it stands in the guide, from 1.
    pub line: usize,
    pub command: String,
    pub shown: Vec<String>,
}

/// All steps of a document, in order.
pub fn read(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut inside, mut until): (bool, Option<String>) = (false, None);
    for (number, line) in text.lines().enumerate() {
        match (&until, line) {
            (Some(end), _) => {
                let step = steps.last_mut().expect("a here-document belongs to a command");
                step.command.push_str(&format!("\n{line}"));
                until = (line != end).then(|| end.clone());
            }
            (None, "```console") => inside = true,
            (None, "```") => inside = false,
            (None, _) if !inside => {}
            (None, _) => match line.strip_prefix("$ ") {
                Some(command) => {
                    let end = command.split_once("<<'").and_then(|(_, rest)| rest.split('\'').next());
                    until = end.map(str::to_owned);
                    steps.push(Step { line: number + 1, command: command.to_owned(), shown: Vec::new() });
                }
                None => steps.last_mut().expect("a block begins with a command").shown.push(line.to_owned()),
            },
        }
    }
    steps
}

impl Step {
    /// Does the guide say that it fails?
    pub fn tolerates_failure(&self, next: Option<&Step>) -> bool {
        let says = |line: &String| ["ended with code", "error:", "curl: ("].iter().any(|part| line.contains(part));
        next.is_some_and(|next| next.command == "echo $?") || self.shown.iter().any(says)
    }
}

/// Ids as the guide shows them, and as they are here.
#[derive(Default)]
pub struct Known(BTreeMap<String, String>);

/// Runs, denials and refusals.
const IDS: &str = r"\b(?:[rd]-[0-9a-f]{8}|x-[0-9a-hjkmnp-tv-z]{6})\b";
/// Sizes and times.
const AMOUNTS: &str = r"\b\d+(?:\.\d+)? (?:B|KiB|MiB|ms|s|min)\b";

impl Known {
    /// A command with the ids that are known.
    pub fn translate(&self, command: &str) -> String {
        self.0.iter().fold(command.to_owned(), |text, (shown, here)| text.replace(shown, here))
    }

    /// Fails with the first shown line that did not come. Nothing shown: anything may come.
    pub fn compare(&mut self, shown: &[String], said: &str) -> Result<(), String> {
        let mut said: &[&str] = &said.lines().collect::<Vec<_>>();
        let mut anywhere = false;
        for line in shown {
            if line.trim() == "…" {
                anywhere = true;
                continue;
            }
            let (pattern, ids) = self.pattern(line);
            let at = said.iter().position(|came| pattern.is_match(came)).filter(|at| anywhere || *at == 0);
            let Some(at) = at else { return Err(format!("the guide shows: {line}")) };
            let found = pattern.captures(said[at]).expect("it matched");
            for (index, id) in ids.into_iter().enumerate() {
                self.0.insert(id, found[index + 1].to_owned());
            }
            (said, anywhere) = (&said[at + 1..], false);
        }
        let rest = said.iter().find(|line| !line.trim().is_empty());
        match rest {
            Some(line) if !anywhere && !shown.is_empty() => Err(format!("the guide does not show: {line}")),
            Some(_) | None => Ok(()),
        }
    }

    /// A shown line as an expression, and the ids that its groups are, which are new.
    fn pattern(&self, line: &str) -> (Regex, Vec<String>) {
        let amount = Regex::new(&format!("^{AMOUNTS}$")).unwrap();
        let (special, mut at) = (Regex::new(&format!(r"{IDS}|{AMOUNTS}|…|\s+")).unwrap(), 0);
        let (mut pattern, mut ids) = (String::from("^\\s*"), Vec::new());
        let line = line.trim();
        for found in special.find_iter(line) {
            pattern.push_str(&regex::escape(&line[at..found.start()]));
            at = found.end();
            match found.as_str() {
                "…" => pattern.push_str(".*"),
                blank if blank.trim().is_empty() => pattern.push_str("\\s+"),
                text if amount.is_match(text) => pattern.push_str(AMOUNTS),
                text => match self.0.get(text) {
                    Some(here) => pattern.push_str(&regex::escape(here)),
                    None => {
                        pattern.push_str(&format!("({IDS})"));
                        ids.push(text.to_owned());
                    }
                },
            }
        }
        pattern.push_str(&regex::escape(&line[at..]));
        (Regex::new(&format!("{pattern}\\s*$")).unwrap(), ids)
    }
}
