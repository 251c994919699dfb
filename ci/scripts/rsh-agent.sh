#!/bin/sh
# What mpirun uses here in place of ssh (--mca plm_rsh_agent): rsh-agent NODE COMMAND...
# Like ssh, it does not carry the caller's environment along.
state=$(dirname "$0")
node=$1
shift
pid=$(cat "$state/$node/pid") || {
    echo "meander-lab: there is no node '$node' in this lab" >&2
    exit 1
}
exec env -i PATH="$PATH" HOME="${HOME:-/root}" LANG="${LANG:-C.UTF-8}" \
    nsenter --target "$pid" --net --uts --mount --time --wdns=/ -- sh -c "$*"
