//! Regions that are mapped: the memory that programs reach without the supervisor stands in for the model.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, pread, pwrite};
use vfio_owner::OpenDevice;
use vfio_owner::device_ops::{Follow, Polled, RegionIndex, RegionMemory};
use vfio_owner::uapi::File;

use crate::filter::REGION_SHIFT;

/// As much as is copied at once.
const PIECE: usize = 1 << 16;
/// How often an idle device is polled: at first, and in the end.
const SOON: Duration = Duration::from_micros(20);
const LATE: Duration = Duration::from_millis(1);

/// The regions of an open file that have been mapped.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    regions: Vec<(RegionIndex, Follow)>,
    poller: Option<Poller>,
}

impl Mapped {
    fn has(&self, region: RegionIndex) -> bool {
        self.follow(region).is_some()
    }

    /// Returns whether the model follows a region that is mapped; `None` if it is not mapped.
    pub(super) fn follow(&self, region: RegionIndex) -> Option<Follow> {
        self.regions.iter().find(|(mapped, _)| *mapped == region).map(|(_, follow)| *follow)
    }

    /// Copies what the model has into the memory, when a region is mapped first, and has the model follow it.
    pub(super) fn begin(&mut self, device: &OpenDevice, region: RegionIndex, memory: &OwnedFd) -> Result<(), Errno> {
        if self.has(region) {
            return Ok(());
        }
        fill(device, region, memory);
        let window: Arc<dyn RegionMemory> =
            Arc::new(Window { memory: memory.try_clone().map_err(|_| Errno::MFILE)?, region });
        let follow = device.follow(region, &window);
        self.regions.push((region, follow));
        if follow == Follow::WhenPolled && self.poller.is_none() {
            self.poller = Some(Poller::of(device.clone()).map_err(|_| Errno::AGAIN)?);
        }
        Ok(())
    }

    /// Gives the regions back to the model, when the file is closed: what was written to the memory is copied, unless the model
    /// has followed it.
    pub(super) fn end(&mut self, device: &OpenDevice, memory: &OwnedFd) {
        self.poller = None;
        for (region, follow) in self.regions.drain(..) {
            match follow {
                Follow::WhenPolled => device.unfollow(region),
                Follow::Ignores => keep(device, region, memory),
            }
        }
    }
}

fn fill(device: &OpenDevice, region: RegionIndex, memory: &OwnedFd) {
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

fn keep(device: &OpenDevice, region: RegionIndex, memory: &OwnedFd) {
    let end = start(region) + device.region(region).map_or(0, |info| info.size);
    let mut at = start(region);
    while let Ok(data) = seek(memory, SeekFrom::Data(at))
        && data < end
    {
        let hole = seek(memory, SeekFrom::Hole(data)).unwrap_or(end).min(end);
        let mut piece = vec![0; usize::try_from(hole - data).unwrap_or(PIECE).min(PIECE)];
        let Ok(count @ 1..) = pread(memory, &mut piece, data) else { break };
        let _ = device.write(region, data - start(region), piece.get(..count).unwrap_or_default());
        at = data + count as u64;
    }
}

/// Tells a model, which does not follow the memory, what has been written to a part of it.
pub(super) fn tell(device: &OpenDevice, part: Part, memory: &OwnedFd) {
    for at in part.words() {
        let (mut written, mut known) = ([0; 4], [0; 4]);
        if pread(memory, &mut written, start(part.region) + at) == Ok(4)
            && device.read(part.region, at, &mut known) == Ok(4)
            && written != known
        {
            let _ = device.write(part.region, at, &written);
        }
    }
}

/// Shows in the memory what a model has in a part of a region.
pub(super) fn show(device: &OpenDevice, part: Part, memory: &OwnedFd) {
    for at in part.words() {
        let mut known = [0; 4];
        if device.read(part.region, at, &mut known) == Ok(4) {
            let _ = pwrite(memory, &known, start(part.region) + at);
        }
    }
}

/// A part of a region.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) region: RegionIndex,
    pub(crate) at: u64,
    pub(crate) bytes: u64,
}

impl Part {
    /// The words of 32 bits that it touches.
    fn words(self) -> impl Iterator<Item = u64> {
        let end = self.at.saturating_add(self.bytes);
        (self.at / 4..end.div_ceil(4)).map(|word| 4 * word)
    }
}

fn start(region: RegionIndex) -> u64 {
    u64::from(region.number()) << REGION_SHIFT
}

/// A region in the memory behind a file.
#[derive(Debug)]
struct Window {
    memory: OwnedFd,
    region: RegionIndex,
}

impl RegionMemory for Window {
    fn read(&self, offset: u64, into: &mut [u8]) {
        if pread(&self.memory, &mut *into, start(self.region) + offset) != Ok(into.len()) {
            into.fill(0);
        }
    }

    fn write(&self, offset: u64, from: &[u8]) {
        let _ = pwrite(&self.memory, from, start(self.region) + offset);
    }
}

/// A thread that polls a device. Dropping it ends it.
#[derive(Debug)]
struct Poller {
    /// The thread goes on until this is gone.
    go_on: Option<Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Poller {
    fn of(device: OpenDevice) -> std::io::Result<Self> {
        let (go_on, end) = channel();
        let run = move || {
            let mut pause = SOON;
            while end.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = match device.poll() {
                    Polled::Busy => Duration::ZERO,
                    Polled::Idle => (pause + pause / 8).clamp(SOON, LATE),
                };
            }
        };
        let thread = thread::Builder::new().name("device".into()).spawn(run)?;
        Ok(Self { go_on: Some(go_on), thread: Some(thread) })
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.go_on = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The device that a file gives access to, if it does.
pub(super) fn device(file: &File) -> Option<OpenDevice> {
    match file {
        File::Device(device) => Some(device.clone()),
        File::DeviceFile(file) => Some((*file.bound().ok()?).clone()),
        _ => None,
    }
}
