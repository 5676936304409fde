//! The test call, operation by operation.
// Table Ft22.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;

use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::Errno;
use iommu_core::hardware::{PagePermissions, PageRequest, WantedPage};
use iommu_core::{Access, Iova, IovaRange, UserAddr};
use iommufd_owner::uapi::Caller as _;
use iommufd_owner::{AccessError, AccessPins, NoIdsError, NoObjectError, ObjectId, ObjectType};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::access_file::{NewAccessFile, Pinning, with_access};
use super::counted_memory::look_up;
use super::mock_device::MockDevice;
use super::mock_iommu::{DeviceFlags, INFO_TYPE, IO_PAGE, cached, table_of};
use super::{OpenIommufd, TestCaller};
use crate::uapi::{NewFile, Reply};

/// `IOMMU_TEST_CMD`.
pub(super) const TEST: u32 = 0x3ba0;
/// `IOMMU_GET_HW_INFO`.
pub(super) const HW_INFO: u32 = 0x3b8a;

/// Where the part of the structure lies that each operation has for itself.
const UNION: u64 = 16;
/// How long the structure must be.
const LEAST: u32 = 68;
/// How much of user memory one operation moves or pins at most.
const MOST: u64 = 16 << 20;
/// How many dirty bits are set at once at most.
const MOST_BITS: u64 = 1 << 27;

/// `IOMMU_TEST_CMD`'s structure.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Test {
    size: u32,
    op: u32,
    id: u32,
    pad: u32,
    /// The part that each operation has for itself.
    own: [u64; 6],
    last: u32,
    padding: u32,
}

impl Test {
    fn words<const N: usize>(&self) -> [u32; N] {
        let mut words = [0; N];
        let halves = self.own.as_bytes().as_chunks::<4>().0;
        words.iter_mut().zip(halves).for_each(|(word, half)| *word = u32::from_ne_bytes(*half));
        words
    }

    fn word(&self, index: usize) -> u32 {
        self.words::<12>().get(index).copied().unwrap_or(0)
    }
}

/// A test call under way.
struct Command<'a> {
    iommufd: &'a Arc<OpenIommufd>,
    caller: &'a TestCaller<'a>,
    at: UserAddr,
    test: Test,
}

/// Serves the test call.
// F82, F100.
pub(super) fn run(iommufd: &Arc<OpenIommufd>, at: UserAddr, caller: &TestCaller<'_>) -> Result<Reply, Errno> {
    let mut size = [0; 4];
    caller.read(at, &mut size).map_err(|error| error.errno())?;
    let size = u32::from_ne_bytes(size);
    if size < LEAST {
        return Err(Errno::EINVAL);
    }
    let mut test = Test::new_zeroed();
    let full = size_of::<Test>();
    let given = usize::try_from(size).unwrap_or(usize::MAX);
    let mut rest = given.saturating_sub(full);
    let mut behind = at.checked_add(full as u64).ok_or(Errno::EFAULT)?;
    while rest > 0 {
        let mut bytes = [0; 64];
        let part = bytes.get_mut(..rest.min(64)).unwrap_or_default();
        caller.read(behind, part).map_err(|error| error.errno())?;
        if part.iter().any(|byte| *byte != 0) {
            return Err(Errno::E2BIG);
        }
        behind = behind.checked_add(part.len() as u64).ok_or(Errno::EFAULT)?;
        rest -= part.len();
    }
    let known = test.as_mut_bytes().get_mut(..given.min(full)).unwrap_or_default();
    caller.read(at, known).map_err(|error| error.errno())?;
    Command { iommufd, caller, at, test }.run()
}

const DONE: Result<Reply, Errno> = Ok(Reply::Value(0));

fn multiples(of: u64, numbers: impl IntoIterator<Item = u64>) -> Result<(), Errno> {
    if numbers.into_iter().all(|number| number.is_multiple_of(of)) { Ok(()) } else { Err(Errno::EINVAL) }
}

impl Command<'_> {
    fn run(&self) -> Result<Reply, Errno> {
        let Test { id, own: [first, second, third, ..], .. } = self.test;
        let object = ObjectId::new(id);
        match self.test.op {
            1 => self.add_reserved(object, first, second),
            2 => self.mock_domain(object, DeviceFlags::empty()),
            3 => self.check_map(object, first, second, third),
            4 => self.check_refs(first, second, self.test.word(4)),
            5 => self.create_access(object, self.test.word(1)),
            6 => self.destroy_access_pages(self.test.word(0)),
            7 => self.access_pages(),
            8 => self.access_rw(),
            // Whatever bounds the kernel's temporary memory.
            9 if self.test.word(0) < 12 => Err(Errno::EINVAL),
            9 => DONE,
            10 => self.replace(object),
            11 => self.replace_ioas(ObjectId::new(self.test.word(0))),
            12 => {
                let flags = DeviceFlags::from_bits(self.test.word(3)).ok_or(Errno::EINVAL)?;
                self.mock_domain(object, flags)
            }
            13 => self.mark_dirty(object),
            14 => self.check_iotlb(object),
            15 => self.trigger_fault(),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Writes words of the operation's own part back, from the first on.
    fn reply(&self, words: &[u32]) -> Result<(), Errno> {
        let at = self.at.checked_add(UNION).ok_or(Errno::EFAULT)?;
        self.caller.write(at, words.as_bytes()).map_err(|error| error.errno())
    }

    fn add_reserved(&self, ioas: ObjectId, start: u64, bytes: u64) -> Result<Reply, Errno> {
        if bytes == 0 {
            return Err(Errno::EINVAL);
        }
        let range = IovaRange::sized(Iova::new(start), bytes).ok_or(Errno::EOVERFLOW)?;
        self.iommufd.context.ioas_reserve(ioas, range).map_err(|error| error.errno())?;
        DONE
    }

    // F102.
    fn mock_domain(&self, target: ObjectId, flags: DeviceFlags) -> Result<Reply, Errno> {
        let context = &self.iommufd.context;
        let new = context.new_object().map_err(NoIdsError::errno)?;
        let device = Arc::new(MockDevice::new(&self.iommufd.support, context, flags)?);
        let hwpt = device.bound.attach(target).map_err(|error| error.errno())?;
        self.reply(&[new.id().get(), hwpt.get(), device.bound.id().get()])?;
        self.iommufd.devices.lock().insert(new.id(), Arc::downgrade(&device));
        new.publish(device);
        DONE
    }

    fn replace(&self, device: ObjectId) -> Result<Reply, Errno> {
        let object = self.iommufd.context.foreign_object(device).ok_or(Errno::ENOENT)?;
        let device = object.downcast::<MockDevice>().map_err(|_| Errno::ENOENT)?;
        let hwpt = device.bound.replace(ObjectId::new(self.test.word(0))).map_err(|error| error.errno())?;
        self.reply(&[hwpt.get()])?;
        DONE
    }

    /// Compares the page table with the caller's memory as it is now.
    fn check_map(&self, hwpt: ObjectId, iova: u64, bytes: u64, at: u64) -> Result<Reply, Errno> {
        multiples(IO_PAGE, [iova, bytes, at])?;
        let end = at.checked_add(bytes).ok_or(Errno::EINVAL)?;
        let domain = self.iommufd.context.hwpt_domain(hwpt).map_err(NoObjectError::errno)?;
        if domain.parent().is_some() {
            return Err(Errno::ENOENT);
        }
        let table = table_of(&domain).ok_or(Errno::EINVAL)?;
        if bytes == 0 {
            return DONE;
        }
        let first = at - at % PAGE_SIZE;
        // There is no memory in the last page of all.
        let whole = end.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::EFAULT)? - first;
        let agrees = look_up(&**self.caller.memory(), UserAddr::new(first), whole, |here, run| {
            let end = here.get().saturating_add(run.bytes).min(end);
            (here.get().max(at)..end).step_by(2048).all(|addr| {
                let mapped = table.page_at(Iova::new(iova.wrapping_add(addr - at)));
                mapped == run.phys.checked_add(addr - here.get())
            })
        });
        if agrees.map_err(|error| error.errno())? { DONE } else { Err(Errno::EINVAL) }
    }

    /// Compares how often each page is pinned.
    fn check_refs(&self, bytes: u64, at: u64, refs: u32) -> Result<Reply, Errno> {
        multiples(PAGE_SIZE, [bytes, at])?;
        at.checked_add(bytes).ok_or(Errno::EINVAL)?;
        let counts = &self.iommufd.support.pins;
        let agree = look_up(&**self.caller.caller.memory(), UserAddr::new(at), bytes, |_, run| {
            let pages = (0..run.bytes / PAGE_SIZE).filter_map(|page| run.phys.checked_add(page * PAGE_SIZE));
            pages.into_iter().all(|page| counts.of(page) == refs.into())
        });
        if agree.map_err(|error| error.errno())? { DONE } else { Err(Errno::EIO) }
    }

    fn create_access(&self, ioas: ObjectId, flags: u32) -> Result<Reply, Errno> {
        let pinning = match flags {
            0 => Pinning::Never,
            1 => Pinning::Allowed,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        let at = self.at.checked_add(UNION).ok_or(Errno::EFAULT)?;
        let new = NewAccessFile::new(self.iommufd, ioas, pinning, at)?;
        Ok(Reply::File(NewFile::Served(Box::new(new))))
    }

    fn destroy_access_pages(&self, item: u32) -> Result<Reply, Errno> {
        let pins = with_access(self.caller, self.test.id, |file| {
            let pins = file.items.lock().take(item);
            pins.ok_or(Errno::ENOENT)
        })?;
        drop(pins);
        DONE
    }

    // Ft22.10.
    fn access_pages(&self) -> Result<Reply, Errno> {
        let Test { own: [_, iova, bytes, at, ..], id, .. } = self.test;
        if bytes > MOST {
            return Err(Errno::ENOMEM);
        }
        let access = match self.test.word(0) {
            0 => Access::Read,
            1 => Access::Write,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        with_access(self.caller, id, |file| {
            let pins = file.access.pin(Iova::new(iova), bytes, access).map_err(|error| match error {
                AccessError::NeverPins => Errno::EOPNOTSUPP,
                error => error.errno(),
            })?;
            if at != 0 {
                // What wraps has no memory.
                self.check_pages(&pins, at.wrapping_sub(iova % PAGE_SIZE))?;
            }
            let range = IovaRange::sized(Iova::new(iova), bytes).ok_or(Errno::EOVERFLOW)?;
            let item = file.items.lock().add(range, pins);
            let told = self.reply(&[self.test.word(0), item]);
            if told.is_err() {
                let pins = file.items.lock().take(item);
                drop(pins);
            }
            told
        })?;
        DONE
    }

    /// Compares what was pinned with the caller's memory, page by page.
    fn check_pages(&self, pins: &AccessPins, at: u64) -> Result<(), Errno> {
        let pages = |bytes: u64| (0..bytes / PAGE_SIZE).map(|page| page * PAGE_SIZE);
        let runs = pins.runs();
        let mut pinned = runs.iter().flat_map(|run| pages(run.bytes).map(|offset| run.phys.checked_add(offset)));
        let bytes = runs.iter().map(|run| run.bytes).sum();
        let agree = look_up(&**self.caller.caller.memory(), UserAddr::new(at), bytes, |_, run| {
            pages(run.bytes).all(|offset| pinned.next() == Some(run.phys.checked_add(offset)))
        });
        if agree.map_err(|error| error.errno())? { Ok(()) } else { Err(Errno::EBADE) }
    }

    // Ft22.11.
    fn access_rw(&self) -> Result<Reply, Errno> {
        const WRITE: u32 = 1;
        const SLOW: u32 = 4;
        let Test { own: [iova, bytes, at, ..], id, .. } = self.test;
        let flags = self.test.word(6);
        if bytes > MOST {
            return Err(Errno::ENOMEM);
        }
        if flags & !(WRITE | SLOW) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut buffer = vec![0; usize::try_from(bytes).map_err(|_| Errno::ENOMEM)?];
        let (iova, at) = (Iova::new(iova), UserAddr::new(at));
        with_access(self.caller, id, |file| {
            if flags & WRITE == 0 {
                file.access.read(iova, &mut buffer).map_err(|error| error.errno())?;
                self.caller.write(at, &buffer).map_err(|error| error.errno())
            } else {
                self.caller.read(at, &mut buffer).map_err(|error| error.errno())?;
                file.access.write(iova, &buffer).map_err(|error| error.errno())
            }
        })?;
        DONE
    }

    fn replace_ioas(&self, ioas: ObjectId) -> Result<Reply, Errno> {
        with_access(self.caller, self.test.id, |file| file.access.replace(ioas).map_err(|error| error.errno()))?;
        DONE
    }

    // Ft22.14.
    fn mark_dirty(&self, hwpt: ObjectId) -> Result<Reply, Errno> {
        let [_, iova, bytes, page_size, at, _] = self.test.own;
        if page_size == 0 || bytes == 0 || at == 0 {
            return Err(Errno::EINVAL);
        }
        multiples(page_size, [iova, bytes])?;
        let bits = bytes / page_size;
        if bits > MOST_BITS {
            return Err(Errno::EOVERFLOW);
        }
        let domain = self.iommufd.context.hwpt_domain(hwpt).map_err(NoObjectError::errno)?;
        if domain.parent().is_some() {
            return Err(Errno::ENOENT);
        }
        let table = table_of(&domain).ok_or(Errno::EINVAL)?;
        let mut bitmap = vec![0_u8; usize::try_from(bits.div_ceil(8)).map_err(|_| Errno::ENOMEM)?];
        self.caller.read(UserAddr::new(at), &mut bitmap).map_err(|error| error.errno())?;
        let is_set = |bit: &u64| {
            let byte = usize::try_from(bit / 8).ok().and_then(|byte| bitmap.get(byte));
            byte.is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
        };
        let first = iova / page_size;
        let count =
            table.mark_dirty((0..bits).filter(is_set).map(|bit| first.wrapping_add(bit))).ok_or(Errno::EINVAL)?;
        // Behind the flags, the range and the page size.
        let at = self.at.checked_add(UNION + 40).ok_or(Errno::EFAULT)?;
        self.caller.write(at, &count.to_ne_bytes()).map_err(|error| error.errno())?;
        DONE
    }

    fn check_iotlb(&self, hwpt: ObjectId) -> Result<Reply, Errno> {
        let domain = self.iommufd.context.hwpt_domain(hwpt).map_err(NoObjectError::errno)?;
        if domain.parent().is_none() {
            return Err(Errno::ENOENT);
        }
        let [index, value] = self.test.words();
        if cached(&domain, index) == Some(value) { DONE } else { Err(Errno::EINVAL) }
    }

    fn trigger_fault(&self) -> Result<Reply, Errno> {
        let [dev, pasid, group, permissions] = self.test.words();
        let id = ObjectId::new(dev);
        let Some(device) = self.iommufd.bound(id) else {
            let is_real = self.iommufd.context.object_type(id) == Some(ObjectType::Device);
            return Err(if is_real { Errno::EINVAL } else { Errno::ENOENT });
        };
        let [_, _, iova, ..] = self.test.own;
        let permissions = PagePermissions::from_bits_truncate(permissions);
        self.iommufd.support.iommu.request_page(PageRequest {
            device: device.bound.device().device(),
            pasid: (pasid != 0).then_some(pasid),
            index: group,
            pages: vec![WantedPage { iova: Iova::new(iova), permissions }],
        });
        DONE
    }
}

/// Newer kernels let the caller of `IOMMU_GET_HW_INFO` say what type of data it wants, by a flag: that of the mock device,
/// or whatever there is. Returns where the flag lies, if it is set.
// Ft23.2.
pub(super) fn hide_input_type(at: UserAddr, caller: &TestCaller<'_>) -> Result<Option<UserAddr>, Errno> {
    const INPUT_TYPE: u32 = 1;
    let word = |offset| {
        let mut bytes = [0; 4];
        let at = at.checked_add(offset)?;
        caller.read(at, &mut bytes).ok()?;
        Some((at, u32::from_ne_bytes(bytes)))
    };
    match (word(4), word(24)) {
        (Some((at, INPUT_TYPE)), Some((_, 0 | INFO_TYPE))) => Ok(Some(at)),
        (Some((_, INPUT_TYPE)), Some(_)) => Err(Errno::EOPNOTSUPP),
        // The front says what is wrong.
        _ => Ok(None),
    }
}
