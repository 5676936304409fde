//! Opened files.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use iommu_core::device_model::sync::Mutex;

use super::super::machine::Machine;
use super::attribute::{Attribute, Content, PAGE};
use super::char_device::CharFile;
use super::error::{AttributeError, OpenError};
use super::later::Written;
use super::tree::{LastLink, Node, WalkError};
use super::{Shared, Vfs};
use crate::uapi::File;

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// `O_RDONLY`.
    Read,
    /// `O_WRONLY`.
    Write,
    /// `O_RDWR`.
    ReadWrite,
}

impl Access {
    const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }
}

/// Who opens a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rights {
    /// Root of the machine, with all capabilities.
    #[default]
    Root,
    /// Another user, who owns no file.
    Other,
}

/// What happens when there is no file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Absent {
    /// The call fails.
    #[default]
    Fails,
    /// It would be created (`O_CREAT`), which fails in another way.
    IsCreated,
}

/// How a file is opened.
#[derive(Clone, Debug)]
pub struct Opening<'a> {
    /// For what.
    pub access: Access,
    /// By whom.
    pub rights: Rights,
    /// What happens when there is none.
    pub absent: Absent,
    /// Whether a link at the end of the path is followed; it cannot be opened itself.
    pub last: LastLink,
    /// The name of whoever opens it, for messages (`"iommufd of qemu"`).
    pub name: &'a str,
}

impl Opening<'_> {
    /// Opens an existing file as root, and follows links.
    pub const fn new(access: Access) -> Self {
        Self { access, rights: Rights::Root, absent: Absent::Fails, last: LastLink::Follow, name: "iommufd" }
    }
}

/// An opened file. Dropping it closes it.
#[derive(Debug)]
pub enum Opened {
    /// A directory, with its path.
    Directory(String),
    /// A file of sysfs.
    Attribute(OpenAttribute),
    /// A character device.
    File(File),
}

impl Vfs {
    /// Opens the file at an absolute path.
    ///
    /// # Errors
    /// Fails if there is no such file, its permissions do not allow it, or the group or device cannot be opened now.
    pub fn open(&self, path: &str, opening: &Opening<'_>) -> Result<Opened, OpenError> {
        let tree = self.tree();
        // What is missing would be created in a directory that is there.
        let above = path.trim_end_matches('/').rsplit_once('/').map_or("", |(above, _)| above);
        let creates = || opening.absent == Absent::IsCreated && tree.find(above, LastLink::Follow).is_ok();
        let found = tree.find(path, opening.last).map_err(|error| match error {
            WalkError::Missing { path } if creates() => OpenError::NotCreated { path },
            error => error.into(),
        })?;
        let path = found.path;
        match found.node {
            Node::Directory(_) if opening.access.writes() || opening.absent == Absent::IsCreated => {
                Err(OpenError::Directory { path })
            }
            Node::Directory(_) => Ok(Opened::Directory(path)),
            Node::Link { .. } => Err(OpenError::Link { path }),
            Node::Attribute(attribute) => {
                // Root, too, needs somebody who may.
                check(attribute.mode(), opening, Privilege::ReadsWhatSomebodyReads)
                    .map_err(|mode| OpenError::Permissions { path, mode })?;
                Ok(Opened::Attribute(self.attribute(attribute, opening)))
            }
            Node::CharDevice(device) => {
                check(device.mode, opening, Privilege::ReadsAll)
                    .map_err(|mode| OpenError::Permissions { path, mode })?;
                Ok(Opened::File(open_device(self.machine(), &device.file, opening.name)?))
            }
        }
    }

    /// Opens an attribute, whatever its permissions.
    fn attribute(&self, attribute: &Attribute, opening: &Opening<'_>) -> OpenAttribute {
        OpenAttribute(Arc::new(OpenFile {
            vfs: self.0.clone(),
            attribute: attribute.clone(),
            access: opening.access,
            rights: opening.rights,
            contents: Mutex::new(None),
        }))
    }
}

/// What root may beyond the permissions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Privilege {
    ReadsAll,
    ReadsWhatSomebodyReads,
}

/// The permissions, if they do not allow it.
fn check(mode: u16, opening: &Opening<'_>, privilege: Privilege) -> Result<(), u16> {
    let needed = if opening.access.reads() { 0o4 } else { 0 } | if opening.access.writes() { 0o2 } else { 0 };
    let allowed = match (opening.rights, privilege) {
        (Rights::Other, _) => mode & 0o7,
        (Rights::Root, Privilege::ReadsAll) => 0o6,
        (Rights::Root, Privilege::ReadsWhatSomebodyReads) => (mode | mode >> 3 | mode >> 6) & 0o7,
    };
    if needed & !allowed == 0 { Ok(()) } else { Err(mode) }
}

fn open_device(machine: &Machine, file: &CharFile, name: &str) -> Result<File, OpenError> {
    Ok(match file {
        CharFile::Container => File::Container(machine.vfio().open_container()),
        CharFile::Iommufd => machine.open_iommufd_file(name),
        CharFile::Group(group) => File::Group(machine.vfio().open_group(*group)?),
        CharFile::Device(device) => File::DeviceFile(machine.vfio().open_device(device)?),
    })
}

/// An open file of sysfs. A clone is the same open file.
#[derive(Clone, Debug)]
pub struct OpenAttribute(Arc<OpenFile>);

#[derive(Debug)]
struct OpenFile {
    vfs: Arc<Shared>,
    attribute: Attribute,
    access: Access,
    rights: Rights,
    /// Leaf lock. A text stays as it was when it was read from its beginning.
    contents: Mutex<Option<Vec<u8>>>,
}

/// What of a configuration space others than root may read.
const CONFIG_FOR_ALL: usize = 64;

impl OpenAttribute {
    /// Returns the file that was opened.
    pub fn attribute(&self) -> &Attribute {
        &self.0.attribute
    }

    /// Reads from `offset` on, and returns how many bytes were read; 0 at the end. A text is made anew when it is read from
    /// its beginning, and stays as it was then for what follows.
    ///
    /// # Errors
    /// Fails if the file was not opened for reading, or what it belongs to is gone.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, AttributeError> {
        let file = &*self.0;
        if !file.access.reads() {
            return Err(AttributeError::NotOpenFor);
        }
        // Read before the lock is taken: it takes locks of the machine.
        let is_config = matches!(file.attribute.content(), Content::Config(_));
        let known = if offset == 0 || is_config { None } else { file.contents.lock().clone() };
        let contents = match known {
            Some(contents) => contents,
            None => file.attribute.read(&file.vfs)?,
        };
        let end = if is_config && file.rights == Rights::Other { CONFIG_FOR_ALL } else { usize::MAX };
        let visible = contents.get(..end.min(contents.len())).unwrap_or_default();
        let rest = usize::try_from(offset).ok().and_then(|offset| visible.get(offset..)).unwrap_or_default();
        let length = rest.len().min(into.len());
        for (to, from) in into.iter_mut().zip(rest) {
            *to = *from;
        }
        *file.contents.lock() = Some(contents);
        Ok(length)
    }

    /// Writes what one call of a program wrote, a page at most, and returns how much of it was taken. A text is one write,
    /// whatever the offset.
    ///
    /// # Errors
    /// Fails if the file was not opened for writing, what it belongs to is gone, or the machine refuses.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<Written, AttributeError> {
        let file = &*self.0;
        if !file.access.writes() {
            return Err(AttributeError::NotOpenFor);
        }
        let bytes = bytes.get(..PAGE.min(bytes.len())).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(Written::Bytes(0));
        }
        // It10.1.
        if matches!(file.attribute.content(), Content::Type) && file.rights == Rights::Other {
            return Err(AttributeError::NotRoot);
        }
        Written::start(file.attribute.write(&file.vfs, offset, bytes)?, bytes.len())
    }
}
