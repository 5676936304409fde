//! Where a mapping goes when user space does not say.
// F16.

use iommu_core::address::PAGE_SIZE;
use iommu_core::{Iova, IovaMap, IovaRange};

use super::reserved::Reserved;
use super::{Area, MapError};

/// Alignment never asked for beyond this: the huge page of x86.
const HUGE_PAGE: u64 = 2 << 20;

/// The lowest place for `bytes` bytes of memory at `addr`: in a hole of what is mapped and reserved, and inside what is
/// allowed if anything is; aligned as both the length and the memory are, so that large pages can be used.
#[inline(never)]
pub(super) fn place(
    areas: &mut IovaMap<Area>,
    allowed: &IovaMap<()>,
    reserved: &Reserved,
    demanded: u64,
    addr: u64,
    bytes: u64,
) -> Result<IovaRange, MapError> {
    if bytes >= u64::MAX / 2 {
        return Err(MapError::Overflow);
    }
    let of_memory = if addr == 0 { u64::MAX } else { 1 << addr.trailing_zeros() };
    let alignment = bytes.checked_next_power_of_two().unwrap_or(HUGE_PAGE).min(of_memory).min(HUGE_PAGE);
    if alignment < demanded {
        return Err(MapError::Misaligned { alignment: demanded });
    }
    let offset = addr % PAGE_SIZE;
    // Memory that begins inside a page does so in the I/O address space too.
    let step = if offset == 0 { alignment } else { PAGE_SIZE };
    let whole = IovaRange::new(Iova::new(PAGE_SIZE), Iova::new(u64::MAX - PAGE_SIZE));
    let anywhere = allowed.is_empty().then_some(IovaRange::ALL);
    anywhere
        .into_iter()
        .chain(allowed.iter().map(|(range, ())| range))
        .filter_map(|window| window.intersection(whole?))
        .flat_map(|window| reserved.holes(window))
        .find_map(|hole| areas.find_gap(bytes, step, offset, hole))
        .ok_or(MapError::NoPlace { bytes })
}
