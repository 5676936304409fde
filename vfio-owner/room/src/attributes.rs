//! What `stat` and `statx` say of a file, as the kernel lays it out.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::offset_of;
use std::path::Path;

use libc::{stat, statx};
use rustix::fs::{FileType, Stat, makedev};

use vfio_owner::testbed::vfs::Node;

/// A number that a file system without a device could have.
const SYSFS_DEVICE: (u32, u32) = (0, 0x5f5);
/// What every `statx` answers: `STATX_BASIC_STATS`.
const BASIC: u32 = 0x7ff;

/// Attributes of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Attributes {
    dev: (u32, u32),
    ino: u64,
    nlink: u32,
    pub(crate) mode: u32,
    uid: u32,
    gid: u32,
    rdev: (u32, u32),
    size: u64,
    blocks: u64,
    /// Of access, modification and change: seconds and nanoseconds.
    times: [(i64, u32); 3],
}

impl Attributes {
    /// Returns those of a file of the room, which belongs to root.
    pub(crate) fn of_node(path: &Path, node: &Node) -> Self {
        let (kind, permissions, size) = match node {
            Node::Directory(_) => (FileType::Directory, 0o755, 0),
            Node::Link { target } => (FileType::Symlink, 0o777, target.len() as u64),
            Node::Attribute(attribute) => (FileType::RegularFile, u32::from(attribute.mode()), attribute.size()),
            Node::CharDevice(device) => (FileType::CharacterDevice, u32::from(device.mode), 0),
        };
        let rdev = if let Node::CharDevice(device) = node { (device.major, device.minor) } else { (0, 0) };
        Self::new(path, kind.as_raw_mode() | permissions, rdev, size)
    }

    /// Returns those of a file of sysfs.
    pub(crate) fn of_attribute(path: &Path, mode: u16, size: u64) -> Self {
        Self::new(path, FileType::RegularFile.as_raw_mode() | u32::from(mode), (0, 0), size)
    }

    /// Returns those of an open file without a name in a directory, as `VFIO_GROUP_GET_DEVICE_FD` makes them.
    pub(crate) fn of_anonymous(name: &Path) -> Self {
        Self::new(name, 0o600, (0, 0), 0)
    }

    fn new(path: &Path, mode: u32, rdev: (u32, u32), size: u64) -> Self {
        let mut hash = DefaultHasher::new();
        path.hash(&mut hash);
        let dev = SYSFS_DEVICE;
        // One link: a directory's number says nothing of how many are in it.
        Self { dev, ino: hash.finish(), nlink: 1, mode, uid: 0, gid: 0, rdev, size, blocks: 0, times: [(0, 0); 3] }
    }

    /// Lays them out as `struct stat`.
    pub(crate) fn stat(&self) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<stat>()];
        put(&mut bytes, offset_of!(stat, st_dev), &makedev(self.dev.0, self.dev.1).to_le_bytes());
        put(&mut bytes, offset_of!(stat, st_ino), &self.ino.to_le_bytes());
        // Its size differs between architectures; what follows is written later.
        put(&mut bytes, offset_of!(stat, st_nlink), &self.nlink.to_le_bytes());
        put(&mut bytes, offset_of!(stat, st_mode), &self.mode.to_le_bytes());
        put(&mut bytes, offset_of!(stat, st_uid), &self.uid.to_le_bytes());
        put(&mut bytes, offset_of!(stat, st_gid), &self.gid.to_le_bytes());
        put(&mut bytes, offset_of!(stat, st_rdev), &makedev(self.rdev.0, self.rdev.1).to_le_bytes());
        put(&mut bytes, offset_of!(stat, st_size), &self.size.to_le_bytes());
        put(&mut bytes, offset_of!(stat, st_blksize), &4096_u32.to_le_bytes());
        put(&mut bytes, offset_of!(stat, st_blocks), &self.blocks.to_le_bytes());
        let places = [offset_of!(stat, st_atime), offset_of!(stat, st_mtime), offset_of!(stat, st_ctime)];
        for (at, (seconds, nanoseconds)) in places.into_iter().zip(self.times) {
            put(&mut bytes, at, &seconds.to_le_bytes());
            put(&mut bytes, at + 8, &nanoseconds.to_le_bytes());
        }
        bytes
    }

    /// Lays them out as `struct statx`.
    pub(crate) fn statx(&self) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<statx>()];
        put(&mut bytes, offset_of!(statx, stx_mask), &BASIC.to_le_bytes());
        put(&mut bytes, offset_of!(statx, stx_blksize), &4096_u32.to_le_bytes());
        put(&mut bytes, offset_of!(statx, stx_nlink), &self.nlink.to_le_bytes());
        put(&mut bytes, offset_of!(statx, stx_uid), &self.uid.to_le_bytes());
        put(&mut bytes, offset_of!(statx, stx_gid), &self.gid.to_le_bytes());
        // Two bytes, then two that are zero.
        put(&mut bytes, offset_of!(statx, stx_mode), &self.mode.to_le_bytes());
        put(&mut bytes, offset_of!(statx, stx_ino), &self.ino.to_le_bytes());
        put(&mut bytes, offset_of!(statx, stx_size), &self.size.to_le_bytes());
        put(&mut bytes, offset_of!(statx, stx_blocks), &self.blocks.to_le_bytes());
        let places = [offset_of!(statx, stx_atime), offset_of!(statx, stx_mtime), offset_of!(statx, stx_ctime)];
        for (at, (seconds, nanoseconds)) in places.into_iter().zip(self.times) {
            put(&mut bytes, at, &seconds.to_le_bytes());
            put(&mut bytes, at + 8, &nanoseconds.to_le_bytes());
        }
        put(&mut bytes, offset_of!(statx, stx_rdev_major), &self.rdev.0.to_le_bytes());
        put(&mut bytes, offset_of!(statx, stx_rdev_minor), &self.rdev.1.to_le_bytes());
        put(&mut bytes, offset_of!(statx, stx_dev_major), &self.dev.0.to_le_bytes());
        put(&mut bytes, offset_of!(statx, stx_dev_minor), &self.dev.1.to_le_bytes());
        bytes
    }
}

impl From<Stat> for Attributes {
    fn from(found: Stat) -> Self {
        let numbers = |dev| (rustix::fs::major(dev), rustix::fs::minor(dev));
        let nanoseconds = |count| u32::try_from(count).unwrap_or(0);
        Self {
            dev: numbers(found.st_dev),
            ino: found.st_ino,
            nlink: u32::try_from(found.st_nlink).unwrap_or(u32::MAX),
            mode: found.st_mode,
            uid: found.st_uid,
            gid: found.st_gid,
            rdev: numbers(found.st_rdev),
            size: u64::try_from(found.st_size).unwrap_or(0),
            blocks: u64::try_from(found.st_blocks).unwrap_or(0),
            times: [
                (found.st_atime, nanoseconds(found.st_atime_nsec)),
                (found.st_mtime, nanoseconds(found.st_mtime_nsec)),
                (found.st_ctime, nanoseconds(found.st_ctime_nsec)),
            ],
        }
    }
}

/// Puts the bytes of a field in its place.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}
