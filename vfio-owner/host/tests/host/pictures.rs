//! The picture of a machine: everything is in it, nothing over another, and nothing from a listing gets out of its text.

use roxmltree::{Document, Node};
use vfio_host::{Explanation, Host, draw};
use vfio_owner::testbed;

use crate::corpus::CASES;
use crate::layout::host;

/// A text, and where it is at most: left, right, top and bottom.
struct Text {
    words: String,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

fn number(node: Node<'_, '_>, name: &str) -> f64 {
    node.attribute(name).unwrap().parse().unwrap()
}

fn texts(picture: &Document<'_>) -> Vec<Text> {
    let nodes = picture.descendants().filter(|node| node.has_tag_name("text"));
    let place = |node: Node<'_, '_>| {
        let (words, size) = (node.text().unwrap().to_owned(), number(node, "font-size"));
        let (left, base) = (number(node, "x"), number(node, "y"));
        // DejaVu Sans, the widest of the usual ones, has letters of half its size on the average.
        let width = f64::from(u32::try_from(words.chars().count()).unwrap()) * size * 0.55;
        Text { words, left, right: left + width, top: base - size * 0.75, bottom: base + size * 0.2 }
    };
    nodes.map(place).collect()
}

fn check(name: &str, host: &Host) {
    let svg = draw(host);
    let picture = Document::parse(&svg).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (width, height) = (number(picture.root_element(), "width"), number(picture.root_element(), "height"));
    let texts = texts(&picture);
    for (index, one) in texts.iter().enumerate() {
        assert!(one.right <= width && one.bottom <= height, "{name}: out of the picture: {}", one.words);
        for other in texts.iter().skip(index + 1) {
            let apart = one.right <= other.left
                || other.right <= one.left
                || one.bottom <= other.top
                || other.bottom <= one.top;
            assert!(apart, "{name}: {} over {}", one.words, other.words);
        }
    }
    for device in &host.pci.devices {
        let address = device.function.address.to_string();
        let times = texts.iter().filter(|text| text.words == address).count();
        assert_eq!(times, 1, "{name}: {address}");
    }
}

#[test]
fn every_device_is_there_once_and_no_text_is_over_another() {
    for (name, tree) in [("pc", testbed::pc()), ("workstation", testbed::workstation())] {
        check(name, &Host::of_snapshot(tree));
    }
    for case in CASES {
        check(case.name, &host(case.table));
    }
}

/// The colour of the shape behind a text.
fn colour_behind(picture: &Document<'_>, words: &str) -> String {
    let nodes: Vec<Node<'_, '_>> = picture.descendants().filter(Node::is_element).collect();
    let place = nodes.iter().position(|node| node.text() == Some(words)).unwrap();
    nodes.get(place - 1).unwrap().attribute("fill").unwrap().to_owned()
}

#[test]
fn what_is_in_the_way_is_red_and_why_the_group_is_one_is_told() {
    let host = Host::of_snapshot(testbed::workstation());
    let svg = draw(&host);
    let picture = Document::parse(&svg).unwrap();
    let red = colour_behind(&picture, "e1000e");
    assert_ne!(red, colour_behind(&picture, "pcieport"));
    assert_eq!(red, colour_behind(&picture, "nvme"));
    let told: Vec<String> = texts(&picture).into_iter().map(|text| text.words).collect();
    let disk = Explanation::of(&host, "0000:02:00.0".parse().unwrap()).unwrap();
    for tie in &*disk.ties.unwrap() {
        assert!(told.contains(&tie.cause.to_string()), "{}", tie.cause);
    }
    assert_eq!(told.iter().filter(|words| *words == "no ACS").count(), 2);
    assert_eq!(told.iter().filter(|words| *words == "ACS").count(), 1);
}

#[test]
fn what_is_behind_a_bridge_is_to_the_right_of_it() {
    let svg = draw(&Host::of_snapshot(testbed::pc()));
    let picture = Document::parse(&svg).unwrap();
    let left = |address: &str| texts(&picture).into_iter().find(|text| text.words == address).unwrap().left;
    assert!(left("0000:00:07.0") < left("0000:02:00.0"));
    assert!(left("0000:02:00.0") < left("0000:03:01.0"));
    assert_eq!(left("0000:00:06.0").to_bits(), left("0000:00:07.0").to_bits());
}

#[test]
fn no_name_leaves_its_text() {
    let listing = "IOMMU Group 7 01:00.0 Audio device [0403]: </text><script>&\"'\u{1b}[31m\n";
    let host: Host = listing.parse().unwrap();
    let svg = draw(&host);
    let picture = Document::parse(&svg).unwrap();
    assert!(!svg.contains('\u{1b}') && picture.descendants().all(|node| !node.has_tag_name("script")), "{svg}");
    assert!(texts(&picture).iter().any(|text| text.words.starts_with("</text><script>")), "{svg}");
}
