#!/bin/sh
# Fuzzes one target for so many seconds, then keeps the smallest corpus that covers as much.
#
#   ./run.sh TARGET [SECONDS]
set -eu
cd "$(dirname "$0")"
target=$1
seconds=${2:-60}
flags='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4'
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
# An explicit target keeps build scripts and procedural macros free of these flags.
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS=$flags cargo build --release --target "$host"
program=target/$host/release/carboy-fuzz-run
kept=../corpus/$target
found=target/found/$target
small=target/small/$target
mkdir -p "$kept" "$found"
rm -rf "$small"
mkdir -p "$small"
export CARBOY_FUZZ_TARGET="$target"
"$program" "$found" "$kept" -max_total_time="$seconds" -max_len=2048 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
"$program" -merge=1 -max_len=2048 "$small" "$kept" "$found"
rm -rf "$kept"
mv "$small" "$kept"
echo "$kept: $(ls "$kept" | wc -l) inputs, $(du -sk "$kept" | cut -f1) KiB"
