//! What `--check` prints and counts.

use super::*;

/// What is printed for `steps` on the machine `pc`, and the count.
fn played(replay: &Replay, steps: &str) -> (String, Tally) {
    let scenario = Scenario::parse(Path::new("f.scn"), &format!("topology pc\n{steps}")).unwrap();
    let player = Player::new(Machine::boot(&snapshot("pc").unwrap())).unwrap();
    let (mut out, mut tally) = (Vec::new(), Tally::default());
    replay.play(&scenario, player, &mut tally, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), tally)
}

const CHECK: Replay = Replay { check: true, files: Vec::new() };

#[test]
fn a_step_that_differs_is_shown_with_both_answers() {
    let (printed, tally) = played(&CHECK, "rescan -> ok\ndriver 0000:00:03.0 -> ok none  # wrong\ni = iommufd -> ok\n");
    let differs = "f.scn:3: driver 0000:00:03.0\n    recorded: ok none\n    ours:     ok e1000e\n";
    assert_eq!(printed, differs);
    assert_eq!((tally.files, tally.steps, tally.agree, tally.differ), (1, 3, 2, 1));
}

#[test]
fn without_check_a_file_prints_with_our_answers() {
    let (printed, _) = played(&Replay { check: false, ..CHECK }, "driver 0000:00:03.0 -> ok none  # wrong\n");
    assert_eq!(printed, format!("topology pc\n{:<44} -> ok e1000e  # wrong\n", "driver 0000:00:03.0"));
}
