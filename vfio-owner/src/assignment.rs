//! Device assignment: the same client code for VFIO's groups and for an iommufd.
//!
//! A VMM gives devices to a guest whose memory is mapped once, for all of them. With [`GroupAssignment`] they come through
//! their groups and a container, with [`IommufdAssignment`] through their own files and an iommufd; what uses
//! [`DeviceAssignment`] need not know which.
//!
//! ```
//! # #[cfg(feature = "testbed")] {
//! use vfio_owner::assignment::{DeviceAssignment, GroupAssignment, IommufdAssignment};
//! use vfio_owner::backend::MapRequest;
//! use vfio_owner::iommu_core::software::LockedPages;
//! use vfio_owner::iommu_core::{Access, Iova};
//! use vfio_owner::testbed::{self, Machine};
//!
//! fn run(machine: &Machine, assignment: &dyn DeviceAssignment) -> Result<(), Box<dyn std::error::Error>> {
//!     let process = machine.process(LockedPages::unlimited());
//!     let addr = process.allocate(1 << 20, Access::ReadWrite).ok_or("no memory")?;
//!     assignment.map(MapRequest { iova: Iova::new(0), bytes: 1 << 20, process, addr, access: Access::ReadWrite })?;
//!     let nic = assignment.assign("0000:00:03.0")?;
//!     machine.dma("0000:00:03.0")?.write(Iova::new(0x1000), b"packet")?;
//!     drop(nic);
//!     machine.dma("0000:00:03.0")?.write(Iova::new(0x1000), b"packet").unwrap_err();
//!     Ok(())
//! }
//!
//! let machine = Machine::boot(&testbed::pc());
//! machine.unbind("0000:00:03.0")?.wait();
//! machine.bind("0000:00:03.0", "vfio-pci")?;
//! run(&machine, &GroupAssignment::new(machine.vfio()))?;
//! run(&machine, &IommufdAssignment::new(machine.vfio(), machine.open_iommufd("vmm"))?)?;
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::ops::Deref;

use iommu_core::device_model::Errno;
use iommu_core::device_model::sync::{LockClass, Mutex};
use iommu_core::iova_map::Vacant;
use iommu_core::{GroupId, Iova, IovaMap, IovaRange};
#[cfg(feature = "iommufd")]
use iommufd_owner::{Context, IoasError, ObjectId, Place};

use crate::backend::{Extension, MapRequest, Unmap, cut_by};
#[cfg(feature = "iommufd")]
use crate::error::{AttachPtError, BindIommufdError, OpenDeviceError};
use crate::error::{GetDeviceError, MapDmaError, OpenGroupError, SetContainerError, SetIommuError, UnmapDmaError};
use crate::{Container, GroupFile, OpenDevice, Vfio};

/// Taken before every lock of this crate.
const ASSIGNMENT: LockClass = LockClass::new("device assignment", 50);

/// Devices that are given to a user in one I/O address space.
///
/// The address space exists before the first device is assigned and after the last has been given back. Memory is pinned
/// while a lock of the assignment is held: a [`UserMemory`](iommu_core::UserMemory) must not call back into it.
pub trait DeviceAssignment: Send + Sync {
    /// Gives the user a device: claims its DMA, attaches it to the address space and opens it. Dropping what is returned
    /// closes the device and gives it back.
    ///
    /// # Errors
    /// Fails if the device is not registered with VFIO, somebody else has it or a device of its group, or it cannot reach
    /// what is mapped. Nothing has changed.
    fn assign(&self, device: &str) -> Result<AssignedDevice, AssignmentError>;

    /// Maps memory of a process for all devices, those included that are assigned later.
    ///
    /// # Errors
    /// Fails if something is mapped there, a device cannot reach it, or the memory cannot be pinned. Nothing is mapped.
    fn map(&self, request: MapRequest) -> Result<(), AssignmentError>;

    /// Unmaps all mappings in a range, and returns how many bytes they were: 0 if nothing was mapped.
    ///
    /// # Errors
    /// Fails if the range would split a mapping. Nothing is unmapped.
    fn unmap(&self, iova: Iova, bytes: u64) -> Result<u64, AssignmentError>;
}

/// A device that is [assigned](DeviceAssignment::assign). Dropping it gives it back.
#[derive(Debug)]
pub struct AssignedDevice {
    device: OpenDevice,
    /// The group's file, for the devices that come after; `None` for a device that was opened through its own file.
    _group: Option<Arc<GroupFile>>,
}

impl Deref for AssignedDevice {
    type Target = OpenDevice;

    fn deref(&self) -> &OpenDevice {
        &self.device
    }
}

/// Assigns devices through the files of their groups and a container with type1, version 2.
///
/// A group is claimed with the first of its devices and given back with the last. The container loses its mappings with
/// its last group; they are made again for the next.
#[derive(Debug)]
pub struct GroupAssignment {
    vfio: Vfio,
    container: Container,
    state: Mutex<Groups>,
}

#[derive(Debug)]
struct Groups {
    files: BTreeMap<GroupId, Weak<GroupFile>>,
    /// What is mapped whenever the container has an IOMMU.
    mappings: Mappings<MapRequest>,
}

impl GroupAssignment {
    /// Opens a container.
    pub fn new(vfio: &Vfio) -> Self {
        let state = Groups { files: BTreeMap::new(), mappings: Mappings(IovaMap::new()) };
        Self { vfio: vfio.clone(), container: vfio.open_container(), state: Mutex::of(ASSIGNMENT, state) }
    }

    /// The file of a group that is in the container.
    fn file(&self, group: GroupId) -> Result<Arc<GroupFile>, AssignmentError> {
        let Groups { files, mappings } = &mut *self.state.lock();
        if let Some(file) = files.get(&group).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = Arc::new(self.join(group, mappings)?);
        files.retain(|_, file| file.strong_count() > 0);
        files.insert(group, Arc::downgrade(&file));
        Ok(file)
    }

    /// Puts a group into the container.
    fn join(&self, group: GroupId, mappings: &Mappings<MapRequest>) -> Result<GroupFile, AssignmentError> {
        let file = self.vfio.open_group(group)?;
        file.set_container(&self.container)?;
        if self.container.info().is_none() {
            self.container.set_iommu(Extension::TYPE1_V2)?;
            for (_, request) in mappings.0.iter() {
                self.container.map(request)?;
            }
        }
        Ok(file)
    }
}

impl DeviceAssignment for GroupAssignment {
    fn assign(&self, device: &str) -> Result<AssignedDevice, AssignmentError> {
        let group = self.vfio.group_of(device);
        let group = group.ok_or_else(|| AssignmentError::NotRegistered { device: device.into() })?;
        let file = self.file(group)?;
        // With no lock held, for the driver opens the device.
        let device = file.device(device)?;
        Ok(AssignedDevice { device, _group: Some(file) })
    }

    fn map(&self, request: MapRequest) -> Result<(), AssignmentError> {
        let mut state = self.state.lock();
        let place = state.mappings.place(&request)?;
        match self.container.map(&request) {
            Ok(()) | Err(MapDmaError::NoIommu) => place.insert(request),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn unmap(&self, iova: Iova, bytes: u64) -> Result<u64, AssignmentError> {
        let mappings = &mut self.state.lock().mappings;
        let range = mappings.whole(iova, bytes)?;
        match self.container.unmap(Unmap::Range { iova, bytes }) {
            Ok(_) | Err(UnmapDmaError::NoIommu) => Ok(mappings.remove(range)),
            Err(error) => Err(error.into()),
        }
    }
}

/// What is mapped.
#[derive(Debug)]
struct Mappings<V>(IovaMap<V>);

impl<V> Mappings<V> {
    /// Where a request is to be mapped, and nothing is yet.
    fn place(&mut self, request: &MapRequest) -> Result<Vacant<'_, V>, AssignmentError> {
        let range = IovaRange::sized(request.iova, request.bytes).ok_or(AssignmentError::Wraps)?;
        self.0.vacant(range).map_err(|overlap| AssignmentError::Mapped { existing: overlap.existing })
    }

    /// The range, if it splits no mapping.
    fn whole(&self, iova: Iova, bytes: u64) -> Result<IovaRange, AssignmentError> {
        let range = IovaRange::sized(iova, bytes).ok_or(AssignmentError::Wraps)?;
        match cut_by(&self.0, range) {
            Some(mapping) => Err(AssignmentError::WouldCut { mapping }),
            None => Ok(range),
        }
    }

    /// Forgets the mappings in a range, and returns how many bytes they were.
    fn remove(&mut self, range: IovaRange) -> u64 {
        let mut bytes: u64 = 0;
        while let Some(mapping) = self.0.first_range_in(range) {
            self.0.remove(mapping.first());
            bytes = bytes.saturating_add(mapping.bytes());
        }
        bytes
    }
}

/// Assigns devices through their own files and an address space of an iommufd.
#[cfg(feature = "iommufd")]
#[derive(Debug)]
pub struct IommufdAssignment {
    vfio: Vfio,
    context: Context,
    ioas: ObjectId,
    mappings: Mutex<Mappings<()>>,
}

#[cfg(feature = "iommufd")]
impl IommufdAssignment {
    /// Makes an address space in `context`, which is left there when this is dropped.
    ///
    /// # Errors
    /// Fails if the context has no ids left.
    pub fn new(vfio: &Vfio, context: Context) -> Result<Self, IoasError> {
        let ioas = context.ioas_alloc()?;
        let mappings = Mutex::of(ASSIGNMENT, Mappings(IovaMap::new()));
        Ok(Self { vfio: vfio.clone(), context, ioas, mappings })
    }
}

#[cfg(feature = "iommufd")]
impl DeviceAssignment for IommufdAssignment {
    fn assign(&self, device: &str) -> Result<AssignedDevice, AssignmentError> {
        let file = self.vfio.open_device(device)?;
        let bound = file.bind_iommufd(&self.context)?;
        bound.attach_iommufd_pt(self.ioas)?;
        Ok(AssignedDevice { device: OpenDevice::clone(&bound), _group: None })
    }

    fn map(&self, request: MapRequest) -> Result<(), AssignmentError> {
        let mut mappings = self.mappings.lock();
        let place = mappings.place(&request)?;
        let iova = Place::Fixed(request.iova);
        self.context.ioas_map(self.ioas, request.at(iova))?;
        place.insert(());
        Ok(())
    }

    fn unmap(&self, iova: Iova, bytes: u64) -> Result<u64, AssignmentError> {
        let mut mappings = self.mappings.lock();
        let range = mappings.whole(iova, bytes)?;
        match self.context.ioas_unmap(self.ioas, iova, bytes) {
            Ok(_) | Err(iommufd_owner::UnmapError::NotMapped { .. }) => Ok(mappings.remove(range)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Why an operation on an assignment failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssignmentError {
    /// No driver has registered such a device with VFIO.
    #[error("{device} is not registered with VFIO")]
    NotRegistered {
        /// The name of the device.
        device: Arc<str>,
    },
    /// The range goes past the last address, or is empty.
    #[error("the range is empty, or goes past the last address")]
    Wraps,
    /// The range overlaps a mapping.
    #[error("{existing} is mapped already")]
    Mapped {
        /// The lowest mapping in the way.
        existing: IovaRange,
    },
    /// The range would split a mapping.
    #[error("the range would split the mapping {mapping}")]
    WouldCut {
        /// The mapping.
        mapping: IovaRange,
    },
    /// The group's file was not opened.
    #[error(transparent)]
    OpenGroup(#[from] OpenGroupError),
    /// The group was not put into the container.
    #[error(transparent)]
    SetContainer(#[from] SetContainerError),
    /// The container got no IOMMU.
    #[error(transparent)]
    SetIommu(#[from] SetIommuError),
    /// The device was not opened.
    #[error(transparent)]
    GetDevice(#[from] GetDeviceError),
    /// Nothing was mapped in the container.
    #[error(transparent)]
    MapDma(#[from] MapDmaError),
    /// Nothing was unmapped in the container.
    #[error(transparent)]
    UnmapDma(#[from] UnmapDmaError),
    /// The device's file was not opened.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    OpenDevice(#[from] OpenDeviceError),
    /// The device was not bound to the iommufd.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    Bind(#[from] BindIommufdError),
    /// The device was not attached to the address space.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    Attach(#[from] AttachPtError),
    /// Nothing was mapped in the address space.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    Map(#[from] iommufd_owner::MapError),
    /// Nothing was unmapped in the address space.
    #[cfg(feature = "iommufd")]
    #[error(transparent)]
    Unmap(#[from] iommufd_owner::UnmapError),
}

impl AssignmentError {
    /// Returns the error number that Linux gives; `ENOENT` for a device that is not registered, `EINVAL` for ranges that
    /// wrap or would split a mapping.
    pub fn errno(&self) -> Errno {
        match self {
            Self::NotRegistered { .. } => Errno::ENOENT,
            Self::Mapped { .. } => Errno::EEXIST,
            Self::Wraps | Self::WouldCut { .. } => Errno::EINVAL,
            Self::OpenGroup(error) => error.errno(),
            Self::SetContainer(error) => error.errno(),
            Self::SetIommu(error) => error.errno(),
            Self::GetDevice(error) => error.errno(),
            Self::MapDma(error) => error.errno(),
            Self::UnmapDma(error) => error.errno(),
            #[cfg(feature = "iommufd")]
            Self::OpenDevice(error) => error.errno(),
            #[cfg(feature = "iommufd")]
            Self::Bind(error) => error.errno(),
            #[cfg(feature = "iommufd")]
            Self::Attach(error) => error.errno(),
            #[cfg(feature = "iommufd")]
            Self::Map(error) => error.errno(),
            #[cfg(feature = "iommufd")]
            Self::Unmap(error) => error.errno(),
        }
    }
}
