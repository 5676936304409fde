//! A line, without what mail, terminals and markup add to it.

use super::token;

/// A line of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    /// Which, counted from 1.
    pub(super) number: usize,
    /// In which column its text begins.
    pub(super) indent: usize,
    /// Its text, without space around; empty for a blank line.
    pub(super) text: String,
}

/// Characters that draw trees: they indent what they lead to.
const BRANCHES: [char; 8] = ['├', '└', '│', '─', '┬', '`', '|', '+'];

/// Entities that forums leave behind.
const ENTITIES: [(&str, &str); 5] = [("&gt;", ">"), ("&lt;", "<"), ("&quot;", "\""), ("&nbsp;", " "), ("&amp;", "&")];

impl Line {
    pub(super) fn new(number: usize, raw: &str) -> Self {
        let mut text = without_escapes(raw);
        if text.contains('&') {
            for (entity, meaning) in ENTITIES {
                text = text.replace(entity, meaning);
            }
        }
        if text.contains("\\:") {
            // Shells complete the colons of an address so.
            text = text.replace("\\:", ":");
        }
        if text.contains("</td>") || text.contains("</th>") {
            text = without_tags(&text);
        }
        let plain: String = text.chars().filter_map(plain).collect();
        let unquoted = without_quotes(&plain);
        let (indent, text) = indented(without_box(unquoted));
        Self { number, indent, text: text.trim_end().to_owned() }
    }

    /// Divides a line that has lost its line breaks: each group that devices follow begins a line of its own.
    pub(super) fn divided(self) -> Vec<Self> {
        let addresses = token::addresses(&self.text);
        let groups = token::groups(&self.text, &addresses);
        let places = |from: usize, to: usize| addresses.iter().any(|found| (from..to).contains(&found.place.start));
        let ends = groups.iter().skip(1).map(|group| group.place.start).chain([self.text.len()]);
        let each_leads = groups.iter().zip(ends).all(|(group, end)| places(group.place.end, end));
        let leading = groups.first().is_some_and(|first| !places(0, first.place.start));
        if groups.len() < 2 || !each_leads || !leading {
            return vec![self];
        }
        let mut cuts: Vec<usize> =
            groups.iter().skip(1).map(|group| start_of_heading(&self.text, group.place.start)).collect();
        cuts.push(self.text.len());
        let mut from = 0;
        let parts = cuts.into_iter().map(|to| {
            let text = self.text.get(from..to).unwrap_or_default().trim().to_owned();
            from = to;
            Self { number: self.number, indent: self.indent, text }
        });
        parts.filter(|part| !part.text.is_empty()).collect()
    }

    /// Whether it ends with the words for an IOMMU group, behind other words.
    pub(super) fn lacks_number(&self) -> bool {
        let mut words = self.text.rsplitn(3, ' ');
        let [group, iommu, rest] = [words.next(), words.next(), words.next()];
        group.is_some_and(token::is_group_word) && iommu.is_some_and(token::is_iommu) && rest.is_some()
    }

    /// Whether it is drawn, not written: a border, or a row of dashes.
    pub(super) fn is_border(&self) -> bool {
        !self.text.is_empty() && self.text.chars().all(|c| !c.is_alphanumeric())
    }
}

/// A row of a table in HTML, its cells between bars.
fn without_tags(row: &str) -> String {
    let mut out = String::with_capacity(row.len());
    for (at, part) in row.split('<').enumerate() {
        let (tag, text) = if at == 0 { ("", part) } else { part.split_once('>').unwrap_or((part, "")) };
        if matches!(tag, "/td" | "/th") {
            out.push('|');
        }
        out.push_str(text);
    }
    out
}

/// Where the heading begins of which this is the word for a group: `IOMMU Group 3`.
fn start_of_heading(text: &str, group: usize) -> usize {
    let word = |end: usize| {
        let front = text.get(..end).unwrap_or_default();
        front.rfind(char::is_whitespace).map_or(0, |space| space + 1)
    };
    let start = word(group);
    let front = text.get(..start).unwrap_or_default().trim_end();
    let before = word(front.len());
    let is_iommu = front.get(before..).is_some_and(token::is_iommu);
    if is_iommu { before } else { start }
}

/// The text without what colours it: escape sequences, whole, written out as `^[`, or with their first character lost.
fn without_escapes(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find(['\u{1b}', '^', '[', '\\']) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let introduced = ["\u{1b}", "^[", "\\e", "\\033", "\\x1b"].iter().find_map(|start| after.strip_prefix(start));
        let sequence = introduced.unwrap_or(after).strip_prefix('[').and_then(|body| {
            let end = body.find(|c: char| !c.is_ascii_digit() && c != ';')?;
            let last = body.get(end..)?.chars().next()?;
            // Without its beginning, only a colour is told from text in brackets.
            let is_sequence = if introduced.is_some() { last.is_ascii_alphabetic() } else { last == 'm' };
            is_sequence.then(|| body.get(end + last.len_utf8()..).unwrap_or_default())
        });
        let skipped = after.chars().next().map_or(0, char::len_utf8);
        rest = match (sequence, introduced) {
            (Some(rest), _) => rest,
            // No escape sequence that a terminal would obey is left.
            (None, Some(rest)) if after.starts_with('\u{1b}') => rest,
            (None, _) => {
                out.push_str(after.get(..skipped).unwrap_or_default());
                after.get(skipped..).unwrap_or_default()
            }
        };
    }
    out.push_str(rest);
    out
}

fn plain(c: char) -> Option<char> {
    match c {
        '\t' => Some(c),
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => None,
        c if c.is_whitespace() => Some(' '),
        c if c.is_control() => None,
        c => Some(c),
    }
}

/// The text behind the signs of quoted mail.
fn without_quotes(text: &str) -> &str {
    let mut rest = text;
    loop {
        let Some(quoted) = rest.trim_start_matches(' ').strip_prefix('>') else { return rest };
        rest = quoted.strip_prefix(' ').unwrap_or(quoted);
    }
}

/// The text in a box, between two bars.
fn without_box(text: &str) -> &str {
    let bars = ['│', '┃', '║', '|'];
    let inner = text.trim().strip_prefix(bars).and_then(|rest| rest.strip_suffix(bars));
    inner.filter(|inner| !inner.contains(bars)).map_or(text, str::trim)
}

/// The column in which the text begins, and the text, without bullets, branches and other markup.
fn indented(text: &str) -> (usize, &str) {
    let written = text.contains(char::is_alphanumeric);
    let drawn = written && ["├", "└", "|--", "`--", "+--", "\\_"].iter().any(|branch| text.contains(branch));
    let mut column = 0;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        column = match c {
            '\t' => column / 8 * 8 + 8,
            ' ' => column + 1,
            c if drawn && (BRANCHES.contains(&c) || c == '-' || c == '\\' || c == '_') => column + 1,
            // A bullet or a heading of Markdown; the sign of a heading does not indent.
            '*' | '-' | '•' | '·' | '–' | '+' if is_spaced(rest, c) => column + 1,
            '#' | '=' | '`' => column,
            '*' | '~' if column == 0 => column,
            _ => break,
        };
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    (column, rest.trim_end_matches(['#', '=', '*', '`', '~', ' ', '\t', '\\']))
}

/// Whether a space follows the first character.
fn is_spaced(text: &str, first: char) -> bool {
    text.get(first.len_utf8()..).is_some_and(|rest| rest.starts_with([' ', '\t']))
}
