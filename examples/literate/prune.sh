#!/bin/sh
# Prints (or with --delete removes) the backups that no rule keeps: prune.sh [--delete] DIRECTORY
set -eu

delete=no
if [ "${1:-}" = --delete ]; then
    delete=yes
    shift
fi
directory=${1:?"usage: prune.sh [--delete] DIRECTORY"}

pruned=$(ls "$directory" | grep -E '^[0-9]{4}-[0-9]{2}-[0-9]{2}\.tar$' | sort -r | awk '
    function days(y, m, d,    a) {
        a = int((14 - m) / 12); y = y + 4800 - a; m = m + 12 * a - 3
        return d + int((153 * m + 2) / 5) + 365 * y + int(y / 4) - int(y / 100) + int(y / 400) - 32045
    }
    function first(kind, value, reach) {
        if ((kind, value) in seen || count[kind] >= reach) return 0
        seen[kind, value] = 1
        count[kind]++
        return 1
    }
    {
        day = days(substr($0, 1, 4) + 0, substr($0, 6, 2) + 0, substr($0, 9, 2) + 0)
        kept = first("day", day, 7)
        kept += first("week", int(day / 7), 4)
        kept += first("month", substr($0, 1, 7), 12)
        if (!kept) print
    }')

for name in $pruned; do
    if [ "$delete" = yes ]; then
        rm -- "$directory/$name"
    else
        echo "$name"
    fi
done
