//! Random calls at every kind of file: no panic, no hang, and nothing is held at the end.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use vfio_owner::iommu_core::device_model::Progress;
use vfio_owner::iommu_core::{Ownership, UserAddr};
use vfio_owner::uapi::Caller as _;

use crate::rig::{BEHIND_PORT, CONVENTIONAL, EDU, NIC, Program, bytes};

/// Calls in one run.
const RUN: u32 = 200;

#[derive(Clone, Debug)]
enum Step {
    Call { file: usize, nr: u32, words: Vec<u32> },
    Pointer { file: usize, nr: u32, argument: u64 },
    Read { file: usize, offset: u64, bytes: u64 },
    Write { file: usize, offset: u64, bytes: u64 },
    Map { file: usize, offset: u64, bytes: u64 },
    Close { file: usize },
}

/// Numbers that mean something, and any.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0_u32..12,
        3 => (0_u32..32).prop_map(|bit| 1 << bit),
        2 => prop::sample::select(vec![15, 16, 20, 24, 28, 32, 40, 48, 4096, u32::MAX, 0x2_0003, 0x4_0000, 0x24, 0x21, 0x14]),
        1 => any::<u32>(),
    ]
}

fn offset() -> impl Strategy<Value = u64> {
    (0_u64..10, prop_oneof![0_u64..0x200, 0_u64..0x2_0100, any::<u64>()]).prop_map(|(region, at)| region << 40 | at)
}

fn step() -> impl Strategy<Value = Step> {
    let file = || 0_usize..24;
    let nr = || prop_oneof![8 => 100_u32..122, 2 => 0x80_u32..0xa1, 1 => any::<u32>()];
    let size = || prop_oneof![0_u64..64, Just(u64::MAX), 0_u64..0x3000];
    prop_oneof![
        12 => (file(), nr(), prop::collection::vec(word(), 0..14)).prop_map(|(file, nr, words)| Step::Call { file, nr, words }),
        1 => (file(), nr(), any::<u64>()).prop_map(|(file, nr, argument)| Step::Pointer { file, nr, argument }),
        2 => (file(), offset(), size()).prop_map(|(file, offset, bytes)| Step::Read { file, offset, bytes }),
        2 => (file(), offset(), size()).prop_map(|(file, offset, bytes)| Step::Write { file, offset, bytes }),
        1 => (file(), offset(), size()).prop_map(|(file, offset, bytes)| Step::Map { file, offset, bytes }),
        1 => file().prop_map(|file| Step::Close { file }),
    ]
}

const DEVICES: [&str; 6] = [NIC, EDU, BEHIND_PORT[0], BEHIND_PORT[1], CONVENTIONAL[0], CONVENTIONAL[1]];

/// A program with every kind of file open.
fn program() -> Program {
    let program = Program::with(&DEVICES);
    program.device(NIC);
    let iommufd = program.iommufd();
    let file = program.cdev(BEHIND_PORT[0]);
    program.bind(file, iommufd).unwrap();
    program.cdev(BEHIND_PORT[1]);
    let group = program.group(EDU);
    program.call(group, 104, &iommufd.to_ne_bytes()).unwrap();
    program.call(group, 106, format!("{EDU}\0").as_bytes()).unwrap();
    program.container();
    program.group(CONVENTIONAL[0]);
    program.words(iommufd, 0x8e, &[16, 0, 0, 0]).unwrap();
    program.eventfd();
    program
}

fn play(program: &Program, step: &Step) {
    let descriptor = |file: usize| i32::try_from(file).unwrap_or(0);
    match step {
        Step::Call { file, nr, words } => _ = program.call(descriptor(*file), *nr, &bytes(words)),
        Step::Pointer { file, nr, argument } => _ = program.value(descriptor(*file), *nr, *argument),
        Step::Read { file, offset, bytes } => {
            let _ = program.file(descriptor(*file)).map(|file| file.read(*offset, program.buffer, *bytes, program));
        }
        Step::Write { file, offset, bytes } => {
            let at = UserAddr::new(program.buffer.get() + 0x1000);
            let _ = program.file(descriptor(*file)).map(|file| file.write(*offset, at, *bytes, program));
        }
        Step::Map { file, offset, bytes } => {
            let _ = program.file(descriptor(*file)).map(|file| file.mappable(*offset, *bytes, program));
        }
        Step::Close { file } => program.close(descriptor(*file)),
    }
}

/// `VFIO_UAPI_CALLS` says how many calls are made, 20,000 otherwise.
#[test]
fn random_calls_harm_nothing() {
    let calls = std::env::var("VFIO_UAPI_CALLS").ok().and_then(|calls| calls.parse().ok()).unwrap_or(20_000);
    let config = Config { cases: (calls / RUN).max(1), failure_persistence: None, ..Config::default() };
    let steps = prop::collection::vec(step(), RUN as usize);
    let result = TestRunner::new(config).run(&steps, |steps| {
        let program = program();
        for step in &steps {
            play(&program, step);
        }
        program.close_all();
        for device in DEVICES {
            let group = program.machine.group(device).unwrap();
            prop_assert_eq!(group.ownership(), Ownership::Idle, "{}", device);
            let mut unbind = program.machine.unbind(device).unwrap();
            let done = matches!(unbind.try_finish(), Progress::Done);
            prop_assert!(done, "{} is held open", device);
        }
        prop_assert_eq!(program.process.pinned(), 0);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
