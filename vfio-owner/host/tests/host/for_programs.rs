//! What other programs, and shells, get from the program.

use std::process::Command;

use serde_json::Value;

use crate::disk::{Links, lay};
use crate::layout::{GRAPHICS_CARD, tree};
use crate::program::run;

#[test]
fn errors_are_json_where_answers_are() {
    let folder = lay(&tree(GRAPHICS_CARD), Links::Text);
    let dir = folder.path().to_str().unwrap();
    for (arguments, code) in [
        (&["explain", "7f:00.0"][..], 2),
        (&["explain", "group:99"], 2),
        (&["plan", "00:17.0"], 1),
        (&["plan", "7f:00.0"], 2),
        (&["undo"], 1),
        (&["apply", "/nonexistent"], 2),
        (&["frobnicate"], 2),
        (&["plan"], 2),
        (&["diff", "/nonexistent", "/nonexistent"], 2),
    ] {
        let result = run(&[arguments, &["--json", "--sysfs", dir]].concat());
        assert_eq!(result.code, code, "{arguments:?}: {}", result.out);
        let told: Value = serde_json::from_str(&result.out).unwrap_or_else(|_| panic!("{arguments:?}: {}", result.out));
        assert!(told["error"]["message"].as_str().is_some_and(|error| !error.is_empty()), "{arguments:?}: {told}");
        assert!(told["schema"].is_u64() && result.err.is_empty(), "{arguments:?}: {told} {}", result.err);
    }
}

#[test]
fn an_error_is_said_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "nothing that names a device\n").unwrap();
    let path = file.path().to_str().unwrap();
    for arguments in
        [&["list", "--from", path][..], &["list", "--from", "/nonexistent"], &["list", "--sysfs", "/nonexistent"]]
    {
        let told = run(arguments).err;
        let said = told.trim().trim_start_matches("vfio-host: ").to_owned();
        let parts: Vec<&str> = said.split(": ").collect();
        let distinct: std::collections::BTreeSet<&&str> = parts.iter().collect();
        assert_eq!(parts.len(), distinct.len(), "{told}");
        assert_eq!(told.matches(arguments[2]).count(), 1, "{told}");
    }
}

#[test]
fn an_error_in_json_names_what_is_missing() {
    let told: Value = serde_json::from_str(&run(&["plan", "--json"]).out).unwrap();
    let message = told["error"]["message"].as_str().unwrap();
    assert!(message.contains("required") && message.contains("<DEVICES>"), "{message}");
}

/// A process that was started to open a file for a moment does nothing else.
#[test]
fn a_trial_is_made_by_the_program_started_again() {
    let trial = |asked: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_vfio-host"));
        let output = program.args(["list"]).env("VFIO_HOST_TRIAL", asked).output().unwrap();
        (output.status.code(), output.stdout.is_empty() && output.stderr.is_empty())
    };
    assert_eq!(trial("disk /dev/null"), (Some(0), true));
    assert_eq!(trial("group /nonexistent"), (Some(17), true));
}

/// What bash offers behind these words.
fn offered(words: &[&str]) -> Vec<String> {
    const ASK: &str = r#"
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        ask=$(complete -p vfio-host | sed 's/.*-F \([^ ]*\).*/\1/')
        "$ask" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), run(&["completions", "bash"]).out).unwrap();
    let output = Command::new("bash").args(["-c", ASK, "bash"]).arg(script.path()).args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(ToOwned::to_owned).collect()
}

#[test]
fn bash_completes_subcommands_and_their_options() {
    for (words, option) in [
        (&["vfio-host", "pl"][..], "plan"),
        (&["vfio-host", "plan", "--"], "--allow"),
        (&["vfio-host", "plan", "--scr"], "--script"),
        (&["vfio-host", "--json", "undo", "--"], "--journal"),
        (&["vfio-host", "completions", ""], "fish"),
        (&["vfio-host", "tool", "l"], "libvirt"),
    ] {
        let offered = offered(words);
        assert!(offered.iter().any(|word| word == option), "{words:?}: {offered:?}");
    }
}

#[test]
fn there_is_a_man_page_for_the_program_and_each_verb() {
    let folder = tempfile::TempDir::new().unwrap();
    assert_eq!(run(&["man", folder.path().to_str().unwrap()]).code, 0);
    for (page, words) in
        [("vfio-host.1", "Exit codes"), ("vfio-host-plan.1", "--allow"), ("vfio-host-undo.1", "--journal")]
    {
        let text = std::fs::read_to_string(folder.path().join(page)).unwrap().replace("\\-", "-");
        assert!(text.starts_with(".ie") || text.contains(".TH"), "{page}: {text}");
        assert!(text.contains(words), "{page}: {text}");
    }
}

#[test]
fn a_hundred_columns_hold_everything() {
    let folder = lay(&tree(GRAPHICS_CARD), Links::Text);
    let dir = folder.path().to_str().unwrap();
    let verbs = [
        "list",
        "candidates",
        "explain",
        "plan",
        "apply",
        "undo",
        "ready",
        "tool",
        "persist",
        "snapshot",
        "draw",
        "diff",
    ];
    let helps = verbs.map(|verb| vec![verb, "--help"]);
    let answers = [
        vec!["--help"],
        vec!["list"],
        vec!["explain"],
        vec!["candidates"],
        vec!["plan", "00:17.0"],
        vec!["plan", "01:00"],
        vec!["ready", "01:00"],
    ];
    for arguments in helps.iter().chain(&answers) {
        let asks_for_help = arguments.contains(&"--help");
        let source: &[&str] = if asks_for_help { &[] } else { &["--sysfs", dir] };
        let result = run(&[arguments, source].concat());
        for line in result.out.lines().chain(result.err.lines()) {
            assert!(line.chars().count() <= 100, "{arguments:?}: {line}");
        }
        assert!(!(result.out + &result.err).is_empty(), "{arguments:?}");
    }
}
