//! What is on the disk.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read as _, Result, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use iommu_core::device_model::sync::Mutex;

/// Contents of a disk. Calls come from any thread.
pub trait Disk: Send + Sync {
    /// Returns the size in bytes, which does not change.
    fn size(&self) -> u64;

    /// Fills `into` from `offset` on.
    ///
    /// # Errors
    /// Fails if the contents cannot be read; the command of the driver then fails as well.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()>;

    /// Stores `from` at `offset`.
    ///
    /// # Errors
    /// Fails if the contents cannot be written; the command of the driver then fails as well.
    fn write(&self, offset: u64, from: &[u8]) -> Result<()>;

    /// Makes what was written permanent. Does nothing by default.
    ///
    /// # Errors
    /// Fails if that cannot be done; the command of the driver then fails as well.
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

impl<D: Disk + ?Sized> Disk for Arc<D> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        (**self).read(offset, into)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        (**self).write(offset, from)
    }

    fn flush(&self) -> Result<()> {
        (**self).flush()
    }
}

/// A disk in memory.
#[derive(Debug)]
pub struct MemoryDisk {
    size: u64,
    /// Leaf lock.
    contents: Mutex<Vec<u8>>,
}

impl MemoryDisk {
    /// Creates a disk with these contents.
    pub fn new(contents: Vec<u8>) -> Self {
        Self { size: contents.len() as u64, contents: Mutex::new(contents) }
    }

    /// Returns a copy of the contents.
    pub fn contents(&self) -> Vec<u8> {
        self.contents.lock().clone()
    }
}

impl Disk for MemoryDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let contents = self.contents.lock();
        let part = span(offset, into.len()).and_then(|span| contents.get(span)).ok_or_else(beyond_the_end)?;
        into.copy_from_slice(part);
        Ok(())
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        let mut contents = self.contents.lock();
        let part = span(offset, from.len()).and_then(|span| contents.get_mut(span)).ok_or_else(beyond_the_end)?;
        part.copy_from_slice(from);
        Ok(())
    }
}

fn span(offset: u64, length: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(length)?)
}

fn beyond_the_end() -> Error {
    Error::new(ErrorKind::UnexpectedEof, "beyond the end of the disk")
}

/// A disk in a file.
#[derive(Debug)]
pub struct FileDisk {
    size: u64,
    /// Leaf lock: the file has one position.
    file: Mutex<File>,
}

impl FileDisk {
    /// Opens a file for reading and writing. The size of the disk is what the file has now.
    ///
    /// # Errors
    /// Fails if the file cannot be opened so.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        // The length that is told of a block device is zero.
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Self { size, file: Mutex::new(file) })
    }
}

impl Disk for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let mut file = self.file.lock();
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(into)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        let mut file = self.file.lock();
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(from)
    }

    fn flush(&self) -> Result<()> {
        self.file.lock().sync_data()
    }
}
