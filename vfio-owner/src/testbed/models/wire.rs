//! What network devices are connected to.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu_core::device_model::sync::Mutex;

/// An Ethernet segment: a frame that is sent by one of those who are connected reaches all others. A clone is the same wire.
///
/// ```
/// use std::sync::mpsc;
///
/// use vfio_owner::testbed::models::Wire;
///
/// let wire = Wire::new();
/// let (sender, receiver) = mpsc::channel();
/// let _listener = wire.connect(move |frame| sender.send(frame.to_vec()).unwrap_or_default());
/// wire.connect(|_| {}).send(&[0xff; 60]);
/// assert_eq!(receiver.recv()?, [0xff; 60]);
/// # Ok::<(), mpsc::RecvError>(())
/// ```
#[derive(Clone, Default)]
pub struct Wire(Arc<Mutex<Stations>>);

#[derive(Default)]
struct Stations {
    connected: u64,
    receivers: BTreeMap<u64, Receiver>,
}

type Receiver = Arc<dyn Fn(&[u8]) + Send + Sync>;

impl Wire {
    /// Creates a wire that nobody is connected to.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects a station. `receive` is called with each frame of the others, on the thread of who sends it, with no lock
    /// held.
    pub fn connect(&self, receive: impl Fn(&[u8]) + Send + Sync + 'static) -> Station {
        let mut stations = self.0.lock();
        let number = stations.connected;
        stations.connected += 1;
        stations.receivers.insert(number, Arc::new(receive));
        Station { wire: self.clone(), number }
    }
}

/// A place on a [`Wire`]. Dropping it disconnects it; frames that are under way may still come.
#[must_use = "it is disconnected when it is dropped"]
pub struct Station {
    wire: Wire,
    number: u64,
}

impl Station {
    /// Sends a frame to all others. They have received it when this returns.
    pub fn send(&self, frame: &[u8]) {
        let stations = self.wire.0.lock();
        let others = stations.receivers.iter().filter(|(number, _)| **number != self.number);
        let others: Vec<Receiver> = others.map(|(_, receive)| receive.clone()).collect();
        drop(stations);
        for receive in others {
            receive(frame);
        }
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        let receiver = self.wire.0.lock().receivers.remove(&self.number);
        // With no lock held: it may hold whatever it likes.
        drop(receiver);
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("connected", &self.0.lock().receivers.keys()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Station {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Station").field("number", &self.number).finish_non_exhaustive()
    }
}
