//! Page faults that user space answers: F64, F67, Ft2.5, Ft9.4.

use iommu_core::Iova;
use iommu_core::device_model::Errno;
use iommu_core::hardware::{Capabilities, PageAnswer, PagePermissions, PagingFlags, UserData, WantedPage};
use iommu_core::software::AnsweredRequest;
use iommu_core::software::nested::{STAGE_1_FORMAT, Stage1};
use iommufd_owner::{BoundDevice, Context, FaultQueue, HwptRequest, MAX_REQUESTS, ObjectId};

use crate::rig::{Fails, Rig};

struct Scene {
    rig: Rig,
    context: Context,
    bound: Vec<BoundDevice>,
    queue: FaultQueue,
    parent: ObjectId,
    /// A page table with the queue.
    faulting: ObjectId,
}

fn nested(context: &Context, device: ObjectId, parent: ObjectId, faults: Option<ObjectId>) -> ObjectId {
    let bytes = Stage1 { table: Iova::new(0), entries: 1 }.to_bytes();
    let data = Some(UserData { kind: STAGE_1_FORMAT, bytes: &bytes });
    context.hwpt_alloc_with(device, parent, HwptRequest { faults, data, ..HwptRequest::default() }).unwrap()
}

fn scene() -> Scene {
    let rig = Rig::with(&["a1", "a2"], |config| {
        let more = Capabilities::NESTING.union(Capabilities::PAGE_REQUESTS);
        config.capabilities = config.capabilities.union(more);
    });
    let context = rig.context("vmm");
    let bound: Vec<_> = rig.members.iter().map(|member| context.bind(member).unwrap()).collect();
    let ioas = context.ioas_alloc().unwrap();
    let parent = HwptRequest { flags: PagingFlags::NEST_PARENT, ..HwptRequest::default() };
    let parent = context.hwpt_alloc_with(bound[0].id(), ioas, parent).unwrap();
    let queue = context.fault_queue_alloc().unwrap();
    let faulting = nested(&context, bound[0].id(), parent, Some(queue.id()));
    Scene { rig, context, bound, queue, parent, faulting }
}

impl Scene {
    fn ask(&self, device: usize, index: u32, pages: u64) {
        let page = |number| WantedPage { iova: Iova::new(number << 12), permissions: PagePermissions::WRITE };
        self.rig.device(device).request_pages(index, (0..pages).map(page).collect());
    }

    fn answers(&self, device: usize) -> Vec<(u32, PageAnswer)> {
        let answers = self.rig.device(device).take_answers();
        answers.into_iter().map(|AnsweredRequest { index, answer, .. }| (index, answer)).collect()
    }
}

#[test]
fn f64_faults_are_read_in_whole_groups_and_answered_by_cookie() {
    let scene = scene();
    scene.bound[0].attach(scene.faulting).unwrap();
    assert_eq!(scene.queue.read(8), Ok(vec![]), "none pending: nothing, and no wait");
    for (index, pages) in [(30, 2), (31, 1), (32, 3)] {
        scene.ask(0, index, pages);
    }
    assert!(scene.queue.has_pending());
    assert_eq!(scene.queue.read(1).unwrap_err().errno(), Errno::EINVAL, "the first group has two");
    let read = scene.queue.read(5).unwrap();
    let told: Vec<_> = read.iter().map(|fault| (fault.group, fault.iova.get(), fault.more)).collect();
    assert_eq!(told, [(30, 0, 1), (30, 0x1000, 0), (31, 0, 0)]);
    assert!(read.iter().all(|fault| fault.device == scene.bound[0].id() && fault.pasid.is_none()));
    let [first, second] = [read[0].cookie, read[2].cookie];
    assert_ne!(first, second);
    scene.queue.put_back(first).unwrap();
    assert_eq!(scene.queue.respond(first, PageAnswer::Success).unwrap_err().errno(), Errno::EINVAL, "not read");
    scene.queue.respond(second, PageAnswer::Invalid).unwrap();
    assert_eq!(scene.queue.respond(second, PageAnswer::Invalid).unwrap_err().errno(), Errno::EINVAL, "answered");
    let again = scene.queue.read(8).unwrap();
    assert_eq!(again.iter().map(|fault| fault.group).collect::<Vec<_>>(), [30, 30, 32, 32, 32]);
    scene.queue.respond(again[0].cookie, PageAnswer::Success).unwrap();
    assert_eq!(scene.answers(0), [(31, PageAnswer::Invalid), (30, PageAnswer::Success)]);
}

#[test]
fn f67_who_is_detached_gets_an_answer() {
    let scene = scene();
    for bound in &scene.bound {
        bound.attach(scene.faulting).unwrap();
    }
    scene.ask(0, 1, 1);
    scene.ask(1, 2, 1);
    let read = scene.queue.read(1).unwrap();
    scene.ask(0, 3, 1);
    scene.bound[0].detach();
    assert_eq!(scene.answers(0), [(3, PageAnswer::Invalid), (1, PageAnswer::Invalid)], "pending, and read");
    assert_eq!(scene.queue.respond(read[0].cookie, PageAnswer::Success).unwrap_err().errno(), Errno::EINVAL);
    scene.ask(0, 4, 1);
    assert_eq!(scene.answers(0), [(4, PageAnswer::Invalid)], "nobody listens");
    assert_eq!(scene.answers(1), [], "the other device still waits");
    assert_eq!(scene.queue.read(8).unwrap().len(), 1);
}

#[test]
fn f64_a_replace_turns_devices_to_the_other_queue() {
    let scene = scene();
    let other_queue = scene.context.fault_queue_alloc().unwrap();
    let other = nested(&scene.context, scene.bound[0].id(), scene.parent, Some(other_queue.id()));
    for bound in &scene.bound {
        bound.attach(scene.parent).unwrap();
    }
    scene.ask(1, 1, 1);
    assert_eq!(scene.answers(1), [(1, PageAnswer::Invalid)], "the parent has no queue");
    scene.bound[0].replace(scene.faulting).unwrap();
    scene.ask(1, 2, 1);
    assert!(scene.queue.has_pending());
    scene.bound[1].replace(other).unwrap();
    assert!(!scene.queue.has_pending());
    assert_eq!(scene.answers(1), [(2, PageAnswer::Invalid)]);
    scene.ask(1, 3, 1);
    assert_eq!(other_queue.read(8).unwrap().len(), 1);
    scene.bound[1].replace(scene.parent).unwrap();
    scene.ask(1, 4, 1);
    assert_eq!(scene.answers(1), [(3, PageAnswer::Invalid), (4, PageAnswer::Invalid)]);
}

#[test]
fn ft2_5_a_queue_is_used_by_its_file_and_by_page_tables() {
    let Scene { rig, context, bound, queue, faulting, .. } = scene();
    let id = queue.id();
    assert_eq!(context.destroy(id).unwrap_err().errno(), Errno::EBUSY, "the file is open");
    bound[0].attach(faulting).unwrap();
    drop(queue);
    assert_eq!(context.destroy(id).unwrap_err().errno(), Errno::EBUSY, "a page table uses it");
    drop(bound);
    context.destroy(faulting).unwrap();
    context.destroy(id).unwrap();
    drop(context);
    rig.assert_idle();
}

#[test]
fn ft9_4_a_device_that_cannot_be_listened_to_is_not_attached() {
    let scene = scene();
    let ranges = |scene: &Scene| {
        let ioas = ObjectId::new(3);
        scene.context.ioas_iova_ranges(ioas).unwrap()
    };
    let before = ranges(&scene);
    // The first call enables the page requests, the next ones attach the two devices of the group.
    for n in 0..3_u32 {
        scene.rig.fail(Fails::Hardware, n);
        assert_eq!(scene.bound[0].attach(scene.faulting).unwrap_err().errno(), Errno::EIO, "call {n}");
        scene.rig.heal();
        assert_eq!(ranges(&scene), before);
        scene.ask(0, n, 1);
        assert_eq!(scene.answers(0), [(n, PageAnswer::Invalid)]);
    }
    for bound in &scene.bound {
        bound.attach(scene.parent).unwrap();
    }
    // Both devices are listened to, then both are moved.
    for n in 0..4_u32 {
        scene.rig.fail(Fails::Hardware, n);
        assert_eq!(scene.bound[0].replace(scene.faulting).unwrap_err().errno(), Errno::EIO, "call {n}");
        scene.rig.heal();
        for device in 0..2 {
            scene.ask(device, 9, 1);
            assert_eq!(scene.answers(device), [(9, PageAnswer::Invalid)]);
        }
    }
    scene.bound[0].replace(scene.faulting).unwrap();
    assert!(scene.bound.iter().all(BoundDevice::is_attached));
}

#[test]
fn page_requests_end_with_the_claim_of_their_own_device() {
    let mut scene = scene();
    for bound in &scene.bound {
        bound.attach(scene.parent).unwrap();
    }
    // The first device moves both to the page table with a queue, and goes.
    scene.bound[0].replace(scene.faulting).unwrap();
    drop(scene.bound.remove(0));
    scene.ask(1, 7, 1);
    let read = scene.queue.read(8).unwrap();
    assert_eq!(read.iter().map(|fault| fault.group).collect::<Vec<_>>(), [7]);
    scene.ask(0, 8, 1);
    assert_eq!(scene.answers(0), [(8, PageAnswer::Invalid)]);
}

#[test]
fn f95d_cookies_are_the_lowest_free_numbers_from_1() {
    let scene = scene();
    scene.bound[0].attach(scene.faulting).unwrap();
    for index in 0..4 {
        scene.ask(0, index, 1);
    }
    let cookies = |room| scene.queue.read(room).unwrap().iter().map(|fault| fault.cookie).collect::<Vec<_>>();
    assert_eq!(cookies(3), [1, 2, 3]);
    scene.queue.respond(2, PageAnswer::Success).unwrap();
    assert_eq!(cookies(1), [2]);
    // Put back, it comes first again, whatever came since.
    scene.queue.put_back(1).unwrap();
    scene.ask(0, 9, 1);
    let read = scene.queue.read(8).unwrap();
    assert_eq!(read.iter().map(|fault| (fault.cookie, fault.group)).collect::<Vec<_>>(), [(1, 0), (4, 9)]);
}

#[test]
fn a_full_queue_answers_invalid() {
    let scene = scene();
    scene.bound[0].attach(scene.faulting).unwrap();
    for index in 0..MAX_REQUESTS as u32 {
        scene.ask(0, index, 1);
    }
    assert_eq!(scene.answers(0), []);
    let read = scene.queue.read(1).unwrap();
    scene.ask(0, u32::MAX, 1);
    assert_eq!(scene.answers(0), [(u32::MAX, PageAnswer::Invalid)], "what was read counts until it is answered");
    scene.queue.respond(read[0].cookie, PageAnswer::Success).unwrap();
    scene.ask(0, 3, 1);
    assert_eq!(scene.answers(0), [(0, PageAnswer::Success)]);
    scene.bound[0].detach();
    assert_eq!(scene.answers(0).len(), MAX_REQUESTS);
}
