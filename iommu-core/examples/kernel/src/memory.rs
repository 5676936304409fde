//! The allocator: it hands out one region from its start to its end, and takes nothing back.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

const SIZE: usize = 4 << 20;

#[global_allocator]
static HEAP: Heap = Heap { region: UnsafeCell::new([0; SIZE]), used: AtomicUsize::new(0) };

struct Heap {
    region: UnsafeCell<[u8; SIZE]>,
    used: AtomicUsize,
}

// SAFETY: `used` gives each byte of the region away once.
unsafe impl Sync for Heap {}

// SAFETY: what is handed out lies in the region, is aligned, and overlaps nothing handed out before.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.region.get().cast::<u8>();
        let place = |used: usize| {
            let at = (start.addr() + used).next_multiple_of(layout.align()) - start.addr();
            (at + layout.size() <= SIZE).then_some(at)
        };
        let grown =
            self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(place(used)? + layout.size()));
        // SAFETY: the place is inside the region.
        grown.ok().and_then(place).map_or(ptr::null_mut(), |at| unsafe { start.add(at) })
    }

    unsafe fn dealloc(&self, _memory: *mut u8, _layout: Layout) {}
}
