//! Calls that look at a file.

use std::ffi::OsString;
use std::mem::offset_of;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, FsWord, statat};
use rustix::io::Errno;
use vfio_owner::testbed::vfs::Node;

use super::{Answer, Trapped};
use crate::attributes::{Attributes, put};
use crate::calls::Call;
use crate::files::Kind;
use crate::supervisor::Supervisor;
use crate::task::Task;
use crate::territory::SYSFS_MAGIC;
use crate::view::{MARK, View};
use crate::walk::{HostPlace, Last, Place};

/// What a call looks at.
enum Subject {
    /// A file of the room.
    Room(PathBuf, Attributes),
    /// A file of the host that the kernel, given the caller's path, does not find.
    Host(PathBuf, Attributes),
    /// What the kernel finds as well.
    Native,
}

impl Supervisor {
    pub(super) fn stat(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let (dir, path, flags, result) = match trapped.call {
            Call::Stat => (libc::AT_FDCWD, Some(0), 0, 1),
            Call::Lstat => (libc::AT_FDCWD, Some(0), AtFlags::SYMLINK_NOFOLLOW.bits(), 1),
            Call::Fstat => (trapped.fd(0), None, 0, 1),
            Call::Statx => (trapped.fd(0), Some(1), trapped.bits(2), 4),
            _ => (trapped.fd(0), Some(1), trapped.bits(3), 2),
        };
        let (Subject::Room(_, found) | Subject::Host(_, found)) =
            self.subject(trapped, dir, path, AtFlags::from_bits_retain(flags))?
        else {
            return Ok(Answer::Continue);
        };
        let bytes = if trapped.call == Call::Statx { found.statx() } else { found.stat() };
        trapped.task.write(trapped.arg(result), &bytes)?;
        Ok(Answer::Value(0))
    }

    /// Finds what a directory, a path and flags name; the path is an argument, if there is one.
    fn subject(&self, trapped: &Trapped<'_>, dir: i32, path: Option<usize>, flags: AtFlags) -> Result<Subject, Errno> {
        let text = match path {
            // With `AT_EMPTY_PATH` the path may be missing.
            Some(index) if trapped.arg(index) != 0 => trapped.string(index)?,
            _ => "".into(),
        };
        if text.is_empty() {
            if path.is_some() && !flags.contains(AtFlags::EMPTY_PATH) {
                return Ok(Subject::Native);
            }
            return Ok(self.subject_of_descriptor(trapped.task, dir));
        }
        let last = if flags.contains(AtFlags::SYMLINK_NOFOLLOW) { Last::Keep } else { Last::Follow };
        match self.walk(trapped.task, dir, &text, last)? {
            Place::Missing => Err(Errno::NOENT),
            Place::Machine(path, node) => {
                let found = Attributes::of_node(&path, &node);
                Ok(Subject::Room(path, found))
            }
            Place::Mark => Ok(Subject::Room(MARK.into(), Attributes::of_attribute(Path::new(MARK), 0o444, 4096))),
            Place::Host(place) => self.subject_of_host(place, flags),
        }
    }

    fn subject_of_host(&self, place: HostPlace, flags: AtFlags) -> Result<Subject, Errno> {
        let keeps = flags.contains(AtFlags::SYMLINK_NOFOLLOW);
        if place.path.starts_with("/proc")
            && !keeps
            && let Some(subject) = self.open_file(&place.path)
        {
            return Ok(subject);
        }
        if place.native {
            return Ok(Subject::Native);
        }
        let found = statat(CWD, &place.path, flags.intersection(AtFlags::SYMLINK_NOFOLLOW))?;
        Ok(Subject::Host(place.path, found.into()))
    }

    fn subject_of_descriptor(&self, task: Task, fd: i32) -> Subject {
        if let Some(path) = self.in_tree(task, fd) {
            // It may have been removed since.
            let view = View::of(&self.vfs);
            let found = match view.node(&path) {
                Some(node) => Attributes::of_node(&path, node),
                None if path == Path::new(MARK) => Attributes::of_attribute(&path, 0o444, 4096),
                None => return Subject::Native,
            };
            return Subject::Room(path, found);
        }
        self.open_file(&task.directory(fd)).unwrap_or(Subject::Native)
    }

    /// What there is to say of an open file of ours.
    fn open_file(&self, path: &Path) -> Option<Subject> {
        let open = self.files.at(path)?;
        let found = match &open.kind {
            Kind::Device { node: None, .. } | Kind::FailNth { .. } => Attributes::of_anonymous(&open.name),
            Kind::Device { node: Some(node), .. } => Attributes::of_node(&open.name, node),
            Kind::Attribute(open_attribute) => {
                let attribute = open_attribute.attribute();
                Attributes::of_attribute(&open.name, attribute.mode(), attribute.size())
            }
        };
        Some(Subject::Room(open.name.clone(), found))
    }

    pub(super) fn access(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let (dir, path) = if trapped.call == Call::Access { (libc::AT_FDCWD, 0) } else { (trapped.fd(0), 1) };
        let wanted = trapped.bits(path + 1);
        let flags = if trapped.call == Call::Faccessat2 { trapped.bits(3) } else { 0 };
        let flags = AtFlags::from_bits_retain(flags);
        match self.subject(trapped, dir, Some(path), flags)? {
            Subject::Native => Ok(Answer::Continue),
            Subject::Host(path, _) => {
                let wanted = rustix::fs::Access::from_bits_retain(wanted);
                trapped.task.with_rights(|_| rustix::fs::access(&path, wanted)).map(|()| Answer::Value(0))
            }
            Subject::Room(_, found) => {
                // Whoever calls is the owner.
                let granted = found.mode >> 6 & 7;
                let missing = wanted & !granted & 7;
                if missing == 0 { Ok(Answer::Value(0)) } else { Err(Errno::ACCESS) }
            }
        }
    }

    pub(super) fn read_link(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let (dir, at) = if trapped.call == Call::Readlink { (libc::AT_FDCWD, 0) } else { (trapped.fd(0), 1) };
        let path = trapped.string(at)?;
        if path.is_empty() {
            return Ok(Answer::Continue);
        }
        let text = match self.walk(trapped.task, dir, &path, Last::Keep)? {
            Place::Missing => return Err(Errno::NOENT),
            Place::Machine(_, Node::Link { target }) => OsString::from(&*target),
            Place::Machine(..) | Place::Mark => return Err(Errno::INVAL),
            Place::Host(place) => match self.text_of_link(&place) {
                Some(text) => text,
                None if place.native => return Ok(Answer::Continue),
                None => Task::link(&place.path)?.into_os_string(),
            },
        };
        let size = usize::try_from(trapped.arg(at + 2)).unwrap_or(usize::MAX);
        if size == 0 {
            return Err(Errno::INVAL);
        }
        let text = text.as_bytes();
        let shown = text.get(..size).unwrap_or(text);
        trapped.task.write(trapped.arg(at + 1), shown)?;
        Ok(Answer::Value(i64::try_from(shown.len()).unwrap_or(0)))
    }

    /// What a link of `/proc` to a file of ours says.
    fn text_of_link(&self, place: &HostPlace) -> Option<OsString> {
        if !place.path.starts_with("/proc") {
            return None;
        }
        if let Some(path) = Task::link(&place.path).ok().and_then(|text| self.tree.in_room(&text)) {
            return Some(path.into());
        }
        self.files.at(&place.path).map(|open| open.name.clone().into())
    }

    pub(super) fn file_system(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let of_descriptor = trapped.call == Call::Fstatfs;
        let (dir, path) = if of_descriptor { (trapped.fd(0), None) } else { (libc::AT_FDCWD, Some(0)) };
        match self.subject(trapped, dir, path, AtFlags::empty())? {
            Subject::Native => Ok(Answer::Continue),
            Subject::Room(path, found) | Subject::Host(path, found) => {
                let is_device = FileType::from_raw_mode(found.mode) == FileType::CharacterDevice;
                let magic = if path.starts_with("/sys") && !is_device { SYSFS_MAGIC } else { TMPFS_MAGIC };
                let mut bytes = vec![0; size_of::<libc::statfs>()];
                put(&mut bytes, offset_of!(libc::statfs, f_type), &magic.to_le_bytes());
                put(&mut bytes, offset_of!(libc::statfs, f_bsize), &4096_u64.to_le_bytes());
                put(&mut bytes, offset_of!(libc::statfs, f_namelen), &255_u64.to_le_bytes());
                trapped.task.write(trapped.arg(1), &bytes)?;
                Ok(Answer::Value(0))
            }
        }
    }

    /// Extended attributes: no file of a room has any.
    pub(super) fn extended(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let keeps = matches!(trapped.call, Call::Lgetxattr | Call::Llistxattr);
        let flags = if keeps { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
        match self.subject(trapped, libc::AT_FDCWD, Some(0), flags)? {
            Subject::Native => Ok(Answer::Continue),
            _ if matches!(trapped.call, Call::Listxattr | Call::Llistxattr) => Ok(Answer::Value(0)),
            _ => Err(Errno::NODATA),
        }
    }
}

/// `f_type` of what `/dev` is.
const TMPFS_MAGIC: FsWord = 0x0102_1994;
