use std::format;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::vec::Vec;

use iommu_core::device_model::Errno;
use iommu_core::device_model::pci::{Bar, BarKind, Bars, PciAddress};
use iommu_core::sysfs::{MemoryTree, Snapshot};
use proptest::prelude::*;

use super::*;
use crate::device_ops::{
    DeviceKind, DeviceOps, IrqAction, IrqError, IrqInfo, IrqMasking, IrqSource, RegionCapability, RegionError,
    RegionIndex, RegionInfo,
};

fn snapshot(machine: &str) -> Snapshot {
    let file = format!("{}/snapshots/{machine}.tree", env!("CARGO_MANIFEST_DIR"));
    let tree = MemoryTree::from_archive(&std::fs::read_to_string(file).unwrap()).unwrap();
    Snapshot::load(&tree).unwrap()
}

/// An Ethernet controller of PCI Express: BARs of memory and of ports, a ROM, an interrupt line, MSI, MSI-X.
fn network() -> PciFunction {
    let address: PciAddress = "01:00.0".parse().unwrap();
    PciFunction::clone(&snapshot("pc").device(address).unwrap().function)
}

fn plain(function: PciFunction) -> Arc<VfioPciDevice> {
    VfioPciDevice::new(function, Arc::new(PlainMemory::new()))
}

fn opened(function: PciFunction) -> Arc<VfioPciDevice> {
    let device = plain(function);
    device.open().unwrap();
    device
}

fn counter() -> (Arc<AtomicU32>, Trigger) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    (count, Trigger::new(move || _ = counted.fetch_add(1, Ordering::SeqCst)))
}

fn set_up(device: &VfioPciDevice, index: IrqIndex, trigger: &Trigger) -> Result<(), IrqError> {
    device.set_irqs(index, 0, IrqAction::Trigger, IrqSource::Eventfd(&[trigger.clone().into()]))
}

fn read_u32(device: &VfioPciDevice, index: RegionIndex, offset: u64) -> u32 {
    let mut value = [0; 4];
    assert_eq!(device.read(index, offset, &mut value), Ok(4));
    u32::from_le_bytes(value)
}

#[test]
fn a_device_tells_its_regions_and_interrupts() {
    let device = opened(network());
    let told = device.info();
    assert_eq!((told.kind, told.regions, told.irqs), (DeviceKind::Pci, 9, 5));
    let rows = [
        (RegionIndex::BAR0, 0x2_0000, true, true, true),
        (RegionIndex::BAR1, 0x2_0000, true, true, true),
        (RegionIndex::BAR2, 0x20, true, true, false),
        (RegionIndex::BAR3, 0x4000, true, true, true),
        (RegionIndex::BAR4, 0, false, false, false),
        (RegionIndex::BAR5, 0, false, false, false),
        (RegionIndex::ROM, 0x4_0000, true, false, false),
        (RegionIndex::CONFIG, 0x1000, true, true, false),
    ];
    for (index, size, readable, writable, mappable) in rows {
        let offset = u64::from(index.number()) << 40;
        let capabilities =
            if index == RegionIndex::BAR3 { std::vec![RegionCapability::MsixMappable] } else { Vec::new() };
        let told = RegionInfo { size, offset, readable, writable, mappable, capabilities };
        assert_eq!(device.region(index), Some(told), "{index}");
    }
    assert_eq!(device.region(RegionIndex::VGA), None);
    assert_eq!(device.region(RegionIndex::new(u32::MAX)), None);

    let count = |index| device.irq(index).map(|irq| irq.count);
    let counts = [0, 1, 2, 3, 4, 5].map(|index| count(IrqIndex::new(index)));
    assert_eq!(counts, [Some(1), Some(1), Some(5), Some(1), Some(1), None]);
    let line = IrqInfo { count: 1, eventfd: true, masking: IrqMasking::Automatic, noresize: false };
    assert_eq!(device.irq(IrqIndex::INTX), Some(line));
}

#[test]
fn a_virtual_function_has_no_line_and_its_memory_is_always_on() {
    let function = PciFunction { physical_function: Some("01:00.1".parse().unwrap()), ..network() };
    let device = opened(function);
    assert_eq!(device.irq(IrqIndex::INTX).map(|irq| irq.count), Some(0));
    device.write(RegionIndex::CONFIG, 0x04, &[0, 0]).unwrap();
    assert_eq!(device.write(RegionIndex::BAR0, 0, &[1]), Ok(1));
}

#[test]
fn every_endpoint_of_a_real_tree_is_served() {
    for machine in ["pc", "workstation"] {
        for found in snapshot(machine).devices {
            if admits(&found.function).is_err() {
                continue;
            }
            let device = opened(PciFunction::clone(&found.function));
            for (slot, bar) in found.function.bars.iter() {
                let at = 0x10 + 4 * u64::try_from(slot).unwrap();
                let low = u64::from(read_u32(&device, RegionIndex::CONFIG, at));
                assert_eq!(low & !0xf & !(bar.size() - 1), bar.address(), "the kernel's address is in the register");
                let index = RegionIndex::new(u32::try_from(slot).unwrap());
                device.write(index, bar.size() - 4, &0xc0de_u32.to_le_bytes()).unwrap();
                assert_eq!(read_u32(&device, index, bar.size() - 4), 0xc0de);
            }
        }
    }
}

#[test]
fn a_bar_answers_while_memory_is_on_and_within_its_bounds() {
    let device = opened(network());
    let bar = RegionIndex::BAR0;
    let mut bytes = [0xaa; 8];
    assert_eq!(device.read(bar, 0x2_0000 - 2, &mut bytes), Ok(2), "as much as there is");
    assert_eq!(bytes, [0, 0, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa]);
    let beyond = device.read(bar, 0x2_0000, &mut bytes).unwrap_err();
    assert_eq!(
        (beyond, beyond.errno()),
        (RegionError::BeyondEnd { index: bar, offset: 0x2_0000, size: 0x2_0000 }, Errno::EINVAL)
    );
    assert_eq!(device.write(RegionIndex::ROM, 0, &[1]), Err(RegionError::ReadOnly { index: RegionIndex::ROM }));
    for index in [RegionIndex::BAR4, RegionIndex::VGA, RegionIndex::new(77)] {
        assert_eq!(device.read(index, 0, &mut bytes), Err(RegionError::NoSuchRegion { index }));
        assert_eq!(device.write(index, 0, &bytes).unwrap_err().errno(), Errno::EINVAL);
    }
    device.write(RegionIndex::CONFIG, 0x04, &[1]).unwrap();
    assert_eq!(device.write(bar, 0, &[1]).unwrap_err().errno(), Errno::EIO, "memory is off");
    assert_eq!(device.write(RegionIndex::BAR2, 0, &[1]), Ok(1), "ports are not memory");
}

#[test]
fn bus_mastering_begins_with_the_user_and_ends_with_it() {
    let device = opened(network());
    assert!(!device.bus_master());
    device.write(RegionIndex::CONFIG, 0x04, &[0b110]).unwrap();
    assert!(device.bus_master());
    device.close();
    assert!(!device.bus_master());
}

#[test]
fn v13_each_round_of_asking_signals_the_request_trigger() {
    let device = opened(network());
    let (count, trigger) = counter();
    device.request(0);
    set_up(&device, IrqIndex::REQ, &trigger).unwrap();
    for attempt in 1..4 {
        device.request(attempt);
        assert_eq!(count.load(Ordering::SeqCst), attempt);
    }
    device.close();
    device.request(4);
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[test]
fn v86_a_reset_resets_the_hardware_and_leaves_triggers_and_configuration() {
    let mut function = network();
    assert!(is_resettable(&function.config), "it says that it loses its state in D3");
    let device = opened(function.clone());
    let (count, trigger) = counter();
    set_up(&device, IrqIndex::MSIX, &trigger).unwrap();
    device.write(RegionIndex::BAR0, 0, &[7; 4]).unwrap();
    device.write(RegionIndex::CONFIG, 0x3c, &[9]).unwrap();
    let before = read_u32(&device, RegionIndex::CONFIG, 0x3c);
    device.reset().unwrap();
    assert_eq!(read_u32(&device, RegionIndex::CONFIG, 0x3c), before);
    assert_eq!(read_u32(&device, RegionIndex::BAR0, 0), 0);
    assert_eq!(device.raise(IrqIndex::MSIX, 0), Raised::Signalled);
    assert_eq!(count.load(Ordering::SeqCst), 1);

    function.config = ConfigSpace::builder().build();
    let device = opened(function);
    device.write(RegionIndex::BAR0, 0, &[7; 4]).unwrap();
    assert_eq!(device.reset().map_err(ResetError::errno), Err(Errno::EINVAL));
    assert_eq!(read_u32(&device, RegionIndex::BAR0, 0), 0x0707_0707);
    device.hot_reset();
    assert_eq!(read_u32(&device, RegionIndex::BAR0, 0), 0, "a hot reset asks nobody");
}

#[test]
fn vt31_11_the_configuration_space_shows_whether_msix_is_set_up() {
    const CONTROL: u64 = 0xa0;
    let device = opened(network());
    let at = capability(&device.function().config, CAP_MSIX).unwrap();
    assert_eq!(u64::from(at), CONTROL);
    let enabled = || read_u32(&device, RegionIndex::CONFIG, CONTROL) >> 31;
    device.write(RegionIndex::CONFIG, CONTROL + 2, &[0xff; 2]).unwrap();
    assert_eq!((enabled(), device.enabled_irqs()), (0, None), "no write sets it up");
    set_up(&device, IrqIndex::MSIX, &counter().1).unwrap();
    assert_eq!((enabled(), device.enabled_irqs()), (1, Some(IrqIndex::MSIX)));
    device.set_irqs(IrqIndex::MSIX, 0, IrqAction::Trigger, IrqSource::None { count: 0 }).unwrap();
    assert_eq!((enabled(), device.enabled_irqs()), (0, None));
    set_up(&device, IrqIndex::INTX, &counter().1).unwrap();
    assert_eq!((enabled(), device.enabled_irqs()), (0, Some(IrqIndex::INTX)));
}

#[test]
fn the_command_register_holds_the_line_back() {
    let device = opened(network());
    let (count, trigger) = counter();
    device.write(RegionIndex::CONFIG, 0x05, &[0b100]).unwrap();
    set_up(&device, IrqIndex::INTX, &trigger).unwrap();
    assert_eq!(device.raise(IrqIndex::INTX, 0), Raised::Pending);
    device.write(RegionIndex::CONFIG, 0x05, &[0]).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn a_trigger_may_call_the_device() {
    let device = opened(network());
    let (count, inner) = counter();
    let user = Arc::downgrade(&device);
    let trigger = Trigger::new(move || {
        inner.signal();
        if let Some(device) = user.upgrade() {
            device.set_irqs(IrqIndex::INTX, 0, IrqAction::Unmask, IrqSource::None { count: 1 }).unwrap();
        }
    });
    set_up(&device, IrqIndex::INTX, &trigger).unwrap();
    for round in 1..4 {
        assert_eq!(device.raise(IrqIndex::INTX, 0), Raised::Signalled);
        assert_eq!(count.load(Ordering::SeqCst), round);
    }
}

#[test]
fn no_trigger_is_running_or_called_once_close_returns() {
    const ROUNDS: u32 = 50;
    let device = plain(network());
    for _ in 0..ROUNDS {
        device.open().unwrap();
        let open = Arc::new(AtomicU32::new(1));
        let (seen, count) = (open.clone(), Arc::new(AtomicU32::new(0)));
        let counted = count.clone();
        let trigger = Trigger::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            assert_eq!(seen.load(Ordering::SeqCst), 1, "called while closed");
        });
        set_up(&device, IrqIndex::MSI, &trigger).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| while device.raise(IrqIndex::MSI, 0) == Raised::Signalled {});
            }
            while count.load(Ordering::SeqCst) < 5 {
                thread::yield_now();
            }
            device.close();
            open.store(0, Ordering::SeqCst);
        });
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Close,
    SetUp(u32, u32),
    Raise(u32, u32),
    Request,
    Reset,
    Config(u64, Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Open),
        Just(Step::Close),
        (0_u32..6, 0_u32..6).prop_map(|(index, start)| Step::SetUp(index, start)),
        (0_u32..6, 0_u32..6).prop_map(|(index, vector)| Step::Raise(index, vector)),
        Just(Step::Request),
        Just(Step::Reset),
        (0_u64..0x1100, prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(at, bytes)| Step::Config(at, bytes)),
    ]
}

proptest! {
    #[test]
    fn a_closed_device_calls_no_trigger(steps in prop::collection::vec(step(), 0..80)) {
        let device = plain(network());
        let (count, trigger) = counter();
        let mut open = false;
        for step in steps {
            let before = count.load(Ordering::SeqCst);
            match step {
                Step::Open if !open => {
                    device.open().unwrap();
                    open = true;
                }
                Step::Open => {}
                Step::Close => {
                    device.close();
                    open = false;
                }
                Step::SetUp(index, start) => {
                    let triggers = [trigger.clone().into()];
                    let source = IrqSource::Eventfd(&triggers);
                    let set = device.set_irqs(IrqIndex::new(index), start, IrqAction::Trigger, source);
                    prop_assert!(open || set == Err(IrqError::NotOpen));
                }
                Step::Raise(index, vector) => {
                    let raised = device.raise(IrqIndex::new(index), vector);
                    prop_assert!(open || raised == Raised::Lost);
                }
                Step::Request => device.request(0),
                Step::Reset => _ = device.reset(),
                Step::Config(at, bytes) => _ = device.write(RegionIndex::CONFIG, at, &bytes),
            }
            prop_assert!(open || count.load(Ordering::SeqCst) == before);
        }
    }

    /// Any index, any offset, any length: an access ends within the region, or is refused.
    #[test]
    fn hostile_accesses_stay_within_the_region(
        index in prop_oneof![0_u32..12, any::<u32>()],
        offset in prop_oneof![0_u64..0x5_0000, any::<u64>(), Just(u64::MAX)],
        length in 0_usize..5000,
        order in 4_u32..64,
    ) {
        let mut function = network();
        function.bars = Bars::NONE;
        let bar = Bar::new(u64::MAX, 1 << order, BarKind::Memory64 { prefetchable: true }).unwrap();
        function.bars.insert(0, bar).unwrap();
        let device = opened(function);
        let index = RegionIndex::new(index);
        // Beyond the end, the configuration space is refused as a whole.
        let is_config = index == RegionIndex::CONFIG;
        let mut bytes = std::vec![0; length];
        let size = device.region(index).map_or(0, |region| region.size);
        let fits = usize::try_from(size.saturating_sub(offset)).unwrap().min(length);
        for result in [device.read(index, offset, &mut bytes), device.write(index, offset, &bytes)] {
            match result {
                Ok(done) => prop_assert_eq!(done, if is_config { length } else { fits }),
                Err(error) if is_config => {
                    prop_assert_eq!(error.errno(), Errno::EFAULT);
                    prop_assert!(fits < length);
                }
                Err(error) => {
                    prop_assert_eq!(error.errno(), Errno::EINVAL);
                    prop_assert_eq!(fits, 0);
                }
            }
        }
    }
}
