//! Which domain each device is attached to: the context table that an IOMMU walks first.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use device_model::sync::{Arc, LockClass, SpinMutex};
use device_model::{DeviceId, Errno};

use super::domain::Translator;
use super::page_request::Requests;
use crate::hardware::{Capabilities, Endpoint, FaultReason, FaultSink, HardwareError};

/// Identifies who puts an access on the bus: a device, or one address space of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Requester {
    /// The device.
    pub device: DeviceId,
    /// The PASID that its accesses carry, if any.
    pub pasid: Option<u32>,
}

impl From<DeviceId> for Requester {
    fn from(device: DeviceId) -> Self {
        Self { device, pasid: None }
    }
}

/// What the IOMMU knows of one device that it serves.
#[derive(Debug)]
pub(super) struct Context {
    capabilities: Capabilities,
    faults: Arc<dyn FaultSink>,
    pub(super) requests: Requests,
    state: State,
    pasids: BTreeMap<u32, Arc<Translator>>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Unattached,
    Attached(Arc<Translator>),
    Blocked,
}

const SHARDS: usize = 64;

const CONTEXTS: LockClass = LockClass::new("contexts of an IOMMU", 910);

/// The devices that one IOMMU serves.
///
/// Split by device number, so that work on two devices seldom meets in a lock.
#[derive(Debug)]
pub(super) struct ContextTable(Box<[Shard]>);

/// Aligned so that no two share a cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Shard(SpinMutex<BTreeMap<DeviceId, Context>>);

impl ContextTable {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Shard(SpinMutex::of(CONTEXTS, BTreeMap::new()))).collect())
    }

    #[expect(clippy::indexing_slicing, reason = "the mask leaves a number below SHARDS, and so many were made")]
    fn shard(&self, device: DeviceId) -> &SpinMutex<BTreeMap<DeviceId, Context>> {
        &self.0[(device.get() & 63) as usize].0
    }

    /// Begins to serve a device, which is attached to nothing.
    pub(super) fn add(
        &self,
        dev: &Endpoint,
        capabilities: Capabilities,
        faults: Arc<dyn FaultSink>,
    ) -> Result<(), HardwareError> {
        let mut contexts = self.shard(dev.id).lock();
        if contexts.contains_key(&dev.id) {
            return Err(HardwareError::new(Errno::EBUSY, "the device is served already"));
        }
        let (requests, state, pasids) = Default::default();
        contexts.insert(dev.id, Context { capabilities, faults, requests, state, pasids });
        Ok(())
    }

    pub(super) fn remove(&self, dev: &Endpoint) {
        self.shard(dev.id).lock().remove(&dev.id);
    }

    /// Runs `change` on the device's context; no access of the device is on its way meanwhile.
    pub(super) fn change<R>(&self, dev: &Endpoint, change: impl FnOnce(&mut Context) -> R) -> Result<R, HardwareError> {
        let unserved = || HardwareError::new(Errno::ENODEV, "this IOMMU does not serve the device");
        self.shard(dev.id).lock().get_mut(&dev.id).map(change).ok_or_else(unserved)
    }

    /// Attaches a device of which all that is `wanted` is true.
    pub(super) fn attach(
        &self,
        dev: &Endpoint,
        translator: &Arc<Translator>,
        wanted: Capabilities,
    ) -> Result<(), HardwareError> {
        self.change(dev, |context| {
            if !context.capabilities.contains(wanted) {
                return Err(HardwareError::new(Errno::EINVAL, "the domain does not fit the device"));
            }
            context.state = State::Attached(translator.clone());
            Ok(())
        })?
    }

    pub(super) fn serves(&self, device: DeviceId) -> bool {
        self.shard(device).lock().contains_key(&device)
    }

    /// Runs `look` on the context of a device, if it is served.
    pub(super) fn of<R>(&self, device: DeviceId, look: impl FnOnce(&mut Context) -> R) -> Option<R> {
        self.shard(device).lock().get_mut(&device).map(look)
    }

    /// Runs `access` with what translates for `from`, which stays attached meanwhile.
    pub(super) fn with_translator<R>(
        &self,
        from: Requester,
        access: impl FnOnce(&Translator) -> Result<R, FaultReason>,
    ) -> Result<R, FaultReason> {
        let contexts = self.shard(from.device).lock();
        let context = contexts.get(&from.device).ok_or(FaultReason::Unserved)?;
        access(context.translator(from.pasid)?)
    }
}

impl Context {
    pub(super) fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    pub(super) fn faults(&self) -> Arc<dyn FaultSink> {
        self.faults.clone()
    }

    pub(super) fn attach_pasid(&mut self, pasid: u32, translator: Arc<Translator>) {
        self.pasids.insert(pasid, translator);
    }

    /// Detaches `translator` from `pasid`, unless another has taken its place.
    pub(super) fn detach_pasid(&mut self, pasid: u32, translator: &Arc<Translator>) {
        self.pasids.retain(|number, attached| *number != pasid || !Arc::ptr_eq(attached, translator));
    }

    pub(super) fn block(&mut self) {
        self.state = State::Blocked;
        self.pasids.clear();
    }

    fn translator(&self, pasid: Option<u32>) -> Result<&Translator, FaultReason> {
        match (&self.state, pasid) {
            (State::Blocked, _) => Err(FaultReason::Blocked),
            (_, Some(pasid)) => self.pasids.get(&pasid).map(Arc::as_ref).ok_or(FaultReason::NotAttached),
            (State::Attached(translator), None) => Ok(translator),
            (State::Unattached, None) => Err(FaultReason::NotAttached),
        }
    }
}
