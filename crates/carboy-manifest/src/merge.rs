//! How two bottles become one: a file over the one it extends, and bottles named side by side on the command line.
//!
//! ```text
//!   extends: [a, b]            a ∘ b ∘ the file itself      every file may say a part (M26–M29)
//!   --bottle a --bottle b      a ∘ b                        each is whole by itself (M30)
//! ```
//!
//! [`RULES`] is the one table of what happens to each key; `docs/manifest.md` shows it, and tests hold code, table and
//! documentation together. Nothing is checked here: the whole is, afterwards and however it came about.

use std::collections::BTreeMap;

use crate::bottle::Part;
use crate::budget;
use crate::git::{GitGate, RepoPart};
use crate::limits::LimitsPart;
use crate::origin::Said;

/// How two bottles came together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The later file extends the earlier one, or stands after it in one `extends`.
    Extends,
    /// Both were named on the command line, in this order.
    Runtime,
}

/// What becomes of a key that both have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The later value stands, whole, where the later one has the key.
    LaterWins,
    /// Both maps' entries; the later value where both have one.
    LaterWinsPerKey,
    /// Each field by itself: the later one's where it says it.
    LaterWinsPerField,
    /// Both lists' entries; of two binds of one target the later one stands.
    LaterWinsPerTarget,
    /// Both lists' entries; of two that listen at one address of the host the later one stands.
    LaterWinsPerListener,
    /// Both maps' entries; of two of one port inside the later one stands.
    LaterWinsPerPort,
    /// The earlier list, then the later one; what comes twice from one place stands once.
    Concatenated,
    /// As its route: no file changes another's route, and each variable inside stays one secret's.
    WithItsRoute,
    /// M28: no key inherits, an empty map clears, else both maps' entries, those of one name field by field.
    UnitedOrCleared,
    /// Both maps' entries; of two of one name the later one stands whole, so that no bottle lends another its key.
    LaterWinsPerName,
    /// The lower number of the two.
    Tighter,
    /// The stricter word of the two.
    Stricter,
    /// Both, each a scope of its own with its own spending; the later one is the nearer one.
    OwnScope,
    /// For the file's own caps alone; where it says none, as in the file that it stands on.
    OwnElseParents,
    /// For the file's own caps alone.
    Own,
    /// Followed, and not handed on.
    Followed,
}

impl Rule {
    /// As the documentation says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::LaterWins => "the later one, whole",
            Rule::LaterWinsPerKey => "both; the later one per variable",
            Rule::LaterWinsPerField => "the later one per field",
            Rule::LaterWinsPerTarget => "both; the later one per target",
            Rule::LaterWinsPerListener => "both; the later one per listen address",
            Rule::LaterWinsPerPort => "both; the later one per port inside",
            Rule::Concatenated => "the earlier ones, then the later ones",
            Rule::WithItsRoute => "with its route, whole; the variables of all are checked together",
            Rule::UnitedOrCleared => "absent inherits, `{}` clears, else both; one name field by field",
            Rule::LaterWinsPerName => "both; the later one per name, whole",
            Rule::Tighter => "the lower one per field",
            Rule::Stricter => "the stricter one",
            Rule::OwnScope => "both, each a scope of its own; the later one is nearer",
            Rule::Own => "for the file's own caps",
            Rule::OwnElseParents => "for the file's own caps; absent, as in the file it stands on",
            Rule::Followed => "followed; not handed on",
        }
    }
}

/// M34: each key of a bottle, what happens when one file extends another, and when several bottles are named for a run.
pub const RULES: &[(&str, Rule, Rule)] = &[
    ("extends", Rule::Followed, Rule::Followed),
    ("egress.routes", Rule::Concatenated, Rule::Concatenated),
    ("egress.routes.credential", Rule::WithItsRoute, Rule::WithItsRoute),
    ("egress.log", Rule::LaterWins, Rule::LaterWins),
    ("presets", Rule::Concatenated, Rule::Concatenated),
    ("env", Rule::LaterWinsPerKey, Rule::LaterWinsPerKey),
    ("agent_provider", Rule::LaterWins, Rule::LaterWins),
    ("git-gate.user", Rule::LaterWinsPerField, Rule::LaterWinsPerField),
    ("git-gate.repos", Rule::UnitedOrCleared, Rule::LaterWinsPerName),
    ("supervise", Rule::LaterWins, Rule::LaterWins),
    ("binds", Rule::LaterWinsPerTarget, Rule::LaterWinsPerTarget),
    ("limits", Rule::LaterWinsPerField, Rule::Tighter),
    ("workspace", Rule::LaterWins, Rule::LaterWins),
    ("publish", Rule::LaterWinsPerListener, Rule::LaterWinsPerListener),
    ("forward", Rule::LaterWinsPerPort, Rule::LaterWinsPerPort),
    ("image", Rule::LaterWins, Rule::LaterWins),
    ("backend", Rule::LaterWins, Rule::LaterWins),
    ("budget", Rule::OwnScope, Rule::OwnScope),
    ("ceiling", Rule::OwnScope, Rule::OwnScope),
    ("window", Rule::OwnElseParents, Rule::Own),
    ("count", Rule::OwnElseParents, Rule::Own),
    ("gate", Rule::LaterWins, Rule::Stricter),
    ("overrun", Rule::LaterWins, Rule::Stricter),
    ("shutdown", Rule::LaterWins, Rule::Stricter),
    ("warn", Rule::LaterWins, Rule::LaterWins),
];

/// `later` over `earlier`.
pub(crate) fn merge(earlier: Part, later: Part, way: Way) -> Part {
    let mut env = earlier.env;
    env.extend(later.env);
    let mut egress = earlier.egress;
    concatenate(&mut egress.routes, later.egress.routes, |route| &route.place);
    egress.log = later.egress.log.or(egress.log);
    let mut presets = earlier.presets;
    concatenate(&mut presets, later.presets, |preset| &preset.value.key);
    Part {
        extends: Vec::new(),
        env,
        provider: later.provider.or(earlier.provider),
        gate: gate(earlier.gate, later.gate, way),
        egress,
        presets,
        supervise: later.supervise.or(earlier.supervise),
        binds: united(earlier.binds, later.binds, |bind| &bind.target),
        limits: limits(earlier.limits, later.limits, way),
        workspace: later.workspace.or(earlier.workspace),
        publish: united(earlier.publish, later.publish, |publish| &publish.listen),
        forward: united(earlier.forward, later.forward, |forward| &forward.inside),
        image: later.image.or(earlier.image),
        backend: later.backend.or(earlier.backend),
        scopes: budget::chained(earlier.scopes, later.scopes),
        terms: match way {
            Way::Extends => budget::over(earlier.terms, later.terms),
            Way::Runtime => budget::beside(earlier.terms, later.terms),
        },
    }
}

/// A file that two parents extend brings its routes once, and a preset that both name is one.
fn concatenate<T, K: Ord>(all: &mut Vec<Said<T>>, later: Vec<Said<T>>, key: impl Fn(&Said<T>) -> &K) {
    let fresh: Vec<Said<T>> =
        later.into_iter().filter(|item| !all.iter().any(|known| key(known) == key(item))).collect();
    all.extend(fresh);
}

/// Both lists' entries; of two of one key the later one stands, in the earlier one's place.
fn united<T, K: Eq>(mut all: Vec<Said<T>>, later: Vec<Said<T>>, key: impl Fn(&T) -> &K) -> Vec<Said<T>> {
    for item in later {
        match all.iter_mut().find(|known| key(&known.value) == key(&item.value)) {
            Some(known) => *known = item,
            None => all.push(item),
        }
    }
    all
}

fn gate(earlier: GitGate, later: GitGate, way: Way) -> GitGate {
    let repos = match (earlier.repos, later.repos) {
        (earlier, None) => earlier,
        // Of two bottles that are whole, none can mean "none of the other's" (M30).
        (_, Some(own)) if own.is_empty() && way == Way::Extends => Some(own),
        (None, Some(own)) => Some(own),
        (Some(all), Some(own)) => Some(repos(all, own, way)),
    };
    GitGate { user: later.user.over(earlier.user), repos }
}

fn repos(
    mut all: BTreeMap<String, RepoPart>,
    later: BTreeMap<String, RepoPart>,
    way: Way,
) -> BTreeMap<String, RepoPart> {
    for (name, own) in later {
        let merged = match (all.remove(&name), way) {
            (Some(base), Way::Extends) => own.over(base),
            (Some(_), Way::Runtime) | (None, Way::Extends | Way::Runtime) => own,
        };
        all.insert(name, merged);
    }
    all
}

fn limits(earlier: LimitsPart, later: LimitsPart, way: Way) -> LimitsPart {
    LimitsPart {
        memory: bound(earlier.memory, later.memory, way),
        processes: bound(earlier.processes, later.processes, way),
        open_files: bound(earlier.open_files, later.open_files, way),
    }
}

/// Who extends a file knows what it says and may raise it; two bottles that meet on a command line know nothing of each
/// other, and a bound that one of them has holds.
fn bound<T: Ord>(earlier: Option<Said<T>>, later: Option<Said<T>>, way: Way) -> Option<Said<T>> {
    match (earlier, later, way) {
        (Some(earlier), Some(later), Way::Runtime) if earlier.value < later.value => Some(earlier),
        (earlier, later, Way::Extends | Way::Runtime) => later.or(earlier),
    }
}

/// Several in their order, as `extends` or the command line names them.
pub(crate) fn fold(parts: impl IntoIterator<Item = Part>, way: Way) -> Part {
    parts.into_iter().reduce(|earlier, later| merge(earlier, later, way)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
