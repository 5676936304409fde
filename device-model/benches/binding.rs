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
    use std::time::{Duration, Instant};

    use criterion::measurement::WallTime;
    use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group};
    use device_model::platform::{PlatformBus, PlatformDevice};
    use device_model::{
        AnyDriver, Awaits, BoundTo, Device, DeviceSpec, DmaApi, Driver, DriverCore, DriverHandle, ProbeError,
        Unprotected,
    };

    type Platform = PlatformBus<Unprotected>;
    type BusHandle = device_model::BusHandle<Platform>;

    criterion_group!(binding, one_of_many, two_threads, boot, chain, registration, deferred);

    /// Takes every device, or defers until the device named after it has a driver.
    struct Plain {
        name: Arc<str>,
        defers: bool,
    }

    impl Driver<Platform> for Plain {
        type Dma = DmaApi;

        fn name(&self) -> &Arc<str> {
            &self.name
        }

        fn probe(&self, dev: &mut BoundTo<'_, Platform, DmaApi>) -> Result<(), ProbeError> {
            if self.defers {
                let supplier = format!("supplier-of-{}", dev.device().name());
                return Err(ProbeError::Deferred(Awaits::Supplier(supplier.into())));
            }
            Ok(())
        }
    }

    fn driver(bus: &BusHandle, name: &str, defers: bool) -> DriverHandle<Platform> {
        let driver: Arc<dyn AnyDriver<Platform>> = Arc::new(Plain { name: name.into(), defers });
        bus.add_driver(driver).expect("the name is free")
    }

    fn device(bus: &BusHandle, name: impl Into<Arc<str>>) -> Arc<Device<Platform>> {
        bus.add_device(DeviceSpec::new(name, PlatformDevice::default())).expect("the name is free")
    }

    fn bind_and_unbind(bus: &BusHandle, driver: &DriverHandle<Platform>, dev: &Arc<Device<Platform>>) {
        bus.bind(driver, dev).expect("it is free");
        bus.unbind(driver, dev).expect("it is bound").wait();
    }

    fn bus() -> BusHandle {
        DriverCore::new().add_bus(PlatformBus::new(Unprotected))
    }

    const DRIVERS: [&str; 4] = ["disk", "net", "uart", "clock"];

    /// `count` devices, spread over the drivers.
    fn names(count: usize) -> Vec<Arc<str>> {
        DRIVERS.iter().cycle().take(count).enumerate().map(|(n, driver)| format!("{driver}.{n}").into()).collect()
    }

    fn fill(bus: &BusHandle, names: &[Arc<str>]) {
        for name in names {
            device(bus, name.clone());
        }
    }

    fn floor(group: &mut BenchmarkGroup<'_, WallTime>) {
        let lock = parking_lot::Mutex::new(0_u64);
        group.bench_function("floor: lock and unlock", |bench| bench.iter(|| *black_box(&lock).lock() += 1));
    }

    /// One device among many is bound and unbound, by its handle and by its name.
    fn one_of_many(criterion: &mut Criterion) {
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
            bus.sysfs().unbind(driver, name).expect("it was bound at boot").wait();
            let handles = (bus.driver(driver).expect("it is registered"), bus.device(name).expect("it is there"));
            group.bench_function(BenchmarkId::new("by handle", count), |bench| {
                bench.iter(|| bind_and_unbind(&bus, &handles.0, &handles.1));
            });
            group.bench_function(BenchmarkId::new("by name", count), |bench| {
                bench.iter(|| {
                    bus.sysfs().bind(driver, name).expect("it is free");
                    bus.sysfs().unbind(driver, name).expect("it is bound").wait();
                });
            });
        }
        group.finish();
    }

    /// How long `rounds` of `work` take when so many threads do them side by side.
    fn side_by_side(threads: usize, rounds: u64, work: impl Fn(usize) + Sync) -> Duration {
        let start = std::sync::Barrier::new(threads);
        std::thread::scope(|scope| {
            let run = |thread| {
                start.wait();
                let began = Instant::now();
                for _ in 0..rounds {
                    work(thread);
                }
                began.elapsed()
            };
            let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
            all.into_iter().map(|thread| thread.join().expect("nothing is refused")).max().unwrap_or_default()
        })
    }

    /// One thread, and two on two devices with two drivers; beside it the same with two private pairs of locks.
    fn two_threads(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("bind and unbind side by side");
        let bus = bus();
        bus.set_drivers_autoprobe(false);
        let pairs: Vec<_> =
            ["disk", "net"].map(|name| (driver(&bus, name, false), device(&bus, format!("{name}.0")))).into();
        let locks: [_; 2] =
            std::array::from_fn(|_| Aligned(parking_lot::Mutex::new(0_u64), parking_lot::Mutex::new(0_u64)));
        for threads in [1, 2] {
            group.bench_function(BenchmarkId::new("bind and unbind", threads), |bench| {
                bench.iter_custom(|rounds| {
                    side_by_side(threads, rounds, |n| {
                        if let Some((driver, dev)) = pairs.get(n) {
                            bind_and_unbind(&bus, driver, dev);
                        }
                    })
                });
            });
            group.bench_function(BenchmarkId::new("two private locks", threads), |bench| {
                bench.iter_custom(|rounds| {
                    side_by_side(threads, rounds, |n| {
                        if let Some(Aligned(one, two)) = locks.get(n) {
                            for _ in 0..10 {
                                *black_box(one).lock() += 1;
                                *black_box(two).lock() += 1;
                            }
                        }
                    })
                });
            });
        }
        group.finish();
    }

    #[repr(align(128))]
    struct Aligned(parking_lot::Mutex<u64>, parking_lot::Mutex<u64>);

    /// A chain of bridges comes and goes.
    fn chain(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("chain of bridges");
        group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
        for count in [1_000_usize, 10_000, 100_000] {
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(BenchmarkId::from_parameter(count), |bench| {
                bench.iter(|| {
                    let bus = bus();
                    let top = device(&bus, "0");
                    let mut last = top.clone();
                    for n in 1..count {
                        let spec = DeviceSpec::new(n.to_string(), PlatformDevice::default()).below(last);
                        last = bus.add_device(spec).expect("the name is free");
                    }
                    drop(last);
                    top.remove().wait();
                    assert!(bus.devices().is_empty());
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
            let bus = core.add_bus(PlatformBus::new(Unprotected));
            driver(&bus, "consumer", true);
            driver(&bus, "disk", false);
            for n in 0..waiting {
                device(&bus, format!("consumer.{n}"));
            }
            assert_eq!(core.deferred().len(), waiting);
            let (disk, dev) = (bus.driver("disk").expect("it is registered"), device(&bus, "disk.0"));
            bus.unbind(&disk, &dev).expect("it was bound at once").wait();
            group.bench_function(BenchmarkId::from_parameter(waiting), |bench| {
                bench.iter(|| bind_and_unbind(&bus, &disk, &dev));
            });
            assert_eq!(core.deferred().len(), waiting);
        }
        group.finish();
    }
}
