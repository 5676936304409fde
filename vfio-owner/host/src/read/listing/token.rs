//! What a text names: PCI functions, groups, ids.

use std::ops::Range;

use vfio_owner::iommu_core::device_model::pci::PciAddress;

use crate::Fact;

/// Something that a text names, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Token<T> {
    pub(super) value: T,
    pub(super) place: Range<usize>,
}

/// The PCI functions that a text names, in order. Of a path, the last counts.
pub(super) fn addresses(text: &str) -> Vec<Token<PciAddress>> {
    let bytes = text.as_bytes();
    let mut found: Vec<Token<PciAddress>> = Vec::new();
    for (dot, _) in text.match_indices('.') {
        let Some(token) = address_around(text, dot) else { continue };
        // `lspci -P` gives only slot and function of what is behind a bridge: whatever it is, it is not the bridge.
        let rest = bytes.get(token.place.end..).unwrap_or_default();
        // Through links of a device, a path leads to another one.
        if is_slot(rest) || rest.starts_with(b"/virtfn") || rest.starts_with(b"/physfn/") {
            continue;
        }
        add(&mut found, text, token);
    }
    for (at, _) in text.match_indices("pci_") {
        if let Some(token) = node_name(text, at) {
            add(&mut found, text, token);
        }
    }
    found
}

/// The bridges that a path of sysfs leads through: devices with one on another bus in their folder.
pub(super) fn bridges(text: &str) -> impl Iterator<Item = PciAddress> {
    let steps: Vec<Option<PciAddress>> = text.split('/').map(|step| step.parse().ok()).collect();
    let pairs: Vec<_> = steps.windows(2).filter_map(|pair| Some((*pair.first()?)?).zip(*pair.get(1)?)).collect();
    pairs.into_iter().filter(|(above, below)| above.bus() != below.bus()).map(|(above, _)| above)
}

fn add(found: &mut Vec<Token<PciAddress>>, text: &str, mut token: Token<PciAddress>) {
    if let Some(last) = found.last()
        && text
            .get(last.place.end..token.place.start)
            .is_some_and(|between| between.starts_with('/') && !between.contains(char::is_whitespace))
    {
        // `lspci -PP` gives the domain once.
        if token.value.domain() == 0 {
            token.value = PciAddress::new(last.value.domain(), token.value.bus(), token.value.devfn());
        }
        found.pop();
    }
    found.push(token);
}

/// The address whose function stands behind this dot.
fn address_around(text: &str, dot: usize) -> Option<Token<PciAddress>> {
    let bytes = text.as_bytes();
    let end = dot.checked_add(2)?;
    let is_word =
        |place: Option<usize>| place.and_then(|place| bytes.get(place)).is_some_and(u8::is_ascii_alphanumeric);
    let bus = dot.checked_sub(5)?;
    if is_word(Some(end)) || bytes.get(dot - 3) != Some(&b':') {
        return None;
    }
    let mut start = bus;
    if let Some(colon) = bus.checked_sub(1)
        && bytes.get(colon) == Some(&b':')
    {
        let digits = bytes.get(..colon)?.iter().rev().take_while(|byte| byte.is_ascii_hexdigit()).count();
        // A time is no address.
        if digits == 0 && bytes.get(colon.wrapping_sub(1)).is_none_or(|byte| !byte.is_ascii_digit()) {
            start = bus;
        } else if (4..=8).contains(&digits) {
            start = colon - digits;
        } else {
            return None;
        }
    }
    if is_word(start.checked_sub(1)) {
        return None;
    }
    let value = text.get(start..end)?.parse().ok()?;
    Some(Token { value, place: start..end })
}

/// Whether a slash, a slot and a function follow, without a bus.
fn is_slot(rest: &[u8]) -> bool {
    matches!(rest, [b'/', tens, ones, b'.', function, ..]
        if tens.is_ascii_hexdigit() && ones.is_ascii_hexdigit() && function.is_ascii_digit())
}

/// An address as libvirt and udev make names of it: `pci_0000_07_10_7`.
fn node_name(text: &str, at: usize) -> Option<Token<PciAddress>> {
    let name = text.get(at + 4..)?;
    let length = name.find(|c: char| !c.is_ascii_hexdigit() && c != '_').unwrap_or(name.len());
    let mut parts = name.get(..length)?.split('_');
    let [domain, bus, slot, function] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let value = format!("{domain}:{bus}:{slot}.{function}").parse().ok()?;
    if parts.next().is_some() {
        return None;
    }
    Some(Token { value, place: at..at + 4 + length })
}

/// The groups that a text names: a number behind the word, however it is spelt; none where the number is -1.
pub(super) fn groups(text: &str, addresses: &[Token<PciAddress>]) -> Vec<Token<Fact<u32>>> {
    let mut found = Vec::new();
    for Token { value: word, place } in words(text) {
        if !is_group_word(word) {
            continue;
        }
        let Some(rest) = text.get(place.end..) else { continue };
        let Some((value, length)) = number_behind(rest) else { continue };
        let end = place.end + length;
        if addresses.iter().all(|address| !address.place.contains(&end.saturating_sub(1))) {
            found.push(Token { value, place: place.start..end });
        }
    }
    // `find` and `ls` in the folder of the groups: `./12/devices/0000:01:00.0`
    for (at, _) in text.match_indices("/devices") {
        let front = text.get(..at).unwrap_or_default();
        let digits = front.bytes().rev().take_while(u8::is_ascii_digit).count();
        let begins = front.get(..at - digits).is_some_and(|front| front.is_empty() || front.ends_with(['/', ' ']));
        if let Some(number) = front.get(at - digits..).and_then(|digits| digits.parse().ok()).filter(|_| begins) {
            found.push(Token { value: Fact::Is(number), place: at - digits..at });
        }
    }
    for (at, path) in text.match_indices("/dev/vfio/") {
        let rest = text.get(at + path.len()..).unwrap_or_default();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if let Some(number) = rest.get(..digits).and_then(|digits| digits.parse().ok()) {
            found.push(Token { value: Fact::Is(number), place: at..at + path.len() + digits });
        }
    }
    found
}

/// The words of a text: runs of letters.
pub(super) fn words(text: &str) -> impl Iterator<Item = Token<&str>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + text.get(from..)?.find(char::is_alphabetic)?;
        let rest = text.get(start..)?;
        let length = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        from = start + length;
        Some(Token { value: rest.get(..length)?, place: start..from })
    })
}

/// The number behind the word for a group, and where it ends.
fn number_behind(rest: &str) -> Option<(Fact<u32>, usize)> {
    const BETWEEN: [char; 18] =
        ['°', 'º', ' ', '\t', ':', '=', '#', '"', '\'', '_', '-', '>', '/', '(', '[', '.', '№', '*'];
    const WORDS: [&str; 8] = ["number", "no", "nr", "num", "id", "iommu", "n", "nummer"];
    let mut at = 0;
    for _ in 0..=3 {
        at += rest.get(at..)?.find(|c| !BETWEEN.contains(&c))?;
        let word = words(rest.get(at..)?).next().filter(|word| word.place.start == 0);
        match word {
            Some(word) if WORDS.contains(&&*word.value.to_ascii_lowercase()) => at += word.place.end,
            Some(_) => return None,
            None => break,
        }
    }
    let digits = rest.get(at..)?.bytes().take_while(u8::is_ascii_digit).count();
    let end = at + digits;
    let number: u32 = rest.get(at..end)?.parse().ok()?;
    if rest.get(end..)?.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
        return None;
    }
    // Proxmox writes -1 for none.
    let negative = number == 1 && at > 1 && rest.get(..at)?.ends_with('-') && !rest.get(..at)?.ends_with("--");
    Some((if negative { Fact::Absent } else { Fact::Is(number) }, end))
}

/// Whether a word is one for a group, slips of the pen and other languages included.
pub(super) fn is_group_word(word: &str) -> bool {
    const OTHERS: [&str; 8] = ["группа", "группы", "група", "グループ", "그룹", "skupina", "groep", "ryhmä"];
    let lower = word.to_lowercase();
    if lower.ends_with('组') || lower.ends_with('組') || OTHERS.contains(&&*lower) {
        return true;
    }
    let bare = lower.find('g').filter(|at| *at > 0 && is_iommu(lower.get(..*at).unwrap_or_default()));
    let bare = bare.and_then(|at| lower.get(at..)).unwrap_or(&lower);
    let bare = bare.strip_suffix(['s', 'e']).unwrap_or(bare);
    match bare {
        "group" | "grp" | "grupp" | "grupo" | "group_" | "gruppo" | "grupa" | "gruop" => true,
        other => other.starts_with('g') && other.len() >= 4 && is_slip_of(other, "group"),
    }
}

/// Whether a word is the one for an IOMMU, slips included.
pub(super) fn is_iommu(word: &str) -> bool {
    let lower = word.to_lowercase();
    lower == "iommu" || is_slip_of(&lower, "iommu")
}

/// Whether one letter too many, missing, wrong, or two swapped make the difference.
fn is_slip_of(word: &str, right: &str) -> bool {
    let (word, right): (Vec<char>, Vec<char>) = (word.chars().collect(), right.chars().collect());
    let front = word.iter().zip(&right).take_while(|(one, other)| one == other).count();
    let [a, b] = [&word, &right].map(|letters| letters.get(front..).unwrap_or_default());
    match (a, b) {
        ([], []) => true,
        ([_, a @ ..], b) if a == b => true,
        (a, [_, b @ ..]) if a == b => true,
        ([_, a @ ..], [_, b @ ..]) if a == b => true,
        ([a1, a2, a @ ..], [b1, b2, b @ ..]) => a == b && a1 == b2 && a2 == b1,
        _ => false,
    }
}

/// A hexadecimal number of four digits.
pub(super) fn hex4(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let plain = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if plain { u16::from_str_radix(digits, 16).ok() } else { None }
}

/// The number of a class, base class and subclass; behind them may be the interface, which is left out.
pub(super) fn class_number(text: &str) -> Option<u32> {
    let text = text.trim_matches(['[', ']', '`', ' ']);
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let number = u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
    match digits.len() {
        4 => Some(number),
        6 => Some(number >> 8),
        _ => None,
    }
}

/// The ids `10de:1b80` of a text, the last first in brackets, else free-standing.
pub(super) fn ids(text: &str) -> Option<(u16, u16)> {
    let pair = |text: &str| {
        let (vendor, device) = text.split_once(':')?;
        Some((hex4(vendor)?, hex4(device)?))
    };
    let bracketed = text.rsplit('[').find_map(|part| pair(part.split_once(']')?.0));
    bracketed.or_else(|| text.split([' ', '\t', '=', '(', ')', '"', '\'', '|', ',']).find_map(pair))
}
