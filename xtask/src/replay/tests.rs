//! What `--check` prints and counts.

use super::*;

/// What is printed for `steps` on the machine `pc`, and the count.
fn played(print: Print, steps: &str) -> (String, Tally) {
    let scenario = Scenario::parse(Path::new("f.scn"), &format!("topology pc\n{steps}")).unwrap();
    let player = player(Machine::boot(&snapshot("pc").unwrap()), Resume::AtOnce).unwrap();
    let (mut out, mut tally) = (Vec::new(), Tally::default());
    tally.play(&scenario, player, print, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), tally)
}

#[test]
fn a_step_that_differs_is_shown_with_both_answers() {
    let steps = "rescan -> ok\ndriver 0000:00:03.0 -> ok none  # wrong\ni = iommufd -> ok\nclose x -> EBADF\n";
    let (printed, tally) = played(Print::Differences, steps);
    let differs = "f.scn:3: driver 0000:00:03.0\n    recorded: ok none\n    ours:     ok e1000e\n";
    assert_eq!(printed, differs);
    assert_eq!(tally, Tally { files: 1, steps: 4, agree: 3, differ: 1, reached: 3, broken: 0 });
}

#[test]
fn without_check_a_file_prints_with_our_answers() {
    let (printed, _) = played(Print::Everything, "driver 0000:00:03.0 -> ok none  # wrong\n");
    assert_eq!(printed, format!("topology pc\n{:<44} -> ok e1000e  # wrong\n", "driver 0000:00:03.0"));
}

#[test]
fn an_unbind_may_end_at_once_or_when_it_is_waited_for() {
    let steps = |group: &str| {
        format!(
            "topology pc\nbind 0000:00:05.0 vfio-pci -> ok\nv = cdev 0000:00:05.0 -> ok\nunbind 0000:00:05.0 & -> blocked\n\
             close v -> ok\ng = group 0000:00:05.0 -> {group}\nwait -> ok\nh = group 0000:00:05.0 -> ENOENT\n"
        )
    };
    let topology = Topology::of("pc").unwrap();
    for group in ["ok", "ENOENT"] {
        let scenario = Scenario::parse(Path::new("f.scn"), &steps(group)).unwrap();
        let mut tally = Tally::default();
        play(&scenario, &topology, Print::Differences, &mut tally, &mut Vec::new()).unwrap();
        assert_eq!((tally.files, tally.steps, tally.differ), (1, 7, 0), "{group}");
    }
}
