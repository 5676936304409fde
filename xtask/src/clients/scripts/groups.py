#!/usr/bin/env python3
"""Prints the IOMMU groups as JSON: number, type, and the devices with IDs and driver."""
import json
import os
import sys
from pathlib import Path

if not os.path.exists("/sys/kernel/vfio_room"):
    sys.exit("not in a room")

groups = {}
for group in sorted(Path("/sys/kernel/iommu_groups").iterdir(), key=lambda path: int(path.name)):
    members = []
    for link in sorted((group / "devices").iterdir()):
        device = link.resolve()
        driver = device / "driver"
        members.append({
            "address": device.name,
            "vendor": int((device / "vendor").read_text(), 16),
            "device": int((device / "device").read_text(), 16),
            "driver": driver.resolve().name if driver.exists() else None,
        })
    groups[int(group.name)] = {"type": (group / "type").read_text().strip(), "devices": members}
json.dump(groups, sys.stdout)
