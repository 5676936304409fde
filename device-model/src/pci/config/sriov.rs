//! Virtual functions (SR-IOV).

use core::ops::Range;

use super::{ConfigSpace, EXTENDED, at, write};
use crate::pci::{Devfn, PciAddress};

/// The SR-IOV capability of a physical function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sriov {
    /// How many virtual functions there can be.
    pub total: u16,
    /// From the requester ID of the physical function to that of the first virtual one.
    pub offset: u16,
    /// From the requester ID of one virtual function to that of the next.
    pub stride: u16,
    /// Device id of the virtual functions.
    pub device: u16,
}

impl Sriov {
    /// Returns the address of virtual function `index`, from 0 on, of the function at `physical`. `None` if there is no
    /// such function, or the address is beyond the last bus.
    pub fn address(self, physical: PciAddress, index: u16) -> Option<PciAddress> {
        let step = self.stride.checked_mul(index)?;
        let id = requester_id(physical).checked_add(self.offset)?.checked_add(step)?;
        let [bus, devfn] = id.to_be_bytes();
        let address = PciAddress::new(physical.domain(), bus, Devfn::from_byte(devfn));
        (index < self.total && address != physical).then_some(address)
    }
}

fn requester_id(address: PciAddress) -> u16 {
    u16::from_be_bytes([address.bus(), address.devfn().byte()])
}

impl ConfigSpace {
    /// Returns the SR-IOV capability.
    pub fn sriov(&self) -> Option<Sriov> {
        let capability = self.extended_capability(at::EXT_CAP_SRIOV)?;
        let word = |offset: u16| self.read_u16(capability.checked_add(offset)?);
        Some(Sriov { total: word(0x0e)?, offset: word(0x14)?, stride: word(0x16)?, device: word(0x1a)? })
    }

    /// Returns the configuration space of a virtual function of this physical one, before anything was written to it. The
    /// ids are those that the kernel uses; the function itself reads as `0xffff`.
    pub fn of_virtual_function(&self) -> Option<Self> {
        const COMMAND: Range<usize> = 0x04..0x06;
        const BARS: Range<usize> = 0x10..0x28;
        const ROM: Range<usize> = 0x30..0x34;
        const INTERRUPT: Range<usize> = 0x3c..0x3e;
        let (Sriov { device, .. }, capability) = (self.sriov()?, self.extended_capability(at::EXT_CAP_SRIOV)?);
        let mut bytes = self.bytes();
        for range in [COMMAND, BARS, ROM, INTERRUPT] {
            bytes.get_mut(range).unwrap_or_default().fill(0);
        }
        write(&mut bytes, 0x02, &device.to_le_bytes());
        if let Some(header) = bytes.get_mut(usize::from(at::HEADER_TYPE)) {
            *header &= !at::MULTIFUNCTION;
        }
        self.unlink(&mut bytes, capability);
        Some(Self::new(bytes))
    }

    /// Takes an extended capability out of the list of `bytes`, which are those of this space.
    fn unlink(&self, bytes: &mut [u8], offset: u16) {
        let next = self.read_u16(offset + 2).map_or(0, |word| word & 0xfff0);
        match self.extended_capabilities().take_while(|found| found.offset != offset).last() {
            Some(before) => {
                let version = self.read_u16(before.offset + 2).map_or(0, |word| word & 0xf);
                write(bytes, before.offset + 2, &(next | version).to_le_bytes());
            }
            // The first one stays as one that is none.
            None => write(bytes, EXTENDED, &(u32::from(next) << 16).to_le_bytes()),
        }
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    /// A space with these extended capabilities.
    fn space(capabilities: &[(u16, u16)]) -> ConfigSpace {
        let mut bytes = alloc::vec![0; 4096];
        bytes[..4].copy_from_slice(&[0x36, 0x1b, 0x10, 0x00]);
        for (place, (offset, id)) in capabilities.iter().enumerate() {
            let next = capabilities.get(place + 1).map_or(0, |(offset, _)| *offset);
            let at = usize::from(*offset);
            bytes[at..at + 2].copy_from_slice(&id.to_le_bytes());
            bytes[at + 2..at + 4].copy_from_slice(&(next << 4 | 1).to_le_bytes());
            if *id == at::EXT_CAP_SRIOV {
                for (field, value) in [(0x0e, 3u16), (0x14, 0x81), (0x16, 2), (0x1a, 0x11)] {
                    bytes[at + field..at + field + 2].copy_from_slice(&value.to_le_bytes());
                }
            }
        }
        ConfigSpace::new(bytes)
    }

    #[test]
    fn functions_are_a_stride_apart() {
        let sriov = space(&[(0x100, at::EXT_CAP_SRIOV)]).sriov().unwrap();
        assert_eq!(sriov, Sriov { total: 3, offset: 0x81, stride: 2, device: 0x11 });
        let address =
            |physical: &str, index| sriov.address(physical.parse().unwrap(), index).map(|a| alloc::format!("{a}"));
        assert_eq!(address("0000:01:00.0", 0).as_deref(), Some("0000:01:10.1"));
        assert_eq!(address("0000:01:10.0", 2).as_deref(), Some("0000:02:00.5"), "the bus after");
        assert_eq!(address("0000:01:00.0", 3), None, "there are three");
        assert_eq!(address("0000:ff:1f.7", 0), None, "there is no bus after");
        assert_eq!(Sriov { offset: 0, ..sriov }.address("0000:01:00.0".parse().unwrap(), 0), None);
    }

    #[test]
    fn a_virtual_function_has_all_capabilities_but_sriov() {
        const ACS: (u16, u16) = (0x140, 0x0d);
        const AER: (u16, u16) = (0x180, 0x01);
        for sriov_first in [(0x100, at::EXT_CAP_SRIOV), (0x160, at::EXT_CAP_SRIOV)] {
            let first = if sriov_first.0 == 0x100 { sriov_first } else { (0x100, 0x0e) };
            let mut list = alloc::vec![first, ACS];
            if sriov_first != first {
                list.push(sriov_first);
            }
            list.push(AER);
            let physical = space(&list);
            let function = physical.of_virtual_function().unwrap();
            assert_eq!((function.vendor(), function.device()), (Some(0x1b36), Some(0x11)));
            assert_eq!(function.sriov(), None);
            let ids = |space: &ConfigSpace| {
                space.extended_capabilities().map(|found| found.id).collect::<alloc::vec::Vec<_>>()
            };
            let kept: alloc::vec::Vec<u16> = ids(&physical).into_iter().filter(|id| *id != at::EXT_CAP_SRIOV).collect();
            assert_eq!(ids(&function).into_iter().filter(|id| *id != 0).collect::<alloc::vec::Vec<_>>(), kept);
        }
        assert!(space(&[ACS]).of_virtual_function().is_none());
    }
}
