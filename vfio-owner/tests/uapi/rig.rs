//! A program: memory, descriptors, and the calls that it makes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Weak};

use vfio_owner::device_ops::{Event, Listening, Trigger};
use vfio_owner::iommu_core::device_model::sync::Mutex;
use vfio_owner::iommu_core::device_model::{Errno, Progress};
use vfio_owner::iommu_core::software::{LockedPages, Process};
use vfio_owner::iommu_core::{Access, UserAddr, UserMemory};
use vfio_owner::iommufd_owner::uapi::Caller as IommufdCaller;
use vfio_owner::testbed::{self, Machine};
use vfio_owner::uapi::{Caller, Capability, File, Reply};

/// Alone in its group.
pub(crate) const NIC: &str = "0000:00:03.0";
/// Without a reset, on a root bus.
pub(crate) const EDU: &str = "0000:00:05.0";
/// Two functions of a group behind a port.
pub(crate) const BEHIND_PORT: [&str; 2] = ["0000:01:00.0", "0000:01:00.1"];
/// Two functions behind a bridge to conventional PCI.
pub(crate) const CONVENTIONAL: [&str; 2] = ["0000:03:01.0", "0000:03:02.0"];

/// Size of the program's buffer for arguments, in bytes.
const BUFFER: usize = 0x10_0000;

/// The whole number of a call, of which the header gives the last part.
const fn number(nr: u32) -> u32 {
    (b';' as u32) << 8 | nr
}

/// An eventfd.
#[derive(Default)]
pub(crate) struct Eventfd(Mutex<Counter>);

type Heard = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Counter {
    count: u64,
    listeners: Vec<Weak<Heard>>,
}

impl Eventfd {
    pub(crate) fn take(&self) -> u64 {
        std::mem::take(&mut self.0.lock().count)
    }

    /// What user space writes.
    pub(crate) fn write(&self) {
        let listeners = self.0.lock().listeners.clone();
        listeners.iter().filter_map(Weak::upgrade).for_each(|heard| heard());
    }
}

impl Event for Eventfd {
    fn signal(&self) {
        self.0.lock().count += 1;
    }

    fn listen(&self, heard: Heard) -> Option<Listening> {
        let heard = Arc::new(heard);
        self.0.lock().listeners.push(Arc::downgrade(&heard));
        Some(Listening::new(heard))
    }
}

enum Descriptor {
    File(File),
    Eventfd(Arc<Eventfd>),
}

pub(crate) struct Program {
    pub(crate) machine: Machine,
    pub(crate) process: Arc<Process>,
    memory: Arc<dyn UserMemory>,
    pub(crate) buffer: UserAddr,
    files: RefCell<BTreeMap<i32, Descriptor>>,
    /// Whether it has every capability, or none.
    pub(crate) privileged: Cell<bool>,
    /// The last refusal, in words.
    pub(crate) refused: RefCell<Option<String>>,
    /// Which fault point of the next call fails; 0 for none.
    pub(crate) fail_nth: Cell<u32>,
}

impl Program {
    /// On a machine with these devices on vfio-pci.
    pub(crate) fn with(devices: &[&str]) -> Self {
        let machine = Machine::boot(&testbed::pc());
        for device in devices {
            if let Ok(mut unbind) = machine.unbind(device) {
                assert!(matches!(unbind.try_finish(), Progress::Done));
            }
            machine.bind(device, "vfio-pci").unwrap();
        }
        Self::on(machine)
    }

    /// On this machine.
    pub(crate) fn on(machine: Machine) -> Self {
        let process = Process::new(machine.memory(), LockedPages::unlimited());
        let buffer = process.allocate(BUFFER as u64, Access::ReadWrite).unwrap();
        let (files, refused) = (RefCell::default(), RefCell::default());
        let (memory, privileged, fail_nth) = (process.clone(), Cell::new(true), Cell::new(0));
        Self { machine, process, memory, buffer, files, privileged, refused, fail_nth }
    }

    fn descriptor(&self, descriptor: Descriptor) -> i32 {
        let mut files = self.files.borrow_mut();
        let free = (0..i32::MAX).find(|fd| !files.contains_key(fd)).unwrap();
        files.insert(free, descriptor);
        free
    }

    pub(crate) fn open(&self, file: File) -> i32 {
        self.descriptor(Descriptor::File(file))
    }

    pub(crate) fn container(&self) -> i32 {
        self.open(File::Container(self.machine.vfio().open_container()))
    }

    pub(crate) fn group(&self, device: &str) -> i32 {
        self.open(File::Group(self.machine.open_group(device).unwrap()))
    }

    pub(crate) fn cdev(&self, device: &str) -> i32 {
        self.open(File::DeviceFile(self.machine.open_device(device).unwrap()))
    }

    pub(crate) fn iommufd(&self) -> i32 {
        self.open(File::Iommufd(self.machine.open_iommufd("vmm")))
    }

    pub(crate) fn eventfd(&self) -> (i32, Arc<Eventfd>) {
        let eventfd = Arc::<Eventfd>::default();
        (self.descriptor(Descriptor::Eventfd(eventfd.clone())), eventfd)
    }

    pub(crate) fn close(&self, fd: i32) {
        let closed = self.files.borrow_mut().remove(&fd);
        drop(closed);
    }

    pub(crate) fn close_all(&self) {
        let closed = std::mem::take(&mut *self.files.borrow_mut());
        drop(closed);
    }

    /// A container with a type, a group in it, and a device of it.
    pub(crate) fn device(&self, device: &str) -> (i32, i32, i32) {
        let (container, group) = (self.container(), self.group(device));
        self.call(group, 104, &container.to_ne_bytes()).unwrap();
        self.value(container, 102, 3).unwrap();
        let name = format!("{device}\0");
        let device = self.call(group, 106, name.as_bytes()).unwrap().0;
        (container, group, device)
    }

    /// Binds a device file to an iommufd; its id there.
    pub(crate) fn bind(&self, file: i32, iommufd: i32) -> Result<u32, Errno> {
        self.words(file, 118, &[16, 0, iommufd.cast_unsigned(), 0])
            .map(|words| words.get(3).copied().unwrap_or_default())
    }

    /// A call whose argument is a value.
    pub(crate) fn value(&self, fd: i32, nr: u32, argument: u64) -> Result<i32, Errno> {
        let file = self.file(fd).ok_or(Errno::EBADF)?;
        match file.ioctl(number(nr), argument, self)? {
            Reply::Value(value) => Ok(value.cast_signed()),
            Reply::File(new) => {
                let free = self.open(File::Other);
                let (file, value) = new.install(free, self).inspect_err(|_| self.close(free))?;
                self.files.borrow_mut().insert(free, Descriptor::File(file));
                Ok(value.cast_signed())
            }
        }
    }

    /// A call whose argument points to these bytes, with zeros behind. Returns its value, and what is there then.
    pub(crate) fn call(&self, fd: i32, nr: u32, bytes: &[u8]) -> Result<(i32, Vec<u8>), Errno> {
        self.put(0, bytes, 4096);
        let value = self.value(fd, nr, self.buffer.get())?;
        Ok((value, self.get(0, 4096)))
    }

    /// The same with 32-bit words, without the value.
    pub(crate) fn words(&self, fd: i32, nr: u32, words: &[u32]) -> Result<Vec<u32>, Errno> {
        let (_, bytes) = self.call(fd, nr, &bytes(words))?;
        Ok(bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect())
    }

    /// Puts bytes into the buffer, and zeros behind up to `upto` bytes.
    pub(crate) fn put(&self, at: u64, bytes: &[u8], upto: usize) {
        let mut all = bytes.to_vec();
        all.resize(upto.max(bytes.len()), 0);
        self.process.write(self.buffer.checked_add(at).unwrap(), &all).unwrap();
    }

    pub(crate) fn get(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut all = vec![0; bytes];
        self.process.read(self.buffer.checked_add(at).unwrap(), &mut all).unwrap();
        all
    }

    pub(crate) fn pread(&self, fd: i32, region: u64, at: u64, bytes: u64) -> Result<Vec<u8>, Errno> {
        let file = self.file(fd).ok_or(Errno::EBADF)?;
        let read = file.read(region << 40 | at, self.buffer, bytes, self)?;
        Ok(self.get(0, usize::try_from(read).unwrap()))
    }

    pub(crate) fn pwrite(&self, fd: i32, region: u64, at: u64, bytes: &[u8]) -> Result<u64, Errno> {
        let file = self.file(fd).ok_or(Errno::EBADF)?;
        self.put(0, bytes, 0);
        file.write(region << 40 | at, self.buffer, bytes.len() as u64, self)
    }
}

pub(crate) fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Two 32-bit words.
pub(crate) fn wide(value: u64) -> [u32; 2] {
    let words: Vec<u32> =
        value.to_ne_bytes().chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
    words.try_into().unwrap()
}

impl IommufdCaller for Program {
    fn memory(&self) -> &Arc<dyn UserMemory> {
        &self.memory
    }

    fn has(&self, _: Capability) -> bool {
        self.privileged.get()
    }

    fn refused(&self, error: &(dyn Error + 'static)) {
        *self.refused.borrow_mut() = Some(error.to_string());
    }
}

impl Caller for Program {
    fn file(&self, descriptor: i32) -> Option<File> {
        match self.files.borrow().get(&descriptor)? {
            Descriptor::File(file) => Some(file.clone()),
            Descriptor::Eventfd(_) => Some(File::Other),
        }
    }

    fn trigger(&self, descriptor: i32) -> Result<Trigger, Errno> {
        match self.files.borrow().get(&descriptor) {
            Some(Descriptor::Eventfd(eventfd)) => Ok(Trigger::of(eventfd.clone())),
            Some(Descriptor::File(_)) => Err(Errno::EINVAL),
            None => Err(Errno::EBADF),
        }
    }

    fn fail_nth(&self) -> u32 {
        self.fail_nth.get()
    }

    fn failed_nth(&self, left: u32) {
        self.fail_nth.set(left);
    }
}
