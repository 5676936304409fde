//! Kinds of devices in words, as `lspci` writes them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use pci_ids::{Class, Classes};

use super::token;

/// The classes by name, in lower case: base class and subclass.
static CLASSES: LazyLock<BTreeMap<String, u32>> = LazyLock::new(|| {
    let mut names = BTreeMap::new();
    for class in Classes::iter() {
        for subclass in class.subclasses() {
            let code = u32::from(class.id()) << 8 | u32::from(subclass.id());
            names.entry(subclass.name().to_lowercase()).or_insert(code);
        }
    }
    for class in Classes::iter() {
        names.entry(Class::name(class).to_lowercase()).or_insert(u32::from(class.id()) << 8 | OTHER);
    }
    names
});

/// The subclass of what is in no other.
const OTHER: u32 = 0x80;

/// Returns the class of this name.
pub(super) fn class_code(name: &str) -> Option<u32> {
    CLASSES.get(&name.trim().to_lowercase()).copied()
}

/// Returns the class whose name a text begins with, the longest, and the rest of the text.
pub(super) fn leading_class(text: &str) -> Option<(u32, &str)> {
    let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    let is_end =
        |at: &usize| text.get(*at..).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'));
    // No name is longer.
    let ends: Vec<usize> = ends.take(64).filter(is_end).collect();
    let (code, rest) =
        ends.into_iter().rev().find_map(|end| Some((class_code(text.get(..end)?)?, text.get(end..)?)))?;
    // An IOMMU is a device as well.
    let is_group = token::words(rest).next().is_some_and(|word| token::is_group_word(word.value));
    (!is_group).then_some((code, rest))
}
