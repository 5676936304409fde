//! Where the devices are: switching, roll-back, joining and leaving, the default domain.

use super::{IOMMU, IOMMU_OR_EXPLORE, Mutant};

const SWITCH: &str = "iommu-core/src/switch.rs";
const REGISTRY: &str = "iommu-core/src/registry.rs";
const DEFAULT_DOMAIN: &str = "iommu-core/src/default_domain.rs";
const DRIVER_DOMAIN: &str = "iommu-core/src/driver_domain.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "no-roll-back",
        file: SWITCH,
        rule: "I29: a switch that fails moves nobody",
        old: "members.iter_mut().rev().skip_while(|(key, _)| *key > failed_key)",
        new: "members.iter_mut().rev().skip_while(|(key, _)| *key > failed_key).take(0)",
        suites: IOMMU,
    },
    Mutant {
        name: "roll-back-without-refuser",
        file: SWITCH,
        rule: "I30: the device that refused goes back too",
        old: "skip_while(|(key, _)| *key > failed_key)",
        new: "skip_while(|(key, _)| *key >= failed_key)",
        suites: IOMMU,
    },
    Mutant {
        name: "roll-back-leaves-open",
        file: SWITCH,
        rule: "I30: who cannot go back is stopped",
        old: "        } else {
            stop(record);
        }",
        new: "        }",
        suites: IOMMU,
    },
    Mutant {
        name: "half-way-home",
        file: SWITCH,
        rule: "I31: a group that cannot go home is blocked",
        old: "        if error.is_some() {
            self.block();
        }
        error",
        new: "        error",
        suites: IOMMU,
    },
    Mutant {
        name: "block-gives-up",
        file: SWITCH,
        rule: "I31: what cannot be blocked by a domain is blocked by force",
        old: "_ => stop(record),",
        new: "_ => {}",
        suites: IOMMU,
    },
    Mutant {
        name: "recorded-before-moved",
        file: SWITCH,
        rule: "I29: the domain is recorded when every device is there",
        old: "            move_members(group, &mut self.members, from, target)?;
        }
        self.current = to;
        Ok(())",
        new: "            let moved = move_members(group, &mut self.members, from, target);
            self.current = to.clone();
            moved?;
        }
        self.current = to;
        Ok(())",
        suites: IOMMU,
    },
    Mutant {
        name: "hot-add-with-direct-region",
        file: REGISTRY,
        rule: "I13: no device with a direct region joins an owned group",
        old: "if blocked && record.needs_direct_mapping() {",
        new: "if blocked && record.needs_direct_mapping() && false {",
        suites: IOMMU,
    },
    Mutant {
        name: "hot-add-to-kernel-domain",
        file: REGISTRY,
        rule: "I13: a device joins where its group is",
        old: "Current::Blocking => self.blocking.as_ref(),",
        new: "Current::Blocking => self.default.as_ref().map(|default| &default.domain),",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "failed-join-stays",
        file: REGISTRY,
        rule: "I12: a device that cannot join leaves no trace",
        old: "        if result.is_err()
            &&",
        new: "        if false
            &&",
        suites: IOMMU,
    },
    Mutant {
        name: "removed-use-counts",
        file: REGISTRY,
        rule: "I19: a removed device takes its uses along",
        old: "for _ in 0..record.uses {",
        new: "for _ in 0..0 {",
        suites: IOMMU,
    },
    Mutant {
        name: "type-under-kernel",
        file: DEFAULT_DOMAIN,
        rule: "It10.5: no change of type under a kernel driver",
        old: "            Ownership::Idle => {}
            Ownership::Kernel { .. } => {
                return Err(SetTypeError::KernelUse { group: id, devices: state.kernel_users() });
            }",
        new: "            Ownership::Idle | Ownership::Kernel { .. } => {}",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "type-under-owner",
        file: DEFAULT_DOMAIN,
        rule: "It10.5: no change of type in an owned group",
        old: "            Ownership::User { owner, .. } => {
                return Err(SetTypeError::Owned { group: id, holder: owner.clone() });
            }",
        new: "            Ownership::User { .. } => {}",
        suites: IOMMU,
    },
    Mutant {
        name: "type-recorded-early",
        file: DEFAULT_DOMAIN,
        rule: "I40: the default domain is replaced when every device has moved",
        old: "self.switch_default(group, &default.domain).map_err(SetTypeError::Switch)?;
        self.default = Some(default);",
        new: "let moved = self.switch_default(group, &default.domain).map_err(SetTypeError::Switch);
        self.default = Some(default);
        moved?;",
        suites: IOMMU,
    },
    Mutant {
        name: "driver-domain-shared",
        file: DRIVER_DOMAIN,
        rule: "It8.2: a driver attaches only for a device alone in its group",
        old: "if state.members.len() != 1 {",
        new: "if state.members.is_empty() {",
        suites: IOMMU,
    },
    Mutant {
        name: "driver-domain-in-owned",
        file: DRIVER_DOMAIN,
        rule: "It8.3: a driver attaches nothing in an owned group",
        old: "Some(holder) => Err(AttachError::Owned { group: self.group().id(), holder: holder.clone() }),",
        new: "Some(_) => Ok(()),",
        suites: IOMMU,
    },
    Mutant {
        name: "pasid-half-attached",
        file: DRIVER_DOMAIN,
        rule: "It9.6: a PASID is on every device or on none",
        old: "capable().take(done).for_each(|record| domain.detach_pasid(&record.endpoint, pasid));",
        new: "let _ = done;",
        suites: IOMMU,
    },
];
