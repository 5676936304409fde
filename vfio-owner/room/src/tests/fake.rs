//! A world of one device, group 7, whose files count how many are open.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use vfio_owner::iommu_core::device_model::sync::Mutex;

use crate::caller::Caller;
use crate::world::{DeviceFile, Node, Reply, World};

/// A file that only rooms have.
pub(super) const MARK: &str = "/sys/kernel/vfio_room";
const DEVICE: &str = "/sys/devices/pci0000:00/0000:00:1f.7";

#[derive(Debug)]
pub(super) struct Fake {
    nodes: BTreeMap<PathBuf, Node>,
    written: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    open: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
}

impl Default for Fake {
    fn default() -> Self {
        let link = |text: &str| Node::Link(text.into());
        let files = [
            (MARK.to_string(), Node::Attribute { mode: 0o444 }),
            ("/dev/vfio/7".into(), Node::Device { major: 240, minor: 0 }),
            ("/dev/vfio/vfio".into(), Node::Device { major: 10, minor: 196 }),
            (format!("{DEVICE}/vendor"), Node::Attribute { mode: 0o444 }),
            (format!("{DEVICE}/driver_override"), Node::Attribute { mode: 0o644 }),
            (format!("{DEVICE}/iommu_group"), link("../../../kernel/iommu_groups/7")),
            (format!("{DEVICE}/driver"), link("../../../bus/pci/drivers/fake")),
            ("/sys/kernel/iommu_groups/7/devices/0000:00:1f.7".into(), link("../../../../devices/pci0000:00/0000:00:1f.7")),
            ("/sys/bus/pci/devices/0000:00:1f.7".into(), link("../../../devices/pci0000:00/0000:00:1f.7")),
            ("/sys/bus/pci/drivers/fake/unbind".into(), Node::Attribute { mode: 0o200 }),
            ("/sys/bus/pci/drivers/fake/0000:00:1f.7".into(), link("../../../../devices/pci0000:00/0000:00:1f.7")),
        ];
        let mut nodes = BTreeMap::new();
        for (path, node) in files {
            let path = PathBuf::from(path);
            for directory in path.ancestors().skip(1) {
                nodes.insert(directory.to_path_buf(), Node::Directory);
            }
            nodes.insert(path, node);
        }
        Self { nodes, written: Mutex::new(BTreeMap::new()), open: Arc::default(), waiting: Arc::default() }
    }
}

impl Fake {
    /// How many device files are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// How many unbinds were tried and have to wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// What was written to an attribute last.
    pub(super) fn written(&self, attribute: &str) -> Option<Vec<u8>> {
        self.written.lock().get(Path::new(attribute)).cloned()
    }

    fn file(&self) -> Box<dyn DeviceFile> {
        self.open.fetch_add(1, Ordering::SeqCst);
        Box::new(FakeFile { open: self.open.clone(), register: Mutex::new([0; 4]) })
    }
}

impl World for Fake {
    fn node(&self, path: &Path) -> Option<Node> {
        self.nodes.get(path).cloned()
    }

    fn entries(&self, directory: &Path) -> Vec<OsString> {
        let inside = self.nodes.keys().filter(|path| path.parent() == Some(directory));
        inside.filter_map(|path| path.file_name()).map(OsString::from).collect()
    }

    fn read(&self, attribute: &Path) -> Result<Vec<u8>, Errno> {
        Ok(self.written.lock().get(attribute).cloned().unwrap_or_else(|| b"1\n".to_vec()))
    }

    fn write(&self, attribute: &Path, bytes: &[u8], _: &Caller<'_>) -> Result<Reply, Errno> {
        if bytes == b"bad" {
            return Err(Errno::NODEV);
        }
        self.written.lock().insert(attribute.into(), bytes.into());
        let len = i64::try_from(bytes.len()).unwrap();
        if !attribute.ends_with("unbind") {
            return Ok(Reply::Value(len));
        }
        let (open, waiting) = (self.open.clone(), self.waiting.clone());
        Ok(Reply::Later(Box::new(move || {
            let done = open.load(Ordering::SeqCst) == 0;
            waiting.fetch_add(usize::from(!done), Ordering::SeqCst);
            done.then_some(Ok(len))
        })))
    }

    fn open(&self, _: &Path, _: &Caller<'_>) -> Result<Box<dyn DeviceFile>, Errno> {
        Ok(self.file())
    }
}

/// A device file with a register that reads as the complement of what was written.
#[derive(Debug)]
struct FakeFile {
    open: Arc<AtomicUsize>,
    register: Mutex<[u8; 4]>,
}

impl Drop for FakeFile {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl DeviceFile for FakeFile {
    fn ioctl(&self, number: u32, argument: u64, caller: &Caller<'_>) -> Result<Reply, Errno> {
        match number {
            0x3b64 => Ok(Reply::Value(42)),
            0x3b65 => {
                let mut value = [0; 8];
                caller.read(argument, &mut value)?;
                Ok(Reply::Value(i64::from_le_bytes(value)))
            }
            0x3b6a => {
                self.open.fetch_add(1, Ordering::SeqCst);
                Ok(Reply::File(Box::new(FakeFile { open: self.open.clone(), register: Mutex::new([0; 4]) })))
            }
            _ => Err(Errno::NOTTY),
        }
    }

    fn mappable(&self, offset: u64, _: u64) -> bool {
        offset >> 40 == 2
    }

    fn read(&self, _: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let register = self.register.lock();
        let count = into.len().min(register.len());
        into[..count].copy_from_slice(&register[..count]);
        Ok(count)
    }

    fn write(&self, _: u64, from: &[u8]) -> Result<usize, Errno> {
        let mut register = self.register.lock();
        for (to, from) in register.iter_mut().zip(from) {
            *to = !from;
        }
        Ok(from.len())
    }
}
