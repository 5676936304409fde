//! A client's own code is called, and waited for, with no lock held: from a trigger it may ask for what it likes.

use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;

use vfio_owner::device_ops::{IrqAction, IrqIndex, IrqSource, Trigger};

use crate::room::{BEHIND_PORT, NIC, Room};

/// The trigger asks the neighbour, and both groups, once its own device is being closed.
#[test]
fn a_trigger_asks_a_neighbour_while_its_device_is_closed() {
    let room = Arc::new(Room::with(&BEHIND_PORT));
    let context = room.machine.open_iommufd("vmm");
    let [a, b] = BEHIND_PORT.map(|name| room.machine.open_device(name).unwrap().bind_iommufd(&context).unwrap());
    let (inside, began) = channel();
    let go_on = Arc::new(Barrier::new(2));
    let goes_on = go_on.clone();
    let asking = Arc::downgrade(&room);
    let trigger = Trigger::new(move || {
        inside.send(()).unwrap();
        goes_on.wait();
        assert_eq!(b.hot_reset_info().unwrap().functions.len(), 2);
        assert!(asking.upgrade().unwrap().machine.open_group(BEHIND_PORT[0]).is_err(), "a device file is in use");
    });
    a.set_irqs(IrqIndex::MSIX, 0, IrqAction::Trigger, IrqSource::Eventfd(&[trigger.into()])).unwrap();
    let device = room.machine.vfio_pci().device(BEHIND_PORT[0]).unwrap();
    let raising = thread::spawn(move || device.raise(IrqIndex::MSIX, 0));
    began.recv().unwrap();
    let closing = thread::spawn(move || drop(a));
    // The close waits for the trigger from here on.
    while room.machine.vfio_pci().device(BEHIND_PORT[0]).unwrap().is_open() {
        thread::yield_now();
    }
    go_on.wait();
    raising.join().unwrap();
    closing.join().unwrap();
}

/// The device is asked for by its driver's unbinding, which holds the device lock until it waits.
#[test]
fn a_request_trigger_may_take_the_device_lock() {
    let room = Arc::new(Room::with(&[NIC]));
    let file = room.machine.open_device(NIC).unwrap();
    let bound = file.bind_iommufd(&room.machine.open_iommufd("vmm")).unwrap();
    let asking = Arc::downgrade(&room);
    let (told, asked) = channel();
    let trigger = Trigger::new(move || {
        let room = asking.upgrade().unwrap();
        // Takes the device lock, and finds that the driver is leaving already.
        let mut again = room.machine.remove(NIC).unwrap();
        assert!(!crate::room::is_done(&mut again));
        told.send(()).unwrap();
    });
    bound.set_irqs(IrqIndex::REQ, 0, IrqAction::Trigger, IrqSource::Eventfd(&[trigger.into()])).unwrap();
    let mut unbind = room.unbind_blocked(NIC);
    asked.try_recv().unwrap();
    drop((file, bound));
    assert!(crate::room::is_done(&mut unbind));
}
