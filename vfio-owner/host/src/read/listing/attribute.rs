//! What a line says of the device that it belongs to.

use vfio_owner::iommu_core::Iova;
use vfio_owner::iommu_core::reserved::{RegionKind, ReservedRegion};
use vfio_owner::vfio_pci;
use vfio_owner::viability::{DriverDma, dma_of};

use super::token::{hex4, ids};

/// What a line says of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Attribute {
    /// The driver that it is on, or none.
    Driver(Option<String>),
    /// The modules that could drive it are shown, so its driver would be.
    Modules,
    /// Its kind in words.
    Class(String),
    /// Its base class and subclass.
    ClassCode(u32),
    Ids((u16, u16)),
    Vendor(u16),
    DeviceId(u16),
    /// Its name or its maker's.
    Name(String),
    NumaNode(u32),
    /// Something else.
    Detail,
}

/// Keys of details that are of no interest here, in lower case.
const DETAILS: [&str; 38] = [
    "bist",
    "bridgectl",
    "bus",
    "capabilities",
    "capacity",
    "clock",
    "control",
    "devicename",
    "flags",
    "interrupt",
    "kernel_subsystem",
    "latency",
    "location",
    "logical name",
    "mac",
    "parent",
    "path",
    "physical id",
    "physical slot",
    "physlot",
    "physslot",
    "power",
    "progif",
    "resources",
    "rev",
    "sdevice",
    "secondary status",
    "serial",
    "size",
    "status",
    "subsys",
    "subsystem",
    "svendor",
    "sysname",
    "version",
    "width",
    "memory behind bridge",
    "i/o behind bridge",
];

/// How details begin that have no key.
const UNKEYED: [&str; 6] =
    ["memory at ", "i/o ports at ", "expansion rom at ", "region ", "prefetchable memory behind bridge", "[virtual] "];

/// Reads a line; `None` if it is no attribute of a device.
pub(super) fn read(text: &str) -> Option<Attribute> {
    if let Some(attribute) = udev(text) {
        return Some(attribute);
    }
    if text.starts_with("This controller is bound to vfio") {
        // Unraid says so instead of the driver.
        return Some(Attribute::Driver(Some(vfio_pci::NAME.to_string())));
    }
    let (key, value) = text.split_once([':', '\t']).or_else(|| text.split_once("  "))?;
    let key = key.trim().trim_matches(['"', '\'']).to_ascii_lowercase();
    let value = value.trim();
    let attribute = match &*key {
        "kernel driver in use" | "driver in use" | "kernel driver" => Attribute::Driver(driver(value)?),
        // What is said behind it is of the driver.
        "driver" => Attribute::Driver(driver(value.split_whitespace().next()?)?),
        "kernel modules" | "module" | "modules" => Attribute::Modules,
        "class" | "description" => Attribute::Class(value.to_owned()),
        "vendor" | "device" | "product" => Attribute::Name(value.to_owned()),
        "numa node" | "numanode" | "numa_node" => value.parse().map_or(Attribute::Detail, Attribute::NumaNode),
        "configuration" => configuration(value),
        _ if is_detail(text) => Attribute::Detail,
        _ => return None,
    };
    Some(attribute)
}

/// The driver of this text: `Some(None)` where it says that there is none, `None` where it says nothing.
#[expect(clippy::option_option, reason = "a driver, no driver, and no word about it are three things")]
pub(super) fn driver(value: &str) -> Option<Option<String>> {
    // Behind such signs somebody says what he thinks of it.
    let value =
        [" <", " #", " (", " --", " //", " ←", " !"].iter().try_fold(value, |value, sign| value.split(sign).next())?;
    let value = value.trim().trim_matches(['"', '\'', ',', '*', '`']);
    match &*value.to_ascii_lowercase() {
        "" => None,
        "none" | "(none)" | "<none>" | "n/a" | "-" | "null" | "(null)" | "unclaimed" | "no driver" => Some(None),
        _ => Some(Some(value.to_owned())),
    }
}

/// lshw's list of settings.
fn configuration(value: &str) -> Attribute {
    let found = value.split_whitespace().find_map(|word| word.strip_prefix("driver="));
    Attribute::Driver(found.map(ToOwned::to_owned))
}

/// A line of umockdev or udevadm: a letter, a colon, and `KEY=VALUE`.
pub(super) fn is_udev(text: &str) -> bool {
    let mut front = text.chars();
    matches!(front.next(), Some('A' | 'E' | 'H' | 'L' | 'N' | 'P' | 'S' | 'U' | 'V')) && front.next() == Some(':')
}

fn udev(text: &str) -> Option<Attribute> {
    let is_uevent = ["DRIVER=", "PCI_CLASS=", "PCI_ID="].iter().any(|key| text.starts_with(key));
    let rest = if is_uevent { text } else { text.get(2..).filter(|_| is_udev(text))?.trim() };
    let Some((key, value)) = rest.split_once('=') else { return Some(Attribute::Detail) };
    let hex = |value: &str| u32::from_str_radix(value.trim_start_matches("0x"), 16).ok();
    Some(match key {
        "DRIVER" => Attribute::Driver(driver(value)?),
        "driver" => Attribute::Driver(value.rsplit('/').next().map(ToOwned::to_owned)),
        "PCI_CLASS" | "class" => hex(value).map_or(Attribute::Detail, |class| Attribute::ClassCode(class >> 8)),
        "PCI_ID" => ids(value).map_or(Attribute::Detail, Attribute::Ids),
        "vendor" => hex4(value).map_or(Attribute::Detail, Attribute::Vendor),
        "device" => hex4(value).map_or(Attribute::Detail, Attribute::DeviceId),
        "numa_node" => value.parse().map_or(Attribute::Detail, Attribute::NumaNode),
        _ => Attribute::Detail,
    })
}

/// The driver that is named in the line of a device: `driver=…`, `drv=…`, or the name alone. What a log says in front of
/// the device, up to `behind`, is another program's driver.
#[expect(clippy::option_option, reason = "a driver, no driver, and no word about it are three things")]
pub(super) fn driver_beside(text: &str, behind: usize) -> Option<Option<String>> {
    for key in ["drv=", "driver=", "driver:", "driver in use:"] {
        let Some(at) = text.to_ascii_lowercase().find(key) else { continue };
        let front = text.get(..at).unwrap_or_default();
        if front.ends_with(|c: char| c.is_alphanumeric() || c == '_') || key.ends_with(':') && at < behind {
            continue;
        }
        let value = text.get(at + key.len()..)?;
        // Behind a sign that wants a value at once, a space says that there is none.
        let value = if key.ends_with('=') { value } else { value.trim_start() };
        return driver(value.split([' ', '\t', ',', ';', ')', ']']).next()?);
    }
    // `dpdk-devbind -s`: what could drive it is shown, and nothing does.
    if text.contains(" unused=") {
        return Some(None);
    }
    if ["(no driver)", "[no driver]"].iter().any(|words| text.ends_with(words)) {
        return Some(None);
    }
    if let Some(name) = text.trim_end().strip_suffix([']', '}']).and_then(|front| front.rsplit(['[', '{']).next())
        && text.contains(['[', '{'])
        && dma_of(name) != DriverDma::Unknown
    {
        return Some(Some(name.to_owned()));
    }
    // `driverctl list-devices`
    let mut words = text.split_whitespace().skip(1).filter(|word| !matches!(*word, "->" | "=>" | "→" | ":" | "driver"));
    let (word, more) = (words.next()?, words.next());
    if !matches!(more, None | Some("[*]")) || words.next().is_some() {
        return None;
    }
    match word {
        "(none)" => Some(None),
        name if dma_of(name) != DriverDma::Unknown => Some(Some(name.to_owned())),
        _ => None,
    }
}

/// The driver in a path of sysfs, in which a driver's folder leads to its devices or a device's link to its driver.
pub(super) fn driver_in_path(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("pci/drivers/")?;
    let name = rest.split(['/', ' ', '\'', '"']).next()?;
    Some(name.to_owned()).filter(|name| !name.is_empty() && !name.contains(['*', '$']))
}

/// A line of `reserved_regions` behind the name of the file.
pub(super) fn region(text: &str) -> Option<ReservedRegion> {
    let mut words = text.trim_start_matches(':').split_whitespace();
    let mut address = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok().map(Iova::new);
    let (first, last) = (address()?, address()?);
    let name = words.next()?;
    let kinds = [RegionKind::Direct, RegionKind::DirectRelaxable, RegionKind::Reserved, RegionKind::Msi];
    let kind = kinds.into_iter().find(|kind| kind.name() == name)?;
    Some(ReservedRegion { first, kind, last })
}

/// Whether a line is a detail of a device that is of no interest here.
pub(super) fn is_detail(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let key = lower.split([':', '\t']).next().filter(|key| key.len() < lower.len());
    key.is_some_and(|key| DETAILS.contains(&key.trim())) || UNKEYED.iter().any(|start| lower.starts_with(start))
}

/// Whether a device's line begins a record of `KEY: VALUE` lines.
pub(super) fn is_record_key(text: &str) -> bool {
    let key = text.split([':', '=']).next().unwrap_or_default().trim().trim_matches('"').to_ascii_lowercase();
    matches!(&*key, "slot" | "device" | "bus info" | "address" | "p" | "pci_slot_name" | "pci slot" | "e")
}

/// Whether a line is one of those that stand between others and say nothing of devices on PCI.
pub(super) fn is_noise(text: &str) -> bool {
    let usb = text.contains("Bus ") && text.contains("Device ");
    let total = text.strip_prefix("total ").is_some_and(|rest| rest.parse::<u64>().is_ok());
    let dots = text.starts_with("dr") && [" .", " .."].iter().any(|end| text.ends_with(end));
    usb || total
        || dots
        || text.starts_with("IOMMU: ")
        || matches!(text, "devices" | "reserved_regions" | "type" | "name")
}
