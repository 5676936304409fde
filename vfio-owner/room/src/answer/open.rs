//! Opening files.
//!
//! What opens a regular file for writing, or makes one, is done here and the file given to the caller: the kernel would follow
//! the path once more.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::{Answer, Trapped};
use crate::caller::Caller;
use crate::calls::Call;
use crate::supervisor::Supervisor;
use crate::task::errno;
use crate::territory::is_shared;
use crate::tree::{Entry, host_entries};
use crate::walk::{HostPlace, Last, Place};
use crate::world::Node;

/// How a file is to be opened.
#[derive(Clone, Copy, Debug)]
struct How {
    flags: OFlags,
    mode: u32,
    /// `openat2` may ask that the way is a certain one.
    resolve: u64,
}

impl How {
    /// Reads the arguments of a call.
    #[expect(clippy::cast_possible_truncation, reason = "flags and modes have 32 bits")]
    fn of(trapped: &Trapped<'_>) -> Result<(i32, usize, Self), Errno> {
        let how = |flags: u32, mode, resolve| Self { flags: OFlags::from_bits_retain(flags), mode, resolve };
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
                let [flags, mode, resolve] = [0, 8, 16].map(|at| trapped.task.read_u64(trapped.arg(2).wrapping_add(at)));
                (trapped.fd(0), 1, how(flags? as u32, mode? as u32, resolve?))
            }
            _ => (trapped.fd(0), 1, how(trapped.bits(2), trapped.bits(3), 0)),
        })
    }

    fn writes(self) -> bool {
        let makes = OFlags::CREATE.union(OFlags::TRUNC);
        let tmpfile = self.flags.contains(OFlags::TMPFILE);
        let access = self.flags.intersection(OFlags::ACCMODE);
        !self.flags.contains(OFlags::PATH) && (access != OFlags::RDONLY || self.flags.intersects(makes) || tmpfile)
    }

    fn makes(self) -> bool {
        self.flags.contains(OFlags::CREATE) && !self.flags.contains(OFlags::PATH)
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
        match self.walk(trapped.task, dir, &path, if keep { Last::Keep } else { Last::Follow })? {
            Place::Missing(_) if how.makes() => Err(Errno::ACCESS),
            Place::Missing(_) => Err(Errno::NOENT),
            Place::Room(..) if exclusive => Err(Errno::EXIST),
            Place::Room(path, node) => self.open_node(trapped, path, &node, how),
            Place::Host(place) => self.open_host(trapped, &place, how),
        }
    }

    fn open_node(&mut self, trapped: &Trapped<'_>, path: PathBuf, node: &Node, how: How) -> Result<Answer, Errno> {
        let is_path = how.flags.contains(OFlags::PATH);
        if how.flags.contains(OFlags::DIRECTORY) && *node != Node::Directory {
            return Err(Errno::NOTDIR);
        }
        trapped.check()?;
        let file = match node {
            Node::Link(_) if !is_path => return Err(Errno::LOOP),
            Node::Link(_) => return Err(Errno::OPNOTSUPP),
            Node::Directory if how.writes() => return Err(Errno::ISDIR),
            Node::Directory => {
                let entries = self.entries(&path);
                self.tree.directory(&path, &entries).map_err(|error| errno(&error))?
            }
            Node::Attribute { mode } => self.open_attribute(path, *mode, how)?,
            Node::Device { .. } if is_path => self.tree.attribute(&path, b"").map_err(|error| errno(&error))?,
            Node::Device { major, minor } => {
                let caller = Caller { task: trapped.task, files: &self.files };
                let file = self.world.open(&path, &caller)?;
                let status = how.flags.intersection(OFlags::NONBLOCK);
                self.files.open_device(path, file, Some((*major, *minor)), status)?
            }
        };
        Ok(Answer::File(file, how.descriptor()))
    }

    fn open_attribute(&mut self, path: PathBuf, mode: u32, how: How) -> Result<std::os::fd::OwnedFd, Errno> {
        let access = how.flags.intersection(OFlags::ACCMODE);
        let reads = access != OFlags::WRONLY;
        // As root would find it, who may not read what is not readable for anybody.
        let content = if reads && mode & 0o444 != 0 { Some(self.world.read(&path)?) } else { None };
        if access == OFlags::RDONLY {
            let content = content.ok_or(Errno::ACCESS)?;
            return self.tree.attribute(&path, &content).map_err(|error| errno(&error));
        }
        if mode & 0o222 == 0 {
            return Err(Errno::ACCESS);
        }
        let status = how.flags.intersection(OFlags::NONBLOCK.union(OFlags::APPEND));
        self.files.open_attribute(path, mode, content.as_deref(), access | status)
    }

    /// Lists a directory: the room's entries, and those of the host that are seen beside them.
    fn entries(&self, directory: &Path) -> Vec<(std::ffi::OsString, Entry)> {
        let own = self.world.entries(directory).into_iter().filter_map(|name| {
            let entry = match self.world.node(&directory.join(&name))? {
                Node::Directory => Entry::Directory,
                Node::Link(text) => Entry::Link(text.into()),
                Node::Attribute { .. } | Node::Device { .. } => Entry::File,
            };
            Some((name, entry))
        });
        let mut entries: Vec<_> = own.collect();
        if is_shared(directory) {
            let hosts = host_entries(directory).into_iter();
            let seen = hosts.filter(|(name, _)| !crate::territory::is_hidden(&directory.join(name)));
            let new: Vec<_> = seen.filter(|(name, _)| entries.iter().all(|(own, _)| own != name)).collect();
            entries.extend(new);
        }
        entries
    }

    fn open_host(&mut self, trapped: &Trapped<'_>, place: &HostPlace, how: How) -> Result<Answer, Errno> {
        if self.files.at(&place.path).is_some() {
            // One of ours, by its link in `/proc`: device files cannot be opened again without their names.
            return Err(Errno::NXIO);
        }
        if !how.writes() {
            return if place.native { Ok(Answer::Continue) } else { Self::open_there(trapped, place, how) };
        }
        if self.bounds.exclude(&place.path) || self.bounds.exclude_file(&place.path) {
            return Err(Errno::ACCESS);
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
