//! The machine as files: `/sys` and `/dev`, as programs look at them.
//!
//! A [`Vfs`] shows a [`Machine`]: files appear, disappear and change with it, and writes act on it. All that show one machine
//! show the same, what programs set and nothing depends on included: `power/control` and its like, and the bits of a
//! configuration space that root may write, which the function does not see. A [`Tree`] is the machine's files at one moment; directories say what of
//! the host's files is seen beside the machine's ([`HostEntries`]), for a program needs the rest of `/dev` and `/sys` as
//! well.
//!
//! ```
//! use std::sync::Arc;
//! use vfio_owner::testbed::vfs::{Access, Opened, Opening, Vfs, Written};
//! use vfio_owner::testbed::{Machine, pc};
//!
//! let vfs = Vfs::new(Arc::new(Machine::boot(&pc())));
//! let open = |path: &str, access| vfs.open(path, &Opening::new(access));
//!
//! let Opened::Attribute(unbind) = open("/sys/bus/pci/devices/0000:00:03.0/driver/unbind", Access::Write)? else { panic!() };
//! assert!(matches!(unbind.write(0, b"0000:00:03.0\n")?, Written::Bytes(13)));
//! assert!(open("/sys/bus/pci/devices/0000:00:03.0/driver/unbind", Access::Write).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attribute;
mod char_device;
mod device_text;
mod dynamic_id;
mod error;
mod later;
mod layout;
mod open;
mod settings;
mod structure;
mod tree;

use alloc::sync::Arc;

use iommu_core::device_model::sync::Mutex;

pub use self::attribute::Attribute;
pub use self::char_device::{CharDevice, CharFile};
pub use self::error::{AttributeError, OpenError};
pub use self::later::{Later, Written};
pub use self::open::{Absent, Access, OpenAttribute, Opened, Opening, Rights};
pub(super) use self::settings::Settings;
use self::structure::{Outline, Structure, Survey};
pub use self::tree::{Change, Directory, Found, HostEntries, LastLink, Node, Tree, WalkError};
use super::machine::Machine;

/// The files of a machine. A clone is the same.
#[derive(Clone, Debug)]
pub struct Vfs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    machine: Arc<Machine>,
    /// Leaf lock.
    latest: Mutex<Latest>,
}

/// The tree that was made last, and of what.
#[derive(Debug)]
struct Latest {
    outline: Outline,
    tree: Arc<Tree>,
}

impl Vfs {
    /// Shows `machine`.
    pub fn new(machine: Arc<Machine>) -> Self {
        let survey = Survey::of(&machine);
        let outline = survey.outline();
        let tree = Arc::new(Tree::new(0, layout::root(&Structure::of(&machine, survey))));
        let latest = Mutex::new(Latest { outline, tree });
        Self(Arc::new(Shared { machine, latest }))
    }

    /// Returns the machine.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.0.machine
    }

    /// Returns the files as they are now. While no device, driver or group comes or goes and nothing is bound or unbound,
    /// this is the same tree, and only the machine's lists are looked at.
    pub fn tree(&self) -> Arc<Tree> {
        let survey = Survey::of(self.machine());
        {
            let latest = self.0.latest.lock();
            if latest.outline.is_of(&survey) {
                return latest.tree.clone();
            }
        }
        // Made without the lock: it looks at devices.
        let outline = survey.outline();
        let root = layout::root(&Structure::of(self.machine(), survey));
        let mut latest = self.0.latest.lock();
        if latest.outline != outline {
            let tree = Arc::new(Tree::new(latest.tree.generation() + 1, root));
            *latest = Latest { outline, tree };
        }
        latest.tree.clone()
    }
}
