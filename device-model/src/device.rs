//! Devices, and the lock under which a driver comes and goes.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

use crate::any_device::internal::Internal as _;
use crate::any_device::{AnyDevice, Children, drop_upwards};
use crate::bound::Bound;
use crate::bus::{Bus, SlotOf};
use crate::device_id::DeviceId;
use crate::dma::DmaDevice;
use crate::driver::AnyRight;
use crate::notifier::{BusEvent, Notifier};
use crate::registration::{Place, Registration};
use crate::registry::BusShared;
use crate::resources::Resources;
use crate::sync::atomic::{AtomicBool, Ordering, fence};
use crate::sync::{LockClass, Mutex, MutexGuard, SpinMutex, Users};

/// The turn and the lock of one device come before those of the devices below it, so they share a rank.
const TURN: LockClass = LockClass::new("turn of a device", 100);
const DEVICE_LOCK: LockClass = LockClass::new("device lock", 100);
/// Deeper devices count as this deep: no bus nests as far.
const DEEPEST: u16 = u16::MAX / 2 - 1;

/// What a device is called, where it sits, and what the bus knows of it (`T`), for
/// [`BusHandle::add_device`](crate::BusHandle::add_device).
pub struct DeviceSpec<T> {
    pub(crate) name: Arc<str>,
    pub(crate) parent: Option<Arc<dyn AnyDevice>>,
    pub(crate) description: Arc<T>,
}

impl<T> DeviceSpec<T> {
    /// Describes a device without parent.
    pub fn new(name: impl Into<Arc<str>>, description: impl Into<Arc<T>>) -> Self {
        Self { name: name.into(), parent: None, description: description.into() }
    }

    /// Puts it below `parent`, which may be on another bus.
    #[must_use]
    pub fn below(mut self, parent: Arc<dyn AnyDevice>) -> Self {
        self.parent = Some(parent);
        self
    }
}

impl<T> fmt::Debug for DeviceSpec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceSpec").field("name", &self.name).field("parent", &self.parent).finish_non_exhaustive()
    }
}

/// A device on a bus.
///
/// The bus keeps it until it is removed. It stays a device for as long as somebody holds it, but once removed no driver
/// binds to it any more.
///
/// Aligned so that two devices share no cache line.
#[repr(align(64))]
pub struct Device<B: Bus> {
    id: DeviceId,
    name: Arc<str>,
    bus: Arc<BusShared<B>>,
    /// How many devices are above it.
    depth: u16,
    description: Arc<B::Device>,
    dma_slot: SlotOf<B>,
    /// Leaf lock: taken away only when nobody holds the device any more.
    parent: SpinMutex<Option<Arc<dyn AnyDevice>>>,
    /// Leaf lock: the name in `driver_override`, which is not the device lock's.
    // D15.
    pub(crate) driver_override: SpinMutex<Option<Arc<str>>>,
    /// Leaf lock: the driver, for those who do not hold the device lock.
    shown: SpinMutex<ShownDriver>,
    /// Leaf lock: whom to tell. A copy of the device's own, so that two devices that bind write nothing in common.
    notifiers: SpinMutex<Notifiers<B>>,
    /// Leaf lock: devices directly below.
    children: Mutex<Children>,
    left_to_holder: LeftToHolder,
    /// Serializes addition and removal, so that the notifiers hear of them in order. Before the device lock, and a
    /// parent's before a child's.
    turn: Mutex<()>,
    /// The device lock.
    state: Mutex<DeviceState<B>>,
}

pub(crate) type Notifiers<B> = Option<Arc<[Arc<dyn Notifier<B>>]>>;

/// What somebody who did not get the device's lock, and would not wait, has left to whoever holds it.
#[derive(Default)]
struct LeftToHolder {
    /// The bus is closed: let the driver go.
    close: AtomicBool,
    /// The same, for whoever has the turn. Apart, so that closing does not wait for a lock by leaving it to itself.
    close_after_turn: AtomicBool,
    /// The deferred probe of this device is to be repeated.
    probe: AtomicBool,
    /// Deferred probes of other devices are to be repeated.
    repeats: AtomicBool,
}

/// What is to be seen of the driver without the device lock.
pub(crate) enum ShownDriver {
    None,
    /// `dev->driver`.
    // From P4 to R9.
    Set(Arc<str>),
    /// The `driver` link of sysfs as well.
    // From P7 to R4.
    Linked(Arc<str>),
}

/// What the device lock guards.
pub(crate) struct DeviceState<B: Bus> {
    pub(crate) life: Life,
    pub(crate) binding: Binding<B>,
    pub(crate) resources: Resources,
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
pub(crate) enum Binding<B: Bus> {
    Unbound,
    /// The driver is set, without a right to DMA.
    // P4 to P6, and R8 to R9.
    Set(Link<B>),
    // P6 to P14.
    Probing(Attached<B>),
    Bound(Attached<B>),
    /// The driver has been asked to remove and waits for users; nobody gets the device lock meanwhile.
    Leaving(Attached<B>, Leaving),
}

pub(crate) struct Leaving {
    pub(crate) attempt: u32,
    /// How often in a row the driver waited for nobody.
    pub(crate) in_vain: u32,
    pub(crate) users: Arc<Users>,
}

/// A driver on a device.
pub(crate) struct Link<B: Bus> {
    pub(crate) driver: Arc<Registration<B>>,
    /// In the driver's list of devices.
    pub(crate) place: Place,
}

/// A driver on a device, with its right to DMA.
pub(crate) struct Attached<B: Bus> {
    pub(crate) link: Link<B>,
    pub(crate) right: AnyRight<B>,
}

impl<B: Bus> Device<B> {
    pub(crate) fn new(id: DeviceId, bus: &Arc<BusShared<B>>, spec: DeviceSpec<B::Device>) -> Arc<Self> {
        let depth = spec.parent.as_ref().map_or(0, |parent| parent.depth().saturating_add(1).min(DEEPEST));
        let state = DeviceState { life: Life::Arriving, binding: Binding::Unbound, resources: Resources::default() };
        Arc::new(Self {
            id,
            name: spec.name,
            bus: bus.clone(),
            depth,
            description: spec.description,
            dma_slot: SlotOf::<B>::default(),
            parent: SpinMutex::new(spec.parent),
            driver_override: SpinMutex::new(None),
            shown: SpinMutex::new(ShownDriver::None),
            notifiers: SpinMutex::new(None),
            children: Mutex::new(Some(BTreeMap::new())),
            left_to_holder: LeftToHolder::default(),
            turn: Mutex::of(TURN.at_depth(2 * depth), ()),
            state: Mutex::of(DEVICE_LOCK.at_depth(2 * depth + 1), state),
        })
    }

    /// Returns the identity; never used again.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// Returns the name, unique on its bus while the device is there.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the device that it sits below. Takes a leaf lock.
    pub fn parent(&self) -> Option<Arc<dyn AnyDevice>> {
        self.parent.lock().clone()
    }

    /// Returns the devices directly below that have not been removed, oldest first. Takes a leaf lock.
    pub fn children(&self) -> Vec<Arc<dyn AnyDevice>> {
        self.children.lock().iter().flat_map(BTreeMap::values).filter_map(Weak::upgrade).collect()
    }

    /// Returns the bus-specific data of the device.
    pub fn description(&self) -> &Arc<B::Device> {
        &self.description
    }

    /// Returns the data that [`DmaConfigure`](crate::DmaConfigure) keeps for the device. Takes no lock.
    pub fn dma_slot(&self) -> &SlotOf<B> {
        &self.dma_slot
    }

    /// Returns the driver that the `driver` link of sysfs names, as a hint: it may be stale at once. Takes a leaf lock,
    /// never the device lock. To decide something, read [`DeviceGuard::driver`] under [`lock`](Self::lock).
    pub fn driver_hint(&self) -> Option<Arc<str>> {
        match &*self.shown.lock() {
            ShownDriver::Linked(name) => Some(name.clone()),
            ShownDriver::None | ShownDriver::Set(_) => None,
        }
    }

    /// `dev->driver`, read without the lock as sysfs does: a driver that waits for users is still there.
    // D49, Dt11.2.
    pub(crate) fn driver_field(&self) -> Option<Arc<str>> {
        match &*self.shown.lock() {
            ShownDriver::Set(name) | ShownDriver::Linked(name) => Some(name.clone()),
            ShownDriver::None => None,
        }
    }

    /// Whether this is the name of `dev->driver`, read without the lock.
    pub(crate) fn shows(&self, driver: &str) -> bool {
        match &*self.shown.lock() {
            ShownDriver::Set(name) | ShownDriver::Linked(name) => &**name == driver,
            ShownDriver::None => false,
        }
    }

    pub(crate) fn show(&self, driver: ShownDriver) {
        let before = core::mem::replace(&mut *self.shown.lock(), driver);
        drop(before);
    }

    pub(crate) fn bus(&self) -> &Arc<BusShared<B>> {
        &self.bus
    }

    /// The device as whoever guards DMA sees it.
    pub(crate) fn dma_device(&self) -> DmaDevice<'_, B::Device, SlotOf<B>> {
        DmaDevice { device: self, description: &self.description, slot: &self.dma_slot }
    }

    /// Changes whom to tell; returns the list before, to be dropped with no lock held.
    pub(crate) fn exchange_notifiers(&self, notifiers: Notifiers<B>) -> Notifiers<B> {
        core::mem::replace(&mut *self.notifiers.lock(), notifiers)
    }

    pub(crate) fn notify(&self, event: &BusEvent<'_, B>) {
        let notifiers = self.notifiers.lock().clone();
        for notifier in notifiers.iter().flat_map(|all| all.iter()) {
            notifier.notify(event);
        }
    }

    /// The youngest device below; when there is none, none can come any more.
    pub(crate) fn last_child(&self) -> Option<Arc<dyn AnyDevice>> {
        let mut children = self.children.lock();
        let youngest = children.as_ref()?.values().rev().find_map(Weak::upgrade);
        if youngest.is_none() {
            *children = None;
        }
        youngest
    }

    pub(crate) fn adopt_child(&self, id: DeviceId, child: Weak<dyn AnyDevice>) -> bool {
        self.children.lock().as_mut().is_some_and(|children| children.insert(id, child).is_none())
    }

    pub(crate) fn disown_child(&self, child: DeviceId) {
        if let Some(children) = self.children.lock().as_mut() {
            children.remove(&child);
        }
    }

    pub(crate) fn take_parent(&self) -> Option<Arc<dyn AnyDevice>> {
        self.parent.lock().take()
    }

    pub(crate) fn depth(&self) -> u16 {
        self.depth
    }

    /// The device lock as a bare mutex: a driver that is leaving does not count as a holder.
    pub(crate) fn raw_lock(self: &Arc<Self>) -> DeviceGuard<'_, B> {
        DeviceGuard { state: self.state.lock(), after: AfterUnlock { device: self, repeating: false } }
    }

    pub(crate) fn take_turn(self: &Arc<Self>) -> Turn<'_, B> {
        Turn { _turn: self.turn.lock(), _after: AfterTurn(self) }
    }

    /// The device lock if nobody holds it; else, after `prepare`, `left` is what whoever holds it does when it lets go.
    pub(crate) fn lock_or_leave(self: &Arc<Self>, left: Left, prepare: impl FnOnce()) -> Option<DeviceGuard<'_, B>> {
        let attempt = || {
            let state = self.state.try_lock()?;
            Some(DeviceGuard { state, after: AfterUnlock { device: self, repeating: matches!(left, Left::Probe) } })
        };
        attempt().or_else(|| {
            prepare();
            let flag = self.left_to_holder.flag(left);
            flag.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            // If this fails as well, whoever holds the lock has still to unlock it, and looks then.
            let guard = attempt()?;
            flag.store(false, Ordering::SeqCst);
            Some(guard)
        })
    }

    /// The turn if nobody has it; else whoever has it closes the device when it lets go.
    pub(crate) fn turn_or_leave(self: &Arc<Self>) -> Option<Turn<'_, B>> {
        let attempt = || Some(Turn { _turn: self.turn.try_lock()?, _after: AfterTurn(self) });
        attempt().or_else(|| {
            self.left_to_holder.close_after_turn.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let turn = attempt()?;
            self.left_to_holder.close_after_turn.store(false, Ordering::SeqCst);
            Some(turn)
        })
    }

    /// Whether this was left to do; it is left no longer.
    fn take_left(&self, left: Left) -> bool {
        self.left_to_holder.flag(left).swap(false, Ordering::SeqCst)
    }
}

/// What can be left to whoever holds a device's lock.
#[derive(Clone, Copy)]
pub(crate) enum Left {
    Close,
    Probe,
    Repeats,
}

impl LeftToHolder {
    fn flag(&self, left: Left) -> &AtomicBool {
        match left {
            Left::Close => &self.close,
            Left::Probe => &self.probe,
            Left::Repeats => &self.repeats,
        }
    }

    fn any(&self) -> bool {
        [&self.close, &self.probe, &self.repeats].into_iter().any(|flag| flag.load(Ordering::Relaxed))
    }
}

impl<B: Bus> Drop for Device<B> {
    fn drop(&mut self) {
        self.bus.core.deferral.leave(self.id);
        drop_upwards(self.id, self.parent.get_mut().take());
    }
}

impl<B: Bus> fmt::Debug for Device<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name)
    }
}

/// Does what others have left to the holder of a lock. Dropped after the lock.
struct AfterUnlock<'a, B: Bus> {
    device: &'a Arc<Device<B>>,
    /// Whether the lock was taken to repeat deferred probes: what is due is repeated by the same loop then.
    repeating: bool,
}

impl<B: Bus> Drop for AfterUnlock<'_, B> {
    fn drop(&mut self) {
        // Against the fence of whoever left something and found the lock still held.
        fence(Ordering::SeqCst);
        let dev = self.device;
        if !dev.left_to_holder.any() {
            return;
        }
        if dev.take_left(Left::Close) {
            dev.clone().close();
        }
        let deferral = &dev.bus.core.deferral;
        let due = dev.take_left(Left::Probe);
        if due {
            deferral.make_due(dev.id);
        }
        if (dev.take_left(Left::Repeats) || due) && !self.repeating {
            deferral.settle(&**dev);
        }
    }
}

/// The turn of a device: nobody else adds or removes it.
pub(crate) struct Turn<'a, B: Bus> {
    _turn: MutexGuard<'a, ()>,
    /// Last, so that it is dropped with the turn free.
    _after: AfterTurn<'a, B>,
}

struct AfterTurn<'a, B: Bus>(&'a Arc<Device<B>>);

impl<B: Bus> Drop for AfterTurn<'_, B> {
    fn drop(&mut self) {
        fence(Ordering::SeqCst);
        if self.0.left_to_holder.close_after_turn.swap(false, Ordering::SeqCst) {
            self.0.clone().close();
        }
    }
}

/// Holds the lock of a device. The driver can be read and changed only through it.
///
/// Reading the driver without the lock does not compile:
/// ```compile_fail,E0599
/// # use device_model::{Device, platform::PlatformBus, Unprotected};
/// # fn example(dev: &std::sync::Arc<Device<PlatformBus<Unprotected>>>) {
/// let driver = dev.driver();
/// # }
/// ```
///
/// Dropping it unlocks the device. Work that other threads have left to the holder, such as deferred probes that are
/// due, is done then.
pub struct DeviceGuard<'a, B: Bus> {
    state: MutexGuard<'a, DeviceState<B>>,
    /// Last, so that it is dropped with the lock free.
    after: AfterUnlock<'a, B>,
}

impl<'a, B: Bus> DeviceGuard<'a, B> {
    /// Returns the device.
    pub fn device(&self) -> &'a Arc<Device<B>> {
        self.after.device
    }

    /// Returns the driver: set before DMA is configured, cleared after the driver's right to DMA has ended.
    pub fn driver(&self) -> Option<&Arc<B::Driver>> {
        self.link().map(|link| &link.driver.driver)
    }

    /// Returns the name of the driver.
    pub fn driver_name(&self) -> Option<&Arc<str>> {
        self.link().map(|link| &link.driver.name)
    }

    /// Returns whether the driver has been probed and is not being removed.
    pub fn is_bound(&self) -> bool {
        matches!(self.state.binding, Binding::Bound(_))
    }

    /// Returns the youngest resource of this type that the driver has given to [`Bound::manage`].
    pub fn resource<T: Any>(&self) -> Option<&T> {
        self.state.resources.get()
    }

    /// Returns the youngest resource of this type, to change it.
    pub fn resource_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.state.resources.get_mut()
    }

    pub(crate) fn state(&self) -> &DeviceState<B> {
        &self.state
    }

    pub(crate) fn state_mut(&mut self) -> &mut DeviceState<B> {
        &mut self.state
    }

    pub(crate) fn link(&self) -> Option<&Link<B>> {
        match &self.state.binding {
            Binding::Unbound => None,
            Binding::Set(link) => Some(link),
            Binding::Probing(attached) | Binding::Bound(attached) | Binding::Leaving(attached, _) => {
                Some(&attached.link)
            }
        }
    }

    /// Calls the driver with its device; `None` without a driver that has a right to DMA.
    pub(crate) fn with_driver<R>(&mut self, call: impl FnOnce(&B::Driver, &mut Bound<'_, B>) -> R) -> Option<R> {
        let device = self.device();
        let DeviceState { binding, resources, .. } = &mut *self.state;
        let (Binding::Probing(attached) | Binding::Bound(attached) | Binding::Leaving(attached, _)) = binding else {
            return None;
        };
        Some(call(&attached.link.driver.driver, &mut Bound::new(device, resources, &attached.right)))
    }
}

impl<B: Bus> fmt::Debug for DeviceGuard<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceGuard")
            .field("device", &self.device().name)
            .field("driver", &self.driver_name())
            .finish_non_exhaustive()
    }
}
