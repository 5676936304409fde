//! Listings in JSON, as `pvesh --output-format json` and other tools print them: every object that names a PCI function.

use serde_json::{Map, Value};
use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::ListingErrorReason;
use super::facts::{Facts, Form, Place};
use super::token::{self, hex4};

/// Reads a listing in JSON; `None` if it is none.
pub(super) fn read(text: &str) -> Option<Result<Facts, ListingErrorReason>> {
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let value: Value = serde_json::from_str(text).ok()?;
    let mut facts = Facts::default();
    Some(visit(&value, None, &mut facts).map(|()| facts))
}

/// Visits a value; a group that an object names is that of the objects in it.
fn visit(value: &Value, above: Option<u32>, facts: &mut Facts) -> Result<(), ListingErrorReason> {
    match value {
        Value::Array(values) => values.iter().try_for_each(|value| visit(value, above, facts)),
        Value::Object(object) => {
            let named = object.iter().find(|(key, _)| is_group(key));
            let group = named.and_then(|(_, value)| integer(value));
            if let Some(device) = object.values().find_map(address) {
                describe(object, device, group.or(above.map(i64::from)), facts)?;
            }
            let group = group.and_then(|group| u32::try_from(group).ok()).or(above);
            object.values().try_for_each(|value| visit(value, group, facts))
        }
        _ => Ok(()),
    }
}

fn is_group(key: &str) -> bool {
    token::words(key).any(|word| token::is_group_word(word.value))
}

fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn address(value: &Value) -> Option<PciAddress> {
    let text = value.as_str()?;
    let found = token::addresses(text).into_iter().next()?;
    // It is one, and does not mention one.
    text.get(..found.place.start)?.chars().all(|c| !c.is_whitespace()).then_some(found.value)
}

fn describe(
    object: &Map<String, Value>,
    device: PciAddress,
    group: Option<i64>,
    facts: &mut Facts,
) -> Result<(), ListingErrorReason> {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let record = facts.device(device);
    (record.listed, record.form) = (true, Form::Record);
    match group {
        Some(-1) => facts.group(device, None, Place::Shown, 1)?,
        Some(number) => {
            if let Ok(number) = u32::try_from(number) {
                facts.group(device, Some(number), Place::Shown, 1)?;
            }
        }
        None => {}
    }
    if let Some(driver) = text("driver") {
        facts.driver(device, Some(driver.to_owned()).filter(|driver| !driver.is_empty()), 1)?;
    } else if object.get("driver").is_some_and(Value::is_null) {
        facts.driver(device, None, 1)?;
    }
    if let Some(class) = text("class") {
        match class.strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok()) {
            Some(code) => facts.class(device, code >> 8),
            None => facts.class_words(device, class),
        }
    }
    if let Some(ids) = text("vendor").and_then(hex4).zip(text("device").and_then(hex4)) {
        facts.ids(device, ids, 1)?;
    }
    ["device_name", "name", "product"].iter().filter_map(|key| text(key)).for_each(|name| facts.name(device, name));
    Ok(())
}
