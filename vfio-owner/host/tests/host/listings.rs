//! Listings as people post them.

use vfio_host::{Explanation, Host, ListingErrorReason, Plan, PlanError, Source};
use vfio_owner::viability::Verdict;

use crate::layout::address;

/// The shapes in which one and the same is posted.
const SHAPES: [&str; 4] = [
    "IOMMU Group 1:
\t00:01.0 PCI bridge [0604]: Intel Corporation Xeon E3-1200 v5 PCIe Controller (x16) [8086:1901] (rev 07)
\t\tKernel driver in use: pcieport
\t01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GP104 [GeForce GTX 1080] [10de:1b80] (rev a1)
\t\tSubsystem: Gigabyte Technology Co., Ltd Device [1458:3702]
\t\tKernel driver in use: nouveau
\t\tKernel modules: nouveau
\t01:00.1 Audio device [0403]: NVIDIA Corporation GP104 High Definition Audio Controller [10de:10f0] (rev a1)
\t\tKernel driver in use: snd_hda_intel",
    "IOMMU Group 1 00:01.0 PCI bridge [0604]: Intel Corporation [8086:1901] (rev 07)
    Kernel driver in use: pcieport
IOMMU Group 1 01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GP104 [10de:1b80] (rev a1)
    Kernel driver in use: nouveau
IOMMU Group 1 01:00.1 Audio device [0403]: NVIDIA Corporation [10de:10f0] (rev a1)
    Kernel driver in use: snd_hda_intel",
    "Group 1:\t[8086:1901]     0000:00:01.0  PCI bridge [0604]
Kernel driver in use: pcieport
\t\t[10de:1b80] [R] 0000:01:00.0  VGA compatible controller [0300]
Kernel driver in use: nouveau
\t\t[10de:10f0]     0000:01:00.1  Audio device [0403]
Kernel driver in use: snd_hda_intel",
    "### iommu_group 1
* 00:01.0 PCI bridge [0604]: Intel [8086:1901]\r
  Kernel driver in use: pcieport\r
* 01:00.0 VGA compatible controller [0300]: NVIDIA [10de:1b80]\r
  Kernel driver in use: nouveau\r
* 01:00.1 Audio device [0403]: NVIDIA [10de:10f0]\r
  Kernel driver in use: snd_hda_intel\r",
];

#[test]
fn every_shape_is_read_alike() {
    let expected: Host = SHAPES[0].parse().unwrap();
    for shape in SHAPES {
        let host: Host = shape.trim_start_matches("### ").parse().unwrap();
        assert_eq!(host, expected, "{shape}");
        assert_eq!(host.source, Source::Listing);
        let explanation = Explanation::of(&host, address("01:00.0")).unwrap();
        assert_eq!((explanation.group, explanation.by_group.verdict()), (Some(1), Verdict::NotViable));
        assert_eq!(explanation.class, "VGA compatible controller");
        assert_eq!(explanation.ties, None);
        let steps: Vec<String> =
            Plan::make(&host, &[address("01:00.0")], &[]).unwrap().steps.iter().map(ToString::to_string).collect();
        assert_eq!(steps.len(), 5, "{steps:?}");
    }
}

#[test]
fn without_drivers_it_cannot_be_told() {
    let host: Host = "IOMMU Group 1 01:00.0 VGA compatible controller [0300]: NVIDIA [10de:1b80]".parse().unwrap();
    assert_eq!(host.source, Source::ListingWithoutDrivers);
    let explanation = Explanation::of(&host, address("01:00.0")).unwrap();
    assert_eq!(explanation.by_group.verdict(), Verdict::Unknown);
    assert_eq!(Plan::make(&host, &[address("01:00.0")], &[]), Err(PlanError::DriversNotShown));
}

#[test]
fn what_is_no_listing_is_told_with_its_line() {
    let error = "hello\nworld".parse::<Host>().unwrap_err();
    assert_eq!((error.line, error.reason), (2, ListingErrorReason::NoDevice));
    let error = "Group 1 01:00.0 x\n01:00.0 y".parse::<Host>().unwrap_err();
    assert_eq!((error.line, error.reason), (2, ListingErrorReason::Twice { device: address("01:00.0") }));
}

#[test]
fn a_device_before_any_group_is_in_none() {
    let host: Host =
        "01:00.0 Ethernet controller [0200]: Intel [8086:1572]\n\tKernel driver in use: i40e".parse().unwrap();
    let explanation = Explanation::of(&host, address("01:00.0")).unwrap();
    assert_eq!((explanation.group, explanation.by_group.verdict()), (None, Verdict::NotViable));
}
