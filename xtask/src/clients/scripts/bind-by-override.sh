#!/bin/sh
# Gives a device to vfio-pci: bind-by-override.sh 0000:00:03.0
[ -e /sys/kernel/vfio_room ] || { echo "not in a room" >&2; exit 99; }
set -e
dev=/sys/bus/pci/devices/$1
[ -e "$dev" ] || { echo "no device $1" >&2; exit 1; }
if [ -e "$dev/driver" ]; then
    echo "$1" > "$dev/driver/unbind"
fi
echo vfio-pci > "$dev/driver_override"
echo "$1" > /sys/bus/pci/drivers_probe
echo "$1 is now on $(basename "$(readlink "$dev/driver")")"
