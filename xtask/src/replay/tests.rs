//! What `--check` prints and counts.

use super::*;

/// What is printed for `steps` on the machine `pc`, and the count.
fn played(print: Print, steps: &str) -> (String, Tally) {
    let scenario = Scenario::parse(Path::new("f.scn"), &format!("topology pc\n{steps}")).unwrap();
    let player = player(Machine::boot(&snapshot("pc").unwrap())).unwrap();
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
