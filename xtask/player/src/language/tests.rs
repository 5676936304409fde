//! The recordings print as they stand; anything else is read or refused with a reason, never with a panic.

use proptest::prelude::*;

use super::number::number;
use super::*;

fn parse(text: &str) -> Result<Scenario> {
    Scenario::parse(Path::new("f.scn"), text)
}

/// In the recorded form, with the recorded answers.
fn print(scenario: &Scenario) -> String {
    let print_step = |step: &Step| match &step.recorded {
        Some(answer) => step.with_answer(answer),
        None => step.comment.iter().fold(step.text.clone(), |text, comment| format!("{text}  # {comment}")),
    };
    let lines = scenario.lines.iter().map(|line| match line {
        Line::Text(text) => text.clone() + "\n",
        Line::Step(step) => print_step(step) + "\n",
    });
    lines.collect()
}

fn action(text: &str) -> Action {
    let scenario = parse(&format!("topology pc\n{text}")).unwrap();
    match scenario.lines.into_iter().next_back() {
        Some(Line::Step(step)) => step.action,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_recording_is_printed_as_it_stands() {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/scenarios");
    let folders = ["basics", "random", "minimal", "wide", "uapi"];
    let files: Vec<_> = folders.iter().flat_map(|folder| crate::check::scenarios(&recorded.join(folder))).collect();
    for path in &files {
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(print(&Scenario::read(path).unwrap()), text, "{}", path.display());
    }
    assert!(files.len() > 250, "only {} recordings", files.len());
}

fn call(text: &str) -> Call {
    match action(text) {
        Action::Call(_, call) => call,
        other => panic!("{other:?}"),
    }
}

#[test]
fn steps_are_read_into_their_types() {
    let Action::Open(g, Open::DeviceOfGroup { group, device }) = action("d = g get-device 0000:00:03.0 -> ok") else {
        panic!("not an opening");
    };
    assert_eq!((g.to_string(), group.to_string(), device), ("d".into(), "g".into(), "0000:00:03.0".into()));
    let Action::Open(_, Open::PageTable { bound, parent, flags, data, fault }) = action("h = v hwpt-alloc a 4 1 24 f")
    else {
        panic!("not an opening");
    };
    assert_eq!((bound.dev().to_string(), parent.to_string(), flags, data), ("v.dev".into(), "a".into(), 4, (1, 24)));
    assert_eq!(fault.map(|fault| fault.to_string()), Some("f".into()));
    // The device file that is bound to an iommufd, not the machine's `bind`.
    assert!(matches!(call("v bind i"), Call::Bind { .. }));
    assert!(matches!(action("bind v i"), Action::Machine(MachineStep::Bind { .. })));
    // The handle's name may be a word of the language.
    assert!(matches!(action("wait = iommufd"), Action::Open(_, Open::Iommufd)));
    assert_eq!(action("wait"), Action::Wait);
    assert_eq!(action("memlock none"), Action::Process(ProcessStep::Memlock(None)));
    assert_eq!(action("memlock 64K"), Action::Process(ProcessStep::Memlock(Some(65536))));
    let memory = ProcessStep::Memory { kind: MemoryKind::FileReadOnly, offset: 0x1000, bytes: 8192 };
    assert_eq!(action("mem file-ro 0x1000 8K"), Action::Process(memory));
}

#[test]
fn calls_are_read_word_by_word() {
    assert_eq!(call("c set-iommu type1v2"), Call::SetIommu(3));
    assert_eq!(call("c check-extension update-vaddr"), Call::CheckExtension(10));
    assert_eq!(call("c check-extension 13"), Call::CheckExtension(13));
    assert_eq!(call("c map 0x1000 64K"), Call::Map { iova: 0x1000, bytes: 65536, offset: 0, rights: Rights::ALL });
    let rights = Rights { read: false, write: true };
    assert_eq!(call("c map 1M 0x2K 3G w"), Call::Map { iova: 1 << 20, bytes: 2048, offset: 3 << 30, rights });
    let allowed = vec![Range { first: 0, last: 0xfff }, Range { first: 0x2000, last: 0x2fff }];
    assert_eq!(call("a allow 0x0-0xfff 0x2000-0x2fff"), Call::Allow(allowed));
    assert_eq!(call("a allow"), Call::Allow(Vec::new()));
    let get = Dirty::Get { iova: 0, bytes: 65536, page: 8192, last: Some(4) };
    assert_eq!(call("c dirty get 0x0 64K 8K 4"), Call::Dirty(get));
    assert_eq!(call("d write 7 0x4 0aFf"), Call::WriteRegion { region: 7, offset: 4, data: vec![0x0a, 0xff] });
    // One word, three files.
    assert_eq!(call("e read"), Call::ReadEvent);
    assert_eq!(call("q read 40"), Call::ReadQueue { bytes: 40 });
    assert_eq!(call("d read 0 0 4"), Call::ReadRegion { region: 0, offset: 0, bytes: 4 });
    let Call::SetIrqs { events, flags, .. } = call("d irqs 2 0x24 0 2 e -") else { panic!("not interrupts") };
    assert_eq!((events.len(), events[1].is_none(), flags), (2, true, 0x24));
    let Call::Ioctl { number, fields } = call("i ioctl 0x85 40 -1 q0x10 @2M &a fd:i") else { panic!("not a call") };
    assert_eq!(number, 0x85);
    let [
        Field::Word(40),
        Field::Word(u32::MAX),
        Field::Quad(16),
        Field::Address(0x20_0000),
        Field::Id(a),
        Field::File(i),
    ] = &fields[..]
    else {
        panic!("{fields:?}");
    };
    assert_eq!((a.to_string(), i.to_string()), ("a".into(), "i".into()));
}

#[test]
fn an_error_names_the_line_and_the_reason() {
    let of = |step: &str| format!("{:#}", parse(&format!("topology pc\n{step}")).unwrap_err());
    for (step, reason) in [
        ("bind 0000:00:03.0 -> ok", "not a step: `bind 0000:00:03.0`; this one is `bind DEV DRIVER`"),
        ("c map 0x0 -> ok", "not a step: `c map 0x0`; this one is `C map IOVA LEN [OFF [RIGHTS]]`"),
        ("d read 1 2 -> ok", "not a step: `d read 1 2`; this one is `Q read N`"),
        (
            "h = v hwpt-alloc -> ok",
            "not a step: `h = v hwpt-alloc`; this one is `H = V hwpt-alloc A [FLAGS [TYPE LEN [FAULT]]]`",
        ),
        ("frobnicate -> ok", "not a step: `frobnicate`"),
        ("x = y -> ok", "not a step: `x = y`"),
        ("& -> ok", "not a step: ``"),
        ("rescan & -> ok", "only `unbind`, `remove` and `sriov` run in the background"),
        ("rescan ->", "nothing stands behind `->`"),
        ("rescan -> fine", "not an answer: `-> fine`"),
        ("c map 4X 4K -> ok", "not a number: `4X`"),
        ("c map +4 4K -> ok", "not a number: `+4`"),
        ("c map 0x 4K -> ok", "not a number: `0x`"),
        ("c map 17179869184G 4K -> ok", "more than 64 bits: `17179869184G`"),
        ("a allow 4K -> ok", "not FIRST-LAST: `4K`"),
        (
            "c set-iommu type2 -> ok",
            "not an extension: `type2` (type1, type1v2, spapr, nesting, cc-iommu, noiommu, unmap-all, update-vaddr, or a \
             number)",
        ),
        ("c map 0x0 4K 0 x -> ok", "not rights: `x` (r, w, rw, none)"),
        ("mem gone 0 4K -> ok", "not a kind of memory: `gone` (ro, none, rw, hole, fresh, shared, file-ro)"),
        ("d write 7 0 123 -> ok", "not bytes in hexadecimal: `123`"),
        ("d region 4G -> ok", "more than 32 bits: `4G`"),
        ("d ioctl 256 -> ok", "more than 8 bits: `256`"),
        ("topology pc", "a second `topology`"),
    ] {
        assert_eq!(of(step), format!("f.scn:2: {reason}"));
    }
    assert_eq!(format!("{:#}", parse("rescan -> ok").unwrap_err()), "f.scn:1: a step before the line `topology NAME`");
    assert_eq!(format!("{:#}", parse("# nothing").unwrap_err()), "f.scn: no line `topology NAME`");
}

/// A step as somebody might write it, whether right or not.
fn scribbled() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "bind",
        "unbind",
        "remove",
        "wait",
        "g",
        "h",
        "=",
        "group",
        "get-device",
        "map",
        "allow",
        "0x1000",
        "64K",
        "0-1",
        "0000:00:03.0",
        "e1000",
        "&",
        "->",
        "ok",
        "EBUSY",
        "blocked",
        "#",
        "unmap-all",
        "close",
        "container",
        "ioctl",
        "q0x10",
        "@4K",
        "&a",
        "fd:g",
        "read",
        "mem",
        "hole",
    ]);
    let gap = prop::sample::select(vec![" ", "  ", "\t"]);
    prop::collection::vec((words, gap), 0..8)
        .prop_map(|words| words.into_iter().map(|(word, gap)| word.to_owned() + gap).collect())
}

proptest! {
    #[test]
    fn what_is_read_is_read_again_from_its_print(step in scribbled()) {
        if let Ok(scenario) = parse(&format!("topology pc\n{step}\n")) {
            let printed = print(&scenario);
            let again = parse(&printed).unwrap();
            prop_assert_eq!(&print(&again), &printed);
            prop_assert_eq!(again.lines, scenario.lines);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = parse(&text);
        let _ = parse(&format!("topology pc\n{text}"));
    }

    #[test]
    fn numbers_are_what_they_say(value in any::<u64>(), unit in 0..4_usize) {
        let (suffix, shift) = [("", 0), ("K", 10), ("M", 20), ("G", 30)][unit];
        let expected = value.checked_mul(1 << shift);
        prop_assert_eq!(number(&format!("{value}{suffix}")).ok(), expected);
        prop_assert_eq!(number(&format!("{value:#x}{suffix}")).ok(), expected);
    }
}
