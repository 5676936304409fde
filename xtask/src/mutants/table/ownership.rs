//! The count, kernel uses and claims.

use super::{IOMMU, IOMMU_OR_EXPLORE, Mutant};

const OWNERSHIP: &str = "iommu-core/src/ownership.rs";
const STATE: &str = "iommu-core/src/group/state.rs";
const KERNEL_USE: &str = "iommu-core/src/group/state/kernel_use.rs";
const CLAIM: &str = "iommu-core/src/group/state/claim.rs";
const CLAIM_GUARD: &str = "iommu-core/src/claim.rs";
const CHANGE: &str = "iommu-core/src/group.rs";

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
        old: "Ownership::User { owner, .. } => return Err(UseError::Owned { group, holder: owner.clone() }),",
        new: "Ownership::User { .. } => self.ownership = Ownership::Idle,",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "use-beside-driver-domain",
        file: KERNEL_USE,
        rule: "I22: no kernel use beside a domain of a driver",
        old: "Ownership::Kernel { .. } if !matches!(self.current, Current::Default) || !self.pasids.is_empty() => {",
        new: "Ownership::Kernel { .. } if false => {",
        suites: IOMMU,
    },
    Mutant {
        name: "use-beside-pasid",
        file: STATE,
        rule: "I22: no kernel use beside a PASID of a driver",
        old: "self.default.is_some() && self.pasids.is_empty() && !astray;",
        new: "self.default.is_some() && !astray;",
        suites: IOMMU,
    },
    Mutant {
        name: "blocked-stays-blocked",
        file: KERNEL_USE,
        rule: "I31, T28: a use brings a stuck group home",
        old: "Ownership::Idle if matches!(self.current, Current::Blocking) => {",
        new: "Ownership::Idle if false => {",
        suites: IOMMU,
    },
    Mutant {
        name: "stopped-stays-stopped",
        file: KERNEL_USE,
        rule: "I30: a use brings a device that was stopped back to its group",
        old: "self.bring_back(group, member).map_err(UseError::Blocked)",
        new: "Ok(())",
        suites: IOMMU,
    },
    Mutant {
        name: "stopped-counts-as-ready",
        file: STATE,
        rule: "I30: no use begins unseen while a device is stopped",
        old: "self.pasids.is_empty() && !astray;",
        new: "self.pasids.is_empty();",
        suites: IOMMU,
    },
    Mutant {
        name: "record-not-ended",
        file: KERNEL_USE,
        rule: "I2: the record of a use ends with it",
        old: "uses.users = uses.users.saturating_sub(1);",
        new: "let _ = &uses;",
        suites: IOMMU,
    },
    Mutant {
        name: "removed-device-ends-use",
        file: KERNEL_USE,
        rule: "I19: a device that has gone took its uses along",
        old: "        let Some(uses) = uses else { return false };
        uses.users = uses.users.saturating_sub(1);",
        new: "        if let Some(uses) = uses {
            uses.users = uses.users.saturating_sub(1);
        }",
        suites: IOMMU,
    },
    Mutant {
        name: "removed-use-counts",
        file: KERNEL_USE,
        rule: "I19: a removed device takes its uses along",
        old: "for _ in 0..ended {",
        new: "for _ in 0..0_u32 {",
        suites: IOMMU,
    },
    Mutant {
        name: "old-driver-named",
        file: KERNEL_USE,
        rule: "I2: a refusal names the driver that is bound now",
        old: "_ => Ok(uses.driver.replace(driver.clone())),",
        new: "Some(_) => Ok(None),
            None => Ok(uses.driver.replace(driver.clone())),",
        suites: IOMMU,
    },
    Mutant {
        name: "use-of-predecessor-begins",
        file: KERNEL_USE,
        rule: "I18: a device that has gone begins no use of the one in its place",
        old: "    ) -> Result<Option<Arc<str>>, UseError> {
        let uses = self.uses.get_mut(member.place()).filter(|uses| uses.serial == member.serial());",
        new: "    ) -> Result<Option<Arc<str>>, UseError> {
        let uses = self.uses.get_mut(member.place());",
        suites: IOMMU,
    },
    Mutant {
        name: "use-of-successor-ends",
        file: KERNEL_USE,
        rule: "I19: a device that has gone ends no use of the one in its place",
        old: "-> bool {
        let uses = self.uses.get_mut(member.place()).filter(|uses| uses.serial == member.serial());",
        new: "-> bool {
        let uses = self.uses.get_mut(member.place());",
        suites: IOMMU,
    },
    Mutant {
        name: "record-of-successor",
        file: STATE,
        rule: "I18: a device that has gone is not the one in its place",
        old: "        let record = self.records.get(member.place() as usize)?.as_ref();
        record.filter(|record| record.member().serial() == member.serial())",
        new: "        self.records.get(member.place() as usize)?.as_ref()",
        suites: IOMMU,
    },
    Mutant {
        name: "claim-beside-kernel",
        file: CLAIM,
        rule: "It4.2: no claim while a kernel driver uses the group",
        old: "Ownership::Kernel { .. } => return Err(ClaimError::KernelUse { group, devices: self.kernel_users() }),",
        new: "Ownership::Kernel { .. } => {}",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "claim-beside-owner",
        file: CLAIM,
        rule: "It5.1: no claim while another owns the group",
        old: "Ownership::User { owner, .. } => return Err(ClaimError::Owned { group, holder: owner.clone() }),",
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
        old: "self.records().find(|record| record.member().needs_direct_mapping())",
        new: "self.records().find(|_| false)",
        suites: IOMMU,
    },
    Mutant {
        name: "claim-leaves-kernel-domain",
        file: CLAIM,
        rule: "S9, I4: a claim blocks every device",
        old: "self.switch(group, Current::Blocking).map_err(ClaimError::Switch)?;",
        new: "let _ = Current::Blocking;",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "claimed-before-blocked",
        file: CLAIM,
        rule: "It4.3: a claim that cannot block the group leaves no owner",
        old: "self.switch(group, Current::Blocking).map_err(ClaimError::Switch)?;",
        new: "self.ownership.claim(owner.clone());
        self.switch(group, Current::Blocking).map_err(ClaimError::Switch)?;",
        suites: IOMMU,
    },
    Mutant {
        name: "claim-by-gone-device",
        file: CLAIM,
        rule: "I18: a device that has gone claims nothing",
        old: "if self.record(member).is_none() {",
        new: "if false {",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "release-forgets-home",
        file: CLAIM,
        rule: "I28: the last release brings the group home",
        old: "self.go_home(group).err()",
        new: "let _ = group;
        None",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "attach-replaces",
        file: CLAIM_GUARD,
        rule: "It8.4: attach does not replace",
        old: "if change.is_attached_to_own() {",
        new: "if false {",
        suites: IOMMU,
    },
    Mutant {
        name: "change-not-settled",
        file: CHANGE,
        rule: "L40: what a change leaves is known before the lock is free",
        old: "if self.guard.settle() {",
        new: "if false {",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "retired-freed-under-lock",
        file: CHANGE,
        rule: "L40: what a change has retired is freed without the lock",
        old: "    guard: SpinMutexGuard<'a, GroupState>,
    /// Once the change is over.
    retired: Option<Retired>,",
        new: "    retired: Option<Retired>,
    guard: SpinMutexGuard<'a, GroupState>,",
        suites: IOMMU,
    },
];
