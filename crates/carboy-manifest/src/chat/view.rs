//! A chat agent as `check --json` shows it: every value with its place. Names of secrets, never one.

use std::collections::BTreeMap;

use carboy_core::chat::{
    AuthorizationEffect, ChatFormat, Confirm, Grounded, GroundingScope, Identity, SourcePage, ToolSource, Webhook,
};
use carboy_core::ids::SecretName;
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::knobs::{KNOBS, KnobKind};
use super::resolve::Resolved;
use super::tools::{built_in_name, server_name};
use crate::origin::{Origin, Sourced};

/// [`Resolved`] for machines and people.
#[derive(Clone, Debug, Serialize)]
pub struct ChatView {
    /// What people read as its name.
    pub title: Sourced<String>,
    /// What it says first.
    pub greeting: Sourced<String>,
    /// Who answers: `{format, host, port, path, name, meter, token_env, output_tokens_max}`.
    pub model: Sourced<Json>,
    /// Characters of the system prompt, and the texts that it says by itself.
    pub prompt: Sourced<Json>,
    /// Its tools in order.
    pub tools: Sourced<Vec<Json>>,
    /// What the runtime demands, by tool: `{requires, confirm, calls_per_session_max}`.
    pub rules: BTreeMap<String, Json>,
    /// Who may call what, in order.
    pub authorize: Sourced<Vec<Json>>,
    /// How a person is told from another.
    pub identity: Sourced<Json>,
    /// Every maximum.
    pub limits: BTreeMap<&'static str, Sourced<Json>>,
    /// What is looked for.
    pub screening: BTreeMap<&'static str, Sourced<Json>>,
    /// Patterns besides the built-in ones.
    pub injection_patterns: Vec<Json>,
    /// Filters besides the built-in ones.
    pub output_filters: Vec<Json>,
    /// What a reply keeps to.
    pub reply: Sourced<Json>,
    /// Who is told.
    pub webhooks: Sourced<Json>,
    /// What its service shows besides the chat.
    pub serve: Sourced<Json>,
    /// Sites that may frame it.
    pub frame_ancestors: Sourced<Vec<String>>,
    /// The preset that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<&'static str>,
    /// Secrets that it names or may have.
    pub secrets: Vec<SecretName>,
}

impl Resolved {
    /// As `check --json` shows it.
    pub fn view(&self) -> ChatView {
        let spec = &self.spec;
        let origin = |key: &str| self.origins.get(key).cloned().unwrap_or(Origin::Default);
        let knobs = |wanted: fn(KnobKind) -> bool| {
            let chosen = KNOBS.iter().filter(move |knob| wanted(knob.kind));
            let shown = chosen.map(|knob| {
                let value = knob.shown(knob.get(&spec.limits, &spec.screening));
                (knob.name, Sourced { value, origin: origin(knob.name) })
            });
            shown.collect()
        };
        ChatView {
            title: Sourced { value: spec.title.clone(), origin: origin("title") },
            greeting: Sourced { value: spec.greeting.clone(), origin: origin("greeting") },
            model: Sourced { value: self.model(), origin: origin("model") },
            prompt: Sourced { value: self.prompt(), origin: origin("prompt") },
            tools: Sourced { value: spec.tools.iter().map(tool).collect(), origin: origin("tools") },
            rules: spec.rules.iter().map(|(name, rules)| (name.clone(), rules_of(rules))).collect(),
            authorize: Sourced { value: self.authorize(), origin: origin("authorize") },
            identity: Sourced { value: identity(&spec.identity), origin: origin("identity") },
            limits: knobs(|kind| kind == KnobKind::Count),
            screening: knobs(|kind| kind != KnobKind::Count),
            injection_patterns: self.patterns(),
            output_filters: self.filters(),
            reply: Sourced { value: self.reply(), origin: origin("reply") },
            webhooks: Sourced { value: self.webhooks(), origin: origin("webhooks") },
            serve: Sourced { value: self.serve(), origin: origin("serve") },
            frame_ancestors: Sourced { value: spec.frame_ancestors.clone(), origin: origin("frame_ancestors") },
            preset: self.preset.map(super::Preset::name),
            secrets: self.secrets.iter().cloned().collect(),
        }
    }

    fn model(&self) -> Json {
        let model = &self.spec.model;
        let format = match model.format {
            ChatFormat::Anthropic => "anthropic",
            ChatFormat::OpenAi => "openai",
        };
        json!({
            "format": format,
            "host": model.host.to_string(),
            "port": model.port,
            "path": model.path,
            "name": model.model,
            "meter": model.meter,
            "token_env": model.token_env,
            "output_tokens_max": model.output_tokens_max,
        })
    }

    fn prompt(&self) -> Json {
        let prompt = &self.spec.prompt;
        json!({
            "system_chars": prompt.system.chars().count(),
            "reminder": prompt.reminder,
            "long_reminder": prompt.long_reminder,
            "refusal": prompt.refusal,
            "fallback": prompt.fallback,
            "hand_off": prompt.hand_off,
        })
    }

    fn authorize(&self) -> Vec<Json> {
        let rules = self.spec.authorize.iter().map(|rule| {
            let effect = match rule.effect {
                AuthorizationEffect::Allow => "allow",
                AuthorizationEffect::Deny => "deny",
            };
            let tools = if rule.tools.is_empty() { json!("all") } else { json!(rule.tools) };
            json!({effect: tools, "users": rule.users, "roles": rule.roles, "when": rule.arguments})
        });
        rules.collect()
    }

    fn patterns(&self) -> Vec<Json> {
        let shown = self.spec.screening.injection_patterns.iter().map(|pattern| {
            json!({
                "regex": pattern.regex,
                "category": pattern.category,
                "confidence_percent": pattern.confidence_percent,
            })
        });
        shown.collect()
    }

    fn filters(&self) -> Vec<Json> {
        let shown = self.spec.screening.output_filters.iter().map(|filter| {
            json!({
                "regex": filter.regex,
                "replacement": filter.replacement,
                "type": filter.kind,
                "bytes_max": filter.bytes_max,
            })
        });
        shown.collect()
    }

    fn reply(&self) -> Json {
        let reply = &self.spec.reply;
        let scope = match reply.scope {
            GroundingScope::Turn => "turn",
            GroundingScope::Session => "session",
        };
        json!({
            "ids": reply.id_patterns,
            "dates": reply.dates == Grounded::Yes,
            "scope": scope,
            "plain_text": reply.plain_text,
            "off_topic": reply.off_topic,
        })
    }

    fn webhooks(&self) -> Json {
        let Some(webhooks) = &self.spec.webhooks else { return Json::Null };
        // A path may be a token.
        let hook = |hook: &Webhook| json!({"on": hook.on.as_str(), "host": hook.host.to_string(), "port": hook.port});
        let hooks: Vec<Json> = webhooks.hooks.iter().map(hook).collect();
        json!({"to": hooks, "secret": webhooks.secret, "attempts_max": webhooks.attempts_max})
    }

    fn serve(&self) -> Json {
        json!({"architecture": self.spec.architecture == SourcePage::Shown})
    }
}

fn tool(source: &ToolSource) -> Json {
    match source {
        ToolSource::BuiltIn(tool) => json!({"built_in": built_in_name(*tool)}),
        ToolSource::Application => json!("application"),
        ToolSource::Command { command, .. } => json!({"mcp": server_name(source), "program": command.first()}),
        ToolSource::Script { path, interpreter, text, .. } => {
            let sha256 = carboy_core::audit::hex(&carboy_core::audit::sha256(text.as_bytes()));
            json!({"script": server_name(source), "path": path, "interpreter": interpreter, "sha256": sha256})
        }
        ToolSource::Http { host, port, .. } => {
            json!({"mcp": server_name(source), "host": host.to_string(), "port": port})
        }
    }
}

fn rules_of(rules: &carboy_core::chat::ToolRules) -> Json {
    let confirm = match rules.confirm {
        Confirm::AsTool => "as-tool",
        Confirm::Always => "always",
        Confirm::Never => "never",
        Confirm::Operator => "operator",
    };
    let requires = rules.requires.iter().map(|one| {
        let result = one.result.as_ref().map(|(field, value)| json!({field.as_str(): value}));
        json!({"after": one.tool, "same": one.same, "within_s": one.within_s, "result": result})
    });
    json!({
        "requires": requires.collect::<Vec<_>>(),
        "confirm": confirm,
        "calls_per_session_max": rules.calls_per_session_max,
    })
}

fn identity(identity: &Identity) -> Json {
    match identity {
        Identity::Anonymous => json!("anonymous"),
        Identity::Jwt { issuer, audience, user_claim, roles_claim, cookie, jwks: _ } => json!({"jwt": {
            "issuer": issuer, "audience": audience, "claims": {"user": user_claim, "roles": roles_claim}, "cookie": cookie,
        }}),
        Identity::SignedHeader { header, secret, max_age_s } => {
            json!({"signed_header": {"header": header, "secret": secret, "max_age_s": max_age_s}})
        }
    }
}
