#!/bin/sh
# Gives all devices of the kind of one to vfio-pci, the old way: bind-by-id.sh 0000:00:03.0
[ -e /sys/kernel/vfio_room ] || { echo "not in a room" >&2; exit 99; }
set -e
dev=/sys/bus/pci/devices/$1
vendor=$(cat "$dev/vendor")
device=$(cat "$dev/device")
for other in /sys/bus/pci/devices/*; do
    if [ "$(cat "$other/vendor")" = "$vendor" ] && [ "$(cat "$other/device")" = "$device" ] && [ -e "$other/driver" ]; then
        echo "${other##*/}" > "$other/driver/unbind"
    fi
done
echo "${vendor#0x} ${device#0x}" > /sys/bus/pci/drivers/vfio-pci/new_id
# A second time is refused, as people find who run this twice.
if echo "${vendor#0x} ${device#0x}" > /sys/bus/pci/drivers/vfio-pci/new_id; then
    echo "new_id took the same twice" >&2
    exit 1
fi
for bound in /sys/bus/pci/drivers/vfio-pci/0000:*; do
    echo "${bound##*/}"
done
echo "${vendor#0x} ${device#0x}" > /sys/bus/pci/drivers/vfio-pci/remove_id
