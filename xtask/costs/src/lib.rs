//! What one more costs, at n and at 10n: a table that benchmarks print. Linear work shows about the same number in both columns.

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
        let allocated = measure(|| {
            let began = Instant::now();
            work();
            time = began.elapsed();
        });
        Self { time, allocations: allocated.count_total, calls: calls() - before }
    }
}

/// A row: its title, and what costs so much for so many.
pub type Row = (&'static str, Box<dyn Fn(Calls, u32) -> Cost>);

/// Prints time, allocations and calls of hardware per element; of few elements, unless it was called to measure (`--bench`).
pub fn print(rows: impl IntoIterator<Item = Row>) {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (few, many) = if measured { (1_000, 10_000) } else { (10, 100) };
    println!("{:<34} {:^24}  {:^24}  {:^24}", "per element", "ns", "allocations", "calls of hardware");
    println!("{:<34} {}", "at n =", format!(" {few:>8} {many:>8} {:>6} ", "ratio").repeat(3));
    for (name, row) in rows {
        let per = |n: u32| {
            let time = (0..3).map(|_| row(Calls::Ignored, n).time).min().unwrap_or_default();
            let Cost { allocations, calls, .. } = row(Calls::Counted, n);
            let allocations = u32::try_from(allocations).unwrap_or(u32::MAX);
            [time.as_secs_f64() * 1e9, allocations.into(), calls.into()].map(|cost: f64| cost / f64::from(n))
        };
        let columns = per(few).into_iter().zip(per(many)).zip([0, 2, 2]);
        let columns = columns.map(|((one, other), digits)| {
            // Nothing at all grows by nothing.
            let ratio = if other == 0.0 { 1.0 } else { other / one };
            format!(" {one:>8.digits$} {other:>8.digits$} {ratio:>6.2} ")
        });
        println!("{name:<34} {}", columns.collect::<String>());
    }
}
