//! Files of accesses: in-kernel users of an address space, driven by test calls.
// F60, F110.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::Mutex;
use iommu_core::{IovaRange, UserAddr};
use iommufd_owner::{AccessPins, IoasAccess, ObjectId};

use super::OpenIommufd;
use super::fault_point::{self, Injection};
use crate::uapi::{Caller, File, NewServedFile, ServedFile};

/// An access, which keeps the iommufd open that it is of.
#[derive(Debug)]
pub(super) struct AccessFile {
    pub(super) access: IoasAccess,
    pub(super) items: Arc<Mutex<Items>>,
    /// Dropped after the access.
    _iommufd: Arc<OpenIommufd>,
}

/// What it has pinned, by number.
#[derive(Debug, Default)]
pub(super) struct Items {
    pinned: BTreeMap<u32, (IovaRange, AccessPins)>,
    next: u32,
}

impl Items {
    /// Keeps pins, and returns their number.
    pub(super) fn add(&mut self, range: IovaRange, pins: AccessPins) -> u32 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.pinned.insert(number, (range, pins));
        number
    }

    /// Takes pins out.
    pub(super) fn take(&mut self, number: u32) -> Option<AccessPins> {
        Some(self.pinned.remove(&number)?.1)
    }

    fn take_all_in(&mut self, range: IovaRange) -> Vec<AccessPins> {
        let met: Vec<u32> =
            self.pinned.iter().filter(|(_, (pinned, _))| pinned.overlaps(range)).map(|(number, _)| *number).collect();
        met.into_iter().filter_map(|number| self.take(number)).collect()
    }
}

impl ServedFile for AccessFile {}

impl Drop for AccessFile {
    fn drop(&mut self) {
        let pins = self.items.lock().take_all_in(IovaRange::ALL);
        drop(pins);
    }
}

/// Whether an access pins memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pinning {
    /// It does.
    Allowed,
    /// It only reads and writes.
    Never,
}

/// An access whose caller does not know its file yet.
#[derive(Debug)]
pub(super) struct NewAccessFile {
    file: AccessFile,
    /// Where its descriptor is to be told.
    at: UserAddr,
}

impl NewAccessFile {
    pub(super) fn new(
        iommufd: &Arc<OpenIommufd>,
        ioas: ObjectId,
        pinning: Pinning,
        at: UserAddr,
    ) -> Result<Self, Errno> {
        let items = Arc::new(Mutex::<Items>::default());
        let context = &iommufd.context;
        let access = match pinning {
            Pinning::Allowed => {
                let items = items.clone();
                context.access(move |range| {
                    // They end without the lock.
                    let pins = items.lock().take_all_in(range);
                    drop(pins);
                })
            }
            Pinning::Never => context.access_without_pins(),
        };
        let access = access.map_err(|error| error.errno())?;
        access.attach(ioas).map_err(|error| error.errno())?;
        Ok(Self { file: AccessFile { access, items, _iommufd: iommufd.clone() }, at })
    }
}

impl NewServedFile for NewAccessFile {
    fn install(self: Box<Self>, descriptor: i32, caller: &dyn Caller) -> Result<Arc<dyn ServedFile>, Errno> {
        let _injection = Injection::begin(caller);
        if fault_point::fails() {
            return Err(Errno::EFAULT);
        }
        caller.write(self.at, &descriptor.to_ne_bytes()).map_err(|error| error.errno())?;
        Ok(Arc::new(self.file))
    }
}

/// Calls `act` with the access that a descriptor stands for.
///
/// # Errors
/// `EBADFD` if it stands for none.
// Ft22.9.
pub(super) fn with_access<R>(
    caller: &dyn Caller,
    descriptor: u32,
    act: impl FnOnce(&AccessFile) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let Some(File::Served(file)) = caller.file(descriptor.cast_signed()) else { return Err(Errno::EBADFD) };
    let file: &dyn Any = &*file;
    act(file.downcast_ref().ok_or(Errno::EBADFD)?)
}
