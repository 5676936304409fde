//! What an open device does is what its driver does.

use vfio_owner::device_ops::{IrqIndex, RegionIndex};

use crate::room::{NIC, Room};

#[test]
fn regions_and_interrupts_are_those_of_the_driver() {
    let room = Room::with(&[NIC]);
    let (group, _container) = room.ready(NIC);
    let device = group.device(NIC).unwrap();
    let info = device.info();
    assert!(
        (0..info.regions).any(|index| device.region(RegionIndex::new(index)).is_some_and(|region| region.size > 0))
    );
    assert!((0..info.irqs).any(|index| device.irq(IrqIndex::new(index)).is_some_and(|irq| irq.count > 0)));
    assert_eq!(device.region(RegionIndex::new(info.regions)), None);
    let mut ids = [0; 4];
    assert_eq!(device.read(RegionIndex::CONFIG, 0, &mut ids), Ok(4));
    assert_ne!(ids, [0; 4], "vendor and device");
    // The interrupt line is a byte that anybody may write.
    let line = |device: &vfio_owner::OpenDevice| {
        let mut line = [0; 2];
        assert_eq!(device.read(RegionIndex::CONFIG, 0x3c, &mut line), Ok(2));
        line[0]
    };
    assert_eq!(device.write(RegionIndex::CONFIG, 0x3c, &[0x5a]), Ok(1));
    assert_eq!(line(&device), 0x5a);
}
