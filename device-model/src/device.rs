//! Devices, and the lock under which a driver comes and goes.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use once_cell::race::OnceBox;

use crate::bus::BusShared;
use crate::device_id::DeviceId;
use crate::dma::DmaUse;
use crate::driver::Driver;
use crate::registry::DriverEntry;
use crate::sync::{LockClass, Mutex, MutexGuard, Users};

/// The turn and the lock of one device come before those of the devices below it, so they share a rank.
const TURN: LockClass = LockClass::new("turn of a device", 100);
const DEVICE_LOCK: LockClass = LockClass::new("device lock", 100);
/// Deeper devices count as this deep: no bus nests as far.
const DEEPEST: u16 = u16::MAX / 2 - 1;

/// What a device is called and where it sits, for [`BusHandle::add_device`](crate::BusHandle::add_device).
pub struct DeviceSpec {
    pub(crate) name: Arc<str>,
    pub(crate) parent: Option<Arc<Device>>,
    pub(crate) details: Box<dyn Any + Send + Sync>,
}

impl DeviceSpec {
    /// A device without parent of which its bus knows nothing but the name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), parent: None, details: Box::new(()) }
    }

    /// Puts it below `parent`, which may be on another bus.
    #[must_use]
    pub fn below(mut self, parent: &Arc<Device>) -> Self {
        self.parent = Some(parent.clone());
        self
    }

    /// Adds what the bus knows of it; see [`Device::details`].
    #[must_use]
    pub fn with(mut self, details: impl Any + Send + Sync) -> Self {
        self.details = Box::new(details);
        self
    }
}

impl fmt::Debug for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceSpec").field("name", &self.name).field("parent", &self.parent).finish_non_exhaustive()
    }
}

/// A device on a bus.
///
/// It stays a device for as long as somebody holds it, but once removed no driver binds to it any more.
pub struct Device {
    id: DeviceId,
    name: Arc<str>,
    bus: Weak<BusShared>,
    parent: Option<Arc<Device>>,
    /// How many devices are above it.
    depth: u16,
    details: Box<dyn Any + Send + Sync>,
    dma_record: OnceBox<Arc<dyn Any + Send + Sync>>,
    /// Leaf lock: the name in `driver_override`, which is not the device lock's (D15).
    driver_override: Mutex<Option<Arc<str>>>,
    /// Leaf lock: the driver, for those who do not hold the device lock.
    shown: Mutex<ShownDriver>,
    /// Leaf lock: devices directly below, oldest first; `None` once this one is being removed.
    children: Mutex<Option<BTreeMap<DeviceId, Weak<Device>>>>,
    /// Held while the device comes or a step of its going runs; before the device lock, and a parent's before a child's.
    turn: Mutex<()>,
    /// The device lock.
    state: Mutex<DeviceState>,
}

/// What is to be seen of the driver without the device lock.
pub(crate) enum ShownDriver {
    None,
    /// `dev->driver`, from P4 to R9.
    Set(Arc<str>),
    /// The `driver` link of sysfs as well, from P7 to R4.
    Linked(Arc<str>),
}

/// What the device lock guards.
#[derive(Debug)]
pub(crate) struct DeviceState {
    pub(crate) life: Life,
    pub(crate) binding: Binding,
    /// Dropped last to first when the driver leaves.
    resources: Vec<Box<dyn Any + Send>>,
}

/// Whether drivers may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// On the bus, but not ready for drivers (before step 14 of device_add).
    Arriving,
    Ready,
    /// Being removed: drivers leave and none comes.
    Dying,
    Gone,
}

/// How a device and a driver stand to each other.
#[derive(Debug)]
pub(crate) enum Binding {
    Unbound,
    /// P4 to P14.
    Probing(Attached),
    Bound(Attached),
    /// The driver has been asked to remove and waits for users; nobody gets the device lock meanwhile.
    Leaving {
        attached: Attached,
        attempt: u32,
        users: Arc<Users>,
    },
}

/// A driver on a device.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) entry: Arc<DriverEntry>,
    /// Key in the driver's list of devices.
    pub(crate) place: u64,
    /// `None` before P6 and after the clean-up.
    pub(crate) dma: Option<DmaUse>,
}

impl Device {
    pub(crate) fn new(id: DeviceId, bus: Weak<BusShared>, spec: DeviceSpec) -> Arc<Self> {
        let depth = spec.parent.as_ref().map_or(0, |parent| parent.depth.saturating_add(1).min(DEEPEST));
        Arc::new(Self {
            id,
            name: spec.name,
            bus,
            parent: spec.parent,
            depth,
            details: spec.details,
            dma_record: OnceBox::new(),
            driver_override: Mutex::new(None),
            shown: Mutex::new(ShownDriver::None),
            children: Mutex::new(Some(BTreeMap::new())),
            turn: Mutex::of(TURN.at_depth(2 * depth), ()),
            state: Mutex::of(
                DEVICE_LOCK.at_depth(2 * depth + 1),
                DeviceState { life: Life::Arriving, binding: Binding::Unbound, resources: Vec::new() },
            ),
        })
    }

    /// The device's identity; never used again.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// The name, unique on its bus while the device is there.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The device that it sits below.
    pub fn parent(&self) -> Option<&Arc<Device>> {
        self.parent.as_ref()
    }

    /// The devices directly below that have not been removed, oldest first. Takes a leaf lock.
    pub fn children(&self) -> Vec<Arc<Device>> {
        self.children.lock().iter().flat_map(BTreeMap::values).filter_map(Weak::upgrade).collect()
    }

    /// What the bus knows of it, if that is a `T`.
    pub fn details<T: Any>(&self) -> Option<&T> {
        self.details.downcast_ref()
    }

    /// The record that whoever guards DMA keeps of this device, if it is a `T`. Takes no lock.
    pub fn dma_record<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.dma_record.get()?.downcast_ref()
    }

    /// As [`dma_record`](Self::dma_record), to keep.
    pub fn shared_dma_record<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.dma_record.get()?.clone().downcast().ok()
    }

    /// Leaves a record for [`dma_record`](Self::dma_record). Only the first call has an effect; whether it was this
    /// one is answered.
    pub fn set_dma_record(&self, record: Arc<dyn Any + Send + Sync>) -> bool {
        self.dma_record.set(Box::new(record)).is_ok()
    }

    /// Takes the device lock, waiting for whoever holds it; a driver that is leaving but still has users holds it as
    /// well (D50). Must not be called from a callback for the same device (D44).
    pub fn lock(self: &Arc<Self>) -> DeviceGuard<'_> {
        loop {
            match crate::unbind::settle(self) {
                Ok(guard) => return guard,
                Err(users) => users.wait(),
            }
        }
    }

    /// The device lock as a bare mutex: a driver that is leaving does not count as a holder.
    pub(crate) fn raw_lock(self: &Arc<Self>) -> DeviceGuard<'_> {
        DeviceGuard { dev: self, state: self.state.lock() }
    }

    /// Keeps its coming and its going one after the other, so that the notifiers hear of them in that order.
    pub(crate) fn take_turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock()
    }

    /// A hint of which driver is bound, as the `driver` link of sysfs gives it: right when it was read, perhaps not
    /// any more. Takes a leaf lock, never the device lock. To decide something, read
    /// [`DeviceGuard::driver`] under [`lock`](Self::lock).
    pub fn driver_hint(&self) -> Option<Arc<str>> {
        match &*self.shown.lock() {
            ShownDriver::Linked(name) => Some(name.clone()),
            ShownDriver::None | ShownDriver::Set(_) => None,
        }
    }

    /// `dev->driver`, read without the lock as sysfs does (D49, Dt11.2): a driver that waits for users is still there.
    pub(crate) fn driver_field(&self) -> Option<Arc<str>> {
        match &*self.shown.lock() {
            ShownDriver::Set(name) | ShownDriver::Linked(name) => Some(name.clone()),
            ShownDriver::None => None,
        }
    }

    pub(crate) fn show(&self, driver: ShownDriver) {
        *self.shown.lock() = driver;
    }

    /// The driver that alone may match, if one is set.
    pub fn driver_override(&self) -> Option<Arc<str>> {
        self.driver_override.lock().clone()
    }

    /// Lets only the driver of this name match, or every driver again. Binds and unbinds nothing (D18).
    pub fn set_driver_override(&self, driver: Option<&str>) {
        *self.driver_override.lock() = driver.map(Arc::from);
    }

    /// As [`set_driver_override`](Self::set_driver_override), with the text that is written to sysfs (D17): up to the
    /// first newline; nothing clears.
    ///
    /// # Errors
    /// The text is a page long or longer.
    pub fn write_driver_override(&self, text: &str) -> Result<(), OverrideTooLong> {
        const PAGE_SIZE: usize = 4096;
        if text.len() >= PAGE_SIZE - 1 {
            return Err(OverrideTooLong { length: text.len() });
        }
        let name = text.split('\n').next().unwrap_or_default();
        self.set_driver_override(Some(name).filter(|name| !name.is_empty()));
        Ok(())
    }

    /// What the override says of a driver of this name (D16).
    pub fn override_verdict(&self, driver: &str) -> Override {
        match self.driver_override.lock().as_deref() {
            None => Override::Unset,
            Some(name) if name == driver => Override::Demands,
            Some(_) => Override::Excludes,
        }
    }

    pub(crate) fn bus(&self) -> Option<Arc<BusShared>> {
        self.bus.upgrade()
    }

    /// Puts `child` below this device, unless this one is being removed.
    pub(crate) fn adopt(&self, child: &Arc<Self>) -> bool {
        let mut children = self.children.lock();
        children.as_mut().is_some_and(|children| children.insert(child.id, Arc::downgrade(child)).is_none())
    }

    pub(crate) fn disown(&self, child: DeviceId) {
        if let Some(children) = self.children.lock().as_mut() {
            children.remove(&child);
        }
    }

    /// The youngest device below; when there is none, none can come any more.
    pub(crate) fn last_child(&self) -> Option<Arc<Self>> {
        let mut children = self.children.lock();
        let youngest = children.as_ref()?.values().rev().find_map(Weak::upgrade);
        if youngest.is_none() {
            *children = None;
        }
        youngest
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name)
    }
}

/// What `driver_override` says of one driver (D16).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Override {
    /// Nothing: the bus matches by ids.
    Unset,
    /// This driver, whatever its ids.
    Demands,
    /// Another driver.
    Excludes,
}

/// A text for `driver_override` is longer than a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a driver_override of {length} bytes is longer than a page")]
pub struct OverrideTooLong {
    /// Length of the text in bytes.
    pub length: usize,
}

impl OverrideTooLong {
    /// `EINVAL`.
    pub const fn errno(&self) -> crate::Errno {
        crate::Errno::EINVAL
    }
}

/// Holds the lock of a device. The driver can be read and changed only through it.
///
/// Reading the driver without the lock does not compile:
/// ```compile_fail,E0599
/// # fn example(dev: &std::sync::Arc<device_model::Device>) {
/// let driver = dev.driver();
/// # }
/// ```
pub struct DeviceGuard<'a> {
    dev: &'a Arc<Device>,
    state: MutexGuard<'a, DeviceState>,
}

impl<'a> DeviceGuard<'a> {
    /// The device.
    pub fn device(&self) -> &'a Arc<Device> {
        self.dev
    }

    /// The driver: set before DMA is configured, cleared after the driver's right to DMA has ended (D32, D33).
    pub fn driver(&self) -> Option<&Arc<dyn Driver>> {
        self.attached().map(|attached| attached.entry.driver())
    }

    /// Whether the driver has been probed and not been asked to leave.
    pub fn is_bound(&self) -> bool {
        matches!(self.state.binding, Binding::Bound(_))
    }

    /// Keeps `resource` until the driver leaves, or fails to bind. Resources are dropped last to first, after the right
    /// to DMA has ended (D41).
    pub fn manage(&mut self, resource: impl Any + Send) {
        self.state.resources.push(Box::new(resource));
    }

    /// The youngest resource of this type.
    pub fn resource<T: Any>(&self) -> Option<&T> {
        self.state.resources.iter().rev().find_map(|resource| resource.downcast_ref())
    }

    /// As [`resource`](Self::resource), to change.
    pub fn resource_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.state.resources.iter_mut().rev().find_map(|resource| resource.downcast_mut())
    }

    pub(crate) fn state(&mut self) -> &mut DeviceState {
        &mut self.state
    }

    pub(crate) fn binding(&self) -> &Binding {
        &self.state.binding
    }

    pub(crate) fn life(&self) -> Life {
        self.state.life
    }

    pub(crate) fn has_resources(&self) -> bool {
        !self.state.resources.is_empty()
    }

    /// Drops the resources, last to first.
    pub(crate) fn release_resources(&mut self) {
        while self.state.resources.pop().is_some() {}
    }

    pub(crate) fn attached(&self) -> Option<&Attached> {
        match &self.state.binding {
            Binding::Unbound => None,
            Binding::Probing(attached) | Binding::Bound(attached) | Binding::Leaving { attached, .. } => Some(attached),
        }
    }

    pub(crate) fn attached_mut(&mut self) -> Option<&mut Attached> {
        match &mut self.state.binding {
            Binding::Unbound => None,
            Binding::Probing(attached) | Binding::Bound(attached) | Binding::Leaving { attached, .. } => Some(attached),
        }
    }
}

impl fmt::Debug for DeviceGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceGuard").field("device", &self.dev.name).field("driver", &self.driver()).finish()
    }
}
