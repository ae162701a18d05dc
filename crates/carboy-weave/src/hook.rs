//! Hooks that keep document and sources together: git's before a commit, a coding agent's after an edit.
//!
//! *Must never* put a name into a shell's line without quoting it.

/// What runs before a commit: the document and the sources *as they are about to be committed*.
pub fn pre_commit(document: &str) -> String {
    let document = quoted(document);
    format!(
        "#!/bin/sh\n\
         # Written by `carboy lit hook git`. A commit in which document and sources disagree is refused.\n\
         set -eu\n\
         document={document}\n\
         staged=$(mktemp -d)\n\
         trap 'rm -rf \"$staged\"' EXIT\n\
         git checkout-index --all --prefix=\"$staged/\"\n\
         [ -e \"$staged/$document\" ] || exit 0\n\
         if ! carboy lit verify \"$staged/$document\" --library \"$staged\" >&2; then\n\
         \x20   echo \"run: carboy lit sync '$document', then add what it changed\" >&2\n\
         \x20   exit 1\n\
         fi\n"
    )
}

/// What a coding agent (Claude Code's settings.json) runs after it has edited a file: edits of sources go back into the
/// document, edits of the document out into the sources. What cannot be settled is told to the agent (exit code 2).
pub fn claude(document: &str) -> String {
    let command = format!("cd \"$CLAUDE_PROJECT_DIR\" && carboy lit sync {} >&2 || exit 2", quoted(document));
    let hook = serde_json::json!({"hooks": {"PostToolUse": [
        {"matcher": "Edit|MultiEdit|Write", "hooks": [{"type": "command", "command": command, "timeout": 60}]}
    ]}});
    format!("{hook:#}\n")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_a_command() {
        // G58b
        assert!(pre_commit("a'; rm -rf x").contains("document='a'\\''; rm -rf x'\n"));
        let json: serde_json::Value = serde_json::from_str(&claude("a b.lit.md")).unwrap();
        let command = json["hooks"]["PostToolUse"][0]["hooks"][0]["command"].as_str().unwrap();
        assert!(command.ends_with("carboy lit sync 'a b.lit.md' >&2 || exit 2"));
    }
}
