//! JSON in listings, as `pvesh --output-format json` and other tools print it: every object that names a PCI function.

use serde_json::{Map, Value};
use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::ListingErrorReason;
use super::facts::{Facts, Form};
use super::token::{self, hex4};

type Read = Result<(), ListingErrorReason>;

/// Reads the values in JSON that name PCI functions, and returns the text with their lines left blank.
pub(super) fn take(text: &str, facts: &mut Facts) -> Result<String, (usize, ListingErrorReason)> {
    let mut rest = String::with_capacity(text.len());
    let (mut at, mut number) = (0, 0);
    while let Some(left) = text.get(at..).filter(|left| !left.is_empty()) {
        let length = left.find('\n').map_or(left.len(), |end| end + 1);
        number += 1;
        match value(left) {
            Some((value, length)) if names_device(None, &value) => {
                let mut visitor = Visitor { facts, line: number };
                visitor.visit(&value, None, Above::default()).map_err(|reason| (number, reason))?;
                let lines = left.get(..length).unwrap_or_default().matches('\n').count();
                rest.extend(std::iter::repeat_n('\n', lines));
                (at, number) = (at + length, number + lines - 1);
            }
            _ => {
                rest.push_str(left.get(..length).unwrap_or_default());
                at += length;
            }
        }
    }
    Ok(rest)
}

/// The value in JSON that begins here and goes on to the end of a line, and its length with that line.
fn value(text: &str) -> Option<(Value, usize)> {
    if !text.trim_start_matches([' ', '\t']).starts_with(['{', '[']) {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    let end = values.byte_offset();
    let (line, _) = text.get(end..)?.split_once('\n').unwrap_or((text.get(end..)?, ""));
    line.trim().is_empty().then(|| (value, (end + line.len() + 1).min(text.len())))
}

/// Whether a value names a device anywhere.
fn names_device(key: Option<&str>, value: &Value) -> bool {
    match value {
        Value::Array(values) => values.iter().any(|value| names_device(None, value)),
        Value::Object(object) => {
            device(key, value).is_some() || object.iter().any(|(key, value)| names_device(Some(key), value))
        }
        _ => false,
    }
}

/// What the values around one say.
#[derive(Clone, Copy, Default)]
struct Above {
    /// The device that they are about.
    device: Option<PciAddress>,
    group: Option<i64>,
}

/// Reads one value and all in it.
struct Visitor<'a> {
    facts: &'a mut Facts,
    /// Where it begins.
    line: usize,
}

impl Visitor<'_> {
    /// Visits a value, and its `key` if it has one. The group that an object names is that of the devices in it; one that
    /// is the capability or the group of a device is about that.
    fn visit(&mut self, value: &Value, key: Option<&str>, above: Above) -> Read {
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| self.visit(value, None, above)),
            Value::Object(object) => {
                let own = device(key, value);
                let named = group(key, object);
                let is_group = key.is_some_and(is_group);
                let about = own.or(above.device.filter(|_| is_group || key == Some("capability")));
                let group = named.or(above.group);
                if let Some(device) = about {
                    self.facts.device(device).listed = true;
                    self.facts.device(device).form = Form::Record;
                    if let Some(number) = if own.is_some() { group } else { named } {
                        self.facts.group_number(device, number, self.line)?;
                    }
                    if !is_group {
                        self.describe(object, device)?;
                    }
                }
                let above = Above { device: about, group };
                object.iter().try_for_each(|(key, value)| self.visit(value, Some(key), above))
            }
            _ => Ok(()),
        }
    }

    fn describe(&mut self, object: &Map<String, Value>, device: PciAddress) -> Read {
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        let facts = &mut *self.facts;
        let driver = match object.get("driver").or_else(|| object.get("drivers")) {
            Some(Value::Object(driver)) => driver.get("name").and_then(Value::as_str).map(|name| Some(name.to_owned())),
            Some(Value::String(driver)) => Some(Some(driver.clone()).filter(|driver| !driver.is_empty())),
            Some(Value::Null) => Some(None),
            Some(Value::Array(drivers)) => match &drivers[..] {
                [] => Some(None),
                [driver] => driver.as_str().map(|driver| Some(driver.to_owned())),
                _ => None,
            },
            _ => None,
        };
        if let Some(driver) = driver {
            facts.driver(device, driver, self.line)?;
        }
        if let Some(class) = text("class") {
            facts.class_value(device, class);
        }
        if let Some(ids) = text("vendor").and_then(hex4).zip(text("device").and_then(hex4)) {
            facts.ids(device, ids, self.line)?;
        }
        ["device_name", "name", "product"].iter().filter_map(|key| text(key)).for_each(|name| facts.name(device, name));
        Ok(())
    }
}

/// The device that an object is about: one of its values names it, or its key, or its numbers.
fn device(key: Option<&str>, value: &Value) -> Option<PciAddress> {
    let object = value.as_object()?;
    let named = object.values().filter_map(Value::as_str).find_map(address);
    named.or_else(|| key.and_then(address)).or_else(|| {
        let [domain, bus, slot, function] = ["domain", "bus", "slot", "function"].map(|key| number(object.get(key)?));
        format!("{:04x}:{:02x}:{:02x}.{:x}", domain?, bus?, slot?, function?).parse().ok()
    })
}

/// A number, or one in hex as a text. Other texts are not sure to be decimal.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok())
}

/// The group that an object names: in a value of its own, or as its number if its key is that of a group.
fn group(key: Option<&str>, object: &Map<String, Value>) -> Option<i64> {
    let integer = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    if key.is_some_and(is_group) {
        return ["number", "id", "group"].iter().find_map(|key| integer(object.get(*key)?));
    }
    object.iter().filter(|(key, _)| is_group(key)).find_map(|(_, value)| integer(value))
}

fn is_group(key: &str) -> bool {
    token::words(key).any(|word| token::is_group_word(word.value))
}

/// The address that a text is, and does not only mention.
fn address(text: &str) -> Option<PciAddress> {
    let found = token::addresses(text).into_iter().next()?;
    text.get(..found.place.start)?.chars().all(|c| !c.is_whitespace()).then_some(found.value)
}
