//! What a kernel's log says of the machine.

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::Reader;
use crate::read::IommuState;
use crate::read::listing::command;
use crate::read::listing::facts::Log;
use crate::read::listing::token::Token;

impl Reader<'_> {
    /// What a kernel's log says besides groups.
    pub(super) fn log(&mut self, text: &str, addresses: &[Token<PciAddress>]) {
        const REFUSALS: [&str; 4] = [
            "platform rmrr requirement",
            "ineligible for iommu",
            "1:1 iommu mapping",
            "rejecting configuring the device",
        ];
        if let Some(state) = IommuState::of_log(text) {
            self.facts.iommu = state;
        }
        if text.contains("DMAR: IOMMU enabled") {
            self.facts.log = Log::Enabled;
        } else if IommuState::is_described(text) {
            self.facts.log = self.facts.log.max(Log::Described);
        }
        self.facts.no_groups |= command::says_no_groups(text);
        let lower = text.to_ascii_lowercase();
        if REFUSALS.iter().any(|words| lower.contains(words)) {
            for address in addresses {
                self.facts.refused(address.value);
            }
        }
    }
}
