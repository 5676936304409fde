//! Names and texts of sysfs.

use std::string::ToString;

use device_model::pci::{Bar, BarKind, PciAddress, Upstream};

use super::WarningReason;
use crate::address::Iova;
use crate::hardware::DomainKind;
use crate::reserved::{RegionKind, ReservedRegion};

/// The function of this name, if it is one as the kernel writes it.
pub(super) fn function_name(name: &str) -> Option<PciAddress> {
    // Of all ways to write an address: the domain with four digits, or more if it needs them, and no capitals.
    let shortest = name.len() == 12 || name.len() > 12 && !name.starts_with('0');
    let plain = shortest && !name.bytes().any(|byte| byte.is_ascii_uppercase());
    if plain { name.parse().ok() } else { None }
}

/// Which bridge is above a device in the directory `above`.
pub(super) fn upstream(above: &str) -> Upstream {
    let name = above.rsplit('/').next().unwrap_or_default();
    match function_name(name) {
        Some(bridge) => Upstream::Bridge(bridge),
        None if name.starts_with("pci") => Upstream::RootBus,
        None => Upstream::ByBusNumber,
    }
}

/// The number of a group, as the kernel writes it.
pub(super) fn group_number(name: &str) -> Option<u32> {
    name.parse().ok().filter(|number: &u32| number.to_string() == name)
}

/// The word in `type`.
pub(super) fn domain_kind(word: &str) -> Option<DomainKind> {
    use DomainKind::{Blocking, Dma, DmaLazy, Identity, Paging};
    [Blocking, Identity, Dma, DmaLazy, Paging].into_iter().find(|kind| kind.name() == word)
}

/// A line of `reserved_regions`.
pub(super) fn region(line: &str) -> Option<ReservedRegion> {
    let mut words = line.split_whitespace();
    let (first, last, name) = (hex(words.next()?)?, hex(words.next()?)?, words.next()?);
    // Software's window is shown as the hardware's, and cannot be told from it (I50).
    let kinds = [RegionKind::Direct, RegionKind::DirectRelaxable, RegionKind::Reserved, RegionKind::Msi];
    let kind = kinds.into_iter().find(|kind| kind.name() == name)?;
    let region = ReservedRegion { first: Iova::new(first), last: Iova::new(last), kind };
    if first <= last && words.next().is_none() { Some(region) } else { None }
}

/// What a line of `resource` stands for.
pub(super) enum Resource {
    Unused,
    Window(Bar),
}

/// A line of `resource`: first address, last address, and flags, of which only the space counts here. The line may be
/// that of so many windows one after the other; the first of them, then.
pub(super) fn resource(line: &str, windows: u64) -> Option<Resource> {
    const IO: u64 = 0x100;
    const MEMORY: u64 = 0x200;
    const PREFETCHABLE: u64 = 0x2000;
    const WIDE: u64 = 0x10_0000;
    let mut words = line.split_whitespace();
    let (first, last, flags) = (hex(words.next()?)?, hex(words.next()?)?, hex(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let prefetchable = flags & PREFETCHABLE != 0;
    let kind = match flags & (IO | MEMORY) {
        0 if flags == 0 && first == 0 && last == 0 => return Some(Resource::Unused),
        IO => BarKind::Io,
        MEMORY if flags & WIDE != 0 => BarKind::Memory64 { prefetchable },
        MEMORY => BarKind::Memory32 { prefetchable },
        _ => return None,
    };
    let size = last.checked_sub(first)?.checked_add(1)?.checked_div(windows)?;
    Bar::new(first, size, kind).map(Resource::Window)
}

/// A number with `0x` before it.
pub(super) fn hex(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x")?;
    // A sign is no digit, though `from_str_radix` takes one.
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, 16).ok() }
}

pub(super) fn malformed(text: &str) -> WarningReason {
    WarningReason::Malformed { text: text.chars().take(80).collect() }
}
