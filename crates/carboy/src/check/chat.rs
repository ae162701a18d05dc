//! A chat agent for a person to read: who answers, with which tools, under which rules, and every threshold that is not
//! carboy's own.

use carboy_manifest::chat::ChatView;
use carboy_manifest::origin::Origin;
use serde_json::Value;

/// Label and lines.
pub type Row = (&'static str, Vec<String>);

/// What a script or a command sees of its owner's files, wherever its agent is started.
pub const SEEN: &str =
    "the bottle's own home (/home/agent) and its binds, and not the directory that the agent is started in";

/// The rows of one agent.
pub fn rows(view: &ChatView) -> Vec<Row> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let model = &view.model.value;
    let place = format!("{} at {}:{}", text(&model["name"]), text(&model["host"]), model["port"]);
    let tools = view.tools.value.iter().map(tool).collect();
    let rules = view.rules.iter().map(|(name, rules)| format!("{name}: {}", rule(rules))).collect();
    let authorize = view.authorize.value.iter().map(authorization).collect();
    let said = view.limits.iter().chain(&view.screening).filter(|(_, one)| one.origin != Origin::Default);
    let said = said.map(|(name, one)| format!("{name} {}, from {}", one.value, origin(&one.origin))).collect();
    let own = format!("{} patterns, {} filters of your own", view.injection_patterns.len(), view.output_filters.len());
    vec![
        ("chat", vec![view.title.value.clone()]),
        ("model", vec![place]),
        ("tools", tools),
        ("they see", if in_bottle(view) { vec![SEEN.to_owned()] } else { Vec::new() }),
        ("rules", rules),
        ("authorize", authorize),
        ("identity", vec![text(&view.identity.value)]),
        ("thresholds", said),
        ("screening", vec![own]),
        ("frames", view.frame_ancestors.value.clone()),
    ]
}

/// Runs any of its tools in the bottle?
pub fn in_bottle(view: &ChatView) -> bool {
    view.tools.value.iter().any(|tool| tool.get("script").or(tool.get("program")).is_some())
}

/// Where tools come from.
pub fn tool(tool: &Value) -> String {
    let text = |key: &str| tool[key].as_str().unwrap_or_default();
    if let Some(name) = tool.as_str() {
        format!("those of the {name}")
    } else if tool.get("built_in").is_some() {
        text("built_in").to_owned()
    } else if tool.get("script").is_some() {
        format!("{}: a script of the file, {}", text("script"), text("path"))
    } else if tool.get("program").is_some() {
        format!("{}: {} inside the bottle", text("mcp"), text("program"))
    } else {
        format!("{}: at {}", text("mcp"), text("host"))
    }
}

/// Who may have a tool run: `allow lookup_order for the role support`.
pub fn authorization(rule: &Value) -> String {
    let named = |one: &str, several: &str, key: &str| match texts(&rule[key]).as_slice() {
        [] => String::new(),
        [name] => format!(" {one} {name}"),
        names => format!(" {several} {}", names.join(", ")),
    };
    let (effect, tools) = match rule.get("allow") {
        Some(tools) => ("allow", tools),
        None => ("deny", &rule["deny"]),
    };
    let tools = tools.as_str().map_or_else(|| texts(tools).join(", "), str::to_owned);
    let users = named("for the user", "for the users", "users");
    let roles = named("for the role", "for any of the roles", "roles");
    let when = named("when it is given", "when it is given any of", "when");
    format!("{effect} {tools}{users}{roles}{when}")
}

/// What is demanded of a call.
pub fn rule(rules: &Value) -> String {
    let mut parts = Vec::new();
    for one in rules["requires"].as_array().into_iter().flatten() {
        let same = texts(&one["same"]).join(", ");
        parts.push(format!("after {} of the same {same}", one["after"].as_str().unwrap_or_default()));
    }
    match rules["confirm"].as_str() {
        Some("always") => parts.push("confirmed by a click".into()),
        Some("never") => parts.push("never confirmed".into()),
        Some("operator") => parts.push("approved by the operator (`carboy approve`)".into()),
        Some(_) | None => {}
    }
    if let Some(most) = rules["calls_per_session_max"].as_u64() {
        parts.push(format!("at most {most} in a session"));
    }
    parts.join("; ")
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn origin(origin: &Origin) -> String {
    match origin {
        Origin::Default => "carboy".into(),
        Origin::File { file, line } => format!("{}:{line}", file.display()),
        Origin::Environment { variable } => format!("the variable {variable}"),
        Origin::Flag { flag } => flag.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_of_authorize_is_a_line_for_people() {
        let rules = [
            (json!({"allow": ["look", "start"], "users": [], "roles": [], "when": []}), "allow look, start"),
            (json!({"allow": "all", "users": [], "roles": ["admin"], "when": []}), "allow all for the role admin"),
            (
                json!({"deny": ["pay"], "users": ["u-1", "u-2"], "roles": ["a", "b"], "when": ["sensitive"]}),
                "deny pay for the users u-1, u-2 for any of the roles a, b when it is given sensitive",
            ),
        ];
        for (rule, said) in rules {
            assert_eq!(authorization(&rule), said);
        }
    }
}
