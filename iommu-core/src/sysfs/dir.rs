//! Trees on disk.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::string::String;
use std::vec::Vec;

use super::tree::{MAX_FILE, Tree, TreeError, target_of};

/// A directory that holds a sysfs tree: `/sys`, or a copy of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirTree {
    root: PathBuf,
}

impl DirTree {
    /// Opens the tree at `path`, or in the directory `sys` below it if that has the tree (its `bus`). Reads nothing
    /// else until it is needed.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let inside = path.join("sys");
        let root = if !path.join("bus").is_dir() && inside.join("bus").is_dir() { inside } else { path.to_path_buf() };
        Self { root }
    }

    /// Returns the directory that paths start at.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `path` is on disk; nowhere if it leaves the tree.
    fn locate(&self, path: &str) -> Result<PathBuf, TreeError> {
        let path = Path::new(path);
        let inside = path.components().all(|component| matches!(component, Component::Normal(_)));
        if inside { Ok(self.root.join(path)) } else { Err(TreeError::Missing) }
    }
}

impl Tree for DirTree {
    fn read(&self, path: &str) -> Result<Vec<u8>, TreeError> {
        read(&self.locate(path)?)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.locate(path)?).map_err(|error| refusal(&error))? {
            let name = entry.map_err(|error| refusal(&error))?.file_name();
            // sysfs has no names beyond ASCII; what has is not its own.
            names.extend(name.into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn is_directory(&self, path: &str) -> bool {
        self.locate(path)
            .and_then(|path| fs::symlink_metadata(path).map_err(|error| refusal(&error)))
            .is_ok_and(|found| found.is_dir())
    }

    fn link(&self, path: &str) -> Result<String, TreeError> {
        let path = self.locate(path)?;
        // What is there and is no link is invalid input for the operating system.
        match fs::read_link(&path) {
            Ok(target) => return target.into_os_string().into_string().map_err(|_| TreeError::NotALink),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) => return Err(refusal(&error)),
        }
        target_of(read(&path))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TreeError> {
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let found = fs::symlink_metadata(path).map_err(|error| refusal(&error))?;
    if !found.is_file() {
        return Err(TreeError::NotAFile);
    }
    // Room for the end, too: a file of sysfs has a page at most, whatever it says of its length.
    let mut contents = Vec::with_capacity(usize::try_from(found.len()).unwrap_or(MAX_FILE).min(MAX_FILE) + 1);
    let file = File::open(path).map_err(|error| refusal(&error))?;
    // One byte more than may be there; that the limit fits into 64 bits is plain.
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut contents).map_err(|error| refusal(&error))?;
    if contents.len() > MAX_FILE { Err(TreeError::TooLong) } else { Ok(contents) }
}

fn refusal(error: &io::Error) -> TreeError {
    match error.kind() {
        io::ErrorKind::NotFound => TreeError::Missing,
        io::ErrorKind::NotADirectory => TreeError::NotADirectory,
        kind => TreeError::Io(kind),
    }
}
