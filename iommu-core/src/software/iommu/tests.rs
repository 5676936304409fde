use alloc::string::ToString;
use alloc::vec;

use device_model::DeviceId;
use proptest::prelude::*;

use super::*;
use crate::address::{PageSizes, PhysAddr};
use crate::hardware::DefaultDomainType;
use crate::reserved::{RegionKind, ReservedRegion};
use crate::software::page_table::TableFormat;
use crate::software::testing::{Map, unheard};
use crate::software::{FAULT_LOG_CAPACITY, SimulatedDevice};

const ALL_KINDS: [DomainKind; 5] =
    [DomainKind::Blocking, DomainKind::Identity, DomainKind::Dma, DomainKind::DmaLazy, DomainKind::Paging];
const WINDOW: u64 = 0xfee0_0000;

fn endpoint(id: u64) -> Endpoint {
    Endpoint::new(DeviceId::new(id), alloc::format!("dev{id}"))
}

fn iova(address: u64) -> Iova {
    Iova::new(address)
}

fn phys(address: u64) -> PhysAddr {
    PhysAddr::new(address)
}

/// One IOMMU, a device that it serves, and memory.
struct Machine {
    iommu: Arc<SoftIommu>,
    memory: Memory,
    device: SimulatedDevice,
}

impl Machine {
    fn new(config: SoftIommuConfig) -> Self {
        let iommu = SoftIommu::new("soft", config);
        iommu.probe(&endpoint(1), unheard()).unwrap();
        let memory = Memory::new();
        let device = SimulatedDevice::new(endpoint(1), iommu.clone(), memory.clone());
        Self { iommu, memory, device }
    }

    fn attached(kind: DomainKind) -> (Self, Box<dyn HardwareDomain>) {
        let machine = Self::new(SoftIommuConfig::default());
        let domain = machine.domain(kind);
        domain.attach(&endpoint(1)).unwrap();
        (machine, domain)
    }

    fn domain(&self, kind: DomainKind) -> Box<dyn HardwareDomain> {
        self.iommu.allocate(kind, &endpoint(1)).unwrap()
    }

    /// Why a write to `at` and a read from there fault, if they do.
    fn reasons(&self, at: u64) -> [Option<FaultReason>; 2] {
        let write = self.device.write(iova(at), &[7; 8]).err();
        let read = self.device.read(iova(at), &mut [0; 8]).err();
        [write, read].map(|fault| fault.map(|fault| fault.reason))
    }

    fn both_fault(&self, at: u64, reason: FaultReason) {
        assert_eq!(self.reasons(at), [Some(reason); 2]);
        assert_eq!(self.memory.frames(), 0, "nothing reached memory");
    }
}

#[test]
fn i39_each_kind_translates_its_way() {
    for kind in ALL_KINDS {
        let (machine, domain) = Machine::attached(kind);
        assert_eq!(domain.paging().is_some(), kind.is_paging(), "{kind}");
        let mapped = domain.map(iova(0x4000), phys(0x9000), 0x1000, Access::ReadWrite).map_err(|error| error.errno);
        assert_eq!(mapped, if kind.is_paging() { Ok(()) } else { Err(Errno::EINVAL) }, "{kind} (I37)");
        let leads_to = match kind {
            DomainKind::Blocking => None,
            DomainKind::Identity => Some(0x4008),
            _ => Some(0x9008),
        };
        if let Some(paging) = domain.paging() {
            assert_eq!(paging.iova_to_phys(iova(0x4008)), leads_to.map(phys), "{kind}");
        }
        match leads_to {
            None => machine.both_fault(0x4008, FaultReason::Blocked),
            Some(at) => {
                assert_eq!(machine.reasons(0x4008), [None; 2], "{kind}");
                assert_eq!(machine.memory.bytes(phys(at)), [7; 8], "{kind}");
            }
        }
        assert_eq!(domain.unmap(iova(0x4000), 0x1000), if kind.is_paging() { 0x1000 } else { 0 }, "{kind} (I38)");
    }
}

#[test]
fn i8_dma_follows_the_device_from_domain_to_domain() {
    let (machine, first) = Machine::attached(DomainKind::Paging);
    first.map(iova(0), phys(0x1000), 0x1000, Access::ReadWrite).unwrap();
    let second = machine.domain(DomainKind::Dma);
    second.map(iova(0), phys(0x2000), 0x1000, Access::ReadWrite).unwrap();

    machine.device.write(iova(0), &[1]).unwrap();
    second.attach(&endpoint(1)).unwrap();
    machine.device.write(iova(0), &[2]).unwrap();

    assert_eq!((machine.memory.bytes(phys(0x1000)), machine.memory.bytes(phys(0x2000))), ([1], [2]));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Map { page: u64, frame: u64, count: u64 },
    Unmap { page: u64, count: u64 },
    Write { page: u64 },
    Read { page: u64 },
}

/// Few pages of three large ones, some of which share their place in the device's cache.
fn page() -> impl Strategy<Value = u64> {
    (0..3_u64, prop::sample::select(vec![0, 1, 2, 64, 65, 510, 511])).prop_map(|(large, small)| large * 512 + small)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let count = prop::sample::select(vec![1, 2, 64, 512, 1024]);
    let step = prop_oneof![
        2 => (page(), page(), count.clone()).prop_map(|(page, frame, count)| Step::Map { page, frame, count }),
        1 => (page(), count).prop_map(|(page, count)| Step::Unmap { page, count }),
        4 => page().prop_map(|page| Step::Write { page }),
        4 => page().prop_map(|page| Step::Read { page }),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    /// Whatever was cached: once unmaps are flushed, an access goes where the tables say, and pages go as a whole.
    #[test]
    fn after_a_flush_a_device_sees_the_tables(steps in steps()) {
        let (machine, domain) = Machine::attached(DomainKind::Paging);
        for (round, step) in (1_u64..).zip(steps) {
            match step {
                Step::Map { page, frame, count } => {
                    // What is mapped already ends it.
                    let _ = domain.map(iova(page << 12), phys(frame << 12), count << 12, Access::ReadWrite);
                }
                Step::Unmap { page, count } => drop(domain.unmap(iova(page << 12), count << 12)),
                Step::Write { page } => {
                    let leads_to = domain.paging().unwrap().iova_to_phys(iova(page << 12));
                    let written = machine.device.write(iova(page << 12), &round.to_le_bytes());
                    prop_assert_eq!(written.is_ok(), leads_to.is_some(), "round {}", round);
                    let seen = leads_to.map_or(round, |at| u64::from_le_bytes(machine.memory.bytes(at)));
                    prop_assert_eq!(seen, round);
                }
                Step::Read { page } => {
                    let leads_to = domain.paging().unwrap().iova_to_phys(iova(page << 12));
                    let mut bytes = [0; 8];
                    let read = machine.device.read(iova(page << 12), &mut bytes);
                    prop_assert_eq!(read.is_ok(), leads_to.is_some(), "round {}", round);
                    prop_assert_eq!(bytes, leads_to.map_or([0; 8], |at| machine.memory.bytes(at)));
                }
            }
        }
    }
}

#[test]
fn a_device_reaches_nothing_before_attach_and_after_block_and_release() {
    let machine = Machine::new(SoftIommuConfig::default());
    machine.both_fault(0, FaultReason::NotAttached);
    for kind in ALL_KINDS {
        let domain = machine.domain(kind);
        domain.attach(&endpoint(1)).unwrap();
        machine.iommu.block(&endpoint(1)).unwrap();
        machine.both_fault(0, FaultReason::Blocked);
    }
    machine.domain(DomainKind::Identity).attach(&endpoint(1)).unwrap();
    machine.iommu.release(&endpoint(1));
    machine.both_fault(0, FaultReason::Unserved);
    machine.iommu.probe(&endpoint(1), unheard()).unwrap();
    machine.both_fault(0, FaultReason::NotAttached);
}

#[test]
fn faults_say_what_was_wrong() {
    let (machine, domain) = Machine::attached(DomainKind::Paging);
    domain.map(iova(0x1000), phys(0x1000), 0x1000, Access::Read).unwrap();
    domain.map(iova(0x2000), phys(0x2000), 0x1000, Access::Write).unwrap();

    assert_eq!(machine.reasons(0x1000), [Some(FaultReason::NotPermitted), None]);
    assert_eq!(machine.reasons(0x2000), [None, Some(FaultReason::NotPermitted)]);
    assert_eq!(machine.reasons(0x3000), [Some(FaultReason::NotMapped); 2]);
    assert_eq!(machine.reasons(1 << 39), [Some(FaultReason::BeyondAperture); 2]);

    let faults = machine.iommu.take_faults();
    assert_eq!(faults.len(), 6);
    let device = DeviceId::new(1);
    let reason = FaultReason::NotPermitted;
    assert_eq!(faults[0], Fault { device, pasid: None, iova: iova(0x1000), access: Access::Write, reason });
    assert_eq!(faults[0].to_string(), "DeviceId(1): write of 0x1000 faulted");
    assert!(machine.iommu.take_faults().is_empty());
}

#[test]
fn an_access_stops_at_the_page_that_faults() {
    let (machine, domain) = Machine::attached(DomainKind::Paging);
    domain.map(iova(0x1000), phys(0x8000), 0x1000, Access::ReadWrite).unwrap();
    let fault = machine.device.write(iova(0x1ffc), &[9; 8]).unwrap_err();
    assert_eq!((fault.iova, fault.reason), (iova(0x2000), FaultReason::NotMapped));
    assert_eq!(machine.memory.bytes(phys(0x8ffc)), [9, 9, 9, 9, 0, 0, 0, 0]);
}

#[test]
fn nothing_is_past_the_end_of_the_space() {
    let (machine, _domain) = Machine::attached(DomainKind::Identity);
    machine.device.write(iova(u64::MAX - 3), &[1; 4]).unwrap();
    let fault = machine.device.read(iova(u64::MAX - 3), &mut [0; 5]).unwrap_err();
    assert_eq!(fault.reason, FaultReason::BeyondAperture);
}

#[test]
fn i50_the_interrupt_window_never_reaches_memory() {
    for kind in [DomainKind::Paging, DomainKind::Identity] {
        let (machine, domain) = Machine::attached(kind);
        if kind.is_paging() {
            domain.map(iova(WINDOW - 0x1000), phys(0x1000), 0x10_2000, Access::ReadWrite).unwrap();
        }
        machine.both_fault(WINDOW, FaultReason::InterruptWindow);
        machine.both_fault(WINDOW + 0xf_fff8, FaultReason::InterruptWindow);
        let fault = machine.device.write(iova(WINDOW - 2), &[1; 4]).unwrap_err();
        assert_eq!(fault.iova, iova(WINDOW), "{kind}: what lies before the window passes");
        assert_eq!(machine.reasons(WINDOW + 0x10_0000), [None; 2], "{kind}: and what lies after it");
    }
    let (machine, _domain) = Machine::attached(DomainKind::Blocking);
    machine.both_fault(WINDOW, FaultReason::Blocked);
}

/// What a device has cached of the rest of a page leads nowhere in the window.
#[test]
fn i50_a_window_within_a_page_is_never_cached() {
    for at in [0x1000, 0x17f8, 0x1900, 0x1ff8] {
        let window = Some(iova(0x1800)..=iova(0x18ff));
        let machine = Machine::new(SoftIommuConfig { interrupt_window: window, ..Default::default() });
        let domain = machine.domain(DomainKind::Paging);
        domain.attach(&endpoint(1)).unwrap();
        domain.map(iova(0x1000), phys(0x1000), 0x1000, Access::ReadWrite).unwrap();
        assert_eq!(machine.reasons(at), [None; 2], "{at:#x}");
        for inside in [0x1800, 0x1880, 0x18f8] {
            assert_eq!(machine.reasons(inside), [Some(FaultReason::InterruptWindow); 2], "{inside:#x} after {at:#x}");
        }
        let fault = machine.device.write(iova(0x17fc), &[1; 8]).unwrap_err();
        assert_eq!(fault.iova, iova(0x1800), "after {at:#x}");
    }
}

#[test]
fn an_empty_interrupt_window_is_none() {
    let machine = Machine::new(SoftIommuConfig { interrupt_window: Some(iova(8)..=iova(0)), ..Default::default() });
    machine.domain(DomainKind::Identity).attach(&endpoint(1)).unwrap();
    assert_eq!(machine.reasons(4), [None; 2]);
    assert_eq!(machine.iommu.probe(&endpoint(2), unheard()).unwrap().reserved, []);
}

#[test]
fn the_fault_log_is_bounded() {
    let machine = Machine::new(SoftIommuConfig::default());
    for _ in 0..FAULT_LOG_CAPACITY + 3 {
        machine.device.write(iova(0), &[0]).unwrap_err();
    }
    assert_eq!((machine.iommu.take_faults().len(), machine.iommu.dropped_faults()), (FAULT_LOG_CAPACITY, 3));
    machine.device.write(iova(0), &[0]).unwrap_err();
    assert_eq!((machine.iommu.take_faults().len(), machine.iommu.dropped_faults()), (1, 3));
}

#[test]
fn i7_i41_i50_the_configuration_is_told() {
    let own = ReservedRegion { first: iova(0x1000), kind: RegionKind::Direct, last: iova(0x1fff) };
    let config = SoftIommuConfig {
        format: TableFormat::new(48, PageSizes::from_bitmap(1 << 12).unwrap()).unwrap(),
        reserved: [("dev1".to_string(), vec![own])].into(),
        default_domains: [("dev1".to_string(), DefaultDomainType::Identity)].into(),
        absent: vec![DomainKind::Blocking],
        max_pasids: 16,
        ..SoftIommuConfig::default()
    };
    let iommu = SoftIommu::new("soft", config);
    let window = ReservedRegion { first: iova(WINDOW), kind: RegionKind::Msi, last: iova(0xfeef_ffff) };
    let (choosy, plain) =
        (iommu.probe(&endpoint(1), unheard()).unwrap(), iommu.probe(&endpoint(2), unheard()).unwrap());
    assert_eq!((choosy.reserved, choosy.default_domain), (vec![own, window], Some(DefaultDomainType::Identity)));
    assert_eq!((plain.reserved, plain.default_domain, plain.max_pasids), (vec![window], None, 16));
    assert_eq!(iommu.allocate(DomainKind::Blocking, &endpoint(1)).unwrap_err().errno, Errno::EOPNOTSUPP);
    let geometry = iommu.allocate(DomainKind::Paging, &endpoint(1)).unwrap().paging().unwrap().geometry();
    assert_eq!((geometry.page_sizes.bitmap(), geometry.last), (1 << 12, iova((1 << 48) - 1)));
}

#[test]
fn a_domain_serves_only_devices_of_its_iommu() {
    let machine = Machine::new(SoftIommuConfig { max_pasids: 4, ..SoftIommuConfig::default() });
    let other = Machine::new(SoftIommuConfig::default());
    other.iommu.probe(&endpoint(2), unheard()).unwrap();
    let domain = machine.domain(DomainKind::Paging);
    assert_eq!(domain.attach(&endpoint(2)).unwrap_err().errno, Errno::ENODEV);
    assert_eq!(domain.attach_pasid(&endpoint(2), 1).unwrap_err().errno, Errno::ENODEV);
    domain.detach_pasid(&endpoint(2), 1);
    machine.iommu.block(&endpoint(2)).unwrap();
    machine.iommu.release(&endpoint(2));
    assert_eq!(machine.iommu.probe(&endpoint(1), unheard()).unwrap_err().errno, Errno::EBUSY);
}

#[test]
fn a_pasid_is_an_address_space_beside_the_device() {
    let machine = Machine::new(SoftIommuConfig { max_pasids: 4, ..SoftIommuConfig::default() });
    let (first, second) = (machine.domain(DomainKind::Paging), machine.domain(DomainKind::Identity));
    let device = machine.device.with_pasid(3);
    for pasid in [0, 4] {
        assert_eq!(first.attach_pasid(&endpoint(1), pasid).unwrap_err().errno, Errno::EINVAL);
    }
    first.attach_pasid(&endpoint(1), 3).unwrap();
    first.map(iova(0), phys(0x5000), 0x1000, Access::ReadWrite).unwrap();
    device.write(iova(0), &[1]).unwrap();
    assert_eq!(machine.memory.bytes(phys(0x5000)), [1]);
    assert_eq!(machine.device.write(iova(0), &[1]).unwrap_err().reason, FaultReason::NotAttached);

    second.attach_pasid(&endpoint(1), 3).unwrap();
    first.detach_pasid(&endpoint(1), 3);
    device.write(iova(0x7000), &[1]).unwrap();
    second.detach_pasid(&endpoint(1), 3);
    let fault = device.write(iova(0), &[1]).unwrap_err();
    assert_eq!((fault.reason, fault.pasid), (FaultReason::NotAttached, Some(3)));

    first.attach_pasid(&endpoint(1), 3).unwrap();
    machine.iommu.block(&endpoint(1)).unwrap();
    assert_eq!(device.write(iova(0), &[1]).unwrap_err().reason, FaultReason::Blocked);
    second.attach(&endpoint(1)).unwrap();
    assert_eq!(device.write(iova(0), &[1]).unwrap_err().reason, FaultReason::NotAttached);
    let none = Machine::new(SoftIommuConfig::default());
    assert_eq!(none.domain(DomainKind::Paging).attach_pasid(&endpoint(1), 1).unwrap_err().errno, Errno::EOPNOTSUPP);
}

proptest! {
    /// Over pages that lie scattered in memory, a device reads and writes as if they were one piece.
    #[test]
    fn dma_of_any_length_crosses_pages(frames in Just((0..16_u64).collect::<Vec<_>>()).prop_shuffle(),
                                       start in 0_usize..30_000, bytes in prop::collection::vec(any::<u8>(), 0..30_000)) {
        let (machine, domain) = Machine::attached(DomainKind::DmaLazy);
        for (page, frame) in frames.iter().enumerate() {
            domain.map(iova(page as u64 * 4096), phys(frame * 4096), 4096, Access::ReadWrite).unwrap();
        }
        machine.device.write(iova(start as u64), &bytes).unwrap();
        let mut read = vec![0; bytes.len()];
        machine.device.read(iova(start as u64), &mut read).unwrap();
        prop_assert_eq!(&read, &bytes);
        for (n, byte) in bytes.iter().enumerate() {
            let at = frames[(start + n) / 4096] * 4096 + (start + n) as u64 % 4096;
            prop_assert_eq!(machine.memory.bytes(phys(at)), [*byte]);
        }
    }
}
