#!/bin/bash
# Which group is my graphics card in, and who else is?
[ -e /sys/kernel/vfio_room ] || { echo "not in a room" >&2; exit 99; }
for gpu in $(grep -l '^0x03' /sys/bus/pci/devices/*/class); do
    dir=$(dirname "$gpu")
    group=$(basename "$(realpath "$dir/iommu_group")")
    echo "$(basename "$dir") is in group $group with:"
    while read -r other; do
        driver=none
        [[ -L /sys/bus/pci/devices/$other/driver ]] && driver=$(basename "$(readlink -f "/sys/bus/pci/devices/$other/driver")")
        echo "  $other ($driver)"
    done < <(ls "/sys/kernel/iommu_groups/$group/devices")
done
