//! No module needs one that needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Modules of the crate that a source names.
fn named(source: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        // `crate::{a, b}` names several.
        let (list, count) = match rest.strip_prefix('{') {
            Some(list) => (list.split('}').next().unwrap_or_default(), usize::MAX),
            None => (rest, 1),
        };
        found.extend(list.split(',').take(count).filter_map(|word| {
            let name: String = word.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            modules.contains(&name).then_some(name)
        }));
    }
    found
}

/// A module is its file and everything in its directory, tests aside.
#[allow(clippy::disallowed_methods, reason = "a test looks at the sources")]
fn sources(module: &str) -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut text = String::new();
    let entries = fs::read_dir(src.join(module)).into_iter().flatten();
    let inner = entries.map(|entry| entry.expect("a directory entry").path());
    for path in inner.chain([src.join(format!("{module}.rs"))]) {
        if path.file_name().is_some_and(|name| name != "tests.rs") {
            let source = fs::read_to_string(path).expect("a source");
            text.push_str(source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
        }
    }
    text
}

#[test]
fn no_module_needs_one_that_needs_it() {
    // M33
    let root = include_str!("../src/lib.rs");
    let declared =
        |line: &str| Some(line.trim_start_matches("pub ").strip_prefix("mod ")?.trim_end_matches(';').to_owned());
    let modules: BTreeSet<String> = root.lines().filter_map(declared).collect();
    assert!(modules.len() > 20, "{modules:?}");
    let mut needs: BTreeMap<String, BTreeSet<String>> =
        modules.iter().map(|module| (module.clone(), named(&sources(module), &modules))).collect();
    needs.iter_mut().for_each(|(module, named)| _ = named.remove(module));
    assert!(needs["load"].contains("chain") && needs["chain"].contains("merge"), "{needs:?}");
    // What needs nothing that is left can be taken away; what remains at the end goes round.
    while let Some(free) = needs.iter().find(|(_, named)| named.is_empty()).map(|(module, _)| module.clone()) {
        needs.remove(&free);
        needs.values_mut().for_each(|named| _ = named.remove(&free));
    }
    assert!(needs.is_empty(), "these modules need each other: {needs:#?}");
}
