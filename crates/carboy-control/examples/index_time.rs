//! How long a start index takes: `cargo run --release -p carboy-control --example index_time -- DIRECTORY`.

use std::path::PathBuf;
use std::time::Instant;

use carboy_control::workspace::index::Index;
use carboy_control::workspace::tree::Root;

fn main() -> std::io::Result<()> {
    let directory = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from).canonicalize()?;
    let root = Root::open(&directory)?;
    let file = std::env::temp_dir().join(format!("carboy-index-{}", std::process::id()));
    for _ in 0..5 {
        let began = Instant::now();
        let index = Index::take(&root);
        let taken = began.elapsed();
        index.write(&file)?;
        let written = began.elapsed();
        println!("{} entries: taken in {taken:.1?}, written after {written:.1?}", index.len());
    }
    std::fs::remove_file(file)
}
