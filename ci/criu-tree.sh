#!/usr/bin/env bash
# Makes a working CRIU: a small Debian 13 tree, and a wrapper that runs its criu through the
# tree's own dynamic loader.
#
# Debian 12's CRIU fails on kernels newer than Debian 12's own ("Unexpected rt vDSO area bounds").
# The Debian 13 suite is never added to this machine's sources: a small package from there would
# bring the C library along. The tree is only files; nothing of it is mounted or installed.
#
#   ci/criu-tree.sh           makes the tree if it is missing, prints the wrapper's path (run as root)
#   ci/criu-tree.sh --path    prints the wrapper's path, makes nothing
#
# $MEANDER_CACHE (default /var/cache/meander) holds trees/trixie-criu-HASH and criu/criu. HASH is
# that of the recipe below, so a changed recipe makes a new tree. Running it twice is harmless,
# also at the same time.
set -euo pipefail

# --- the recipe; its text is hashed ---------------------------------------------------------------
suite=trixie
packages=criu,iproute2
version=1
# --------------------------------------------------------------------------------------------------

cache=${MEANDER_CACHE:-/var/cache/meander}
wrapper=$cache/criu/criu
export PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "criu-tree: $*" >&2
    exit 1
}

if [ "${1:-}" = --path ]; then
    echo "$wrapper"
    exit 0
fi
[ $# -eq 0 ] || fail "unknown argument $1 (usage: criu-tree.sh [--path])"

arch=$(dpkg --print-architecture) || fail "this machine has no dpkg; only Debian is supported"
case $arch in
amd64) loader=lib64/ld-linux-x86-64.so.2 triplet=x86_64-linux-gnu ;;
arm64) loader=lib/ld-linux-aarch64.so.1 triplet=aarch64-linux-gnu ;;
*) fail "no recipe for architecture $arch" ;;
esac

recipe=$(printf '%s' "$suite $packages $version $arch" | sha256sum | cut -c1-12)
tree=$cache/trees/$suite-criu-$recipe

# Loaded into CRIU, so that no SIGCONT disturbs it: see the file.
guard_source=$(dirname "$(readlink -f "$0")")/criu-guard.c
guard=$cache/criu/guard-$(sha256sum <"$guard_source" | cut -c1-12).so

wrapper_text() {
    cat <<WRAPPER
#!/bin/sh
# Made by ci/criu-tree.sh: Debian 13's CRIU on this machine's kernel.
tree=$tree
guard=$guard
PATH=\$PATH:/usr/sbin:/sbin
export PATH
exec "\$tree/$loader" --preload "\$guard" --library-path "\$tree/usr/lib/$triplet:\$tree/lib/$triplet" "\$tree/usr/sbin/criu" "\$@"
WRAPPER
}

write_guard() {
    local fresh
    fresh=$(mktemp "$cache/criu/.guard.XXXXXX")
    cc -O2 -Wall -Wextra -fPIC -shared -o "$fresh" "$guard_source" ||
        fail "$guard_source does not compile"
    chmod 0755 "$fresh"
    mv -f "$fresh" "$guard"
}

write_wrapper() {
    local fresh
    fresh=$(mktemp "$cache/criu/.criu.XXXXXX")
    wrapper_text >"$fresh"
    chmod 0755 "$fresh"
    mv -f "$fresh" "$wrapper"
}

works() {
    [ -x "$wrapper" ] && [ -e "$guard" ] && wrapper_text | cmp -s - "$wrapper" &&
        "$wrapper" --version >/dev/null 2>&1
}

if works; then
    echo "$wrapper"
    exit 0
fi

[ "$(id -u)" = 0 ] || fail "$tree is missing and only root can make it: run this as root"

command -v cc >/dev/null || fail "there is no C compiler: apt-get install gcc libc6-dev"

mkdir -p "$cache/trees" "$cache/criu"
exec 9>"$cache/trees/.lock"
flock 9
if works; then # another run made it while this one waited
    echo "$wrapper"
    exit 0
fi

# The mirror that apt on this machine uses for Debian itself.
mirror() {
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)' 'Identifier: Packages' 2>/dev/null |
        awk -F'|' '$1 == "Debian" && $2 == "Debian" && $3 == "main" { print $4; exit }'
}

if [ ! -d "$tree" ]; then
    command -v debootstrap >/dev/null ||
        fail "debootstrap is missing: apt-get install debootstrap"
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -r "$keyring" ] || fail "$keyring is missing: apt-get install debian-archive-keyring"
    from=$(mirror)
    if [ -z "$from" ]; then
        # The lists were never fetched: take the first deb source with a main component.
        from=$(apt-get indextargets --no-release-info --format '$(REPO_URI) $(COMPONENT)' 'Identifier: Packages' 2>/dev/null |
            awk '$2 == "main" && $1 ~ /\/debian\/?$/ { print $1; exit }')
    fi
    [ -n "$from" ] || fail "no Debian mirror found in apt's configuration (apt-get indextargets names none)"
    building=$cache/trees/.building-$suite-criu-$recipe
    # An interrupted debootstrap leaves its mounts.
    for inner in proc sys; do umount "$building/$inner" 2>/dev/null || true; done
    rm -rf --one-file-system "$building"
    echo "criu-tree: making $tree from $from (once, about a minute)" >&2
    if ! debootstrap --variant=minbase --include="$packages" --keyring="$keyring" \
        "$suite" "$building" "$from" >"$cache/trees/criu-tree.log" 2>&1; then
        tail -n 15 "$cache/trees/criu-tree.log" >&2
        fail "debootstrap of $suite from $from failed; whole log: $cache/trees/criu-tree.log"
    fi
    rm -rf "$building"/var/cache/apt/archives/*.deb "$building"/var/lib/apt/lists/*
    mv -T "$building" "$tree"
fi

write_guard
write_wrapper
works || fail "$wrapper was made but does not run: $("$wrapper" --version 2>&1 | tail -n 1)"
echo "$wrapper"
