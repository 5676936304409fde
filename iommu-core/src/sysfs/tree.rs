//! Trees of files, as the loader reads them.

use std::borrow::ToOwned;
use std::io;
use std::string::String;
use std::vec::Vec;

/// Length of the longest file that is read, in bytes. The files of interest have 4096 at most.
pub const MAX_FILE: usize = 1 << 20;
/// Longest target of a link, as in Linux.
const MAX_TARGET: usize = 4096;
/// So many links in a row are followed; sysfs has no link to a link.
const MAX_LINKS: usize = 8;

/// A tree of directories, files and links.
///
/// Paths start at the root, without a leading slash (`bus/pci/devices`); the root itself is the empty path.
pub trait Tree {
    /// Reads a file.
    ///
    /// # Errors
    /// Fails if there is no file at `path`, it is longer than [`MAX_FILE`], or it cannot be read.
    fn read(&self, path: &str) -> Result<Vec<u8>, TreeError>;

    /// Lists the names in a directory, in order.
    ///
    /// # Errors
    /// Fails if there is no directory at `path`, or it cannot be read.
    fn list(&self, path: &str) -> Result<Vec<String>, TreeError>;

    /// Returns whether there is a directory at `path`, and not a link to one.
    fn is_directory(&self, path: &str) -> bool {
        self.list(path).is_ok()
    }

    /// Returns the target of the link at `path`, relative to its directory. A file whose text looks like the target of
    /// a link counts as one, since copies of a tree store links so.
    ///
    /// # Errors
    /// Fails if there is nothing at `path` ([`Missing`](TreeError::Missing)), it is not a link
    /// ([`NotALink`](TreeError::NotALink)), or it cannot be read.
    fn link(&self, path: &str) -> Result<String, TreeError>;
}

/// Why an entry of a tree cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TreeError {
    /// Nothing exists at the path.
    #[error("does not exist")]
    Missing,
    /// The entry is a directory, or something else without contents.
    #[error("not a file")]
    NotAFile,
    /// The entry is not a directory.
    #[error("not a directory")]
    NotADirectory,
    /// The entry is not a link.
    #[error("not a link")]
    NotALink,
    /// The file is longer than [`MAX_FILE`].
    #[error("longer than {MAX_FILE} bytes")]
    TooLong,
    /// The operating system returned an error.
    #[error("cannot be read: {0}")]
    Io(io::ErrorKind),
}

/// The target that a file's contents spell, if they look like one: all links of sysfs start by going up.
pub(super) fn target_in(contents: &[u8]) -> Result<String, TreeError> {
    let text = core::str::from_utf8(contents).map_err(|_| TreeError::NotALink)?.trim_end();
    let is_target = text.starts_with("../") && text.len() <= MAX_TARGET && !text.contains(char::is_control);
    if is_target { Ok(text.to_owned()) } else { Err(TreeError::NotALink) }
}

/// The target that what was read at a path spells. What cannot be a link at all is none.
pub(super) fn target_of(read: Result<impl AsRef<[u8]>, TreeError>) -> Result<String, TreeError> {
    match read {
        Ok(contents) => target_in(contents.as_ref()),
        Err(TreeError::NotAFile | TreeError::TooLong) => Err(TreeError::NotALink),
        Err(error) => Err(error),
    }
}

/// Where a link leads in the end.
pub(super) enum Destination {
    /// There is no link.
    Nowhere,
    /// To this directory.
    Directory(String),
    /// To this path, where no directory is.
    Dangling(String),
    /// To more links than anyone needs.
    Endless,
}

/// Follows the link at `path`.
pub(super) fn follow(tree: &dyn Tree, path: &str) -> Result<Destination, TreeError> {
    let mut at = match tree.link(path) {
        Ok(target) => join(path, &target),
        Err(TreeError::Missing) => return Ok(Destination::Nowhere),
        Err(error) => return Err(error),
    };
    for _ in 0..MAX_LINKS {
        if tree.is_directory(&at) {
            return Ok(Destination::Directory(at));
        }
        match tree.link(&at) {
            Ok(target) => at = join(&at, &target),
            Err(_) => return Ok(Destination::Dangling(at)),
        }
    }
    Ok(Destination::Endless)
}

/// Returns the directory that the link at `path` leads to, or `path` itself if that is a directory.
pub fn resolve(tree: &dyn Tree, path: &str) -> Option<String> {
    match follow(tree, path) {
        Ok(Destination::Directory(target)) => Some(target),
        Err(_) if tree.is_directory(path) => Some(path.to_owned()),
        Ok(_) | Err(_) => None,
    }
}

/// Where `target` leads from the link at `path`. A way out of the tree, or an absolute one, ends at `..`, which no tree has.
fn join(path: &str, target: &str) -> String {
    let outside = "..".to_owned();
    if target.starts_with('/') {
        return outside;
    }
    let mut at = String::with_capacity(path.len() + target.len());
    at.push_str(path.rsplit_once('/').map_or("", |(folder, _)| folder));
    for step in target.split('/') {
        match step {
            ".." if at.is_empty() => return outside,
            ".." => at.truncate(at.rfind('/').unwrap_or(0)),
            "" | "." => {}
            name => {
                if !at.is_empty() {
                    at.push('/');
                }
                at.push_str(name);
            }
        }
    }
    at
}

/// The path of `name` in the directory `path`.
pub(super) fn child(path: &str, name: &str) -> String {
    // There are many: formatting would take longer.
    let mut child = String::with_capacity(path.len() + 1 + name.len());
    child.push_str(path);
    child.push('/');
    child.push_str(name);
    child
}
