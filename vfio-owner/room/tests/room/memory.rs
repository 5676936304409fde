//! Memory of callers, as devices reach it.

use std::path::Path;

use vfio_room::vfio_owner::iommu_core::Iova;

use crate::calls::{Mapping, call, call_file, ioctl};
use crate::opened::{DEVICE_GET_INFO, GET_STATUS, Opened, map_dma, unmap_dma};
use crate::rig::{CARD, group_file, open, room};

const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;
const IOVA: u64 = 0x10_0000;

#[test]
fn a_device_reads_and_writes_the_callers_memory() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let opened = Opened::through_group(&group, CARD);
        let memory = Mapping::anonymous(0x4000, BOTH);
        map_dma(&opened.container, memory.addr(), IOVA, 0x4000).unwrap();
        memory.write(0x1fff, 5);
        let device = machine.dma(CARD).unwrap();
        let mut bytes = [0; 2];
        device.read(Iova::new(IOVA + 0x1fff), &mut bytes).unwrap();
        assert_eq!(bytes, [5, 0]);
        device.write(Iova::new(IOVA + 0x2fff), &[8, 9]).unwrap();
        assert_eq!((memory.read(0x2fff), memory.read(0x3000)), (8, 9));
        assert!(device.write(Iova::new(IOVA + 0x4000), &[1]).is_err());
        assert_eq!(machine.memory().frames(), 0);
    })
    .unwrap();
}

#[test]
fn bad_pointers_and_bad_ranges_are_efault() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let opened = Opened::through_group(&group, CARD);
        assert_eq!(ioctl(&opened.group, GET_STATUS, 0), Err(libc::EFAULT));
        let read_only = Mapping::anonymous(0x2000, libc::PROT_READ);
        // The answer goes where the question was.
        assert_eq!(ioctl(&opened.group, GET_STATUS, read_only.addr()), Err(libc::EINVAL));
        assert_eq!(map_dma(&opened.container, read_only.addr(), IOVA, 0x1000), Err(libc::EFAULT));
        let memory = Mapping::anonymous(0x3000, BOTH);
        memory.protect(0x2000, 0x1000, libc::PROT_NONE);
        assert_eq!(map_dma(&opened.container, memory.addr(), IOVA, 0x3000), Err(libc::EFAULT));
        assert_eq!(map_dma(&opened.container, memory.addr() + 0x2000, IOVA, 0x1000), Err(libc::EFAULT));
        assert_eq!(map_dma(&opened.container, memory.addr(), IOVA, 0x2000), Ok(0));
    })
    .unwrap();
}

/// The handler of such a page may wait for the room, which must not wait for it.
#[test]
fn a_page_that_a_task_must_supply_is_waited_for_by_nobody() {
    const USER_MODE_ONLY: usize = 1;
    const API: u32 = 0xc018_aa3f;
    const REGISTER: u32 = 0xc020_aa00;
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        assert_eq!(call(libc::SYS_userfaultfd, &[0]), Err(libc::EPERM));
        assert!(!Path::new("/dev/userfaultfd").exists());
        let faults = call_file(libc::SYS_userfaultfd, &[USER_MODE_ONLY]).unwrap();
        let page = Mapping::anonymous(4096, BOTH);
        let (mut api, mut register) = ([0xaa_u64, 0, 0], [page.addr() as u64, 4096, 1, 0]);
        ioctl(&faults, API, (&raw mut api).addr()).unwrap();
        ioctl(&faults, REGISTER, (&raw mut register).addr()).unwrap();
        assert_eq!(ioctl(&open(&group).unwrap(), GET_STATUS, page.addr()), Err(libc::EFAULT));
    })
    .unwrap();
}

#[test]
fn a_region_of_a_device_is_mapped_for_dma_and_the_device_stays_open() {
    let (room, machine) = room();
    let group = group_file(&machine, CARD);
    room.enter(|| {
        let opened = Opened::through_group(&group, CARD);
        let bar = Mapping::of(&opened.device, 0x1000, 0).unwrap();
        map_dma(&opened.container, bar.addr(), IOVA, 0x1000).unwrap();
        bar.write(0x10, 7);
        let mut byte = [0];
        machine.dma(CARD).unwrap().read(Iova::new(IOVA + 0x10), &mut byte).unwrap();
        assert_eq!(byte, [7]);
        unmap_dma(&opened.container, IOVA, 0x1000).unwrap();
        // Not as if the caller had nothing to do with it.
        assert_eq!(ioctl(&opened.device, DEVICE_GET_INFO, 0), Err(libc::EFAULT));
    })
    .unwrap();
}
