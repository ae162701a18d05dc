//! The parts of the control plane, each by itself: store, metering, settings, cut-off, dashboard, count.
#![allow(clippy::unwrap_used)]

use std::path::Path;

/// What a crate is built with, by its manifest.
fn needs(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("Cargo.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let built = text.split("\n[").find(|section| section.starts_with("dependencies]")).unwrap();
    built.lines().filter_map(|line| line.split(['.', ' ', '=']).next()).map(str::to_owned).collect()
}

#[test]
fn c19_each_part_builds_without_those_that_came_after_it() {
    // In the order in which they were built: where each lives, and what it may not need.
    let parts: [(&str, &[&str]); 5] = [
        ("carboy-store", &["carboy-wire", "carboy-manifest", "carboy-egress", "carboy-bottle", "carboy-control"]),
        ("carboy-wire", &["carboy-store", "carboy-manifest", "carboy-egress", "carboy-bottle", "carboy-control"]),
        ("carboy-manifest", &["carboy-store", "carboy-wire", "carboy-egress", "carboy-bottle", "carboy-control"]),
        ("carboy-egress", &["carboy-store", "carboy-manifest", "carboy-bottle", "carboy-control"]),
        ("carboy-control", &["carboy"]),
    ];
    for (part, without) in parts {
        let needs = needs(part);
        assert!(needs.iter().any(|name| name == "carboy-core"), "{part} is about the budgets of core: {needs:?}");
        for later in without {
            assert!(!needs.iter().any(|name| name == later), "{part} needs {later}");
        }
    }
    // The count before sending comes last, and nothing waits for it: the law that admits is pure, and knows no provider.
    assert!(needs("carboy-core").iter().all(|name| !name.starts_with("carboy")));
}
