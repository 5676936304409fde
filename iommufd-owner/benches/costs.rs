//! What one more costs: time, allocations and calls of hardware per element at n and 10n, of everything that could grow with
//! how much there is. Prints a table. Linear work shows about the same number in both columns.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what is measured cannot fail")]

use std::sync::Arc;

use cost_table::{Calls, Cost, Row, print};
use iommu_core::address::PAGE_SIZE;
use iommu_core::device_model::DeviceId;
use iommu_core::failing::{FailingIommu, FailingMemory};
use iommu_core::hardware::{
    Capabilities, Endpoint, IommuDriver, PageAnswer, PagePermissions, PagingFlags, UserData, WantedPage,
};
use iommu_core::software::nested::{STAGE_1_FORMAT, Stage1};
use iommu_core::software::{LockedPages, Memory, Process, SimulatedDevice, SoftIommu, SoftIommuConfig};
use iommu_core::{Access, DeviceGroup, IommuSubsystem, Iova, Member, generic_device_group};
use iommufd_owner::{BoundDevice, Context, HwptRequest, MapRequest, ObjectId, Place};

/// Which devices share a group.
#[derive(Clone, Copy)]
enum Groups {
    One,
    Each,
}

struct Scene {
    soft: Arc<SoftIommu>,
    counting: Arc<FailingIommu>,
    memory: Memory,
    members: Vec<Arc<Member>>,
    context: Context,
    _iommu: IommuSubsystem,
}

impl Scene {
    fn new(calls: Calls, devices: u32, groups: Groups) -> Self {
        let more = Capabilities::NESTING | Capabilities::PAGE_REQUESTS;
        let default = SoftIommuConfig::default();
        let soft = SoftIommu::new("soft", SoftIommuConfig { capabilities: default.capabilities | more, ..default });
        let counting = FailingIommu::new(soft.clone());
        let driver: Arc<dyn IommuDriver> = match calls {
            Calls::Ignored => soft.clone(),
            Calls::Counted => counting.clone(),
        };
        let placement = move |_: &Endpoint| match groups {
            Groups::One => Some(DeviceGroup::named(&driver, "group")),
            Groups::Each => Some(generic_device_group(&driver)),
        };
        let (iommu, physical) = IommuSubsystem::builder(placement).build();
        let plug = |number: u32| {
            let endpoint = Endpoint::new(DeviceId::new(number.into()), format!("dev{number}"));
            iommu.add_device(&endpoint).expect("it can be served").expect("it is served")
        };
        let members = (0..devices).map(plug).collect();
        let context = Context::new("vmm", &physical);
        Self { soft, counting, memory: Memory::new(), members, context, _iommu: iommu }
    }

    fn bind_all(&self) -> Vec<BoundDevice> {
        self.members.iter().map(|member| self.context.bind(member).expect("nobody has it")).collect()
    }

    fn ioas(&self) -> ObjectId {
        self.context.ioas_alloc().expect("there are ids")
    }

    fn cost(&self, work: impl FnOnce()) -> Cost {
        Cost::of(|| self.counting.all_calls(), work)
    }
}

fn bind(groups: Groups) -> impl Fn(Calls, u32) -> Cost {
    move |calls, n| {
        let scene = Scene::new(calls, n, groups);
        let mut bound = Vec::new();
        scene.cost(|| bound = scene.bind_all())
    }
}

fn attach(calls: Calls, n: u32) -> Cost {
    let scene = Scene::new(calls, n, Groups::One);
    let (bound, ioas) = (scene.bind_all(), scene.ioas());
    scene.cost(|| bound.iter().for_each(|device| assert!(device.attach(ioas).is_ok())))
}

fn replace(calls: Calls, n: u32) -> Cost {
    let scene = Scene::new(calls, n, Groups::One);
    let (bound, a, b) = (scene.bind_all(), scene.ioas(), scene.ioas());
    for device in &bound {
        device.attach(a).expect("nothing is in the way");
    }
    scene.cost(|| assert!(bound[0].replace(b).is_ok()))
}

fn detach(calls: Calls, n: u32) -> Cost {
    let scene = Scene::new(calls, n, Groups::One);
    let (bound, ioas) = (scene.bind_all(), scene.ioas());
    for device in &bound {
        device.attach(ioas).expect("nothing is in the way");
    }
    scene.cost(|| bound.iter().for_each(BoundDevice::detach))
}

fn hwpts(scene: &Scene, bound: &BoundDevice, ioas: ObjectId, n: u32) -> Vec<ObjectId> {
    (0..n).map(|_| scene.context.hwpt_alloc(bound.id(), ioas).expect("it can be made")).collect()
}

fn hwpt_alloc(calls: Calls, n: u32) -> Cost {
    let scene = Scene::new(calls, 1, Groups::One);
    let (bound, ioas) = (scene.bind_all(), scene.ioas());
    scene.cost(|| drop(hwpts(&scene, &bound[0], ioas, n)))
}

fn destroy(calls: Calls, n: u32) -> Cost {
    let scene = Scene::new(calls, 1, Groups::One);
    let (bound, ioas) = (scene.bind_all(), scene.ioas());
    let made = hwpts(&scene, &bound[0], ioas, n);
    scene.cost(|| made.into_iter().for_each(|id| scene.context.destroy(id).expect("nobody uses it")))
}

fn iova_ranges(calls: Calls, n: u32) -> Cost {
    let scene = Scene::new(calls, n, Groups::Each);
    let (bound, ioas) = (scene.bind_all(), scene.ioas());
    for device in &bound {
        device.attach(ioas).expect("nothing is in the way");
    }
    scene.cost(|| drop(scene.context.ioas_iova_ranges(ioas).expect("it exists")))
}

fn allow_iovas(calls: Calls, n: u32) -> Cost {
    let scene = Scene::new(calls, 0, Groups::One);
    let ioas = scene.ioas();
    let range = |number: u64| (Iova::new(number << 13), Iova::new((number << 13) + 0xfff));
    let ranges: Vec<_> = (0..n.into()).map(range).collect();
    scene.cost(|| scene.context.ioas_allow_iovas(ioas, &ranges).expect("nothing is reserved"))
}

/// Page requests that come, are read one by one, and are answered last first.
fn faults(calls: Calls, n: u32) -> Cost {
    let scene = Scene::new(calls, 1, Groups::One);
    let (bound, ioas) = (scene.bind_all(), scene.ioas());
    let device = bound[0].id();
    let parent = HwptRequest { flags: PagingFlags::NEST_PARENT, ..HwptRequest::default() };
    let parent = scene.context.hwpt_alloc_with(device, ioas, parent).expect("it can be made");
    let queue = scene.context.fault_queue_alloc().expect("there are ids");
    let bytes = Stage1 { table: Iova::new(0), entries: 1 }.to_bytes();
    let data = Some(UserData { kind: STAGE_1_FORMAT, bytes: &bytes });
    let nested = HwptRequest { data, faults: Some(queue.id()), ..HwptRequest::default() };
    let nested = scene.context.hwpt_alloc_with(device, parent, nested).expect("it can be made");
    bound[0].attach(nested).expect("nothing is in the way");
    let simulated = SimulatedDevice::new(scene.members[0].endpoint().clone(), scene.soft.clone(), scene.memory.clone());
    scene.cost(|| {
        for index in 0..n {
            let page = WantedPage { iova: Iova::new(0), permissions: PagePermissions::READ };
            simulated.request_pages(index, vec![page]);
        }
        let cookies: Vec<u32> = (0..n).map(|_| queue.read(1).expect("there is room")[0].cookie).collect();
        for cookie in cookies.into_iter().rev() {
            queue.respond(cookie, PageAnswer::Success).expect("it was read");
        }
    })
}

fn page_by_page(calls: Calls, n: u32) -> Cost {
    let scene = Scene::new(calls, 1, Groups::One);
    let (bound, ioas) = (scene.bind_all(), scene.ioas());
    bound[0].attach(ioas).expect("nothing is in the way");
    let process = Process::new(&scene.memory, LockedPages::unlimited());
    let bytes = u64::from(n) * PAGE_SIZE;
    let addr = process.allocate(bytes, Access::ReadWrite).expect("there is memory");
    let place = Place::Fixed(Iova::new(1 << 32));
    // Pins a page at a time.
    let process = FailingMemory::new(process);
    let request = MapRequest { iova: place, bytes, process, addr, access: Access::ReadWrite };
    scene.cost(|| assert!(scene.context.ioas_map(ioas, request).is_ok()))
}

fn main() {
    let rows: [Row; 11] = [
        ("bind, a group each", Box::new(bind(Groups::Each))),
        ("bind, one group", Box::new(bind(Groups::One))),
        ("attach, one group", Box::new(attach)),
        ("replace of a group, per device", Box::new(replace)),
        ("detach, one group", Box::new(detach)),
        ("hwpt_alloc, one IOAS", Box::new(hwpt_alloc)),
        ("destroy, one IOAS", Box::new(destroy)),
        ("iova_ranges, per attached device", Box::new(iova_ranges)),
        ("allow_iovas, per range", Box::new(allow_iovas)),
        ("page request, read, answer", Box::new(faults)),
        ("map, page by page", Box::new(page_by_page)),
    ];
    print(rows);
}
