#!/bin/sh
# Takes a device away and looks for it again, the cure for everything: remove-rescan.sh 0000:00:03.0
[ -e /sys/kernel/vfio_room ] || { echo "not in a room" >&2; exit 99; }
set -e
dev=/sys/bus/pci/devices/$1
echo 1 > "$dev/remove"
[ ! -e "$dev" ] && echo "gone"
sleep 0.1
echo 1 > /sys/bus/pci/rescan
[ -e "$dev" ] && echo "back, $(cat "$dev/vendor"), enabled $(cat "$dev/enable")"
