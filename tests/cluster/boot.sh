#!/bin/sh
# The first process of a machine of the cluster suite (machine.py). It runs in namespaces of its own, lays a root
# file system over the machine's own in which nothing that is written goes to a disk, and becomes INIT.
#
# usage: boot.sh SCRATCH PACKAGES HOSTNAME INIT CGROUPS SHARED...
#   SCRATCH   an empty directory that becomes the machine's memory
#   PACKAGES  a tree whose usr/ is laid over the root's
#   CGROUPS   file, a line for each hierarchy: its directory of ours, a tab, where it belongs
#   SHARED    directories that the machine sees as they are
set -eu
scratch=$1 packages=$2 hostname=$3 init=$4 cgroups=$5
shift 5

mount -t tmpfs -o mode=0755 tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root" "$scratch/cgroups"
cp -a "$packages/usr" "$scratch/upper/"
mount -t overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/root"
cd "$scratch/root"

# What this machine may have of a cluster of its own is not there.
rm -rf opt/cni etc/cni etc/containerd etc/kubernetes etc/tailscale-cni var/lib/cni var/lib/tailscale-cni

# Of its own: processes, devices of its network, everything volatile. overlayfs cannot carry containerd's snapshots.
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
for volatile in run tmp dev/shm var/lib/containerd var/lib/kubelet var/lib/etcd; do
    mkdir -p "$volatile"
    mount -t tmpfs -o mode=0755 tmpfs "$volatile"
done
chmod 1777 tmp dev/shm

# Its cgroups are the whole tree to it. The hierarchies may share a tmpfs (version 1) or be one mount (version 2).
mount -t tmpfs -o mode=0755 tmpfs sys/fs/cgroup
while IFS='	' read -r ours place; do
    mkdir -p ".$place"
    mount --bind "$ours" ".$place"
done <"$cgroups"

# kubelet sets these for the whole kernel, and nobody restores them: it finds them as it wants them, and not the kernel's.
mkdir run/sysctl
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=run/sysctl/$(basename "${setting%=*}")
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "proc/sys/${setting%=*}"
done

for shared; do
    mkdir -p ".$shared"
    mount --bind "$shared" ".$shared"
done

mkdir -p run/old
pivot_root . run/old
umount -l /run/old
mount --make-rshared /
echo "$hostname" >/proc/sys/kernel/hostname
ip link set lo up
echo ready
exec "$init" >/dev/null 2>&1 </dev/null
