//! `carboy doctor --production AGENT`: the deployment checklist of a chat agent, each box looked at by itself (G72b).
//!
//! *Must never* print a secret, run a command to get one, or tick a box that nobody looked at.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use carboy_control::chat::SESSION_SECRET;
use carboy_control::doctor::Standing;
use carboy_control::log::{Hint, Integrity, StoreError, verify};
use carboy_control::vault::{Lookup, Presence, look};
use carboy_core::audit::{ChainKey, Tampering};
use carboy_core::chat::{ChatSpec, Identity};
use carboy_core::ids::SecretName;
use carboy_core::upstream::Transport;
use carboy_manifest::chat::{AUDIT_INTEGRITY_KEY, KNOBS, Preset};
use carboy_manifest::diagnostic::{Code, Diagnostics};
use carboy_manifest::{Effective, Manifest, Request, SecretFrom};
use serde_json::json;

use crate::applications::ProgramFiles;
use crate::args::DoctorArgs;
use crate::chat::{Looking, WithDotenv};
use crate::environment::Environment;
use crate::report::{self, Exit, Failure, Palette, printable};
use crate::{chat_file, print};

/// Fewest characters of a session secret.
const SECRET_CHARS_MIN: usize = 32;

/// One box.
struct Tick {
    topic: &'static str,
    standing: Standing,
    seen: String,
    fix: Option<String>,
}

impl Tick {
    fn good(topic: &'static str, seen: impl Into<String>) -> Tick {
        Tick { topic, standing: Standing::Good, seen: seen.into(), fix: None }
    }

    fn weak(topic: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Tick {
        Tick { topic, standing: Standing::Weaker, seen: seen.into(), fix: Some(fix.into()) }
    }

    fn no(topic: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Tick {
        Tick { topic, standing: Standing::Blocking, seen: seen.into(), fix: Some(fix.into()) }
    }
}

/// Looks at each, says what was seen, and gives 1 where one is missing.
pub fn production(agent: &str, args: &DoctorArgs, environment: &Environment) -> Result<u8, Failure> {
    let request = Request { agent: Some(agent.to_owned()), bottles: Vec::new(), places: environment.places.clone() };
    let effective = Manifest::load_trusting(&ProgramFiles, &request, &Looking)
        .map_err(|error| Failure::diagnostics(Exit::Config, &error))?;
    let Some(file) = &effective.chat else {
        return Err(Failure::words(Exit::Usage, format!("`{agent}` is no chat agent"))
            .hint("`carboy doctor` says what this machine can give to other agents"));
    };
    let settled = chat_file::settle(file, &environment.places, environment.lookup.as_ref(), &args.chat.flags());
    let has_dotenv = settled.dotenv.is_some();
    let lookup = WithDotenv::new(environment.lookup.clone(), settled.dotenv);
    let mut ticks = Vec::new();
    match settled.chat {
        Err(errors) => ticks.push(Tick::no("file", errors.to_string(), format!("`carboy check {agent}`"))),
        Ok(resolved) => {
            ticks.push(Tick::good("file", "valid, every value settled"));
            ticks.extend(secrets(&resolved.spec, &effective, &lookup));
            ticks.extend(other_secrets(&resolved.spec, &effective, &lookup));
            ticks.push(thresholds(&resolved.spec));
            let dotenv = has_dotenv.then(|| file.dotenv(&environment.places));
            ticks.push(dotenv_tick(dotenv.as_deref(), &resolved.warnings));
            ticks.push(budget(&resolved.spec, &effective));
            ticks.push(transport(&resolved.spec, &effective));
            ticks.push(frames(&resolved.spec));
            ticks.push(identity(&resolved.spec));
        }
    }
    ticks.push(home(environment));
    ticks.push(log(environment, &lookup));
    show(agent, &ticks, args.json)
}

/// The keys: of the model, of sessions, of the log.
fn secrets(spec: &ChatSpec, effective: &Effective, lookup: &WithDotenv) -> Vec<Tick> {
    let model = match &spec.model.token_env {
        None => Tick::good("model key", format!("{} takes none", spec.model.host)),
        Some(name) => match found(name, effective, lookup) {
            Ok(seen) => Tick::good("model key", seen),
            Err(seen) => Tick::no(
                "model key",
                seen,
                format!(
                    "set {name} in the environment or the `.env` beside the agent, or under `secrets:` in settings.yml"
                ),
            ),
        },
    };
    let make =
        "`openssl rand -hex 32` makes one; set it in the environment, the `.env`, or under `secrets:` in settings.yml";
    let session = match SecretName::parse(SESSION_SECRET).map(|name| (found(&name, effective, lookup), name)) {
        Ok((Ok(_), name)) if too_short(&name, lookup) => {
            Tick::no("session secret", format!("{name} has fewer than {SECRET_CHARS_MIN} characters"), make)
        }
        Ok((Ok(seen), _)) => Tick::good("session secret", seen),
        Ok((Err(seen), _)) => Tick::no("session secret", seen, make),
        Err(error) => Tick::no("session secret", error.to_string(), make),
    };
    vec![model, session, audit_key(lookup)]
}

/// What else it needs: tokens of its routes, what its webhooks and its identity's header are signed with.
fn other_secrets(spec: &ChatSpec, effective: &Effective, lookup: &WithDotenv) -> Vec<Tick> {
    let model = spec.model.token_env.as_ref();
    let names = effective.secrets().into_keys().filter(|name| Some(name) != model && name.as_str() != SESSION_SECRET);
    let ticks = names.map(|name| match found(&name, effective, lookup) {
        Ok(seen) => Tick::good("secret", seen),
        Err(seen) => Tick::no(
            "secret",
            seen,
            format!(
                "set {name} in the environment or the `.env` beside the agent, or under `secrets:` in settings.yml: it does not \
                 start without"
            ),
        ),
    });
    ticks.collect()
}

fn audit_key(lookup: &WithDotenv) -> Tick {
    let text = lookup.variable(AUDIT_INTEGRITY_KEY).map(|text| text.to_string_lossy().into_owned());
    let fix = format!("`carboy audit keygen` prints one for {AUDIT_INTEGRITY_KEY}; keep it away from the log");
    match text.filter(|text| !text.is_empty()).map(|text| ChainKey::from_hex(&text)) {
        Some(Ok(_)) => {
            Tick::good("audit key", format!("{AUDIT_INTEGRITY_KEY} is set: entries cannot be changed without it"))
        }
        Some(Err(error)) => Tick::no("audit key", error.to_string(), fix),
        None => Tick::no(
            "audit key",
            format!("{AUDIT_INTEGRITY_KEY} is not set: who can write the log can write it anew"),
            fix,
        ),
    }
}

/// Is it there? What is said of it has no value in it.
fn found(name: &SecretName, effective: &Effective, lookup: &WithDotenv) -> Result<String, String> {
    let said = effective.settings.secrets.get(name).map(|from| from.value.clone());
    let (from, origin) = match said {
        Some(from) => (from, "settings.yml says where"),
        None => (SecretFrom::Env(name.to_string()), "set"),
    };
    match look(name, &from, lookup) {
        Ok(Presence::Ready) => Ok(format!("{name}: {origin}, and there")),
        Ok(Presence::NotRun { program }) => {
            Ok(format!("{name}: the command `{}` gives it; it was not run", printable(&program)))
        }
        Err(error) => Err(printable(&error.to_string())),
    }
}

fn too_short(name: &SecretName, lookup: &WithDotenv) -> bool {
    let value = lookup.variable(name.as_str());
    value.is_some_and(|value| value.to_string_lossy().chars().count() < SECRET_CHARS_MIN)
}

/// None is looser than the production preset has it.
fn thresholds(spec: &ChatSpec) -> Tick {
    let looser: Vec<String> = Preset::Production
        .values()
        .iter()
        .filter_map(|(name, wanted)| {
            let knob = KNOBS.iter().find(|knob| knob.name == *name)?;
            let value = knob.get(&spec.limits, &spec.screening);
            let said = || format!("{name} is {}, production has {}", knob.shown(value), knob.shown(*wanted));
            knob.is_looser(value, *wanted).then(said)
        })
        .collect();
    match looser.is_empty() {
        true => Tick::good("thresholds", "none is looser than the production preset"),
        false => {
            Tick::no("thresholds", looser.join("; "), "start it with `--preset production`, or take these values back")
        }
    }
}

fn dotenv_tick(path: Option<&Path>, warnings: &Diagnostics) -> Tick {
    let Some(path) = path else { return Tick::good(".env", "there is none beside the agent") };
    let exposed: Vec<_> = warnings.iter().filter(|one| one.code == Code::FileExposed).collect();
    match exposed.as_slice() {
        [] => Tick::good(
            ".env",
            format!("{} is yours alone and not tracked by git", printable(&path.display().to_string())),
        ),
        all => {
            let seen: Vec<&str> = all.iter().map(|one| one.message.as_str()).collect();
            let fix: Vec<&str> = all.iter().map(|one| one.fix.as_str()).collect();
            Tick::no(".env", seen.join("; "), fix.join("\n"))
        }
    }
}

fn budget(spec: &ChatSpec, effective: &Effective) -> Tick {
    let binding = effective.budgets.binding(&spec.model.meter);
    match binding.first() {
        Some(_) => Tick::good(
            "budget",
            format!("{} of {} binds; people get the hand-off when it is spent", caps(binding.len()), spec.model.meter),
        ),
        None => Tick::no(
            "budget",
            format!("nothing bounds what {} may cost", spec.model.meter),
            "add `budget: 2M` to the agent's file, or `budget:` to settings.yml",
        ),
    }
}

fn caps(count: usize) -> String {
    if count == 1 { "one cap".into() } else { format!("{count} caps") }
}

/// The model is asked over TLS, or on this machine.
fn transport(spec: &ChatSpec, effective: &Effective) -> Tick {
    let host = &spec.model.host;
    match effective.settings.upstreams.get(host, spec.model.port) {
        None => Tick::good("transport", format!("{host} is asked over TLS, its certificate verified")),
        Some(upstream) => match (upstream.transport, upstream.address.ip().is_loopback()) {
            (Transport::Tls, _) => Tick::good("transport", format!("{host} is asked over TLS at {}", upstream.address)),
            (Transport::Plain, true) => {
                Tick::good("transport", format!("{host} is on this machine, {}", upstream.address))
            }
            (Transport::Plain, false) => Tick::no(
                "transport",
                format!(
                    "{host} is asked without TLS at {}: its key and every word can be read on the way",
                    upstream.address
                ),
                "put TLS before it and take `tls: false` out of `upstreams:` in settings.yml",
            ),
        },
    }
}

/// Who may show the chat in a frame.
fn frames(spec: &ChatSpec) -> Tick {
    let plain: Vec<&str> =
        spec.frame_ancestors.iter().map(String::as_str).filter(|origin| !origin.starts_with("https://")).collect();
    match (spec.frame_ancestors.as_slice(), plain.as_slice()) {
        ([], _) => Tick::good("frames", "no other site may show it in a frame"),
        (all, []) => Tick::good("frames", format!("{}, over TLS", printable(&all.join(", ")))),
        (_, plain) => Tick::no(
            "frames",
            format!("{} may show it without TLS", printable(&plain.join(", "))),
            "write `https://` origins in `frame_ancestors`",
        ),
    }
}

fn identity(spec: &ChatSpec) -> Tick {
    match &spec.identity {
        Identity::Anonymous => Tick::weak(
            "identity",
            "visitors are told apart by their session alone",
            "fine for a public desk; `identity:` with a JWT or a signed header says who a person is",
        ),
        Identity::Jwt { issuer, .. } => {
            Tick::good("identity", format!("a token of {} says who a person is", printable(issuer)))
        }
        Identity::SignedHeader { header, .. } => {
            Tick::good("identity", format!("the signed header {} says who a person is", printable(header)))
        }
    }
}

/// What it keeps is this user's alone.
fn home(environment: &Environment) -> Tick {
    let root = environment.home.root();
    let shown = printable(&root.display().to_string());
    match std::fs::metadata(root) {
        Ok(meta) if meta.mode() & 0o077 == 0 => Tick::good("home", format!("{shown} is yours alone")),
        Ok(meta) => {
            Tick::no("home", format!("{shown} has mode {:o}", meta.mode() & 0o777), format!("chmod 700 {shown}"))
        }
        Err(error) => Tick::no("home", format!("{shown}: {error}"), "make it, or name another with `--home DIR`"),
    }
}

/// The log can be written, and nobody has changed it.
fn log(environment: &Environment, lookup: &WithDotenv) -> Tick {
    let path = environment.home.audit_log();
    let shown = printable(&path.display().to_string());
    let place = if path.exists() { path.as_path() } else { path.parent().unwrap_or(Path::new("/")) };
    if let Err(error) = rustix::fs::access(place, rustix::fs::Access::WRITE_OK) {
        let why = std::io::Error::from(error);
        return Tick::no(
            "log",
            format!("{shown} cannot be written: {why}"),
            "without a log nothing is answered; give it room and rights",
        );
    }
    let text = lookup.variable(AUDIT_INTEGRITY_KEY).map(|text| text.to_string_lossy().into_owned());
    let key = text.and_then(|text| ChainKey::from_hex(&text).ok()).unwrap_or(ChainKey::Plain);
    match verify(&path, &key, None) {
        Ok(report) => match report.result {
            Integrity::Valid => Tick::good("log", format!("VALID: {} entries in {shown}", report.entries)),
            Integrity::Tampered(what) => not_valid(&what, report.hint),
        },
        Err(StoreError::Missing { .. }) => Tick::good("log", format!("{shown} can be written; nothing is in it yet")),
        Err(error) => Tick::no("log", error.to_string(), "`carboy audit verify` says more"),
    }
}

/// A log that does not hold: what it may be besides changed is said with it, and a missing key alone is no sign of a change.
fn not_valid(what: &Tampering, hint: Option<Hint>) -> Tick {
    match hint {
        Some(hint @ Hint::LooksKeyed) => Tick::no("log", "UNVERIFIED: it is keyed", hint.to_string()),
        Some(hint @ Hint::WrittenWithoutKey) => Tick::no(
            "log",
            format!("TAMPERED, or begun before {AUDIT_INTEGRITY_KEY} was set: {what}"),
            hint.to_string(),
        ),
        Some(hint @ Hint::AnotherKey) => {
            Tick::no("log", format!("TAMPERED, or written with another key: {what}"), hint.to_string())
        }
        Some(hint @ Hint::TornEnd { .. }) => Tick::no("log", format!("TAMPERED: {what}"), hint.to_string()),
        None => Tick::no(
            "log",
            format!("TAMPERED: {what}"),
            "`carboy audit verify` says more; move the log away and find out who did it",
        ),
    }
}

fn show(agent: &str, ticks: &[Tick], as_json: bool) -> Result<u8, Failure> {
    let missing = ticks.iter().filter(|tick| tick.standing == Standing::Blocking).count();
    let code = if missing == 0 { 0 } else { Exit::Found as u8 };
    if as_json {
        let boxes = ticks.iter().map(|tick| {
            json!({"topic": tick.topic, "standing": super::word(tick.standing), "seen": tick.seen, "fix": tick.fix})
        });
        let report = json!({"agent": agent, "ready": missing == 0, "boxes": boxes.collect::<Vec<_>>()});
        print(format!("{report}\n").as_bytes())?;
        return Ok(code);
    }
    let palette = Palette::stdout();
    let mut out = String::new();
    for tick in ticks {
        let mark = match tick.standing {
            Standing::Good => palette.good("[x]"),
            Standing::Weaker => palette.warn("[~]"),
            Standing::Blocking => palette.bad("[ ]"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{mark} {:<15} {}", tick.topic, tick.seen);
        for line in tick.fix.iter().flat_map(|fix| fix.lines()) {
            let _ = writeln!(out, "    {}", palette.faint(line));
        }
    }
    let _ = match missing {
        0 => writeln!(
            out,
            "\n{}",
            palette.good(&format!("{agent} is ready for `carboy serve {agent} --preset production`"))
        ),
        1 => writeln!(out, "\n{}", palette.bad("1 box is open")),
        more => writeln!(out, "\n{}", palette.bad(&format!("{more} boxes are open"))),
    };
    print(report::wrapped(&out, report::columns(std::io::stdout())).as_bytes())?;
    Ok(code)
}
