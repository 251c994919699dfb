# The first process of a node: runs in the node's new namespaces, furnishes them, then stays to
# hold them open. Arguments: LAB NODE STATE_DIR.
set -euo pipefail
lab=$1 node=$2 state=$3

hostname "$node"

# This mount namespace began as a copy of the machine's. The copies of namespace files in it (ours
# and other labs') would keep those namespaces alive after their lab is gone.
awk '$3 == "nsfs" && $2 ~ "^/run/meander-lab/" { print $2 }' /proc/self/mounts |
    while read -r pin; do
        # One of a lab that goes down at this moment goes by itself.
        umount -l "$pin" 2>/dev/null || ! grep -qF " $pin nsfs " /proc/self/mounts
    done

mount -n -t tmpfs -o mode=1777 meander-shm /dev/shm
mount -n --bind "$state/hosts" /etc/hosts

# An empty /run, but for the lab's own directory, which every node sees at the same path.
run=$(mktemp -d "$state/$node/run.XXXXXX")
mount -n -t tmpfs -o mode=755 meander-run "$run"
mkdir -p "$run/meander-lab/$lab" "$run/lock"
mount -n --bind "$state" "$run/meander-lab/$lab"
mount -n --move "$run" /run

ip link set lo up

echo $$ >"$state/$node/pid.new"
mv "$state/$node/pid.new" "$state/$node/pid"
cd /
exec -a "meander-lab-$lab-$node" sleep infinity </dev/null >/dev/null 2>&1
