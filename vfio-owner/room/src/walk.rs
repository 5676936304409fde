//! From a path, as a task gives it, to the file that it names in the room.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType};
use rustix::io::Errno;

use crate::task::Task;
use crate::territory::{is_hidden, is_shared};
use crate::tree::Tree;
use crate::world::{Node, World};

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// What to do with a link at the end of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Last {
    Follow,
    Keep,
}

/// Where a path leads.
#[derive(Debug)]
pub(crate) enum Place {
    /// To a file of the room.
    Room(PathBuf, Node),
    /// To nothing, in a directory of the room.
    Missing(PathBuf),
    /// To a file of the host, which may be missing.
    Host(HostPlace),
}

/// A place among the host's files. The path has no links, except for one at its end that is not to be followed, or that is
/// one of `/proc`'s to an open file.
#[derive(Debug)]
pub(crate) struct HostPlace {
    pub(crate) path: PathBuf,
    /// Whether the kernel, given the caller's path, finds the same file.
    pub(crate) native: bool,
}

/// Where a walk begins, and who walks.
pub(crate) struct Walker<'a> {
    pub(crate) world: &'a dyn World,
    pub(crate) tree: &'a Tree,
    pub(crate) task: Task,
}

impl Walker<'_> {
    /// Follows `path` from the directory that `dir` is a descriptor of.
    pub(crate) fn walk(&self, dir: i32, path: &OsStr, last: Last) -> Result<Place, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let mut native = true;
        let mut at = PathBuf::from("/");
        if !Path::new(path).is_absolute() {
            (at, native) = self.start(dir)?;
        }
        let mut links = 0;
        let mut todo = Vec::new();
        push(&mut todo, path);
        while let Some(name) = todo.pop() {
            match name.as_bytes() {
                b"/" => at = PathBuf::from("/"),
                b"." => {}
                b".." => {
                    at.pop();
                }
                _ => {
                    let next = at.join(name);
                    let is_last = todo.is_empty();
                    let node = self.world.node(&next);
                    if node.is_none() && is_hidden(&next) || self.is_below_room(&at) && node.is_none() {
                        return if is_last { Ok(Place::Missing(next)) } else { Err(Errno::NOENT) };
                    }
                    native &= node.is_none() || is_shared(&next);
                    if is_last && last == Last::Keep {
                        at = next;
                        break;
                    }
                    match self.link(&next, node, is_last)? {
                        Some(text) => {
                            links += 1;
                            if links > MOST_LINKS {
                                return Err(Errno::LOOP);
                            }
                            push(&mut todo, text.as_os_str());
                        }
                        None => at = next,
                    }
                }
            }
        }
        Ok(match self.world.node(&at) {
            Some(node) if !is_shared(&at) => Place::Room(at, node),
            // The room's way to see it, for the entries.
            Some(node) if at.starts_with("/sys") || at.starts_with("/dev") => Place::Room(at, node),
            _ => Place::Host(HostPlace { path: at, native }),
        })
    }

    /// The directory that relative paths begin at, and whether the kernel would begin there as well.
    fn start(&self, dir: i32) -> Result<(PathBuf, bool), Errno> {
        let link = if dir == libc::AT_FDCWD { self.task.proc("cwd") } else { self.task.descriptor(dir) };
        let path = Task::link(&link).map_err(|_| Errno::BADF)?;
        if !path.is_absolute() {
            return Err(Errno::NOTDIR);
        }
        Ok(self.tree.in_room(&path).map_or((path, true), |path| (path, false)))
    }

    /// Whether the room has this directory for itself.
    fn is_below_room(&self, directory: &Path) -> bool {
        !is_shared(directory) && matches!(self.world.node(directory), Some(Node::Directory))
    }

    /// What the link at a path says, if there is one that is to be followed.
    fn link(&self, path: &Path, node: Option<Node>, is_last: bool) -> Result<Option<PathBuf>, Errno> {
        match node {
            Some(Node::Link(text)) => return Ok(Some(PathBuf::from(text))),
            Some(Node::Directory) => return Ok(None),
            Some(_) if !is_last => return Err(Errno::NOTDIR),
            Some(_) => return Ok(None),
            None => {}
        }
        // What `/proc` says to whoever asks, it must say to the caller.
        if path == Path::new("/proc/self") {
            return Ok(Some(self.task.process()?.to_string().into()));
        }
        if path == Path::new("/proc/thread-self") {
            let thread = self.task.proc("");
            let thread = thread.strip_prefix("/proc").unwrap_or(&thread);
            return Ok(Some(Path::new(&self.task.process()?.to_string()).join("task").join(thread)));
        }
        let Ok(text) = Task::link(path) else { return Ok(None) };
        if is_to_open_file(path) {
            return Ok(match self.tree.in_room(&text) {
                Some(in_room) => Some(in_room),
                // Only the kernel can follow it, as text it may mean another file.
                None if is_last => None,
                None => Some(text),
            });
        }
        Ok(Some(text))
    }

    /// Returns the type of what the host has at a place.
    pub(crate) fn host_type(place: &HostPlace) -> Result<FileType, Errno> {
        let found = rustix::fs::statat(CWD, &place.path, AtFlags::empty())?;
        Ok(FileType::from_raw_mode(found.st_mode))
    }
}

/// Whether this is one of the links of `/proc` whose text is only a name.
fn is_to_open_file(path: &Path) -> bool {
    let Ok(inside) = path.strip_prefix("/proc") else { return false };
    let is = |name: &str| path.file_name() == Some(OsStr::new(name));
    let parent = path.parent().and_then(Path::file_name);
    parent == Some(OsStr::new("fd")) || inside.components().count() > 1 && (is("cwd") || is("root") || is("exe"))
}

/// Puts the components of a path on the stack.
fn push(todo: &mut Vec<OsString>, path: &OsStr) {
    let path = Path::new(path);
    // A directory is meant: a link at the end is followed.
    if path.as_os_str().as_bytes().ends_with(b"/") && path.parent().is_some() {
        todo.push(".".into());
    }
    todo.extend(path.components().rev().filter(|part| *part != Component::CurDir).map(|part| part.as_os_str().into()));
}
