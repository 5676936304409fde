//! Address spaces of an iommufd: what is undone, in which order, and what is refused.

use super::{IOMMUFD, Mutant};

const ACCESS: &str = "iommufd-owner/src/access.rs";
const AREA: &str = "iommufd-owner/src/io_page_table/area.rs";
const ATTACHMENT: &str = "iommufd-owner/src/attachment.rs";
const DOMAINS: &str = "iommufd-owner/src/io_page_table/domains.rs";
const IOAS: &str = "iommufd-owner/src/ioas.rs";
const COPY: &str = "iommufd-owner/src/ioas/copy.rs";
const OBJECT: &str = "iommufd-owner/src/object.rs";
const PAGES: &str = "iommufd-owner/src/pages.rs";
const SOLE: &str = "iommufd-owner/src/pages/sole.rs";
const UNMAP: &str = "iommufd-owner/src/io_page_table/unmap.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "refused-by-one-domain",
        file: AREA,
        rule: "F18: what one domain refuses is in none",
        old: "            undo.filled += 1;\n",
        new: "",
        suites: IOMMUFD,
    },
    Mutant {
        name: "large-pages-anyway",
        file: AREA,
        rule: "F61: where large pages are off, each page is mapped for itself",
        old: "match filler.large_pages {",
        new: "match [filler.large_pages, LargePages::Enabled][1] {",
        suites: IOMMUFD,
    },
    Mutant {
        name: "destroyed-during-a-call",
        file: OBJECT,
        rule: "F5: what a call uses is not destroyed",
        old: "Arc::strong_count(ioas) - 1)",
        new: "Arc::strong_count(ioas) - Arc::strong_count(ioas))",
        suites: IOMMUFD,
    },
    Mutant {
        name: "cut-moves-memory",
        file: AREA,
        rule: "F61: what is behind a cut leads where it led",
        old: "Self::Shared(shared.cut(skip, bytes))",
        new: "Self::Shared(shared.cut(skip - skip, bytes))",
        suites: IOMMUFD,
    },
    Mutant {
        name: "pins-stay-at-the-limit",
        file: PAGES,
        rule: "F27: nothing stays pinned at the limit",
        old: "        charge(&self.process, self.account, fresh)?;
        pinning.done.count = 0;",
        new: "        pinning.done.count = 0;
        charge(&self.process, self.account, fresh)?;",
        suites: IOMMUFD,
    },
    Mutant {
        name: "uncharged-at-the-limit",
        file: SOLE,
        rule: "F27: what was not charged is not uncharged",
        old: "        if backing == Backing::Pinned {",
        new: "        if backing != Backing::Unpinned {",
        suites: IOMMUFD,
    },
    Mutant {
        name: "sole-memory-alone-in-two",
        file: SOLE,
        rule: "F20: memory that is shared stays pinned until the last has let go",
        old: "if pinned { shared.pinned() } else { shared }",
        new: "shared",
        suites: IOMMUFD,
    },
    Mutant {
        name: "unpinned-before-unmapped",
        file: DOMAINS,
        rule: "F54: memory is unpinned once no domain shows it",
        old: "            if done < count {
                area.unmap(range, core::iter::once(shown));
            }
            if last {
                area.unpin();
            }",
        new: "            if last {
                area.unpin();
            }
            if done < count {
                area.unmap(range, core::iter::once(shown));
            }",
        suites: IOMMUFD,
    },
    Mutant {
        name: "failed-replace-unreserves",
        file: ATTACHMENT,
        rule: "F51: a replace that fails within an address space leaves what its devices reserve",
        old: "                if elsewhere {
                    unreserve_for_all(&state.devices, &hwpt.ioas);
                }",
        new: "                unreserve_for_all(&state.devices, &hwpt.ioas);",
        suites: IOMMUFD,
    },
    Mutant {
        name: "replace-reserves-twice",
        file: ATTACHMENT,
        rule: "F51: what devices reserve moves with them to another address space",
        old: "        if elsewhere {
            unreserve_for_all(&state.devices, &old.ioas);
        }",
        new: "",
        suites: IOMMUFD,
    },
    Mutant {
        name: "two-interrupt-windows",
        file: ATTACHMENT,
        rule: "Ft9.2: a device with two windows for interrupts, one of them in software, is not attached",
        old: "software > 1 || software == 1 &&",
        new: "software == 1 &&",
        suites: IOMMUFD,
    },
    Mutant {
        name: "half-copied",
        file: COPY,
        rule: "F20: a copy that fails half-way has mapped nothing",
        old: "        self.done += bytes;\n        Ok(())\n    }\n}\n\nimpl Drop for Copying",
        new: "        Ok(())\n    }\n}\n\nimpl Drop for Copying",
        suites: IOMMUFD,
    },
    Mutant {
        name: "copy-permits-more",
        file: COPY,
        rule: "Ft5.9: a copy permits no more than its memory was mapped for",
        old: "!part.access().permits(Access::Write)",
        new: "!part.access().permits(Access::Read)",
        suites: IOMMUFD,
    },
    Mutant {
        name: "pinned-while-unmapped",
        file: IOAS,
        rule: "F23: what is being unmapped is pinned no more",
        old: "pinned.share().accesses = Accesses::Refused;",
        new: "let _ = (pinned, Accesses::Refused);",
        suites: IOMMUFD,
    },
    Mutant {
        name: "pinned-mapping-cut",
        file: UNMAP,
        rule: "F61: what an access has pinned is not cut",
        old: "if !at.is_aligned(alignment) || area.access_pins() > 0 {",
        new: "if !at.is_aligned(alignment) {",
        suites: IOMMUFD,
    },
    Mutant {
        name: "access-in-two-places",
        file: ACCESS,
        rule: "F59: an access that has moved is asked no more where it was",
        old: "        letting.leave = old;\n",
        new: "        let _ = old;\n",
        suites: IOMMUFD,
    },
];
