//! Members of groups that are no PCI functions, and drivers that are not part of Linux.

use vfio_host::{Explanation, Fact, Host, Plan, PlanError, Possession, Reason, Source, capture, overview};
use vfio_owner::iommu_core::sysfs::MemoryTree;
use vfio_owner::viability::{Standing, Verdict};

use crate::layout::{address, tree};

const MACHINE: &str = "
    proc
    00:05.0 nvme vfio-pci 2 file
    00:06.0 nic i40e 3";

/// The machine with a device of another bus in group 2, on a driver or on none.
fn with_member(bus: &str, driver: Option<&str>) -> MemoryTree {
    let mut tree = tree(MACHINE);
    let device = format!("devices/{bus}/other.0");
    tree.insert_directory(&device);
    tree.insert_directory(&format!("bus/{bus}"));
    tree.insert(&format!("{device}/subsystem"), format!("../../../bus/{bus}"));
    tree.insert("kernel/iommu_groups/2/devices/other.0", format!("../../../../{device}"));
    if let Some(driver) = driver {
        tree.insert_directory(&format!("bus/{bus}/drivers/{driver}"));
        tree.insert(&format!("{device}/driver"), format!("../../../bus/{bus}/drivers/{driver}"));
    }
    tree
}

#[test]
fn d60_drivers_of_the_other_buses_count_and_no_others() {
    let viable = |bus: &str, driver: Option<&str>| {
        let host = Host::load(&with_member(bus, driver), Source::Tree).unwrap();
        assert_eq!(host.pci.warnings, []);
        Explanation::of(&host, address("00:05.0")).unwrap().viable.verdict()
    };
    for bus in ["platform", "amba", "fsl-mc", "cdx"] {
        assert_eq!(viable(bus, Some("pl330")), Verdict::NotViable, "{bus}");
        assert_eq!(viable(bus, None), Verdict::Viable, "{bus}");
        assert_eq!(viable(bus, Some(&format!("vfio-{bus}"))), Verdict::Viable, "{bus}");
    }
    assert_eq!(viable("platform", Some("fsl-pci")), Verdict::Viable);
    assert_eq!(viable("mdev", Some("vfio_mdev")), Verdict::Viable);
    assert_eq!(viable("host1x", Some("tegra-vic")), Verdict::Viable);
}

#[test]
fn a_member_in_the_way_is_named_by_explain_list_and_plan_and_in_a_capture() {
    let tree = with_member("platform", Some("pl330"));
    let live = Host::load(&tree, Source::Live).unwrap();
    let captured = Host::load(&capture(&tree).unwrap(), Source::Capture).unwrap();
    for host in [live, captured] {
        let explanation = Explanation::of(&host, address("00:05.0")).unwrap();
        let named = |reason: &Reason| matches!(reason, Reason::OtherNeighbour { member } if member.name == "other.0");
        assert!(explanation.by_group.reasons.iter().any(named));
        let group = overview(&host).into_iter().find(|group| group.group == Fact::Is(2)).unwrap();
        assert_eq!(group.possession, Possession::Kernel { drivers: vec!["pl330".to_owned()] });
        let error = Plan::make(&host, &[address("00:05.0")], &[]).unwrap_err();
        assert!(matches!(&error, PlanError::Impossible { .. }) && error.to_string().contains("other.0"), "{error}");
    }
}

/// Marks a driver's module as the kernel does.
fn module(tree: &mut MemoryTree, driver: &str, taint: &str) {
    tree.insert(&format!("bus/pci/drivers/{driver}/module"), format!("../../../../module/{driver}"));
    tree.insert(&format!("module/{driver}/taint"), taint);
}

#[test]
fn a_module_from_elsewhere_is_not_known_whatever_its_name() {
    let standing = |taint: &str, driver: &str| {
        let mut tree = tree(&format!("proc\n00:06.0 nic {driver} 3"));
        module(&mut tree, driver, taint);
        let told = |host: Host| Explanation::of(&host, address("00:06.0")).unwrap().members[0].standing.clone();
        let live = told(Host::load(&tree, Source::Live).unwrap());
        let captured = told(Host::load(&capture(&tree).unwrap(), Source::Capture).unwrap());
        assert_eq!(live, captured);
        live
    };
    let driver = |name: &str| std::sync::Arc::from(name);
    assert_eq!(standing("\n", "i40e"), Standing::KernelUse { driver: driver("i40e") });
    assert_eq!(standing("OE\n", "i40e"), Standing::UnknownDriver { driver: driver("i40e") });
    assert_eq!(standing("OE\n", "nvidia"), Standing::UnknownDriver { driver: driver("nvidia") });
    // A driver of a later Linux than the list is from, unless it may be one that hands devices out.
    assert_eq!(standing("\n", "brand-new"), Standing::KernelUse { driver: driver("brand-new") });
    assert_eq!(standing("\n", "new-vfio-pci"), Standing::UnknownDriver { driver: driver("new-vfio-pci") });
}

#[test]
fn without_groups_it_is_said_why() {
    let reason = |change: &dyn Fn(&mut MemoryTree)| {
        let mut tree = tree("proc\n00:06.0 nic i40e -");
        change(&mut tree);
        let host = Host::load(&tree, Source::Live).unwrap();
        let reasons = Explanation::of(&host, address("00:06.0")).unwrap().by_group.reasons;
        reasons.iter().find(|reason| matches!(reason, Reason::NoGroup { .. })).unwrap().to_string()
    };
    let table = |tree: &mut MemoryTree, name: &str| {
        tree.insert(&format!("firmware/acpi/tables/{name}"), "");
    };
    assert!(reason(&|_| {}).contains("there is no IOMMU, or it is switched off"));
    assert!(reason(&|tree| table(tree, "FACP")).contains("firmware describes no IOMMU"));
    assert!(reason(&|tree| table(tree, "DMAR")).contains("boot with `intel_iommu=on`"));
    assert!(
        reason(&|tree| {
            table(tree, "DMAR");
            tree.insert("proc/cmdline", "quiet intel_iommu=off\n");
        })
        .contains("command line switches the IOMMU off")
    );
    assert!(
        reason(&|tree| {
            tree.insert_directory("class/iommu/dmar0");
        })
        .contains("no IOMMU in front of this one")
    );
}

/// In copies of sysfs, links may lead to what was not copied.
#[test]
fn a_link_that_leads_nowhere_is_not_no_link() {
    let mut tree = tree(MACHINE);
    tree.remove("bus/pci/drivers/i40e/0000:00:06.0");
    tree.insert("devices/pci0000:00/0000:00:06.0/driver", "../../../bus/pci/drivers/left-out");
    tree.insert("devices/pci0000:00/0000:00:05.0/iommu_group", "../../../kernel/iommu_groups/9999");
    let host = Host::load(&tree, Source::Tree).unwrap();
    assert_eq!(host.driver(address("00:06.0")), Fact::Unknown);
    assert_eq!(host.group(address("00:05.0")), Fact::Is(2), "the group still lists it");
    let bare: MemoryTree = {
        let mut bare = MemoryTree::new();
        for (path, contents) in tree.files().filter(|(path, _)| !path.contains("drivers") && !path.contains("groups")) {
            bare.insert(path, contents.to_vec());
        }
        bare
    };
    let host = Host::load(&bare, Source::Tree).unwrap();
    assert_eq!((host.driver(address("00:06.0")), host.group(address("00:06.0"))), (Fact::Unknown, Fact::Unknown));
}

/// A device that shares its group with a member of another bus alone is told of its like that stand alone.
#[test]
fn what_stands_alone_is_told_beside_a_member_that_is_no_function() {
    let mut tree = with_member("platform", None);
    let host = Host::load(&tree, Source::Tree).unwrap();
    assert_eq!(*Explanation::of(&host, address("00:05.0")).unwrap().alternatives, []);
    let other = MemoryTree::from_layout("00:07.0 nvme nvme 4").unwrap();
    other.files().for_each(|(path, contents)| drop(tree.insert(path, contents)));
    // Of the same class and subclass, with another interface.
    tree.insert("devices/pci0000:00/0000:00:07.0/class", "0x010803\n");
    let host = Host::load(&tree, Source::Tree).unwrap();
    assert_eq!(*Explanation::of(&host, address("00:05.0")).unwrap().alternatives, [address("00:07.0")]);
    assert_eq!(*Explanation::of(&host, address("00:07.0")).unwrap().alternatives, []);
}
