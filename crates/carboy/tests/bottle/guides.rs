//! The guides, run: every `$ ` line of their ```console blocks in order, in one shell and a fresh home, and what is shown
//! below a line compared with what came.
//!
//! In what is shown, `…` stands for anything, and alone on a line for any lines; ids, sizes and times may be other ones,
//! and an id that was shown is known again in later lines. A command has to end well, unless its output is an error or
//! the next line asks for the code.
//!
//! What a reader has and a test has not: the hosts are the simulated provider's (`settings.yml` sends them there), the
//! key is its key, and packages come from where `xtask/clients.sh` has put them.

mod shell;
mod steps;

use std::path::Path;

use carboy_sim::{Config, Reply, Script, Simulator};
use serde_json::json;

use crate::clients::client;
use crate::world::{Person, REAL_KEY, REAL_OPENAI_KEY, World};
use crate::{Case, case_with};

use shell::Shell;
use steps::{Known, Step};

/// Hosts of the guides; all are the simulated provider.
const HOSTS: &[&str] = &["api.anthropic.com", "api.openai.com", "notes.example", "docs.example"];

pub fn cases() -> Vec<Case> {
    let python: &'static str = client("venv/bin/python").leak();
    let claude: &'static str = client("bin/claude").leak();
    vec![
        case_with("the guide `tonight`, every command", vec!["bash", "git", "curl", claude].leak(), tonight),
        case_with("the guide `your-agent`, every command", vec!["bash", "node", "curl", python].leak(), your_agent),
        case_with("the guide `fleet`, every command", &["bash", "curl"], fleet),
        case_with("G87 the guide `chat-agent`, every command", &["bash", "python3"], chat_agent),
    ]
}

fn tonight(person: Person) {
    let mend = json!({"command": "sed -i s/nme/name/ greet.py", "description": "Mends the name"});
    let script = Script::default()
        .when(|prompt| prompt.after_tool, Reply::text("`nme` was a slip of the pen for `name`."))
        .on("Mend greet.py", Reply::tool("Bash", mend));
    guide(person, script, "tonight");
}

fn your_agent(person: Person) {
    let script = Script::default()
        .on("What do the notes say", Reply::tool("read_note", json!({"name": "clean"})))
        .on_tool_result("tomatoes", Reply::text("Water them in the morning."))
        .on("When do I water", Reply::text("In the morning."));
    guide(person, script, "your-agent");
}

fn fleet(person: Person) {
    guide(person, Script::default(), "fleet");
}

fn chat_agent(person: Person) {
    guide(person, Script::default(), "chat-agent");
}

/// Runs all of `docs/guides/NAME.md`.
fn guide(person: Person, script: Script, name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../docs/guides/{name}.md"));
    let text = std::fs::read_to_string(file).unwrap();
    let mut world = World::new(person);
    let config = Config {
        anthropic_key: REAL_KEY.into(),
        openai_key: REAL_OPENAI_KEY.into(),
        names: HOSTS.iter().map(|host| (*host).to_owned()).collect(),
        script,
        ..Config::default()
    };
    world.provider = world.block_on(Simulator::start(config)).unwrap();
    home(&world);
    let mut shell = Shell::start(&world);
    let steps = steps::read(&text);
    assert!(steps.len() > 5, "a guide with next to no commands");
    let mut known = Known::default();
    for (index, step) in steps.iter().enumerate() {
        let told = step.tolerates_failure(steps.get(index + 1));
        run(&mut shell, step, &mut known, told);
    }
}

/// One command, and what it says.
fn run(shell: &mut Shell, step: &Step, known: &mut Known, may_fail: bool) {
    let command = provided(&known.translate(&step.command));
    let (said, code) = shell.run(&command);
    let seen = format!("line {} of the guide: {}\nended with {code} and said:\n{said}", step.line, step.command);
    assert!(code == 0 || may_fail, "{seen}");
    if let Err(what) = known.compare(&step.shown, &said) {
        panic!("{what}\n{seen}");
    }
}

/// What stands for a reader's own key, and for what a package index would give.
fn provided(command: &str) -> String {
    let site = "/lib/python3*/site-packages";
    let installed = client(&format!("venv{site}"));
    let pip = format!("for d in .venv{site}; do for s in {installed}; do echo \"$s\" > $d/installed.pth; done; done");
    command.replace("sk-ant-…", REAL_KEY).replace(".venv/bin/pip install --quiet anthropic", &pip)
}

/// A user's home with the settings alone.
fn home(world: &World) {
    let mut settings = String::from("upstreams:\n");
    for host in HOSTS {
        let (address, dir) = (world.provider.tls_addr, world.dir.display());
        settings.push_str(&format!("  {host}: {{address: \"{address}\", tls: true, ca: \"{dir}/provider.pem\"}}\n"));
    }
    world.write("provider.pem", world.provider.ca_pem());
    world.write("user/.carboy/settings.yml", &settings);
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(world.dir.join("user/.carboy"), private).unwrap();
}
