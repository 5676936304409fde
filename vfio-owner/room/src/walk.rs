//! From a path, as a task gives it, to the file that it names in the room.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::ResolveFlags;
use rustix::io::Errno;
use vfio_owner::testbed::vfs::{Node, Vfs};

use crate::inherited::Inherited;
use crate::task::Task;
use crate::tree::Tree;
use crate::view::{Seen, View};

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
    /// To a file of the machine.
    Machine(PathBuf, Node),
    /// To the file that only rooms have.
    Mark,
    /// To nothing, in a directory that is the machine's.
    Missing,
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
    vfs: &'a Vfs,
    tree: &'a Tree,
    working: &'a Inherited<Option<PathBuf>>,
    task: Task,
    /// What `openat2` asks of the way.
    resolve: ResolveFlags,
    /// Made when it is needed: most paths lead elsewhere.
    view: OnceCell<View>,
}

/// A walk on its way.
struct Way {
    at: PathBuf,
    todo: Vec<OsString>,
    native: bool,
    links: usize,
}

impl<'a> Walker<'a> {
    pub(crate) fn new(vfs: &'a Vfs, tree: &'a Tree, working: &'a Inherited<Option<PathBuf>>, task: Task) -> Self {
        Self { vfs, tree, working, task, resolve: ResolveFlags::empty(), view: OnceCell::new() }
    }

    /// Walks as `openat2` asks for.
    pub(crate) fn resolving(self, resolve: ResolveFlags) -> Self {
        Self { resolve, ..self }
    }

    /// Follows `path` from the directory that `dir` is a descriptor of.
    pub(crate) fn walk(&self, dir: i32, path: &OsStr, last: Last) -> Result<Place, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let from_root = Path::new(path).is_absolute() && !self.resolve.contains(ResolveFlags::IN_ROOT);
        let (at, native) = if from_root { (PathBuf::from("/"), true) } else { self.start(dir)? };
        let start = at.clone();
        let mut way = Way { at, todo: Vec::new(), native, links: 0 };
        way.push(path);
        while let Some(name) = way.todo.pop() {
            match name.as_bytes() {
                b"/" if self.resolve.contains(ResolveFlags::BENEATH) => return Err(Errno::XDEV),
                b"/" if self.resolve.contains(ResolveFlags::IN_ROOT) => way.at.clone_from(&start),
                b"/" => way.at = PathBuf::from("/"),
                b"." => {}
                b".." if way.at == start && self.resolve.contains(ResolveFlags::BENEATH) => return Err(Errno::XDEV),
                b".." if way.at == start && self.resolve.contains(ResolveFlags::IN_ROOT) => {}
                b".." => drop(way.at.pop()),
                _ => {
                    if let Some(end) = self.step(&mut way, &name, last)? {
                        return Ok(end);
                    }
                }
            }
        }
        Ok(match self.seen(&way.at) {
            Seen::Machine(node) => Place::Machine(way.at, node.clone()),
            Seen::Mark => Place::Mark,
            Seen::Nothing => Place::Missing,
            Seen::Host => Place::Host(HostPlace { path: way.at, native: way.native }),
        })
    }

    /// The directory that relative paths begin at, and whether the kernel would begin there as well.
    fn start(&self, dir: i32) -> Result<(PathBuf, bool), Errno> {
        if dir == libc::AT_FDCWD
            && let Some(path) = self.task.working_directory(self.working)?
        {
            return Ok((path, false));
        }
        let path = Task::link(&self.task.directory(dir)).map_err(|_| Errno::BADF)?;
        if !path.is_absolute() {
            return Err(Errno::NOTDIR);
        }
        Ok(self.tree.in_room(&path).map_or((path, true), |path| (path, false)))
    }

    /// Goes on to the next name. Returns where the walk ends, if it ends before its end.
    fn step(&self, way: &mut Way, name: &OsStr, last: Last) -> Result<Option<Place>, Errno> {
        let next = way.at.join(name);
        let is_last = way.todo.is_empty();
        let seen = self.seen(&next);
        way.native &= View::is_shared(seen);
        let keeps = is_last && last == Last::Keep;
        let text = match seen {
            Seen::Nothing if is_last => return Ok(Some(Place::Missing)),
            Seen::Nothing => return Err(Errno::NOENT),
            _ if keeps => None,
            Seen::Machine(Node::Link { target }) => Some(PathBuf::from(&**target)),
            Seen::Machine(Node::Directory(_)) => None,
            Seen::Machine(_) | Seen::Mark if !is_last => return Err(Errno::NOTDIR),
            Seen::Machine(_) | Seen::Mark => None,
            Seen::Host => self.host_link(&next, is_last)?,
        };
        match text {
            None => way.at = next,
            Some(_) if way.links == MOST_LINKS || self.resolve.contains(ResolveFlags::NO_SYMLINKS) => {
                return Err(Errno::LOOP);
            }
            Some(text) => {
                way.links += 1;
                way.push(text.as_os_str());
            }
        }
        Ok(None)
    }

    fn seen(&self, path: &Path) -> Seen<'_> {
        if View::concerns(path) { self.view.get_or_init(|| View::of(self.vfs)).at(path) } else { Seen::Host }
    }

    /// What the host's link at a path says, if there is one.
    fn host_link(&self, path: &Path, is_last: bool) -> Result<Option<PathBuf>, Errno> {
        // What `/proc` says to whoever asks, it must say to the caller.
        if path == Path::new("/proc/self") {
            return Ok(Some(self.task.process()?.to_string().into()));
        }
        if path == Path::new("/proc/thread-self") {
            return Ok(Some(self.task.in_process()?));
        }
        let Ok(text) = Task::link(path) else { return Ok(None) };
        if !is_to_open_file(path) {
            return Ok(Some(text));
        }
        Ok(match self.tree.in_room(&text) {
            Some(in_room) => Some(in_room),
            // Only the kernel can follow it: as text it may mean another file.
            None if is_last => None,
            None => Some(text),
        })
    }
}

impl Way {
    /// Puts the components of a path in front.
    fn push(&mut self, path: &OsStr) {
        let path = Path::new(path);
        // A directory is meant: a link at the end is followed.
        let bytes = path.as_os_str().as_bytes();
        if (bytes.ends_with(b"/") || bytes.ends_with(b"/.")) && path.parent().is_some() {
            self.todo.push(".".into());
        }
        let names = path.components().rev().filter(|part| *part != Component::CurDir);
        self.todo.extend(names.map(|part| part.as_os_str().into()));
    }
}

/// Whether this is one of the links of `/proc` whose text is only a name.
fn is_to_open_file(path: &Path) -> bool {
    let Ok(inside) = path.strip_prefix("/proc") else { return false };
    let is = |name: &str| path.file_name() == Some(OsStr::new(name));
    let parent = path.parent().and_then(Path::file_name);
    parent == Some(OsStr::new("fd")) || inside.components().count() > 1 && (is("cwd") || is("root") || is("exe"))
}
