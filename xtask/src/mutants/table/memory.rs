//! What devices reach: the right to map, mappings that end, flushes, pins.

use super::{IOMMU, IOMMUFD, Mutant, VFIO};

const MAPPING: &str = "iommu-core/src/mapping.rs";
const IOVA_NODE: &str = "iommu-core/src/iova_map/node.rs";
const DMA_API: &str = "iommu-core/src/dma_api.rs";
const SPACE: &str = "iommu-core/src/dma_api/space.rs";
const KERNEL_USE: &str = "iommu-core/src/kernel_use.rs";
const PINS: &str = "iommufd-owner/src/pages/pins.rs";
const PAGES: &str = "iommufd-owner/src/pages.rs";
const AREA: &str = "iommufd-owner/src/io_page_table/area.rs";
const ACCESS: &str = "iommufd-owner/src/access.rs";
const TYPE1: &str = "vfio-owner/src/type1/mapping.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "gap-at-the-end-forgotten",
        file: IOVA_NODE,
        rule: "the bound of a node is at least its largest gap, so that a search for a place overlooks none",
        old: "            self.bound = self.bound.max(new);\n",
        new: "            let _ = new;\n",
        suites: IOMMU,
    },
    Mutant {
        name: "last-change-trusted",
        file: IOVA_NODE,
        rule: "a range is taken from the leaf of the last change only if no other leaf can have it",
        old: "self.firsts[0] <= key && lasts.last()",
        new: "lasts.last()",
        suites: IOMMU,
    },
    Mutant {
        name: "limit-before-memory",
        file: TYPE1,
        rule: "Vt15.12, Vt15.13: of the limit and memory that is not there, whichever page comes first",
        old: "Err(error) => error,",
        new: "Err(_) => over.into(),",
        suites: VFIO,
    },
    Mutant {
        name: "found-later-joins",
        file: "iommu-core/src/device_group/pci.rs",
        rule: "a running kernel groups a function as it says itself",
        old: "if self.arrival == Arrival::OneByOne && looks_alone {",
        new: "if self.arrival == Arrival::OneByOne && looks_alone && false {",
        suites: VFIO,
    },
    Mutant {
        name: "foreign-right-maps",
        file: MAPPING,
        rule: "the right to map memory is that of one subsystem",
        old: "if !self.is_covered_by(memory) {",
        new: "if !self.is_covered_by(memory) && false {",
        suites: IOMMU,
    },
    Mutant {
        name: "foreign-right-maps-for-drivers",
        file: DMA_API,
        rule: "the DMA API takes the right of its own subsystem only",
        old: "if !self.domain.is_covered_by(right) {",
        new: "if !self.domain.is_covered_by(right) && false {",
        suites: IOMMU,
    },
    Mutant {
        name: "mappings-outlive-driver",
        file: KERNEL_USE,
        rule: "D41: what a driver has mapped ends before its use does",
        old: "            dma.revoke();",
        new: "            let _ = dma;",
        suites: IOMMU,
    },
    Mutant {
        name: "revoked-not-flushed",
        file: DMA_API,
        rule: "no device reaches what is revoked through what it has cached",
        old: "        drop(mappings);
        // Nobody is left to tell; the addresses are not used again.
        let _ = self.flush();",
        new: "        drop(mappings);",
        suites: IOMMU,
    },
    Mutant {
        name: "reachable-memory-given-back",
        file: DMA_API,
        rule: "memory that hardware does not let go is kept",
        old: "            self.domain.quarantine(memory);",
        new: "            drop(memory);",
        suites: IOMMU,
    },
    Mutant {
        name: "strict-is-lazy",
        file: SPACE,
        rule: "a strict domain flushes at once",
        old: "if !self.lazy.load(Ordering::Acquire) {",
        new: "if false {",
        suites: IOMMU,
    },
    Mutant {
        name: "lazy-is-strict",
        file: SPACE,
        rule: "a lazy domain flushes in batches",
        old: "if !self.lazy.load(Ordering::Acquire) {",
        new: "if true {",
        suites: IOMMU,
    },
    Mutant {
        name: "freed-before-flush",
        file: SPACE,
        rule: "an address is free again when it is flushed",
        old: "        iovas.queue.push(range);",
        new: "        iovas.taken.remove(range.first());
        iovas.queue.push(range);",
        suites: IOMMU,
    },
    Mutant {
        name: "full-queue-waits",
        file: SPACE,
        rule: "a queue that is full is flushed",
        old: "if iovas.queue.len() < FLUSH_QUEUE { Ok(()) } else { iovas.flush(domain) }",
        new: "Ok(())",
        suites: IOMMU,
    },
    Mutant {
        name: "further-pin-not-counted",
        file: PINS,
        rule: "F12: memory is pinned until the last who wants it has let go",
        old: "run.count = run.count.saturating_add(1);",
        new: "let _ = run;",
        suites: IOMMUFD,
    },
    Mutant {
        name: "unequal-runs-joined",
        file: PINS,
        rule: "F12: pages that are pinned unequally often are counted apart",
        old: "if touches && left.count == right.count {",
        new: "if touches {",
        suites: IOMMUFD,
    },
    Mutant {
        name: "scattered-runs-joined",
        file: PINS,
        rule: "F12: a run is one piece of physical memory",
        old: "first + left.pages == page && left.phys_at(left.pages) == right.phys;",
        new: "first + left.pages == page;",
        suites: IOMMUFD,
    },
    Mutant {
        name: "split-run-moves",
        file: PINS,
        rule: "F12: cutting a run moves no memory",
        old: "Run { pages: run.pages - left, phys: run.phys_at(left), ..run }",
        new: "Run { pages: run.pages - left, ..run }",
        suites: IOMMUFD,
    },
    Mutant {
        name: "failed-pin-stays",
        file: PAGES,
        rule: "F27: a pin that fails pins nothing",
        old: "        self.pages.release(self.pins, self.done);",
        new: "",
        suites: IOMMUFD,
    },
    Mutant {
        name: "reachable-area-unpinned",
        file: AREA,
        rule: "memory that hardware refuses to unmap stays pinned",
        old: "_ => self.quarantine(range, domain),",
        new: "_ => {}",
        suites: IOMMUFD,
    },
    Mutant {
        name: "access-beyond-mapping",
        file: ACCESS,
        rule: "F60: an access does what the mapping permits",
        old: "if !self.permitted().is_some_and(|permitted| permitted.permits(access)) {",
        new: "if self.permitted().is_none() {",
        suites: IOMMUFD,
    },
    Mutant {
        name: "pins-without-notice",
        file: ACCESS,
        rule: "F59: who cannot be asked to unpin does not pin",
        old: "if !self.state.pins() {",
        new: "if false {",
        suites: IOMMUFD,
    },
    Mutant {
        name: "mapping-permits-all",
        file: TYPE1,
        rule: "a mapping permits what was asked for",
        old: "domain.map_sg(memory, iova, runs.iter().copied(), self.access)",
        new: "domain.map_sg(memory, iova, runs.iter().copied(), Access::ReadWrite)",
        suites: VFIO,
    },
    Mutant {
        name: "reachable-mapping-unpinned",
        file: TYPE1,
        rule: "memory that hardware refuses to unmap stays pinned",
        old: "next.domain.quarantine(kept.clone());",
        new: "drop((next, kept.clone()));",
        suites: VFIO,
    },
];
