//! Command lines, variables and seeds of each built-in provider.

use std::collections::BTreeMap;

use carboy_core::host::HostPattern;
use carboy_core::ids::MeterName;
use carboy_core::route::{AuthScheme, RouteAuth};
use proptest::prelude::*;

use super::*;

fn provider(name: &str) -> Provider {
    Provider { name: name.into(), command: None, args: Vec::new(), env: BTreeMap::new() }
}

fn headless(text: &str) -> Task {
    Task::Headless(text.into())
}

fn words(name: &str, task: &Task) -> String {
    command(&provider(name), task).join(" ")
}

fn fake(name: &SecretName) -> String {
    format!("carboy-placeholder-{}", name.as_str().to_lowercase().replace('_', "-"))
}

fn login(service: Service, secret: &str) -> Login {
    Login { service, secret: SecretName::parse(secret).unwrap() }
}

fn files(name: &str, prompt: &str, logins: &[Login]) -> BTreeMap<&'static str, String> {
    let account = ChatGptAccount { id: "acct-1".into(), plan: "pro".into() };
    let facts = Facts { workdir: "/w/a \"b\"", prompt, logins, fake: &fake, account: Some(&account) };
    seeds(&provider(name), &facts).into_iter().filter_map(|seed| Some((seed.path, seed.content(None)?))).collect()
}

#[test]
fn each_program_is_started_without_questions_and_without_a_sandbox_of_its_own() {
    // M37
    let task = headless("- do it");
    assert_eq!(words("claude", &Task::Interactive), "claude --dangerously-skip-permissions");
    assert_eq!(words("claude", &task), "claude --dangerously-skip-permissions --print -- - do it");
    assert_eq!(words("codex", &Task::Interactive), "codex --dangerously-bypass-approvals-and-sandbox");
    assert_eq!(
        words("codex", &task),
        "codex exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox -- - do it"
    );
    assert_eq!(words("gemini", &Task::Interactive), "gemini --yolo");
    assert_eq!(words("gemini", &task), "gemini --yolo --prompt=- do it");
    assert_eq!(words("opencode", &Task::Interactive), "opencode");
    assert_eq!(words("opencode", &task), "opencode run -- - do it");
    assert_eq!(words("shell", &Task::Interactive), "bash");
    assert_eq!(command(&provider("shell"), &headless("ls -l")), ["bash", "-c", "ls -l"]);
}

#[test]
fn each_program_goes_on_with_its_own_last_conversation() {
    // E3
    let again = |name: &str, task: &Task| resumed(&provider(name), task).join(" ").replace(GO_ON, "GO ON: ");
    let task = headless("- do it");
    assert_eq!(again("claude", &Task::Interactive), "claude --dangerously-skip-permissions --continue");
    assert_eq!(again("claude", &task), "claude --dangerously-skip-permissions --print --continue -- GO ON: - do it");
    assert_eq!(again("codex", &Task::Interactive), "codex --dangerously-bypass-approvals-and-sandbox resume --last");
    assert_eq!(
        again("codex", &task),
        "codex exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox resume --last -- GO ON: - do it"
    );
    assert_eq!(again("gemini", &Task::Interactive), "gemini --yolo --resume latest");
    assert_eq!(again("gemini", &task), "gemini --yolo --resume latest --prompt=GO ON: - do it");
    assert_eq!(again("opencode", &Task::Interactive), "opencode --continue");
    assert_eq!(again("opencode", &task), "opencode run --continue -- GO ON: - do it");
    // What has no conversations begins anew.
    for name in ["shell", "mine"] {
        assert_eq!(resumed(&provider(name), &task), command(&provider(name), &task));
        assert_eq!(conversations(&provider(name)), None);
    }
}

#[test]
fn what_the_manifest_says_of_a_provider_stands_on_top() {
    // M19 E9
    let own = Provider {
        command: Some("/opt/c/claude".into()),
        args: vec!["--model".into(), "opus".into()],
        ..provider("claude")
    };
    assert_eq!(
        command(&own, &headless("t")),
        ["/opt/c/claude", "--dangerously-skip-permissions", "--print", "--model", "opus", "--", "t"]
    );
    let other = Provider { command: Some("aider".into()), args: vec!["--yes".into()], ..provider("mine") };
    assert_eq!(command(&other, &Task::Interactive), ["aider", "--yes"]);
    assert_eq!(command(&other, &headless("t")), ["aider", "--yes", "t"]);
    assert!(environment(&other, &[login(Service::OpenAi, "K")], &fake).is_empty());
    assert!(is_program_of(&own, "claude") && is_program_of(&own, "/opt/c/claude") && !is_program_of(&own, "sh"));
    assert!(is_program_of(&other, "aider") && is_program_of(&provider("shell"), "/bin/bash"));
}

#[test]
fn a_fake_stands_where_the_program_looks_for_a_key_whatever_the_secret_is_called() {
    // M35
    let of = |name: &str, logins: &[Login]| environment(&provider(name), logins, &fake).into_iter().collect();
    let env: BTreeMap<&str, String> = of("claude", &[login(Service::Anthropic, "WORK_KEY")]);
    assert_eq!(env["ANTHROPIC_API_KEY"], "carboy-placeholder-work-key");
    let env: BTreeMap<&str, String> = of("claude", &[login(Service::Anthropic, "CLAUDE_CODE_OAUTH_TOKEN")]);
    assert!(!env.contains_key("ANTHROPIC_API_KEY"));
    assert_eq!(env["CLAUDE_CODE_OAUTH_TOKEN"], "carboy-placeholder-claude-code-oauth-token");
    let subscription = [login(Service::ChatGpt, "CODEX_ACCESS_TOKEN")];
    assert!(environment(&provider("codex"), &subscription, &fake).is_empty());
    assert_eq!(not_in_environment(&provider("codex"), &subscription), [subscription[0].secret.clone()]);
    assert!(not_in_environment(&provider("shell"), &subscription).is_empty());
}

#[test]
fn a_login_is_what_a_model_s_route_adds() {
    let route = |host: &str, meter: &str, secret: Option<&str>| {
        let secret = secret.map(|name| SecretName::parse(name).unwrap());
        let auth =
            secret.map(|secret| RouteAuth { header: "authorization".into(), scheme: AuthScheme::Bearer, secret });
        let meter = MeterName::parse(meter).ok();
        Route { auth, meter, ..Route::plain(1, HostPattern::parse(host).unwrap()) }
    };
    let routes = RouteSet::new(
        vec![
            route("proxy.example", "anthropic", Some("A")),
            route("api.openai.com", "openai", None),
            route("chatgpt.com", "openai", Some("C")),
            route("api.openai.com", "openai", Some("B")),
            route("api.anthropic.com", "anthropic", Some("D")),
            route("notes.example", "", Some("E")),
        ],
        1,
    );
    let found: Vec<_> = logins(&routes).into_iter().map(|login| (login.service, login.secret.to_string())).collect();
    let want = [(Service::Anthropic, "A"), (Service::ChatGpt, "C"), (Service::OpenAi, "B")];
    assert_eq!(found, want.map(|(service, name)| (service, name.to_owned())));
}

#[test]
fn claude_finds_its_first_questions_answered() {
    // M37
    let files = files("claude", "You are careful.", &[login(Service::Anthropic, "ANTHROPIC_API_KEY")]);
    let state: Value = serde_json::from_str(&files[".claude.json"]).unwrap();
    assert_eq!(state["hasCompletedOnboarding"], true);
    assert_eq!(state["projects"]["/w/a \"b\""]["hasTrustDialogAccepted"], true);
    assert_eq!(state["customApiKeyResponses"]["approved"][0], "er-anthropic-api-key");
    assert!(files[".claude/CLAUDE.md"].contains("\nYou are careful.\n"));
}

#[test]
fn codex_finds_a_login_of_the_right_shape_with_nothing_real_but_the_account() {
    // M35
    let files = files("codex", "", &[login(Service::ChatGpt, "CODEX_ACCESS_TOKEN")]);
    let login: Value = serde_json::from_str(&files[".codex/auth.json"]).unwrap();
    assert_eq!((&login["auth_mode"], &login["tokens"]["account_id"]), (&json!("chatgpt"), &json!("acct-1")));
    let token = login["tokens"]["access_token"].as_str().unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!((parts.len(), parts[2]), (3, "carboy-placeholder-codex-access-token"));
    assert!(parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')));
    assert!(files[".codex/config.toml"].contains("\n[projects.\"/w/a \\\"b\\\"\"]\ntrust_level = \"trusted\"\n"));
    // An agent file without a text leaves no file behind.
    assert!(!files.contains_key(".codex/AGENTS.md"));
}

#[test]
fn what_an_earlier_run_left_is_kept_and_ours_is_set_again() {
    // E10
    let json = |there: &str| {
        let how = How::Json {
            ours: json!({"a": true, "l": ["k"], "p": {"w": {"t": true}}}),
            first: json!({"theme": "dark"}),
        };
        Seed { path: "x", how }.content(Some(there)).map(|text| serde_json::from_str::<Value>(&text).unwrap())
    };
    let want = json!({"a": true, "l": ["j", "k"], "p": {"o": 1, "w": {"n": 2, "t": true}}, "theme": "light", "z": 3});
    assert_eq!(
        json(r#"{"a":false,"l":["j"],"p":{"o":1,"w":{"n":2,"t":false}},"theme":"light","z":3}"#),
        Some(want.clone())
    );
    assert_eq!(json(&want.to_string()), None);
    // What cannot be read gives way.
    let fresh = json!({"a": true, "l": ["k"], "p": {"w": {"t": true}}, "theme": "dark"});
    for broken in ["", "[]", "{\"a\":", "\"x\"", &"[".repeat(100_000)] {
        assert_eq!(json(broken), Some(fresh.clone()), "{}", &broken[..broken.len().min(9)]);
    }
}

#[test]
fn a_table_is_added_once_and_a_section_is_replaced() {
    let toml = Seed { path: "x", how: How::Toml { first: "a = 1\n", header: "[t]".into(), body: "b = 2\n".into() } };
    let written = toml.content(None).unwrap();
    assert_eq!(written, "a = 1\n\n[t]\nb = 2\n");
    assert_eq!(toml.content(Some(&written)), None);
    assert_eq!(toml.content(Some("c = 3")).unwrap(), "c = 3\n\n[t]\nb = 2\n");

    let section = |text: &str| Seed { path: "x", how: How::Section(text.into()) };
    let first = section("one").content(None).unwrap();
    assert_eq!(section("one").content(Some(&first)), None);
    let with_memory = format!("{first}- likes tea\n");
    let second = section("two").content(Some(&with_memory)).unwrap();
    assert!(second.contains("two") && second.contains("- likes tea") && !second.contains("one"), "{second}");
    assert_eq!(section("").content(Some(&second)).unwrap(), "- likes tea\n");
    assert_eq!(section("").content(None), None);
    assert_eq!(section("").content(Some(&first)).as_deref(), Some(""));
}

#[test]
fn bytes_are_written_as_rfc_4648_has_them() {
    let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| seed::base64url(text.as_bytes()));
    assert_eq!(texts, ["", "Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmE", "Zm9vYmFy"]);
    assert_eq!(seed::base64url(&[0xfb, 0xff]), "-_8");
}

proptest! {
    #[test]
    fn a_second_launch_finds_nothing_to_write(text in "[ -~\n]{0,60}", there in "[ -~\n]{0,60}") {
        for how in [
            How::Section(text.trim().to_owned()),
            How::Replace(text.clone()),
            How::Json { ours: json!({"k": text}), first: json!({"f": 1}) },
            How::Toml { first: "a = 1\n", header: "[t]".into(), body: "b = 2\n".into() },
        ] {
            let seed = Seed { path: "x", how };
            let once = seed.content(Some(&there)).unwrap_or(there.clone());
            prop_assert_eq!(seed.content(Some(&once)), None);
        }
    }
}
