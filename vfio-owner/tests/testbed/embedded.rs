//! The trees that the crate embeds are those of `testdata`. `UPDATE=1 cargo test -p vfio-owner --features testbed --test
//! testbed` writes them anew.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use vfio_owner::DeviceOps as _;
use vfio_owner::device_ops::IrqIndex;
use vfio_owner::iommu_core::device_model::pci::{Bar, BarKind};
use vfio_owner::iommu_core::sysfs::{DirTree, MemoryTree, Snapshot, SysfsDevice};
use vfio_owner::testbed::{self, Machine};
use vfio_owner::vfio_pci::{PlainMemory, VfioPciDevice};

#[test]
fn embedded_trees_are_those_of_testdata() {
    for (name, embedded) in
        [("pc", testbed::pc()), ("workstation", testbed::workstation()), ("sriov", testbed::sriov())]
    {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("../testdata/snapshots").join(name);
        if !folder.is_dir() {
            // In a package of its own, the crate has only what it embeds.
            continue;
        }
        let archive = MemoryTree::capture(&DirTree::new(&folder)).to_archive();
        let file = root.join("snapshots").join(name).with_extension("tree");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, &archive).unwrap();
            continue;
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), archive, "{} is stale", file.display());
        assert_eq!(embedded, Snapshot::load(&DirTree::new(&folder)).unwrap());
        assert!(!embedded.devices.is_empty() && embedded.warnings.is_empty());
    }
}

/// The devices as a table of the documentation: what a client can choose by.
fn table(machine: &Machine, snapshot: &Snapshot) -> String {
    let mut table = String::from("/// | device | is | driver | group | BARs | interrupts | reset alone |\n");
    table.push_str("/// |---|---|---|---|---|---|---|\n");
    for SysfsDevice { function, .. } in &snapshot.devices {
        let name = function.address.to_string();
        let served = VfioPciDevice::new((**function).clone(), Arc::new(PlainMemory::new()));
        let bars: Vec<_> = function.bars.iter().map(|(_, bar)| size(bar)).collect();
        let irqs = [("INTx", IrqIndex::INTX), ("MSI", IrqIndex::MSI), ("MSI-X", IrqIndex::MSIX)];
        let irqs = irqs.map(|(name, index)| (name, served.irq(index).map_or(0, |irq| irq.count)));
        let irqs = irqs.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}"));
        let config = &function.config;
        writeln!(
            table,
            "/// | `{name}` | {} {:04x}:{:04x} | {} | {} | {} | {} | {} |",
            class(config.class().unwrap()),
            config.vendor().unwrap(),
            config.device().unwrap(),
            machine.driver(&name).unwrap_or_else(|| "–".into()),
            machine.group(&name).unwrap().id(),
            bars.join(", "),
            irqs.collect::<Vec<_>>().join(", "),
            if served.info().resettable { "yes" } else { "no" },
        )
        .unwrap();
    }
    table
}

fn class(class: u32) -> &'static str {
    match class >> 8 {
        0x00ff => "edu device",
        0x0106 => "SATA controller",
        0x0108 => "NVMe drive",
        0x0200 => "network card",
        0x0300 => "graphics card",
        0x0380 => "display",
        0x0403 => "audio",
        0x0600 => "host bridge",
        0x0601 => "ISA bridge",
        0x0604 => "bridge",
        0x0c03 => "USB controller",
        0x0c05 => "SMBus",
        _ => "other",
    }
}

fn size(bar: Bar) -> String {
    let size = bar.size();
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| size >> shift > 0);
    match (bar.kind(), unit) {
        (BarKind::Io, _) => format!("{size} ports"),
        (_, Some((shift, unit))) => format!("{} {unit}", size >> shift),
        (_, None) => format!("{size} B"),
    }
}

#[test]
fn the_documentation_has_the_devices_of_the_machines_in_a_table() {
    let source = include_str!("../../src/testbed/embedded.rs");
    for (name, snapshot) in
        [("pc", testbed::pc()), ("workstation", testbed::workstation()), ("sriov", testbed::sriov())]
    {
        let table = table(&Machine::boot(&snapshot), &snapshot);
        let documented = source.split(&format!("pub fn {name}()")).next().unwrap();
        assert!(documented.trim_end().ends_with(table.trim_end()), "{name} is:\n{table}");
    }
}
