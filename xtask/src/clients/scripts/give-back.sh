#!/bin/sh
# Gives a device to vfio-pci and then back to its own driver: give-back.sh 0000:00:03.0
[ -e /sys/kernel/vfio_room ] || { echo "not in a room" >&2; exit 99; }
set -e
cd "/sys/bus/pci/devices/$1"
before=$(basename "$(readlink driver)")
echo "$1" | tee driver/unbind > /dev/null
echo vfio-pci | tee driver_override > /dev/null
echo "$1" | tee /sys/bus/pci/drivers_probe > /dev/null
[ "$(basename "$(readlink driver)")" = vfio-pci ]
echo "$1" > driver/unbind
echo > driver_override
[ "$(cat driver_override)" = "(null)" ]
echo "$1" > /sys/bus/pci/drivers_probe
after=$(basename "$(readlink driver)")
[ "$before" = "$after" ] && echo "$1 is on $after again"
