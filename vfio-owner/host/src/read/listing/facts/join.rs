//! Finds the groups of devices that a listing puts beside others, as paths through `iommu_group` do.

use std::collections::{BTreeMap, BTreeSet};

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::{Facts, GroupRef, Place, Shared};
use crate::read::listing::ListingErrorReason;

/// Which devices are in one group with a device, each with the line that says so.
type Beside = BTreeMap<PciAddress, Vec<(PciAddress, usize)>>;

/// A contradiction, and the line in which it shows.
type Joined = Result<(), (usize, ListingErrorReason)>;

impl Facts {
    /// Finds the groups of the devices that are said to be in those of others.
    ///
    /// # Errors
    /// Fails if two of one group are said to be in different ones, with the line that puts them together.
    pub(in crate::read::listing) fn join(&mut self) -> Joined {
        let (shown, perhaps): (Vec<Shared>, Vec<Shared>) =
            std::mem::take(&mut self.shared).into_iter().partition(|share| share.place == Place::Shown);
        let mut beside = Beside::new();
        for Shared { with, device, line, .. } in shown {
            beside.entry(with).or_default().push((device, line));
            beside.entry(device).or_default().push((with, line));
        }
        let known = |device: &PciAddress| Some((*device, self.devices.get(device)?.group?.0));
        let known: Vec<(PciAddress, Option<u32>)> = beside.keys().filter_map(known).collect();
        for (device, group) in known {
            self.spread(device, group, &mut beside)?;
        }
        self.make_up_numbers(beside)?;
        for Shared { with, device, line, .. } in perhaps {
            if let Some(number) = self.number(with) {
                self.group(device, Some(number), Place::Perhaps, line).map_err(|reason| (line, reason))?;
            }
        }
        self.join_the_rest();
        Ok(())
    }

    /// Puts all that are in one group with `device`, or with one of those, into `group`.
    fn spread(&mut self, device: PciAddress, group: Option<u32>, beside: &mut Beside) -> Joined {
        let mut known = vec![device];
        while let Some(device) = known.pop() {
            for (other, line) in beside.remove(&device).unwrap_or_default() {
                self.group(other, group, Place::Shown, line).map_err(|reason| (line, reason))?;
                known.push(other);
            }
        }
        Ok(())
    }

    /// Gives a number that no group has to each of those of which only the devices are known.
    fn make_up_numbers(&mut self, mut beside: Beside) -> Joined {
        let numbers = self.devices.values().filter_map(|record| record.group?.0);
        let taken: BTreeSet<u32> = numbers.chain(self.others.keys().map(|(group, _)| *group)).collect();
        for number in (0..=u32::MAX).rev().filter(|number| !taken.contains(number)) {
            let Some((&first, _)) = beside.first_key_value() else { break };
            self.spread(first, Some(number), &mut beside)?;
            self.unnumbered.insert(number);
        }
        Ok(())
    }

    /// What else is said of the group that a device is in.
    fn join_the_rest(&mut self) {
        for (with, name) in std::mem::take(&mut self.others_beside) {
            self.named_member(GroupRef::Known(self.number(with)), &name);
        }
        for with in std::mem::take(&mut self.whole_with) {
            self.whole.extend(self.number(with));
        }
        for with in std::mem::take(&mut self.incomplete_with) {
            self.incomplete.extend(self.number(with));
        }
    }

    /// The number of the group that a device is in.
    fn number(&self, device: PciAddress) -> Option<u32> {
        self.devices.get(&device)?.group?.0
    }
}
