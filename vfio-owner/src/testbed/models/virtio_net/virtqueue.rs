//! Split virtqueues in the layout of the legacy interface, in the memory of the driver.

use alloc::vec;
use alloc::vec::Vec;

use iommu_core::Iova;
use iommu_core::hardware::Fault;
use iommu_core::software::SimulatedDevice;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros as _, IntoBytes};

/// Descriptors of a queue, and the most that a chain can have.
pub(super) const SIZE: u16 = 256;
const PAGE_SHIFT: u32 = 12;
const DESCRIPTOR: u64 = 16;
/// Where the rings are, from the beginning of the queue: the available ring behind the descriptors, the used ring on
/// the next page. Each begins with flags and an index.
const AVAILABLE: u64 = DESCRIPTOR * SIZE as u64;
const USED: u64 = 2 << PAGE_SHIFT;
const INDEX: u64 = 2;
const RING: u64 = 4;

const HAS_NEXT: u16 = 1;
const DEVICE_WRITES: u16 = 2;
/// Not offered.
const INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;

/// A buffer, as the driver describes it.
#[derive(FromBytes, IntoBytes)]
#[repr(C)]
struct Descriptor {
    address: U64,
    bytes: U32,
    flags: U16,
    next: U16,
}

/// The device cannot go on: the queue breaks the rules, or DMA faulted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

impl From<Fault> for Broken {
    fn from(_: Fault) -> Self {
        Self
    }
}

/// Who writes the buffers of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    Driver,
    Device,
}

/// Buffers of the driver.
#[derive(Debug)]
pub(super) struct Chain {
    head: u16,
    buffers: Vec<(Iova, u32)>,
}

/// A queue, and how far the device is in it.
#[derive(Debug)]
pub(super) struct Virtqueue {
    writer: Writer,
    /// Number of the first page; none while it is 0.
    page: u32,
    /// Chains that the device has done, all in their order, modulo 2^16: of the available ring and of the used one.
    done: u16,
    /// Of MSI-X.
    pub(super) vector: u16,
}

impl Virtqueue {
    pub(super) const fn new(writer: Writer) -> Self {
        Self { writer, page: 0, done: 0, vector: super::NO_VECTOR }
    }

    pub(super) const fn page(&self) -> u32 {
        self.page
    }

    pub(super) fn place(&mut self, page: u32) {
        (self.page, self.done) = (page, 0);
    }

    fn at(&self, offset: u64) -> Iova {
        Iova::new((u64::from(self.page) << PAGE_SHIFT) + offset)
    }

    /// Of the chains that the driver has made available, the first that is not done.
    pub(super) fn peek(&self, dma: &SimulatedDevice) -> Result<Option<Chain>, Broken> {
        if self.page == 0 {
            return Ok(None);
        }
        match read_u16(dma, self.at(AVAILABLE + INDEX))?.wrapping_sub(self.done) {
            0 => return Ok(None),
            waiting if waiting > SIZE => return Err(Broken),
            _ => {}
        }
        let place = u64::from(self.done % SIZE);
        let head = read_u16(dma, self.at(AVAILABLE + RING + 2 * place))?;
        let mut buffers = Vec::new();
        let mut next = Some(head);
        while let Some(descriptor) = next {
            if descriptor >= SIZE || buffers.len() >= SIZE.into() {
                return Err(Broken);
            }
            let (buffer, follows) = self.descriptor(dma, descriptor)?;
            buffers.push(buffer);
            next = follows;
        }
        Ok(Some(Chain { head, buffers }))
    }

    /// A buffer, and the descriptor of the next.
    fn descriptor(&self, dma: &SimulatedDevice, index: u16) -> Result<((Iova, u32), Option<u16>), Broken> {
        let mut descriptor = Descriptor::new_zeroed();
        dma.read(self.at(DESCRIPTOR * u64::from(index)), descriptor.as_mut_bytes())?;
        let flags = descriptor.flags.get();
        let writer = if flags & DEVICE_WRITES == 0 { Writer::Driver } else { Writer::Device };
        if flags & INDIRECT != 0 || writer != self.writer {
            return Err(Broken);
        }
        let buffer = (Iova::new(descriptor.address.get()), descriptor.bytes.get());
        Ok((buffer, (flags & HAS_NEXT != 0).then_some(descriptor.next.get())))
    }

    /// Gives the chain that was next back to the driver, with so many bytes written.
    pub(super) fn finish(&mut self, dma: &SimulatedDevice, chain: &Chain, written: u32) -> Result<(), Broken> {
        let element = u64::from(chain.head) | u64::from(written) << 32;
        let place = u64::from(self.done % SIZE);
        dma.write(self.at(USED + RING + 8 * place), &element.to_le_bytes())?;
        self.done = self.done.wrapping_add(1);
        dma.write(self.at(USED + INDEX), &self.done.to_le_bytes())?;
        Ok(())
    }

    pub(super) fn wants_interrupts(&self, dma: &SimulatedDevice) -> Result<bool, Broken> {
        Ok(read_u16(dma, self.at(AVAILABLE))? & NO_INTERRUPT == 0)
    }
}

impl Chain {
    fn bytes(&self) -> u64 {
        self.buffers.iter().map(|(_, bytes)| u64::from(*bytes)).sum()
    }

    /// What the driver has written; `None` if that is more than `most` bytes.
    pub(super) fn read(&self, dma: &SimulatedDevice, most: usize) -> Result<Option<Vec<u8>>, Broken> {
        let Some(bytes) = usize::try_from(self.bytes()).ok().filter(|bytes| *bytes <= most) else { return Ok(None) };
        let mut all = vec![0; bytes];
        let mut rest = all.as_mut_slice();
        for (at, bytes) in &self.buffers {
            let (part, behind) = rest.split_at_mut_checked(*bytes as usize).ok_or(Broken)?;
            dma.read(*at, part)?;
            rest = behind;
        }
        Ok(Some(all))
    }

    /// Writes into the buffers, if there is room for all.
    pub(super) fn write(&self, dma: &SimulatedDevice, all: &[u8]) -> Result<Option<u32>, Broken> {
        let Some(written) = u32::try_from(all.len()).ok().filter(|bytes| u64::from(*bytes) <= self.bytes()) else {
            return Ok(None);
        };
        let mut rest = all;
        for (at, bytes) in &self.buffers {
            let (part, behind) = rest.split_at(rest.len().min(*bytes as usize));
            dma.write(*at, part)?;
            rest = behind;
        }
        Ok(Some(written))
    }
}

fn read_u16(dma: &SimulatedDevice, at: Iova) -> Result<u16, Broken> {
    let mut bytes = [0; 2];
    dma.read(at, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}
