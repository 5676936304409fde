//! `dev->driver` as a kernel in C has it: a word that anybody can read, with or without the device lock.
//!
//! The driver core of `device-model` has no such thing: a driver is read through the guard of the device lock. So the
//! designs that read it without the lock bring the word along.

use device_model::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use device_model::sync::weak;

use crate::design::{A, B, Kind};
use crate::machine;
use crate::questions::DEVICES;
use crate::stage;

/// How often the word is read for one answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetch {
    /// Once (`READ_ONCE`).
    Once,
    /// Once to see whether there is a driver, and again to follow it, as a compiler may make of a plain read.
    Twice,
}

/// The driver of each device, and which drivers are still in memory.
pub(crate) struct Pointers {
    fetch: Fetch,
    /// Of each device: a place in [`Kind::ALL`], plus one. Stored and read without any order (`WRITE_ONCE`).
    drivers: [AtomicUsize; DEVICES.len()],
    freed: [AtomicBool; Kind::ALL.len()],
}

impl Pointers {
    pub(crate) fn new(fetch: Fetch) -> Self {
        Self { fetch, drivers: DEVICES.map(|_| AtomicUsize::new(0)), freed: Kind::ALL.map(|_| AtomicBool::new(false)) }
    }

    fn driver(&self, device: &str) -> &AtomicUsize {
        let [a, b, c] = &self.drivers;
        match device {
            A => a,
            B => b,
            _ => c,
        }
    }

    fn number(driver: Kind) -> usize {
        Kind::ALL.iter().position(|kind| *kind == driver).unwrap_or(0) + 1
    }

    pub(crate) fn set(&self, device: &str, driver: Kind) {
        self.driver(device).store(Self::number(driver), Ordering::Relaxed);
    }

    pub(crate) fn clear(&self, device: &str) {
        self.driver(device).store(0, Ordering::Relaxed);
        machine::clears_driver(device);
    }

    /// Reads the word once.
    pub(crate) fn read(&self, device: &str) -> Option<Kind> {
        let number = self.driver(device).load(Ordering::Relaxed);
        number.checked_sub(1).and_then(|place| Kind::ALL.get(place).copied())
    }

    /// Reads the driver of a device and, from the driver's memory, whether it manages its own DMA.
    pub(crate) fn follow(&self, device: &str) -> Option<Kind> {
        let read = self.read(device);
        let old = if weak::was_old() { " (an old value)" } else { "" };
        let Some(mut driver) = read else {
            stage::step(format!("looks at {device}: no driver{old}"));
            return None;
        };
        stage::step(format!("looks at {device}: its driver is {}{old}", driver.name()));
        if self.fetch == Fetch::Twice {
            let Some(again) = self.read(device) else {
                stage::broken(format!("reads {device}.driver again, and follows a null pointer"));
                return None;
            };
            driver = again;
        }
        let freed = self.freed.iter().zip(Kind::ALL).find(|(_, kind)| *kind == driver);
        if freed.is_some_and(|(freed, _)| freed.load(Ordering::SeqCst)) {
            stage::broken(format!("reads whether {} manages its own DMA from memory that is freed", driver.name()));
        }
        stage::step(format!(
            "reads in {}: {}",
            driver.name(),
            if driver.manages_dma() { "manages its own DMA" } else { "uses the DMA API" }
        ));
        Some(driver)
    }

    /// The memory of this driver is freed.
    pub(crate) fn free(&self, driver: Kind) {
        if let Some((freed, _)) = self.freed.iter().zip(Kind::ALL).find(|(_, kind)| *kind == driver) {
            freed.store(true, Ordering::SeqCst);
        }
        stage::step(format!("{} is unregistered and its memory freed", driver.name()));
    }
}
