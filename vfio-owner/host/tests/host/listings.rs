//! Listings as people post them. Each `listings/NAME.expect` says what is asked of the listing beside it, and the answer;
//! `UPDATE=1` writes the answers anew, to be compared with the listing by eye.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use vfio_host::{Claim, Explanation, Fact, Host, ListingErrorReason, Plan, Possession, Source, overview};
use vfio_owner::iommu_core::device_model::pci::PciAddress;
use vfio_owner::viability::Verdict;

use crate::layout::address;

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/listings");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|kind| kind != "expect")).collect();
    cases.sort();
    cases
}

fn short(device: PciAddress) -> String {
    device.to_string().trim_start_matches("0000:").to_owned()
}

fn driver(driver: &Fact<String>) -> &str {
    match driver {
        Fact::Is(driver) => driver,
        Fact::Absent => "-",
        Fact::Unknown => "?",
    }
}

/// Everything that is told of a host, and of the devices that are asked about.
fn told(host: &Host, ask: &[PciAddress]) -> String {
    let mut out = String::new();
    for group in overview(host) {
        let number = match group.group {
            Fact::Is(number) => format!("group {number}"),
            Fact::Absent => "no group".to_owned(),
            Fact::Unknown => "group not shown".to_owned(),
        };
        writeln!(out, "{number}: {}", group.possession).unwrap();
        for device in group.devices {
            writeln!(out, "  {} {} ({})", short(device.device), driver(&device.driver), device.class).unwrap();
        }
        for member in group.other_members {
            writeln!(out, "  {member} {}", driver(&member.driver)).unwrap();
        }
    }
    for device in ask {
        explained(&mut out, &Explanation::of(host, *device).unwrap());
        match Plan::make(host, &[*device], &[]) {
            Ok(plan) => {
                plan.cautions.iter().for_each(|caution| writeln!(out, "  caution: {caution}").unwrap());
                plan.steps.iter().for_each(|step| writeln!(out, "  step: {step}").unwrap());
            }
            Err(error) => writeln!(out, "  no plan: {error}").unwrap(),
        }
    }
    writeln!(out, "not understood: {} lines, doubtful: {:?}", host.skipped_lines(), host.doubtful_lines()).unwrap();
    out
}

fn explained(out: &mut String, explanation: &Explanation) {
    let device = short(explanation.device);
    writeln!(out, "explain {device}: {}; its group: {}", explanation.by_group.verdict(), explanation.viable.verdict())
        .unwrap();
    explanation.by_group.reasons.iter().for_each(|reason| writeln!(out, "  {reason}").unwrap());
    for (what, devices) in
        [("reset along with it", &*explanation.reset_partners), ("stand alone", &*explanation.alternatives)]
    {
        if !devices.is_empty() {
            writeln!(out, "  {what}: {}", devices.iter().copied().map(short).collect::<Vec<_>>().join(" ")).unwrap();
        }
    }
    for member in explanation.members.iter().chain(&explanation.same_card) {
        writeln!(out, "  {} {:?}: {}", short(member.device), member.part, member.standing).unwrap();
    }
    explanation.next.iter().for_each(|advice| writeln!(out, "  next: {advice}").unwrap());
}

#[test]
fn every_listing_gets_the_right_answer() {
    let cases = cases();
    assert!(cases.len() >= 50, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let file = case.with_extension("expect");
        let expected = fs::read_to_string(&file).unwrap();
        let (head, _) = expected.split_once("\n---\n").unwrap_or((expected.trim_end(), ""));
        let ask = head.lines().find_map(|line| line.strip_prefix("ask ")).unwrap();
        let ask: Vec<PciAddress> = ask.split(' ').map(address).collect();
        let host = Host::open(&case).unwrap();
        let answer = format!("{head}\n---\n{}", told(&host, &ask));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&file, &answer).unwrap();
        } else if answer != expected {
            wrong.push(format!("{}:\n{answer}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whatever is asked, what is possible is proved, and what is planned is not refused.
#[test]
fn explain_and_plan_agree_about_every_device() {
    for case in cases() {
        let host = Host::open(&case).unwrap();
        for device in host.pci.devices.iter().map(|device| device.function.address) {
            let explanation = Explanation::of(&host, device).unwrap();
            let plan = Plan::make(&host, &[device], &[]);
            let context = format!("{} {device}", case.display());
            let last = explanation.by_group.reasons.iter().any(|reason| reason.is_final() || reason.is_not_shown());
            assert_eq!(plan.is_err(), last, "{context}: {plan:?}");
            if explanation.by_group.verdict() == Verdict::Viable {
                assert_eq!(plan.unwrap().steps, [], "{context}");
            }
        }
    }
}

/// No line of a listing that shows something can be cut without its answer getting less certain, or staying as it is.
#[test]
fn a_listing_with_a_line_less_gets_no_surer_of_a_driver() {
    for case in cases().into_iter().filter(|case| case.extension().is_some_and(|kind| kind == "txt")) {
        let text = fs::read_to_string(&case).unwrap();
        let whole: Host = text.parse().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for cut in 0..lines.len() {
            if !lines[cut].contains("Kernel driver in use") {
                continue;
            }
            let less: String = lines
                .iter()
                .enumerate()
                .filter(|(place, _)| *place != cut)
                .fold(String::new(), |text, (_, line)| text + line + "\n");
            let less: Host = less.parse().unwrap();
            let details = ["Subsystem", "Kernel modules", "Flags", "IOMMU group:"];
            let without_details = !details.iter().any(|words| text.contains(words));
            for device in whole.pci.devices.iter().map(|device| device.function.address) {
                if without_details && less.driver(device) == Fact::Absent {
                    assert_eq!(whole.driver(device), Fact::Absent, "{} without line {}", case.display(), cut + 1);
                }
            }
        }
    }
}

#[test]
fn what_is_no_listing_is_told_with_its_line() {
    let error = "hello\nworld".parse::<Host>().unwrap_err();
    assert_eq!((error.line, error.reason), (2, ListingErrorReason::NoDevice));
}

#[test]
fn what_contradicts_itself_is_told_with_both_lines() {
    let contradiction = |text: &str| {
        let error = text.parse::<Host>().unwrap_err();
        let ListingErrorReason::Contradiction { first_line, first, second, .. } = error.reason else {
            panic!("{error}")
        };
        (first_line, first, error.line, second)
    };
    assert_eq!(
        contradiction("Group 1 01:00.0 x\n\nGroup 2 01:00.0 y"),
        (1, Claim::Group(Some(1)), 3, Claim::Group(Some(2)))
    );
    let driver = |name: &str| Claim::Driver(Some(name.to_owned()));
    assert_eq!(
        contradiction("01:00.0 VGA\n\tKernel driver in use: nouveau\n01:00.0 VGA\n\tKernel driver in use: vfio-pci"),
        (2, driver("nouveau"), 4, driver("vfio-pci"))
    );
    assert_eq!(
        contradiction("01:00.0 VGA [0300]: x [10de:1b80]\n01:00.0 VGA [0300]: x [10de:1b81]"),
        (1, Claim::Ids(0x10de, 0x1b80), 2, Claim::Ids(0x10de, 0x1b81))
    );
}

/// The number of a class has two bytes, or three with the interface.
#[test]
fn a_class_in_json_is_read_at_either_length() {
    for class in ["0x0300", "0x030000"] {
        let listing = format!(r#"[{{"id": "0000:01:00.0", "class": "{class}", "iommugroup": 1}}]"#);
        let host: Host = listing.parse().unwrap();
        assert_eq!(host.device(address("01:00.0")).unwrap().function.config.class(), Some(0x03_0000), "{class}");
    }
}

/// The words are different words: nobody has it; nothing is in the way; somebody has it.
#[test]
fn free_and_viable_and_in_use_are_told_apart() {
    let possession = |host: &Host| overview(host).remove(0).possession;
    let listing: Host = "Group 1 01:00.0 VGA [0300]: x [10de:1b80]\n Kernel driver in use: vfio-pci".parse().unwrap();
    assert_eq!((listing.source, possession(&listing)), (Source::Listing, Possession::Viable));
    let tree = crate::layout::host("01:00.0 nvme - 1");
    assert_eq!(possession(&tree), Possession::Free);
    let perhaps = crate::layout::host("01:00.0 nvme vfio-pci 1");
    assert_eq!(possession(&perhaps), Possession::Viable);
}
