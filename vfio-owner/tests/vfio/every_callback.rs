//! A client that calls back into the API from every callback that it gets. Nothing deadlocks; with `--cfg lock_order` every
//! lock that is taken on the way is checked against the order.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, Weak};

use vfio_owner::OpenDevice;
use vfio_owner::assignment::{DeviceAssignment, GroupAssignment, IommufdAssignment};
use vfio_owner::backend::MapRequest;
use vfio_owner::device_ops::{Eventfd, IrqAction, IrqIndex, IrqSource, RegionIndex, Trigger};
use vfio_owner::iommu_core::device_model::sync::SpinMutex;
use vfio_owner::iommu_core::hardware::Fault;
use vfio_owner::iommu_core::software::{LockedPages, Process};
use vfio_owner::iommu_core::sysfs::Snapshot;
use vfio_owner::iommu_core::user_memory::{Account, BadAddress, Limit, OverLimit, PinnedRun};
use vfio_owner::iommu_core::{Access, Iova, Observer, Transition, UserAddr, UserMemory};
use vfio_owner::testbed::Machine;
use vfio_owner::vfio_pci::FunctionModel;

use crate::room::is_done;

const LAYOUT: &str = "
    driver e1000
    0a:00.0 nic vfio-pci 0 bar0=4K msix=1@1 bar1=4K flr
    0a:00.1 nic vfio-pci 0 bar0=4K flr
    0b:00.0 nic vfio-pci 1 bar0=4K";
const DEVICES: [&str; 3] = ["0000:0a:00.0", "0000:0a:00.1", "0000:0b:00.0"];

std::thread_local! {
    /// A callback within what a callback asks for asks no more.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// What a callback may do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// No lock is held: anything.
    Nothing,
    /// A device lock may be held, or an unbind waits for the caller: whatever needs no device lock.
    DeviceLock,
    /// The device is being opened or closed: whatever does not wait until that is done.
    Opening(&'static str),
    /// A lock of a VFIO group, a container or an address space may be held: only questions about IOMMU groups.
    ConsumersLock,
}

#[derive(Debug, Default)]
struct Client {
    machine: OnceLock<Weak<Machine>>,
    called: SpinMutex<BTreeSet<&'static str>>,
}

impl Client {
    fn ask(&self, callback: &'static str, held: Held) {
        if ASKING.replace(true) {
            return;
        }
        self.called.lock().insert(callback);
        if let Some(machine) = self.machine.get().and_then(Weak::upgrade) {
            for device in DEVICES {
                ask(&machine, device, held);
            }
        }
        ASKING.set(false);
    }
}

/// Everything that one can ask for, whether it is granted or not.
fn ask(machine: &Machine, device: &'static str, held: Held) {
    if let Ok(group) = machine.group(device) {
        let _ = (group.ownership(), group.attached(), group.members(), group.check_claim());
    }
    if held == Held::ConsumersLock {
        return;
    }
    let _ = (machine.iommu().groups(), machine.vfio().group_nodes(), machine.vfio().device_nodes());
    if held == Held::Opening(device) {
        return;
    }
    let context = machine.open_iommufd("asked for");
    for assignment in [
        Box::new(GroupAssignment::new(machine.vfio())) as Box<dyn DeviceAssignment>,
        Box::new(IommufdAssignment::new(machine.vfio(), context.clone()).unwrap()),
    ] {
        drop(assignment.assign(device));
    }
    drop(machine.member(device).map(|member| context.bind(&member)));
    drop(machine.open_device(device));
    drop(machine.open_group(device));
    let _ = machine.slot(device).unwrap().raise(IrqIndex::MSIX, 0);
    if held != Held::Nothing {
        return;
    }
    // What takes the device lock.
    let _ = machine.bind(device, "e1000");
    if let Ok(mut unbind) = machine.unbind(device)
        && machine.driver(device).as_deref() == Some("e1000")
    {
        let _ = unbind.try_finish();
    }
    let _ = machine.probe(device);
}

struct Watching(Arc<Client>);

impl Observer for Watching {
    fn transition(&self, _transition: &Transition<'_>) {
        self.0.ask("transition", Held::ConsumersLock);
    }

    fn fault(&self, _fault: &Fault) {
        // May be called from an interrupt handler: it must not even ask.
        self.0.called.lock().insert("fault");
    }
}

struct Model {
    client: Arc<Client>,
    device: &'static str,
}

impl FunctionModel for Model {
    fn read(&self, _region: RegionIndex, _offset: u64, _into: &mut [u8]) {
        self.client.ask("model read", Held::Nothing);
    }

    fn write(&self, _region: RegionIndex, _offset: u64, _from: &[u8]) {
        self.client.ask("model write", Held::Nothing);
    }

    fn reset(&self) {
        self.client.ask("model reset", Held::Opening(self.device));
    }
}

#[derive(Debug)]
struct Memory {
    client: Arc<Client>,
    process: Arc<Process>,
}

impl UserMemory for Memory {
    fn pin(&self, at: UserAddr, bytes: u64, access: Access) -> Result<PinnedRun, BadAddress> {
        self.client.ask("pin", Held::ConsumersLock);
        self.process.pin(at, bytes, access)
    }

    fn unpin(&self, run: PinnedRun) {
        self.client.ask("unpin", Held::ConsumersLock);
        self.process.unpin(run);
    }

    fn read(&self, at: UserAddr, into: &mut [u8]) -> Result<(), BadAddress> {
        self.process.read(at, into)
    }

    fn write(&self, at: UserAddr, from: &[u8]) -> Result<(), BadAddress> {
        self.process.write(at, from)
    }

    fn limit(&self) -> Limit {
        self.client.ask("limit", Held::ConsumersLock);
        self.process.limit()
    }

    fn charge(&self, account: Account, limit: Limit, pages: u64) -> Result<(), OverLimit> {
        self.client.ask("charge", Held::ConsumersLock);
        self.process.charge(account, limit, pages)
    }

    fn uncharge(&self, account: Account, pages: u64) {
        self.client.ask("uncharge", Held::ConsumersLock);
        self.process.uncharge(account, pages);
    }
}

fn machine() -> (Arc<Client>, Arc<Machine>) {
    let client = Arc::new(Client::default());
    let [observer, model] = [(); 2].map(|()| client.clone());
    let mut builder = Machine::builder(Snapshot::from_layout(LAYOUT).unwrap()).as_found().observer(Watching(observer));
    for device in DEVICES {
        let client = model.clone();
        builder = builder.model(device, move |_| Model { client, device });
    }
    let machine = Arc::new(builder.build().unwrap());
    client.machine.set(Arc::downgrade(&machine)).unwrap();
    (client, machine)
}

/// Uses a device in every way that calls the client back.
fn use_device(client: &Arc<Client>, machine: &Machine, device: &OpenDevice) {
    let name = device.name().clone();
    let trigger = |callback, held| {
        let client = client.clone();
        Trigger::new(move || client.ask(callback, held))
    };
    device.read(RegionIndex::BAR0, 0, &mut [0; 4]).unwrap();
    device.write(RegionIndex::BAR0, 0, &[0; 4]).unwrap();
    if device.irq(IrqIndex::MSIX).is_some_and(|irq| irq.count > 0) {
        let raised = Eventfd::Set(trigger("interrupt", Held::Nothing));
        device.set_irqs(IrqIndex::MSIX, 0, IrqAction::Trigger, IrqSource::Eventfd(&[raised])).unwrap();
        machine.slot(&name).unwrap().raise(IrqIndex::MSIX, 0);
        device.set_irqs(IrqIndex::MSIX, 0, IrqAction::Trigger, IrqSource::None { count: 1 }).unwrap();
    }
    let requested = Eventfd::Set(trigger("request", Held::DeviceLock));
    device.set_irqs(IrqIndex::REQ, 0, IrqAction::Trigger, IrqSource::Eventfd(&[requested])).unwrap();
    let _ = device.reset();
    let _ = device.hot_reset(&[]);
    machine.dma(&name).unwrap().read(Iova::new(1 << 30), &mut [0]).unwrap_err();
}

#[test]
fn a_client_calls_back_from_every_callback() {
    let (client, machine) = machine();
    let assignments: [Box<dyn DeviceAssignment>; 2] = [
        Box::new(GroupAssignment::new(machine.vfio())),
        Box::new(IommufdAssignment::new(machine.vfio(), machine.open_iommufd("vmm")).unwrap()),
    ];
    for assignment in assignments {
        let process = machine.process(LockedPages::limited(1 << 20));
        let addr = process.allocate(0x4000, Access::ReadWrite).unwrap();
        let memory = Arc::new(Memory { client: client.clone(), process });
        let request =
            MapRequest { iova: Iova::new(0), bytes: 0x4000, process: memory, addr, access: Access::ReadWrite };
        assignment.map(request.clone()).unwrap();
        for device in DEVICES {
            let assigned = assignment.assign(device).unwrap();
            use_device(&client, &machine, &assigned);
            let mut unbind = machine.unbind(device).unwrap();
            assert!(!is_done(&mut unbind), "it is open");
            drop(assigned);
            assert!(is_done(&mut unbind));
            let mut removal = machine.remove(device).unwrap();
            assert!(is_done(&mut removal));
            machine.rescan();
            machine.bind(device, "vfio-pci").unwrap();
        }
        assert_eq!(assignment.unmap(Iova::new(0), 0x4000).unwrap(), 0x4000);
    }
    // An access that pins, and is asked to let go.
    let context = machine.open_iommufd("vmm");
    let ioas = context.ioas_alloc().unwrap();
    let notified = client.clone();
    let access = context.access(move |_| notified.ask("unmap notice", Held::Nothing)).unwrap();
    access.attach(ioas).unwrap();
    drop(access);
    let called = client.called.lock();
    let callbacks = [
        "charge",
        "fault",
        "interrupt",
        "limit",
        "model read",
        "model reset",
        "model write",
        "pin",
        "request",
        "transition",
        "uncharge",
        "unmap notice",
        "unpin",
    ];
    assert_eq!(called.iter().copied().collect::<Vec<_>>(), callbacks);
}
