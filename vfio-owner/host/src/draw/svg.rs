//! Shapes and texts as SVG.

use std::fmt::Write as _;

/// A colour, as SVG writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Colour(&'static str);

impl Colour {
    pub(super) const INK: Self = Self("#1f2430");
    pub(super) const FAINT: Self = Self("#5b6472");
    pub(super) const PAPER: Self = Self("#ffffff");
    pub(super) const RED: Self = Self("#c62828");
    pub(super) const AMBER: Self = Self("#b26a00");
    pub(super) const GREEN: Self = Self("#2e7d32");
    pub(super) const GREY: Self = Self("#78828f");
    pub(super) const LINE: Self = Self("#8a94a3");
}

/// A hue of areas: fill and border.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hue(&'static str, &'static str);

/// Hues that are told apart by people who do not see all colours; none is red or green.
const HUES: [Hue; 6] = [
    Hue("#e8f0fe", "#a9c4f5"),
    Hue("#fff4dc", "#ecd08a"),
    Hue("#eee9fb", "#c3b4ee"),
    Hue("#e2f4f5", "#9ad3d7"),
    Hue("#fbeaf3", "#eab3d1"),
    Hue("#eef0f3", "#c3c9d2"),
];

impl Hue {
    /// The hue of the `n`-th group.
    pub(super) fn of(n: usize) -> Self {
        HUES.get(n % HUES.len()).copied().unwrap_or(Self("none", "none"))
    }
}

/// How a text is set.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Font {
    pub(super) size: f64,
    pub(super) bold: bool,
    pub(super) mono: bool,
}

impl Font {
    /// How wide a text is at most: the fonts at hand differ, so wide ones are assumed.
    pub(super) fn width(self, text: &str) -> f64 {
        let one = if self.mono || self.bold { 0.64 } else { 0.58 };
        f64::from(u32::try_from(text.chars().count()).unwrap_or(u32::MAX)) * one * self.size
    }

    /// The text, cut to a width with an ellipsis.
    pub(super) fn cut(self, text: &str, width: f64) -> String {
        if self.width(text) <= width {
            return text.to_owned();
        }
        let mut kept = String::new();
        for letter in text.chars() {
            kept.push(letter);
            if self.width(&kept) + self.width("\u{2026}") > width {
                kept.pop();
                break;
            }
        }
        kept.truncate(kept.trim_end().len());
        kept + "\u{2026}"
    }

    /// The text in lines of a width, broken at spaces.
    pub(super) fn wrap(self, text: &str, width: f64) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            match lines.last_mut() {
                Some(line) if self.width(line) + self.width(" ") + self.width(word) <= width => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(self.cut(word, width)),
            }
        }
        lines
    }
}

/// A picture that is being drawn.
#[derive(Default)]
pub(super) struct Svg(String);

impl Svg {
    /// A text that begins at `x`.
    pub(super) fn text(&mut self, x: f64, y: f64, font: Font, colour: Colour, text: &str) {
        self.anchored("", x, y, font, colour, text);
    }

    /// A text in the middle of what begins at `x` and is so wide.
    pub(super) fn centred(&mut self, x: f64, width: f64, y: f64, font: Font, colour: Colour, text: &str) {
        self.anchored(" text-anchor=\"middle\"", x + width / 2.0, y, font, colour, text);
    }

    fn anchored(&mut self, anchor: &str, x: f64, y: f64, font: Font, colour: Colour, text: &str) {
        if text.is_empty() {
            return;
        }
        let weight = if font.bold { " font-weight=\"600\"" } else { "" };
        let family = if font.mono { " class=\"m\"" } else { "" };
        let (size, colour, text) = (font.size, colour.0, escaped(text));
        self.tag(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{colour}\"{weight}{family}{anchor}>{text}</text>"
        ));
    }

    /// A filled shape with round ends.
    pub(super) fn pill(&mut self, x: f64, y: f64, width: f64, height: f64, colour: Colour) {
        let (round, colour) = (height / 2.0, colour.0);
        self.tag(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{round:.1}\" fill=\"{colour}\"/>"
        ));
    }

    /// The border of one.
    pub(super) fn outline(&mut self, x: f64, y: f64, width: f64, height: f64, colour: Colour) {
        let (round, colour) = (height / 2.0, colour.0);
        self.tag(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{round:.1}\" fill=\"none\" stroke=\"{colour}\"/>"
        ));
    }

    pub(super) fn area(&mut self, x: f64, y: f64, width: f64, height: f64, Hue(fill, border): Hue) {
        self.tag(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"9\" fill=\"{fill}\" stroke=\"{border}\"/>"
        ));
    }

    pub(super) fn line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64) {
        let colour = Colour::LINE.0;
        self.tag(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"1.4\"/>"
        ));
    }

    /// Puts another picture on top of this one.
    pub(super) fn append(&mut self, other: &Self) {
        self.0.push_str(&other.0);
    }

    fn tag(&mut self, tag: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{tag}");
    }

    /// The whole picture.
    pub(super) fn finish(self, width: f64, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">\n\
             <style>.m {{ font-family: ui-monospace, 'DejaVu Sans Mono', monospace }}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}</svg>\n",
            self.0
        )
    }
}

/// A text as XML carries it; names come from a listing that anybody may have made.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars().filter(|letter| !letter.is_control()) {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            letter => out.push(letter),
        }
    }
    out
}
