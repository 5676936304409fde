//! The kernel's uAPI: sizes, the order of checks, what is written back.

use super::{IOMMUFD, Mutant};

const FRAME: &str = "iommufd-owner/src/uapi/frame.rs";
const TABLE: &str = "iommufd-owner/src/uapi/table.rs";
const IOAS: &str = "iommufd-owner/src/uapi/ioas.rs";
const HWPT: &str = "iommufd-owner/src/uapi/hwpt.rs";
const OPTION: &str = "iommufd-owner/src/uapi/option.rs";
const FAULT_QUEUE: &str = "iommufd-owner/src/uapi/fault_queue.rs";
const CONTAINER: &str = "iommufd-owner/src/uapi/container.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "unknown-tail-ignored",
        file: FRAME,
        rule: "F82: what is not known must be zero",
        old: "if size > full && !is_zero(",
        new: "if size > full && false && !is_zero(",
        suites: IOMMUFD,
    },
    Mutant {
        name: "reply-beyond-size",
        file: FRAME,
        rule: "F85: no more is written back than the caller has room for",
        old: ".unwrap_or(usize::MAX).min(bytes.len());",
        new: ".map_or(0, |_| bytes.len());",
        suites: IOMMUFD,
    },
    Mutant {
        name: "number-by-its-low-byte",
        file: TABLE,
        rule: "F82: the whole number counts",
        old: ".or(Some(&TEST)).filter(|slot| slot.info.request == request);",
        new: ".or(Some(&TEST)).filter(|slot| slot.info.request & 0xff == number);",
        suites: IOMMUFD,
    },
    Mutant {
        name: "published-before-told",
        file: IOAS,
        rule: "F6: what its caller is not told of is not there",
        old: "        frame.reply(&self)?;\n        new.publish();",
        new: "        new.publish();\n        frame.reply(&self)?;",
        suites: IOMMUFD,
    },
    Mutant {
        name: "ranges-only-on-success",
        file: IOAS,
        rule: "F86: how many ranges there are is told with EMSGSIZE",
        old: "        frame.reply(&self)?;\n        if self.num_iovas > room {",
        new: "        if self.num_iovas <= room {\n            frame.reply(&self)?;\n        }\n        if self.num_iovas > room {",
        suites: IOMMUFD,
    },
    Mutant {
        name: "data-before-flags",
        file: HWPT,
        rule: "F93: what is wrong with a page table is told before its data are read",
        old: "        ends.check(&described)?;\n        let bytes = self.data(frame)?;",
        new: "        let bytes = self.data(frame)?;\n        ends.check(&described)?;",
        suites: IOMMUFD,
    },
    Mutant {
        name: "invalidated-not-counted",
        file: HWPT,
        rule: "F94a: how many entries were handled is told also on an error",
        old: "            Err((handled, error)) => (handled, Err(error)),",
        new: "            Err((_, error)) => (self.entry_num, Err(error)),",
        suites: IOMMUFD,
    },
    Mutant {
        name: "option-value-before-objects",
        file: OPTION,
        rule: "Ft7.4: that there are objects is told before that the value is wrong",
        old: "        frame.context.set_account(account.unwrap_or(frame.context.account()))?;\n        account.map(drop).ok_or(self.bad_value())",
        new: "        frame.context.set_account(account.ok_or(self.bad_value())?)?;\n        Ok(())",
        suites: IOMMUFD,
    },
    Mutant {
        name: "unread-fault-lost",
        file: FAULT_QUEUE,
        rule: "F95a: faults that do not get to the caller stay",
        old: "            let _ = queue.put_back(fault.cookie);",
        new: "",
        suites: IOMMUFD,
    },
    Mutant {
        name: "cut-told-as-unmapped",
        file: CONTAINER,
        rule: "F96d: nothing is written when a cut fails",
        old: "        Err(_) => None,",
        new: "        Err(_) => Some(0),",
        suites: IOMMUFD,
    },
];
