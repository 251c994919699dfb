#!/bin/bash
# usage: eager-latency.sh [ROUNDS]   (after `cargo xtask rxe up`)
# Half round trips of 8 bytes between machines a and b by perftest: SEND, SEND into a shared receive queue, RDMA
# WRITE. They take turns; of each the median over rounds of the shortest and of the typical time is
# printed, in microseconds.
set -u
rounds=${1:-5}
results=$(mktemp)
trap 'rm -f "$results"' EXIT

on() { # NODE COMMAND
    timeout 120 cargo xtask rxe run "$1" sh -c "$2"
}

once() { # NAME COMMAND
    local words="$2 -d rxe0 -x 1 -s 8 -n 200 -p $((20000 + RANDOM % 20000))"
    on a "$words >/dev/null 2>&1" &
    sleep 6
    on b "$words a-rdma 2>/dev/null" | awk -v name="$1" '$1 == "8" { print name, $3, $5 }' >>"$results"
    wait
}

median() { # NAME COLUMN
    awk -v name="$1" -v column="$2" '$1 == name { print $column }' "$results" |
        sort -g | awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'
}

for _ in $(seq "$rounds"); do
    once send ib_send_lat
    once send-srq "ib_send_lat --use-srq"
    once write ib_write_lat
done
for name in send send-srq write; do
    echo "$name: $(grep -c "^$name " "$results") rounds, shortest $(median "$name" 2), typical $(median "$name" 3)"
done
