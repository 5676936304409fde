//! A folder that no path leads out of, whatever links are in it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, mkdirat, open, openat, readlinkat, symlinkat, unlinkat};
use vfio_owner::iommu_core::sysfs::{MAX_FILE, Tree, TreeError};

/// A folder whose files are reached one step at a time, none of which may be a link.
///
/// Links are read, never followed by the operating system: [`resolve`](vfio_owner::iommu_core::sysfs::resolve) follows them
/// by their text, inside the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Confined {
    base: PathBuf,
    /// The path of the tree below `base`, empty if that is the tree itself.
    below: &'static str,
    root: PathBuf,
}

impl Confined {
    pub(crate) fn new(base: impl AsRef<Path>, below: &'static str) -> Self {
        let base = base.as_ref();
        Self { base: base.to_path_buf(), below, root: if below.is_empty() { base.into() } else { base.join(below) } }
    }

    /// The directory that paths start at.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Opens the directory at `path`.
    fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let mut at = open(&self.base, flags, Mode::empty())?;
        for step in self.below.split('/').chain(path.split('/')).filter(|step| !step.is_empty()) {
            if matches!(step, "." | "..") {
                return Err(io::ErrorKind::NotFound.into());
            }
            at = openat(&at, step, flags | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(at)
    }

    /// Opens the directory that the last step of `path` is in.
    fn parent<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if matches!(name, "" | "." | "..") {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok((self.directory(folder)?, name))
    }

    /// Replaces the contents of the file at `path`, or makes it.
    pub(crate) fn write(&self, path: &str, contents: &str) -> io::Result<()> {
        let (folder, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = openat(&folder, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))?;
        File::from(file).write_all(contents.as_bytes())
    }

    /// Removes the file or link at `path`, if there is one.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        let removed = self.parent(path).and_then(|(folder, name)| Ok(unlinkat(&folder, name, AtFlags::empty())?));
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Makes a link at `path` that leads to `target`.
    pub(crate) fn symlink(&self, target: &str, path: &str) -> io::Result<()> {
        let (folder, name) = self.parent(path)?;
        Ok(symlinkat(target, &folder, name)?)
    }

    /// Makes the directory at `path`, and those above it.
    pub(crate) fn create_directory(&self, path: &str) -> io::Result<()> {
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let (folder, name) = self.parent(path.get(..end).unwrap_or_default())?;
            match mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                Err(rustix::io::Errno::EXIST) => {}
                made => made?,
            }
        }
        Ok(())
    }

    /// Whether the operating system has a link at `path`, and not its text in a file.
    pub(crate) fn is_symlink(&self, path: &str) -> bool {
        self.parent(path).is_ok_and(|(folder, name)| readlinkat(&folder, name, Vec::new()).is_ok())
    }
}

impl Tree for Confined {
    fn read(&self, path: &str) -> Result<Vec<u8>, TreeError> {
        let (folder, name) = self.parent(path).map_err(|error| refusal(&error))?;
        // Opening a pipe must not wait for its other end.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&folder, name, flags, Mode::empty()).map_err(|errno| match errno {
            rustix::io::Errno::LOOP | rustix::io::Errno::NXIO => TreeError::NotAFile,
            errno => refusal(&errno.into()),
        })?;
        let kind = fstat(&file).map_err(|errno| refusal(&errno.into()))?;
        if FileType::from_raw_mode(kind.st_mode) != FileType::RegularFile {
            return Err(TreeError::NotAFile);
        }
        let mut contents = Vec::new();
        let longest = u64::try_from(MAX_FILE).unwrap_or(u64::MAX);
        let read = File::from(file).take(longest.saturating_add(1)).read_to_end(&mut contents);
        read.map_err(|error| refusal(&error))?;
        if contents.len() > MAX_FILE { Err(TreeError::TooLong) } else { Ok(contents) }
    }

    fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        let folder = self.directory(path).map_err(|error| refusal(&error))?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder).map_err(|errno| refusal(&errno.into()))? {
            let entry = entry.map_err(|errno| refusal(&errno.into()))?;
            // sysfs has no names beyond ASCII; what has is not its own.
            names.extend(entry.file_name().to_str().ok().filter(|name| !matches!(*name, "." | "..")).map(String::from));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn is_directory(&self, path: &str) -> bool {
        self.directory(path).is_ok()
    }

    fn link(&self, path: &str) -> Result<String, TreeError> {
        let (folder, name) = self.parent(path).map_err(|error| refusal(&error))?;
        match readlinkat(&folder, name, Vec::new()) {
            Ok(target) => target.into_string().map_err(|_| TreeError::NotALink),
            // What is there and is no link; copies may have the text of one in a file.
            Err(rustix::io::Errno::INVAL) => match self.read(path) {
                Ok(contents) => target_in(&contents),
                Err(TreeError::NotAFile | TreeError::TooLong) => Err(TreeError::NotALink),
                Err(error) => Err(error),
            },
            Err(errno) => Err(refusal(&errno.into())),
        }
    }
}

/// The target that a file's contents spell: all links of sysfs start by going up.
fn target_in(contents: &[u8]) -> Result<String, TreeError> {
    let text = std::str::from_utf8(contents).map_err(|_| TreeError::NotALink)?.trim_end();
    let is_target = text.starts_with("../") && text.len() <= 4096 && !text.contains(char::is_control);
    if is_target { Ok(text.to_owned()) } else { Err(TreeError::NotALink) }
}

fn refusal(error: &io::Error) -> TreeError {
    match error.kind() {
        io::ErrorKind::NotFound => TreeError::Missing,
        io::ErrorKind::NotADirectory => TreeError::NotADirectory,
        // A link where a directory should be.
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => TreeError::Missing,
        kind => TreeError::Io(kind),
    }
}
