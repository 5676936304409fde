//! Machines of one's own: layouts, IOMMUs, limits, models, and what is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vfio_owner::backend::{Extension, MapRequest};
use vfio_owner::device_ops::{Eventfd, IrqAction, IrqIndex, IrqSource, RegionIndex, Trigger};
use vfio_owner::iommu_core::device_model::Errno;
use vfio_owner::iommu_core::hardware::{Fault, HardwareError, IommuDriver as _};
use vfio_owner::iommu_core::software::{LockedPages, SoftIommuConfig};
use vfio_owner::iommu_core::sysfs::Snapshot;
use vfio_owner::iommu_core::{Access, Attached, DefaultDomainType, Iova, Observer, Transition, UserMemory as _};
use vfio_owner::testbed::{Machine, MachineError, Slot};
use vfio_owner::type1::Type1Config;
use vfio_owner::vfio_pci::{FunctionModel, Raised};
use vfio_owner::{GroupFile, OpenDevice};

const EDU: &str = "0000:00:02.0";
const NIC: &str = "0000:00:03.0";

const LAYOUT: &str = "
    00:02.0 edu vfio-pci 0 bar0=1M msi=1 intx
    00:03.0 nic vfio-pci 1 bar0=16K bar3=4K msix=2@3 flr";

fn layout() -> Snapshot {
    Snapshot::from_layout(LAYOUT).unwrap()
}

/// The device is open by its group, with a page of memory mapped at this address.
fn open(machine: &Machine, device: &str, at: u64) -> (GroupFile, OpenDevice) {
    let process = machine.process(LockedPages::unlimited());
    let addr = process.allocate(0x1000, Access::ReadWrite).unwrap();
    process.write(addr, b"from memory").unwrap();
    let (group, container) = (machine.open_group(device).unwrap(), machine.vfio().open_container());
    group.set_container(&container).unwrap();
    container.set_iommu(Extension::TYPE1_V2).unwrap();
    let request = MapRequest { iova: Iova::new(at), bytes: 0x1000, process, addr, access: Access::ReadWrite };
    container.map(&request).unwrap();
    let device = group.device(device).unwrap();
    (group, device)
}

fn write(device: &OpenDevice, offset: u64, value: u32) {
    assert_eq!(device.write(RegionIndex::BAR0, offset, &value.to_le_bytes()), Ok(4));
}

fn read(device: &OpenDevice, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    assert_eq!(device.read(RegionIndex::BAR0, offset, &mut bytes), Ok(4));
    u32::from_le_bytes(bytes)
}

/// Counts how often an interrupt came.
fn listen(device: &OpenDevice, index: IrqIndex) -> Arc<AtomicU32> {
    let heard = Arc::new(AtomicU32::new(0));
    let hearing = heard.clone();
    let trigger = Trigger::new(move || {
        hearing.fetch_add(1, Ordering::Relaxed);
    });
    device.set_irqs(index, 0, IrqAction::Trigger, IrqSource::Eventfd(&[Eventfd::Set(trigger)])).unwrap();
    heard
}

#[test]
fn a_layout_is_found_as_it_says_or_booted() {
    let found = Machine::builder(layout()).as_found().build().unwrap();
    assert_eq!(found.driver(NIC).as_deref(), Some("vfio-pci"));
    let booted = Machine::builder(layout()).build().unwrap();
    assert_eq!(booted.driver(NIC), None, "no driver has ids for it");
    assert!(booted.group(NIC).unwrap().id() != booted.group(EDU).unwrap().id());
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    let absent = "0000:00:09.0";
    let machine = Machine::builder(layout()).iommu_of([NIC, absent], SoftIommuConfig::default()).build();
    assert_eq!(machine.unwrap_err().to_string(), "no device 0000:00:09.0");
    let machine = Machine::builder(layout()).model("cheese", |_| Copier::default()).build();
    assert!(matches!(machine, Err(MachineError::NoDevice { device }) if device == "cheese"));
}

#[test]
fn each_device_is_behind_its_own_iommu() {
    let own = SoftIommuConfig { max_pasids: 16, ..SoftIommuConfig::default() };
    let machine = Machine::builder(layout()).failing_iommus().iommu_of([NIC], own).build().unwrap();
    let names: Vec<_> = machine.iommus().map(|iommu| iommu.name().to_owned()).collect();
    assert_eq!(names, ["dmar0", "dmar1"]);
    let max_pasids = [EDU, NIC].map(|device| machine.member(device).unwrap().max_pasids());
    assert_eq!(max_pasids, [0, 16]);
    let [edu, nic] = [EDU, NIC].map(|device| machine.failing_iommu(device).unwrap());
    edu.fail_nth(0, HardwareError::new(Errno::EIO, "on command"));
    let [edu, nic] = [(EDU, edu), (NIC, nic)].map(|(device, iommu)| {
        let refused = machine.set_type(device, "identity");
        assert_eq!(iommu.last_failed().is_some(), refused.is_err());
        machine.group(device).unwrap().attached()
    });
    assert_eq!([edu, nic], [DefaultDomainType::Dma, DefaultDomainType::Identity].map(Attached::Default));
    let direct = Machine::builder(layout()).build().unwrap();
    assert!(direct.failing_iommu(NIC).is_none());
}

#[test]
fn default_domains_and_reserved_regions_are_as_asked_for() {
    let machine = Machine::builder(layout()).default_domain(DefaultDomainType::Identity).build().unwrap();
    assert_eq!(machine.group(NIC).unwrap().attached(), Attached::Default(DefaultDomainType::Identity));
    let direct = Snapshot::from_layout("00:03.0 nic - 1 direct").unwrap();
    let reserved = |machine: Machine| machine.group(NIC).unwrap().reserved_regions().len();
    assert_eq!(reserved(Machine::builder(direct.clone()).build().unwrap()), 2, "the interrupt window, and its own");
    let none = SoftIommuConfig { interrupt_window: None, ..SoftIommuConfig::default() };
    assert_eq!(reserved(Machine::builder(direct).iommu(none).build().unwrap()), 0);
}

#[test]
fn type1_has_the_limits_that_it_is_given() {
    let config = Type1Config { dma_entry_limit: 1, ..Type1Config::default() };
    let machine = Machine::builder(layout()).as_found().type1(config).build().unwrap();
    let (group, container) = (machine.open_group(NIC).unwrap(), machine.vfio().open_container());
    group.set_container(&container).unwrap();
    container.set_iommu(Extension::TYPE1_V2).unwrap();
    assert_eq!(container.info().unwrap().mappings_left, 1);
}

#[test]
fn observers_hear_of_the_machine() {
    #[derive(Clone, Default)]
    struct Heard(Arc<AtomicU32>);
    impl Observer for Heard {
        fn transition(&self, _transition: &Transition<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn fault(&self, _fault: &Fault) {
            self.0.fetch_add(100, Ordering::Relaxed);
        }
    }
    let heard = Heard::default();
    let machine = Machine::builder(layout()).as_found().observer(heard.clone()).build().unwrap();
    let before = heard.0.load(Ordering::Relaxed);
    machine.dma(NIC).unwrap().write(Iova::new(0x1000), &[1]).unwrap_err();
    assert_eq!(heard.0.load(Ordering::Relaxed), before + 100);
}

/// Copies what is written to any register to the same address in memory, and raises an interrupt.
#[derive(Default)]
struct Copier(Option<Slot>);

impl FunctionModel for Copier {
    fn read(&self, _region: RegionIndex, _offset: u64, into: &mut [u8]) {
        into.fill(7);
    }

    fn write(&self, _region: RegionIndex, offset: u64, from: &[u8]) {
        let Some(slot) = &self.0 else { return };
        slot.dma().unwrap().write(Iova::new(offset), from).unwrap();
        assert_eq!(slot.raise(IrqIndex::MSIX, 0), Raised::Signalled);
    }

    fn reset(&self) {}
}

#[test]
fn a_model_does_dma_and_raises_interrupts_through_its_slot() {
    let machine = Machine::builder(layout()).as_found().model(NIC, |slot| Copier(Some(slot))).build().unwrap();
    let slot = machine.slot(NIC).unwrap();
    assert_eq!(slot.raise(IrqIndex::MSIX, 0), Raised::Lost, "nobody has it open");
    let (group, device) = open(&machine, NIC, 0x2000);
    let heard = listen(&device, IrqIndex::MSIX);
    write(&device, 0x2010, 0x1234_5678);
    let mut bytes = [0; 4];
    slot.dma().unwrap().read(Iova::new(0x2010), &mut bytes).unwrap();
    assert_eq!((u32::from_le_bytes(bytes), heard.load(Ordering::Relaxed)), (0x1234_5678, 1));
    assert_eq!(read(&device, 0), 0x0707_0707);
    drop((group, device));
}

#[test]
fn what_is_unplugged_does_no_dma() {
    let machine = Machine::builder(layout()).build().unwrap();
    let (slot, dma) = (machine.slot(NIC).unwrap(), machine.dma(NIC).unwrap());
    machine.remove(NIC).unwrap().wait();
    assert!(matches!(slot.dma(), Err(MachineError::NoDevice { .. })));
    dma.write(Iova::new(0), &[1]).unwrap_err();
    machine.rescan();
    assert!(slot.dma().is_ok());
}

#[test]
fn edu_computes_copies_and_interrupts() {
    let machine = Machine::builder(layout()).as_found().build().unwrap();
    let (_group, device) = open(&machine, EDU, 0x2000);
    assert_eq!(read(&device, 0), 0x0100_00ed);
    write(&device, 4, 0x1234);
    assert_eq!(read(&device, 4), !0x1234);
    for (number, factorial) in [(0, 1), (5, 120), (12, 479_001_600), (u32::MAX, 0)] {
        write(&device, 8, number);
        assert_eq!(read(&device, 8), factorial, "{number}!");
    }
    let [intx, msi] = [IrqIndex::INTX, IrqIndex::MSI].map(|index| {
        let heard = listen(&device, index);
        write(&device, 0x60, 2);
        assert_eq!(read(&device, 0x24), 2);
        write(&device, 0x64, 2);
        assert_eq!(read(&device, 0x24), 0);
        device.set_irqs(index, 0, IrqAction::Trigger, IrqSource::None { count: 0 }).unwrap();
        heard.load(Ordering::Relaxed)
    });
    assert_eq!((intx, msi), (1, 1));
    // From memory into the buffer, and from there to other memory.
    let copy = |source: u32, destination: u32, count: u32, command: u32| {
        for (register, value) in [(0x80, source), (0x88, destination), (0x90, count), (0x98, command)] {
            write(&device, register, value);
        }
    };
    let heard = listen(&device, IrqIndex::MSI);
    copy(0x2000, 0x4_0010, 11, 1);
    copy(0x4_0010, 0x2100, 11, 1 | 2 | 4);
    assert_eq!((read(&device, 0x24), heard.load(Ordering::Relaxed)), (0x100, 1));
    let mut bytes = [0; 11];
    machine.dma(EDU).unwrap().read(Iova::new(0x2100), &mut bytes).unwrap();
    assert_eq!(&bytes, b"from memory");
    // Neither beyond the buffer nor beyond what is mapped.
    write(&device, 0x64, 0x100);
    copy(0x2000, 0x4_0ff8, 11, 1 | 4);
    copy(0x2000, 0x3_ffff, 11, 1 | 4);
    copy(0x9000, 0x4_0000, 11, 1 | 4);
    assert_eq!((read(&device, 0x24), heard.load(Ordering::Relaxed)), (0, 1));
    assert_eq!(read(&device, 0x70), u32::MAX);
    let mut byte = [0];
    assert_eq!(device.read(RegionIndex::BAR0, 0, &mut byte), Ok(1));
    assert_eq!(byte, [0xff], "registers are whole words");
}
