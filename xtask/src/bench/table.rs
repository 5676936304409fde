//! What is measured, beside what, and what it is to cost.
//!
//! Ratios compare two numbers of one run. What is given in nanoseconds holds on the machine of `docs/performance.md`.

use std::fmt;

/// A program that measures.
pub(super) struct Program {
    pub(super) package: &'static str,
    pub(super) features: &'static str,
    pub(super) bench: &'static str,
    pub(super) prints: Prints,
}

/// Where what a program measured is found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Prints {
    /// In the files of criterion.
    Estimates,
    /// In its output, as lines `id: value`.
    Values,
}

const fn criterion(package: &'static str, features: &'static str, bench: &'static str) -> Program {
    Program { package, features, bench, prints: Prints::Estimates }
}

pub(super) const PROGRAMS: &[Program] = &[
    criterion("vfio-owner", "testbed", VFIO),
    criterion("iommufd-owner", "", IOMMUFD),
    criterion("iommu-core", "software", LARGE),
    Program { package: "vfio-owner", features: "testbed", bench: MEMORY, prints: Prints::Values },
];

const VFIO: &str = "vfio";
const IOMMUFD: &str = "address_space";
const LARGE: &str = "large";
const MEMORY: &str = "memory";

/// A line of the table.
pub(super) struct Row {
    pub(super) operation: &'static str,
    /// How much is there already, or how much is done at once.
    pub(super) size: &'static str,
    /// What [`Program`] measures it.
    pub(super) program: &'static str,
    /// The full id of the benchmark.
    pub(super) ours: String,
    pub(super) beside: Vec<Rival>,
    /// So many are done in one iteration; the table shows one.
    pub(super) pieces: f64,
    pub(super) unit: Unit,
    pub(super) aim: Aim,
}

/// What is measured beside ours, in the same run.
pub(super) struct Rival {
    pub(super) name: &'static str,
    pub(super) id: String,
    /// It does ours when it is done so often.
    pub(super) scale: f64,
}

#[derive(Clone, Copy)]
pub(super) enum Unit {
    Time,
    Bytes,
}

impl Unit {
    /// An amount, with its unit.
    pub(super) fn of(self, amount: f64) -> String {
        match self {
            Self::Bytes => format!("{amount:.0} B"),
            Self::Time => {
                let units = [(1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns")];
                let (scale, unit) = units.into_iter().find(|(scale, _)| amount >= *scale).unwrap_or((1.0, "ns"));
                let amount = amount / scale;
                if amount < 10.0 { format!("{amount:.2} {unit}") } else { format!("{amount:.0} {unit}") }
            }
        }
    }
}

/// What a row is to cost.
#[derive(Clone, Copy)]
pub(super) enum Aim {
    /// Shown only.
    None,
    /// Nanoseconds or bytes at most.
    Most(f64),
    /// So many times the rival of this name at most.
    Times(f64, &'static str),
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Most(most) if *most >= 1e6 => write!(f, "<= {} ms", most / 1e6),
            Self::Most(most) => write!(f, "<= {most}"),
            Self::Times(times, rival) => write!(f, "<= {times} x {rival}"),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.operation, self.size)
    }
}

impl Row {
    fn new(program: &'static str, operation: &'static str, size: &'static str, ours: impl Into<String>) -> Self {
        let (beside, pieces, unit) = (Vec::new(), 1.0, Unit::Time);
        Self { operation, size, program, ours: ours.into(), beside, pieces, unit, aim: Aim::None }
    }

    fn beside(self, name: &'static str, id: impl Into<String>) -> Self {
        self.beside_scaled(name, id, 1.0)
    }

    fn beside_scaled(mut self, name: &'static str, id: impl Into<String>, scale: f64) -> Self {
        self.beside.push(Rival { name, id: id.into(), scale });
        self
    }

    fn aim(self, aim: Aim) -> Self {
        Self { aim, ..self }
    }

    /// The benchmarks that it needs.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        core::iter::once(&*self.ours).chain(self.beside.iter().map(|rival| &*rival.id))
    }
}

/// How many mappings exist when one more is made, and what it is to cost at a random place.
const EXISTING: [(&str, &str, Aim); 4] = [
    ("1", "1 mapping", Aim::Most(60.0)),
    ("1000", "1k mappings", Aim::None),
    ("100000", "100k mappings", Aim::Times(1.1, BTREE)),
    ("1000000", "1M mappings", Aim::Times(1.0, BTREE)),
];

const BTREE: &str = "BTreeMap";
const RANGEMAP: &str = "rangemap";
const WRITES: &str = "loop of writes";

pub(super) fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    for (n, size, aim) in EXISTING {
        rows.push(mapping(VFIO, "type1 map + unmap", size, "map+unmap/anywhere/type1", n).aim(aim));
    }
    for (n, size, _) in EXISTING {
        let row = mapping(VFIO, "type1 map + unmap, one place", size, "map+unmap/one place/type1", n);
        rows.push(row.aim(Aim::Times(2.0, BTREE)));
    }
    for (n, size, aim) in EXISTING {
        rows.push(mapping(IOMMUFD, "iommufd map + unmap", size, "map+unmap/iommufd", n).aim(aim));
    }
    for (n, size, _) in EXISTING {
        let row = mapping(IOMMUFD, "iommufd copy + unmap", size, "copy+unmap/iommufd", n);
        rows.push(row.aim(Aim::Times(1.0, RANGEMAP)));
    }
    rows.extend(large_memory());
    rows.extend(accesses());
    rows.extend(lives());
    rows.extend(memory());
    rows
}

/// A mapping made and undone beside `n` others, against maps that hold the same ranges.
fn mapping(program: &'static str, operation: &'static str, size: &'static str, ours: &str, n: &str) -> Row {
    let group = ours.rsplit_once('/').map_or(ours, |(group, _)| group);
    Row::new(program, operation, size, format!("{ours}/{n}"))
        .beside(BTREE, format!("{group}/{BTREE}/{n}"))
        .beside(RANGEMAP, format!("{group}/{RANGEMAP}/{n}"))
}

fn large_memory() -> impl Iterator<Item = Row> {
    let map = |operation, size, how| {
        let group = format!("map 64 GiB/{size}");
        Row::new(LARGE, operation, size, format!("{group}/{how}")).beside(WRITES, format!("{group}/{WRITES}"))
    };
    let maps =
        ["one piece", "2 MiB pieces", "pages"].map(|size| map("map 64 GiB", size, "ours").aim(Aim::Times(1.5, WRITES)));
    let calls = ["2 MiB pieces", "pages"].map(|size| map("map 64 GiB, a call for each", size, "a call each"));
    let dirty = ["0.1 %", "10 %"].map(|size| {
        let (walk, group) = ("walk of the table", format!("dirty bitmap of 1 TiB/{size}"));
        Row::new(LARGE, "dirty bitmap of 1 TiB", size, format!("{group}/ours"))
            .beside(walk, format!("{group}/{walk}"))
            .beside("memset", format!("{group}/memset"))
            .aim(Aim::Times(2.0, walk))
    });
    maps.into_iter().chain(calls).chain(dirty)
}

fn accesses() -> impl Iterator<Item = Row> {
    let hot = EXISTING.map(|(n, size, _)| (n, size, "read 64 bytes by DMA, hot", "hot", Aim::Most(15.0)));
    let cold = EXISTING.map(|(n, size, _)| (n, size, "read 64 bytes by DMA, cold", "cold", Aim::Most(120.0)));
    hot.into_iter().chain(cold).filter(|(n, ..)| *n != "1").map(|(n, size, operation, kind, aim)| {
        let copy = "copy";
        Row::new(VFIO, operation, size, format!("read 64 bytes by DMA/{kind}/{n}"))
            .beside(copy, format!("read 64 bytes by DMA/{copy}/1"))
            .aim(aim)
    })
}

fn lives() -> impl Iterator<Item = Row> {
    let open = "open+set-container+set-iommu+get-device+close";
    let way = Row::new(VFIO, "open, set container, set iommu, get device, close", "a group", format!("group/{open}"))
        .aim(Aim::Most(600.0));
    let join = [("50", "50 groups"), ("400", "400 groups")].map(|(n, size)| {
        let fewer = "50 groups";
        let row = Row::new(VFIO, "set container and unset, per group", size, format!("set-container/groups/{n}"));
        let groups: f64 = n.parse().unwrap_or(1.0);
        let row = Row { pieces: groups, ..row };
        if n == "50" {
            return row;
        }
        row.beside_scaled(fewer, "set-container/groups/50", groups / 50.0).aim(Aim::Times(1.5, fewer))
    });
    let ends = [("unmap all", "a mapping of 1M"), ("close a container", "a mapping of 1M")].map(|(operation, size)| {
        let row = Row::new(VFIO, operation, size, format!("end of 1M mappings/{operation}"));
        Row { pieces: 1e6, ..row }.beside("free a BTreeMap", "end of 1M mappings/free a BTreeMap").aim(Aim::Most(300.0))
    });
    let machines = [("20", 1.0), ("1000", 50.0), ("10000", 500.0)].map(|(n, times)| {
        let (size, file, few) = (
            match n {
                "20" => "20 devices",
                "1000" => "1k devices",
                _ => "10k devices",
            },
            "reading the file",
            "20 devices, scaled",
        );
        let row = Row::new(VFIO, "machine from a snapshot", size, format!("machine from a snapshot/booted/{n}"))
            .beside(file, format!("machine from a snapshot/{file}/{n}"));
        if n == "20" {
            return row.aim(Aim::Most(1e6));
        }
        row.beside_scaled(few, "machine from a snapshot/booted/20", times).aim(Aim::Times(1.5, few))
    });
    core::iter::once(way).chain(join).chain(ends).chain(machines)
}

fn memory() -> impl Iterator<Item = Row> {
    let bytes = |operation, size, id: &str, aim| {
        let row = Row::new(MEMORY, operation, size, id);
        Row { unit: Unit::Bytes, aim, ..row }
    };
    let tables = "hardware's tables";
    [
        bytes("memory of a type1 mapping, with pins", "1M mappings", "type1 mapping/1000000", Aim::Most(64.0))
            .beside(tables, "page tables of a mapping/1000000"),
        bytes("memory of an iommufd mapping, with pins", "1M mappings", "iommufd mapping/1000000", Aim::Most(64.0))
            .beside(tables, "page tables of a mapping/1000000"),
    ]
    .into_iter()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_has_a_program_a_name_of_its_own_and_the_rival_of_its_aim() {
        let rows = table();
        let names: BTreeSet<String> = rows.iter().map(Row::to_string).collect();
        assert_eq!(names.len(), rows.len());
        for row in &rows {
            assert!(PROGRAMS.iter().any(|program| program.bench == row.program), "{row}");
            if let Aim::Times(_, rival) = row.aim {
                assert!(row.beside.iter().any(|beside| beside.name == rival), "{row}: {rival}");
            }
        }
    }
}
