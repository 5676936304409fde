//! What binding costs, next to the floor: one uncontended lock and unlock.
#![cfg_attr(
    not(shuttle),
    expect(clippy::disallowed_types, reason = "the floor is the lock itself"),
    expect(clippy::expect_used, reason = "a refusal would make the figures worthless")
)]

#[cfg(shuttle)]
fn main() {}

#[cfg(not(shuttle))]
criterion::criterion_main!(shapes::binding);

#[cfg(not(shuttle))]
mod shapes {
    use std::hint::black_box;
    use std::sync::Arc;
    use std::time::Duration;

    use criterion::measurement::WallTime;
    use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group};
    use device_model::platform::{PlatformBus, PlatformDriver};
    use device_model::{
        Awaits, BusHandle, DeviceGuard, DeviceSpec, DmaApi, Driver, DriverCore, ProbeError, Unprotected,
    };

    criterion_group!(binding, by_hand, boot, registration, deferred);

    /// Takes every device, or defers until the device named after it has a driver.
    struct Plain {
        name: Arc<str>,
        defers: bool,
    }

    impl Driver for Plain {
        fn name(&self) -> &Arc<str> {
            &self.name
        }

        fn probe(&self, dev: &mut DeviceGuard<'_>) -> Result<(), ProbeError> {
            if self.defers {
                let supplier = format!("supplier-of-{}", dev.device().name());
                return Err(ProbeError::Deferred(Awaits::Supplier(supplier.into())));
            }
            Ok(())
        }
    }

    fn driver(bus: &BusHandle, name: &str, defers: bool) {
        let driver = Arc::new(Plain { name: name.into(), defers });
        bus.add_driver(Arc::new(PlatformDriver::new(driver, DmaApi::Kernel))).expect("the name is free");
    }

    fn bus() -> BusHandle {
        DriverCore::new().add_bus(PlatformBus::new(Arc::new(Unprotected)))
    }

    const DRIVERS: [&str; 4] = ["disk", "net", "uart", "clock"];

    /// `count` devices, spread over the drivers.
    fn names(count: usize) -> Vec<Arc<str>> {
        DRIVERS.iter().cycle().take(count).enumerate().map(|(n, driver)| format!("{driver}.{n}").into()).collect()
    }

    fn fill(bus: &BusHandle, names: &[Arc<str>]) {
        for name in names {
            bus.add_device(DeviceSpec::new(name.clone())).expect("the name is free");
        }
    }

    fn floor(group: &mut BenchmarkGroup<'_, WallTime>) {
        let lock = parking_lot::Mutex::new(0_u64);
        group.bench_function("floor: lock and unlock", |bench| bench.iter(|| *black_box(&lock).lock() += 1));
    }

    /// One device among many is bound and unbound by hand.
    fn by_hand(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("bind and unbind");
        floor(&mut group);
        for count in [1, 1_000, 100_000] {
            let bus = bus();
            for name in DRIVERS {
                driver(&bus, name, false);
            }
            let names = names(count);
            fill(&bus, &names);
            let name = names.get(count / 2).expect("it is in the middle");
            let driver = name.split('.').next().expect("a name has a kind");
            bus.unbind(driver, name).expect("it was bound at boot").wait();
            group.bench_function(BenchmarkId::from_parameter(count), |bench| {
                bench.iter(|| {
                    bus.bind(driver, name).expect("it is free");
                    bus.unbind(driver, name).expect("it is bound").wait();
                });
            });
        }
        group.finish();
    }

    /// Devices come while four drivers are registered; each device fits one.
    fn boot(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("boot");
        floor(&mut group);
        group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
        for count in [1_000_usize, 10_000, 100_000] {
            let names = names(count);
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(BenchmarkId::from_parameter(count), |bench| {
                let ready = || {
                    let bus = bus();
                    for name in DRIVERS {
                        driver(&bus, name, false);
                    }
                    bus
                };
                bench.iter_batched(
                    ready,
                    |bus| {
                        fill(&bus, &names);
                        bus
                    },
                    BatchSize::PerIteration,
                );
            });
        }
        group.finish();
    }

    /// A driver comes when all devices are there; it fits every fourth.
    fn registration(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("register a driver");
        floor(&mut group);
        group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
        for count in [1_000_usize, 10_000, 100_000] {
            let names = names(count);
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(BenchmarkId::from_parameter(count), |bench| {
                let ready = || {
                    let bus = bus();
                    fill(&bus, &names);
                    bus
                };
                bench.iter_batched(
                    ready,
                    |bus| {
                        driver(&bus, "net", false);
                        bus
                    },
                    BatchSize::PerIteration,
                );
            });
        }
        group.finish();
    }

    /// A device binds and unbinds while others wait, each for a supplier of its own that does not come.
    fn deferred(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("bind and unbind while others wait");
        floor(&mut group);
        for waiting in [0, 1_000, 10_000, 100_000] {
            let core = DriverCore::new();
            let bus = core.add_bus(PlatformBus::new(Arc::new(Unprotected)));
            driver(&bus, "consumer", true);
            driver(&bus, "disk", false);
            for n in 0..waiting {
                bus.add_device(DeviceSpec::new(format!("consumer.{n}"))).expect("the name is free");
            }
            assert_eq!(core.deferred().len(), waiting);
            bus.add_device(DeviceSpec::new("disk.0")).expect("the name is free");
            bus.unbind("disk", "disk.0").expect("it was bound at once").wait();
            group.bench_function(BenchmarkId::from_parameter(waiting), |bench| {
                bench.iter(|| {
                    bus.bind("disk", "disk.0").expect("it is free");
                    bus.unbind("disk", "disk.0").expect("it is bound").wait();
                });
            });
            assert_eq!(core.deferred().len(), waiting);
        }
        group.finish();
    }
}
