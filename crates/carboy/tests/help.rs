//! Help is the reference: what it says is looked at line by line. Completions and the man page come from the same
//! definition.

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

/// The built binary's standard output, and nothing on standard error.
fn carboy(arguments: &[&str]) -> String {
    // No terminal, no width, no home: help needs none of them.
    let output = Command::new(env!("CARGO_BIN_EXE_carboy")).args(arguments).env_clear().output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every line without the blanks at its end, which nobody sees.
fn help(command: &[&str]) -> String {
    let text = carboy(&[command, &["--help"]].concat());
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[test]
fn help_says_what_each_group_of_commands_is_for() {
    insta::assert_snapshot!(help(&[]));
}

#[test]
fn help_is_a_command_too() {
    let whole = |arguments: &[&str]| carboy(arguments);
    assert_eq!(whole(&["help"]), whole(&["--help"]));
    assert_eq!(whole(&["help", "run"]), whole(&["run", "--help"]));
    assert_eq!(whole(&["help", "audit", "verify"]), whole(&["audit", "verify", "--help"]));
    let wrong = Command::new(env!("CARGO_BIN_EXE_carboy")).args(["help", "rum"]).env_clear().output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

#[test]
fn help_of_run_has_every_flag_and_exit_code() {
    insta::assert_snapshot!(help(&["run"]));
}

#[test]
fn help_of_every_other_command() {
    let commands: [&[&str]; 50] = [
        &["tour"],
        &["doctor"],
        &["attach"],
        &["exec"],
        &["top"],
        &["ps"],
        &["wait"],
        &["logs"],
        &["explain"],
        &["allow"],
        &["stop"],
        &["resume"],
        &["audit"],
        &["audit", "verify"],
        &["audit", "tail"],
        &["audit", "query"],
        &["audit", "path"],
        &["audit", "keygen"],
        &["bottle"],
        &["bottle", "ls"],
        &["bottle", "show"],
        &["bottle", "diff"],
        &["bottle", "apply"],
        &["bottle", "undo"],
        &["bottle", "quarantine"],
        &["bottle", "du"],
        &["bottle", "rm"],
        &["budget"],
        &["budget", "show"],
        &["budget", "set"],
        &["budget", "unset"],
        &["budget", "top-up"],
        &["approve"],
        &["proxy"],
        &["controller"],
        &["controller", "run"],
        &["controller", "status"],
        &["controller", "stop"],
        &["controller", "install"],
        &["check"],
        &["lit"],
        &["lit", "tangle"],
        &["lit", "verify"],
        &["lit", "sync"],
        &["lit", "weave"],
        &["lit", "map"],
        &["lit", "hook"],
        &["completions"],
        &["man"],
        &["uninstall"],
    ];
    let all: Vec<String> =
        commands.iter().map(|command| format!("$ carboy {} --help\n{}", command.join(" "), help(command))).collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn exit_codes_of_the_documents_stand_in_the_help_of_the_commands_that_have_them() {
    let mut rows = 0;
    for (page, commands_at) in
        [(include_str!("../../../docs/unattended.md"), 3), (include_str!("../../../docs/controller.md"), 2)]
    {
        let table = page.split("## Exit codes").nth(1).unwrap().split("\n## ").next().unwrap();
        for row in table.lines().filter(|line| line.starts_with("| ")) {
            let cells: Vec<&str> = row.split('|').collect();
            let codes: Vec<&str> =
                cells[1].split(',').map(str::trim).filter(|code| code.parse::<u8>().is_ok()).collect();
            for command in cells[commands_at].split('`').skip(1).step_by(2) {
                let name = command.replace(" …", " set").replace(" -d", "");
                let text = help(&name.split(' ').collect::<Vec<_>>());
                let told = text.split("Exit codes:").nth(1).unwrap_or_else(|| panic!("{name} tells no exit codes"));
                for code in &codes {
                    let words: Vec<&str> = told.split(|c: char| !c.is_ascii_digit()).collect();
                    assert!(words.contains(code), "{name}: {code} in {told}");
                    rows += 1;
                }
            }
        }
    }
    assert!(rows > 15, "{rows}");
    let verify = help(&["audit", "verify"]);
    for verdict in ["0 VALID", "1 TAMPERED", "78 UNVERIFIED"] {
        assert!(verify.split_whitespace().collect::<Vec<_>>().join(" ").contains(verdict), "{verdict}: {verify}");
    }
}

#[test]
fn completions_name_every_command_in_the_shells_own_language() {
    for (shell, mark) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef carboy"),
        ("fish", "complete -c carboy"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let text = carboy(&["completions", shell]);
        assert!(text.contains(mark), "{shell}");
        for command in ["tour", "run", "allow", "audit", "summary-json"] {
            assert!(text.contains(command), "{shell}: {command}");
        }
    }
}

#[test]
fn a_shell_that_is_there_takes_its_completions() {
    for (shell, flag) in [("bash", "-n"), ("zsh", "-n"), ("fish", "-n")] {
        let started = Command::new(shell).arg(flag).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
        // A shell that is not on this machine cannot say anything about its syntax.
        let Ok(mut child) = started else { continue };
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), carboy(&["completions", shell]).as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}");
    }
}

/// What bash offers after `carboy WORDS…`, in a home with the agents and bottles `claude` and `codex`, and a file `clay.txt`.
fn completed_by_bash(words: &str) -> String {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join(".carboy");
    for kind in ["bottles", "agents"] {
        std::fs::create_dir_all(root.join(kind)).unwrap();
        for name in ["claude.md", "codex.md", "no name; rm -rf.md"] {
            std::fs::write(root.join(kind).join(name), "---\n---\n").unwrap();
        }
    }
    std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(home.path().join("clay.txt"), "").unwrap();
    let script = format!(
        "eval \"$(carboy completions bash)\"\nCOMP_WORDS=(carboy {words})\nCOMP_CWORD=$((${{#COMP_WORDS[@]}}-1))\n\
         _carboy_values carboy \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\necho \"${{COMPREPLY[*]}}\"\n\
         complete -p carboy >&2\n"
    );
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_carboy")).parent().unwrap();
    let mut command = Command::new("bash");
    command.args(["--norc", "-c", &script]).env_clear().env("HOME", home.path()).current_dir(home.path());
    let output = command.env("PATH", format!("{}:/usr/bin:/bin", binary.display())).output().unwrap();
    let registered = String::from_utf8(output.stderr).unwrap();
    assert!(registered.contains("-F _carboy_values") && !registered.contains("default"), "{registered}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn bash_completes_names_where_names_belong_and_files_where_files_do() {
    if Command::new("bash").arg("--version").output().is_err() {
        return;
    }
    for (words, offered) in [
        ("run cl", "claude"),
        ("run ''", "assistant bookly claude codex"),
        ("serve b", "bookly"),
        ("run -b cl", "claude"),
        ("check c", "claude codex"),
        ("bottle rm cl", "claude"),
        ("bottle diff claude cl", "clay.txt"),
        ("run claude -- cl", "clay.txt"),
        ("run --workdir cl", "clay.txt"),
        ("proxy -b cl", "claude"),
        ("proxy --socket cl", "clay.txt"),
        ("proxy -b claude -- cl", "clay.txt"),
        ("audit verify cl", "clay.txt"),
        ("lit verify cl", "clay.txt"),
        ("explain cl", "claude"),
        ("allow cl", ""),
        ("attach cl", ""),
        ("che", "check"),
    ] {
        assert_eq!(completed_by_bash(words), offered, "{words}");
    }
}

#[test]
fn the_man_page_is_a_man_page_with_every_command() {
    let text = carboy(&["man"]);
    assert!(text.starts_with(".ie \\n(.g") && text.contains(".TH carboy 1"), "{text}");
    for section in [".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"] {
        assert!(text.contains(section), "{section}");
    }
    for command in ["tour", "doctor", "run", "ps", "logs", "allow", "stop", "audit", "check", "proxy"] {
        assert!(text.contains(command), "{command}");
    }
    // The tour's program inside the bottle is nobody's command.
    assert!(!text.contains("tour-agent") && !text.contains("tour\\-agent"));
}

#[test]
fn no_command_and_a_wrong_one_say_what_there_is() {
    for (arguments, said) in
        [(&[][..], "Usage:"), (&["rum"][..], "'run'"), (&["run", "--botle", "x"][..], "'--bottle'")]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_carboy")).args(arguments).env_clear().output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
    }
}
