//! Archives as trees, without a copy of what they hold.

use std::borrow::{Cow, ToOwned};
use std::cell::Cell;
use std::string::String;
use std::vec::Vec;

use super::contents::Contents;
use super::{ArchiveError, ArchiveErrorReason, HEADER, MAX_ZEROS};
use crate::sysfs::tree::{MAX_FILE, Tree, TreeError, target_of};

/// A tree read from the text of an archive, which it borrows: contents are decoded when they are asked for.
///
/// [`MemoryTree::from_archive`](crate::sysfs::MemoryTree::from_archive) makes a tree that can be changed.
#[derive(Clone, Debug)]
pub struct Archive<'a> {
    /// In the order of their paths.
    pub(super) files: Vec<File<'a>>,
    /// Those that exist even while they are empty, in order.
    pub(super) directories: Vec<Cow<'a, str>>,
    last_file: Places,
    last_directory: Places,
}

/// Where the last searches for paths ended: the next ones begin there, for readers go from one file to its neighbour. By the
/// first letter, for they do so below `bus`, `devices` and `kernel` at once.
#[derive(Clone, Default, Debug)]
struct Places([Cell<usize>; 8]);

impl Places {
    #[expect(clippy::indexing_slicing, reason = "there are eight")]
    fn of(&self, path: &str) -> &Cell<usize> {
        let letter = path.bytes().next().unwrap_or_default();
        &self.0[usize::from(letter) % 8]
    }
}

/// A line with a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct File<'a> {
    pub(super) path: Cow<'a, str>,
    pub(super) contents: Contents<'a>,
    line: usize,
}

impl<'a> Archive<'a> {
    /// Returns whether the text begins as an archive does.
    pub fn is_archive(text: &str) -> bool {
        text.lines().next().is_some_and(|first| first.trim_end() == HEADER)
    }

    /// Reads an archive.
    ///
    /// # Errors
    /// Fails if a line is malformed.
    pub fn parse(text: &'a str) -> Result<Self, ArchiveError> {
        if !Self::is_archive(text) {
            return Err(ArchiveError { line: 1, reason: ArchiveErrorReason::NoHeader });
        }
        let (mut files, mut directories, mut zeros) = (Vec::new(), Vec::new(), MAX_ZEROS);
        for (line, entry) in (1..).zip(text.lines()).skip(1) {
            match parse_line(entry, &mut zeros).map_err(|reason| ArchiveError { line, reason })? {
                Some((path, Some(contents))) => files.push(File { path, contents, line }),
                Some((path, None)) => directories.push(path),
                None => {}
            }
        }
        // Those that are in order already, as all are that were written by us, are only looked at.
        files.sort_by(|one, other| one.path.cmp(&other.path));
        directories.sort();
        let twice = files.windows(2).filter_map(|pair| match pair {
            [one, other] if one.path == other.path => Some(other.line),
            _ => None,
        });
        if let Some(line) = twice.min() {
            return Err(ArchiveError { line, reason: ArchiveErrorReason::Twice });
        }
        Ok(Self { files, directories, last_file: Places::default(), last_directory: Places::default() })
    }

    fn file(&self, path: &str) -> Result<&File<'a>, TreeError> {
        let at = first_from(&self.files, self.last_file.of(path), |file| &*file.path < path);
        match self.files.get(at).filter(|file| file.path == path) {
            Some(file) => Ok(file),
            None if self.is_directory(path) => Err(TreeError::NotAFile),
            None => Err(TreeError::Missing),
        }
    }

    fn decoded(&self, path: &str) -> Result<Cow<'a, [u8]>, TreeError> {
        let contents = self.file(path)?.contents.decode();
        if contents.len() > MAX_FILE { Err(TreeError::TooLong) } else { Ok(contents) }
    }

    /// The files below a directory, by what follows its path.
    fn files_below<'b>(&'b self, path: &'b str) -> impl Iterator<Item = &'b str> {
        let at = first_from(&self.files, self.last_file.of(path), |file| is_before_entries(&file.path, path));
        self.files.iter().skip(at).map_while(move |file| below(&file.path, path))
    }

    fn directories_below<'b>(&'b self, path: &'b str) -> impl Iterator<Item = &'b str> {
        let at = first_from(&self.directories, self.last_directory.of(path), |found| is_before_entries(found, path));
        self.directories.iter().skip(at).map_while(move |found| below(found, path))
    }
}

impl Tree for Archive<'_> {
    fn read(&self, path: &str) -> Result<Vec<u8>, TreeError> {
        self.decoded(path).map(Cow::into_owned)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        match self.file(path) {
            Ok(_) => return Err(TreeError::NotADirectory),
            Err(TreeError::NotAFile) => {}
            Err(error) => return Err(error),
        }
        let entries = self.files_below(path).chain(self.directories_below(path));
        let mut names: Vec<&str> = entries.map(|rest| rest.split_once('/').map_or(rest, |(name, _)| name)).collect();
        #[expect(clippy::stable_sort_primitive, reason = "two runs that are in order, which a stable sort merges")]
        names.sort();
        names.dedup();
        Ok(names.into_iter().map(ToOwned::to_owned).collect())
    }

    fn is_directory(&self, path: &str) -> bool {
        let at = first_from(&self.directories, self.last_directory.of(path), |found| &**found < path);
        path.is_empty()
            || self.directories.get(at).is_some_and(|found| *found == path)
            || self.files_below(path).next().is_some()
            || self.directories_below(path).next().is_some()
    }

    fn link(&self, path: &str) -> Result<String, TreeError> {
        target_of(self.decoded(path))
    }
}

/// What a line says: a path and, of a file, its contents.
type Parsed<'a> = Option<(Cow<'a, str>, Option<Contents<'a>>)>;

/// Reads a line, which may have as many counted zeros as are left; `None` if it is blank.
fn parse_line<'a>(entry: &'a str, zeros: &mut usize) -> Result<Parsed<'a>, ArchiveErrorReason> {
    if entry.trim().is_empty() {
        return Ok(None);
    }
    let (path, rest) = entry.split_once(' ').ok_or(ArchiveErrorReason::NotAnEntry)?;
    let path = match Contents::text(path)?.decode() {
        Cow::Borrowed(_) => Cow::Borrowed(path.trim_matches('/')),
        Cow::Owned(bytes) => {
            let path = String::from_utf8(bytes).map_err(|_| ArchiveErrorReason::BadEscape)?;
            Cow::Owned(path.trim_matches('/').to_owned())
        }
    };
    let (kind, value) = rest.split_once(' ').unwrap_or((rest, ""));
    let contents = match kind {
        "/" if value.is_empty() => None,
        "=" => Some(Contents::text(value)?),
        "->" => Some(Contents::Plain(value)),
        ":" => Some(Contents::hex(value, zeros)?),
        _ => return Err(ArchiveErrorReason::NotAnEntry),
    };
    Ok(Some((path, contents)))
}

/// The index of the first of some sorted values that is not `before`, searched from where the last search ended.
fn first_from<T>(values: &[T], last: &Cell<usize>, before: impl Fn(&T) -> bool) -> usize {
    let start = last.get().min(values.len());
    let is_before = |at: usize| values.get(at).is_some_and(&before);
    let (mut low, mut high, mut step) = (start, start, 1);
    if is_before(start) {
        while high < values.len() && is_before(high) {
            low = high + 1;
            high = high.saturating_add(step).min(values.len());
            step *= 2;
        }
    } else {
        while low > 0 && !is_before(low - 1) {
            high = low - 1;
            low = high.saturating_sub(step);
            step *= 2;
        }
    }
    let found = low + values.get(low..high).unwrap_or_default().partition_point(before);
    last.set(found);
    found
}

/// Whether a path sorts before all entries of a directory.
fn is_before_entries(path: &str, directory: &str) -> bool {
    let (path, directory) = (path.as_bytes(), directory.as_bytes());
    if directory.is_empty() {
        return false;
    }
    match path.split_at_checked(directory.len()) {
        Some((front, rest)) => front < directory || front == directory && rest.first() < Some(&b'/'),
        None => path < directory,
    }
}

/// What of a path is below a directory.
fn below<'p>(path: &'p str, directory: &str) -> Option<&'p str> {
    if directory.is_empty() { Some(path) } else { path.strip_prefix(directory)?.strip_prefix('/') }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use std::format;

    use proptest::prelude::*;

    use super::*;
    use crate::sysfs::MemoryTree;

    proptest! {
        /// Whatever is asked in whatever order, an archive answers as the tree that it was made of.
        #[test]
        fn an_archive_is_the_tree_that_it_was_made_of(
            files in prop::collection::btree_map("[ab.-]{1,2}(/[ab.-]{1,2}){0,2}", "(\\.\\./)?[ab\n\\\\]{0,3}", 0..12),
            directories in prop::collection::btree_set("[ab.-]{1,2}(/[ab.-]{1,2}){0,2}", 0..4),
            asked in prop::collection::vec("([ab.-]{1,2}(/[ab.-]{1,2}){0,2})?", 0..20),
        ) {
            let mut tree = MemoryTree::new();
            for (path, contents) in &files {
                tree.insert(path, contents.as_bytes());
            }
            for path in &directories {
                tree.insert_directory(path);
            }
            let text = tree.to_archive();
            let archive = Archive::parse(&text).unwrap();
            for path in asked.iter().chain(files.keys()).chain(&directories) {
                prop_assert_eq!(archive.read(path), tree.read(path), "{}", path);
                prop_assert_eq!(archive.list(path), tree.list(path), "{}", path);
                prop_assert_eq!(archive.link(path), tree.link(path), "{}", path);
                prop_assert_eq!(archive.is_directory(path), tree.is_directory(path), "{}", path);
            }
        }

        #[test]
        fn lines_may_stand_in_any_order(lines in Just(["a/b = 1", "a /", "c/d = 2", "b/e = 3"]).prop_shuffle()) {
            let text = format!("{HEADER}\n{}\n", lines.join("\n"));
            let archive = Archive::parse(&text).unwrap();
            prop_assert_eq!(archive.list("").unwrap(), ["a", "b", "c"]);
            prop_assert_eq!(archive.read("b/e").unwrap(), b"3");
        }
    }
}
