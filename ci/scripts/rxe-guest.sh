# The first process of an rxe machine, on the host's userland: furnishes it, then serves ssh and
# adopts orphans. The kernel's command line has node=NAME number=N modules=DIRECTORY.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
for word in $(</proc/cmdline); do
    case $word in
    node=*) node=${word#*=} ;;
    number=*) number=${word#*=} ;;
    modules=*) modules=${word#*=} ;;
    esac
done

# /tmp stays what it is on the host, with our changes on top: the source tree may be there.
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 pts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
hostname "$node"
mount --bind /run/rxe/hosts /etc/hosts
mkdir -p /usr/lib/modules
mount --bind "$modules" /usr/lib/modules

# crc32_generic: rdma_rxe asks for it by an alias that only a loaded module has. The others are
# what CRIU wants.
modprobe -a virtio_net crc32_generic rdma_rxe tun veth nf_tables \
    unix_diag tcp_diag udp_diag raw_diag inet_diag af_packet_diag netlink_diag

ip link set lo up
for device in /sys/class/net/*; do
    old=${device##*/}
    case $(<"$device/address") in
    52:54:00:00:00:*) new=host0 address=10.78.$((100 + number)).15/24 ;;
    52:54:00:00:01:*) new=rdma0 address=10.78.1.$number/24 ;;
    52:54:00:00:02:*) new=tcp0 address=10.78.2.$number/24 ;;
    *) continue ;;
    esac
    ip link set "$old" name "$new"
    ip address add "$address" dev "$new"
    ip link set "$new" up
done
rdma link add rxe0 type rxe netdev rdma0

mkdir -p /etc/meander /root/.ssh
install -m 0644 /run/rxe/cluster.toml /etc/meander/cluster.toml
install -m 0600 /run/rxe/cluster.key /etc/meander/cluster.key
install -m 0600 /run/rxe/key.pub /root/.ssh/authorized_keys
chmod 0700 /root /root/.ssh
# Every bash that ssh starts reads it, and the host's may take seconds here.
: >/root/.bashrc
dropbear -F -E -s -r /run/rxe/host-key &
server=$!
while kill -0 $server 2>/dev/null; do wait; done
busybox poweroff -f
