//! What a context forgets.

use alloc::vec::Vec;

use iommu_core::software::Testbed;

use super::*;

/// Bound devices whose group is the letter that their name begins with.
fn bound(names: &[&str]) -> (Testbed, Context, Vec<BoundDevice>) {
    let machine = Testbed::builder().build();
    let context = Context::new("vmm", machine.physical_memory());
    let bind = |name: &&str| context.bind(&machine.plug(name).ok()?.dma_slot().member()?).ok();
    let bound = names.iter().filter_map(bind).collect();
    (machine, context, bound)
}

#[test]
fn f33_a_group_is_forgotten_with_its_last_bound_device() {
    let (_machine, context, mut bound) = bound(&["a1", "a2", "b1"]);
    let known = || context.0.groups.lock().len();
    assert_eq!((bound.len(), known()), (3, 2));
    for left in [2, 1, 0] {
        let group = bound[0].device().group().clone();
        drop(bound.remove(0));
        assert_eq!((known(), context.owns(&group)), (left, left == 2));
    }
}

#[test]
fn f5_what_a_call_uses_is_not_destroyed() {
    let (_machine, context, _bound) = bound(&["a1"]);
    let id = context.ioas_alloc().unwrap();
    let lent = context.ioas(id).unwrap();
    assert_eq!(context.destroy(id), Err(DestroyError::InUse { id, uses: 1 }));
    drop(lent);
    context.destroy(id).unwrap();
}

#[test]
fn page_tables_that_have_gone_are_forgotten() {
    let (_machine, context, bound) = bound(&["a1"]);
    let id = context.ioas_alloc().unwrap();
    for _ in 0..10 {
        bound[0].attach(id).unwrap();
        bound[0].detach();
    }
    assert!(context.ioas(id).unwrap().lock_hwpts().len() <= 1);
}
