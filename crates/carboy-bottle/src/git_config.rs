//! What a bottle may leave in a repository's `.git/config`.
//!
//! That file can make the host's git run programs (`core.fsmonitor`, `alias.*`, `filter.*`, `core.hooksPath`, includes…),
//! and it has to stay writable (`git remote add`, `git push -u`). So it is compared at the end: changes of `branch.*` and
//! of `remote.*.url` and `.fetch` stay, every other one is taken out (B51).

use std::fmt::Write;
use std::path::Path;

/// The outcome of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigAudit {
    /// What the file should hold now.
    pub kept: String,
    /// What was taken out or put back, one line each, for people: `added core.fsmonitor = …`.
    pub quarantined: Vec<String>,
}

/// Compares a repository's settings before and after a run. A text that cannot be understood is replaced as a whole.
/// `workspace` is where repositories may be that its remotes name by a path.
pub fn audit_git_config(workspace: &Path, before: &str, after: &str) -> ConfigAudit {
    audit(before, after, |entry| stays(workspace, entry))
}

/// The same for a repository that was made during the run: what `git init` writes stays as well.
pub fn audit_new_git_config(workspace: &Path, after: &str) -> ConfigAudit {
    audit("", after, |entry| stays(workspace, entry) || made_by_init(entry))
}

/// One setting: `section[.subsection].key = value`, section and key in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    section: String,
    subsection: Option<String>,
    key: String,
    /// The lines as they stand, from the key on.
    raw: String,
    value: String,
}

enum Piece {
    Header {
        raw: String,
    },
    Setting(Entry),
    /// Comments and empty lines.
    Other(String),
}

fn stays(workspace: &Path, entry: &Entry) -> bool {
    match (entry.section.as_str(), entry.key.as_str()) {
        ("branch", "merge" | "rebase" | "description") => entry.subsection.is_some(),
        // A branch's remote is a name, or a URL itself.
        ("branch", "remote" | "pushremote") => {
            let is_name = !entry.value.contains(['/', ':', '\\']) && !entry.value.starts_with('-');
            entry.subsection.is_some() && (is_name || is_harmless(workspace, &entry.value))
        }
        ("remote", "url" | "pushurl") => entry.subsection.is_some() && is_harmless(workspace, &entry.value),
        ("remote", "fetch") => entry.subsection.is_some(),
        _ => false,
    }
}

/// Over the network, or in the workspace, whose hooks are looked at. `ext::` and the like name a program to run, and a
/// push to any other path runs the hooks of whatever was put there.
fn is_harmless(workspace: &Path, url: &str) -> bool {
    if url.contains("::") || url.starts_with('-') {
        return false;
    }
    if let Some((scheme, _)) = url.split_once("://") {
        return matches!(
            scheme.to_ascii_lowercase().as_str(),
            "https" | "http" | "ssh" | "git" | "git+ssh" | "ssh+git"
        );
    }
    // `user@host:path`: for git a path has no colon before its first slash.
    let host = url.split('/').next().unwrap_or_default();
    if host.contains(':') {
        return true;
    }
    let path = Path::new(url);
    path.starts_with(workspace) && path.components().all(|part| part != std::path::Component::ParentDir)
}

fn made_by_init(entry: &Entry) -> bool {
    // Without it a repository with other hashes cannot be read.
    if (entry.section.as_str(), entry.key.as_str()) == ("extensions", "objectformat") {
        return entry.subsection.is_none();
    }
    const KEYS: [&str; 7] = [
        "repositoryformatversion",
        "filemode",
        "bare",
        "logallrefupdates",
        "ignorecase",
        "precomposeunicode",
        "symlinks",
    ];
    entry.section == "core" && entry.subsection.is_none() && KEYS.contains(&entry.key.as_str())
}

/// The settings of a text that make git run a program or read settings from elsewhere, as `section.key = value`. A text
/// that cannot be understood is named as a whole: git may understand it.
pub(crate) fn settings_that_run(text: &str) -> Vec<String> {
    match parse(text) {
        Some(pieces) => {
            pieces.iter().filter_map(Piece::setting).filter(|entry| runs(entry)).map(ToString::to_string).collect()
        }
        None => vec!["settings that cannot be read".to_owned()],
    }
}

/// git-config(1), every variable whose value is a command, a helper, or a path to more settings.
fn runs(entry: &Entry) -> bool {
    let whole = entry.subsection.is_none();
    match (entry.section.as_str(), entry.key.as_str()) {
        // `true` and `false` are git's own daemon.
        ("core", "fsmonitor") => !matches!(entry.value.as_str(), "true" | "false" | ""),
        (
            "core",
            "hookspath"
            | "sshcommand"
            | "editor"
            | "pager"
            | "askpass"
            | "gitproxy"
            | "worktree"
            | "alternaterefscommand",
        ) => true,
        ("alias", _) => entry.value.trim_start().starts_with('!'),
        ("filter", "clean" | "smudge" | "process") => true,
        ("diff", "external" | "textconv" | "command") | ("merge", "driver") => true,
        ("difftool" | "mergetool" | "guitool" | "man" | "browser", "cmd" | "path") => true,
        ("credential", "helper") => true,
        ("include" | "includeif", "path") => true,
        ("sequence", "editor") | ("gpg", "program") | ("interactive", "difffilter") => true,
        ("uploadpack", "packobjectshook") => true,
        ("remote", "vcs" | "uploadpack" | "receivepack") => true,
        ("remote", "url" | "pushurl") => entry.value.contains("::"),
        ("submodule", "update") => entry.value.trim_start().starts_with('!'),
        ("trailer", "command" | "cmd") => true,
        ("protocol", "allow") => entry.subsection.as_deref() == Some("ext"),
        ("pager", _) => whole && !matches!(entry.value.as_str(), "true" | "false" | ""),
        _ => false,
    }
}

fn audit(before: &str, after: &str, stays: impl Fn(&Entry) -> bool) -> ConfigAudit {
    if before == after {
        return ConfigAudit { kept: after.to_owned(), quarantined: Vec::new() };
    }
    let (Some(old), Some(new)) = (parse(before), parse(after)) else {
        return ConfigAudit {
            kept: before.to_owned(),
            quarantined: vec![format!("replaced as a whole: {}", one_line(after))],
        };
    };
    let mut missing: Vec<&Entry> = old.iter().filter_map(Piece::setting).collect();
    let mut kept = String::new();
    let mut quarantined = Vec::new();
    for piece in &new {
        match piece {
            Piece::Header { raw } | Piece::Other(raw) => kept.push_str(raw),
            Piece::Setting(entry) => {
                let known = missing.iter().position(|old| old.same_as(entry));
                if let Some(known) = known {
                    missing.remove(known);
                } else if !stays(entry) {
                    quarantined.push(format!("added {entry}"));
                    continue;
                }
                kept.push_str(&entry.raw);
            }
        }
    }
    for entry in missing.into_iter().filter(|entry| !stays(entry)) {
        quarantined.push(format!("removed {entry}"));
        let _ = writeln!(kept, "{}", entry.header());
        kept.push_str(&entry.raw);
    }
    ConfigAudit { kept, quarantined }
}

impl Piece {
    fn setting(&self) -> Option<&Entry> {
        match self {
            Piece::Setting(entry) => Some(entry),
            Piece::Header { .. } | Piece::Other(_) => None,
        }
    }
}

impl Entry {
    fn same_as(&self, other: &Entry) -> bool {
        (&self.section, &self.subsection, &self.key, &self.value)
            == (&other.section, &other.subsection, &other.key, &other.value)
    }

    fn header(&self) -> String {
        match &self.subsection {
            None => format!("[{}]", self.section),
            Some(name) => format!("[{} \"{}\"]", self.section, name.replace('\\', "\\\\").replace('"', "\\\"")),
        }
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.section)?;
        if let Some(name) = &self.subsection {
            write!(f, ".{}", one_line(name))?;
        }
        write!(f, ".{} = {}", self.key, one_line(&self.value))
    }
}

/// Terminal escapes and line ends of hostile text must not reach a person's screen.
fn one_line(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 200;
    text.chars().take(SHOWN_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What git takes for space before a section or a key.
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// `None` for what git would not read either, or reads in a way this parser does not know.
fn parse(text: &str) -> Option<Vec<Piece>> {
    let mut text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut pieces = Vec::new();
    let mut section: Option<(String, Option<String>)> = None;
    while !text.is_empty() {
        let end = text.find('\n').map_or(text.len(), |at| at + 1);
        let line = text[..end].trim_start_matches(SPACE);
        let next = if line.is_empty() || line.starts_with(['#', ';']) {
            pieces.push(Piece::Other(if line.is_empty() { "\n".to_owned() } else { terminated(line) }));
            end
        } else if line.starts_with('[') {
            let (name, sub, after) = header(line)?;
            section = Some((name, sub));
            let head = &line[..line.len() - after.len()];
            pieces.push(Piece::Header { raw: format!("{}\n", head.trim_end()) });
            // What follows in the line may be a setting.
            if after.trim_start_matches(SPACE).is_empty() { end } else { end - after.len() }
        } else {
            let start = end - line.len();
            let (section, subsection) = section.clone()?;
            let (entry, length) = setting(section, subsection, &text[start..])?;
            pieces.push(Piece::Setting(entry));
            start + length
        };
        text = &text[next..];
    }
    Some(pieces)
}

fn terminated(line: &str) -> String {
    if line.ends_with('\n') { line.to_owned() } else { format!("{line}\n") }
}

/// `[name]`, `[name "sub"]` or the old `[name.sub]`; gives what follows it in the line.
fn header(line: &str) -> Option<(String, Option<String>, &str)> {
    let inner = line.strip_prefix('[')?;
    let end = inner.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '.'))?;
    let (name, mut rest) = inner.split_at(end);
    let (name, mut sub) = match name.split_once('.') {
        Some((name, sub)) => (name, Some(sub.to_ascii_lowercase())),
        None => (name, None),
    };
    if name.is_empty() {
        return None;
    }
    let spaced = rest.trim_start_matches([' ', '\t']);
    if let Some(quoted) = spaced.strip_prefix('"') {
        let mut text = String::new();
        let mut characters = quoted.char_indices();
        let close = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => text.push(characters.next()?.1),
                (_, '\n') => return None,
                (_, c) => text.push(c),
            }
        };
        sub = Some(text);
        rest = &quoted[close + 1..];
    }
    Some((name.to_ascii_lowercase(), sub, rest.strip_prefix(']')?))
}

/// The setting that `text` begins with, and how many octets of it that is.
fn setting(section: String, subsection: Option<String>, text: &str) -> Option<(Entry, usize)> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(text.len());
    let (key, rest) = text.split_at(end);
    let rest = rest.trim_start_matches([' ', '\t']);
    let (value, rest) = match rest.strip_prefix('=') {
        Some(rest) => value(rest)?,
        None if rest.is_empty() => (String::new(), rest),
        None => (String::new(), rest.strip_prefix("\r\n").or_else(|| rest.strip_prefix('\n'))?),
    };
    if !key.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let length = text.len() - rest.len();
    let raw = format!("\t{}", terminated(&text[..length]));
    Some((Entry { section, subsection, key: key.to_ascii_lowercase(), raw, value }, length))
}

/// A value as git understands it, and what follows its line. Exactly git's rules: a text that ends elsewhere for git than
/// here would hide a setting in what is kept (a backslash at the end of a *comment* does not continue the line).
fn value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut quoted = false;
    let mut rest = text;
    loop {
        let (c, next) = character(rest);
        rest = next;
        match c {
            None | Some('\n') if quoted => return None,
            None | Some('\n') => return Some((value.trim().to_owned(), rest)),
            Some('#' | ';') if !quoted => {
                let end = rest.find('\n').map_or(rest.len(), |at| at + 1);
                return Some((value.trim().to_owned(), &rest[end..]));
            }
            Some('"') => quoted = !quoted,
            Some('\\') => {
                let (escaped, next) = character(rest);
                rest = next;
                match escaped? {
                    '\n' => {}
                    't' => value.push('\t'),
                    'n' => value.push('\n'),
                    'b' => value.push('\u{8}'),
                    c @ ('\\' | '"') => value.push(c),
                    _ => return None,
                }
            }
            Some(c) => value.push(c),
        }
    }
}

/// The next character, CR LF being one.
fn character(text: &str) -> (Option<char>, &str) {
    match text.strip_prefix("\r\n") {
        Some(rest) => (Some('\n'), rest),
        None => {
            let mut characters = text.chars();
            (characters.next(), characters.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: &str = "/src/project";

    fn compared(before: &str, after: &str) -> ConfigAudit {
        audit_git_config(Path::new(WORKSPACE), before, after)
    }

    fn made(after: &str) -> ConfigAudit {
        audit_new_git_config(Path::new(WORKSPACE), after)
    }

    #[test]
    fn a_remote_stays_when_it_is_over_the_network_or_in_the_workspace() {
        let kept = |url: &str| made(&format!("[remote \"o\"]\n\turl = {url}\n")).quarantined.is_empty();
        for fine in ["https://h/x", "ssh://git@h/x", "git@h:team/x.git", "h:x", "/src/project/lib", "/src/project"] {
            assert!(kept(fine), "{fine}");
        }
        for bad in [
            "/home/me/x",
            "../x",
            "./x",
            "file:///src/project/x",
            "ext::sh -c id",
            "-x",
            "/src/project/../x",
            "foo://h/x",
        ] {
            assert!(!kept(bad), "{bad}");
        }
        let branch = |remote: &str| made(&format!("[branch \"m\"]\n\tremote = {remote}\n")).quarantined.is_empty();
        assert!(branch("origin") && branch(".") && branch("git@h:x") && !branch("/home/me/x") && !branch("../x"));
    }

    const BEFORE: &str = "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = https://a.example/r\n";

    #[test]
    fn a_new_branch_and_remote_stay() {
        let after = format!("{BEFORE}[branch \"x\"]\n\tremote = origin\n\tmerge = refs/heads/x\n");
        assert_eq!(compared(BEFORE, &after), ConfigAudit { kept: after, quarantined: vec![] });
    }

    #[test]
    fn a_program_to_run_is_taken_out_wherever_it_is_written() {
        // B51
        let added = [
            "[core]\n\tfsmonitor = evil\n",
            "[core] fsmonitor = evil\n",
            "[CORE]\n\tFsMonitor=evil\n",
            "[core]\n\tsshCommand = \"a \\\n b\"\n",
            "[alias]\n\tst = !evil\n",
            "[include]\n\tpath = /w/evil\n",
            "[filter \"x\"]\n\tclean = evil\n",
            "[remote \"origin\"]\n\tuploadpack = evil\n",
            "[remote \"o\"]\n\turl = ext::sh -c evil\n",
            "[remote \"o\"]\n\turl = ext:\":\"sh -c evil\n",
            "[remote \"o\"]\n\turl = ext:\\\n:sh -c evil\n",
            "[branch \"b\"]\n\tremote = ext::sh -c evil\n",
            "[branch \"b\"] [core] fsmonitor = evil\n",
        ];
        for added in added {
            let audited = compared(BEFORE, &format!("{BEFORE}{added}"));
            assert_eq!(audited.quarantined.len(), 1, "{added}");
            assert!(!audited.kept.contains("evil"), "{added}: {}", audited.kept);
            assert!(audited.kept.contains("https://a.example/r"), "{added}");
        }
    }

    #[test]
    fn nothing_hides_behind_the_end_of_a_comment() {
        // B51: for git the comment ends with its line, backslash or not.
        let hidden = "[remote \"o\"]\n\turl = https://a.example # c \\\n[core] fsmonitor = evil\n";
        for hidden in [hidden.to_owned(), hidden.replace('\n', "\r\n"), hidden.replace('#', ";")] {
            let audited = compared(BEFORE, &format!("{BEFORE}{hidden}"));
            assert_eq!(audited.quarantined, ["added core.fsmonitor = evil"], "{hidden:?}");
            assert!(!audited.kept.contains("evil"));
        }
    }

    #[test]
    fn a_megabyte_of_continued_lines_takes_no_time_and_quotes_end_with_their_line() {
        let long = format!("[alias]\n\ta = {}x\n", "\\\n".repeat(500_000));
        assert_eq!(compared("", &long).quarantined, ["added alias.a = x"]);
        let open = compared(BEFORE, &format!("{BEFORE}[branch \"b\"]\n\tmerge = \"x\n"));
        assert_eq!(open.kept, BEFORE);
    }

    #[test]
    fn what_runs_a_program_is_told_from_what_does_not() {
        let text = "[core]\n\tbare = false\n\tfsmonitor = x\n[alias]\n\tst = status\n\tgo = !evil\n[remote \"o\"]\n\turl = u\n";
        assert_eq!(settings_that_run(text), ["core.fsmonitor = x", "alias.go = !evil"]);
        assert_eq!(settings_that_run("[filter \"lfs\"]\n\tsmudge = git-lfs smudge\n").len(), 1);
        assert_eq!(settings_that_run("[core\nx"), ["settings that cannot be read"]);
    }

    #[test]
    fn what_was_removed_is_put_back() {
        let before = "[core]\n\thooksPath = /dev/null\n";
        let audited = compared(before, "");
        assert_eq!(audited.quarantined, ["removed core.hookspath = /dev/null"]);
        assert!(parse(&audited.kept).unwrap().iter().filter_map(Piece::setting).any(|e| e.key == "hookspath"));
    }

    #[test]
    fn a_text_that_cannot_be_read_is_replaced() {
        let audited = compared(BEFORE, "[core\nfsmonitor = evil");
        assert_eq!(audited.kept, BEFORE);
        assert_eq!(audited.quarantined.len(), 1);
    }

    #[test]
    fn a_new_repository_keeps_what_init_wrote() {
        let audited = made("[core]\n\tbare = false\n\thooksPath = x\n");
        assert_eq!(audited.quarantined, ["added core.hookspath = x"]);
        assert_eq!(audited.kept, "[core]\n\tbare = false\n");
    }
}
