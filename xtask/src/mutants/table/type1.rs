//! Containers and type1: groups that come and go, what is mapped with which of them, whose memory it is.

use super::{Mutant, VFIO};

const ATTACH: &str = "vfio-owner/src/type1/attach.rs";
const CONTAINER: &str = "vfio-owner/src/container.rs";
const MAPPING: &str = "vfio-owner/src/type1/mapping.rs";
const THROUGH_GROUP: &str = "vfio-owner/src/open_device/through_group.rs";
const TYPE1: &str = "vfio-owner/src/type1/container.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "some-groups-attached",
        file: CONTAINER,
        rule: "Vt8: an IOMMU that one group refuses has none of them",
        old: "claims.iter().rev().skip(claims.len() - attached).for_each(|claim| iommu.detach_group(claim));",
        new: "let _ = attached;",
        suites: VFIO,
    },
    Mutant {
        name: "group-left-in-iommu",
        file: CONTAINER,
        rule: "V47: a group that leaves its container leaves the container's IOMMU",
        old: "            iommu.detach_group(&claim);\n",
        new: "            let _ = iommu;\n",
        suites: VFIO,
    },
    Mutant {
        name: "opened-without-iommu",
        file: THROUGH_GROUP,
        rule: "Vt6.8: no device is opened before the container has an IOMMU",
        old: "if !contained.container().has_iommu() {",
        new: "if !contained.container().has_iommu() && false {",
        suites: VFIO,
    },
    Mutant {
        name: "domains-not-shared",
        file: ATTACH,
        rule: "Vt14.14: groups share a domain if the IOMMU permits it",
        old: "if claim.attach(&shared.domain).is_ok() {",
        new: "if claim.attach(&shared.domain).is_ok() && false {",
        suites: VFIO,
    },
    Mutant {
        name: "fresh-domain-lost",
        file: ATTACH,
        rule: "Vt14.14: a group that no domain takes has its own",
        old: "            claim.attach(fresh)?;\n",
        new: "",
        suites: VFIO,
    },
    Mutant {
        name: "half-pinned",
        file: ATTACH,
        rule: "V48: what cannot be pinned with the first group is not pinned in part",
        old: "                        mapping.unpin(&self.processes, *earlier, slice::from_ref(first));\n",
        new: "                        let _ = mapping;\n",
        suites: VFIO,
    },
    Mutant {
        name: "mappings-end-with-any-group",
        file: ATTACH,
        rule: "V47: mappings end with the last group, not with the last of a domain",
        old: "if self.domains.len() == 1 {",
        new: "if self.domains.len() >= 1 {",
        suites: VFIO,
    },
    Mutant {
        name: "away-forever",
        file: TYPE1,
        rule: "Vt14.1: what was away and is unmapped keeps no group out",
        old: "        self.away -= u32::from(mapping.is_away());\n",
        new: "",
        suites: VFIO,
    },
    Mutant {
        name: "version-1-cuts",
        file: TYPE1,
        rule: "Vt16.9: from inside a mapping, version 1 unmaps nothing",
        old: "if starts_inside { None } else",
        new: "if starts_inside && false { None } else",
        suites: VFIO,
    },
    Mutant {
        name: "same-owner-pays-twice",
        file: MAPPING,
        rule: "Vt15.8: whoever has pages locked already is not charged again",
        old: "if !Arc::ptr_eq(payer, process) {",
        new: "if !Arc::ptr_eq(payer, process) || true {",
        suites: VFIO,
    },
    Mutant {
        name: "trusted-length",
        file: MAPPING,
        rule: "no more is taken to be pinned than was asked for",
        old: "(1..=bytes).contains(&run.bytes)",
        new: "run.bytes > 0",
        suites: VFIO,
    },
    Mutant {
        name: "failed-map-unpinned",
        file: MAPPING,
        rule: "what a map that failed may have left in hardware stays pinned",
        old: "if !matches!(error, MapError::Reachable { .. }) {",
        new: "if !matches!(error, MapError::Reachable { .. }) || true {",
        suites: VFIO,
    },
];
