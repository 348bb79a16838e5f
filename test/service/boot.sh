#!/bin/sh
# Boots this machine's own system a second time, beside itself: a fresh systemd
# as PID 1 on a copy-on-write view of /, so that what it installs, enables and
# writes is gone with it. Run by machine.ts as
#
#   unshare (mount, pid, uts, ipc, cgroup) sh boot.sh FOLDER SOURCE
#
# in the network namespace that is to be its network. FOLDER: an empty one to
# mount on. SOURCE: what of this machine is to be seen though it may lie on
# another file system (read-only).
set -eu
folder=$1 source=$2
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
mkdir -p "$folder/root$source"
mount --rbind -o ro "$source" "$folder/root$source"
cd "$folder/root"

mount -t proc proc proc
# The kernel is shared: of its settings only those of the network are this system's own.
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf -o mode=0700 bpf sys/fs/bpf # as systemd mounts it on a booted host
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs -o mode=0755 tmpfs dev
mkdir dev/pts dev/shm
for device in null zero full random urandom tty; do
	touch "dev/$device"
	mount --bind "/dev/$device" "dev/$device"
done
ln -s /proc/self/fd dev/fd

# Nothing of what this machine would start or mount by itself.
rm -rf etc/systemd/system
mkdir etc/systemd/system
: >etc/fstab

mkdir -p .before
pivot_root . .before
mount --make-rshared / # else LoadCredential= stays empty
umount --lazy /.before
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=no systemd.unit=multi-user.target
