$ vfio-host plan 02:00.0 --script --from workstation.tree
#!/bin/sh
# Gives 0000:02:00.0 to user space; `undo` takes it back.
set -eu
sys=${SYSFS:-/sys}

driver_of() {
    if [ -e "$sys/bus/pci/devices/$1/driver" ]; then basename "$(readlink -f "$sys/bus/pci/devices/$1/driver")"; fi
}

stop() { echo "$0: $1" >&2; exit 1; }

# expect DEVICE DRIVER: an empty driver is none
expect() {
    found=$(driver_of "$1")
    [ "$found" = "$2" ] || stop "$1 is on '${found:-no driver}', not on '${2:-no driver}'"
}

load() {
    [ -d "$sys/bus/pci/drivers/$1" ] || modprobe -- "$1"
    [ -d "$sys/bus/pci/drivers/$1" ] || stop "there is no driver $1"
}

set_override() {
    echo "$2" > "$sys/bus/pci/devices/$1/driver_override"
}

unbind() {
    expect "$1" "$2"
    printf %s "$1" > "$sys/bus/pci/drivers/$2/unbind"
    expect "$1" ""
}

bind() {
    printf %s "$1" > "$sys/bus/pci/drivers/$2/bind"
    expect "$1" "$2"
}

# same DEVICE VENDOR ID: another device may be at the address by now
same() {
    at="$sys/bus/pci/devices/$1"
    [ -e "$at" ] || stop "$1 is not there"
    [ ! -e "$at/vendor" ] || [ "$(cat "$at/vendor") $(cat "$at/device")" = "$2 $3" ] || stop "another device is at $1"
}

# restore DEVICE DRIVER OVERRIDE LEFT: back to that, from no driver or the one that it was left on
restore() {
    found=$(driver_of "$1")
    if [ -n "$found" ] && [ "$found" != "$2" ] && [ "$found" != "$4" ]; then
        echo "$0: $1 is on $found by now, and was left alone" >&2
        return
    fi
    if [ -n "$found" ] && [ "$found" != "$2" ]; then unbind "$1" "$found"; found=; fi
    # An override keeps every other driver from binding.
    if [ -n "$2" ] && [ "$found" != "$2" ]; then set_override "$1" ""; bind "$1" "$2"; fi
    set_override "$1" "$3"
}

same 0000:02:00.0 0x1b36 0x0010
same 0000:03:00.0 0x8086 0x10d3
if [ "${1:-}" = undo ]; then
    restore 0000:03:00.0 'e1000e' '' ''
    restore 0000:02:00.0 'nvme' '' 'vfio-pci'
    exit 0
fi

load 'vfio-pci'
unbind 0000:03:00.0 'e1000e'
set_override 0000:02:00.0 'vfio-pci'
unbind 0000:02:00.0 'nvme'
bind 0000:02:00.0 'vfio-pci'
=> 0
