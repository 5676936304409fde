#!/usr/bin/env python3
"""Opens a group, then finds out who has it, by the descriptors of all processes: who_has.py /dev/vfio/2"""
import errno
import os
import sys

if not os.path.exists("/sys/kernel/vfio_room"):
    sys.exit("not in a room")

path = sys.argv[1]
held = os.open(path, os.O_RDWR)
try:
    os.open(path, os.O_RDWR)
except OSError as error:
    print(errno.errorcode[error.errno])
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{fd}") == path:
                print("me" if int(pid) == os.getpid() else "somebody else", int(fd) == held)
    except OSError:
        pass
