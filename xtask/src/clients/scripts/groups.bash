#!/bin/bash
# Lists every IOMMU group with what is in it.
[ -e /sys/kernel/vfio_room ] || { echo "not in a room" >&2; exit 99; }
shopt -s nullglob
for group in $(find /sys/kernel/iommu_groups/ -maxdepth 1 -mindepth 1 -type d | sort -V); do
    echo "IOMMU Group ${group##*/}:"
    for device in "$group"/devices/*; do
        echo -e "\t$(lspci -D -nns "${device##*/}" 2> /dev/null)"
    done
done
