//! The bus of a function: what is reset with it.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;

use iommu_core::IommuSubsystem;
use iommu_core::device_model::pci::{ConfigSpace, PciBus, PciFunction, PortType};
use iommu_core::device_model::{AnyDevice, Device};

use super::{CAP_EXPRESS, CAP_POWER, capability};
use crate::device_ops::{AffectedFunction, LinkState, NoHotReset, PciAtomicOps};

type Pci = PciBus<IommuSubsystem>;

const LINK_CAPABILITIES: u16 = 0x0c;
const LINK_STATUS: u16 = 0x12;
const LINK_CAPABILITIES_2: u16 = 0x2c;

/// Whether a port reports that its link is active.
const REPORTS_LINK_ACTIVE: u32 = 1 << 20;
const LINK_ACTIVE: u16 = 1 << 13;
/// The supported speeds from 8 GT/s on.
const ABOVE_5_GT: u32 = 0xf8 & !0b111;

/// The bus of a function, below a bridge; none for a root bus, which cannot be reset.
#[derive(Debug)]
pub(super) struct Neighbours {
    bridge: Option<Weak<dyn AnyDevice>>,
    /// Whether the function was the first on its bus when it was found.
    found: Found,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Alone,
    BesideOthers,
}

impl Neighbours {
    pub(super) fn of(function: &PciFunction, bridge: Option<&Arc<dyn AnyDevice>>) -> Self {
        let oldest = bridge.and_then(|bridge| {
            bridge.children().into_iter().find_map(|child| Some(pci(&*child)?.description().address))
        });
        let found = if oldest == Some(function.address) { Found::Alone } else { Found::BesideOthers };
        Self { bridge: bridge.map(Arc::downgrade), found }
    }

    fn bridge(&self) -> Option<Arc<dyn AnyDevice>> {
        self.bridge.as_ref().and_then(Weak::upgrade)
    }

    /// Whether a reset of the bus resets this function only. The kernel knows at the start which resets a function has,
    /// when those found later are not there yet.
    // V87.
    pub(super) fn was_alone(&self) -> bool {
        self.found == Found::Alone
    }

    pub(super) fn is_alone(&self) -> bool {
        self.was_alone() && self.bridge().is_some_and(|bridge| bridge.children().len() == 1)
    }

    /// All functions on the bus, a bridge before those below it.
    // V88.
    pub(super) fn affected(&self) -> Result<Vec<AffectedFunction>, NoHotReset> {
        let bridge = self.bridge().ok_or(NoHotReset)?;
        let mut found = Vec::new();
        let mut rest = bridge.children();
        rest.reverse();
        while let Some(dev) = rest.pop() {
            rest.extend(dev.children().into_iter().rev());
            found.extend(pci(&*dev).map(|function| AffectedFunction {
                device: dev.name().clone(),
                address: function.description().address,
                group: function.dma_slot().member().map(|member| member.group().id()),
            }));
        }
        Ok(found)
    }

    /// Whether the link below the bridge comes back after a reset. It is waited for where a function has power
    /// management, and the port of a fast link says when it is active.
    // V91.
    pub(super) fn link_after_reset(&self) -> LinkState {
        let Some(bridge) = self.bridge() else { return LinkState::Up };
        let has_power_management = |dev: &Arc<dyn AnyDevice>| {
            pci(&**dev).is_some_and(|function| capability(&function.description().config, CAP_POWER).is_some())
        };
        let waited_for = bridge.children().iter().any(has_power_management);
        let port = pci(&*bridge).map(|bridge| bridge.description().clone());
        match port {
            Some(port) if waited_for && is_down(&port.config) == Some(true) => LinkState::Down,
            _ => LinkState::Up,
        }
    }
}

/// Where atomic operations are told, in the second device capabilities of PCI Express.
const DEVICE_CAPABILITIES_2: u16 = 0x24;
const ROUTES_ATOMICS: u32 = 1 << 6;
const COMPLETES_ATOMICS: [(u32, PciAtomicOps); 3] =
    [(1 << 7, PciAtomicOps::BITS_32), (1 << 8, PciAtomicOps::BITS_64), (1 << 9, PciAtomicOps::BITS_128)];

impl Neighbours {
    /// The atomic operations that the function completes, and its root port too, if every switch between them routes
    /// them.
    // V74.
    pub(super) fn atomics(&self, function: &ConfigSpace) -> PciAtomicOps {
        let mut common = device_capabilities_2(function).unwrap_or(0);
        let mut above = self.bridge();
        let mut completer = None;
        while let Some(dev) = above {
            let Some(port) = pci(&*dev).map(|port| port.description().clone()) else { break };
            let Some(capabilities) = device_capabilities_2(&port.config) else { break };
            if port.config.pcie().is_some_and(|pcie| pcie.port_type == PortType::RootPort) {
                completer = Some(capabilities);
                break;
            }
            if capabilities & ROUTES_ATOMICS == 0 {
                break;
            }
            above = dev.parent();
        }
        common &= completer.unwrap_or(0);
        let widths = COMPLETES_ATOMICS.into_iter().filter(|(bit, _)| common & bit != 0);
        widths.fold(PciAtomicOps::default(), |all, (_, width)| all.union(width))
    }
}

/// The second device capabilities, which version 1 of PCI Express does not have.
fn device_capabilities_2(config: &ConfigSpace) -> Option<u32> {
    let at = capability(config, CAP_EXPRESS)?;
    let version = config.read_u8(at.checked_add(2)?)? & 0xf;
    if version < 2 { None } else { config.read_u32(at.checked_add(DEVICE_CAPABILITIES_2)?) }
}

/// Whether a port says of its link that it is down; `None` if it does not say.
fn is_down(port: &ConfigSpace) -> Option<bool> {
    let is_port = matches!(port.pcie()?.port_type, PortType::RootPort | PortType::DownstreamPort);
    let at = |offset: u16| capability(port, CAP_EXPRESS)?.checked_add(offset);
    let reports = port.read_u32(at(LINK_CAPABILITIES)?)? & REPORTS_LINK_ACTIVE != 0;
    let fast = port.read_u32(at(LINK_CAPABILITIES_2)?)? & ABOVE_5_GT != 0;
    let active = port.read_u16(at(LINK_STATUS)?)? & LINK_ACTIVE != 0;
    (is_port && reports && fast).then_some(!active)
}

/// How many virtual functions of this one are there, left over from another driver. They are below the same bridge.
// V102.
pub(super) fn virtual_functions(dev: &Device<Pci>) -> u16 {
    let physical = Some(dev.description().address);
    let children = dev.parent().map(|bridge| bridge.children()).unwrap_or_default();
    let is_of = |child: &&Arc<dyn AnyDevice>| {
        pci(&***child).is_some_and(|function| function.description().physical_function == physical)
    };
    u16::try_from(children.iter().filter(is_of).count()).unwrap_or(u16::MAX)
}

/// A device as a PCI function, which all below a PCI bridge are.
fn pci(dev: &dyn AnyDevice) -> Option<&Device<Pci>> {
    (dev as &dyn Any).downcast_ref()
}
