//! Drawings of a machine: bridges and ports as a tree, groups as areas.

mod card;
mod svg;
mod tree;

use vfio_owner::iommu_core::device_model::pci::{PciFunction, PortType};
use vfio_owner::iommu_core::grouping;

use crate::Host;
use card::{Card, cards};
use svg::{Colour, Font, Svg};

/// How wide the picture is, in pixels.
const WIDTH: f64 = 1080.0;
const MARGIN: f64 = 24.0;
/// How far a device is moved to the right from the bridge above it.
const INDENT: f64 = 26.0;
const PADDING: f64 = 12.0;
const GAP: f64 = 10.0;
/// How wide the column of drivers is.
const DRIVERS: f64 = 190.0;

const TITLE: Font = Font { size: 17.0, bold: true, mono: false };
const STRONG: Font = Font { size: 13.0, bold: true, mono: false };
const ADDRESS: Font = Font { size: 13.0, bold: true, mono: true };
const PLAIN: Font = Font { size: 13.0, bold: false, mono: false };
const SMALL: Font = Font { size: 11.5, bold: false, mono: false };

/// Draws a machine as SVG: each group is an area with its devices, under the bridge above them. Drivers that prevent a
/// claim of a group are red, and so are devices in use by the host. The text of a group says why its devices share it,
/// and what would split them.
///
/// A listing does not show bridges: its groups are drawn one below the other.
pub fn draw(host: &Host) -> String {
    let mut svg = Svg::default();
    let groups = host.pci.groups.iter().filter(|group| !group.members.is_empty()).count();
    let count = |number, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let title = format!("{} in {}", count(host.pci.devices.len(), "device"), count(groups, "IOMMU group"));
    svg.text(MARGIN, 34.0, TITLE, Colour::INK, &title);
    legend(&mut svg);
    let mut y = 76.0;
    let cards = cards(host);
    let mut places = Vec::new();
    for card in &cards {
        y = draw_card(&mut svg, card, y, &mut places) + GAP;
    }
    connect(&mut svg, &places);
    svg.finish(WIDTH, y + MARGIN)
}

fn legend(svg: &mut Svg) {
    let mut x = MARGIN;
    for (colour, meaning) in [
        (Colour::RED, "keeps the group from user space"),
        (Colour::AMBER, "may keep it"),
        (Colour::GREEN, "does not keep it"),
        (Colour::GREY, "no driver"),
    ] {
        svg.pill(x, 46.0, 14.0, 14.0, colour);
        svg.text(x + 20.0, 57.5, SMALL, Colour::FAINT, meaning);
        x += 20.0 + SMALL.width(meaning) + 22.0;
    }
}

/// Where a device, or a bus, was drawn.
struct Place {
    depth: usize,
    x: f64,
    y: f64,
}

fn draw_card(svg: &mut Svg, card: &Card, top: f64, places: &mut Vec<Place>) -> f64 {
    let x = MARGIN + INDENT * indent(card.depth());
    let width = WIDTH - MARGIN - x;
    if let Some(bus) = &card.bus {
        svg.text(x, top + 15.0, STRONG, Colour::INK, bus);
        places.push(Place { depth: 0, x, y: top + 14.0 });
        return top + 20.0;
    }
    let mut inside = Svg::default();
    let mut y = top + 22.0;
    let verdict_at = x + PADDING + STRONG.width(&card.title) + 12.0;
    inside.text(x + PADDING, y, STRONG, Colour::INK, &card.title);
    let verdict = SMALL.cut(&card.possession, x + width - PADDING - verdict_at);
    inside.text(verdict_at, y, SMALL, card.colour, &verdict);
    y += 10.0;
    for row in &card.rows {
        let left = x + PADDING + INDENT * indent(row.depth - card.depth());
        if row.in_tree {
            places.push(Place { depth: row.depth, x: left, y: y + 11.0 });
        }
        y = draw_row(&mut inside, row, left, y, x + width - PADDING);
    }
    for tie in &card.ties {
        for cause in &tie.causes {
            inside.text(x + PADDING, y + 13.0, SMALL, Colour::AMBER, "\u{25b2}");
            y = lines(&mut inside, x + PADDING + 18.0, y, Colour::INK, cause, x + width - PADDING);
        }
        let remedy = format!("to split them: {}", tie.remedy);
        y = lines(&mut inside, x + PADDING + 34.0, y, Colour::FAINT, &remedy, x + width - PADDING) + 3.0;
    }
    if card.unexplained {
        let told = "why they are together does not follow from what is shown of their configuration";
        y = lines(&mut inside, x + PADDING, y, Colour::FAINT, told, x + width - PADDING);
    }
    let bottom = y + 6.0;
    svg.area(x, top, width, bottom - top, card.hue);
    svg.append(&inside);
    bottom
}

/// A text in as many lines as it takes; where the next one goes.
fn lines(svg: &mut Svg, x: f64, top: f64, colour: Colour, text: &str, right: f64) -> f64 {
    let mut y = top;
    for line in SMALL.wrap(text, right - x) {
        svg.text(x, y + 13.0, SMALL, colour, &line);
        y += 16.0;
    }
    y
}

fn draw_row(svg: &mut Svg, row: &card::Row, left: f64, top: f64, right: f64) -> f64 {
    let mut y = top + 15.0;
    svg.pill(left, y - 8.0, 8.0, 8.0, Colour::LINE);
    // Beside the line that leads down to what is behind a bridge.
    let x = left + 17.0;
    svg.text(x, y, ADDRESS, Colour::INK, &row.address);
    let mut at = x + ADDRESS.width(&row.address) + 12.0;
    let driver_at = right - DRIVERS;
    let acs = row.acs.map(|acs| (acs, SMALL.width(acs.word()) + 14.0));
    let room = driver_at - at - acs.map_or(0.0, |(_, width)| width + 8.0) - 10.0;
    let class = PLAIN.cut(&row.class, room);
    svg.text(at, y, PLAIN, Colour::INK, &class);
    at += PLAIN.width(&class) + 10.0;
    if let Some((acs, width)) = acs {
        svg.outline(at, y - 12.5, width, 16.0, acs.colour());
        svg.centred(at, width, y - 0.5, SMALL, acs.colour(), acs.word());
    }
    let driver = SMALL.cut(&row.driver, DRIVERS - 16.0);
    let width = SMALL.width(&driver) + 16.0;
    svg.pill(driver_at, y - 13.0, width, 17.0, row.colour);
    svg.centred(driver_at, width, y - 0.5, SMALL, Colour::PAPER, &driver);
    if !row.name.is_empty() {
        y += 16.0;
        svg.text(x, y, SMALL, Colour::FAINT, &SMALL.cut(&row.name, right - x));
    }
    y += 3.0;
    for remark in &row.remarks {
        y = lines(svg, x, y, Colour::RED, remark, right);
    }
    y + 6.0
}

/// Lines from each device or bus to what is right below it.
fn connect(svg: &mut Svg, places: &[Place]) {
    for (index, place) in places.iter().enumerate() {
        let Some(above) = places.iter().take(index).rev().find(|above| above.depth < place.depth) else { continue };
        let x = above.x + 4.0;
        svg.line(x, above.y + 5.0, x, place.y);
        svg.line(x, place.y, place.x, place.y);
    }
}

fn indent(depth: usize) -> f64 {
    u16::try_from(depth).map_or(0.0, f64::from)
}

/// What a port does about isolation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Acs {
    On,
    SwitchedOff,
    Missing,
}

impl Acs {
    /// What is shown of it; only of ports, at which it decides over what is below.
    fn of(function: &PciFunction) -> Option<Self> {
        let port = function.config.pcie()?.port_type;
        if !matches!(port, PortType::RootPort | PortType::DownstreamPort) {
            return None;
        }
        Some(match function.config.acs() {
            _ if grouping::isolates(function) => Self::On,
            Some(acs) if acs.capability.contains(grouping::ISOLATION) => Self::SwitchedOff,
            _ => Self::Missing,
        })
    }

    const fn word(self) -> &'static str {
        match self {
            Self::On => "ACS",
            Self::SwitchedOff => "ACS switched off",
            Self::Missing => "no ACS",
        }
    }

    const fn colour(self) -> Colour {
        match self {
            Self::On => Colour::GREEN,
            Self::SwitchedOff | Self::Missing => Colour::AMBER,
        }
    }
}
