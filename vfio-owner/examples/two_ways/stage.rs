//! The machine and the guest, and what both ways have in common: each step is checked, then told in a line.

use std::error::Error;
use std::sync::Arc;

use vfio_owner::iommu_core::software::{LockedPages, Process};
use vfio_owner::iommu_core::{Access, Iova, Ownership, UserAddr, UserMemory};
use vfio_owner::iommufd_owner::{BindError, BoundDevice, MapRequest, Place};
use vfio_owner::testbed::{self, Machine};

pub(crate) type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

/// Three functions, the first on vfio-pci, the second on e1000, the third without driver.
pub(crate) const CARD: [&str; 3] = ["0000:00:04.0", "0000:00:04.1", "0000:00:04.2"];

/// Where the guest's page is for the card, whichever of the two pages it is.
const AT: Iova = Iova::new(0x10_0000);
const PAGE: u64 = 0x1000;

pub(crate) struct Stage {
    pub(crate) machine: Machine,
    vmm: Arc<Process>,
    /// A page of the guest, which reads "first".
    pub(crate) first: UserAddr,
    /// Another, which reads "other".
    pub(crate) other: UserAddr,
}

impl Stage {
    pub(crate) fn new() -> Result<Self> {
        let machine = Machine::boot(&testbed::pc());
        let vmm = machine.process(LockedPages::unlimited());
        let page = |text: &[u8]| -> Result<UserAddr> {
            let page = vmm.allocate(PAGE, Access::ReadWrite).ok_or("no memory")?;
            vmm.write(page, text)?;
            Ok(page)
        };
        let (first, other) = (page(b"first")?, page(b"other")?);
        let stage = Self { machine, vmm, first, other };
        stage.rebind(CARD[0], "vfio-pci")?;
        Ok(stage)
    }

    pub(crate) fn map_dma(&self, addr: UserAddr) -> MapRequest {
        MapRequest { iova: AT, bytes: PAGE, process: self.vmm.clone(), addr, access: Access::ReadWrite }
    }

    pub(crate) fn map_request(&self, addr: UserAddr) -> MapRequest<Place> {
        self.map_dma(addr).at(Place::Fixed(AT))
    }

    /// Puts another driver on a function.
    pub(crate) fn rebind(&self, function: &str, driver: &str) -> Result {
        self.machine.unbind(function)?.wait();
        Ok(self.machine.bind(function, driver)?)
    }

    /// The claim of function 1 by somebody else.
    pub(crate) fn stranger(&self) -> Result<Result<BoundDevice, BindError>> {
        Ok(self.machine.open_iommufd("a stranger").bind(&self.machine.member(CARD[1])?))
    }

    /// Something was done, after which user space has so many claims of the group.
    pub(crate) fn step(&self, number: u32, what: &str, claims: u32) -> Result {
        let ownership = self.machine.group(CARD[0])?.ownership();
        let counted = match &ownership {
            Ownership::User { claims, .. } => claims.get(),
            Ownership::Idle | Ownership::Kernel { .. } => 0,
        };
        assert_eq!(counted, claims, "{what}");
        println!("{number:>3}. {what:<46}{ownership}");
        Ok(())
    }

    /// A function reads the page by DMA: "nothing" if it faults.
    pub(crate) fn dma(&self, number: u32, function: &str, expected: &str) -> Result {
        let mut bytes = [0; 5];
        let outcome = self.machine.dma(function)?.read(AT, &mut bytes);
        let read = outcome.map_or_else(|_| "nothing".to_owned(), |()| bytes.escape_ascii().to_string());
        assert_eq!(read, expected, "DMA of {function}");
        println!("{number:>3}. {:<46}reads {read}", format!("DMA of {function}"));
        Ok(())
    }
}

/// Something is refused, by an error that names `by`.
pub(crate) fn refused<T, E: Error + 'static>(number: u32, what: &str, outcome: Result<T, E>, by: &str) -> Result {
    let error = outcome.err().ok_or_else(|| format!("{what}: not refused"))?;
    let reason = root(&error).to_string();
    assert!(reason.contains(by), "{what}: {reason}");
    println!("{number:>3}. {what:<46}refused: {reason}");
    Ok(())
}

/// The error at the bottom, which names who is in the way.
fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    error.source().map_or(error, root)
}
