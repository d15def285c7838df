#!/bin/busybox sh
# Process 1 of the emulated device: mounts, network, the SSH server, and nothing else.
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname device
ip link set lo up
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
chown -R 0:0 /root /etc/dropbear  # without root rights the image holds its maker as owner
dropbear -s -r /etc/dropbear/host_key
echo "edgewright: ready"
# A shell that waits also reaps what lost its parent.
while :; do sleep 3600; done
