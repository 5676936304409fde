//! Machines of thousands of devices: read from a snapshot, from memory and from a copy on disk, and every device explained.
#![expect(clippy::expect_used, reason = "what is measured cannot fail")]

use std::fs;
use std::hint::black_box;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;
use vfio_host::{Explanation, Host, Source, candidates, capture, changes};
use vfio_owner::iommu_core::device_model::pci::{ConfigSpace, PortType};
use vfio_owner::iommu_core::sysfs::{Archive, MemoryTree, Tree as _};

/// So often the ratio is measured.
const RATIO_ROUNDS: usize = 20;

/// So many ports are on a root bus, each in a slot of its own.
const PORTS: u32 = 31;

/// As a test, unoptimized, a benchmark is to run, and not to measure anything.
fn sized(devices: u32) -> u32 {
    if std::env::args().any(|argument| argument == "--bench") { devices } else { devices / 50 }
}

/// Cards of four functions, each behind a port without ACS: a fifth of the devices are ports.
fn machine(devices: u32) -> MemoryTree {
    let mut tree = MemoryTree::new();
    for number in 0..devices / 5 {
        let (domain, bus) = (number / PORTS, number % PORTS + 1);
        let root = format!("devices/pci{domain:04x}:00");
        let port = format!("{domain:04x}:00:{bus:02x}.0");
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

fn explained(c: &mut Criterion, devices: u32) {
    let mut group = c.benchmark_group(format!("explain {devices} devices"));
    let tree = machine(devices);
    let folder = TempDir::new().expect("there is room");
    let file = folder.path().join("snapshot");
    fs::write(&file, capture(&tree).expect("it has devices").to_archive()).expect("there is room");
    write(&tree, &folder);
    assert_eq!(Host::open(&file).expect("it is one").pci.devices.len(), devices as usize);
    print_ratio(devices, &file);
    group.bench_function("the floor: the bytes of the file", |b| {
        b.iter(|| fs::read_to_string(&file).expect("it is one"));
    });
    group.bench_function("the floor: its tree", |b| {
        b.iter(|| drop(black_box(Archive::parse(&fs::read_to_string(&file).expect("it is one")).expect("it is one"))));
    });
    group.bench_function("the snapshot read, nothing explained", |b| {
        b.iter(|| Host::open(&file).expect("it is one"));
    });
    group.bench_function("all, from a snapshot", |b| {
        b.iter(|| explain_all(&Host::open(&file).expect("it is one")));
    });
    group.bench_function("all, from a copy on disk", |b| {
        b.iter(|| explain_all(&Host::open(folder.path()).expect("it is one")));
    });
    let host = Host::load(&tree, Source::Tree).expect("it has devices");
    group.bench_function("all, loaded", |b| b.iter(|| explain_all(black_box(&host))));
    group.bench_function("candidates, loaded", |b| b.iter(|| candidates(black_box(&host))));
    group.finish();
}

/// The ratio of both in processor time, each the least of several in turn, so that what else the machine does counts for
/// neither.
fn print_ratio(devices: u32, file: &Path) {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.try_into().expect("it is below a second"))
    };
    let time = |work: &dyn Fn()| {
        let begin = now();
        work();
        now().saturating_sub(begin)
    };
    let mut least = [Duration::MAX; 4];
    for _ in 0..RATIO_ROUNDS {
        let text = || fs::read_to_string(file).expect("it is one");
        let read = || drop(black_box(text()));
        let parse = || drop(black_box(Archive::parse(&text()).expect("it is one")));
        let load = || drop(black_box(Host::open(file).expect("it is one")));
        let explain = || drop(black_box(explain_all(&Host::open(file).expect("it is one"))));
        let all: [&dyn Fn(); 4] = [&read, &parse, &load, &explain];
        for (least, work) in least.iter_mut().zip(all) {
            *least = time(work).min(*least);
        }
    }
    let [read, parse, load, explain] = least;
    let ratio = |to: Duration| explain.as_secs_f64() / to.as_secs_f64();
    println!(
        "{devices} devices: the file's bytes {read:.1?}, its tree {parse:.1?}, a host {load:.1?}, all explained {explain:.1?}: \
         {:.0} times the bytes, {:.1} times the tree",
        ratio(read),
        ratio(parse)
    );
}

fn thousand_devices(c: &mut Criterion) {
    explained(c, sized(1000));
}

fn ten_thousand_devices(c: &mut Criterion) {
    explained(c, sized(10_000));
}

/// All devices of one group, which falls apart; must grow as the devices do.
fn one_large_group(c: &mut Criterion) {
    let mut group = c.benchmark_group("diff of one group");
    for devices in [1000, 2000, 4000].map(sized) {
        let [together, apart] = [u32::MIN, u32::MAX].map(|mask| {
            let line = |number: u32| {
                format!("Group {} {:04x}:{:02x}:01.0 Ethernet\n", number & mask, number / 256, number % 256)
            };
            (0..devices).map(line).collect::<String>().parse::<Host>().expect("it is a listing")
        });
        group.bench_function(format!("{devices} devices"), |b| b.iter(|| changes(black_box(&together), &apart)));
    }
    group.finish();
}

criterion_group!(benches, thousand_devices, ten_thousand_devices, one_large_group);
criterion_main!(benches);
