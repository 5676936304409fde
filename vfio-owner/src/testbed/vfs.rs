//! The machine as files: `/sys` and `/dev`, as programs look at them.
//!
//! A [`Vfs`] shows a [`Machine`]. It holds no state of its own: files appear, disappear and change with the machine, and
//! writes act on it. A [`Tree`] is the machine's files at one moment; directories say what of the host's files is seen
//! beside the machine's ([`HostEntries`]), for a program needs the rest of `/dev` and `/sys` as well.
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
mod structure;
mod tree;

use alloc::sync::Arc;

use iommu_core::device_model::sync::Mutex;

pub use self::attribute::Attribute;
pub use self::char_device::{CharDevice, CharFile};
pub use self::error::{AttributeError, OpenError};
pub use self::later::{Later, Written};
pub use self::open::{Absent, Access, File, OpenAttribute, Opened, Opening, Rights};
use self::structure::Structure;
pub use self::tree::{Change, Directory, Found, HostEntries, LastLink, Node, Tree, WalkError};
use super::machine::Machine;

/// The files of a machine.
#[derive(Debug)]
pub struct Vfs {
    machine: Arc<Machine>,
    /// Leaf lock.
    latest: Mutex<Latest>,
}

/// The tree that was made last, and of what.
#[derive(Debug)]
struct Latest {
    structure: Structure,
    tree: Arc<Tree>,
}

impl Vfs {
    /// Shows `machine`.
    pub fn new(machine: Arc<Machine>) -> Self {
        let structure = Structure::of(&machine);
        let tree = Arc::new(Tree::new(0, layout::root(&structure)));
        Self { machine, latest: Mutex::new(Latest { structure, tree }) }
    }

    /// Returns the machine.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Returns the files as they are now. While no device, driver or group comes or goes and nothing is bound or unbound,
    /// this is the same tree, and only the machine's lists are looked at.
    pub fn tree(&self) -> Arc<Tree> {
        let structure = Structure::of(&self.machine);
        let mut latest = self.latest.lock();
        if latest.structure != structure {
            let generation = latest.tree.generation() + 1;
            let tree = Arc::new(Tree::new(generation, layout::root(&structure)));
            *latest = Latest { structure, tree };
        }
        latest.tree.clone()
    }
}
