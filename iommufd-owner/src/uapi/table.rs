//! The calls of `/dev/iommu`, by number.
// Table Ft20, F80, F81, F96.

use iommu_core::UserAddr;

use super::fault_queue::NewFaultQueue;
use super::frame::{self, Frame};
use super::structures::{
    ContainerInfo, ContainerInfoHead, Destroy, DmaMap, DmaUnmap, FaultQueueAlloc, HwInfo, HwptAlloc,
    HwptGetDirtyBitmap, HwptInvalidate, HwptSetDirtyTracking, IoasAlloc, IoasAllowIovas, IoasCopy, IoasIovaRanges,
    IoasMap, IoasUnmap, IommuOption, Structure, Test, VfioIoas,
};
use super::{CallError, Caller, Reply, container};
use crate::context::Context;
use crate::object_id::ObjectId;

/// What a call gives.
pub(super) type Outcome = Result<Reply<NewFaultQueue>, CallError>;

/// It is done, and returns 0.
pub(super) const DONE: Outcome = Ok(Reply::Value(0));

/// A call of iommufd: what to do with its structure.
pub(super) trait Call: Structure {
    /// Size of its first version.
    const LEAST: usize = size_of::<Self>();

    /// Does it, and writes back what the kernel writes back.
    fn run(self, frame: &Frame<'_>) -> Outcome;
}

/// What is known of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct CallInfo {
    /// Its name in the kernel's headers.
    pub name: &'static str,
    /// Its whole number, type byte and all.
    pub request: u32,
    /// How long its structure must be; 0 if its argument is a number.
    pub least: usize,
    /// How long its structure is.
    pub full: usize,
}

struct Slot {
    info: CallInfo,
    run: fn(&Frame<'_>) -> Outcome,
}

/// The type byte of both VFIO and iommufd.
const TYPE: u32 = 0x3b00;

const fn slot<C: Call>(name: &'static str, number: u32) -> Slot {
    let info = CallInfo { name, request: TYPE | number, least: C::LEAST, full: size_of::<C>() };
    Slot { info, run: |frame| frame.structure::<C>(C::LEAST)?.run(frame) }
}

/// The number of the first slot.
const FIRST: u32 = 0x80;

static SLOTS: [Slot; 15] = [
    slot::<Destroy>("IOMMU_DESTROY", 0x80),
    slot::<IoasAlloc>("IOMMU_IOAS_ALLOC", 0x81),
    slot::<IoasAllowIovas>("IOMMU_IOAS_ALLOW_IOVAS", 0x82),
    slot::<IoasCopy>("IOMMU_IOAS_COPY", 0x83),
    slot::<IoasIovaRanges>("IOMMU_IOAS_IOVA_RANGES", 0x84),
    slot::<IoasMap>("IOMMU_IOAS_MAP", 0x85),
    slot::<IoasUnmap>("IOMMU_IOAS_UNMAP", 0x86),
    slot::<IommuOption>("IOMMU_OPTION", 0x87),
    slot::<VfioIoas>("IOMMU_VFIO_IOAS", 0x88),
    slot::<HwptAlloc>("IOMMU_HWPT_ALLOC", 0x89),
    slot::<HwInfo>("IOMMU_GET_HW_INFO", 0x8a),
    slot::<HwptSetDirtyTracking>("IOMMU_HWPT_SET_DIRTY_TRACKING", 0x8b),
    slot::<HwptGetDirtyBitmap>("IOMMU_HWPT_GET_DIRTY_BITMAP", 0x8c),
    slot::<HwptInvalidate>("IOMMU_HWPT_INVALIDATE", 0x8d),
    slot::<FaultQueueAlloc>("IOMMU_FAULT_QUEUE_ALLOC", 0x8e),
];

/// The last slot of a kernel with test support; those between are empty.
// F81.
static TEST: Slot = slot::<Test>("IOMMU_TEST_CMD", 0xa0);

/// A call of a VFIO container that an iommufd serves.
struct ContainerSlot {
    info: CallInfo,
    run: fn(&Context, u64, &dyn Caller) -> Outcome,
}

const fn container_slot<Head, Full>(
    name: &'static str,
    number: u32,
    run: fn(&Context, u64, &dyn Caller) -> Outcome,
) -> ContainerSlot {
    let info = CallInfo { name, request: TYPE | number, least: size_of::<Head>(), full: size_of::<Full>() };
    ContainerSlot { info, run }
}

static CONTAINER_SLOTS: [ContainerSlot; 6] = [
    container_slot::<(), ()>("VFIO_GET_API_VERSION", 0x64, |_, _, _| Ok(Reply::Value(container::API_VERSION))),
    container_slot::<(), ()>("VFIO_CHECK_EXTENSION", 0x65, container::check_extension),
    container_slot::<(), ()>("VFIO_SET_IOMMU", 0x66, container::set_iommu),
    container_slot::<ContainerInfoHead, ContainerInfo>("VFIO_IOMMU_GET_INFO", 0x70, container::get_info),
    container_slot::<DmaMap, DmaMap>("VFIO_IOMMU_MAP_DMA", 0x71, container::map_dma),
    container_slot::<DmaUnmap, DmaUnmap>("VFIO_IOMMU_UNMAP_DMA", 0x72, container::unmap_dma),
];

/// Returns the calls of an open `/dev/iommu`: iommufd's own, and those of a VFIO container.
pub fn calls() -> impl Iterator<Item = &'static CallInfo> {
    let own = SLOTS.iter().chain([&TEST]).map(|slot| &slot.info);
    own.chain(CONTAINER_SLOTS.iter().map(|slot| &slot.info))
}

pub(super) fn dispatch(context: &Context, request: u32, argument: u64, caller: &dyn Caller) -> Outcome {
    let number = request & 0xff;
    if number < FIRST || number > TEST.info.request & 0xff {
        let slot = CONTAINER_SLOTS.iter().find(|slot| slot.info.request == request);
        return (slot.ok_or(CallError::NoCall { request })?.run)(context, argument, caller);
    }
    let at = UserAddr::new(argument);
    // The size is read before the table is looked at.
    // F83.
    let frame = Frame { context, caller, at, size: frame::read(caller, at)? };
    let place = usize::try_from(number - FIRST).ok();
    let slot = place.and_then(|place| SLOTS.get(place)).or(Some(&TEST)).filter(|slot| slot.info.request == request);
    (slot.ok_or(CallError::NoCall { request })?.run)(&frame)
}

impl Call for Destroy {
    fn run(self, frame: &Frame<'_>) -> Outcome {
        frame.context.destroy(ObjectId::new(self.id))?;
        DONE
    }
}

impl Call for Test {
    // F100: the last four bytes are padding.
    const LEAST: usize = size_of::<Self>() - 4;

    fn run(self, _frame: &Frame<'_>) -> Outcome {
        Err(CallError::NoTest { operation: self.op })
    }
}
