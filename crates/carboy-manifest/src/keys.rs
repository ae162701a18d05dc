//! Which keys exist, which were removed and which belong to features that this version does not have.

/// A key that is gone: its name, what is said and what to do.
pub(crate) struct Removed {
    pub(crate) key: &'static str,
    pub(crate) message: &'static str,
    pub(crate) fix: &'static str,
}

/// The keys of one kind of map.
pub(crate) struct Keys {
    /// Sorted; what an error lists as allowed.
    pub(crate) allowed: &'static [&'static str],
    /// Known, and refused until their feature exists: a limit that nobody enforces must not look enforced.
    pub(crate) later: &'static [&'static str],
    /// M12–M15.
    pub(crate) removed: &'static [Removed],
}

impl Keys {
    /// A map in which every key that is known is also implemented.
    pub(crate) const fn only(allowed: &'static [&'static str]) -> Keys {
        Keys { allowed, later: &[], removed: &[] }
    }
}

pub(crate) const BOTTLE: Keys = Keys {
    allowed: &[
        "agent_provider",
        "backend",
        "binds",
        "budget",
        "ceiling",
        "count",
        "egress",
        "env",
        "extends",
        "forward",
        "gate",
        "git-gate",
        "image",
        "limits",
        "overrun",
        "presets",
        "publish",
        "shutdown",
        "supervise",
        "warn",
        "window",
        "workspace",
    ],
    later: &["mounts"],
    removed: &[
        Removed {
            key: "runtime",
            message: "`runtime` is no longer supported: how a bottle is isolated is detected by the backend, gVisor (runsc) \
                      included",
            fix: "remove `runtime`; see docs/removed-keys.md#runtime",
        },
        Removed {
            key: "ssh",
            message: "`ssh` was removed: a bottle holds no keys; the git gate holds the credential and scans what is pushed",
            fix: "declare the repository under `git-gate.repos` with `url`, `identity` and `host_key`; see \
                  docs/removed-keys.md#ssh",
        },
        Removed {
            key: "git",
            message: "`git` was replaced by `git-gate`",
            fix: "move `git.user` to `git-gate.user` and `git.remotes` to `git-gate.repos` (`url`, `identity`, \
                  `host_key`); see docs/removed-keys.md#git",
        },
        Removed {
            key: "git_user",
            message: "`git_user` was removed",
            fix: "move it to `git-gate.user`; see docs/removed-keys.md#git_user",
        },
    ],
};

pub(crate) const AGENT: Keys = Keys::only(&["bottle", "budget", "git-gate", "kind", "window"]);

/// `kind: chat`
pub(crate) const CHAT: Keys = Keys::only(&[
    "authorize",
    "bottle",
    "budget",
    "confirm",
    "frame_ancestors",
    "greeting",
    "identity",
    "kind",
    "limits",
    "model",
    "prompt",
    "reply",
    "requires",
    "screening",
    "serve",
    "title",
    "tools",
    "webhooks",
    "window",
]);
pub(crate) const CHAT_AUTHORIZE: Keys = Keys::only(&["allow", "deny", "roles", "users", "when"]);
pub(crate) const CHAT_CHUNK: Keys = Keys::only(&["chunk"]);
pub(crate) const CHAT_CLAIMS: Keys = Keys::only(&["roles", "user"]);
pub(crate) const CHAT_CONFIRM: Keys = Keys::only(&["always", "never", "operator"]);
pub(crate) const CHAT_FILTER: Keys = Keys::only(&["bytes_max", "regex", "replacement", "type"]);
pub(crate) const CHAT_IDENTITY: Keys = Keys::only(&["jwt", "signed_header"]);
pub(crate) const CHAT_JWT: Keys = Keys::only(&["audience", "claims", "cookie", "issuer", "jwks"]);
/// Those that are no knob are read by themselves; the knobs stand here for the list of what is allowed.
pub(crate) const CHAT_LIMITS: Keys = Keys::only(&[
    "calls_per_session",
    "confirmation_s",
    "limiter_keys_max",
    "long_conversation_turns",
    "message_chars_max",
    "model_wait_ms",
    "reply_chars_max",
    "requests_per_hour",
    "requests_per_ip_per_hour",
    "requests_per_ip_per_minute",
    "requests_per_session_per_minute",
    "session_idle_s",
    "sessions_max",
    "tool_arguments_bytes_max",
    "tool_calls_max",
    "tool_iterations_max",
    "tool_result_bytes_max",
    "tool_wait_ms",
    "turn_wait_ms",
    "turns_max",
]);
pub(crate) const CHAT_MCP: Keys = Keys::only(&["command", "name", "token_env", "url"]);
pub(crate) const CHAT_MODEL: Keys =
    Keys::only(&["base_url", "meter", "name", "output_tokens_max", "provider", "token_env"]);
pub(crate) const CHAT_PATTERN: Keys = Keys::only(&["category", "confidence", "regex"]);
pub(crate) const CHAT_PROMPT: Keys = Keys::only(&["fallback", "hand_off", "long_reminder", "refusal", "reminder"]);
pub(crate) const CHAT_REPLY: Keys = Keys::only(&["dates", "ids", "off_topic", "plain_text", "scope"]);
pub(crate) const CHAT_REQUIRE: Keys = Keys::only(&["after", "result", "same", "within"]);
pub(crate) const CHAT_RULES_FILE: Keys = Keys::only(&["injection_patterns", "output_filters"]);
pub(crate) const CHAT_SCREENING: Keys = Keys::only(&[
    "block_suspicious_inputs",
    "filter_pii",
    "filter_secrets",
    "injection_patterns",
    "injection_percent",
    "output_filters",
]);
pub(crate) const CHAT_SCRIPT: Keys = Keys::only(&["chunk", "interpreter", "name", "path"]);
/// `chat` of settings.yml: every knob, and the model of agents that name none.
pub(crate) const CHAT_SETTINGS: Keys = Keys::only(&[
    "block_suspicious_inputs",
    "confirmation_s",
    "filter_pii",
    "filter_secrets",
    "injection_percent",
    "limiter_keys_max",
    "long_conversation_turns",
    "message_chars_max",
    "model",
    "model_wait_ms",
    "reply_chars_max",
    "requests_per_hour",
    "requests_per_ip_per_hour",
    "requests_per_ip_per_minute",
    "requests_per_session_per_minute",
    "session_idle_s",
    "sessions_max",
    "tool_arguments_bytes_max",
    "tool_calls_max",
    "tool_iterations_max",
    "tool_result_bytes_max",
    "tool_wait_ms",
    "turn_wait_ms",
    "turns_max",
]);
pub(crate) const CHAT_SERVE: Keys = Keys::only(&["architecture"]);
pub(crate) const CHAT_SIGNED_HEADER: Keys = Keys::only(&["header", "max_age", "secret"]);
pub(crate) const CHAT_TOOL: Keys = Keys::only(&["mcp", "script"]);
pub(crate) const CHAT_WEBHOOKS: Keys = Keys::only(&["attempts", "feedback", "hand_off", "secret", "token_env"]);

pub(crate) const ROUTE: Keys = Keys {
    allowed: &[
        "auth_header",
        "auth_scheme",
        "body_bytes_max",
        "credential",
        "dlp",
        "git",
        "host",
        "matches",
        "meter",
        "ports",
        "private",
        "token_env",
        "websocket",
    ],
    later: &["bytes_per_day_max"],
    removed: &[],
};

pub(crate) const CREDENTIAL: Keys = Keys::only(&["env", "from", "in", "name"]);
pub(crate) const EGRESS: Keys = Keys::only(&["log", "routes"]);
pub(crate) const MATCH: Keys = Keys::only(&["headers", "methods", "paths"]);
pub(crate) const PATH: Keys = Keys::only(&["type", "value"]);
pub(crate) const HEADER: Keys = Keys::only(&["name", "type", "value"]);
pub(crate) const ROUTE_GIT: Keys = Keys::only(&["fetch"]);
pub(crate) const DLP: Keys = Keys::only(&["inbound_detectors", "outbound_detectors", "outbound_on_match"]);
pub(crate) const GIT_GATE: Keys = Keys::only(&["repos", "user"]);
pub(crate) const GIT_USER: Keys = Keys::only(&["email", "name"]);
pub(crate) const GIT_REPO: Keys = Keys::only(&["host_key", "identity", "url"]);
pub(crate) const PROVIDER: Keys = Keys::only(&["args", "command", "env", "name"]);
pub(crate) const PRESET_OF_NOTHING: Keys = Keys::only(&[]);
pub(crate) const PRESET_OF_TOKEN: Keys = Keys::only(&["credential", "token_env"]);
pub(crate) const PRESET_OF_HOSTS: Keys = Keys::only(&["credential", "hosts", "private", "token_env"]);
pub(crate) const PRESET_CREDENTIAL: Keys = Keys::only(&["env", "from"]);
pub(crate) const LIMITS: Keys = Keys::only(&["memory", "open_files", "processes"]);
pub(crate) const IMAGE: Keys = Keys::only(&["archive", "directory", "dockerfile"]);
pub(crate) const SETTINGS: Keys = Keys::only(&[
    "bottle_uid",
    "budget",
    "capture",
    "ceiling",
    "chat",
    "count",
    "gate",
    "governs",
    "hold_wait",
    "notify",
    "output_min",
    "overrun",
    "secrets",
    "shutdown",
    "upstreams",
    "warn",
    "window",
]);
pub(crate) const WINDOW: Keys = Keys::only(&["calendar", "rolling", "tz"]);
pub(crate) const SECRET: Keys = Keys::only(&["command", "env", "file", "pointer"]);
pub(crate) const NOTIFY: Keys = Keys::only(&["bell", "desktop", "webhook"]);
pub(crate) const WEBHOOK: Keys = Keys::only(&["token_env", "url"]);
pub(crate) const UPSTREAM: Keys = Keys::only(&["address", "ca", "tls"]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Code;

    const REFERENCE: &str = include_str!("../../../docs/manifest.md");
    const DEFAULTS: &str = include_str!("../../../docs/defaults.md");
    const REMOVED: &str = include_str!("../../../docs/removed-keys.md");

    #[test]
    fn the_reference_names_every_key_and_every_code() {
        // M11, M34
        let all = [
            &BOTTLE,
            &AGENT,
            &CHAT,
            &CHAT_AUTHORIZE,
            &CHAT_CLAIMS,
            &CHAT_CONFIRM,
            &CHAT_FILTER,
            &CHAT_IDENTITY,
            &CHAT_JWT,
            &CHAT_LIMITS,
            &CHAT_MCP,
            &CHAT_MODEL,
            &CHAT_PATTERN,
            &CHAT_PROMPT,
            &CHAT_REPLY,
            &CHAT_REQUIRE,
            &CHAT_SCREENING,
            &CHAT_SCRIPT,
            &CHAT_SERVE,
            &CHAT_SIGNED_HEADER,
            &CHAT_TOOL,
            &CHAT_WEBHOOKS,
            &ROUTE,
            &EGRESS,
            &MATCH,
            &PATH,
            &HEADER,
            &ROUTE_GIT,
            &DLP,
            &GIT_GATE,
            &GIT_USER,
            &GIT_REPO,
            &PRESET_OF_HOSTS,
            &PROVIDER,
            &LIMITS,
            &IMAGE,
            &SETTINGS,
            &WINDOW,
            &SECRET,
            &NOTIFY,
            &WEBHOOK,
            &UPSTREAM,
        ];
        for key in all.iter().flat_map(|keys| keys.allowed.iter().chain(keys.later)) {
            let word = |c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-';
            // The thresholds of chat agents have a page of their own.
            let mut words = REFERENCE.split(word).chain(DEFAULTS.split(word));
            assert!(words.any(|found| found == *key), "{key}");
        }
        for code in Code::ALL {
            assert!(REFERENCE.contains(&format!("| `{}` |", code.as_str())), "{}", code.as_str());
        }
    }

    #[test]
    fn every_removed_key_has_its_heading() {
        // M12, M13, M14, M15, M40
        for removed in BOTTLE.removed {
            assert!(REMOVED.contains(&format!("\n## `{}`\n", removed.key)), "{}", removed.key);
        }
    }

    #[test]
    fn the_lists_of_knobs_are_the_table_of_knobs() {
        // U5
        use crate::chat::KNOBS;
        for keys in [&CHAT_LIMITS, &CHAT_SCREENING, &CHAT_SETTINGS] {
            let others = ["calls_per_session", "injection_patterns", "model", "output_filters"];
            let known = |key: &&&str| others.contains(*key) || KNOBS.iter().any(|knob| knob.name == **key);
            assert_eq!(keys.allowed.iter().find(|key| !known(key)), None);
        }
        for knob in KNOBS {
            assert!(CHAT_SETTINGS.allowed.contains(&knob.name), "{}", knob.name);
            let own = CHAT_LIMITS.allowed.contains(&knob.name) != CHAT_SCREENING.allowed.contains(&knob.name);
            assert!(own, "{} stands in one of the two", knob.name);
        }
    }

    #[test]
    fn lists_of_keys_are_sorted() {
        for keys in [&BOTTLE, &AGENT, &CHAT, &CHAT_LIMITS, &CHAT_SCREENING, &CHAT_SETTINGS, &ROUTE, &SETTINGS] {
            assert!(keys.allowed.is_sorted() && keys.later.is_sorted());
        }
    }
}
