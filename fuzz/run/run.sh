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
packed=../corpus/$target.b64
kept=target/kept/$target
found=target/found/$target
small=target/small/$target
rm -rf "$kept" "$small"
mkdir -p "$kept" "$found" "$small"
n=0
while read -r line; do
    n=$((n + 1))
    printf %s "$line" | base64 -d > "$kept/$n"
done < "$packed"
export CARBOY_FUZZ_TARGET="$target"
"$program" "$found" "$kept" -max_total_time="$seconds" -max_len=1024 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
"$program" -merge=1 -max_len=1024 "$small" "$kept" "$found"
for input in "$small"/*; do
    base64 -w0 "$input"
    echo
done | LC_ALL=C sort > "$packed"
echo "$packed: $(wc -l < "$packed") inputs"
