//! View: what a task sees at a path, the machine's files among the host's.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use vfio_owner::testbed::vfs::{Directory, Node, Tree, Vfs};

use crate::territory::is_hidden;

/// A file that only rooms have. A program that must not run outside looks for it.
pub(crate) const MARK: &str = "/sys/kernel/vfio_room";

/// The machine's files as they were when a call came.
#[derive(Clone, Debug)]
pub(crate) struct View(Arc<Tree>);

/// What lies at a path.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen<'a> {
    /// A file of the machine.
    Machine(&'a Node),
    /// The [`MARK`].
    Mark,
    /// Nothing, as the machine has it.
    Nothing,
    /// What the host has, if anything.
    Host,
}

impl View {
    pub(crate) fn of(vfs: &Vfs) -> Self {
        Self(vfs.tree())
    }

    /// Whether the machine has files at or below this path, or something is hidden there: `/` is left out.
    pub(crate) fn concerns(path: &Path) -> bool {
        path.starts_with("/sys") || path.starts_with("/dev") || is_hidden(path)
    }

    /// Returns what lies at an absolute path without `.`, `..` and, but for the last name, links.
    pub(crate) fn at(&self, path: &Path) -> Seen<'_> {
        if path == Path::new(MARK) {
            return Seen::Mark;
        }
        if let Some(node) = self.node(path) {
            return Seen::Machine(node);
        }
        let Some((parent, name)) = path.parent().zip(path.file_name()) else { return Seen::Host };
        let shown = self.directory(parent).is_none_or(|directory| Self::shows(directory, name));
        if shown && !is_hidden(path) { Seen::Host } else { Seen::Nothing }
    }

    /// Returns the machine's file at a path.
    pub(crate) fn node(&self, path: &Path) -> Option<&Node> {
        self.0.get(path.to_str()?)
    }

    /// Returns the machine's directory at a path.
    pub(crate) fn directory(&self, path: &Path) -> Option<&Directory> {
        match self.node(path)? {
            Node::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Whether the host's entry of this name is seen in a directory of the machine.
    pub(crate) fn shows(directory: &Directory, name: &OsStr) -> bool {
        name.to_str().is_some_and(|name| directory.host().shows(name))
    }

    /// Whether the kernel, on its way through this path, is where the task should be.
    pub(crate) fn is_shared(seen: Seen<'_>) -> bool {
        match seen {
            Seen::Machine(Node::Directory(directory)) => {
                directory.host() != vfio_owner::testbed::vfs::HostEntries::Hidden
            }
            Seen::Machine(_) | Seen::Mark | Seen::Nothing => false,
            Seen::Host => true,
        }
    }
}
