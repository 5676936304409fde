//! Where the devices are: switching, roll-back, quarantine, joining and leaving, the default domain.

use super::{EXPLORE, IOMMU, IOMMU_OR_EXPLORE, Mutant};

const STATE: &str = "iommu-core/src/group/state.rs";
const SWITCH: &str = "iommu-core/src/group/state/switch.rs";
const MEMBERSHIP: &str = "iommu-core/src/group/state/membership.rs";
const DEFAULT_TYPE: &str = "iommu-core/src/group/state/default_type.rs";
const ATTACH: &str = "iommu-core/src/group/state/attach.rs";
const CLAIM: &str = "iommu-core/src/group/state/claim.rs";
const SUBSYSTEM: &str = "iommu-core/src/subsystem.rs";
const DOMAIN: &str = "iommu-core/src/domain.rs";
const SOFTWARE: &str = "iommu-core/src/software/iommu.rs";
const TRANSFER: &str = "iommu-core/src/software/transfer.rs";
const SOFT_DOMAIN: &str = "iommu-core/src/software/domain.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "no-roll-back",
        file: SWITCH,
        rule: "I29: a switch that fails moves nobody",
        old: "records.iter_mut().take(moved).rev()",
        new: "records.iter_mut().take(moved).take(0).rev()",
        suites: IOMMU,
    },
    Mutant {
        name: "roll-back-without-refuser",
        file: SWITCH,
        rule: "I30: the device that refused goes back too",
        old: "records.iter_mut().take(moved).rev()",
        new: "records.iter_mut().take(moved - 1).rev()",
        suites: IOMMU,
    },
    Mutant {
        name: "roll-back-leaves-open",
        file: SWITCH,
        rule: "I30: who cannot go back is stopped",
        old: "            if from.is_none_or(|from| record.attach_undecided(from).is_err()) {
                record.stop();
            }",
        new: "            let _ = from.is_none_or(|from| record.attach_undecided(from).is_err());",
        suites: IOMMU,
    },
    Mutant {
        name: "half-way-home",
        file: SWITCH,
        rule: "I31: a group that cannot go home is blocked",
        old: "self.switch(group, Current::Default).inspect_err(|_| self.block())",
        new: "self.switch(group, Current::Default)",
        suites: IOMMU,
    },
    Mutant {
        name: "block-gives-up",
        file: SWITCH,
        rule: "I31: what cannot be blocked by a domain is blocked by force",
        old: "                if !blocked {
                    record.stop();
                }",
        new: "                let _ = blocked;",
        suites: IOMMU,
    },
    Mutant {
        name: "unwinding-leaves-open",
        file: SWITCH,
        rule: "I31: an IOMMU driver that unwinds leaves every device stopped",
        old: "state.records.iter_mut().flatten().for_each(Record::stop);",
        new: "",
        suites: IOMMU,
    },
    Mutant {
        name: "recorded-before-moved",
        file: SWITCH,
        rule: "I29: the domain is recorded when every device is there",
        old: "        match &to {",
        new: "        self.go_to(to.clone());
        match &to {",
        suites: IOMMU,
    },
    Mutant {
        name: "reach-taken-for-granted",
        file: SWITCH,
        rule: "I30: what a device reaches is unknown until it is attached",
        old: "        self.reach = Reach::Unknown;
        domain.attach(self.member().endpoint())?;",
        new: "        domain.attach(self.member().endpoint())?;",
        suites: IOMMU,
    },
    Mutant {
        name: "refused-stop-is-a-stop",
        file: SWITCH,
        rule: "I31: a device that hardware refuses to stop may reach what it reached",
        old: "if self.member().block().is_ok() {",
        new: "if self.member().block().is_ok() || true {",
        suites: IOMMU,
    },
    Mutant {
        name: "reached-domain-freed",
        file: SWITCH,
        rule: "a domain that a device may still reach is kept",
        old: "if !self.is_reach_unknown() {",
        new: "if true {",
        suites: IOMMU,
    },
    Mutant {
        name: "refused-domain-freed",
        file: SWITCH,
        rule: "the domain of a switch that failed is kept while a device may reach it",
        old: "        if let (Err(_), Some(domain)) = (&result, reached)
            && self.is_reach_unknown()",
        new: "        if let (Err(_), Some(domain)) = (&result, reached)
            && false",
        suites: IOMMU,
    },
    Mutant {
        name: "quarantine-ends-early",
        file: STATE,
        rule: "quarantine lasts until no device's reach is unknown",
        old: "if !unknown && !self.quarantine.is_empty() {",
        new: "if !self.quarantine.is_empty() {",
        suites: IOMMU,
    },
    Mutant {
        name: "quarantine-never-ends",
        file: STATE,
        rule: "quarantine ends when every device's reach is known",
        old: "if !unknown && !self.quarantine.is_empty() {",
        new: "if false {",
        suites: IOMMU,
    },
    Mutant {
        name: "leaver-takes-nothing-along",
        file: MEMBERSHIP,
        rule: "what a device that goes may reach is kept until its IOMMU has let it go",
        old: "if record.reach == Reach::Unknown && !left.emptied {",
        new: "if record.reach == Reach::Unknown && !left.emptied && false {",
        suites: IOMMU,
    },
    Mutant {
        name: "hot-add-with-direct-region",
        file: MEMBERSHIP,
        rule: "I13: no device with a direct region joins an owned group",
        old: "if blocked && member.needs_direct_mapping() {",
        new: "if blocked && member.needs_direct_mapping() && false {",
        suites: IOMMU,
    },
    Mutant {
        name: "hot-add-to-kernel-domain",
        file: MEMBERSHIP,
        rule: "I13: a device joins where its group is",
        old: "Current::Blocking => self.blocking.as_ref(),",
        new: "Current::Blocking => self.default.as_ref().map(|default| &default.domain),",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "failed-join-stays",
        file: MEMBERSHIP,
        rule: "I12: a device that cannot join leaves no trace",
        old: "            self.retire(record.served);
            return Err(error);",
        new: "            self.take_place(&member, record);
            return Err(error);",
        suites: IOMMU,
    },
    Mutant {
        name: "failed-join-not-stopped",
        file: SWITCH,
        rule: "I12: a device that cannot join is stopped",
        old: "        self.0.stop();",
        new: "",
        suites: IOMMU,
    },
    Mutant {
        name: "serials-repeat",
        file: MEMBERSHIP,
        rule: "no two devices of a group, then or now, have one serial",
        old: "        self.members += 1;",
        new: "        self.members = 1;",
        suites: IOMMU,
    },
    Mutant {
        name: "type-under-kernel",
        file: DEFAULT_TYPE,
        rule: "It10.5: no change of type under a kernel driver",
        old: "Ownership::Kernel { .. } => return Err(SetTypeError::KernelUse { group, devices: self.kernel_users() }),",
        new: "Ownership::Kernel { .. } => {}",
        suites: IOMMU_OR_EXPLORE,
    },
    Mutant {
        name: "type-under-owner",
        file: DEFAULT_TYPE,
        rule: "It10.5: no change of type in an owned group",
        old: "Ownership::User { owner, .. } => return Err(SetTypeError::Owned { group, holder: owner.clone() }),",
        new: "Ownership::User { .. } => {}",
        suites: IOMMU,
    },
    Mutant {
        name: "type-looked-at-once",
        file: SUBSYSTEM,
        rule: "L40: a change of type looks and moves under one lock",
        old: "        // Somebody may have come since.
        change.check_type_change(id)?;",
        new: "",
        suites: EXPLORE,
    },
    Mutant {
        name: "type-recorded-early",
        file: SWITCH,
        rule: "I40: the default domain is replaced when every device has moved",
        old: "        self.move_members(group, Target::Given(&domain))?;
        if let Some(old) = self.default.replace(DefaultDomain { domain, kind }) {
            self.retired.default = self.quarantine_if_reached(old.domain);
        }
        self.go_to(Current::Default);
        Ok(())",
        new: "        let moved = self.move_members(group, Target::Given(&domain));
        if let Some(old) = self.default.replace(DefaultDomain { domain, kind }) {
            self.retired.default = self.quarantine_if_reached(old.domain);
        }
        self.go_to(Current::Default);
        moved",
        suites: IOMMU,
    },
    Mutant {
        name: "foreign-domain",
        file: ATTACH,
        rule: "It8.5: a domain serves the devices of its IOMMU",
        old: "if !domain.fits(first.served_by()) {",
        new: "if !domain.fits(first.served_by()) && false {",
        suites: IOMMU,
    },
    Mutant {
        name: "device-caches-not-flushed",
        file: SOFT_DOMAIN,
        rule: "after a flush a device sees the tables",
        old: "        if cached_in != 0 {",
        new: "        if cached_in == usize::MAX {",
        suites: IOMMU,
    },
    Mutant {
        name: "reported-part-forgotten",
        file: DOMAIN,
        rule: "F57: a dirty page across two parts of a bitmap is in both",
        old: "            part.set(bits.start..reported);\n",
        new: "",
        suites: IOMMU,
    },
    Mutant {
        name: "window-cached",
        file: TRANSFER,
        rule: "I50: what a device has cached of a page never leads into the interrupt window",
        old: "caching.filter(|_| !self.meets_window(at))",
        new: "caching",
        suites: IOMMU,
    },
    Mutant {
        name: "strangers-domain-accepted",
        file: SOFTWARE,
        rule: "It8.5: a unit accepts the domains of its own driver's units only",
        old: ".is_some_and(|maker| Arc::ptr_eq(&maker.units, &self.units))",
        new: ".is_some()",
        suites: IOMMU,
    },
    Mutant {
        name: "siblings-domain-refused",
        file: DOMAIN,
        rule: "It8.5: a domain serves the devices of other units that accept it",
        old: "Arc::ptr_eq(unit, self.iommu()) || unit.accepts(&**self.iommu())",
        new: "Arc::ptr_eq(unit, self.iommu())",
        suites: IOMMU,
    },
    Mutant {
        name: "attached-again-while-astray",
        file: ATTACH,
        rule: "I30: to attach again brings back who was stopped",
        old: "if self.is_attached_to(domain) && !self.astray {",
        new: "if self.is_attached_to(domain) {",
        suites: IOMMU,
    },
    Mutant {
        name: "detach-leaves-domain",
        file: ATTACH,
        rule: "I30: detach blocks every device",
        old: "        if attached {
            self.block();
        }",
        new: "",
        suites: IOMMU,
    },
    Mutant {
        name: "driver-domain-shared",
        file: ATTACH,
        rule: "It8.2: a driver attaches only for a device alone in its group",
        old: "if self.len() != 1 {",
        new: "if false {",
        suites: IOMMU,
    },
    Mutant {
        name: "driver-domain-in-owned",
        file: ATTACH,
        rule: "It8.3: a driver attaches nothing in an owned group",
        old: "Some(holder) => Err(AttachError::Owned { group, holder: holder.clone() }),",
        new: "Some(_) => Ok(()),",
        suites: IOMMU,
    },
    Mutant {
        name: "pasid-half-attached",
        file: ATTACH,
        rule: "It9.6: a PASID is on every device or on none",
        old: "self.state.detach_pasid_of_first(self.tried, self.domain, self.pasid);",
        new: "",
        suites: IOMMU,
    },
    Mutant {
        name: "page-requests-outlive-claim",
        file: CLAIM,
        rule: "page requests end with the claim that enabled them",
        old: "self.end_page_requests(claim);",
        new: "let _ = claim;",
        suites: IOMMU,
    },
    Mutant {
        name: "claim-ends-page-requests-of-others",
        file: ATTACH,
        rule: "a claim that ends leaves page requests of other claims alone",
        old: ".is_some_and(|delivery| delivery.claim == claim)",
        new: ".is_some()",
        suites: IOMMU,
    },
    Mutant {
        name: "old-delivery-ends-new",
        file: ATTACH,
        rule: "page requests that were enabled anew do not end with the old delivery",
        old: ".is_some_and(|delivery| delivery.serial == serial)",
        new: ".is_some()",
        suites: IOMMU,
    },
];
