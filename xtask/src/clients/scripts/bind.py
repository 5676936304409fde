#!/usr/bin/env python3
"""Gives devices to a driver: bind.py vfio-pci 0000:00:03.0 …"""
import errno
import os
import sys

if not os.path.exists("/sys/kernel/vfio_room"):
    sys.exit("not in a room")


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def main():
    driver, *devices = sys.argv[1:]
    for device in devices:
        base = f"/sys/bus/pci/devices/{device}"
        write(f"{base}/driver_override", driver)
        if os.path.islink(f"{base}/driver"):
            write(f"{base}/driver/unbind", device)
        write("/sys/bus/pci/drivers_probe", device)
        assert os.path.basename(os.readlink(f"{base}/driver")) == driver
        # Once more: it is bound already.
        try:
            write(f"/sys/bus/pci/drivers/{driver}/bind", device)
        except OSError as error:
            print(device, driver, errno.errorcode[error.errno])


main()
