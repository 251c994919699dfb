#!/bin/bash
# usage: cold-code.sh [ROUNDS]   (after `cargo xtask rxe instructions`, and `cargo xtask rxe up`)
# What a message of 8 bytes between two ports of one process costs of an emulated machine's processor, sending and receiving
# together, in microseconds, with a provider in place of the device: as it is; with a sched_yield at each
# doorbell; and with that where a second such process takes the processor each time.
set -eu
rounds=${1:-3}
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
# In a directory that is new: a machine that runs keeps what it has read of files.
stub=$(mktemp -d "$target/cold-code.XXXXXX")
trap 'rm -rf "$stub"' EXIT
cp "$target/release/libmeander_verbs_stub.so" "$stub/libibverbs.so.1"
cp "$target/release/meander-bench" "$stub"

cargo xtask rxe run b bash -s -- "$stub" "$rounds" <<'EOF'
stub=$1 rounds=$2
few=1000 many=11000
TIMEFORMAT='%U %S'

export LD_LIBRARY_PATH=$stub MEANDER_TRANSPORT=verbs
run() { # MESSAGES
    "$stub/meander-bench" instructions --line stream-posted --messages "$1" >/dev/null
}

# Each of the messages is answered.
cost() {
    local less more
    less=$({ time run $few; } 2>&1) more=$({ time run $many; } 2>&1)
    echo "$less $more" | awk -v count=$((2 * (many - few))) '{ printf "%.1f", ($3 + $4 - $1 - $2) / count * 1e6 }'
}

for round in $(seq "$rounds"); do
    hot=$(cost)
    export MEANDER_STUB_YIELDS=1
    yielding=$(cost)
    "$stub/meander-bench" instructions --messages 100000000 >/dev/null &
    other=$!
    cold=$(cost)
    kill $other
    wait $other 2>/dev/null || true
    unset MEANDER_STUB_YIELDS
    echo "hot $hot, with a yield $yielding, with another process $cold"
done
EOF
