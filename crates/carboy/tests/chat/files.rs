//! What is wrong with a chat agent's file, or worth a warning, and what is said of it.

use super::*;

#[test]
fn the_errors_of_a_chat_agents_file_are_told_by_run_whatever_its_flags() {
    let desk = Desk::new();
    desk.write(
        "home/agents/m1.md",
        "---\nkind: chat\nmodel: claude-sonnet-4-5\ntools: [calculator]\nconfirm: [calculater]\n---\nHi.\n",
    );
    for more in [&[][..], &["--model", "offline"], &["--preset", "dev"]] {
        let run = desk.says(&[&["run", "m1"], more].concat(), "");
        assert!(run.code == Some(78) && run.err.contains("m1.md:5:11: error: `confirm` of agent `m1`"), "{run:?}");
        assert!(run.err.contains("did you mean `calculator`?"), "{run:?}");
    }
    desk.write("home/bottles/b.md", "---\n---\n");
    let none = desk.says(&["run", "-b", "b", "--model", "offline", "--", "true"], "");
    assert!(none.code == Some(2) && none.err.contains("`--model` is for chat agents, and this is none"), "{none:?}");
}

#[test]
fn g88_a_tool_that_no_source_offers_ends_the_start_with_key_file_and_line() {
    let desk = Desk::new();
    assert_eq!(desk.says(&["init", "chat", "shop", "--yes"], "").code, Some(0));
    let text = fs::read_to_string(desk.path("home/agents/shop.md")).unwrap();
    let line = text.lines().position(|line| line == "confirm: [start_return]").unwrap() + 1;
    desk.write("home/agents/shop.md", &text.replace("confirm: [start_return]", "confirm: [start_return, cancel_all]"));
    let checked = desk.says(&["check", "shop"], "");
    assert!(checked.code == Some(0) && checked.out.contains("warning: `confirm` of agent `shop`"), "{checked:?}");
    let run = desk.says(&["run", "shop", "--model", "offline"], "hello\n");
    let says = format!(
        "shop.md:{line}:25: error: `confirm` of agent `shop` names the tool `cancel_all`, which it does not have"
    );
    assert!(run.code == Some(78) && run.err.contains(&says), "{run:?}");
    assert!(run.err.contains("it has `lookup_order`, `start_return`"), "{run:?}");
    desk.write("home/agents/shop.md", &text.replace("confirm: [start_return]", "confirm: [start_retrun]"));
    let checked = desk.says(&["check", "shop"], "");
    assert!(checked.code == Some(78) && checked.out.contains("did you mean `start_return`?"), "{checked:?}");
}

#[test]
fn g87_a_second_starter_leaves_the_first_ones_lines_and_adds_its_own() {
    let desk = Desk::new();
    let init = |arguments: &[&str]| desk.says(&[&["init", "chat"], arguments, &["--yes"]].concat(), "");
    assert_eq!(init(&["shop"]).code, Some(0));
    let path = desk.path("home/agents/.env.example");
    let mine = fs::read_to_string(&path).unwrap().replace("#FILTER_PII=true\n", "") + "MINE=1\n";
    fs::write(&path, &mine).unwrap();
    let plan = desk.says(&["init", "chat", "own", "--model", "gpt-5", "--dry-run"], "").out;
    assert!(plan.contains(".env.example (lines are added)"), "{plan}");
    let second = init(&["own", "--model", "gpt-5"]);
    assert_eq!(second.code, Some(0), "{second:?}");
    let both = fs::read_to_string(&path).unwrap();
    assert_eq!(
        both,
        format!("{mine}\n# The model's key.\nOPENAI_API_KEY=\n# Thresholds, with their defaults.\n#FILTER_PII=true\n")
    );
    assert!(init(&["own", "--model", "gpt-5"]).err.contains("nothing to change"));
    assert_eq!(fs::read_to_string(&path).unwrap(), both);
    let again = init(&["own", "--model", "gpt-4"]);
    assert!(again.code == Some(2) && again.err.contains("own.md is there already"), "{again:?}");
}

#[test]
fn c5_a_budget_below_what_is_held_for_any_request_is_warned_of_wherever_it_is_said() {
    let desk = Desk::new();
    let agent = |head: &str| {
        let text = format!("---\nkind: chat\nmodel: claude-sonnet-4-5\n{head}---\nYou help.\n");
        desk.write("home/agents/small.md", &text);
    };
    let said = |arguments: &[&str]| told(&desk.carboy(arguments).output().unwrap());
    let least = "and 320 are held for the shortest request: every request will be refused [budget-too-small]";
    let fix = "fix: write more: 320 are an answer of `output_min` (256) and its margin";
    agent("budget: 319\n");
    let file = format!(
        "{}:4:9: warning: the budget of agent:small is 319 tokens, {least}",
        desk.path("home/agents/small.md").display()
    );
    for arguments in [&["check"][..], &["check", "small"]] {
        let checked = said(arguments);
        assert_eq!((checked.code, checked.out.matches(&file).count()), (Some(0), 1), "{}", checked.out);
        assert!(checked.out.contains(fix), "{}", checked.out);
    }
    let ran = desk.says(&["run", "small", "--model", "offline", "-q"], "hello\n");
    assert!(ran.err.contains(&file) && ran.code == Some(0), "{ran:?}");
    // It is as it was said: nothing passes.
    let refused = |entry: &carboy_core::audit::Entry| entry.detail("reason") == Some(&Value::from("budget_exhausted"));
    assert!(desk.log().iter().any(refused));
    agent("");
    let with =
        |budget: &str| desk.says(&["run", "small", "--model", "offline", "-q", "--budget", budget], "hello\n").err;
    assert!(with("100").contains(&format!("warning: the budget of this run is 100 tokens, {least}")));
    assert!(!with("320").contains("budget-too-small"));
    let set = said(&["budget", "set", "agent:small", "claude=10"]);
    assert!(set.err.contains(&format!("warning: the budget of agent:small is 10 tokens, {least}")), "{set:?}");
    assert_eq!(set.code, Some(0));
    for enough in ["320", "0"] {
        let set = said(&["budget", "set", "agent:small", enough]);
        assert!(!set.err.contains("warning"), "{enough}: {set:?}");
    }
    // What is measured afterwards is held for nothing, and a smaller answer needs less.
    for terms in ["gate: observe\n", "output_min: 16\n"] {
        desk.write("home/settings.yml", terms);
        agent("budget: 100\n");
        let checked = said(&["check", "small"]);
        assert!(!checked.out.contains("budget-too-small"), "{terms}: {}", checked.out);
    }
}

#[test]
fn a_relative_path_of_a_command_of_tools_is_warned_of_at_its_line_with_where_it_may_stand() {
    let desk = Desk::new();
    let checked = |command: &str| {
        let tools = format!("tools:\n  - {{mcp: {{command: {command}}}}}\n");
        desk.write("home/agents/shop.md", &format!("---\nkind: chat\nmodel: claude-x\n{tools}---\nYou help.\n"));
        told(&desk.carboy(&["check", "shop"]).output().unwrap())
    };
    let file = desk.path("home/agents/shop.md").display().to_string();
    for (command, word) in [
        ("[./server]", "./server"),
        ("[tools/server, --fast]", "tools/server"),
        ("[python3, server.py]", "server.py"),
        ("[node, --no-warnings, ../lib/server.mjs]", "../lib/server.mjs"),
    ] {
        let checked = checked(command);
        let message = format!(
            "{file}:5:21: warning: `{word}` of `mcp.command` in `tools` of agent `shop` is looked for in the bottle's own home"
        );
        assert!(checked.code == Some(0) && checked.out.contains(&message), "{}", checked.out);
        assert!(
            checked.out.contains("{script: {chunk: NAME}}") && checked.out.contains("[relative-path]"),
            "{}",
            checked.out
        );
    }
    for command in [
        "[crm]",
        "[python3, /opt/shop/orders.py]",
        "[npx, \"@shop/server\"]",
        "[uvx, crm-server, \"https://x.example/a.py\"]",
    ] {
        assert!(!checked(command).out.contains("relative-path"), "{command}");
    }
}
