//! What the attributes of a PCI function say, and how they are written.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use iommu_core::device_model::pci::{Bar, BarKind, Bars, ConfigSpace, HeaderLayout, PciFunction};
use iommu_core::device_model::{AnyDevice, Device};

use super::super::machine::{Machine, Pci};
use super::Shared;
use super::attribute::number;
use super::error::AttributeError;
use super::settings::Switch;
use crate::device_ops::DeviceOps;
use crate::vfio_pci::{
    CAP_EXPRESS, CAP_POWER, NAME as VFIO_PCI, capability, has_advanced_features_reset, has_express_reset,
    resets_by_power,
};

const INTERRUPT_LINE: u16 = 0x3c;
const INTERRUPT_PIN: u16 = 0x3d;

/// The ids that go into `modalias` and `uevent`.
struct Ids {
    vendor: u16,
    device: u16,
    subvendor: u16,
    subdevice: u16,
    class: u32,
}

impl Ids {
    fn of(config: &ConfigSpace) -> Self {
        Self {
            vendor: config.vendor().unwrap_or(u16::MAX),
            device: config.device().unwrap_or(u16::MAX),
            subvendor: config.subsystem_vendor().unwrap_or(0),
            subdevice: config.subsystem_device().unwrap_or(0),
            class: config.class().unwrap_or(0),
        }
    }

    fn modalias(&self) -> String {
        let Self { vendor, device, subvendor, subdevice, class } = self;
        let [_, base, sub, interface] = class.to_be_bytes();
        let ids = format!("v{vendor:08X}d{device:08X}sv{subvendor:08X}sd{subdevice:08X}");
        format!("pci:{ids}bc{base:02X}sc{sub:02X}i{interface:02X}")
    }
}

/// The texts that never change, by name; `above` is the bridge.
pub(super) fn fixed(function: &PciFunction, above: Option<&PciFunction>) -> Vec<(&'static str, String)> {
    let config = &function.config;
    let ids = Ids::of(config);
    let has_pin = config.read_u8(INTERRUPT_PIN).is_some_and(|pin| pin != 0);
    let irq = config.read_u8(INTERRUPT_LINE).filter(|line| has_pin && *line != u8::MAX);
    let mut texts = vec![
        ("vendor", format!("{:#06x}\n", ids.vendor)),
        ("device", format!("{:#06x}\n", ids.device)),
        ("subsystem_vendor", format!("{:#06x}\n", ids.subvendor)),
        ("subsystem_device", format!("{:#06x}\n", ids.subdevice)),
        ("revision", format!("{:#04x}\n", config.revision().unwrap_or(0))),
        ("class", format!("{:#08x}\n", ids.class)),
        ("modalias", format!("{}\n", ids.modalias())),
        ("irq", format!("{}\n", irq.unwrap_or(0))),
        ("resource", resource(function)),
        ("ari_enabled", format!("{}\n", u8::from(above.is_some_and(|above| forwards_ari(&above.config))))),
        ("local_cpus", "1\n".into()),
        ("local_cpulist", "0\n".into()),
        ("dma_mask_bits", "32\n".into()),
        ("consistent_dma_mask_bits", "32\n".into()),
    ];
    if let (Some(secondary), Some(subordinate)) = (config.secondary_bus(), config.subordinate_bus()) {
        texts.push(("secondary_bus_number", format!("{secondary}\n")));
        texts.push(("subordinate_bus_number", format!("{subordinate}\n")));
    }
    if ids.class >> 8 == 0x0300 {
        texts.push(("boot_vga", "1\n".into()));
    }
    texts.extend(link(config));
    if let Some(sriov) = config.sriov().filter(|_| function.physical_function.is_none()) {
        texts.push(("sriov_totalvfs", format!("{}\n", sriov.total)));
        texts.push(("sriov_offset", format!("{}\n", sriov.offset)));
        texts.push(("sriov_stride", format!("{}\n", sriov.stride)));
        texts.push(("sriov_vf_device", format!("{:x}\n", sriov.device)));
        texts.push(("sriov_vf_total_msix", "0\n".into()));
    }
    texts
}

/// The speed and the width of the link, where there is one.
fn link(config: &ConfigSpace) -> Vec<(&'static str, String)> {
    let register = |at: u16| capability(config, CAP_EXPRESS).and_then(|express| config.read_u16(express + at));
    let (Some(most), Some(now)) = (register(0x0c), register(0x12)) else { return Vec::new() };
    let speed = |code: u16| match code & 0xf {
        1 => "2.5 GT/s PCIe\n",
        2 => "5.0 GT/s PCIe\n",
        3 => "8.0 GT/s PCIe\n",
        4 => "16.0 GT/s PCIe\n",
        5 => "32.0 GT/s PCIe\n",
        _ => "Unknown\n",
    };
    let width = |code: u16| format!("{}\n", code >> 4 & 0x3f);
    vec![
        ("max_link_speed", speed(most).into()),
        ("max_link_width", width(most)),
        ("current_link_speed", speed(now).into()),
        ("current_link_width", width(now)),
    ]
}

/// Whether a bridge forwards requests of functions beyond the eighth: a bit of Device Control 2.
fn forwards_ari(config: &ConfigSpace) -> bool {
    let control = capability(config, CAP_EXPRESS).and_then(|express| config.read_u16(express + 0x28));
    control.is_some_and(|control| control & 1 << 5 != 0)
}

/// The lines of `resource`: registers, ROM, those of virtual functions, and the windows of a bridge.
fn resource(function: &PciFunction) -> String {
    let line = |first: u64, last: u64, flags: u64| format!("{first:#018x} {last:#018x} {flags:#018x}\n");
    // So many of them one after the other.
    let of = |bar: Option<Bar>, count: u64, flags: fn(Bar) -> u64| match bar {
        Some(bar) => {
            let bytes = bar.size().saturating_mul(count);
            line(bar.address(), bar.address().saturating_add(bytes.saturating_sub(1)), flags(bar))
        }
        None => line(0, 0, 0),
    };
    let all = |bars: &Bars, count| -> String {
        (0..Bars::SLOTS).map(|slot| of(bars.get(slot), count, window_flags)).collect()
    };
    let total = function.config.sriov().map_or(0, |sriov| sriov.total);
    let mut text = all(&function.bars, 1);
    text += &of(function.bars.rom(), 1, rom_flags);
    text += &all(&function.virtual_bars, total.into());
    if function.config.layout() == Some(HeaderLayout::Bridge) {
        for window in windows(&function.config) {
            text += &window.map_or_else(|| line(0, 0, 0), |(first, last, flags)| line(first, last, flags));
        }
    }
    text
}

// The flags of a resource, of which the lowest bits are those of the register.
const IO: u64 = 0x100;
const MEMORY: u64 = 0x200;
const PREFETCHABLE: u64 = 0x2000;
const READ_ONLY: u64 = 0x4000;
const ALIGNED_TO_SIZE: u64 = 0x4_0000;
const WIDE: u64 = 0x10_0000;
/// Where firmware leaves its copy of the ROM of the display that it used.
const DISPLAY_ROM: u64 = 0xc_0000;
const FIXED_COPY: u64 = 0x12;

fn window_flags(bar: Bar) -> u64 {
    let prefetch = |prefetchable| if prefetchable { PREFETCHABLE | 0b1000 } else { 0 };
    ALIGNED_TO_SIZE
        | match bar.kind() {
            BarKind::Io => IO | 0b1,
            BarKind::Memory32 { prefetchable } => MEMORY | prefetch(prefetchable),
            BarKind::Memory64 { prefetchable } => MEMORY | WIDE | 0b100 | prefetch(prefetchable),
        }
}

fn rom_flags(rom: Bar) -> u64 {
    if rom.address() == DISPLAY_ROM {
        return MEMORY | FIXED_COPY;
    }
    MEMORY | PREFETCHABLE | READ_ONLY | ALIGNED_TO_SIZE
}

/// The windows of a bridge: ports, memory, prefetchable memory, and one that no PCI bridge has.
fn windows(config: &ConfigSpace) -> [Option<(u64, u64, u64)>; 4] {
    let word = |at| config.read_u16(at).map_or(0, u64::from);
    let byte = |at| config.read_u8(at).map_or(0, u64::from);
    let open = |first: u64, last: u64, flags: u64| (first <= last).then_some((first, last, flags));
    let io_kind = byte(0x1c) & 0xf;
    let io = |low: u16, high: u16| (byte(low) & 0xf0) << 8 | if io_kind == 0 { 0 } else { word(high) << 16 };
    let pref_kind = word(0x24) & 0xf;
    let pref = |low: u16, high: u16| {
        let upper = config.read_u32(high).filter(|_| pref_kind == 1).map_or(0, u64::from);
        (word(low) & 0xfff0) << 16 | upper << 32
    };
    let wide = if pref_kind == 1 { WIDE } else { 0 };
    [
        open(io(0x1c, 0x30), io(0x1d, 0x32) | 0xfff, IO | io_kind),
        open((word(0x20) & 0xfff0) << 16, (word(0x22) & 0xfff0) << 16 | 0xf_ffff, MEMORY),
        open(pref(0x24, 0x28), pref(0x26, 0x2c) | 0xf_ffff, MEMORY | PREFETCHABLE | wide | pref_kind),
        None,
    ]
}

/// What udev is told of the device.
pub(super) fn uevent(dev: &Device<Pci>) -> String {
    let ids = Ids::of(&dev.description().config);
    let driver = dev.driver_hint().map(|driver| format!("DRIVER={driver}\n")).unwrap_or_default();
    let Ids { vendor, device, subvendor, subdevice, class } = ids;
    format!(
        "{driver}PCI_CLASS={class:X}\nPCI_ID={vendor:04X}:{device:04X}\nPCI_SUBSYS_ID={subvendor:04X}:{subdevice:04X}\n\
         PCI_SLOT_NAME={}\nMODALIAS={}\n",
        dev.name(),
        ids.modalias()
    )
}

pub(super) fn driver_override(dev: &Device<Pci>) -> String {
    // D17.
    dev.driver_override().map_or_else(|| "(null)\n".into(), |driver| format!("{driver}\n"))
}

/// Whether the function is enabled: by a driver that uses it, or as a bridge above one that is.
pub(super) fn is_enabled(machine: &Machine, dev: &dyn AnyDevice) -> bool {
    let used = match dev.driver_hint().as_deref() {
        None | Some("pci-stub") => false,
        Some(VFIO_PCI) => is_open(machine, dev),
        Some(_) => true,
    };
    used || dev.children().iter().any(|child| is_enabled(machine, &**child))
}

fn is_open(machine: &Machine, dev: &dyn AnyDevice) -> bool {
    machine.vfio_pci().device(dev.name()).is_some_and(|device| device.is_open())
}

/// Whether a write to `enable` enables.
pub(super) fn enable(vfs: &Shared, dev: &Device<Pci>, text: &str) -> Result<bool, AttributeError> {
    let wanted = number(text)? != 0;
    if let Some(driver) = dev.driver_hint() {
        return Err(AttributeError::HasDriver { device: dev.name().clone(), driver });
    }
    if !wanted && !vfs.machine.settings.is_on(dev, Switch::Enabled) && !is_enabled(&vfs.machine, dev) {
        return Err(AttributeError::NotEnabled { device: dev.name().clone() });
    }
    Ok(wanted)
}

/// Whether vfio-pci lets the function sleep, since nobody has it open.
// V105.
fn sleeps(machine: &Machine, dev: &Device<Pci>) -> bool {
    dev.driver_hint().as_deref() == Some(VFIO_PCI) && !is_open(machine, dev)
}

pub(super) fn power_state(machine: &Machine, dev: &Device<Pci>) -> &'static str {
    let has_states = capability(&dev.description().config, CAP_POWER).is_some();
    match (has_states, sleeps(machine, dev)) {
        (true, true) => "D3hot\n",
        (true, false) => "D0\n",
        (false, _) if is_enabled(machine, dev) => "D0\n",
        (false, _) => "unknown\n",
    }
}

pub(super) fn runtime_status(machine: &Machine, dev: &Device<Pci>) -> &'static str {
    if sleeps(machine, dev) { "suspended\n" } else { "active\n" }
}

/// The ways in which the function can be reset alone, the best first. Whether a reset of the bus is one was found out when
/// it came, with those that came later not there yet.
// V87.
pub(super) fn reset_methods(dev: &Device<Pci>) -> Vec<&'static str> {
    let config = &dev.description().config;
    let oldest = dev.parent().and_then(|bridge| bridge.children().first().map(|child| child.id()));
    let methods = [
        (has_express_reset(config), "flr"),
        (has_advanced_features_reset(config), "af_flr"),
        (resets_by_power(config), "pm"),
        (oldest == Some(dev.id()), BUS_RESET),
    ];
    methods.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
}

const BUS_RESET: &str = "bus";

pub(super) fn reset_method(dev: &Device<Pci>) -> String {
    format!("{}\n", reset_methods(dev).join(" "))
}

/// Only what is there already can be chosen: other orders, and none, are not simulated.
pub(super) fn set_reset_method(dev: &Device<Pci>, text: &str) -> Result<(), AttributeError> {
    let text = text.trim();
    let known = reset_methods(dev);
    if text == "default" || (!text.is_empty() && text.split_whitespace().all(|name| known.contains(&name))) {
        return Ok(());
    }
    Err(AttributeError::Malformed { text: text.into(), expected: "a reset method of the device" })
}

pub(super) fn reset(machine: &Machine, dev: &Device<Pci>, text: &str) -> Result<(), AttributeError> {
    if number(text)? != 1 {
        return Err(AttributeError::Malformed { text: text.into(), expected: "1" });
    }
    let alone = || dev.parent().is_some_and(|bridge| bridge.children().len() == 1);
    if !reset_methods(dev).iter().any(|&method| method != BUS_RESET || alone()) {
        return Err(AttributeError::NotResettable { device: dev.name().clone() });
    }
    if let Some(served) = machine.vfio_pci().device(dev.name()) {
        served.hot_reset();
    }
    Ok(())
}
