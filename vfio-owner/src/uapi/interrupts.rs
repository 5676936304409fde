//! Calls on the interrupts of a device, and on writes that an eventfd causes.

use alloc::vec;
use alloc::vec::Vec;

use iommu_core::device_model::Errno;
use zerocopy::IntoBytes;

use super::argument::{Argument, check_size};
use super::caller::Reply;
use super::wire;
use crate::OpenDevice;
use crate::device_ops::{
    Eventfd, IoEventfd, IoWidth, IrqAction, IrqError, IrqIndex, IrqMasking, IrqSource, RegionIndex,
};

const INFO_EVENTFD: u32 = 1 << 0;
const INFO_MASKABLE: u32 = 1 << 1;
const INFO_AUTOMASKED: u32 = 1 << 2;
const INFO_NORESIZE: u32 = 1 << 3;

// Table Vt21.
pub(super) fn get_irq_info(device: &OpenDevice, argument: Argument<'_>) -> Result<Reply, Errno> {
    let request: wire::IrqInfo = argument.read()?;
    check_size(request.argsz, size_of::<wire::IrqInfo>())?;
    let irq = device.irq(IrqIndex::new(request.index)).ok_or(Errno::EINVAL)?;
    let masking = match irq.masking {
        IrqMasking::None => 0,
        IrqMasking::ByUser => INFO_MASKABLE,
        IrqMasking::Automatic => INFO_MASKABLE | INFO_AUTOMASKED,
    };
    let eventfd = if irq.eventfd { INFO_EVENTFD } else { 0 };
    let noresize = if irq.noresize { INFO_NORESIZE } else { 0 };
    argument.write(&wire::IrqInfo { flags: eventfd | masking | noresize, count: irq.count, ..request })?;
    Ok(Reply::Value(0))
}

const DATA_NONE: u32 = 1 << 0;
const DATA_BOOL: u32 = 1 << 1;
const DATA_EVENTFD: u32 = 1 << 2;
const DATA: u32 = DATA_NONE | DATA_BOOL | DATA_EVENTFD;
const ACTION_MASK: u32 = 1 << 3;
const ACTION_UNMASK: u32 = 1 << 4;
const ACTION_TRIGGER: u32 = 1 << 5;
const ACTIONS: u32 = ACTION_MASK | ACTION_UNMASK | ACTION_TRIGGER;

/// The data of a request.
enum IrqData {
    None,
    Bool(Vec<bool>),
    Eventfd(Vec<Eventfd>),
}

// Table Vt22.
pub(super) fn set_irqs(device: &OpenDevice, argument: Argument<'_>) -> Result<Reply, Errno> {
    let request: wire::IrqSet = argument.read()?;
    check_size(request.argsz, size_of::<wire::IrqSet>())?;
    let index = IrqIndex::new(request.index);
    let indexes = device.info().irqs;
    let wraps = request.count >= u32::MAX - request.start;
    if request.index >= indexes || wraps || request.flags & !(DATA | ACTIONS) != 0 {
        return Err(Errno::EINVAL);
    }
    let available = device.irq(index).map_or(0, |irq| irq.count);
    let (start, count) = (request.start, request.count);
    if start >= available || count > available - start {
        let error = IrqError::OutOfRange { index, start, count, available };
        return Err(argument.refuse(error.errno(), &error));
    }
    let data = read_data(&request, argument)?;
    let action = match request.flags & ACTIONS {
        ACTION_MASK => IrqAction::Mask,
        ACTION_UNMASK => IrqAction::Unmask,
        ACTION_TRIGGER => IrqAction::Trigger,
        _ => return Err(Errno::ENOTTY),
    };
    let source = match &data {
        IrqData::None => IrqSource::None { count },
        IrqData::Bool(each) => IrqSource::Bool(each),
        IrqData::Eventfd(each) => IrqSource::Eventfd(each),
    };
    device.set_irqs(index, start, action, source).map_err(|error| argument.refuse(error.errno(), &error))?;
    Ok(Reply::Value(0))
}

/// Copies what follows the request, of which there is no more than the device has interrupts.
fn read_data(request: &wire::IrqSet, argument: Argument<'_>) -> Result<IrqData, Errno> {
    let head = size_of::<wire::IrqSet>();
    let count = usize::try_from(request.count).map_err(|_| Errno::EINVAL)?;
    let room = usize::try_from(request.argsz).unwrap_or(usize::MAX).saturating_sub(head);
    let fits = |entry: usize| if room < count.saturating_mul(entry) { Err(Errno::EINVAL) } else { Ok(()) };
    match request.flags & DATA {
        DATA_NONE => Ok(IrqData::None),
        DATA_BOOL => {
            fits(size_of::<u8>())?;
            let mut bytes = vec![0_u8; count];
            argument.fill(head as u64, &mut bytes)?;
            Ok(IrqData::Bool(bytes.into_iter().map(|byte| byte != 0).collect()))
        }
        DATA_EVENTFD => {
            fits(size_of::<i32>())?;
            let mut descriptors = vec![0_i32; count];
            argument.fill(head as u64, descriptors.as_mut_bytes())?;
            // Only -1 stands for none where there is one interrupt and no more.
            let single = [IrqIndex::ERR, IrqIndex::REQ].contains(&IrqIndex::new(request.index));
            Ok(IrqData::Eventfd(descriptors.into_iter().map(|fd| eventfd(fd, single, argument)).collect()))
        }
        _ => Err(Errno::EINVAL),
    }
}

// Vt23.3, Vt24.4, Vt25.5.
fn eventfd(descriptor: i32, single: bool, argument: Argument<'_>) -> Eventfd {
    match descriptor {
        0.. => argument.eventfd(descriptor),
        -1 => Eventfd::Remove,
        _ if single => Eventfd::Invalid(Errno::EINVAL),
        _ => Eventfd::Remove,
    }
}

/// The least size: up to the descriptor.
const LEAST_IOEVENTFD: usize = 28;

// Table Vt28.
pub(super) fn ioeventfd(device: &OpenDevice, argument: Argument<'_>) -> Result<Reply, Errno> {
    let head: wire::IoEventfd = argument.read_first(LEAST_IOEVENTFD)?;
    check_size(head.argsz, LEAST_IOEVENTFD)?;
    let width = match head.flags {
        1 => IoWidth::Bits8,
        2 => IoWidth::Bits16,
        4 => IoWidth::Bits32,
        8 => IoWidth::Bits64,
        _ => return Err(Errno::EINVAL),
    };
    let eventfd = match head.fd {
        0.. => argument.eventfd(head.fd),
        -1 => Eventfd::Remove,
        _ => return Err(Errno::EINVAL),
    };
    let (region, offset) = RegionIndex::at(head.offset);
    let write = IoEventfd { region, offset, data: head.data, width, eventfd };
    device.set_ioeventfd(write).map_err(|error| argument.refuse(error.errno(), &error))?;
    Ok(Reply::Value(0))
}
