//! Which files there are: from the structure of a machine to its tree.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use iommu_core::GroupId;
use iommu_core::device_model::pci::{BarKind, HeaderLayout, PciAddress};
use iommu_core::hardware::Description;

use super::super::intel;
use super::attribute::{Attribute, Command, Content, Owner};
use super::char_device::CharDevice;
use super::device_text::fixed;
use super::settings::Switch;
use super::structure::{PciDevice, Structure};
use super::tree::{Directory, HostEntries, Node, Planting};

const BUS: &str = "/sys/bus/pci";
const CLASS: &str = "/sys/class";
const GROUPS: &str = "/sys/kernel/iommu_groups";
const MODULES: &str = "/sys/module";
const VIRTUAL: &str = "/sys/devices/virtual";

/// The modules of VFIO and iommufd, with their parameters.
const MODULE_PARAMETERS: [(&str, &[(&str, &str)]); 5] = [
    ("vfio", &[("enable_unsafe_noiommu_mode", "N\n")]),
    (
        "vfio_iommu_type1",
        &[("allow_unsafe_interrupts", "N\n"), ("disable_hugepages", "N\n"), ("dma_entry_limit", "65535\n")],
    ),
    ("vfio_pci_core", &[]),
    (
        "vfio_pci",
        &[
            ("disable_denylist", "N\n"),
            ("disable_idle_d3", "N\n"),
            ("disable_vga", "N\n"),
            ("enable_sriov", "N\n"),
            ("ids", "\n"),
            ("nointxmask", "N\n"),
        ],
    ),
    ("iommufd", &[("allow_unsafe_interrupts", "N\n")]),
];

/// Drivers that are in the kernel itself, not in a module.
const BUILT_IN: [&str; 1] = ["pcieport"];

pub(super) fn root(structure: &Structure) -> Directory {
    let mut planting = Planting::new();
    share_with_host(&mut planting);
    bus(&mut planting);
    for driver in &structure.drivers {
        plant_driver(&mut planting, driver);
    }
    for (name, parameters) in MODULE_PARAMETERS {
        module(&mut planting, name);
        for (parameter, value) in parameters {
            text(&mut planting, &Owner::Machine, &format!("{MODULES}/{name}/parameters/{parameter}"), *value);
        }
    }
    for (name, description) in &structure.iommus {
        iommu_unit(&mut planting, name, description);
    }
    for &id in &structure.groups {
        group(&mut planting, id);
    }
    let by_path: BTreeMap<&str, &PciDevice> = structure.devices.iter().map(|dev| (&*dev.path, dev)).collect();
    for dev in &structure.devices {
        let above = dev.path.rsplit_once('/').and_then(|(above, _)| by_path.get(above)).copied();
        device(&mut planting, dev, above);
    }
    virtual_functions(&mut planting, structure);
    if structure.injects_faults {
        fault_injection(&mut planting);
    }
    device_files(&mut planting, structure);
    planting.grown()
}

/// The files of debugfs that say where faults are injected.
// F115.
fn fault_injection(planting: &mut Planting) {
    const DEBUG: &str = "/sys/kernel/debug";
    let files = [
        ("failslab/ignore-gfp-wait", "Y\n"),
        ("failslab/verbose", "2\n"),
        ("fail_page_alloc/ignore-gfp-wait", "Y\n"),
        ("fail_page_alloc/ignore-gfp-highmem", "Y\n"),
        ("fail_page_alloc/verbose", "2\n"),
    ];
    for (file, initial) in files {
        add(planting, &Owner::Machine, &format!("{DEBUG}/{file}"), Content::FaultSetting { file, initial });
    }
}

/// Where the host's files are seen beside the machine's. The host's devices and their drivers are not.
fn share_with_host(planting: &mut Planting) {
    let kernel = ["/sys/bus", CLASS, "/sys/class/misc", "/sys/dev", "/sys/dev/char", "/sys/kernel", MODULES];
    let devices = [VIRTUAL, "/sys/devices/virtual/misc"];
    for path in ["/", "/dev", "/proc", "/proc/bus", "/sys"].into_iter().chain(kernel).chain(devices) {
        planting.shared(path, HostEntries::Beside);
    }
    planting.shared("/sys/devices", HostEntries::Only(&["system"]));
}

fn add(planting: &mut Planting, owner: &Owner, path: &str, content: Content) {
    planting.add(path, Node::Attribute(Attribute::new(owner.clone(), content)));
}

fn text(planting: &mut Planting, owner: &Owner, path: &str, text: impl Into<Arc<str>>) {
    add(planting, owner, path, Content::Text(text.into()));
}

fn bus(planting: &mut Planting) {
    planting.directory("/sys/bus/pci/devices");
    planting.directory("/sys/bus/pci/drivers");
    planting.directory("/sys/bus/pci/slots");
    planting.directory(GROUPS);
    let files = [
        ("uevent", Content::Command(Command::Uevent)),
        ("drivers_probe", Content::Command(Command::DriversProbe)),
        ("drivers_autoprobe", Content::DriversAutoprobe),
        ("rescan", Content::Command(Command::Rescan)),
    ];
    for (name, content) in files {
        add(planting, &Owner::Machine, &format!("{BUS}/{name}"), content);
    }
}

fn plant_driver(planting: &mut Planting, driver: &Arc<str>) {
    let owner = Owner::Driver(driver.clone());
    let path = format!("{BUS}/drivers/{driver}");
    let files = [
        ("bind", Command::Bind),
        ("unbind", Command::Unbind),
        ("new_id", Command::NewId),
        ("remove_id", Command::RemoveId),
        ("uevent", Command::Uevent),
    ];
    for (name, command) in files {
        add(planting, &owner, &format!("{path}/{name}"), Content::Command(command));
    }
    if !BUILT_IN.contains(&&**driver) {
        let name = driver.replace('-', "_");
        module(planting, &name);
        if name != **driver {
            // driverctl looks here by the driver's name, and asks modprobe otherwise, which knows the host's kernel only.
            planting.link(&format!("{MODULES}/{driver}"), &name);
        }
        planting.relative_link(&format!("{path}/module"), &format!("{MODULES}/{name}"));
        planting.relative_link(&format!("{MODULES}/{name}/drivers/pci:{driver}"), &path);
    }
}

fn module(planting: &mut Planting, name: &str) {
    let path = format!("{MODULES}/{name}");
    text(planting, &Owner::Machine, &format!("{path}/initstate"), "live\n");
    text(planting, &Owner::Machine, &format!("{path}/refcnt"), "0\n");
    planting.directory(&format!("{path}/holders"));
}

fn group(planting: &mut Planting, id: GroupId) {
    let owner = Owner::Group(id);
    let path = format!("{GROUPS}/{id}");
    add(planting, &owner, &format!("{path}/type"), Content::Type);
    add(planting, &owner, &format!("{path}/reserved_regions"), Content::ReservedRegions);
    planting.directory(&format!("{path}/devices"));
}

fn device(planting: &mut Planting, dev: &PciDevice, above: Option<&PciDevice>) {
    let PciDevice { name, path, function, .. } = dev;
    let owner = Owner::Device { name: name.clone(), id: dev.id };
    for (file, content) in fixed(function, above.map(|above| &*above.function)) {
        text(planting, &owner, &format!("{path}/{file}"), content);
    }
    // The length of a configuration space fits.
    let config_bytes = function.config.bytes().len() as u64;
    let mut files = alloc::vec![
        ("config", Content::Config(config_bytes)),
        ("driver_override", Content::DriverOverride),
        ("enable", Content::Enable),
        ("power_state", Content::PowerState),
        ("power/runtime_status", Content::RuntimeStatus),
        ("power/control", Content::Switch(Switch::RuntimePower)),
        ("d3cold_allowed", Content::Switch(Switch::ColdSleep)),
        ("msi_bus", Content::Switch(Switch::MessageInterrupts)),
        ("broken_parity_status", Content::Switch(Switch::BrokenParity)),
        ("numa_node", Content::NumaNode),
        ("remove", Content::Command(Command::Remove)),
        ("rescan", Content::Command(Command::Rescan)),
        ("uevent", Content::DeviceUevent),
    ];
    if !dev.reset_methods.is_empty() {
        files.push(("reset", Content::Command(Command::Reset)));
        files.push(("reset_method", Content::ResetMethod));
    }
    for (file, content) in files {
        add(planting, &owner, &format!("{path}/{file}"), content);
    }
    if function.config.sriov().is_some() && function.physical_function.is_none() {
        add(planting, &owner, &format!("{path}/sriov_numvfs"), Content::VirtualFunctions);
        add(planting, &owner, &format!("{path}/sriov_drivers_autoprobe"), Content::Switch(Switch::VirtualAutoprobe));
    }
    windows(planting, dev, &owner);
    root_bus(planting, dev, above);
    links(planting, dev);
    if let Some(number) = dev.vfio {
        vfio_device(planting, dev, &owner, number);
    }
}

/// The files through which the windows of a function could be mapped.
fn windows(planting: &mut Planting, dev: &PciDevice, owner: &Owner) {
    let PciDevice { path, function, .. } = dev;
    for (slot, bar) in function.bars.iter() {
        add(planting, owner, &format!("{path}/resource{slot}"), Content::Resource { bytes: bar.size() });
        if matches!(bar.kind(), BarKind::Memory32 { prefetchable: true } | BarKind::Memory64 { prefetchable: true }) {
            add(planting, owner, &format!("{path}/resource{slot}_wc"), Content::Resource { bytes: bar.size() });
        }
    }
    if let Some(rom) = function.bars.rom() {
        add(planting, owner, &format!("{path}/rom"), Content::Resource { bytes: rom.size() });
    }
}

/// The buses: the root's with its first function, that of a bridge below the bridge.
fn root_bus(planting: &mut Planting, dev: &PciDevice, above: Option<&PciDevice>) {
    let address = dev.function.address;
    if above.is_none()
        && let Some((directory, _)) = dev.path.rsplit_once('/')
    {
        pci_bus(planting, directory, address, address.bus());
    }
    if dev.function.config.layout() == Some(HeaderLayout::Bridge)
        && let Some(secondary) = dev.function.config.secondary_bus()
    {
        pci_bus(planting, &dev.path, address, secondary);
    }
}

fn pci_bus(planting: &mut Planting, bridge: &str, address: PciAddress, number: u8) {
    let name = format!("{:04x}:{number:02x}", address.domain());
    let path = format!("{bridge}/pci_bus/{name}");
    text(planting, &Owner::Machine, &format!("{path}/cpuaffinity"), "1\n");
    text(planting, &Owner::Machine, &format!("{path}/cpulistaffinity"), "0\n");
    add(planting, &Owner::Machine, &format!("{path}/rescan"), Content::Command(Command::Rescan));
    planting.relative_link(&format!("{path}/device"), bridge);
    class(planting, "pci_bus", &name, &path);
}

/// Makes the device at `path` one of a class.
fn class(planting: &mut Planting, class: &str, name: &str, path: &str) {
    planting.relative_link(&format!("{path}/subsystem"), &format!("{CLASS}/{class}"));
    planting.relative_link(&format!("{CLASS}/{class}/{name}"), path);
}

fn links(planting: &mut Planting, dev: &PciDevice) {
    let PciDevice { name, path, .. } = dev;
    planting.relative_link(&format!("{BUS}/devices/{name}"), path);
    planting.relative_link(&format!("{path}/subsystem"), BUS);
    if let Some(driver) = &dev.driver {
        let driver = format!("{BUS}/drivers/{driver}");
        planting.relative_link(&format!("{path}/driver"), &driver);
        planting.relative_link(&format!("{driver}/{name}"), path);
    }
    if let Some(group) = dev.group {
        let group = format!("{GROUPS}/{group}");
        planting.relative_link(&format!("{path}/iommu_group"), &group);
        planting.relative_link(&format!("{group}/devices/{name}"), path);
    }
    if let Some(iommu) = &dev.iommu {
        let iommu = iommu_path(iommu);
        planting.relative_link(&format!("{path}/iommu"), &iommu);
        planting.relative_link(&format!("{iommu}/devices/{name}"), path);
    }
}

/// The IOMMU itself. Clients read in its registers how wide addresses are.
fn iommu_unit(planting: &mut Planting, name: &str, description: &Description) {
    let path = iommu_path(name);
    if let Some([capabilities, extended]) = intel::registers(description) {
        let registers = [
            ("address", "fed90000\n".into()),
            ("cap", format!("{capabilities:x}\n")),
            ("domains_supported", "65536\n".into()),
            ("ecap", format!("{extended:x}\n")),
            ("version", String::from("1:0\n")),
        ];
        for (file, value) in registers {
            text(planting, &Owner::Machine, &format!("{path}/intel-iommu/{file}"), value);
        }
    }
    planting.directory(&format!("{path}/devices"));
    class(planting, "iommu", name, &path);
}

fn iommu_path(name: &str) -> String {
    format!("{VIRTUAL}/iommu/{name}")
}

fn vfio_device(planting: &mut Planting, dev: &PciDevice, owner: &Owner, number: u32) {
    let name = format!("vfio{number}");
    let path = format!("{}/vfio-dev/{name}", dev.path);
    let file = CharDevice::device(dev.name.clone(), number);
    char_device(planting, owner, &path, &format!("vfio/devices/{name}"), file);
    planting.relative_link(&format!("{path}/device"), &dev.path);
    class(planting, "vfio-dev", &name, &path);
}

/// The links between virtual functions and their physical one.
fn virtual_functions(planting: &mut Planting, structure: &Structure) {
    let paths: BTreeMap<PciAddress, &str> =
        structure.devices.iter().map(|dev| (dev.function.address, &*dev.path)).collect();
    for dev in &structure.devices {
        let Some(sriov) = dev.function.config.sriov() else { continue };
        let addresses = (0..sriov.total).map(|index| (index, sriov.address(dev.function.address, index)));
        for (index, path) in addresses.filter_map(|(index, address)| Some((index, paths.get(&address?)?))) {
            planting.relative_link(&format!("{}/virtfn{index}", dev.path), path);
            planting.relative_link(&format!("{path}/physfn"), &dev.path);
        }
    }
}

/// What is below `/dev`, and how the classes show it.
fn device_files(planting: &mut Planting, structure: &Structure) {
    // Hidden with all that the host has there, even while the machine has nothing.
    for path in ["/sys/class/iommu", "/sys/class/vfio", "/sys/class/vfio-dev", "/sys/devices/virtual/iommu"] {
        planting.directory(path);
    }
    for path in ["/sys/devices/virtual/vfio", "/sys/class/pci_bus", "/dev/vfio", "/proc/bus/pci"] {
        planting.directory(path);
    }
    for (name, file) in [("vfio/vfio", CharDevice::CONTAINER), ("iommu", CharDevice::IOMMUFD)] {
        let last = name.rsplit('/').next().unwrap_or(name);
        let path = format!("{VIRTUAL}/misc/{last}");
        char_device(planting, &Owner::Machine, &path, name, file);
        class(planting, "misc", last, &path);
    }
    for node in &structure.group_nodes {
        let name = format!("{}", node.group);
        let path = format!("{VIRTUAL}/vfio/{name}");
        let file = CharDevice::group(node.group, node.minor);
        char_device(planting, &Owner::Group(node.group), &path, &format!("vfio/{name}"), file);
        class(planting, "vfio", &name, &path);
    }
}

/// A character device, below `/dev` and as the device at `path` in sysfs.
fn char_device(planting: &mut Planting, owner: &Owner, path: &str, name: &str, file: CharDevice) {
    let CharDevice { major, minor, mode, .. } = file;
    text(planting, owner, &format!("{path}/dev"), format!("{major}:{minor}\n"));
    let mode = if mode == 0o600 { String::new() } else { format!("DEVMODE=0{mode:o}\n") };
    let uevent = format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={name}\n{mode}");
    add(planting, owner, &format!("{path}/uevent"), Content::Uevent(uevent.into()));
    planting.relative_link(&format!("/sys/dev/char/{major}:{minor}"), path);
    planting.add(&format!("/dev/{name}"), Node::CharDevice(file));
}
