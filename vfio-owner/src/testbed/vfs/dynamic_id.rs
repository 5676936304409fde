//! The texts of `new_id` and `remove_id`.

use iommu_core::device_model::DriverHandle;
use iommu_core::device_model::pci::{DynamicIdError, PciId};

use super::super::machine::{Machine, Pci};
use super::error::AttributeError;

/// Any value, where an id stands.
const ANY: u32 = u32::MAX;
/// Vendor, device, and what may follow: subsystem vendor and device, class and its mask, and the driver's own word.
const MOST: usize = 7;

pub(super) fn add(machine: &Machine, driver: &DriverHandle<Pci>, text: &str) -> Result<(), AttributeError> {
    if let Some(id) = id_in(text)? {
        machine.pci().new_id(driver, id)?;
    }
    Ok(())
}

pub(super) fn remove(machine: &Machine, driver: &DriverHandle<Pci>, text: &str) -> Result<(), AttributeError> {
    // No function has an id beyond 16 bits, and no driver was given one.
    let unknown = || DynamicIdError::Unknown { driver: driver.name().clone() };
    Ok(machine.pci().remove_id(driver, id_in(text)?.ok_or_else(unknown)?)?)
}

/// The id in the text: hexadecimal numbers with blanks between them, two of them at least; what follows the last number
/// does not count. `None` for one that no function has.
fn id_in(text: &str) -> Result<Option<PciId>, AttributeError> {
    let mut numbers = numbers(text);
    let (Some(vendor), Some(device)) = (numbers.next(), numbers.next()) else {
        return Err(AttributeError::Malformed { text: text.into(), expected: "a vendor and a device" });
    };
    let mut next = |otherwise| numbers.next().unwrap_or(otherwise);
    let (subvendor, subdevice, class, class_mask) = (next(ANY), next(ANY), next(0), next(0));
    let id = |number| if number == ANY { Ok(None) } else { u16::try_from(number).map(Some) };
    let ids = (id(vendor), id(device), id(subvendor), id(subdevice));
    let (Ok(vendor), Ok(device), Ok(subvendor), Ok(subdevice)) = ids else { return Ok(None) };
    Ok(Some(PciId { vendor, device, subvendor, subdevice, class, class_mask, override_only: false }))
}

/// The numbers that the text begins with.
fn numbers(text: &str) -> impl Iterator<Item = u32> {
    let mut rest = text;
    core::iter::from_fn(move || {
        rest = rest.trim_start();
        let digits = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")).unwrap_or(rest);
        let end = digits.find(|digit: char| !digit.is_ascii_hexdigit()).unwrap_or(digits.len());
        let (number, after) = digits.split_at_checked(end)?;
        // What does not fit into 32 bits is an id of nobody.
        let number = if number.is_empty() { None } else { Some(u32::from_str_radix(number, 16).unwrap_or(ANY - 1)) };
        rest = after;
        number
    })
    .take(MOST)
}
