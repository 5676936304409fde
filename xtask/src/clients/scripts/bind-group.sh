#!/bin/sh
# Gives a device and all that share its IOMMU group to vfio-pci, but for bridges: bind-group.sh 0000:00:04.0
[ -e /sys/kernel/vfio_room ] || { echo "not in a room" >&2; exit 99; }
set -eu
for path in /sys/bus/pci/devices/"$1"/iommu_group/devices/*; do
    bdf=${path##*/}
    case $(cat "$path/class") in
        0x0604*) echo "$bdf: bridge, left alone"; continue ;;
    esac
    echo vfio-pci > "$path/driver_override"
    if [ -L "$path/driver" ]; then
        printf '%s' "$bdf" > "$path/driver/unbind"
    fi
    printf '%s' "$bdf" > /sys/bus/pci/drivers/vfio-pci/bind
    echo "$bdf: vfio-pci"
done
ls -l "/dev/vfio/$(basename "$(readlink -f /sys/bus/pci/devices/"$1"/iommu_group)")" | cut -c1
