#!/bin/sh
# Boots this machine's own system a second time, beside itself: a fresh systemd
# as PID 1 on a copy-on-write view of /, so that what it installs, enables and
# writes is gone with it. Run by machine.ts as
#
#   unshare (mount, pid, uts, ipc) sh boot.sh FOLDER SOURCE PREPARE
#
# in the network namespace that is to be its network. FOLDER: an empty one to
# mount on; its name, which begins with mtgate-PID of the test, is also that of
# the machine's control group. SOURCE: what of this machine is to be seen
# though it may lie on another file system (read-only). PREPARE: a script to run
# in SOURCE before the boot.
set -eu
folder=$1 source=$2 prepare=$3
if [ $# = 3 ]; then
	mount --make-rprivate /
	mount -t tmpfs -o mode=0755 tmpfs "$folder"
	# A control group of its own: systemd believes that all below the root is its to end.
	mkdir "$folder/groups"
	mount -t cgroup2 cgroup2 "$folder/groups"
	parent=$folder/groups$(sed -n 's/^0:://p' /proc/self/cgroup)
	for group in "$parent"/mtgate-*/; do # of machines whose test is gone
		pid=${group#"$parent/mtgate-"}
		[ -e "/proc/${pid%%-*}" ] || find "$group" -depth -type d -exec rmdir {} + || true
	done
	mkdir "$parent/${folder##*/}"
	echo 0 >"$parent/${folder##*/}/cgroup.procs"
	exec unshare --cgroup sh "$0" "$folder" "$source" "$prepare" grouped
fi
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
ln -s pts/ptmx dev/ptmx

# Nothing of what this machine would start or mount by itself.
rm -rf etc/systemd/system
mkdir etc/systemd/system
: >etc/fstab

mkdir -p .before
pivot_root . .before
mount --make-rshared / # else LoadCredential= stays empty
umount --lazy /.before
(cd "$source" && HOME=/root sh -euc "$prepare") >&2
echo booting
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=no systemd.unit=multi-user.target
