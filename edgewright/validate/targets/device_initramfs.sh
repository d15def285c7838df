#!/bin/busybox sh
# First program of the emulated device: finds its disk and hands over to the system there.
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod "/modules/$module"; done
mount -t ext4 /dev/vda /root || poweroff -f
exec switch_root /root /sbin/edgewright-init
