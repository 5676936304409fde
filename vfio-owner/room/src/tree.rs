//! The room's directories and attributes as files that descriptors can be made of.
//!
//! A directory is made when it is opened, so that the kernel lists it; nothing else is looked up here. An attribute is
//! written when it is opened. What lies below the tree's root has the same path in the room.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::scratch::Scratch;

/// Files of the room, in a directory of their own. Dropping removes it.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    _directory: Scratch,
}

/// What an entry of a directory looks like in its listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Directory,
    Link(OsString),
    File,
}

impl Tree {
    pub(crate) fn new() -> io::Result<Self> {
        let directory = Scratch::new()?;
        // As the links of `/proc` show it.
        Ok(Self { root: fs::canonicalize(directory.path())?, _directory: directory })
    }

    /// Returns the path in the room of a file of the tree.
    pub(crate) fn in_room(&self, path: &Path) -> Option<PathBuf> {
        Some(Path::new("/").join(path.strip_prefix(&self.root).ok()?))
    }

    /// Returns where a file of the room lies.
    fn outside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Opens a directory with exactly these entries.
    pub(crate) fn directory(&self, path: &Path, entries: &[(OsString, Entry)]) -> io::Result<OwnedFd> {
        let directory = self.outside(path);
        make_directory(&directory)?;
        let kinds: HashMap<&OsString, &Entry> = entries.iter().map(|(name, kind)| (name, kind)).collect();
        let mut there = HashSet::new();
        for found in fs::read_dir(&directory)? {
            let (name, path) = found.map(|found| (found.file_name(), found.path()))?;
            if kinds.get(&name).is_some_and(|kind| is(kind, &path)) {
                there.insert(name);
            } else {
                remove(&path)?;
            }
        }
        for (name, kind) in entries.iter().filter(|(name, _)| !there.contains(name)) {
            let path = directory.join(name);
            match kind {
                Entry::Directory => make_directory(&path)?,
                Entry::Link(text) => symlink(text, &path)?,
                Entry::File => drop(File::create_new(&path)?),
            }
        }
        Ok(File::open(&directory)?.into())
    }

    /// Opens an attribute for reading, with this content.
    pub(crate) fn attribute(&self, path: &Path, content: &[u8]) -> io::Result<OwnedFd> {
        let path = self.outside(path);
        if let Some(directory) = path.parent() {
            make_directory(directory)?;
        }
        // In place: whoever has it open sees what it says now.
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        file.write_all(content)?;
        file.set_len(content.len() as u64)?;
        Ok(File::open(&path)?.into())
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Whether an entry is what it should be.
fn is(kind: &Entry, path: &Path) -> bool {
    let Ok(found) = path.symlink_metadata() else { return false };
    match kind {
        Entry::Directory => found.is_dir(),
        Entry::Link(text) => fs::read_link(path).is_ok_and(|link| link.as_os_str() == text),
        Entry::File => found.is_file(),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Lists what the host has in a directory.
pub(crate) fn host_entries(directory: &Path) -> Vec<(OsString, Entry)> {
    let Ok(found) = fs::read_dir(directory) else { return Vec::new() };
    let entry = |found: fs::DirEntry| {
        let kind = found.file_type().ok()?;
        let entry = if kind.is_dir() {
            Entry::Directory
        } else if kind.is_symlink() {
            Entry::Link(fs::read_link(found.path()).map_or_else(|_| OsStr::new("?").into(), PathBuf::into_os_string))
        } else {
            Entry::File
        };
        Some((found.file_name(), entry))
    };
    found.filter_map(Result::ok).filter_map(entry).collect()
}
