//! Programs written as documents, by the built binary: what is written, what is left alone, what is refused and how.

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const TEXT: &str = "# T\n\n```sh {chunk=\"m\" file=\"bin/m.sh\"}\nf() {\n    <<body>>\n}\n```\n\nWhy.\n\n```sh {chunk=\"body\"}\necho one\necho two\n```\n";
const TANGLED: &str = "f() {\n    echo one\n    echo two\n}\n";

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carboy"));
    // No home: a document needs none.
    command.arg("lit").args(arguments).env_clear().current_dir(dir);
    command
}

fn lit(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Exit code 0; standard output.
fn good(dir: &Path, arguments: &[&str]) -> String {
    let output = lit(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Another exit code; everything that was said.
fn bad(dir: &Path, arguments: &[&str], code: i32) -> String {
    let output = lit(dir, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
    said(&output)
}

/// A directory with a document, tangled.
fn tangled(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("d.lit.md"), text).unwrap();
    good(dir.path(), &["tangle", "d.lit.md"]);
    dir
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

#[test]
fn tangle_writes_what_differs_and_nothing_else() {
    // G54, G55
    let dir = tangled(TEXT);
    let path = dir.path();
    assert_eq!(read(path, "bin/m.sh"), TANGLED);
    fs::set_permissions(path.join("bin/m.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let before = fs::metadata(path.join("bin/m.sh")).unwrap();
    good(path, &["tangle", "d.lit.md"]);
    let after = fs::metadata(path.join("bin/m.sh")).unwrap();
    // The same file, not one that looks the same: cargo builds nothing anew.
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    fs::write(path.join("d.lit.md"), TEXT.replace("two", "three")).unwrap();
    let dry: serde_json::Value =
        serde_json::from_str(&good(path, &["tangle", "d.lit.md", "--dry-run", "--json"])).unwrap();
    assert_eq!(dry["written"], serde_json::json!(["bin/m.sh"]));
    assert_eq!(read(path, "bin/m.sh"), TANGLED);
    good(path, &["tangle", "d.lit.md"]);
    assert_eq!(read(path, "bin/m.sh"), TANGLED.replace("two", "three"));
    assert_eq!(fs::metadata(path.join("bin/m.sh")).unwrap().mode() & 0o777, 0o755);
}

#[test]
fn tangle_never_goes_through_a_link_or_over_an_edit() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let path = dir.path();
    fs::write(path.join("d.lit.md"), TEXT).unwrap();
    symlink(outside.path(), path.join("bin")).unwrap();
    assert!(bad(path, &["tangle", "d.lit.md"], 70).contains("links are not followed"));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    fs::remove_file(path.join("bin")).unwrap();
    fs::create_dir(path.join("bin")).unwrap();
    symlink(outside.path().join("m.sh"), path.join("bin/m.sh")).unwrap();
    assert!(bad(path, &["tangle", "d.lit.md", "--force"], 70).contains("cannot read"));
    assert!(!outside.path().join("m.sh").exists());
    fs::remove_file(path.join("bin/m.sh")).unwrap();
    fs::write(path.join("bin/m.sh"), "somebody's\n").unwrap();
    assert!(bad(path, &["tangle", "d.lit.md"], 77).contains("carboy lit sync d.lit.md"));
    assert_eq!(read(path, "bin/m.sh"), "somebody's\n");
    good(path, &["tangle", "d.lit.md", "--force"]);
    assert_eq!(read(path, "bin/m.sh"), TANGLED);
}

#[test]
fn what_is_wrong_with_a_document_is_said_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    for (text, code, words) in [
        ("x\n```{file=\"../a\"}\n```\n", 78, "d.lit.md:2: \"../a\" leads out of the document's tree"),
        ("```{file=\"a\"}\n<<b>>\n```\n", 78, "d.lit.md:2: there is no chunk \"b\""),
        ("```{file=\"d.lit.md\"}\n```\n", 78, "would replace itself"),
        ("only words\n", 78, "holds no file"),
    ] {
        fs::write(path.join("d.lit.md"), text).unwrap();
        let said = bad(path, &["tangle", "d.lit.md"], code);
        assert!(said.contains(words), "{said}");
    }
    assert!(bad(path, &["tangle", "none.md"], 70).contains("cannot read none.md"));
}

#[test]
fn verify_finds_a_drift_and_names_the_documents_line() {
    // G55
    let dir = tangled(TEXT);
    let path = dir.path();
    good(path, &["verify", "d.lit.md"]);
    fs::write(path.join("bin/m.sh"), TANGLED.replace("two", "2")).unwrap();
    let said = bad(path, &["verify", "d.lit.md"], 1);
    for part in ["d.lit.md:13: bin/m.sh: differs", "@@ d.lit.md:4 bin/m.sh:1 @@", "-    echo two", "+    echo 2"] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    fs::write(path.join("bin/m.sh"), TANGLED.trim_end()).unwrap();
    assert!(bad(path, &["verify", "d.lit.md"], 1).contains("\\ no newline at the end of the file"));
    fs::remove_file(path.join("bin/m.sh")).unwrap();
    let json = lit(path, &["verify", "d.lit.md", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((json.status.code(), value["drifts"][0]["what"].as_str()), (Some(1), Some("there is no such file")));
}

#[test]
fn copies_of_the_library_are_checked_and_renewed() {
    // G54b
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    fs::create_dir_all(path.join("lib/.git")).unwrap();
    fs::create_dir_all(path.join("lib/app")).unwrap();
    fs::write(path.join("lib/l.rs"), "fn a() {}\n\n/// Doc.\nfn b() {\n    c();\n}\n").unwrap();
    fs::write(path.join("lib/app/d.md"), "```rs {include=\"l.rs\" anchor=\"b\"}\n```\n").unwrap();
    let app = path.join("lib/app");
    assert!(bad(&app, &["verify", "d.md"], 1).contains("+fn b() {"));
    good(&app, &["sync", "d.md"]);
    assert_eq!(read(&app, "d.md"), "```rs {include=\"l.rs\" anchor=\"b\"}\n/// Doc.\nfn b() {\n    c();\n}\n```\n");
    good(&app, &["verify", "d.md"]);
    fs::write(path.join("lib/l.rs"), "fn b() {\n    d();\n}\n").unwrap();
    bad(&app, &["verify", "d.md"], 1);
    assert!(bad(&app, &["weave", "d.md"], 78).contains("d.md:1: the copy of \"l.rs\""));
    assert!(bad(&app, &["verify", "d.md", "--library", "."], 1).contains("there is no file \"l.rs\" in the library"));
}

#[test]
fn edits_of_both_sides_meet() {
    // G58
    let dir = tangled(TEXT);
    let path = dir.path();
    fs::write(path.join("bin/m.sh"), TANGLED.replace("two", "2")).unwrap();
    fs::write(path.join("d.lit.md"), TEXT.replace("f() {", "g() {").replace("Why.", "Why not?")).unwrap();
    assert!(good(path, &["sync", "d.lit.md", "--dry-run"]).contains("+echo 2"));
    good(path, &["sync", "d.lit.md"]);
    let expected = TEXT.replace("f() {", "g() {").replace("Why.", "Why not?").replace("two", "2");
    assert_eq!(read(path, "d.lit.md"), expected);
    assert_eq!(read(path, "bin/m.sh"), TANGLED.replace("f() {", "g() {").replace("two", "2"));
    good(path, &["verify", "d.lit.md"]);
}

#[test]
fn edits_of_one_place_are_refused_with_both_shown() {
    let dir = tangled(TEXT);
    let path = dir.path();
    fs::write(path.join("bin/m.sh"), TANGLED.replace("two", "2")).unwrap();
    let document = TEXT.replace("two", "zwei");
    fs::write(path.join("d.lit.md"), &document).unwrap();
    let said = bad(path, &["sync", "d.lit.md"], 1);
    for part in ["@@ d.lit.md:13 @@", "+    echo zwei", "@@ bin/m.sh:3 @@", "+    echo 2", "settle it in one of them"] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert_eq!((read(path, "d.lit.md"), read(path, "bin/m.sh")), (document, TANGLED.replace("two", "2")));
    good(path, &["sync", "d.lit.md", "--take", "sources"]);
    assert_eq!(read(path, "d.lit.md"), TEXT.replace("two", "2"));
}

#[test]
fn without_a_record_an_earlier_document_is_the_base() {
    let dir = tangled(TEXT);
    let path = dir.path();
    fs::remove_dir_all(path.join(".lit")).unwrap();
    fs::write(path.join("bin/m.sh"), TANGLED.replace("two", "2")).unwrap();
    assert!(bad(path, &["sync", "d.lit.md"], 1).contains("--base FILE"));
    fs::copy(path.join("d.lit.md"), path.join("old.md")).unwrap();
    good(path, &["sync", "d.lit.md", "--base", "old.md"]);
    assert_eq!(read(path, "d.lit.md"), TEXT.replace("two", "2"));
    assert_eq!(read(path, ".lit/.gitignore"), "*\n");
}

#[test]
fn what_a_formatter_made_of_the_sources_flows_back() {
    let text = "```rust {file=\"m.rs\"}\n<<uses>>\n\nfn main() {\n    <<body>>\n}\n```\n\n```rust {chunk=\"uses\"}\nuse std::fmt;\nuse std::collections::BTreeMap;\n```\n\n```rust {chunk=\"body\"}\nlet a : BTreeMap<u8,u8> = BTreeMap::new( );\nlet _b: Option<fmt::Error>=None; println!(\"{}\",a.len());\n```\n";
    let dir = tangled(text);
    let path = dir.path();
    let formatted = Command::new("rustfmt").args(["--edition", "2024", "m.rs"]).current_dir(path).status();
    // The toolchain that builds this has rustfmt; where it has not, there is nothing to flow back.
    if !formatted.is_ok_and(|status| status.success()) {
        return;
    }
    good(path, &["sync", "d.lit.md"]);
    let document = read(path, "d.lit.md");
    assert!(
        document.contains("```\n\n```rust {chunk=\"uses\"}\nuse std::collections::BTreeMap;\nuse std::fmt;\n```"),
        "{document}"
    );
    assert!(document.contains("{chunk=\"body\"}\nlet a: BTreeMap<u8, u8> = BTreeMap::new();\n"), "{document}");
    good(path, &["verify", "d.lit.md"]);
}

#[test]
fn a_document_is_made_from_a_template_and_the_files_there_are() {
    // G58
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    fs::write(path.join("a.py"), "x = 1\r\n```\n<<b>>").unwrap();
    fs::write(path.join("t.md"), "# T\n\n```py {chunk=\"a-py\" file=\"a.py\"}\n```\n").unwrap();
    good(path, &["sync", "d.md", "--bootstrap", "t.md"]);
    let expected =
        "# T\n\n````py {chunk=\"a-py\" file=\"a.py\" eof=\"none\" refs=\"none\"}\nx = 1\r\n```\n<<b>>\n````\n";
    assert_eq!(read(path, "d.md"), expected);
    good(path, &["verify", "d.md"]);
    assert!(bad(path, &["sync", "d.md", "--bootstrap", "t.md"], 77).contains("--force"));
}

#[test]
fn positions_are_translated_from_a_pipe_and_one_at_a_time() {
    let dir = tangled(TEXT);
    let path = dir.path();
    assert_eq!(
        good(path, &["map", "d.lit.md", "--file", "bin/m.sh", "--line", "3", "--column", "9"]),
        "d.lit.md:13:5\n"
    );
    let json = good(path, &["map", "d.lit.md", "--file", "bin/m.sh", "--line", "1", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["line"], 4);
    assert!(bad(path, &["map", "d.lit.md", "--file", "other.sh", "--line", "1"], 1).contains("is not in d.lit.md"));
    let mut child = command(path, &["map", "d.lit.md"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let absolute = path.canonicalize().unwrap().join("bin/m.sh");
    for (line, expected) in [
        ("bin/m.sh:2:5: oh".to_owned(), "d.lit.md:12:1 (bin/m.sh:2): oh\n".to_owned()),
        (format!("at {}:3", absolute.display()), format!("at d.lit.md:13 ({}:3)\n", absolute.display())),
        ("elsewhere/m.sh:2:5: no".to_owned(), "elsewhere/m.sh:2:5: no\n".to_owned()),
    ] {
        // Each line is answered before the next is sent.
        writeln!(input, "{line}").unwrap();
        let mut answered = String::new();
        output.read_line(&mut answered).unwrap();
        assert_eq!(answered, expected);
    }
    input.write_all(b"\xff no text").unwrap();
    drop(input);
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut output, &mut rest).unwrap();
    assert_eq!(rest, b"\xff no text");
    assert!(child.wait().unwrap().success());
}

#[test]
fn watching_tangles_again_when_the_document_changes() {
    let dir = tangled(TEXT);
    let path = dir.path();
    let mut child = command(path, &["tangle", "d.lit.md", "--watch"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    // It ends with the test, or when it has said nothing for too long: then the lines below run out.
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let _ = ended.recv_timeout(std::time::Duration::from_secs(60));
        child.kill().and_then(|()| child.wait()).unwrap();
    });
    let mut wait_for = |words: &str| while !said.next().unwrap().unwrap().contains(words) {};
    wait_for("0 of 1 files");
    fs::write(path.join("d.lit.md"), "```{file=\"a\"}\n<<b>>\n```\n").unwrap();
    wait_for("there is no chunk \"b\"");
    fs::write(path.join("d.lit.md"), TEXT.replace("two", "three")).unwrap();
    wait_for("1 of 1 files written");
    drop(done);
    watchdog.join().unwrap();
    assert_eq!(read(path, "bin/m.sh"), TANGLED.replace("two", "three"));
}

#[test]
fn the_hook_of_git_judges_what_is_about_to_be_committed() {
    // G58b
    let dir = tangled(TEXT);
    let path = dir.path();
    let git = |arguments: &[&str]| {
        let binary = Path::new(env!("CARGO_BIN_EXE_carboy")).parent().unwrap();
        let mut command = Command::new("git");
        command
            .args(["-c", "user.name=t", "-c", "user.email=t@t.example", "-c", "core.hooksPath=.git/hooks"])
            .args(arguments);
        command.current_dir(path).env("HOME", path).env("PATH", format!("{}:/usr/bin:/bin", binary.display()));
        command.output().unwrap()
    };
    assert!(git(&["init", "-q"]).status.success());
    fs::create_dir_all(path.join(".git/hooks")).unwrap();
    fs::write(path.join(".git/hooks/pre-commit"), good(path, &["hook", "git", "d.lit.md"])).unwrap();
    fs::set_permissions(path.join(".git/hooks/pre-commit"), fs::Permissions::from_mode(0o755)).unwrap();
    git(&["add", "d.lit.md", "bin"]);
    let first = git(&["commit", "-qm", "one"]);
    assert!(first.status.success(), "{}", said(&first));
    fs::write(path.join("bin/m.sh"), TANGLED.replace("two", "2")).unwrap();
    git(&["add", "bin"]);
    // The tree is put right, what is staged is not.
    good(path, &["sync", "d.lit.md"]);
    let refused = git(&["commit", "-qm", "two"]);
    assert!(!refused.status.success() && said(&refused).contains("carboy lit sync 'd.lit.md'"), "{}", said(&refused));
    git(&["add", "d.lit.md"]);
    assert!(git(&["commit", "-qm", "two"]).status.success());
}

#[test]
fn the_hook_of_an_agent_brings_its_edit_into_the_document() {
    // G58b
    let dir = tangled(TEXT);
    let path = dir.path();
    let hook: serde_json::Value = serde_json::from_str(&good(path, &["hook", "claude", "d.lit.md"])).unwrap();
    let line = hook["hooks"]["PostToolUse"][0]["hooks"][0]["command"].as_str().unwrap().to_owned();
    let run = || {
        let binary = Path::new(env!("CARGO_BIN_EXE_carboy")).parent().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).env("CLAUDE_PROJECT_DIR", path);
        shell.env("PATH", format!("{}:/usr/bin:/bin", binary.display())).output().unwrap()
    };
    fs::write(path.join("bin/m.sh"), TANGLED.replace("two", "2")).unwrap();
    assert!(run().status.success());
    assert_eq!(read(path, "d.lit.md"), TEXT.replace("two", "2"));
    fs::write(path.join("bin/m.sh"), TANGLED.replace("two", "3")).unwrap();
    fs::write(path.join("d.lit.md"), TEXT.replace("two", "4")).unwrap();
    let told = run();
    assert_eq!(told.status.code(), Some(2), "{}", said(&told));
    assert!(String::from_utf8_lossy(&told.stderr).contains("+    echo 3"), "{}", said(&told));
}

#[test]
fn a_page_is_written_once_and_checked() {
    // G57, G59
    let dir = tangled(&format!("{TEXT}\n```mermaid\ngraph LR\nA --> B\n```\n"));
    let path = dir.path();
    fs::write(path.join("head.html"), "<p>ours</p>").unwrap();
    let weave = ["weave", "d.lit.md", "-o", "out", "--header", "head.html"];
    good(path, &weave);
    let page = read(path, "out/d.html");
    assert!(page.contains("<header>\n<p>ours</p>\n</header>") && !page.contains("<script") && !page.contains("<style"));
    assert!(read(path, "out/d.css").contains("#f5f3ee"));
    for picture in ["d-1.svg", "d-1-dark.svg"] {
        let svg = read(path, &format!("out/{picture}"));
        assert!(svg.contains("<title") && !svg.contains("style"), "{svg}");
    }
    let check = [&weave[..], &["--check"]].concat();
    good(path, &check);
    fs::write(path.join("out/d.css"), "").unwrap();
    assert!(bad(path, &check, 1).contains("out of date: out/d.css"));
}

#[test]
fn the_example_is_a_program_that_works() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/literate/prune.lit.md");
    let dir = tangled(&fs::read_to_string(example).unwrap());
    let path = dir.path();
    let test = Command::new("sh").arg("test.sh").current_dir(path).output().unwrap();
    assert!(test.status.success(), "{}", said(&test));
    assert_eq!(String::from_utf8_lossy(&test.stdout), "kept 10 of 40\n");
    good(path, &["verify", "d.lit.md"]);
    good(path, &["weave", "d.lit.md"]);
}
