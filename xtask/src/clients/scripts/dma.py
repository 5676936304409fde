#!/usr/bin/env python3
"""Takes a device through its group and maps memory for it: dma.py 0000:00:03.0"""
import ctypes
import fcntl
import mmap
import os
import struct
import sys

if not os.path.exists("/sys/kernel/vfio_room"):
    sys.exit("not in a room")

(API_VERSION, EXTENSION, SET_IOMMU, GROUP_STATUS, SET_CONTAINER, UNSET_CONTAINER, DEVICE_FD,
 DEVICE_INFO, REGION_INFO) = range(0x3B64, 0x3B6D)
MAP, UNMAP = 0x3B71, 0x3B72
TYPE1V2, VIABLE = 3, 1

device = sys.argv[1]
group_number = os.path.basename(os.readlink(f"/sys/bus/pci/devices/{device}/iommu_group"))
container = os.open("/dev/vfio/vfio", os.O_RDWR)
assert fcntl.ioctl(container, API_VERSION) == 0
assert fcntl.ioctl(container, EXTENSION, TYPE1V2) == 1
group = os.open(f"/dev/vfio/{group_number}", os.O_RDWR)
status = struct.unpack("II", fcntl.ioctl(group, GROUP_STATUS, struct.pack("II", 8, 0)))[1]
if not status & VIABLE:
    sys.exit(f"group {group_number} is not viable")
fcntl.ioctl(group, SET_CONTAINER, struct.pack("i", container))
fcntl.ioctl(container, SET_IOMMU, TYPE1V2)
fd = fcntl.ioctl(group, DEVICE_FD, ctypes.create_string_buffer(device.encode()), True)
_, flags, regions, irqs = struct.unpack("IIII", fcntl.ioctl(fd, DEVICE_INFO, struct.pack("IIII", 16, 0, 0, 0)))
print("regions", regions, "irqs", irqs, "pci", bool(flags & 2))
info = fcntl.ioctl(fd, REGION_INFO, struct.pack("IIIIQQ", 32, 0, 7, 0, 0, 0))
config_size, config_offset = struct.unpack("IIIIQQ", info)[4:]
print("config", config_size, os.pread(fd, 4, config_offset).hex())
info = fcntl.ioctl(fd, REGION_INFO, struct.pack("IIIIQQ", 32, 0, 0, 0, 0, 0))
bar_size, bar_offset = struct.unpack("IIIIQQ", info)[4:]
with mmap.mmap(fd, bar_size, offset=bar_offset) as bar:
    print("bar", len(bar))
memory = mmap.mmap(-1, 1 << 20)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(container, MAP, struct.pack("IIQQQ", 32, 3, address, 0x100000, len(memory)))
try:
    fcntl.ioctl(container, MAP, struct.pack("IIQQQ", 32, 3, address, 0x100000, len(memory)))
except FileExistsError:
    print("mapped already")
size = struct.unpack("IIQQ", fcntl.ioctl(container, UNMAP, struct.pack("IIQQ", 24, 0, 0x100000, len(memory))))[3]
print("unmapped", size)
os.close(fd)
fcntl.ioctl(group, UNSET_CONTAINER)
