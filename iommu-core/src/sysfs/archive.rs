//! Archives: a tree as one text file.
//!
//! ```text
//! dma-ownership tree 1
//! bus/pci/devices/0000:00:03.0 -> ../../../devices/pci0000:00/0000:00:03.0
//! bus/pci/drivers/e1000e /
//! devices/pci0000:00/0000:00:03.0/class = 0x020000\n
//! devices/pci0000:00/0000:00:03.0/config : 8680d310+4092
//! ```
//!
//! Each line is a path, its kind, and its contents: a link's target, a text with Rust's escapes, or bytes in hex and
//! the number of zero bytes that follow. A space or an escape in a path is escaped.

mod contents;
mod reader;

use std::fmt::Write as _;
use std::format;
use std::string::String;

use super::MemoryTree;
use super::tree::{MAX_FILE, target_in};

pub use self::reader::Archive;

const HEADER: &str = "dma-ownership tree 1";

/// Maximum number of zero bytes that an archive may give as counts. All other contents take as many bytes of text, so
/// this bounds the memory of a small archive. Enough for the configuration spaces of 65,536 functions, as many as a PCI
/// domain has.
pub const MAX_ZEROS: usize = 256 << 20;

/// Why a text is not an archive.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ArchiveError {
    /// The line, counted from 1.
    pub line: usize,
    /// The cause.
    pub reason: ArchiveErrorReason,
}

/// Why a line of an archive was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveErrorReason {
    /// The first line is not the header.
    #[error("an archive begins with `{HEADER}`")]
    NoHeader,
    /// The line is not an entry.
    #[error("not `PATH = TEXT`, `PATH : HEX`, `PATH -> TARGET` or `PATH /`")]
    NotAnEntry,
    /// An escape is not one of Rust's.
    #[error("a backslash must begin one of \\n, \\r, \\t, \\\\, \\', \\\", \\xNN")]
    BadEscape,
    /// The zeros written as `+COUNT` exceed [`MAX_ZEROS`] in all.
    #[error("the archive has more than {MAX_ZEROS} zeros as `+COUNT`")]
    TooManyZeros,
    /// The bytes are not pairs of hex digits, optionally followed by `+COUNT`.
    #[error("bytes are pairs of hex digits, with perhaps `+COUNT` zeros behind, {MAX_FILE} in all at most")]
    BadBytes,
    /// A path occurs twice.
    #[error("the path occurs twice")]
    Twice,
}

impl MemoryTree {
    /// Returns the tree as text; [`from_archive`](Self::from_archive) reads it back.
    pub fn to_archive(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for path in self.directories() {
            text.push_str(&escape(path.as_bytes()));
            text.push_str(" /\n");
        }
        for (path, contents) in self.files() {
            let path = escape(path.as_bytes());
            let entry = match (target_in(contents), core::str::from_utf8(contents)) {
                (Ok(target), Ok(whole)) if target == whole => format!("{path} -> {target}\n"),
                (_, Ok(plain)) if !plain.contains(|c: char| c.is_control() && c != '\n') => {
                    format!("{path} = {}\n", escape_text(plain))
                }
                _ => format!("{path} : {}\n", hex(contents)),
            };
            text.push_str(&entry);
        }
        text
    }

    /// Returns whether the text begins as an archive does.
    pub fn is_archive(text: &str) -> bool {
        Archive::is_archive(text)
    }

    /// Reads what [`to_archive`](Self::to_archive) wrote.
    ///
    /// # Errors
    /// Fails if a line is malformed.
    pub fn from_archive(text: &str) -> Result<Self, ArchiveError> {
        let archive = Archive::parse(text)?;
        let mut tree = Self::new();
        for path in &archive.directories {
            tree.insert_directory(path);
        }
        for file in &archive.files {
            tree.insert(&file.path, file.contents.decode().into_owned());
        }
        Ok(tree)
    }
}

fn escape(bytes: &[u8]) -> String {
    format!("{}", bytes.escape_ascii()).replace(' ', "\\x20")
}

/// Only what would end the line or begin an escape.
fn escape_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

fn hex(contents: &[u8]) -> String {
    let end = contents.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let (head, zeros) = contents.split_at_checked(end).unwrap_or((contents, &[]));
    let mut text = head.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    if !zeros.is_empty() {
        let _ = write!(text, "+{}", zeros.len());
    }
    text
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sysfs::{DirTree, Snapshot};

    #[test]
    fn a_real_tree_comes_back_whole() {
        for name in ["pc", "workstation"] {
            let package = env!("CARGO_MANIFEST_DIR");
            let text = std::fs::read_to_string(format!("{package}/testdata/{name}.tree")).unwrap();
            let tree = MemoryTree::from_archive(&text).unwrap();
            assert!(tree.to_archive() == text, "{name} changes");
            assert!(!Snapshot::load(&tree).unwrap().devices.is_empty());
            // The folders that it was made of have names that no package can have.
            let folder = format!("{package}/../testdata/snapshots/{name}");
            if std::fs::exists(&folder).unwrap() {
                assert!(MemoryTree::capture(&DirTree::new(folder)) == tree, "{name} is not its folder");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let error = |text: &str| MemoryTree::from_archive(text).unwrap_err();
        assert_eq!(error("").reason, ArchiveErrorReason::NoHeader);
        for (entry, reason) in [
            ("a", ArchiveErrorReason::NotAnEntry),
            ("a ? b", ArchiveErrorReason::NotAnEntry),
            ("a = \\q", ArchiveErrorReason::BadEscape),
            ("a : 0", ArchiveErrorReason::BadBytes),
            ("a : 00+99999999999999999999", ArchiveErrorReason::BadBytes),
            ("a : +1048577", ArchiveErrorReason::BadBytes),
            ("b = 1", ArchiveErrorReason::Twice),
        ] {
            let error = error(&format!("{HEADER}\n\nb = 0\n{entry}"));
            assert_eq!((error.line, error.reason), (4, reason), "{entry}");
        }
    }

    /// Q6: a small archive cannot become much memory, and what a large machine has fits.
    #[test]
    fn a_small_archive_stays_small() {
        let zeros = |each: usize, files: usize| {
            (0..files).fold(format!("{HEADER}\n"), |text, n| text + &format!("{n} : 00+{each}\n"))
        };
        let error = Archive::parse(&zeros(MAX_FILE - 1, 257)).unwrap_err();
        assert_eq!((error.line, error.reason), (258, ArchiveErrorReason::TooManyZeros));
        assert!(Archive::parse(&zeros(4095, 65_536)).is_ok());
    }

    proptest! {
        #[test]
        fn any_tree_comes_back(
            files in prop::collection::btree_map("[a-z \\\\/é]{1,8}", prop::collection::vec(any::<u8>(), 0..20), 0..8),
        ) {
            let mut tree = MemoryTree::new();
            for (path, contents) in &files {
                tree.insert(path, contents.clone());
            }
            prop_assert_eq!(MemoryTree::from_archive(&tree.to_archive()), Ok(tree));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(dma-ownership tree 1\n)?\\PC{0,80}") {
            let _ = MemoryTree::from_archive(&text);
        }
    }
}
