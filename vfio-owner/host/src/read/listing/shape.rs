//! What a line is, by its words: a device's, a path, a line of a log, a heading, a command.

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use super::token::{self, Token};

/// What a line with an address is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// The device is what it is about.
    Device,
    /// A path of sysfs.
    Path,
    /// A line of a log.
    Log,
    /// Whatever else has an address in it.
    Mention,
}

/// The devices that a line is about: of a link, what is linked, unless only the target has a name.
pub(super) fn subjects(text: &str) -> Vec<Token<PciAddress>> {
    let all = token::addresses(text);
    let arrow = link(text).unwrap_or(text.len());
    let left: Vec<_> = all.iter().filter(|address| address.place.start < arrow).cloned().collect();
    if left.is_empty() { all } else { left }
}

/// Where the arrow of a link of a file system is.
pub(super) fn link(text: &str) -> Option<usize> {
    let at = text.find("->")?;
    text.get(at + 2..)?.trim_start().starts_with(['.', '/']).then_some(at)
}

pub(super) fn shape(text: &str, first: &Token<PciAddress>) -> Shape {
    const WORDS: [&str; 27] = [
        "device", "devices", "dev", "slot", "pci", "bus", "info", "address", "addr", "id", "bdf", "function", "r",
        "reset", "domain", "vga", "gpu", "name", "dbdf", "d", "n", "busid", "sysfs", "no", "number", "nr", "port",
    ];
    let before = text.get(..first.place.start).unwrap_or_default();
    let after = text.get(first.place.end..).unwrap_or_default();
    let last = before.rsplit([' ', '\t', '"', '\'', '=']).next().unwrap_or_default();
    // `lspci -PP` puts the bridges above in front.
    let bridges = last.contains('/') && last.starts_with(|c: char| c.is_ascii_hexdigit());
    if last.contains('/') && !bridges || link(text).is_some() {
        return Shape::Path;
    }
    let before = if bridges { before.strip_suffix(last).unwrap_or(before) } else { before };
    if text.contains("Adding device ") || text.contains(": Adding to iommu group") || is_told_of(text, first) {
        return Shape::Log;
    }
    let bare = without_brackets(before);
    let known = |word: &str| {
        let lower = word.to_lowercase();
        WORDS.contains(&&*lower) || token::is_group_word(word) || token::is_iommu(word)
    };
    if token::words(&bare).all(|word| known(word.value)) || before.starts_with("P:") {
        return Shape::Device;
    }
    // `vfio-pci 0000:04:00.1: …`
    if after.starts_with(": ") { Shape::Log } else { Shape::Mention }
}

/// Whether what follows an address says of which group it is: `vfio 0000:04:00.0: group 7 is not viable`.
pub(super) fn is_told_of(text: &str, address: &Token<PciAddress>) -> bool {
    let after = text.get(address.place.end..).unwrap_or_default();
    after.starts_with(": group ") || after.starts_with(": failed ") && after.contains(" for group ")
}

/// The text without the marks in brackets in front: ids, and the `[R]` of what can be reset.
pub(super) fn without_marks(text: &str) -> &str {
    let mut rest = text;
    while let Some((mark, after)) = rest.strip_prefix('[').and_then(|inside| inside.split_once(']'))
        && (mark.len() == 1 || token::ids(mark).is_some())
    {
        rest = after.trim_start();
    }
    rest
}

fn without_brackets(text: &str) -> String {
    let mut out = String::new();
    let mut depth = 0_u32;
    for c in text.chars() {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth = depth.saturating_sub(1),
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out
}

/// Whether a line is a device's.
pub(super) fn names_device(text: &str) -> bool {
    subjects(text).first().is_some_and(|first| matches!(shape(text, first), Shape::Device | Shape::Path))
}

/// Whether a line with a group has nothing else to say.
pub(super) fn is_heading(text: &str) -> bool {
    // Whatever the group is called stands behind a colon or in brackets.
    let front = text.split(['(', '[']).next().unwrap_or_default();
    let front = front.split_once(": ").map_or(front, |(front, _)| front);
    let in_list = front.strip_prefix("/sys/kernel/iommu_groups/").is_some_and(|rest| rest.parse::<u32>().is_ok());
    let path =
        in_list || front.contains('/') && (front.ends_with(':') || front.ends_with("devices") || front.ends_with('/'));
    let word = |word: &str| {
        let lower = word.to_lowercase();
        token::is_group_word(word)
            || token::is_iommu(word)
            || matches!(
                &*lower,
                "number" | "no" | "nr" | "id" | "num" | "devices" | "in" | "of" | "the" | "vfio" | "pci"
            )
    };
    path || !front.trim().is_empty() && token::words(front).all(|token| word(token.value))
}

/// Whether a line that names a group is a sentence.
pub(super) fn is_prose(text: &str) -> bool {
    token::words(text).count() > 4
}

/// Whether somebody says that something is not so, or asks it.
pub(super) fn is_denied(text: &str) -> bool {
    const WORDS: [&str; 12] =
        ["not", "never", "should", "must", "isn", "wasn", "aren", "doesn", "same", "was", "were", "why"];
    text.ends_with('?') || token::words(text).any(|word| WORDS.contains(&&*word.value.to_ascii_lowercase()))
}

/// Whether somebody says something: more words than a broken line has, or a sign at the end.
pub(super) fn is_sentence(text: &str) -> bool {
    text.ends_with(['.', ':', '?', '!']) || is_prose(text) && !text.ends_with([']', ')'])
}

/// Whether a line stands for lines that were left out.
pub(super) fn is_elision(text: &str) -> bool {
    const WORDS: [&str; 8] = ["snip", "snipped", "cut", "omitted", "truncated", "skipped", "etc", "output"];
    let lower = text.to_ascii_lowercase();
    let dots = text.contains("...") || text.contains('…');
    let bracketed = text.starts_with(['<', '[', '(']) && token::words(&lower).next().is_some();
    let all_known = token::words(&lower).all(|word| WORDS.contains(&word.value)) && !has_number(text);
    // `grep -A` draws a line where it leaves some out.
    matches!(&*lower, "--" | "snip" | "snipped") || (dots || bracketed) && all_known
}

/// Whether a line that was not understood may begin another group.
pub(super) fn looks_like_heading(text: &str) -> bool {
    let numbered = text.trim_matches(['[', ']', '(', ')', ':', '#', ' ']).parse::<u32>().is_ok();
    let short = token::words(text).count() <= 4;
    numbered || short && token::words(text).any(|word| token::is_group_word(word.value) || token::is_iommu(word.value))
}

pub(super) fn has_number(text: &str) -> bool {
    text.contains(|c: char| c.is_ascii_digit())
}

/// In which column of a table without lines the group stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum GroupColumn {
    First,
    /// Behind the device's address.
    Second,
}

impl GroupColumn {
    /// Reads the heading of such a table.
    pub(super) fn of_heading(text: &str) -> Option<Self> {
        const DEVICE: [&str; 6] = ["addr", "bdf", "slot", "device", "pci", "vendor"];
        let words: Vec<String> = token::words(text).map(|word| word.value.to_ascii_lowercase()).collect();
        let is_group = |words: &[String]| match words {
            [first, ..] if token::is_group_word(first) => true,
            [first, second, ..] => token::is_iommu(first) && token::is_group_word(second),
            _ => false,
        };
        let is_device = |word: &String| DEVICE.iter().any(|part| word.contains(part));
        match &words[..] {
            _ if has_number(text) => None,
            words if is_group(words) && words.iter().any(is_device) => Some(Self::First),
            [first, rest @ ..] if is_device(first) || first == "id" => {
                (is_group(rest) && rest.iter().any(is_device)).then_some(Self::Second)
            }
            _ => None,
        }
    }

    /// The group in a device's line.
    pub(super) fn group(self, text: &str, device: &Token<PciAddress>) -> Option<u32> {
        let text = match self {
            Self::First => text,
            Self::Second => text.get(device.place.end..)?,
        };
        text.split_whitespace().next()?.parse().ok()
    }
}

/// Whether a line has names of devices and nothing else: such a name has a digit.
pub(super) fn lists_names(text: &str) -> bool {
    text.split_whitespace().all(|name| name.contains(|c: char| c.is_ascii_digit()) && !name.ends_with([':', ',', ')']))
}
