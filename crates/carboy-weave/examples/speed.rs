//! How long a document of 5,000 lines takes to tangle: `cargo run --release -p carboy-weave --example speed`.
//! *Must never* be a test: machines differ.

// An example measures, which the library must not.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::time::Instant;

use carboy_weave::{Document, page, tangle};

fn main() {
    let mut text = String::new();
    for chunk in 0..100 {
        text.push_str(&format!(
            "## Part {chunk}\n\nWords about it.\n\n```rust {{chunk=\"c{chunk}\" file=\"src/f{chunk}.rs\"}}\n"
        ));
        (0..40).for_each(|n| text.push_str(&format!("    let value_{n} = compute({n}, \"text\"); // why\n")));
        text.push_str("```\n\n\n\n");
    }
    let rounds = 20;
    let start = Instant::now();
    let mut bytes = 0;
    for _ in 0..rounds {
        let tangled = Document::parse(&text).and_then(|document| tangle(&document));
        bytes += tangled.map_or(0, |tangled| tangled.files.values().map(|file| file.text.len()).sum::<usize>());
    }
    let took = start.elapsed() / rounds;
    println!("{} lines, {bytes} bytes in {rounds} rounds: tangled in {took:?}", text.lines().count());
    let start = Instant::now();
    let site = Document::parse(&text).and_then(|document| page::weave(&document, "d", "", &BTreeMap::new()));
    println!("woven in {:?}, {} files", start.elapsed(), site.map_or(0, |site| site.files.len()));
}
