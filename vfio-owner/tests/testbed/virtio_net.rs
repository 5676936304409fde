//! The virtio network device, driven by a small driver through VFIO.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};

use proptest::prelude::*;
use vfio_owner::backend::{Extension, MapRequest};
use vfio_owner::device_ops::{Eventfd, IrqAction, IrqIndex, IrqSource, RegionIndex, Trigger};
use vfio_owner::iommu_core::software::{LockedPages, Process};
use vfio_owner::iommu_core::sysfs::Snapshot;
use vfio_owner::iommu_core::{Access, Iova, UserAddr, UserMemory as _};
use vfio_owner::testbed::Machine;
use vfio_owner::testbed::models::{Station, VirtioNet, Wire};
use vfio_owner::{GroupFile, OpenDevice};

const PORTS: [&str; 2] = ["0000:00:03.0", "0000:00:04.0"];
const LAYOUT: &str = "
    00:03.0 virtio-net vfio-pci 0 bar0=io:64 msix=3@1 bar1=4K intx
    00:04.0 virtio-net vfio-pci 1 bar0=io:64 msix=3@1 bar1=4K intx";

const FEATURES: u64 = 0;
const QUEUE_PAGE: u64 = 8;
const QUEUE_SIZE: u64 = 12;
const QUEUE_SELECT: u64 = 14;
const QUEUE_NOTIFY: u64 = 16;
const STATUS: u64 = 18;
const INTERRUPT_STATUS: u64 = 19;
const CONFIG_VECTOR: u64 = 20;
const QUEUE_VECTOR: u64 = 22;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const DRIVER_OK: u8 = 7;
const NEEDS_RESET: u8 = 64;
const HEADER: usize = 10;

const NEXT: u16 = 1;
const WRITES: u16 = 2;
const INDIRECT: u16 = 4;

/// Where the driver's memory is for the device, and how large: the queues, three pages each, then buffers.
const RAM: u64 = 0x10_0000;
const BYTES: u64 = 0x10_0000;
const BUFFERS: u64 = RAM + 0x8000;
/// What is a buffer's.
const BUFFER: u64 = 0x800;

/// A device that is open through its group, with the memory that it may reach.
struct Port {
    device: OpenDevice,
    _group: GroupFile,
    process: Arc<Process>,
    ram: UserAddr,
}

const fn queue_at(queue: u16) -> u64 {
    RAM + 0x4000 * queue as u64
}

impl Port {
    fn open(machine: &Machine, name: &str) -> Self {
        let process = machine.process(LockedPages::unlimited());
        let ram = process.allocate(BYTES, Access::ReadWrite).unwrap();
        let (group, container) = (machine.open_group(name).unwrap(), machine.vfio().open_container());
        group.set_container(&container).unwrap();
        container.set_iommu(Extension::TYPE1_V2).unwrap();
        let (iova, access) = (Iova::new(RAM), Access::ReadWrite);
        container.map(&MapRequest { iova, bytes: BYTES, process: process.clone(), addr: ram, access }).unwrap();
        let device = group.device(name).unwrap();
        Self { device, _group: group, process, ram }
    }

    fn start(&self) {
        self.out(STATUS, &[0]);
        for queue in [RECEIVE, TRANSMIT] {
            self.out(QUEUE_SELECT, &queue.to_le_bytes());
            self.out(QUEUE_PAGE, &u32::try_from(queue_at(queue) >> 12).unwrap().to_le_bytes());
        }
        self.out(STATUS, &[DRIVER_OK]);
    }

    fn out(&self, register: u64, value: &[u8]) {
        assert_eq!(self.device.write(RegionIndex::BAR0, register, value), Ok(value.len()));
    }

    fn input<const N: usize>(&self, register: u64) -> [u8; N] {
        let mut value = [0; N];
        assert_eq!(self.device.read(RegionIndex::BAR0, register, &mut value), Ok(N));
        value
    }

    fn status(&self) -> u8 {
        let [status] = self.input(STATUS);
        status
    }

    fn poke(&self, at: u64, bytes: &[u8]) {
        self.process.write(self.ram.checked_add(at - RAM).unwrap(), bytes).unwrap();
    }

    fn peek<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.process.read(self.ram.checked_add(at - RAM).unwrap(), &mut bytes).unwrap();
        bytes
    }

    /// Describes a buffer.
    fn describe(&self, queue: u16, index: u16, address: u64, bytes: u32, flags: u16, next: u16) {
        let at = queue_at(queue) + 16 * u64::from(index);
        self.poke(at, &address.to_le_bytes());
        self.poke(at + 8, &bytes.to_le_bytes());
        self.poke(at + 12, &flags.to_le_bytes());
        self.poke(at + 14, &next.to_le_bytes());
    }

    /// Makes chains available, of which the first is the `place`th of all.
    fn offer(&self, queue: u16, place: u16, heads: &[u16]) {
        let available = queue_at(queue) + 0x1000;
        let places = (0..heads.len() as u64).map(|more| (u64::from(place) + more) % 256);
        places.zip(heads).for_each(|(place, head)| self.poke(available + 4 + 2 * place, &head.to_le_bytes()));
        let index = place.wrapping_add(u16::try_from(heads.len()).unwrap());
        self.poke(available + 2, &index.to_le_bytes());
        self.out(QUEUE_NOTIFY, &queue.to_le_bytes());
    }

    /// Sends a frame: the header in one buffer, the frame in another.
    fn send(&self, place: u16, frame: &[u8]) {
        self.poke(BUFFERS, &[0; HEADER]);
        self.poke(BUFFERS + BUFFER, frame);
        self.describe(TRANSMIT, 4, BUFFERS, 10, NEXT, 9);
        self.describe(TRANSMIT, 9, BUFFERS + BUFFER, u32::try_from(frame.len()).unwrap(), 0, 0);
        self.offer(TRANSMIT, place, &[4]);
    }

    /// Has room for so many frames.
    fn post(&self, buffers: u16) {
        for index in 0..buffers {
            let at = BUFFERS + BUFFER * (8 + u64::from(index));
            self.describe(RECEIVE, index, at, 1600, WRITES, 0);
        }
        self.offer(RECEIVE, 0, &(0..buffers).collect::<Vec<_>>());
    }

    /// How many chains the device has given back, and the last: where it began, and how many bytes were written.
    fn used(&self, queue: u16) -> (u16, u32, u32) {
        let used = queue_at(queue) + 0x2000;
        let index = u16::from_le_bytes(self.peek(used + 2));
        let last = used + 4 + 8 * (u64::from(index.wrapping_sub(1)) % 256);
        (index, u32::from_le_bytes(self.peek(last)), u32::from_le_bytes(self.peek(last + 4)))
    }

    /// What the `index`th buffer of those that were posted begins with.
    fn received<const N: usize>(&self, index: u16) -> [u8; N] {
        self.peek(BUFFERS + BUFFER * (8 + u64::from(index)))
    }

    fn listen(&self, index: IrqIndex) -> Vec<Arc<AtomicU32>> {
        let count = if index == IrqIndex::MSIX { 3 } else { 1 };
        let heard: Vec<Arc<AtomicU32>> = (0..count).map(|_| Arc::default()).collect();
        let triggers = heard.iter().map(|heard| {
            let heard = heard.clone();
            Eventfd::Set(Trigger::new(move || _ = heard.fetch_add(1, Ordering::SeqCst)))
        });
        let triggers: Vec<_> = triggers.collect();
        self.device.set_irqs(index, 0, IrqAction::Trigger, IrqSource::Eventfd(&triggers)).unwrap();
        heard
    }
}

/// A machine with both ports on one wire.
struct Joined {
    ports: [Port; 2],
    /// Another who is on the wire, and what there is to hear.
    station: Station,
    heard: Receiver<Vec<u8>>,
    _machine: Machine,
}

impl Joined {
    fn start(&self) {
        self.ports.iter().for_each(Port::start);
    }
}

fn joined() -> Joined {
    let wire = Wire::new();
    let (sender, heard) = mpsc::channel();
    let station = wire.connect(move |frame| sender.send(frame.to_vec()).unwrap_or_default());
    let builder = Machine::builder(Snapshot::from_layout(LAYOUT).unwrap()).as_found();
    let builder = PORTS.iter().fold(builder, |builder, port| {
        let wire = wire.clone();
        builder.model(port, move |slot| VirtioNet::new(slot, &wire))
    });
    let machine = builder.build().unwrap();
    Joined { ports: PORTS.map(|port| Port::open(&machine, port)), station, heard, _machine: machine }
}

fn count(heard: &AtomicU32) -> u32 {
    heard.swap(0, Ordering::SeqCst)
}

#[test]
fn what_one_port_transmits_the_other_receives() {
    let joined = joined();
    let (Joined { heard, .. }, [one, other]) = (&joined, &joined.ports);
    joined.start();
    other.post(2);
    one.send(0, &[7; 60]);
    assert_eq!(one.used(TRANSMIT), (1, 4, 0));
    assert_eq!(other.used(RECEIVE), (1, 0, 70));
    let frame: [u8; 71] = other.received(0);
    assert_eq!((&frame[..HEADER], &frame[HEADER..70], frame[70]), (&[0; HEADER][..], &[7; 60][..], 0));
    assert_eq!(heard.try_recv(), Ok(vec![7; 60]));
    assert_eq!(one.used(RECEIVE).0, 0, "nobody hears what he says");

    one.send(1, &[8; 1518]);
    assert_eq!(other.used(RECEIVE), (2, 1, 1528));
    one.send(2, &[9; 60]);
    assert_eq!((one.used(TRANSMIT).0, other.used(RECEIVE).0), (3, 2), "there is no buffer: it is dropped");
    one.send(3, &[9; 1519]);
    one.send(4, &[9; 13]);
    assert_eq!((one.used(TRANSMIT).0, heard.try_iter().count()), (5, 2), "none of the two is a frame");
    assert_eq!([one, other].map(Port::status), [DRIVER_OK; 2]);
}

#[test]
fn whoever_is_on_the_wire_is_heard_by_all_others() {
    let joined = joined();
    let [one, other] = &joined.ports;
    joined.start();
    one.post(8);
    other.post(8);
    joined.station.send(&[5; 14]);
    assert_eq!([one, other].map(|port| port.used(RECEIVE)), [(1, 0, 24); 2]);
    one.send(0, &[6; 14]);
    assert_eq!([one, other].map(|port| port.used(RECEIVE).0), [1, 2]);
}

#[test]
fn registers_are_as_the_specification_has_them() {
    let joined = joined();
    let [one, _] = &joined.ports;
    assert_eq!(u32::from_le_bytes(one.input(FEATURES)), 1 << 5 | 1 << 16 | 1 << 27);
    assert_eq!(one.input(20), [2, 0, 0, 0, 3, 0, 1, 0], "the MAC address, and a link that is up");
    one.out(20, &[2, 1, 2, 3, 4, 5]);
    one.out(4, &[0xff; 4]);
    assert_eq!((one.input(4), one.input(20)), (one.input::<4>(FEATURES), [2, 1, 2, 3, 4, 5]));
    for (queue, size) in [(RECEIVE, 256), (TRANSMIT, 256), (2, 0), (0xffff, 0)] {
        one.out(QUEUE_SELECT, &queue.to_le_bytes());
        assert_eq!(u16::from_le_bytes(one.input(QUEUE_SIZE)), size);
        one.out(QUEUE_PAGE, &[1, 0, 0, 0]);
        assert_eq!(one.input(QUEUE_PAGE), [u8::from(size > 0), 0, 0, 0]);
    }
    one.out(STATUS, &[DRIVER_OK]);
    one.out(STATUS, &[0]);
    assert_eq!((one.input(4), one.input(QUEUE_PAGE), one.status()), ([0; 4], [0; 4], 0));
    assert_eq!(one.input(32), [0xff; 4], "there is nothing");

    let heard = one.listen(IrqIndex::MSIX);
    assert_eq!(one.input(24), [2, 1, 2, 3, 4, 5], "two registers are before them now");
    one.out(CONFIG_VECTOR, &[2, 0]);
    one.out(QUEUE_VECTOR, &[3, 0]);
    assert_eq!(one.input(CONFIG_VECTOR), [2, 0, 0xff, 0xff], "there are three vectors");
    assert_eq!(heard.len(), 3);
}

#[test]
fn interrupts_are_those_that_are_set_up() {
    let joined = joined();
    let [one, other] = &joined.ports;
    joined.start();
    let line = one.listen(IrqIndex::INTX);
    let vectors = other.listen(IrqIndex::MSIX);
    other.out(CONFIG_VECTOR, &[0, 0]);
    other.out(QUEUE_SELECT, &RECEIVE.to_le_bytes());
    other.out(QUEUE_VECTOR, &[1, 0]);
    other.post(8);
    one.send(0, &[1; 60]);
    assert_eq!(line.iter().map(|heard| count(heard)).collect::<Vec<_>>(), [1]);
    assert_eq!(one.input::<1>(INTERRUPT_STATUS), [1]);
    assert_eq!(one.input::<1>(INTERRUPT_STATUS), [0], "reading clears it");
    assert_eq!(vectors.iter().map(|heard| count(heard)).collect::<Vec<_>>(), [0, 1, 0]);
    assert_eq!(other.input::<1>(INTERRUPT_STATUS), [0], "the line is not used");

    other.poke(queue_at(RECEIVE) + 0x1000, &[1, 0]);
    one.poke(queue_at(TRANSMIT) + 0x1000, &[1, 0]);
    one.send(1, &[1; 60]);
    assert_eq!((other.used(RECEIVE).0, one.input(INTERRUPT_STATUS)), (2, [0]));
    assert_eq!(vectors.iter().map(|heard| count(heard)).sum::<u32>(), 0, "nobody wants to know");
}

#[test]
fn a_broken_queue_stops_the_device_until_it_is_reset() {
    type Break = (&'static str, fn(&Port));
    let breaks: [Break; 8] = [
        ("more chains than descriptors", |port| {
            port.poke(queue_at(TRANSMIT) + 0x1002, &257_u16.to_le_bytes());
            port.out(QUEUE_NOTIFY, &TRANSMIT.to_le_bytes());
        }),
        ("no such descriptor", |port| port.offer(TRANSMIT, 0, &[256])),
        ("the next one is not there", |port| {
            port.describe(TRANSMIT, 0, BUFFERS, 10, NEXT, 256);
            port.offer(TRANSMIT, 0, &[0]);
        }),
        ("a chain without end", |port| {
            port.describe(TRANSMIT, 0, BUFFERS, 0, NEXT, 0);
            port.offer(TRANSMIT, 0, &[0]);
        }),
        ("a table of descriptors, which was not offered", |port| {
            port.describe(TRANSMIT, 0, BUFFERS, 16, INDIRECT, 0);
            port.offer(TRANSMIT, 0, &[0]);
        }),
        ("a buffer that the device is to write", |port| {
            port.describe(TRANSMIT, 0, BUFFERS, 70, WRITES, 0);
            port.offer(TRANSMIT, 0, &[0]);
        }),
        ("a buffer that is not mapped", |port| {
            port.describe(TRANSMIT, 0, RAM + BYTES - 8, 70, 0, 0);
            port.offer(TRANSMIT, 0, &[0]);
        }),
        ("a buffer at the end of all addresses", |port| {
            port.describe(TRANSMIT, 0, u64::MAX, 70, 0, 0);
            port.offer(TRANSMIT, 0, &[0]);
        }),
    ];
    let joined = joined();
    let (Joined { heard, .. }, [one, other]) = (&joined, &joined.ports);
    let vectors = one.listen(IrqIndex::MSIX);
    other.start();
    for (what, breaks) in breaks {
        one.poke(RAM, &vec![0; 0x8000]);
        one.start();
        one.out(CONFIG_VECTOR, &[2, 0]);
        breaks(one);
        assert_eq!(one.status(), DRIVER_OK | NEEDS_RESET, "{what}");
        assert_eq!(vectors.iter().map(|heard| count(heard)).collect::<Vec<_>>(), [0, 0, 1], "{what}");
        one.out(STATUS, &[DRIVER_OK]);
        one.poke(queue_at(TRANSMIT) + 0x1002, &[0, 0]);
        one.send(0, &[3; 60]);
        assert_eq!((one.status(), heard.try_recv().is_ok()), (DRIVER_OK | NEEDS_RESET, false), "{what}");
        one.start();
        one.send(0, &[3; 60]);
        assert_eq!((one.status(), heard.try_recv().is_ok()), (DRIVER_OK, true), "{what}");
    }
}

#[test]
fn rings_go_round() {
    let joined = joined();
    let (Joined { heard, .. }, [one, _]) = (&joined, &joined.ports);
    joined.start();
    for place in 0..600_u16 {
        one.send(place, &[2; 20]);
        assert_eq!(one.used(TRANSMIT), (place + 1, 4, 0));
    }
    assert_eq!(heard.try_iter().count(), 600);
    // All descriptors at once, each a chain.
    (0..256).for_each(|index| one.describe(TRANSMIT, index, BUFFERS, 30, 0, 0));
    one.offer(TRANSMIT, 600, &(0..256).collect::<Vec<_>>());
    assert_eq!((one.used(TRANSMIT), heard.try_iter().count()), ((856, 255, 0), 256));
}

#[derive(Debug, Clone)]
enum Step {
    Out(u64, Vec<u8>),
    In(u64, usize),
    Poke(u64, Vec<u8>),
    Describe(u16, u16, u64, u32, u16, u16),
    Offer(u16, u16, Vec<u16>),
    Start,
    Frame(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(prop_oneof![Just(0), Just(1), any::<u8>()], 1..9);
    let queue = || 0..2_u16;
    let index = || prop_oneof![0..4_u16, any::<u16>()];
    let address = prop_oneof![RAM..RAM + BYTES, Just(u64::MAX), any::<u64>()];
    prop_oneof![
        (0..64_u64, bytes()).prop_map(|(register, value)| Step::Out(register, value)),
        (0..64_u64, 1..9_usize).prop_map(|(register, bytes)| Step::In(register, bytes)),
        (RAM..RAM + 0x8000, bytes()).prop_map(|(at, bytes)| Step::Poke(at, bytes)),
        (queue(), 0..4_u16, address, prop_oneof![0..100_u32, any::<u32>()], 0..8_u16, index()).prop_map(
            |(queue, index, address, bytes, flags, next)| Step::Describe(queue, index, address, bytes, flags, next)
        ),
        (queue(), index(), prop::collection::vec(index(), 0..5))
            .prop_map(|(queue, at, heads)| Step::Offer(queue, at, heads)),
        Just(Step::Start),
        (0..2000_usize).prop_map(Step::Frame),
    ]
}

proptest! {
    /// Whatever a driver does, the device neither panics nor runs on, and a reset brings it back.
    #[test]
    fn no_driver_can_do_harm(steps in prop::collection::vec((0..2_usize, step()), 0..60)) {
        let Joined { ports, station, heard, _machine } = joined();
        for port in &ports {
            port.listen(IrqIndex::MSIX);
        }
        for (which, step) in steps {
            let port = &ports[which];
            match step {
                Step::Out(register, value) => drop(port.device.write(RegionIndex::BAR0, register, &value)),
                Step::In(register, bytes) => drop(port.device.read(RegionIndex::BAR0, register, &mut vec![0; bytes])),
                Step::Poke(at, bytes) => port.poke(at, &bytes),
                Step::Describe(queue, index, at, bytes, flags, next) => port.describe(queue, index, at, bytes, flags, next),
                Step::Offer(queue, place, heads) => port.offer(queue, place, &heads),
                Step::Start => port.start(),
                Step::Frame(bytes) => station.send(&vec![1; bytes]),
            }
            prop_assert!(heard.try_iter().count() <= 256, "one notification is one round of the ring at most");
        }
        for port in &ports {
            port.poke(RAM, &vec![0; 0x8000]);
            port.start();
            port.post(1);
        }
        ports[0].send(0, &[1; 60]);
        prop_assert_eq!((ports[0].status(), ports[1].used(RECEIVE)), (DRIVER_OK, (1, 0, 70)));
    }
}
