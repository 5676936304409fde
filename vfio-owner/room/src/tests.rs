//! The mechanism, on a small fake in a machine's place.

mod calls;
mod fake;
mod paths;

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use crate::Room;
use crate::territory::Bounds;
use fake::Fake;

/// A room with the fake.
fn room() -> (Room, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    (Room::of(fake.clone(), Bounds::default()).unwrap(), fake)
}

/// Stops a test that binds or unbinds, unless it is in a room.
fn in_room() {
    assert!(Path::new(fake::MARK).exists(), "not in a room");
}

#[test]
fn the_result_comes_out() {
    assert_eq!(room().0.enter(|| 7).unwrap(), 7);
}

#[test]
#[should_panic(expected = "inside")]
fn a_panic_comes_out() {
    let _ = room().0.enter(|| panic!("inside"));
}

#[test]
fn only_inside_is_the_fake_seen() {
    let (room, _) = room();
    assert!(!Path::new(fake::MARK).exists());
    assert_eq!(room.enter(|| fs::read_to_string(fake::MARK)).unwrap().unwrap(), "1\n");
}

#[test]
fn a_second_listener_is_refused() {
    let (room, _) = room();
    let second = room.enter(|| room.enter(|| ()));
    assert!(matches!(second, Ok(Err(crate::RoomError::SecondListener))), "{second:?}");
}

#[test]
fn an_ioctl_reaches_the_device() {
    let (room, fake) = room();
    room.enter(|| {
        let file = fs::OpenOptions::new().read(true).write(true).open("/dev/vfio/7").unwrap();
        assert_eq!(calls::ioctl(&file, 0x3b64, 0), Ok(42));
        // Not known to the fake, not an ioctl of VFIO, not a device.
        assert_eq!(calls::ioctl(&file, 0x3b7f, 0), Err(Errno::NOTTY));
        assert_eq!(calls::ioctl(&file, 0x5401, 0), Err(Errno::NOTTY));
        assert_eq!(calls::ioctl(&fs::File::open("/dev/null").unwrap(), 0x3b64, 0), Err(Errno::NOTTY));
        let value = 5_u64;
        assert_eq!(calls::ioctl(&file, 0x3b65, (&raw const value).addr()), Ok(5));
        assert_eq!(calls::ioctl(&file, 0x3b65, 0), Err(Errno::FAULT));
        assert_eq!(fake.open(), 1);
        let device = calls::new_file(&file, 0x3b6a);
        assert_eq!(fake.open(), 2);
        drop(file);
        assert_eq!(calls::ioctl(&device, 0x3b64, 0), Ok(42));
    })
    .unwrap();
    assert!(room.held().is_empty());
    assert_eq!(fake.open(), 0);
}

#[test]
fn an_unbind_waits_for_the_last_close() {
    let (room, fake) = room();
    room.enter(|| {
        in_room();
        let file = fs::OpenOptions::new().read(true).write(true).open("/dev/vfio/7").unwrap();
        let copy = rustix::io::dup(&file).unwrap();
        std::thread::scope(|scope| {
            let unbind = scope.spawn(|| fs::write("/sys/bus/pci/drivers/fake/unbind", "0000:00:1f.7"));
            while fake.waiting() == 0 {
                std::thread::yield_now();
            }
            drop(file);
            assert!(!unbind.is_finished());
            drop(copy);
            unbind.join().unwrap().unwrap();
        });
        assert_eq!(fake.open(), 0);
    })
    .unwrap();
}

#[test]
fn registers_are_read_and_written() {
    let (room, _) = room();
    room.enter(|| {
        let file = fs::OpenOptions::new().read(true).write(true).open("/dev/vfio/7").unwrap();
        let file = file.as_fd();
        let mut value = [0; 4];
        // Region 7 is not memory: each access is seen.
        assert_eq!(rustix::io::pwrite(file, &[1, 2, 3, 4], (7 << 40) + 16), Ok(4));
        assert_eq!(rustix::io::pread(file, &mut value, (7 << 40) + 16), Ok(4));
        assert_eq!(value, [0xfe, 0xfd, 0xfc, 0xfb]);
        // Region 2 is.
        assert_eq!(rustix::io::pwrite(file, &[1, 2, 3, 4], (2 << 40) + 16), Ok(4));
        assert_eq!(rustix::io::pread(file, &mut value, (2 << 40) + 16), Ok(4));
        assert_eq!(value, [1, 2, 3, 4]);
    })
    .unwrap();
}
