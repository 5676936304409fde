use proptest::prelude::*;

use device_model::DeviceId;

use super::*;
use crate::address::Access;
use crate::hardware::FaultReason;
use crate::software::testing::{Map, unheard};
use crate::software::{LockedPages, Memory, Process, SoftIommu, SoftIommuConfig};
use crate::user_memory::{BadAddress, UserMemory as _};

fn endpoint(id: u64) -> Endpoint {
    Endpoint::new(DeviceId::new(id), alloc::format!("dev{id}"))
}

fn failing() -> (Arc<FailingIommu>, Arc<SoftIommu>) {
    let soft = SoftIommu::new("soft", SoftIommuConfig { max_pasids: 8, ..SoftIommuConfig::default() });
    (FailingIommu::new(soft.clone()), soft)
}

fn error() -> HardwareError {
    HardwareError::new(Errno::ENOMEM, "told to fail")
}

const PAGE: u64 = 0x1000;

/// Six calls that can fail, in this order, among one that cannot. Stops at the first failure.
fn all_calls(iommu: &dyn IommuDriver) -> Result<Box<dyn HardwareDomain>, HardwareError> {
    let dev = endpoint(1);
    iommu.probe(&dev, unheard())?;
    iommu.block(&dev)?;
    let domain = iommu.allocate(DomainKind::Paging, &dev)?;
    domain.attach(&dev)?;
    domain.attach_pasid(&dev, 1)?;
    domain.detach_pasid(&dev, 1);
    domain.map(Iova::new(0), PhysAddr::new(PAGE), PAGE, Access::ReadWrite)?;
    Ok(domain)
}

const CALLS: [Operation; 6] = [
    Operation::Probe,
    Operation::Block,
    Operation::Allocate(DomainKind::Paging),
    Operation::Attach(DomainKind::Paging),
    Operation::AttachPasid(DomainKind::Paging),
    Operation::Map,
];

#[test]
fn every_call_that_can_fail_can_be_made_to() {
    for (n, operation) in (0..).zip(CALLS) {
        let (iommu, _) = failing();
        iommu.fail_nth(n, error());
        assert_eq!(all_calls(&*iommu).unwrap_err(), error());
        assert_eq!(iommu.calls(), n + 1);
        let failed = iommu.last_failed().unwrap();
        assert_eq!((failed.number, failed.operation, failed.error), (n, operation, Some(error())));
        assert_eq!(failed.device, (operation != Operation::Map).then(|| endpoint(1)));
    }
}

#[test]
fn without_orders_it_is_the_iommu_below() {
    let (iommu, soft) = failing();
    let domain = all_calls(&*iommu).unwrap();
    assert_eq!((iommu.name(), iommu.calls(), iommu.last_failed()), ("soft", 6, None));
    assert_eq!(domain.paging().unwrap().iova_to_phys(Iova::new(4)), Some(PhysAddr::new(PAGE + 4)));
    soft.dma_write(endpoint(1).id, Iova::new(0), &[1], &Memory::new()).unwrap();
    assert_eq!(domain.unmap(Iova::new(0), PAGE), PAGE);
    iommu.release(&endpoint(1));
    let fault = soft.dma_write(endpoint(1).id, Iova::new(0), &[1], &Memory::new()).unwrap_err();
    assert_eq!(fault.reason, FaultReason::Unserved);
    iommu.probe(&endpoint(1), unheard()).unwrap();
    iommu.probe(&endpoint(1), unheard()).unwrap_err();
    assert_eq!(iommu.last_failed(), None, "the IOMMU below failed by itself");
}

/// The device stays where it was, as `HardwareDomain::attach` promises: the call does not reach the IOMMU below.
#[test]
fn a_failed_attach_leaves_the_device_where_it_was() {
    let (iommu, soft) = failing();
    iommu.probe(&endpoint(1), unheard()).unwrap();
    let [identity, blocking] =
        [DomainKind::Identity, DomainKind::Blocking].map(|kind| iommu.allocate(kind, &endpoint(1)).unwrap());
    identity.attach(&endpoint(1)).unwrap();
    iommu.fail_nth(0, error());
    blocking.attach(&endpoint(1)).unwrap_err();
    soft.dma_write(endpoint(1).id, Iova::new(0), &[1], &Memory::new()).unwrap();
    blocking.attach(&endpoint(1)).unwrap();
    soft.dma_write(endpoint(1).id, Iova::new(0), &[1], &Memory::new()).unwrap_err();
}

#[test]
fn a_refusal_lasts_until_healed() {
    let (iommu, _) = failing();
    let domains = [DomainKind::Blocking, DomainKind::Paging].map(|kind| iommu.allocate(kind, &endpoint(1)).unwrap());
    for id in 1..=3 {
        iommu.probe(&endpoint(id), unheard()).unwrap();
    }
    iommu.refuse_attach("dev1", Some(DomainKind::Blocking));
    iommu.refuse_attach("dev2", None);
    let refused = |id: u64| domains.each_ref().map(|domain| domain.attach(&endpoint(id)).is_err());
    for _ in 0..2 {
        assert_eq!([1, 2, 3].map(refused), [[true, false], [true, true], [false, false]]);
    }
    let failed = iommu.last_failed().unwrap();
    assert_eq!((failed.operation, failed.device), (Operation::Attach(DomainKind::Paging), Some(endpoint(2))));
    assert_eq!((failed.error.unwrap().errno, iommu.calls()), (Errno::EIO, 5 + 12));
    iommu.fail_nth(0, error());
    iommu.heal();
    assert_eq!([1, 2, 3].map(refused), [[false, false]; 3]);
}

#[test]
fn an_unmap_can_be_told_to_unmap_nothing() {
    let (iommu, _) = failing();
    let domain = all_calls(&*iommu).unwrap();
    iommu.shorten_nth(0);
    let (paging, mut gather) = (domain.paging().unwrap(), Gather::new());
    assert_eq!(paging.unmap_pages(Iova::new(0), PAGE, 1, &mut gather).unwrap(), 0);
    let failed = iommu.last_failed().unwrap();
    assert_eq!((failed.number, failed.operation, failed.error), (6, Operation::Unmap, None));
    assert!(paging.iova_to_phys(Iova::new(0)).is_some());
    iommu.shorten_nth(0);
    domain.attach(&endpoint(1)).unwrap();
    assert_eq!(domain.unmap(Iova::new(0), PAGE), PAGE, "another call was told");
}

#[test]
fn a_pin_fails_or_panics_on_command() {
    let process = Process::new(&Memory::new(), LockedPages::unlimited());
    let at = process.allocate(4 * PAGE, Access::ReadWrite).unwrap();
    let memory = FailingMemory::new(process.clone());
    let pin = || memory.pin(at, 4 * PAGE, Access::Read).map(|run| run.bytes);
    memory.fail_nth(1);
    memory.panic_nth(2);
    assert_eq!((pin(), pin()), (Ok(PAGE), Err(BadAddress { at })));
    assert!(!memory.has_failed(), "a panic is pending");
    assert!(std::panic::catch_unwind(core::panic::AssertUnwindSafe(pin)).is_err());
    assert!(memory.has_failed());
    assert_eq!((pin(), process.pinned()), (Ok(PAGE), 2));
    memory.panic_nth(0);
    memory.heal();
    assert_eq!(pin(), Ok(PAGE));
}

/// Every call can be made to panic, those that cannot fail among them; it does not reach the IOMMU below.
#[test]
fn every_call_can_be_made_to_panic() {
    let (iommu, _) = failing();
    all_calls(&*iommu).unwrap();
    iommu.release(&endpoint(1));
    let all = iommu.all_calls();
    assert_eq!(all, iommu.calls() + 2);
    for n in 0..all {
        let (iommu, soft) = failing();
        iommu.panic_nth(n);
        let run = std::panic::AssertUnwindSafe(|| {
            let _ = all_calls(&*iommu);
            iommu.release(&endpoint(1));
        });
        std::panic::catch_unwind(run).unwrap_err();
        assert_eq!((iommu.last_failed().unwrap().number, iommu.all_calls()), (n, n + 1));
        assert_eq!(soft.probe(&endpoint(1), unheard()).is_ok(), n == 0, "released, or never probed");
    }
}

proptest! {
    /// Exactly the calls fail that were told to, each once, and all are counted.
    #[test]
    fn each_order_fails_one_call(orders in prop::collection::btree_set(0_u32..20, 0..6), before in 0_u32..5) {
        let (iommu, _) = failing();
        iommu.probe(&endpoint(1), unheard()).unwrap();
        let domain = iommu.allocate(DomainKind::Identity, &endpoint(1)).unwrap();
        (0..before).for_each(|_| domain.attach(&endpoint(1)).unwrap());
        for n in &orders {
            iommu.fail_nth(*n, error());
        }
        for n in 0..20 {
            prop_assert_eq!(domain.attach(&endpoint(1)).is_err(), orders.contains(&n));
        }
        prop_assert_eq!(iommu.calls(), 2 + before + 20);
    }
}
