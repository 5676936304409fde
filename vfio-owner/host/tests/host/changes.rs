//! What changed between two machines.

use vfio_host::{Change, Explanation, Host, changes};
use vfio_owner::viability::Verdict;

use crate::layout::host;

#[test]
fn grouping_drivers_and_verdicts_that_changed_are_told_and_nothing_else() {
    let before = host(
        "00:01.0 root-port>01 pcieport 1
         01:00.0 vga vfio-pci 1
         01:00.1 audio - 1
         00:03.0 root-port+acs>03 pcieport 2
         03:00.0 nvme nvme 3
         00:1f.4 smbus i801_smbus 4",
    );
    let after = host(
        "00:01.0 root-port>01 pcieport 1
         01:00.0 vga vfio-pci 1
         01:00.1 audio snd_hda_intel 1
         00:03.0 root-port>03 pcieport 2
         03:00.0 nvme nvme 2
         00:1f.5 spi - 4",
    );
    assert_eq!(changes(&before, &before), []);
    let told: Vec<String> = changes(&before, &after).iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "0000:00:1f.5 is new",
            "0000:00:1f.4 has gone",
            "groups were [0000:00:03.0] [0000:03:00.0], are [0000:00:03.0 0000:03:00.0]",
            "0000:01:00.1 was on no driver, is on snd_hda_intel",
            "may 0000:01:00.0 be given to user space: was unknown, is no",
        ]
    );
}

#[test]
fn a_group_of_another_number_is_the_same_group() {
    let table = "00:03.0 root-port+acs>03 pcieport 2\n03:00.0 nvme nvme 3";
    let told = changes(&host(table), &host(&table.replace(" 3", " 9")));
    assert_eq!(told.iter().map(ToString::to_string).collect::<Vec<_>>(), ["group 3 is group 9"]);
}

/// Two groups of so many devices are compared in time and text that grow with the devices, not with their pairs.
#[test]
fn a_large_group_that_falls_apart_is_told_once() {
    const DEVICES: usize = 2000;
    let table = |group: &dyn Fn(usize) -> usize| -> String {
        let line = |number: usize| {
            format!(
                "Group {} {:04x}:{:02x}:{:02x}.0 Ethernet controller\n",
                group(number),
                number / 256,
                number % 256,
                1
            )
        };
        (0..DEVICES).map(line).collect()
    };
    let [together, apart] = [table(&|_| 1), table(&|number| number)].map(|text| text.parse::<Host>().unwrap());
    let told = changes(&together, &apart);
    let [Change::Regrouped { before, after }] = &told[..] else { panic!("{} changes", told.len()) };
    assert_eq!((before.len(), after.len()), (1, DEVICES));
    assert_eq!(before[0].len(), DEVICES);
}

/// The verdicts that are compared are those that an explanation gives.
#[test]
fn verdicts_of_a_change_are_those_of_explanations() {
    for case in crate::corpus::CASES {
        let host = host(case.table);
        for change in changes(&Host::default(), &host) {
            assert!(matches!(change, Change::Added { .. }), "{change}");
        }
        let bare = host.pci.devices.iter().map(|device| device.function.address);
        for device in bare {
            let table = format!("{} {} -", device, "nic -");
            let alone = crate::layout::host(&table);
            let told = changes(&alone, &host).into_iter().find_map(|change| match change {
                Change::Verdict { device: changed, after, .. } if changed == device => Some(after),
                _ => None,
            });
            let verdict = Explanation::of(&host, device).unwrap().by_group.verdict();
            // A device alone and without a group may not be given away.
            assert_eq!(told.unwrap_or(Verdict::NotViable), verdict, "{}: {device}", case.name);
        }
    }
}
