//! The binding sequence, in the order of table Dt5.

use alloc::sync::Arc;

use crate::bus::{BusShared, Match};
use crate::by_hand::AttachError;
use crate::deferred::InFlight;
use crate::device::{Attached, Binding, Device, DeviceGuard, Life, ShownDriver};
use crate::driver::{Awaits, ProbeError};
use crate::errno::Errno;
use crate::notifier::BusEvent;
use crate::registry::DriverEntry;

/// Why a driver that matches was not bound.
///
/// [`Callback`](Self::Callback) lets the next driver try, and so does [`DriverGone`](Self::DriverGone), as if the driver
/// had left the list already. The others are the core's own refusals: they end the search for a driver (D23, D25).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeFailure {
    /// The device is being removed (Dt3.1).
    #[error("the device is being removed")]
    DeviceGone,
    /// The device has a driver, perhaps this one (Dt3.2).
    #[error("the device is bound to {driver}")]
    HasDriver {
        /// Its name.
        driver: Arc<str>,
    },
    /// The device is not ready for drivers (Dt3.3).
    #[error("the device is not ready for drivers yet")]
    NotReady,
    /// The driver is being unregistered.
    #[error("the driver is being unregistered")]
    DriverGone,
    /// All probes are held (P1).
    #[error("probes are held")]
    ProbesHeld,
    /// Something was given to an unbound device to manage (P3).
    #[error("the device holds resources of an earlier driver")]
    StaleResources,
    /// The bus did not allow DMA (P6): a user-space owner has the device's group, for one.
    #[error("DMA is not allowed")]
    Dma(#[source] ProbeError),
    /// The driver's probe failed (P9).
    #[error("the probe failed")]
    Callback(#[source] ProbeError),
}

impl ProbeFailure {
    /// The number that binding by hand gives (Dt9): a deferral is `EAGAIN`.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::DeviceGone | Self::DriverGone => Errno::ENODEV,
            Self::HasDriver { .. } | Self::StaleResources => Errno::EBUSY,
            Self::NotReady
            | Self::ProbesHeld
            | Self::Dma(ProbeError::Deferred(_))
            | Self::Callback(ProbeError::Deferred(_)) => Errno::EAGAIN,
            Self::Dma(error) | Self::Callback(error) => error.errno(),
        }
    }

    /// What it waits for, if it is a deferral that is repeated. A device that is not ready gets its turn when it is (D7).
    pub const fn awaits(&self) -> Option<&Awaits> {
        match self {
            Self::ProbesHeld => Some(&Awaits::Anything),
            Self::Dma(ProbeError::Deferred(awaits)) | Self::Callback(ProbeError::Deferred(awaits)) => Some(awaits),
            _ => None,
        }
    }
}

/// What became of a search for a driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Search {
    Bound,
    NothingFits,
}

/// The search after a device came, and its repeats: failures stay with the device (D8).
pub(crate) fn probe_initially(bus: &Arc<BusShared>, dev: &Arc<Device>) {
    if bus.autoprobes() {
        let _ = attach_device(bus, dev);
    }
}

/// Tries the drivers of the bus on one device, in registration order, until one binds (D25, table Dt4).
pub(crate) fn attach_device(bus: &Arc<BusShared>, dev: &Arc<Device>) -> Result<Search, AttachError> {
    let flight;
    let mut guard = dev.lock();
    flight = InFlight::begin(&bus.core);
    if matches!(guard.life(), Life::Dying | Life::Gone) {
        return Ok(Search::NothingFits);
    }
    if guard.is_bound() {
        return Ok(Search::Bound);
    }
    for entry in bus.drivers().iter() {
        match bus.bus.matches(dev, &**entry.driver()) {
            Match::No => {}
            Match::Deferred(awaits) => {
                flight.defer(dev, &awaits);
                return Err(AttachError::MatchDeferred(awaits));
            }
            Match::Failed(errno) => return Err(AttachError::MatchFailed(errno)),
            Match::Yes => match probe_or_defer(bus, entry, &mut guard, &flight) {
                Ok(()) => return Ok(Search::Bound),
                Err(ProbeFailure::Callback(_) | ProbeFailure::DriverGone) => {}
                Err(failure) => return Err(AttachError::Refused(failure)),
            },
        }
    }
    Ok(Search::NothingFits)
}

/// Tries one driver on one device; whatever comes of it is swallowed (D28).
pub(crate) fn try_driver(bus: &Arc<BusShared>, entry: &Arc<DriverEntry>, dev: &Arc<Device>) {
    let flight = InFlight::begin(&bus.core);
    match bus.bus.matches(dev, &**entry.driver()) {
        Match::No | Match::Failed(_) => {}
        Match::Deferred(awaits) => {
            // A device that is going, or has a driver, waits for nothing.
            let guard = dev.raw_lock();
            if matches!(guard.life(), Life::Arriving | Life::Ready) && guard.attached().is_none() {
                flight.defer(dev, &awaits);
            }
        }
        Match::Yes => {
            drop(flight);
            let flight;
            let mut guard = dev.lock();
            flight = InFlight::begin(&bus.core);
            let _ = probe_or_defer(bus, entry, &mut guard, &flight);
        }
    }
}

/// D24: a deferral puts the device on a list.
fn probe_or_defer(
    bus: &Arc<BusShared>,
    entry: &Arc<DriverEntry>,
    guard: &mut DeviceGuard<'_>,
    flight: &InFlight<'_>,
) -> Result<(), ProbeFailure> {
    let result = probe(bus, entry, guard, flight);
    if let Err(failure) = &result
        && let Some(awaits) = failure.awaits()
    {
        flight.defer(guard.device(), awaits);
    }
    result
}

/// The gate (Dt3) and the sequence (Dt5).
pub(crate) fn probe(
    bus: &Arc<BusShared>,
    entry: &Arc<DriverEntry>,
    guard: &mut DeviceGuard<'_>,
    flight: &InFlight<'_>,
) -> Result<(), ProbeFailure> {
    gate(bus, guard)?;
    let place = entry.enlist(guard.device()).ok_or(ProbeFailure::DriverGone)?;
    let name = entry.driver().name().clone();
    // P4 comes before P6: the bus reads the driver to know whether it manages its own DMA (D32).
    guard.state().binding = Binding::Probing(Attached { entry: entry.clone(), place, dma: None });
    guard.device().show(ShownDriver::Set(name.clone()));
    match bus.bus.dma_configure(guard) {
        Ok(dma) => {
            if let Some(attached) = guard.attached_mut() {
                attached.dma = Some(dma);
            }
        }
        Err(error) => {
            detach(guard);
            return Err(ProbeFailure::Dma(error));
        }
    }
    bus.notify(&BusEvent::Binding(guard));
    guard.device().show(ShownDriver::Linked(name.clone()));
    if let Err(error) = entry.driver().clone().probe(guard) {
        guard.device().show(ShownDriver::Set(name));
        bus.notify(&BusEvent::NotBound(guard));
        detach(guard);
        return Err(ProbeFailure::Callback(error));
    }
    complete(bus, guard, flight);
    Ok(())
}

fn gate(bus: &BusShared, guard: &DeviceGuard<'_>) -> Result<(), ProbeFailure> {
    match guard.life() {
        Life::Dying | Life::Gone => return Err(ProbeFailure::DeviceGone),
        Life::Arriving if guard.attached().is_none() => return Err(ProbeFailure::NotReady),
        Life::Arriving | Life::Ready => {}
    }
    if let Some(attached) = guard.attached() {
        return Err(ProbeFailure::HasDriver { driver: attached.entry.driver().name().clone() });
    }
    if bus.core.deferral.is_held() {
        return Err(ProbeFailure::ProbesHeld);
    }
    if guard.has_resources() {
        return Err(ProbeFailure::StaleResources);
    }
    Ok(())
}

/// P14.
fn complete(bus: &Arc<BusShared>, guard: &mut DeviceGuard<'_>, flight: &InFlight<'_>) {
    let binding = core::mem::replace(&mut guard.state().binding, Binding::Unbound);
    guard.state().binding = match binding {
        Binding::Probing(attached) => Binding::Bound(attached),
        other => other,
    };
    flight.bound(guard.device());
    bus.notify(&BusEvent::Bound(guard));
}

/// E2 and E3, R8 to R11: the right to DMA ends, the resources go, then the driver (D33, D41).
pub(crate) fn detach(guard: &mut DeviceGuard<'_>) {
    if let Some(attached) = guard.attached_mut() {
        drop(attached.dma.take());
    }
    guard.release_resources();
    guard.device().show(ShownDriver::None);
    let binding = core::mem::replace(&mut guard.state().binding, Binding::Unbound);
    if let Binding::Probing(attached) | Binding::Bound(attached) | Binding::Leaving { attached, .. } = binding {
        attached.entry.strike(attached.place);
    }
}
