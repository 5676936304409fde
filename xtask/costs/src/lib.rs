//! What one more costs, at n and at 10n: a table that benchmarks print. Linear work shows about the same number in both columns.
//!
//! Instructions count every step, look-ups and moves included, whatever else the machine does: valgrind counts them, where it is
//! installed. A look-up among ten times as many takes some more, by the logarithm.

use std::process::Command;
use std::time::{Duration, Instant};

use allocation_counter::measure;

/// Whether calls of hardware are counted, which takes time.
#[derive(Debug, Clone, Copy)]
pub enum Calls {
    /// Only time counts.
    Ignored,
    /// Time does not count.
    Counted,
}

/// What some work took.
#[derive(Debug)]
pub struct Cost {
    time: Duration,
    allocations: u64,
    calls: u32,
}

impl Cost {
    /// Does `work`. `calls` returns how many calls of hardware there were so far.
    pub fn of(calls: impl Fn() -> u32, work: impl FnOnce()) -> Self {
        let (before, mut time) = (calls(), Duration::ZERO);
        let mut work = Some(work);
        let allocated = measure(|| {
            let began = Instant::now();
            counted(&mut || work.take().into_iter().for_each(|work| work()));
            time = began.elapsed();
        });
        Self { time, allocations: allocated.count_total, calls: calls() - before }
    }
}

/// Valgrind counts what happens in here, by its name.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
}

/// Counts the instructions of a row, by this program under valgrind. `None` without valgrind.
fn instructions(row: &str, n: u32) -> Option<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=cost_table::counted*"]);
    let output = valgrind.arg(std::env::current_exe().ok()?).args(["--count", row, &n.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().find_map(|line| line.split_once("Collected :"))?.1.trim().parse().ok()
}

/// A row: its title, and what costs so much for so many.
pub type Row = (&'static str, Box<dyn Fn(Calls, u32) -> Cost>);

/// Prints time, allocations, calls of hardware and instructions per element; of few elements, and without instructions, unless it
/// was called to measure (`--bench`).
pub fn print(rows: impl IntoIterator<Item = Row>) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [count, wanted, n] = arguments.as_slice()
        && count == "--count"
        && let Ok(n) = n.parse()
    {
        rows.into_iter().filter(|(name, _)| name == wanted).for_each(|(_, row)| _ = row(Calls::Ignored, n));
        return;
    }
    let measured = arguments.iter().any(|argument| argument == "--bench");
    let (few, many) = if measured { (1_000, 10_000) } else { (10, 100) };
    let titles = ["ns", "allocations", "calls of hardware", "instructions"];
    println!("{:<34} {}", "per element", titles.map(|title| format!("{title:^25} ")).concat());
    println!("{:<34} {}", "at n =", format!(" {few:>8} {many:>8} {:>6} ", "ratio").repeat(titles.len()));
    for (name, row) in rows {
        let per = |n: u32| {
            let time = (0..3).map(|_| row(Calls::Ignored, n).time).min().unwrap_or_default();
            let Cost { allocations, calls, .. } = row(Calls::Counted, n);
            let allocations = u32::try_from(allocations).unwrap_or(u32::MAX);
            let instructions = if measured { instructions(name, n) } else { None }.unwrap_or(f64::NAN);
            [time.as_secs_f64() * 1e9, allocations.into(), calls.into(), instructions]
                .map(|cost: f64| cost / f64::from(n))
        };
        let columns = per(few).into_iter().zip(per(many)).zip([0, 2, 2, 0]);
        let columns = columns.map(|((one, other), digits)| {
            // Nothing at all grows by nothing.
            let ratio = if other == 0.0 { 1.0 } else { other / one };
            format!(" {one:>8.digits$} {other:>8.digits$} {ratio:>6.2} ")
        });
        println!("{name:<34} {}", columns.collect::<String>());
    }
}
