#![allow(warnings, clippy::all, clippy::pedantic)]
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;
use vfio_owner::iommu_core::sysfs::{Archive, MemoryTree, Snapshot};
use vfio_owner::testbed::Machine;
static ON: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
struct A;
static N: AtomicUsize = AtomicUsize::new(0);
static B: AtomicUsize = AtomicUsize::new(0);
static T: AtomicUsize = AtomicUsize::new(0);
unsafe impl GlobalAlloc for A {
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        if ON.load(Relaxed) {
            ON.store(false, Relaxed);
            let b = std::backtrace::Backtrace::force_capture();
            eprintln!(
                "ALLOC {} {}",
                l.size(),
                format!("{b}")
                    .lines()
                    .filter(|l| !l.trim().starts_with("at "))
                    .skip(3)
                    .take(14)
                    .map(|l| l.trim().split_once(": ").map_or(l, |x| x.1))
                    .collect::<Vec<_>>()
                    .join(" < ")
            );
            ON.store(true, Relaxed);
        }
        N.fetch_add(1, Relaxed);
        B.fetch_add(l.size(), Relaxed);
        T.fetch_add(l.size(), Relaxed);
        System.alloc(l)
    }
    unsafe fn dealloc(&self, p: *mut u8, l: Layout) {
        B.fetch_sub(l.size(), Relaxed);
        System.dealloc(p, l)
    }
    unsafe fn alloc_zeroed(&self, l: Layout) -> *mut u8 {
        N.fetch_add(1, Relaxed);
        B.fetch_add(l.size(), Relaxed);
        T.fetch_add(l.size(), Relaxed);
        System.alloc_zeroed(l)
    }
    unsafe fn realloc(&self, p: *mut u8, l: Layout, n: usize) -> *mut u8 {
        N.fetch_add(1, Relaxed);
        T.fetch_add(n, Relaxed);
        B.fetch_add(n, Relaxed);
        B.fetch_sub(l.size(), Relaxed);
        System.realloc(p, l, n)
    }
}
#[cfg(feature = "count")]
#[global_allocator]
static G: A = A;
#[cfg(not(feature = "count"))]
#[global_allocator]
static G: A = A;
fn nic(number: u32) -> String {
    format!("{:04x}:{:02x}:{:02x}.0", number >> 12, number >> 5 & 0x7f, number & 0x1f)
}
fn main() {
    let n: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let rounds: u32 = std::env::args().nth(2).unwrap().parse().unwrap();
    let lines: Vec<String> = (0..n).map(|number| format!("{} nic - {number}", nic(number))).collect();
    let text = MemoryTree::from_layout(&lines.join("\n")).unwrap().to_archive();
    println!("text {} per device", text.len() / n as usize);
    for _ in 0..rounds {
        let mut last = (Instant::now(), N.load(Relaxed), B.load(Relaxed), T.load(Relaxed));
        let mut step = |name: &str| {
            let now = (Instant::now(), N.load(Relaxed), B.load(Relaxed), T.load(Relaxed));
            let d = n as f64;
            println!(
                "{name:>10}: {:8.2} us/dev  {:6.1} allocs  {:8.1} bytes kept {:8.1} total",
                (now.0 - last.0).as_nanos() as f64 / 1e3 / d,
                (now.1 - last.1) as f64 / d,
                (now.2 as f64 - last.2 as f64) / d,
                (now.3 - last.3) as f64 / d
            );
            last = (Instant::now(), N.load(Relaxed), B.load(Relaxed), T.load(Relaxed));
        };
        let archive = Archive::parse(&text).unwrap();
        step("parse");
        let snapshot = Snapshot::load(&archive).unwrap();
        step("load");
        if n == 21 {
            ON.store(true, Relaxed);
        }
        let machine = Machine::boot(&snapshot);
        ON.store(false, Relaxed);
        step("boot");
        drop(snapshot);
        drop(archive);
        step("drop snap");
        drop(machine);
        step("drop mach");
    }
}
