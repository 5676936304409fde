//! Paths of the room, by std and by the programs that people use.

use std::fs;
use std::path::Path;

use rustix::io::Errno;

use super::{in_room, room};

const OVERRIDE: &str = "/sys/bus/pci/devices/0000:00:1f.7/driver_override";

#[test]
fn links_lead_through_the_room() {
    let (room, _) = room();
    room.enter(|| {
        let group = fs::read_link("/sys/bus/pci/devices/0000:00:1f.7/iommu_group").unwrap();
        assert_eq!(group, Path::new("../../../kernel/iommu_groups/7"));
        let real = fs::canonicalize("/sys/kernel/iommu_groups/7/devices/0000:00:1f.7/driver").unwrap();
        assert_eq!(real, Path::new("/sys/bus/pci/drivers/fake"));
        assert!(fs::metadata("/sys/bus/pci/devices/0000:00:1f.7/iommu_group").unwrap().is_dir());
        assert!(!Path::new("/sys/bus/pci/devices/0000:00:00.0").exists());
        assert_eq!(fs::read_dir("/sys/bus/pci/devices").unwrap().count(), 1);
        assert!(Path::new("/sys/devices/system/cpu").exists());
    })
    .unwrap();
}

#[test]
fn attributes_are_written_and_read_back() {
    let (room, fake) = room();
    room.enter(|| {
        in_room();
        fs::write(OVERRIDE, "vfio-pci").unwrap();
        assert_eq!(fs::read(OVERRIDE).unwrap(), b"vfio-pci");
        assert_eq!(fs::write(OVERRIDE, "bad").unwrap_err().raw_os_error(), Some(Errno::NODEV.raw_os_error()));
        assert_eq!(fs::write("/sys/bus/pci/devices/0000:00:1f.7/vendor", "1").unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        assert_eq!(fs::write("/sys/bus/pci/devices/new", "1").unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        // More than is looked at: refused, not lost.
        assert!(fs::write(OVERRIDE, [b'x'; 100]).is_err());
    })
    .unwrap();
    assert_eq!(fake.written("/sys/devices/pci0000:00/0000:00:1f.7/driver_override").unwrap(), b"vfio-pci");
}
