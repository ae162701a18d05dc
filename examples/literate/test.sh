#!/bin/sh
set -eu
here=$(dirname "$0")
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

for month in 01 02; do
    for day in 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16 17 18 19 20; do
        : > "$directory/2026-$month-$day.tar"
    done
done
: > "$directory/notes.txt"

before=$(ls "$directory" | wc -l)
printed=$(sh "$here/prune.sh" "$directory" | wc -l)
[ "$(ls "$directory" | wc -l)" -eq "$before" ] || { echo "printing has removed something"; exit 1; }

sh "$here/prune.sh" --delete "$directory"
[ "$(ls "$directory" | wc -l)" -eq $((before - printed)) ] || { echo "not what was printed"; exit 1; }
[ -e "$directory/2026-02-20.tar" ] || { echo "the newest is gone"; exit 1; }
[ -e "$directory/2026-01-20.tar" ] || { echo "the newest of January is gone"; exit 1; }
[ -e "$directory/notes.txt" ] || { echo "that was no backup"; exit 1; }
[ -z "$(sh "$here/prune.sh" "$directory")" ] || { echo "a second run finds more"; exit 1; }
echo "kept $(ls "$directory" | grep -c tar) of 40"
