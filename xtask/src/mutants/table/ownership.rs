//! The count, kernel uses and claims.

use super::{EXPLORE, IOMMU, IOMMU_OR_EXPLORE, Mutant};

const OWNERSHIP: &str = "iommu-core/src/ownership.rs";
const KERNEL_USE: &str = "iommu-core/src/kernel_use.rs";
const CLAIM: &str = "iommu-core/src/claim.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "use-not-counted",
        file: OWNERSHIP,
        rule: "I20: a further kernel use counts",
        old: "Self::Kernel { users } => *users = users.checked_add(1).ok_or(Refused)?,",
        new: "Self::Kernel { .. } => {}",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "last-use-stays",
        file: OWNERSHIP,
        rule: "I21: the last use that ends frees the group",
        old: "None => *self = Self::Idle,",
        new: "None => {}",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "nested-claim-not-counted",
        file: OWNERSHIP,
        rule: "It6.4: claims of one owner nest",
        old: "*claims = claims.checked_add(1).ok_or(Refused)?;
                Ok(())",
        new: "let _ = claims;
                Ok(())",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "one-release-frees-all",
        file: OWNERSHIP,
        rule: "It7: a release gives back one claim",
        old: "if let Some(left) = NonZeroU32::new(claims.get() - 1) {
            *claims = left;",
        new: "if let Some(left) = NonZeroU32::new(claims.get() - 1).filter(|_| false) {
            *claims = left;",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "owners-equal-by-name",
        file: OWNERSHIP,
        rule: "It6.5: two contexts are two owners",
        old: "Arc::ptr_eq(&self.0, &other.0)",
        new: "self.0 == other.0",
        suites: IOMMU,
    },
    Mutant {
        name: "use-in-owned-group",
        file: KERNEL_USE,
        rule: "It2.4: no kernel use while user space owns the group",
        old: "Ownership::User { owner, .. } => Err(UseError::Owned { group: group.id(), holder: owner.clone() }),",
        new: "Ownership::User { .. } => {
            state.ownership = Ownership::Idle;
            Ok(())
        }",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "use-beside-driver-domain",
        file: KERNEL_USE,
        rule: "I22: no kernel use beside a domain of a driver",
        old: "Ownership::Kernel { .. } if !matches!(state.current, Current::Default) || !state.pasids.is_empty() => {",
        new: "Ownership::Kernel { .. } if false => {",
        suites: IOMMU,
    },
    Mutant {
        name: "use-beside-pasid",
        file: KERNEL_USE,
        rule: "I22: no kernel use beside a PASID of a driver",
        old: "matches!(self.current, Current::Default) && self.pasids.is_empty()",
        new: "matches!(self.current, Current::Default)",
        suites: IOMMU,
    },
    Mutant {
        name: "blocked-stays-blocked",
        file: KERNEL_USE,
        rule: "I31, T28: a use brings a stuck group home",
        old: "Ownership::Idle if matches!(state.current, Current::Blocking) => {",
        new: "Ownership::Idle if false => {",
        suites: IOMMU,
    },
    Mutant {
        name: "record-not-ended",
        file: KERNEL_USE,
        rule: "I2: the record of a use ends with it",
        old: "record.uses = record.uses.saturating_sub(1);",
        new: "let _ = &record;",
        suites: IOMMU,
    },
    Mutant {
        name: "removed-device-ends-use",
        file: KERNEL_USE,
        rule: "I19: a device that has gone took its uses along",
        old: "if let Some(record) = member.record(&mut state.members) {
        record.uses = record.uses.saturating_sub(1);
        state",
        new: "if let Some(record) = member.record(&mut state.members) {
        record.uses = record.uses.saturating_sub(1);
    }
    {
        state",
        suites: IOMMU,
    },
    Mutant {
        name: "old-driver-named",
        file: KERNEL_USE,
        rule: "I2: a refusal names the driver that is bound now",
        old: "record.driver = Some(driver.clone());",
        new: "record.driver.get_or_insert_with(|| driver.clone());",
        suites: IOMMU,
    },
    Mutant {
        name: "claim-beside-kernel",
        file: CLAIM,
        rule: "It4.2: no claim while a kernel driver uses the group",
        old: "            Ownership::Idle => {}
            Ownership::Kernel { .. } => {
                return Err(ClaimError::KernelUse { group: id, devices: self.kernel_users() });
            }",
        new: "            Ownership::Idle | Ownership::Kernel { .. } => {}",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "claim-beside-owner",
        file: CLAIM,
        rule: "It5.1: no claim while another owns the group",
        old: "Ownership::User { owner, .. } => return Err(ClaimError::Owned { group: id, holder: owner.clone() }),",
        new: "Ownership::User { .. } => {}",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "claim-beside-driver-domain",
        file: CLAIM,
        rule: "It4.1: no claim while a driver has attached its own domain",
        old: "if matches!(self.current, Current::Own(_)) || !self.pasids.is_empty() {",
        new: "if !self.pasids.is_empty() {",
        suites: IOMMU,
    },
    Mutant {
        name: "claim-beside-pasid",
        file: CLAIM,
        rule: "It4.1: no claim while a PASID is attached",
        old: "if matches!(self.current, Current::Own(_)) || !self.pasids.is_empty() {",
        new: "if matches!(self.current, Current::Own(_)) {",
        suites: IOMMU,
    },
    Mutant {
        name: "claim-with-direct-region",
        file: CLAIM,
        rule: "I33: a device with a direct region cannot be blocked",
        old: "self.members.iter().find(|(_, record)| record.needs_direct_mapping())",
        new: "self.members.iter().find(|_| false)",
        suites: IOMMU,
    },
    Mutant {
        name: "claim-leaves-kernel-domain",
        file: CLAIM,
        rule: "S9, I4: a claim blocks every device",
        old: "self.switch(id, Current::Blocking).map_err(ClaimError::Switch)?;",
        new: "let _ = Current::Blocking;",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "claimed-before-blocked",
        file: CLAIM,
        rule: "It4.3: a claim that cannot block the group leaves no owner",
        old: "self.switch(id, Current::Blocking).map_err(ClaimError::Switch)?;",
        new: "self.ownership.claim(owner.clone());
        self.switch(id, Current::Blocking).map_err(ClaimError::Switch)?;",
        suites: IOMMU,
    },
    Mutant {
        name: "claim-by-gone-device",
        file: CLAIM,
        rule: "I18: a device that has gone claims nothing",
        old: "if self.record(&mut state.members).is_none() {",
        new: "if false {",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "release-forgets-home",
        file: CLAIM,
        rule: "I28: the last release brings the group home",
        old: "stuck = state.go_home(self.id());",
        new: "let _ = &mut stuck;",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "lock-let-go-in-claim",
        file: CLAIM,
        rule: "L40: a claim looks and takes under one lock",
        old: "        if state.ownership.owner() == Some(owner) {
            state.ownership",
        new: "        let nested = state.ownership.owner() == Some(owner);
        drop(state);
        let mut state = group.lock();
        if nested {
            state.ownership",
        suites: EXPLORE,
    },
    Mutant {
        name: "lock-let-go-in-release",
        file: CLAIM,
        rule: "L40: a release counts and moves under one lock",
        old: "            state.last_owner = Some(owner);
            stuck = state.go_home(self.id());
        }
        self.tell(guard",
        new: "            state.last_owner = Some(owner);
            drop(guard);
            guard = self.lock();
            stuck = guard.go_home(self.id());
        }
        self.tell(guard",
        suites: EXPLORE,
    },
    Mutant {
        name: "attach-replaces",
        file: CLAIM,
        rule: "It8.4: attach does not replace",
        old: "Current::Own(_) if replace == Replace::No => {",
        new: "Current::Own(_) if replace == Replace::No && false => {",
        suites: IOMMU,
    },
    Mutant {
        name: "foreign-domain",
        file: CLAIM,
        rule: "It8.5: a domain serves the devices of its IOMMU",
        old: "|(_, record)| !Arc::ptr_eq(&record.iommu, domain.iommu())",
        new: "|(_, record)| false && !Arc::ptr_eq(&record.iommu, domain.iommu())",
        suites: IOMMU,
    },
    Mutant {
        name: "detach-leaves-domain",
        file: CLAIM,
        rule: "I30: detach blocks every device",
        old: "            state.block();
            self.group.tell",
        new: "            self.group.tell",
        suites: IOMMU,
    },
];
