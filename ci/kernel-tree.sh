#!/usr/bin/env bash
# Makes what the rxe lab's machines boot: Debian 13's kernel and modules, and an initramfs that
# mounts the host's root file system.
#
#   ci/kernel-tree.sh           makes the tree if it is missing, prints its path (run as root)
#   ci/kernel-tree.sh --path    prints its path, makes nothing
#
# $MEANDER_CACHE (default /var/cache/meander) holds trees/trixie-kernel-HASH with vmlinuz, initramfs
# and modules/. HASH is that of the recipe below and of the initramfs' script. The Debian 13 suite is
# never added to this machine's sources: apt works in a directory of its own here, and the package is
# unpacked, not installed.
set -euo pipefail

# --- the recipe; its text is hashed ---------------------------------------------------------------
suite=trixie
version=1
early="fs/netfs/netfs net/9p/9pnet net/9p/9pnet_virtio fs/9p/9p fs/overlayfs/overlay"
# --------------------------------------------------------------------------------------------------

cache=${MEANDER_CACHE:-/var/cache/meander}
here=$(dirname "$(readlink -f "$0")")
init=$here/scripts/rxe-init.sh
export PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "kernel-tree: $*" >&2
    exit 1
}

arch=$(dpkg --print-architecture) || fail "this machine has no dpkg; only Debian is supported"
[ "$arch" = amd64 ] || fail "no recipe for architecture $arch"
recipe=$({ printf '%s' "$suite $version $early $arch" && cat "$init"; } | sha256sum | cut -c1-12)
tree=$cache/trees/$suite-kernel-$recipe

case ${1:-} in
--path) echo "$tree" && exit 0 ;;
'') ;;
*) fail "unknown argument $1 (usage: kernel-tree.sh [--path])" ;;
esac
if [ -e "$tree/initramfs" ]; then
    echo "$tree"
    exit 0
fi

[ "$(id -u)" = 0 ] || fail "$tree is missing and only root can make it: run this as root"
for tool in busybox:busybox-static depmod:kmod cpio:cpio xz:xz-utils; do
    command -v "${tool%:*}" >/dev/null || fail "${tool%:*} is missing: apt-get install ${tool#*:}"
done
mkdir -p "$cache/trees"
exec 9>"$cache/trees/.kernel-lock"
flock 9
if [ -e "$tree/initramfs" ]; then # another run made it while this one waited
    echo "$tree"
    exit 0
fi

# The mirror that apt on this machine uses for Debian itself.
from=$(apt-get indextargets --no-release-info --format '$(REPO_URI) $(COMPONENT)' 'Identifier: Packages' 2>/dev/null |
    awk '$2 == "main" && $1 ~ /\/debian\/?$/ { print $1; exit }')
[ -n "$from" ] || fail "no Debian mirror found in apt's configuration (apt-get indextargets names none)"
building=$(mktemp -d "$cache/trees/.building-kernel.XXXXXX")
trap 'rm -rf "$building"' EXIT
echo "kernel-tree: making $tree from $from (once, under a minute)" >&2

apt=$building/apt
mkdir -p "$apt"/etc/preferences.d "$apt"/var/lib/apt/lists/partial "$apt"/var/cache/apt/archives/partial
: >"$apt/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $from $suite main" >"$apt/etc/sources.list"
of_suite=(-q -o "Dir=$apt" -o "Dir::Etc=$apt/etc" -o "Dir::State::status=$apt/status" -o APT::Sandbox::User=root)
apt-get "${of_suite[@]}" update >"$building/log" 2>&1 || fail "apt-get update: $(tail -n 3 "$building/log")"
package=$(apt-cache "${of_suite[@]}" depends linux-image-amd64 | awk '$1 == "Depends:" { print $2; exit }')
[ -n "$package" ] || fail "$suite has no linux-image-amd64"
(cd "$building" && apt-get "${of_suite[@]}" download "$package" >"$building/log" 2>&1) ||
    fail "apt-get download $package: $(tail -n 3 "$building/log")"
mkdir "$building/package"
dpkg-deb -x "$building"/linux-image-*.deb "$building/package"
release=${package#linux-image-}

made=$building/made
mkdir -p "$made" "$building/initramfs"/{bin,modules,proc,sys,dev,low,top,root}
mv "$building/package/boot/vmlinuz-$release" "$made/vmlinuz"
mkdir -p "$building/package/lib"
mv "$building/package/usr/lib/modules" "$building/package/lib/modules"
depmod -b "$building/package" "$release"
for module in $early; do
    xz -dc "$building/package/lib/modules/$release/kernel/$module.ko.xz" \
        >"$building/initramfs/modules/$(basename "$module").ko"
done
mv "$building/package/lib/modules" "$made/modules"
cp "$(command -v busybox)" "$building/initramfs/bin/busybox"
install -m 0755 "$init" "$building/initramfs/init"
(cd "$building/initramfs" && find . | cpio -o -H newc --quiet | gzip -1) >"$made/initramfs"
chmod 0755 "$made"
mv -T "$made" "$tree"
echo "$tree"
