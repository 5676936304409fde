//! Without std, on one CPU without preemption: whoever waits lets the others run.
#![cfg(all(not(feature = "std"), not(shuttle)))]

use device_model::sync::dma_locks;
use device_model::sync::{Arc, Users};
use dma_locks::one_cpu::{OneCpu, run, yield_now};

dma_locks::provide!(OneCpu);

const SEEDS: u32 = 200;

#[test]
fn users_are_waited_for() {
    for seed in 0..SEEDS {
        let users = Arc::new(Users::new());
        let enter = || {
            for _ in 0..3 {
                let user = users.enter();
                yield_now();
                drop(user);
            }
        };
        let wait = || {
            yield_now();
            users.close();
            users.wait();
            assert_eq!(users.inside(), 0);
        };
        run(seed, vec![Box::new(enter), Box::new(wait), Box::new(enter), Box::new(wait)]);
        assert!(users.enter().is_none());
    }
}
