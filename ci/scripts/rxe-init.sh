#!/bin/busybox sh
# The first program of an rxe machine, in its initramfs: mounts the host's root file system, read
# only, with a tmpfs on top, and goes on there with the lab's own script.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in netfs 9pnet 9pnet_virtio 9p overlay; do
    $b insmod /modules/$module.ko
done
for word in $($b cat /proc/cmdline); do
    case $word in lab=*) lab=${word#*=} ;; esac
done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /low &&
    $b mount -t tmpfs -o mode=755 top /top &&
    $b mkdir /top/up /top/work &&
    $b mount -t overlay -o lowerdir=/low,upperdir=/top/up,workdir=/top/work root /root &&
    $b mount -t tmpfs -o mode=755 run /root/run &&
    $b cp -r "/low$lab/guest" /root/run/rxe || exec $b poweroff -f
for mount in proc sys dev; do
    $b mount --move /$mount /root/$mount
done
exec $b switch_root /root /bin/bash /run/rxe/guest.sh
