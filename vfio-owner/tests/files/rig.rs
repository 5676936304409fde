//! A machine's files, and what programs do with them.

use std::sync::Arc;

use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::sysfs::Snapshot;
use vfio_owner::testbed::Machine;
use vfio_owner::testbed::vfs::{Access, LastLink, Later, Node, OpenAttribute, Opened, Opening, Vfs, Written};

pub(crate) struct Files {
    pub(crate) vfs: Vfs,
}

impl Files {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        Self { vfs: Vfs::new(Arc::new(Machine::boot(snapshot))) }
    }

    pub(crate) fn attribute(&self, path: &str, access: Access) -> Result<OpenAttribute, Errno> {
        match self.vfs.open(path, &Opening::new(access)) {
            Ok(Opened::Attribute(attribute)) => Ok(attribute),
            Ok(other) => panic!("{path} is {other:?}"),
            Err(error) => Err(error.errno()),
        }
    }

    /// `cat PATH`.
    pub(crate) fn bytes(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let file = self.attribute(path, Access::Read)?;
        let mut contents = Vec::new();
        let mut buffer = [0; 100];
        loop {
            let read = file.read(contents.len() as u64, &mut buffer).map_err(|error| error.errno())?;
            if read == 0 {
                return Ok(contents);
            }
            contents.extend_from_slice(&buffer[..read]);
        }
    }

    pub(crate) fn text(&self, path: &str) -> Result<String, Errno> {
        self.bytes(path).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    /// `printf TEXT > PATH`, where nothing has to be waited for.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<usize, Errno> {
        match self.start(path, text)? {
            Written::Bytes(bytes) => Ok(bytes),
            Written::Later(later) => panic!("waits for a user of {}", later.device()),
        }
    }

    pub(crate) fn start(&self, path: &str, text: &str) -> Result<Written, Errno> {
        self.attribute(path, Access::Write)?.write(0, text.as_bytes()).map_err(|error| error.errno())
    }

    /// A write that has to wait.
    pub(crate) fn waiting(&self, path: &str, text: &str) -> Later {
        match self.start(path, text) {
            Ok(Written::Later(later)) => later,
            other => panic!("does not wait: {other:?}"),
        }
    }

    /// `readlink PATH`.
    pub(crate) fn link(&self, path: &str) -> Option<String> {
        match self.vfs.tree().find(path, LastLink::Keep).ok()?.node {
            Node::Link { target } => Some(target.to_string()),
            _ => None,
        }
    }

    /// `ls PATH`.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        match self.vfs.tree().find(path, LastLink::Follow).unwrap().node {
            Node::Directory(directory) => directory.entries().map(|(name, _)| name.to_owned()).collect(),
            other => panic!("{path} is {other:?}"),
        }
    }
}
