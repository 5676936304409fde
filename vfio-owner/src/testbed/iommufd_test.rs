//! What a kernel with `CONFIG_IOMMUFD_TEST` has: mock devices behind a mock IOMMU, and the test call, `IOMMU_TEST_CMD`.
//!
//! With it, the kernel's own tests of iommufd (`tools/testing/selftests/iommu`) can be run on the machine. A mock device is
//! made by a call, bound and attached at once, and is in a group of its own. Its IOMMU has pages of 2 KiB, half a page of the
//! CPU, so that mappings of less than a page are tested as well.
// F100 to F110.

mod access_file;
mod command;
mod counted_memory;
mod fault_point;
mod mock_device;
mod mock_iommu;

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::cell::OnceCell;
use core::error::Error;

use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::Mutex;
use iommu_core::user_memory::BadAddress;
use iommu_core::{IommuSubsystem, UserAddr, UserMemory};
use iommufd_owner::uapi::Capability;
use iommufd_owner::{Context, ObjectId};

use self::counted_memory::{CountedMemory, PinCounts};
use self::fault_point::Injection;
use self::mock_device::MockDevice;
use self::mock_iommu::MockIommu;
use crate::device_ops::Trigger;
use crate::uapi::{Caller, File, Reply, ServedFile};

/// The test support of a machine's iommufd. A clone is the same.
#[derive(Clone, Debug)]
pub(super) struct IommufdTest(Arc<Support>);

#[derive(Debug)]
struct Support {
    subsystem: IommuSubsystem,
    iommu: Arc<MockIommu>,
    /// How many mock devices there ever were. Leaf lock.
    devices: Mutex<u32>,
    pins: PinCounts,
}

impl IommufdTest {
    pub(super) fn new(subsystem: &IommuSubsystem) -> Self {
        let (subsystem, iommu) = (subsystem.clone(), Arc::default());
        Self(Arc::new(Support { subsystem, iommu, devices: Mutex::default(), pins: PinCounts::default() }))
    }

    /// Returns the file of an iommufd whose mock devices end with it.
    pub(super) fn serve(&self, context: Context) -> File {
        let open = OpenIommufd { support: self.0.clone(), context, devices: Mutex::default() };
        File::Served(Arc::new(TestIommufd(Arc::new(open))))
    }
}

/// An open `/dev/iommu` with test support.
#[derive(Debug)]
struct TestIommufd(Arc<OpenIommufd>);

/// What it and its accesses keep open.
#[derive(Debug)]
struct OpenIommufd {
    support: Arc<Support>,
    context: Context,
    /// Its mock devices, by their id. Leaf lock.
    devices: Mutex<BTreeMap<ObjectId, Weak<MockDevice>>>,
}

impl OpenIommufd {
    /// Returns the mock device that was bound with this id.
    fn bound(&self, id: ObjectId) -> Option<Arc<MockDevice>> {
        let devices: alloc::vec::Vec<_> = self.devices.lock().values().filter_map(Weak::upgrade).collect();
        devices.into_iter().find(|device| device.bound.id() == id)
    }
}

impl Drop for OpenIommufd {
    /// Mock devices do not keep the file open.
    // F103.
    fn drop(&mut self) {
        for (id, device) in core::mem::take(self.devices.get_mut()) {
            if device.strong_count() > 0 {
                // Nothing uses a test object.
                let _ = self.context.destroy(id);
            }
        }
    }
}

impl ServedFile for TestIommufd {
    fn ioctl(&self, number: u32, argument: u64, caller: &dyn Caller) -> Result<Reply, Errno> {
        let _injection = Injection::begin(caller);
        let caller = TestCaller { caller, pins: &self.0.support.pins, memory: OnceCell::new(), hidden: None };
        match number {
            command::TEST => command::run(&self.0, UserAddr::new(argument), &caller),
            command::HW_INFO => {
                let hidden = command::hide_input_type(UserAddr::new(argument), &caller)?;
                File::Iommufd(self.0.context.clone()).ioctl(number, argument, &TestCaller { hidden, ..caller })
            }
            _ => File::Iommufd(self.0.context.clone()).ioctl(number, argument, &caller),
        }
    }

    fn iommufd(&self) -> Option<&Context> {
        Some(&self.0.context)
    }
}

/// A caller the pins of whose memory are counted.
struct TestCaller<'a> {
    caller: &'a dyn Caller,
    pins: &'a PinCounts,
    /// Looked up when it is asked for.
    memory: OnceCell<Arc<dyn UserMemory>>,
    /// A flag of a structure that is not shown: where it lies.
    hidden: Option<UserAddr>,
}

impl iommufd_owner::uapi::Caller for TestCaller<'_> {
    fn memory(&self) -> &Arc<dyn UserMemory> {
        let counted = || CountedMemory { inner: self.caller.memory().clone(), counts: self.pins.clone() };
        self.memory.get_or_init(|| Arc::new(counted()))
    }

    fn has(&self, capability: Capability) -> bool {
        self.caller.has(capability)
    }

    fn refused(&self, error: &(dyn Error + 'static)) {
        self.caller.refused(error);
    }

    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), BadAddress> {
        if fault_point::fails() {
            return Err(BadAddress { at });
        }
        self.caller.read(at, into)?;
        let offset = self.hidden.and_then(|hidden| hidden.get().checked_sub(at.get()));
        let byte = offset.and_then(|offset| into.get_mut(usize::try_from(offset).ok()?));
        *byte.unwrap_or(&mut 0) = 0;
        Ok(())
    }

    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress> {
        if fault_point::fails() {
            return Err(BadAddress { at });
        }
        self.caller.write(at, from)
    }
}

impl Caller for TestCaller<'_> {
    fn file(&self, descriptor: i32) -> Option<File> {
        self.caller.file(descriptor)
    }

    fn trigger(&self, descriptor: i32) -> Result<Trigger, Errno> {
        self.caller.trigger(descriptor)
    }
}

impl Support {
    fn next_number(&self) -> u32 {
        let mut devices = self.devices.lock();
        *devices += 1;
        *devices - 1
    }
}
