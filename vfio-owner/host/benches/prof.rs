//! Machines of thousands of devices: read from a snapshot, from memory and from a copy on disk, and every device explained.
#![expect(clippy::expect_used, reason = "what is measured cannot fail")]

use std::fs;
use std::hint::black_box;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vfio_host::{Explanation, Host, Source, capture, changes};
use vfio_owner::iommu_core::device_model::pci::{ConfigSpace, PortType};
use vfio_owner::iommu_core::sysfs::{MemoryTree, Tree as _};

/// So often the ratio is measured.
const RATIO_ROUNDS: usize = 20;

/// Cards of four functions, each behind a port without ACS: a fifth of the devices are ports.
fn machine(devices: u32) -> MemoryTree {
    let mut tree = MemoryTree::new();
    for number in 0..devices / 5 {
        let (domain, bus) = (number / 200, number % 200 + 1);
        let root = format!("devices/pci{domain:04x}:00");
        let port = format!("{domain:04x}:00:{:02x}.{}", bus / 8, bus % 8);
        let above = format!("{root}/{port}");
        let secondary = u8::try_from(bus).expect("it is small");
        let bridge = ConfigSpace::builder().ids(0x8086, 0x1901).class(0x06_0400).pcie(PortType::RootPort);
        add(&mut tree, &above, &bridge.bridge(secondary, secondary).build(), "pcieport", number);
        for function in 0..4 {
            let path = format!("{above}/{domain:04x}:{bus:02x}:00.{function}");
            let card = ConfigSpace::builder().ids(0x8086, 0x1572).class(0x02_0000).pcie(PortType::Endpoint);
            add(&mut tree, &path, &card.multifunction().build(), "i40e", number);
        }
    }
    tree
}

fn add(tree: &mut MemoryTree, path: &str, config: &ConfigSpace, driver: &str, group: u32) {
    let name = path.rsplit('/').next().unwrap_or_default();
    let up = "../".repeat(path.matches('/').count() + 1);
    let mut bytes = config.bytes();
    bytes.resize(4096, 0);
    tree.insert(&format!("{path}/config"), bytes);
    tree.insert(&format!("{path}/driver_override"), "(null)\n");
    tree.insert(&format!("{path}/driver"), format!("{up}bus/pci/drivers/{driver}"));
    tree.insert(&format!("{path}/iommu_group"), format!("{up}kernel/iommu_groups/{group}"));
    tree.insert(&format!("bus/pci/devices/{name}"), format!("../../../{path}"));
    tree.insert(&format!("bus/pci/drivers/{driver}/{name}"), format!("../../../../{path}"));
    tree.insert(&format!("kernel/iommu_groups/{group}/devices/{name}"), format!("../../../../{path}"));
    tree.insert(&format!("kernel/iommu_groups/{group}/type"), "DMA-FQ\n");
    tree.insert(
        &format!("kernel/iommu_groups/{group}/reserved_regions"),
        "0x00000000fee00000 0x00000000feefffff msi\n",
    );
}

fn explain_all(host: &Host) -> Vec<Explanation> {
    let devices: Vec<_> = host.pci.devices.iter().map(|device| device.function.address).collect();
    Explanation::of_each(host, &devices).expect("they are there")
}

fn write(tree: &MemoryTree, folder: &TempDir) {
    for (path, contents) in tree.files() {
        let at = folder.path().join("sys").join(path);
        fs::create_dir_all(at.parent().expect("it is in a folder")).expect("there is room");
        match tree.link(path) {
            Ok(target) => symlink(target, at).expect("there is room"),
            Err(_) => fs::write(at, contents).expect("there is room"),
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args[1].as_str() {
        "gen" => fs::write(&args[3], capture(&machine(args[2].parse().unwrap())).unwrap().to_archive()).unwrap(),
        "run" => {
            let mut best = [Duration::MAX; 4];
            for _ in 0..args[3].parse().unwrap() {
                let t = Instant::now();
                let text = black_box(fs::read_to_string(&args[2]).unwrap());
                best[0] = best[0].min(t.elapsed());
                drop(text);
                let t = Instant::now();
                let text = fs::read_to_string(&args[2]).unwrap();
                let tree = black_box(vfio_owner::iommu_core::sysfs::Archive::parse(&text).unwrap());
                best[1] = best[1].min(t.elapsed());
                drop(tree);
                let t = Instant::now();
                let host = Host::open(&args[2]).unwrap();
                best[2] = best[2].min(t.elapsed());
                let all = explain_all(&host);
                best[3] = best[3].min(t.elapsed());
                drop(black_box(all));
            }
            println!("{best:?}");
        }
        _ => {}
    }
}
