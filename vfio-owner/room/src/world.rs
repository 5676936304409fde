//! What a room shows: files by their paths.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use rustix::io::Errno;

use crate::caller::Caller;

/// What lies at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Node {
    Directory,
    /// A symbolic link with this text.
    Link(String),
    /// A file of sysfs. `mode` has the permissions only.
    Attribute {
        mode: u32,
    },
    /// A device file.
    Device {
        major: u32,
        minor: u32,
    },
}

/// Files of a machine.
pub(crate) trait World: Send + Sync + fmt::Debug {
    /// Returns what lies at an absolute path without `.`, `..` and, but for the last component, links.
    fn node(&self, path: &Path) -> Option<Node>;

    /// Returns the names in a directory.
    fn entries(&self, directory: &Path) -> Vec<OsString>;

    /// Reads an attribute.
    fn read(&self, attribute: &Path) -> Result<Vec<u8>, Errno>;

    /// Writes to an attribute.
    fn write(&self, attribute: &Path, bytes: &[u8], caller: &Caller<'_>) -> Result<Reply, Errno>;

    /// Opens a device file.
    fn open(&self, device: &Path, caller: &Caller<'_>) -> Result<Box<dyn DeviceFile>, Errno>;
}

/// An open device file. Dropping closes it.
pub(crate) trait DeviceFile: Send + fmt::Debug {
    fn ioctl(&self, number: u32, argument: u64, caller: &Caller<'_>) -> Result<Reply, Errno>;

    /// Whether this part of it is memory, which the caller reaches without the supervisor.
    fn mappable(&self, offset: u64, len: u64) -> bool;

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno>;

    fn write(&self, offset: u64, from: &[u8]) -> Result<usize, Errno>;
}

/// What a call gives back.
pub(crate) enum Reply {
    Value(i64),
    File(Box<dyn DeviceFile>),
    /// The answer comes when this gives one.
    Later(Box<dyn FnMut() -> Option<Result<i64, Errno>> + Send>),
}
