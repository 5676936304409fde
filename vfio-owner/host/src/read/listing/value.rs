//! Values in JSON or YAML: every object that names a PCI function, and lists of those of a group.

use serde_json::{Map, Value};
use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::ListingErrorReason;
use super::attribute;
use super::facts::{Facts, Form};
use super::json;
use super::token::{self, hex4};
use super::yaml::Block;

type Read = Result<(), ListingErrorReason>;

/// Reads the values that name PCI functions, and returns the text with their lines left blank.
pub(super) fn take(text: &str, facts: &mut Facts) -> Result<String, (usize, ListingErrorReason)> {
    let mut rest = String::with_capacity(text.len());
    let (mut at, mut number) = (0, 1);
    while let Some(left) = text.get(at..).filter(|left| !left.is_empty()) {
        let (value, length) = part(left, &rest);
        let read = left.get(..length).unwrap_or_default();
        let lines = read.matches('\n').count();
        let mut visitor = Visitor { facts, line: number, found: false };
        if let Some(value) = value {
            visitor.visit(&value, None, Above::default()).map_err(|reason| (number, reason))?;
        }
        if visitor.found {
            rest.extend(std::iter::repeat_n('\n', lines));
        } else {
            rest.push_str(read);
        }
        (at, number) = (at + length, number + lines);
    }
    Ok(rest)
}

/// What the text begins with, a value or lines that are none, and its length. `above` stands above it.
fn part(text: &str, above: &str) -> (Option<Value>, usize) {
    if let Some((value, length)) = json::value(text) {
        return (Some(value), length);
    }
    if let Some(block) = Block::at_start_of(text) {
        let heading = above.trim_end().lines().next_back().unwrap_or_default();
        let is_below_group = !token::groups(heading, &[]).is_empty();
        return (block.value().filter(|value| !is_below_group || names_group(value)), block.len());
    }
    (None, text.find('\n').map_or(text.len(), |end| end + 1))
}

fn names_group(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.iter().any(names_group),
        Value::Object(object) => object.iter().any(|(key, value)| is_group(key) || names_group(value)),
        _ => false,
    }
}

/// What the values around one say.
#[derive(Clone, Copy, Default)]
struct Above {
    /// The device that they are about.
    device: Option<PciAddress>,
    group: Option<i64>,
    /// The value is the list of the group's devices.
    members: bool,
}

/// Reads one value and all in it.
struct Visitor<'a> {
    facts: &'a mut Facts,
    /// Where it begins.
    line: usize,
    /// It names a device.
    found: bool,
}

impl Visitor<'_> {
    /// Visits a value, and its `key` if it has one. The group that an object names is that of the devices in it; one that
    /// is the capability or the group of a device is about that.
    fn visit(&mut self, value: &Value, key: Option<&str>, above: Above) -> Read {
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| self.visit(value, None, above)),
            Value::Object(object) => self.object(object, key, above),
            Value::String(text) if above.members => {
                address(text).map_or(Ok(()), |device| self.device(device, above.group))
            }
            _ => Ok(()),
        }
    }

    fn object(&mut self, object: &Map<String, Value>, key: Option<&str>, above: Above) -> Read {
        let own = device(key, object);
        let named = group(key, object);
        let is_the_group = key.is_some_and(is_group);
        let about = own.or(above.device.filter(|_| is_the_group || key == Some("capability")));
        let group = named.or(above.group);
        if let Some(device) = about {
            self.device(device, if own.is_some() { group } else { named })?;
            if !is_the_group {
                self.describe(object, device)?;
            }
        }
        object.iter().try_for_each(|(entry, value)| {
            let numbered = group_of_key(key, entry);
            let members = numbered.is_some() || matches!(&**entry, "devices" | "members" | "functions");
            self.visit(value, Some(entry), Above { device: about, group: numbered.or(group), members })
        })
    }

    /// A device is listed, as one of this group if there is one.
    fn device(&mut self, device: PciAddress, group: Option<i64>) -> Read {
        self.found = true;
        self.facts.device(device).listed = true;
        self.facts.device(device).form = Form::Record;
        group.map_or(Ok(()), |number| self.facts.group_number(device, number, self.line))
    }

    fn describe(&mut self, object: &Map<String, Value>, device: PciAddress) -> Read {
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        let facts = &mut *self.facts;
        let driver = match object.get("driver").or_else(|| object.get("drivers")) {
            Some(Value::Object(driver)) => driver.get("name").and_then(Value::as_str).map(|name| Some(name.to_owned())),
            Some(Value::String(driver)) if driver.is_empty() => Some(None),
            Some(Value::String(driver)) => attribute::driver(driver),
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
        let id = |key: &str, other: &str| text(key).or_else(|| text(other)).and_then(hex4);
        if let Some(ids) = id("vendor", "vendor_id").zip(id("device", "device_id")) {
            facts.ids(device, ids, self.line)?;
        }
        ["device_name", "name", "product"].iter().filter_map(|key| text(key)).for_each(|name| facts.name(device, name));
        Ok(())
    }
}

/// The device that an object is about: one of its values names it, or its key, or its numbers.
fn device(key: Option<&str>, object: &Map<String, Value>) -> Option<PciAddress> {
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

/// The group that a key names, by itself or as a number among groups.
fn group_of_key(above: Option<&str>, key: &str) -> Option<i64> {
    let named = token::groups(key, &[]).first().and_then(|group| group.value.known());
    named.or_else(|| key.parse::<u32>().ok().filter(|_| above.is_some_and(is_group))).map(i64::from)
}

fn is_group(key: &str) -> bool {
    token::words(key).any(|word| token::is_group_word(word.value))
}

/// The address that a text is, and does not only mention.
fn address(text: &str) -> Option<PciAddress> {
    let found = token::addresses(text).into_iter().next()?;
    text.get(..found.place.start)?.chars().all(|c| !c.is_whitespace()).then_some(found.value)
}
