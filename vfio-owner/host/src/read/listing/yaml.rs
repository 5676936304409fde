//! YAML in listings, as `pvesh --output-format yaml` and tools that collect facts print it.

use saphyr::{ScalarStyle, Yaml, YamlLoader};
use saphyr_parser::Parser;
use serde_json::Value;

/// The lines from here on that belong to one list or mapping.
pub(super) struct Block<'a> {
    text: &'a str,
    /// An entry is an item of a list: what tools print has some, and lines that people write often have none.
    has_items: bool,
}

impl<'a> Block<'a> {
    /// The block that begins with the first line of `text`, if that is an entry: a key, or a short name in a list. The lines of
    /// one that is no value begin none either, and need not be looked at again.
    pub(super) fn at_start_of(text: &'a str) -> Option<Self> {
        let mut lines = text.split_inclusive('\n');
        let marker = lines.next().filter(|line| line.trim_end() == "---").map_or(0, str::len);
        let mut length = marker;
        let mut first: Option<Entry<'_>> = None;
        let mut has_items = false;
        for line in text.get(marker..)?.split_inclusive('\n') {
            let Some(entry) = Entry::of(line) else { break };
            match &first {
                None if entry.is_item || entry.text.ends_with(':') => {}
                Some(first)
                    if entry.column > first.column || entry.column == first.column && first.may_precede(&entry) => {}
                _ => break,
            }
            has_items |= entry.is_item;
            first.get_or_insert(entry);
            length += line.len();
        }
        first.map(|_| Self { text: text.get(..length).unwrap_or(text), has_items })
    }

    pub(super) const fn len(&self) -> usize {
        self.text.len()
    }

    /// The value that it is, all of it as text; `None` if it only looks like one.
    pub(super) fn value(&self) -> Option<Value> {
        if !self.has_items {
            return None;
        }
        let mut loader = YamlLoader::default();
        // Or `8086` would be a number in decimal.
        loader.early_parse(false);
        Parser::new_from_str(self.text).load(&mut loader, true).ok()?;
        match &loader.into_documents()[..] {
            [document] => Some(value(document)),
            _ => None,
        }
    }
}

/// A line of YAML.
struct Entry<'a> {
    column: usize,
    /// It begins with a dash.
    is_item: bool,
    text: &'a str,
}

impl<'a> Entry<'a> {
    /// A key with or without a value, a list's name of one word, or the `key:` of a list's first entry.
    fn of(line: &'a str) -> Option<Self> {
        let text = line.trim_start_matches(' ');
        let column = line.len() - text.len();
        let mut rest = text.trim_end();
        let is_item = rest.starts_with("- ");
        while let Some(behind) = rest.strip_prefix("- ") {
            rest = behind.trim_start_matches(' ');
        }
        let is_name = is_item && is_word(rest);
        let key = rest.split_once(": ").map_or_else(|| rest.strip_suffix(':'), |(key, _)| Some(key));
        (is_name || key.is_some_and(is_word)).then_some(Self { column, is_item, text: rest })
    }

    /// Whether the other can stand in the same column below it: both are items of a list, or a mapping's keys, of which the last
    /// may have a list in its own column.
    fn may_precede(&self, other: &Self) -> bool {
        !self.is_item || other.is_item
    }
}

/// A word, in quotes or without.
fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains([' ', '\t', '#', '[', '{', '('])
}

fn value(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Sequence(items) => Value::Array(items.iter().map(value).collect()),
        Yaml::Mapping(entries) => {
            let entries = entries.iter().filter_map(|(key, entry)| Some((text(key)?, value(entry))));
            Value::Object(entries.collect())
        }
        scalar => text(scalar).map_or(Value::Null, Value::String),
    }
}

/// The text of a scalar, unless it is null.
fn text(scalar: &Yaml<'_>) -> Option<String> {
    let Yaml::Representation(text, style, _) = scalar else { return None };
    let null = *style == ScalarStyle::Plain && matches!(&**text, "" | "~" | "null");
    (!null).then(|| text.to_string())
}
