//! Which domain each device is attached to: the context table that an IOMMU walks first.

use alloc::collections::BTreeMap;
use core::mem;

use device_model::sync::{Arc, LockClass, SpinMutex};
use device_model::{DeviceId, Errno};

use super::device_tlb::DeviceTlb;
use super::domain::Translator;
use super::page_request::Requests;
use crate::address::IovaRange;
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
    /// What was translated as `state` says.
    tlb: DeviceTlb,
    pasids: BTreeMap<u32, Arc<Translator>>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Unattached,
    Attached(Arc<Translator>),
    /// To a domain through which nothing passes, whichever: no count of references, as groups come here often.
    Blocking,
    /// By force, and with it all PASIDs.
    Blocked,
}

const SHARDS: usize = usize::BITS as usize;

/// A set of shards of the context tables of all units, a bit each.
pub(super) type Shards = usize;

const CONTEXTS: LockClass = LockClass::new("contexts of an IOMMU", 910);

/// The devices that one IOMMU serves.
///
/// Split by device number, so that work on two devices seldom meets in a lock.
#[derive(Debug)]
pub(super) struct ContextTable([Shard; SHARDS]);

/// Aligned so that no two share a cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Shard(SpinMutex<BTreeMap<DeviceId, Context>>);

#[expect(clippy::cast_possible_truncation, reason = "only the low bits matter")]
const fn shard_of(device: DeviceId) -> usize {
    device.get() as usize % SHARDS
}

impl ContextTable {
    pub(super) fn new() -> Self {
        Self(core::array::from_fn(|_| Shard(SpinMutex::of(CONTEXTS, BTreeMap::new()))))
    }

    #[expect(clippy::indexing_slicing, reason = "a shard's number is below SHARDS")]
    fn shard(&self, device: DeviceId) -> &SpinMutex<BTreeMap<DeviceId, Context>> {
        &self.0[shard_of(device)].0
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
        let (requests, state, tlb, pasids) = Default::default();
        contexts.insert(dev.id, Context { capabilities, faults, requests, state, tlb, pasids });
        Ok(())
    }

    pub(super) fn remove(&self, dev: &Endpoint) {
        self.shard(dev.id).lock().remove(&dev.id);
    }

    /// Runs `change` on the device's context; no access of the device is on its way meanwhile.
    pub(super) fn change<R>(&self, dev: &Endpoint, change: impl FnOnce(&mut Context) -> R) -> Result<R, HardwareError> {
        self.shard(dev.id).lock().get_mut(&dev.id).map(change).ok_or_else(unserved)
    }

    /// Attaches a device of which all that is `wanted` is true.
    pub(super) fn attach(
        &self,
        dev: &Endpoint,
        translator: &Arc<Translator>,
        wanted: Capabilities,
    ) -> Result<(), HardwareError> {
        let mut contexts = self.shard(dev.id).lock();
        let Some(context) = contexts.get_mut(&dev.id) else { return Err(unserved()) };
        if !context.capabilities.contains(wanted) {
            return Err(HardwareError::new(Errno::EINVAL, "the domain does not fit the device"));
        }
        let displaced = context.enter(State::of(translator));
        drop(contexts);
        drop(displaced);
        Ok(())
    }

    pub(super) fn serves(&self, device: DeviceId) -> bool {
        self.shard(device).lock().contains_key(&device)
    }

    /// Runs `look` on the context of a device, if it is served.
    pub(super) fn of<R>(&self, device: DeviceId, look: impl FnOnce(&mut Context) -> R) -> Option<R> {
        self.shard(device).lock().get_mut(&device).map(look)
    }

    /// Runs `access` with what translates for `from`, which stays attached meanwhile, and with the device's TLB if that is
    /// for it.
    #[inline]
    pub(super) fn with_translator<R>(
        &self,
        from: Requester,
        access: impl FnOnce(&Translator, Option<Caching<'_>>) -> Result<R, FaultReason>,
    ) -> Result<R, FaultReason> {
        let mut contexts = self.shard(from.device).lock();
        let context = contexts.get_mut(&from.device).ok_or(FaultReason::Unserved)?;
        let (translator, caching) = match (&context.state, from.pasid) {
            (State::Blocked, _) | (State::Blocking, None) => return Err(FaultReason::Blocked),
            (_, Some(pasid)) => (context.pasids.get(&pasid).ok_or(FaultReason::NotAttached)?, None),
            (State::Attached(translator), None) => {
                (translator, Some(Caching { tlb: &mut context.tlb, shard: shard_of(from.device) }))
            }
            (State::Unattached, None) => return Err(FaultReason::NotAttached),
        };
        access(translator, caching)
    }

    /// Drops what the devices in these shards that are attached to `translator` have cached of `range`. When it returns, no
    /// access under that is still on its way.
    pub(super) fn flush(&self, translator: &Arc<Translator>, shards: Shards, range: IovaRange) {
        let shards = self.0.iter().enumerate().filter(|(number, _)| shards & 1 << number != 0);
        for (_, shard) in shards {
            let mut contexts = shard.0.lock();
            let attached = contexts.values_mut().filter(|context| context.state.is(translator));
            attached.for_each(|context| context.tlb.flush(range));
        }
    }
}

/// The TLB of a device during an access.
pub(super) struct Caching<'a> {
    pub(super) tlb: &'a mut DeviceTlb,
    /// The number of the shard that the device is in.
    pub(super) shard: usize,
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
        self.enter(State::Blocked);
        self.pasids.clear();
    }

    /// Returns the state that it leaves.
    fn enter(&mut self, state: State) -> State {
        let left = mem::replace(&mut self.state, state);
        // In any other state nothing is cached.
        if matches!(left, State::Attached(_)) {
            self.tlb.flush(IovaRange::ALL);
        }
        left
    }
}

#[cold]
fn unserved() -> HardwareError {
    HardwareError::new(Errno::ENODEV, "this IOMMU does not serve the device")
}

impl State {
    fn of(translator: &Arc<Translator>) -> Self {
        match &**translator {
            Translator::Blocking => Self::Blocking,
            Translator::Identity | Translator::Paging(_) | Translator::Nested(_) => Self::Attached(translator.clone()),
        }
    }

    fn is(&self, translator: &Arc<Translator>) -> bool {
        matches!(self, Self::Attached(attached) if Arc::ptr_eq(attached, translator))
    }
}
