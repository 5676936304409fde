//! Trees in memory.

use std::borrow::ToOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::string::{String, ToString};
use std::vec::Vec;

use super::load::{CONFIG, DEVICES, DRIVERS, FILES, GROUP_FILES, GROUPS, LINKS};
use super::text::function_name;
use super::tree::{Destination, MAX_FILE, Tree, TreeError, child, follow, target_of};

/// A tree held in memory. Links are files with the target as their text; a directory exists as soon as it has an entry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemoryTree {
    files: BTreeMap<String, Vec<u8>>,
    directories: BTreeSet<String>,
}

impl MemoryTree {
    /// Creates an empty tree.
    pub const fn new() -> Self {
        Self { files: BTreeMap::new(), directories: BTreeSet::new() }
    }

    /// Copies what [`Snapshot::load`](super::Snapshot::load) reads of `tree`. Leaves out what cannot be read.
    pub fn capture(tree: &dyn Tree) -> Self {
        let list = |path: &str| tree.list(path).unwrap_or_default();
        let mut copy = Self::new();
        for name in list(DEVICES) {
            let link = child(DEVICES, &name);
            copy.copy(tree, &link);
            if let Ok(Destination::Directory(path)) = follow(tree, &link) {
                copy.insert_directory(&path);
                for name in FILES.iter().chain(&LINKS).chain([&CONFIG]) {
                    copy.copy(tree, &child(&path, name));
                }
            }
        }
        for path in list(DRIVERS).iter().map(|name| child(DRIVERS, name)) {
            copy.insert_directory(&path);
            for name in list(&path).iter().filter(|name| function_name(name).is_some()) {
                copy.copy(tree, &child(&path, name));
            }
        }
        for path in list(GROUPS).iter().map(|name| child(GROUPS, name)) {
            copy.insert_directory(&path);
            for name in GROUP_FILES {
                copy.copy(tree, &child(&path, name));
            }
            let members = child(&path, "devices");
            for name in list(&members) {
                copy.copy(tree, &child(&members, &name));
            }
        }
        copy
    }

    fn copy(&mut self, tree: &dyn Tree, path: &str) {
        if let Ok(contents) = tree.link(path).map(String::into_bytes).or_else(|_| tree.read(path)) {
            self.insert(path, contents);
        }
    }

    /// Inserts a file at `path` and returns the one that it replaces. Slashes around the path are ignored.
    pub fn insert(&mut self, path: &str, contents: impl Into<Vec<u8>>) -> Option<Vec<u8>> {
        self.files.insert(path.trim_matches('/').to_owned(), contents.into())
    }

    /// Inserts a directory at `path`, which exists even while it is empty.
    pub fn insert_directory(&mut self, path: &str) {
        self.directories.insert(path.trim_matches('/').to_owned());
    }

    /// Removes the file at `path`, and returns it.
    pub fn remove(&mut self, path: &str) -> Option<Vec<u8>> {
        self.files.remove(path.trim_matches('/'))
    }

    /// Returns all files and their contents, by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(path, contents)| (path.as_str(), contents.as_slice()))
    }

    /// Returns the directories that exist even while they are empty.
    pub fn directories(&self) -> impl Iterator<Item = &str> {
        self.directories.iter().map(String::as_str)
    }

    /// The names right below `path`, several times perhaps, and in no order.
    fn names_below(&self, path: &str) -> impl Iterator<Item = &str> {
        let prefix = if path.is_empty() { String::new() } else { child(path, "") };
        let from = prefix.clone();
        let files = self.files.range(from.clone()..).map(|(path, _)| path);
        let below = prefix.clone();
        let files = files.map_while(move |path| path.strip_prefix(below.as_str()));
        let directories = self.directories.range(from..).map_while(move |path| path.strip_prefix(prefix.as_str()));
        files.chain(directories).map(|rest| rest.split_once('/').map_or(rest, |(name, _)| name))
    }

    fn file(&self, path: &str) -> Result<&[u8], TreeError> {
        match self.files.get(path) {
            Some(contents) if contents.len() > MAX_FILE => Err(TreeError::TooLong),
            Some(contents) => Ok(contents),
            None if self.is_directory(path) => Err(TreeError::NotAFile),
            None => Err(TreeError::Missing),
        }
    }
}

impl Tree for MemoryTree {
    fn read(&self, path: &str) -> Result<Vec<u8>, TreeError> {
        self.file(path).map(<[u8]>::to_vec)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        if self.files.contains_key(path) {
            return Err(TreeError::NotADirectory);
        }
        if !self.is_directory(path) {
            return Err(TreeError::Missing);
        }
        let names: BTreeSet<&str> = self.names_below(path).collect();
        Ok(names.iter().map(ToString::to_string).collect())
    }

    fn is_directory(&self, path: &str) -> bool {
        path.is_empty() || self.directories.contains(path) || self.names_below(path).next().is_some()
    }

    fn link(&self, path: &str) -> Result<String, TreeError> {
        target_of(self.file(path))
    }
}
