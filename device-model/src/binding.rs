//! The binding sequence.
// In the order of table Dt5.

use alloc::sync::Arc;

use scopeguard::ScopeGuard;

use crate::any_device::AnyDevice;
use crate::bus::{Bus, DmaErrorOf, Match};
use crate::deferred::Search;
use crate::device::{Attached, Binding, Device, DeviceGuard, Left, Life, Link, ShownDriver};
use crate::dma::{DmaConfigure, DmaError, DmaRight, DriverManaged};
use crate::driver::{AnyDriver, AnyRight, Awaits, ProbeError};
use crate::errno::Errno;
use crate::notifier::BusEvent;
use crate::registration::Registration;
use crate::registry::BusShared;
use crate::sync::Users;
use crate::unbind::settle;

/// Why a driver that matches was not bound; `E` is why DMA was refused.
///
/// [`Callback`](Self::Callback) lets the next driver try, and so does [`DriverGone`](Self::DriverGone), as if the driver
/// had left the list already. The others are the core's own refusals: they end the search for a driver.
// D23, D25. A device without driver has no resources, so the refusal P3 has no variant.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeFailure<E: DmaError> {
    /// The device is being removed.
    #[error("the device is being removed")]
    DeviceGone,
    /// The device has a driver, perhaps this one.
    #[error("the device is bound to {driver}")]
    HasDriver {
        /// Its name.
        driver: Arc<str>,
    },
    /// The device is not ready for drivers.
    #[error("the device is not ready for drivers yet")]
    NotReady,
    /// The driver is being unregistered.
    #[error("the driver is being unregistered")]
    DriverGone,
    /// All probes are held.
    #[error("probes are held")]
    ProbesHeld,
    /// DMA is not allowed: a user-space owner has the device's group, for one.
    #[error("DMA is not allowed")]
    Dma(#[source] E),
    /// The driver's probe failed.
    #[error("the probe failed")]
    Callback(#[source] ProbeError),
}

impl<E: DmaError> ProbeFailure<E> {
    /// Returns the number that binding through sysfs gives: a deferral is `EAGAIN`.
    pub fn errno(&self) -> Errno {
        // Dt9.
        let errno = match self {
            Self::DeviceGone | Self::DriverGone => Errno::ENODEV,
            Self::HasDriver { .. } => Errno::EBUSY,
            Self::NotReady | Self::ProbesHeld => Errno::EAGAIN,
            Self::Dma(error) => error.errno(),
            Self::Callback(error) => error.errno(),
        };
        if errno == Errno::EPROBE_DEFER { Errno::EAGAIN } else { errno }
    }

    /// Returns what the probe waits for, if it is a deferral that is repeated. A device that is not ready gets its turn
    /// when it is.
    pub fn awaits(&self) -> Option<&Awaits> {
        match self {
            Self::ProbesHeld => Some(&Awaits::Anything),
            Self::Dma(error) => error.awaits(),
            Self::Callback(error) => error.awaits(),
            _ => None,
        }
    }
}

/// Why the search for a driver ended without looking further; `E` is why DMA was refused.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError<E: DmaError> {
    /// A driver cannot tell yet whether it matches.
    #[error("a match is deferred until {0}")]
    MatchDeferred(Awaits),
    /// A driver cannot tell at all whether it matches.
    #[error("a match failed with {0}")]
    MatchFailed(Errno),
    /// The core refused a driver that matches.
    #[error("a matching driver was refused")]
    Refused(#[source] ProbeFailure<E>),
}

pub(crate) type FailureOf<B> = ProbeFailure<DmaErrorOf<B>>;

/// Tries the drivers of the bus on one device, in registration order, until one binds.
// D25, table Dt4.
pub(crate) fn search<B: Bus>(guard: &mut DeviceGuard<'_, B>) -> Result<(), SearchError<DmaErrorOf<B>>> {
    let dev = guard.device();
    let bus = dev.bus();
    if matches!(guard.state().life, Life::Dying | Life::Gone) || guard.link().is_some() {
        return Ok(());
    }
    let search = bus.core.deferral.search();
    let mut serial = None;
    while let Some(driver) = bus.driver_after(serial) {
        serial = Some(driver.serial);
        match bus.bus.matches(dev, &driver.driver) {
            Match::No => {}
            Match::Deferred(awaits) => {
                defer(dev, &awaits, &search);
                return Err(SearchError::MatchDeferred(awaits));
            }
            Match::Failed(errno) => return Err(SearchError::MatchFailed(errno)),
            Match::Yes => match probe_or_defer(&driver, guard, &search) {
                Ok(()) => return Ok(()),
                Err(ProbeFailure::Callback(_) | ProbeFailure::DriverGone) => {}
                Err(failure) => return Err(SearchError::Refused(failure)),
            },
        }
    }
    Ok(())
}

/// The search after a device came, and its repeats: failures stay with the device.
// D8.
pub(crate) fn search_initially<B: Bus>(guard: &mut DeviceGuard<'_, B>) {
    if guard.device().bus().autoprobes() {
        let _ = search(guard);
    }
}

/// Tries a driver on every device of its bus; whatever comes of it is swallowed.
///
/// A device whose driver waits for users has a driver, so nobody waits for it here.
// D28.
pub(crate) fn try_on_all<B: Bus>(driver: &Arc<Registration<B>>) {
    let bus = &driver.bus;
    let Some(last) = bus.device_before(None).map(|dev| dev.id()) else { return };
    let mut at = None;
    while let Some(dev) = bus.device_after(at).filter(|dev| dev.id() <= last) {
        at = Some(dev.id());
        try_on(driver, &dev);
        bus.core.deferral.settle(&*dev);
    }
}

fn try_on<B: Bus>(driver: &Arc<Registration<B>>, dev: &Arc<Device<B>>) {
    let bus = &driver.bus;
    let search = bus.core.deferral.search();
    match bus.bus.matches(dev, &driver.driver) {
        Match::No | Match::Failed(_) => {}
        Match::Deferred(awaits) => {
            // A device that is going, or has a driver, waits for nothing.
            let guard = dev.raw_lock();
            if matches!(guard.state().life, Life::Arriving | Life::Ready) && guard.link().is_none() {
                defer(dev, &awaits, &search);
            }
        }
        Match::Yes => {
            let mut guard = dev.raw_lock();
            let _ = probe_or_defer(driver, &mut guard, &search);
        }
    }
}

fn defer<B: Bus>(dev: &Arc<Device<B>>, awaits: &Awaits, search: &Search<'_>) {
    let any: Arc<dyn AnyDevice> = dev.clone();
    search.defer(&dev.bus().core, &any, awaits);
}

/// A deferral puts the device on a list.
// D24.
fn probe_or_defer<B: Bus>(
    driver: &Arc<Registration<B>>,
    guard: &mut DeviceGuard<'_, B>,
    search: &Search<'_>,
) -> Result<(), FailureOf<B>> {
    let result = probe(driver, guard);
    match &result {
        Err(ProbeFailure::ProbesHeld) => {
            let any: Arc<dyn AnyDevice> = guard.device().clone();
            guard.device().bus().core.deferral.defer_held(&any);
        }
        Err(failure) => {
            if let Some(awaits) = failure.awaits() {
                defer(guard.device(), awaits, search);
            }
        }
        Ok(()) => {}
    }
    result
}

/// The gate and the sequence.
// Dt3, Dt5.
pub(crate) fn probe<B: Bus>(driver: &Arc<Registration<B>>, guard: &mut DeviceGuard<'_, B>) -> Result<(), FailureOf<B>> {
    gate(guard)?;
    let dev = guard.device();
    let place = driver.enlist(dev).ok_or(ProbeFailure::DriverGone)?;
    // P4 comes before P6, so that whoever guards DMA can be told of the driver (D32).
    guard.state_mut().binding = Binding::Set(Link { driver: driver.clone(), place });
    dev.show(ShownDriver::Set(driver.name.clone()));

    // From here on a failure, or a callback that unwinds, leaves the device as it was: E3.
    let mut undo = scopeguard::guard(&mut *guard, |guard| detach(guard));
    let right = configure_dma(driver, dev).map_err(ProbeFailure::Dma)?;
    let state = undo.state_mut();
    state.binding = match core::mem::replace(&mut state.binding, Binding::Unbound) {
        Binding::Set(link) => Binding::Probing(Attached { link, right }),
        other => other,
    };

    // E2 comes before E3.
    let mut undo = scopeguard::guard(undo, |guard| {
        dev.show(ShownDriver::Set(driver.name.clone()));
        dev.notify(&BusEvent::NotBound(&guard));
    });
    dev.notify(&BusEvent::Binding(&undo));
    dev.show(ShownDriver::Linked(driver.name.clone()));
    if let Some(Err(error)) = undo.with_driver(AnyDriver::probe) {
        return Err(ProbeFailure::Callback(error));
    }
    complete(ScopeGuard::into_inner(ScopeGuard::into_inner(undo)));
    Ok(())
}

fn gate<B: Bus>(guard: &DeviceGuard<'_, B>) -> Result<(), FailureOf<B>> {
    match guard.state().life {
        Life::Dying | Life::Gone => return Err(ProbeFailure::DeviceGone),
        Life::Arriving if guard.link().is_none() => return Err(ProbeFailure::NotReady),
        Life::Arriving | Life::Ready => {}
    }
    if let Some(link) = guard.link() {
        return Err(ProbeFailure::HasDriver { driver: link.driver.name.clone() });
    }
    if guard.device().bus().core.deferral.is_held() {
        return Err(ProbeFailure::ProbesHeld);
    }
    Ok(())
}

/// Configures DMA, and gets the driver its right to it.
// P6: Dt13.1, D63.
fn configure_dma<B: Bus>(driver: &Registration<B>, dev: &Device<B>) -> Result<AnyRight<B>, DmaErrorOf<B>> {
    let (dma, device) = (dev.bus().bus.dma(), dev.dma_device());
    dma.dma_configure(device)?;
    if driver.driver_managed_dma {
        return Ok(DmaRight::DriverManaged(DriverManaged));
    }
    dma.use_default_domain(device, &driver.name).map(DmaRight::DmaApi)
}

// P14.
fn complete<B: Bus>(guard: &mut DeviceGuard<'_, B>) {
    let dev = guard.device();
    let state = guard.state_mut();
    state.binding = match core::mem::replace(&mut state.binding, Binding::Unbound) {
        Binding::Probing(attached) => Binding::Bound(attached),
        other => other,
    };
    dev.bus().core.deferral.bound(dev.id(), dev.name());
    dev.notify(&BusEvent::Bound(guard));
}

/// The right to DMA ends, the resources go, then the driver. Each step is taken even if the one before unwinds.
// E2 and E3, R8 to R11; D33, D41.
pub(crate) fn detach<B: Bus>(guard: &mut DeviceGuard<'_, B>) {
    let state = guard.state_mut();
    let binding = core::mem::replace(&mut state.binding, Binding::Unbound);
    let (right, link) = match binding {
        Binding::Unbound => return,
        Binding::Set(link) => (None, link),
        Binding::Probing(attached) | Binding::Bound(attached) | Binding::Leaving(attached, _) => {
            (Some(attached.right), attached.link)
        }
    };
    state.binding = Binding::Set(link);
    let unset = scopeguard::guard(guard, |guard| {
        guard.device().show(ShownDriver::None);
        if let Binding::Set(link) = core::mem::replace(&mut guard.state_mut().binding, Binding::Unbound) {
            link.driver.strike(link.place);
        }
    });
    let _release = scopeguard::guard(unset, |mut guard| guard.state_mut().resources.release());
    drop(right);
}

/// Repeats a deferred probe, unless somebody holds the device's lock, who makes it due again then.
pub(crate) fn repeat<B: Bus>(dev: &Arc<Device<B>>) {
    let deferral = &dev.bus().core.deferral;
    let postpone = || deferral.postpone(dev.id());
    if let Some(mut guard) = dev.lock_or_leave(Left::Probe, postpone) {
        deferral.resume(dev.id());
        search_initially(&mut guard);
    }
}

impl<B: Bus> BusShared<B> {
    /// Binds `driver` to `dev` if it matches; waits for the device lock.
    // D30, D48.
    pub(crate) fn bind(&self, driver: &Arc<Registration<B>>, dev: &Arc<Device<B>>) -> Result<(), Option<FailureOf<B>>> {
        self.check_match(driver, dev)?;
        self.bind_locked(driver, dev.lock()).map_err(Some)
    }

    /// Binds as [`bind`](Self::bind) does, but waits for no users: these are the outer error.
    pub(crate) fn try_bind(
        &self,
        driver: &Arc<Registration<B>>,
        dev: &Arc<Device<B>>,
    ) -> Result<Result<(), Option<FailureOf<B>>>, Arc<Users>> {
        if let Err(no_match) = self.check_match(driver, dev) {
            return Ok(Err(no_match));
        }
        Ok(self.bind_locked(driver, settle(dev)?).map_err(Some))
    }

    fn check_match(&self, driver: &Registration<B>, dev: &Device<B>) -> Result<(), Option<FailureOf<B>>> {
        // A match that cannot tell counts as one (Dt9.3).
        if self.bus.matches(dev, &driver.driver) == Match::No { Err(None) } else { Ok(()) }
    }

    fn bind_locked(&self, driver: &Arc<Registration<B>>, mut guard: DeviceGuard<'_, B>) -> Result<(), FailureOf<B>> {
        let dev = guard.device();
        let result = probe(driver, &mut guard);
        drop(guard);
        self.core.deferral.settle(&**dev);
        result
    }
}
