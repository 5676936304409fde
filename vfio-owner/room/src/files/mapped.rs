//! Regions that are mapped: the memory that programs reach without the supervisor stands in for the model.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::{pread, pwrite};
use vfio_owner::OpenDevice;
use vfio_owner::device_ops::RegionIndex;
use vfio_owner::uapi::File;

use crate::filter::REGION_SHIFT;

/// As much as is copied at once.
const PIECE: usize = 1 << 16;

/// The regions of an open file that have been mapped.
#[derive(Debug, Default)]
pub(super) struct Mapped(RefCell<Vec<RegionIndex>>);

impl Mapped {
    pub(super) fn has(&self, region: RegionIndex) -> bool {
        self.0.borrow().contains(&region)
    }

    /// Copies what the model has into the memory, when a region is mapped first.
    pub(super) fn begin(&self, device: &OpenDevice, region: RegionIndex, memory: &OwnedFd) {
        if self.has(region) {
            return;
        }
        self.0.borrow_mut().push(region);
        let size = device.region(region).map_or(0, |info| info.size);
        let mut piece = vec![0; PIECE];
        let mut at = 0;
        while at < size {
            let Ok(count @ 1..) = device.read(region, at, &mut piece) else { return };
            let bytes = piece.get(..count).unwrap_or_default();
            // Memory that is not written is zero, and costs nothing.
            if bytes.iter().any(|byte| *byte != 0) {
                let _ = pwrite(memory, bytes, start(region) + at);
            }
            at += count as u64;
        }
    }

    /// Copies what was written to the memory back into the model, when the file is closed.
    pub(super) fn end(&self, device: &OpenDevice, memory: &OwnedFd) {
        for region in self.0.take() {
            let end = start(region) + device.region(region).map_or(0, |info| info.size);
            let mut at = start(region);
            while let Ok(data) = seek(memory, SeekFrom::Data(at))
                && data < end
            {
                let hole = seek(memory, SeekFrom::Hole(data)).unwrap_or(end).min(end);
                let mut piece = vec![0; usize::try_from(hole - data).unwrap_or(PIECE).min(PIECE)];
                let Ok(count @ 1..) = pread(memory, &mut piece, data) else { break };
                let bytes = piece.get(..count).unwrap_or_default();
                let _ = device.write(region, data - start(region), bytes);
                at = data + count as u64;
            }
        }
    }
}

fn start(region: RegionIndex) -> u64 {
    u64::from(region.number()) << REGION_SHIFT
}

/// The device that a file gives access to, if it does.
pub(super) fn device(file: &File) -> Option<OpenDevice> {
    match file {
        File::Device(device) => Some(device.clone()),
        File::DeviceFile(file) => Some((*file.bound().ok()?).clone()),
        _ => None,
    }
}
