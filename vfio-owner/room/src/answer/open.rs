//! Opening files.
//!
//! What opens a regular file for writing, or makes one, is done here and the file given to the caller: the kernel would follow
//! the path once more.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat, statat};
use rustix::io::Errno;
use vfio_owner::testbed::vfs::{self, Access, AttributeError, Directory, Node, OpenAttribute, Opened, Opening};

use super::{Answer, Trapped};
use crate::calls::Call;
use crate::supervisor::Supervisor;
use crate::task::errno;
use crate::territory::is_hidden;
use crate::tree::{Entry, host_entries};
use crate::view::{MARK, View};
use crate::walk::{HostPlace, Last, Place};

/// How a file is to be opened.
#[derive(Clone, Copy, Debug)]
struct How {
    flags: OFlags,
    mode: u32,
    /// `openat2` may ask that the way is a certain one.
    resolve: ResolveFlags,
}

impl How {
    /// Reads the arguments of a call.
    #[expect(clippy::cast_possible_truncation, reason = "flags and modes have 32 bits")]
    fn of(trapped: &Trapped<'_>) -> Result<(i32, usize, Self), Errno> {
        let how = |flags: u32, mode, resolve| Self {
            flags: OFlags::from_bits_retain(flags),
            mode,
            resolve: ResolveFlags::from_bits_retain(resolve),
        };
        Ok(match trapped.call {
            Call::Open => (libc::AT_FDCWD, 0, how(trapped.bits(1), trapped.bits(2), 0)),
            Call::Creat => {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC;
                (libc::AT_FDCWD, 0, how(flags.bits(), trapped.bits(1), 0))
            }
            Call::Openat2 => {
                if trapped.arg(3) < 24 {
                    return Err(Errno::INVAL);
                }
                let [flags, mode, resolve] = trapped.task.numbers(trapped.arg(2))?;
                (trapped.fd(0), 1, how(flags as u32, mode as u32, resolve))
            }
            _ => (trapped.fd(0), 1, how(trapped.bits(2), trapped.bits(3), 0)),
        })
    }

    fn writes(self) -> bool {
        let makes = OFlags::CREATE.union(OFlags::TRUNC);
        let tmpfile = self.flags.contains(OFlags::TMPFILE);
        let access = self.flags.intersection(OFlags::ACCMODE);
        !self.is_path() && (access != OFlags::RDONLY || self.flags.intersects(makes) || tmpfile)
    }

    fn makes(self) -> bool {
        self.flags.contains(OFlags::CREATE) && !self.is_path()
    }

    fn is_path(self) -> bool {
        self.flags.contains(OFlags::PATH)
    }

    fn access(self) -> Access {
        match self.flags.intersection(OFlags::ACCMODE) {
            OFlags::RDONLY => Access::Read,
            OFlags::WRONLY => Access::Write,
            _ => Access::ReadWrite,
        }
    }

    /// `O_CLOEXEC` of the descriptor.
    fn descriptor(self) -> u32 {
        self.flags.intersection(OFlags::CLOEXEC).bits()
    }
}

impl Supervisor {
    pub(super) fn open(&mut self, trapped: &Trapped<'_>) -> Result<Answer, Errno> {
        let (dir, path, how) = How::of(trapped)?;
        let path = trapped.string(path)?;
        let exclusive = how.flags.contains(OFlags::CREATE.union(OFlags::EXCL));
        let keep = how.flags.contains(OFlags::NOFOLLOW) || exclusive;
        let last = if keep { Last::Keep } else { Last::Follow };
        match self.walker(trapped.task).resolving(how.resolve).walk(dir, &path, last)? {
            // Nobody can make a file here.
            Place::Missing if how.makes() => Err(Errno::ACCESS),
            Place::Missing => Err(Errno::NOENT),
            Place::Machine(..) | Place::Mark if exclusive => Err(Errno::EXIST),
            Place::Machine(path, node) => self.open_node(trapped, path, node, how),
            Place::Mark if how.writes() => Err(Errno::ACCESS),
            Place::Mark => self.read_only(Path::new(MARK), b"1\n", how),
            Place::Host(place) => self.open_host(trapped, &place, how),
        }
    }

    fn open_node(&mut self, trapped: &Trapped<'_>, path: PathBuf, node: Node, how: How) -> Result<Answer, Errno> {
        if how.flags.contains(OFlags::DIRECTORY) && !matches!(node, Node::Directory(_)) {
            return Err(Errno::NOTDIR);
        }
        trapped.check()?;
        match node {
            Node::Link { .. } => return Err(if how.is_path() { Errno::OPNOTSUPP } else { Errno::LOOP }),
            Node::Directory(_) if how.writes() => return Err(Errno::ISDIR),
            Node::Directory(directory) => {
                let entries = entries(&path, &directory);
                let file = self.tree.directory(&path, &entries).map_err(|error| errno(&error))?;
                return Ok(Answer::File(file, how.descriptor()));
            }
            // The kernel gives nobody else's process a path only.
            Node::Attribute(_) | Node::CharDevice(_) if how.is_path() => return self.read_only(&path, b"", how),
            Node::Attribute(_) | Node::CharDevice(_) => {}
        }
        // What is said of an open device file says who has it.
        let name = if let Node::CharDevice(_) = node { trapped.task.name() } else { String::new() };
        let opening = Opening { name: &name, ..Opening::new(how.access()) };
        let text = path.to_str().ok_or(Errno::NOENT)?;
        match self.vfs.open(text, &opening) {
            Ok(Opened::Attribute(attribute)) => self.open_attribute(trapped, path, attribute, how),
            Ok(Opened::File(file)) => {
                let status = how.flags.intersection(OFlags::NONBLOCK);
                let file = self.files.open_device(path, file, Some(node), status)?;
                Ok(Answer::File(file, how.descriptor()))
            }
            // It has become one since.
            Ok(Opened::Directory(_)) => Err(Errno::ISDIR),
            Err(error) => Err(self.refuse(trapped, &path, &error, error.errno())),
        }
    }

    fn open_attribute(
        &mut self,
        trapped: &Trapped<'_>,
        path: PathBuf,
        attribute: OpenAttribute,
        how: How,
    ) -> Result<Answer, Errno> {
        let content = if how.access() == Access::Write { None } else { Some(content(&attribute)) };
        let content = content.transpose().map_err(|error| self.refuse(trapped, &path, &error, error.errno()))?;
        if how.access() == Access::Read {
            return self.read_only(&path, content.as_deref().unwrap_or_default(), how);
        }
        let flags = how.flags.intersection(OFlags::ACCMODE.union(OFlags::NONBLOCK).union(OFlags::APPEND));
        let file = self.files.open_attribute(path, attribute, content.as_deref(), flags)?;
        Ok(Answer::File(file, how.descriptor()))
    }

    fn read_only(&self, path: &Path, content: &[u8], how: How) -> Result<Answer, Errno> {
        let file = self.tree.attribute(path, content).map_err(|error| errno(&error))?;
        Ok(Answer::File(file, how.descriptor()))
    }

    fn open_host(&mut self, trapped: &Trapped<'_>, place: &HostPlace, how: How) -> Result<Answer, Errno> {
        if self.files.at(&place.path).is_some() {
            // One of ours, by its link in `/proc`: device files cannot be opened again without their names.
            return Err(Errno::NXIO);
        }
        if let Some(task) = self.fail_nth(&place.path) {
            let flags = how.flags.intersection(OFlags::ACCMODE);
            let file = self.files.open_fail_nth(place.path.clone(), task, flags)?;
            return Ok(Answer::File(file, how.descriptor()));
        }
        if !how.writes() {
            if let Some(status) = self.status(&place.path) {
                return self.read_only(&place.path, status.as_bytes(), how);
            }
            return if place.native { Ok(Answer::Continue) } else { Self::open_there(trapped, place, how) };
        }
        if self.bounds.exclude(&place.path) || self.bounds.exclude_file(&place.path) {
            return Err(Errno::ACCESS);
        }
        if !how.resolve.is_empty() && place.native {
            // Only the kernel can tell whether the way is the one that is asked for.
            return Ok(Answer::Continue);
        }
        let kind = statat(CWD, &place.path, AtFlags::empty()).map(|found| FileType::from_raw_mode(found.st_mode));
        match kind {
            Ok(FileType::RegularFile | FileType::Directory) | Err(_) if !place.path.starts_with("/proc") => {
                Self::open_there(trapped, place, how)
            }
            // To open a pipe may take as long as its other end likes, a terminal may become the caller's, and a file of
            // `/proc` looks at who opens it. None is an attribute of a device.
            _ if place.native => Ok(Answer::Continue),
            _ => Self::open_there(trapped, place, how),
        }
    }

    /// Whose `fail-nth` this is, on a machine where faults can be injected.
    // F113.
    fn fail_nth(&self, path: &Path) -> Option<u32> {
        let inside = path.strip_prefix("/proc").ok().filter(|inside| inside.ends_with("fail-nth"))?;
        let parts: Vec<_> = inside.components().map(|part| part.as_os_str().to_str()).collect();
        let task = match parts[..] {
            [Some(task), _] | [_, Some("task"), Some(task), _] => task.parse().ok()?,
            _ => return None,
        };
        let is_there = path.parent().is_some_and(Path::is_dir);
        (is_there && self.vfs.machine().tests_iommufd()).then_some(task)
    }

    /// What `/proc/…/status` says of a process that has memory locked for devices.
    fn status(&self, path: &Path) -> Option<String> {
        let inside = path.strip_prefix("/proc").ok().filter(|inside| inside.ends_with("status"))?;
        let process = inside.components().next()?.as_os_str().to_str()?.parse().ok()?;
        let (locked, pinned) = self.processes.locked(process)?;
        let text = fs::read_to_string(path).ok()?;
        // The host's locked memory, and the machine's.
        let line = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let pages = match name {
                "VmLck" => locked,
                "VmPin" => pinned,
                _ => return format!("{line}\n"),
            };
            let hosts: u64 = value.split_whitespace().next().and_then(|count| count.parse().ok()).unwrap_or(0);
            format!("{name}:\t{:8} kB\n", hosts + 4 * pages)
        };
        Some(text.lines().map(line).collect())
    }

    /// Opens a file of the host for the caller.
    fn open_there(trapped: &Trapped<'_>, place: &HostPlace, how: How) -> Result<Answer, Errno> {
        trapped.check()?;
        let flags = how.flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = trapped.task.with_rights(|umask| {
            let makes = how.makes() || how.flags.contains(OFlags::TMPFILE);
            let mode = if makes { how.mode & 0o7777 & !umask } else { 0 };
            openat(CWD, &place.path, flags, Mode::from_bits_retain(mode))
        })?;
        Ok(Answer::File(file, how.descriptor()))
    }
}

/// Reads an attribute to its end.
pub(super) fn content(attribute: &OpenAttribute) -> Result<Vec<u8>, AttributeError> {
    let mut content = Vec::new();
    let mut piece = vec![0; 4096];
    loop {
        let count = attribute.read(content.len() as u64, &mut piece)?;
        content.extend(piece.iter().take(count));
        if count == 0 {
            return Ok(content);
        }
    }
}

/// Lists a directory: the machine's entries, and those of the host that are seen beside them.
fn entries(path: &Path, directory: &Directory) -> Vec<(OsString, Entry)> {
    let own = directory.entries().map(|(name, node)| {
        let entry = match node {
            Node::Directory(_) => Entry::Directory,
            Node::Link { target } => Entry::Link((**target).into()),
            Node::Attribute(_) | Node::CharDevice(_) => Entry::File,
        };
        (OsString::from(name), entry)
    });
    let mut entries: Vec<_> = own.collect();
    if directory.host() != vfs::HostEntries::Hidden {
        let seen = |name: &OsString| View::shows(directory, name) && !is_hidden(&path.join(name));
        let hosts = host_entries(path).into_iter().filter(|(name, _)| seen(name));
        let new = hosts.filter(|(name, _)| name.to_str().is_none_or(|name| directory.get(name).is_none()));
        entries.extend(new);
    }
    if let Some(mark) = Path::new(MARK).strip_prefix(path).ok().filter(|rest| rest.components().count() == 1) {
        entries.push((mark.into(), Entry::File));
    }
    entries
}
