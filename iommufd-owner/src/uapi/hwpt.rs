//! Calls on page tables, and on the IOMMUs of devices.

use alloc::vec;
use alloc::vec::Vec;

use iommu_core::address::PAGE_SIZE;
use iommu_core::hardware::{Capabilities, DirtyFlags, PagingFlags, UserData};
use iommu_core::{DirtyRequest, Iova, UserAddr, set_user_bits};

use super::CallError;
use super::frame::{self, Frame};
use super::ioas::{no_flags, reserved};
use super::structures::{HwInfo, HwptAlloc, HwptGetDirtyBitmap, HwptInvalidate, HwptSetDirtyTracking};
use super::table::{Call, DONE, Outcome};
use crate::hwpt::{HwptRequest, Parent};
use crate::invalidate::{InvalidateCause, InvalidateError, MOST_ENTRIES};
use crate::object_id::ObjectId;

/// `IOMMU_HWPT_FAULT_ID_VALID`.
const FAULT_ID_VALID: u32 = 1 << 2;

/// `IOMMU_HWPT_DIRTY_TRACKING_ENABLE`.
const DIRTY_TRACKING_ENABLE: u32 = 1 << 0;

/// `IOMMU_HW_CAP_DIRTY_TRACKING`.
const CAP_DIRTY_TRACKING: u64 = 1 << 0;

impl Call for HwptAlloc {
    // As it was before fault queues.
    const LEAST: usize = 24;

    // Table Ft11, F93.
    fn run(mut self, frame: &Frame<'_>) -> Outcome {
        reserved(self.reserved == 0)?;
        if (self.data_type == 0) != (self.data_len == 0) {
            return Err(CallError::DataType { kind: self.data_type, bytes: self.data_len });
        }
        let ends = frame.context.hwpt_ends(ObjectId::new(self.dev_id), ObjectId::new(self.pt_id))?;
        let flags = self.paging_flags(&ends.parent)?;
        let faults = (self.flags & FAULT_ID_VALID != 0).then_some(ObjectId::new(self.fault_id));
        let kind = self.data_type;
        let described = HwptRequest { flags, faults, data: (kind != 0).then_some(UserData { kind, bytes: &[] }) };
        // Before its data are read.
        ends.check(&described)?;
        let bytes = self.data(frame)?;
        let data = (kind != 0).then_some(UserData { kind, bytes: &bytes });
        let new = ends.make(frame.context, HwptRequest { data, ..described })?;
        self.out_hwpt_id = new.hwpt().id.get();
        frame.reply(&self)?;
        new.publish_alone();
        DONE
    }
}

impl HwptAlloc {
    /// What the page table must be able to do; of a nested one, nothing.
    // F93a, F93b.
    fn paging_flags(&self, parent: &Parent) -> Result<PagingFlags, CallError> {
        let known = match parent {
            Parent::Ioas(..) => PagingFlags::all().bits(),
            Parent::Hwpt(..) => FAULT_ID_VALID,
        };
        match self.flags & !known {
            0 => Ok(PagingFlags::from_bits_truncate(self.flags & !FAULT_ID_VALID)),
            flags => Err(CallError::UnknownFlags { flags }),
        }
    }

    fn data(&self, frame: &Frame<'_>) -> Result<Vec<u8>, CallError> {
        if u64::from(self.data_len) > PAGE_SIZE {
            return Err(CallError::LongData { bytes: self.data_len });
        }
        let mut bytes = vec![0; usize::try_from(self.data_len).unwrap_or_default()];
        frame.caller.read(UserAddr::new(self.data_uptr), &mut bytes)?;
        Ok(bytes)
    }
}

impl Call for HwInfo {
    // As it was before the capabilities.
    const LEAST: usize = 32;

    // F42, Ft20.11.
    fn run(mut self, frame: &Frame<'_>) -> Outcome {
        no_flags(self.flags)?;
        reserved(self.reserved == [0; 3])?;
        let info = frame.context.hw_info(ObjectId::new(self.dev_id))?;
        let (data, room) = (&info.description.bytes, usize::try_from(self.data_len).unwrap_or(usize::MAX));
        if room > 0 {
            let at = UserAddr::new(self.data_uptr);
            frame.caller.write(at, data.get(..room).unwrap_or(data))?;
            if let Some(rest) = room.checked_sub(data.len()) {
                frame::zero(frame.caller, frame::plus(at, data.len() as u64)?, rest as u64)?;
            }
        }
        self.data_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.out_data_type = info.description.kind;
        self.out_max_pasid_log2 = info.max_pasids.checked_ilog2().and_then(|bits| bits.try_into().ok()).unwrap_or(0);
        let tracks_dirty = info.capabilities.contains(Capabilities::DIRTY_TRACKING);
        self.out_capabilities = if tracks_dirty { CAP_DIRTY_TRACKING } else { 0 };
        frame.reply(&self)?;
        DONE
    }
}

impl Call for HwptSetDirtyTracking {
    // F90.
    fn run(self, frame: &Frame<'_>) -> Outcome {
        no_flags(self.flags & !DIRTY_TRACKING_ENABLE)?;
        let hwpt = ObjectId::new(self.hwpt_id);
        if self.flags & DIRTY_TRACKING_ENABLE == 0 {
            frame.context.hwpt_stop_dirty_tracking(hwpt)?;
        } else {
            frame.context.hwpt_start_dirty_tracking(hwpt)?;
        }
        DONE
    }
}

impl Call for HwptGetDirtyBitmap {
    // F91, F92.
    fn run(self, frame: &Frame<'_>) -> Outcome {
        let flags = DirtyFlags::from_bits(self.flags);
        let flags = flags.ok_or(CallError::UnknownFlags { flags: self.flags & !DirtyFlags::all().bits() })?;
        reserved(self.reserved == 0)?;
        let request = DirtyRequest { iova: Iova::new(self.iova), bytes: self.length, page_size: self.page_size };
        let (memory, bitmap) = (frame.caller.memory(), UserAddr::new(self.data));
        frame.context.hwpt_read_dirty(ObjectId::new(self.hwpt_id), request, flags, |first, bits| {
            // What cannot be written is lost, and the caller is not told.
            // F92b.
            let _ = bitmap.checked_add(first).map(|at| set_user_bits(&**memory, at, bits));
        })?;
        DONE
    }
}

impl Call for HwptInvalidate {
    // F94.
    fn run(mut self, frame: &Frame<'_>) -> Outcome {
        let (handled, result) = match self.invalidate(frame) {
            Ok(()) => (self.entry_num, Ok(())),
            Err((handled, error)) => (handled, Err(error)),
        };
        self.entry_num = handled;
        // How many were handled is told always; that it cannot be told hides why.
        // F87.
        frame.reply(&self)?;
        result?;
        DONE
    }
}

impl HwptInvalidate {
    /// Handles entry after entry; on an error, tells how many were handled before.
    fn invalidate(&self, frame: &Frame<'_>) -> Result<(), (u32, CallError)> {
        let Self { entry_len, entry_num, .. } = *self;
        reserved(self.reserved == 0).map_err(|error| (0, error))?;
        let is_array = self.data_uptr != 0
            && (1..=PAGE_SIZE).contains(&u64::from(entry_len))
            && usize::try_from(entry_num).is_ok_and(|count| count <= MOST_ENTRIES);
        if entry_num != 0 && !is_array {
            return Err((0, CallError::BadArray { bytes: entry_len, count: entry_num }));
        }
        let hwpt = frame.context.nested_hwpt(ObjectId::new(self.hwpt_id));
        let (hwpt, _used) = hwpt.map_err(|error| (0, error.into()))?;
        let refused = |number: u32, error| {
            let handled = usize::try_from(number).unwrap_or(usize::MAX);
            (number, InvalidateError { handled, cause: InvalidateCause::Hardware(error) }.into())
        };
        hwpt.domain.check_invalidation_format(self.data_type).map_err(|error| refused(0, error))?;
        // Where there are entries, none is longer than a page.
        let mut entry = vec![0; usize::try_from(u64::from(entry_len).min(PAGE_SIZE)).unwrap_or_default()];
        for number in 0..entry_num {
            let at = frame::plus(UserAddr::new(self.data_uptr), u64::from(number) * u64::from(entry_len));
            let read = at.and_then(|at| Ok(frame.caller.read(at, &mut entry)?));
            read.map_err(|error| (number, error))?;
            let entry = UserData { kind: self.data_type, bytes: &entry };
            hwpt.domain.invalidate(entry).map_err(|error| refused(number, error))?;
        }
        Ok(())
    }
}
