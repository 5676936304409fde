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

const CHECK: Replay = Replay { check: true, allow_unknown: false, machine_only: false, files: Vec::new() };
/// One step that agrees, one that differs, one not known yet, and one that agrees behind it.
const STEPS: &str = "rescan -> ok\ndriver 0000:00:03.0 -> ok none  # wrong\ni = iommufd -> ok\nrescan -> ok\n";

#[test]
fn a_step_that_differs_is_shown_with_both_answers() {
    let (printed, tally) = played(&CHECK, STEPS);
    let differs = "f.scn:3: driver 0000:00:03.0\n    recorded: ok none\n    ours:     ok e1000e\n";
    assert!(printed.starts_with(differs), "{printed}");
    assert_eq!((tally.files, tally.steps, tally.agree, tally.differ, tally.unknown), (1, 4, 2, 1, 1));
}

#[test]
fn machine_only_ends_at_the_first_step_of_another_layer() {
    let (_, tally) = played(&Replay { machine_only: true, ..CHECK }, STEPS);
    assert_eq!((tally.steps, tally.agree, tally.differ, tally.unknown, tally.left_out), (2, 1, 1, 0, 2));
}

#[test]
fn without_check_a_file_prints_with_our_answers() {
    let (printed, _) = played(&Replay { check: false, ..CHECK }, "driver 0000:00:03.0 -> ok none  # wrong\n");
    assert_eq!(printed, format!("topology pc\n{:<44} -> ok e1000e  # wrong\n", "driver 0000:00:03.0"));
}
