//! A bus of one's own, with a driver and a device: `cargo run -p device-model --example own_bus`.

use std::sync::Arc;

use device_model::{
    AnyDriver, BoundTo, Bus, Device, DeviceSpec, DmaApi, Driver, DriverCore, Match, ProbeError, Unprotected,
};

/// A bus whose devices say what they are.
struct ToyBus;

impl Bus for ToyBus {
    type Device = Toy;
    type Id = Toy;
    type Driver = dyn AnyDriver<Self>;
    type Dma = Unprotected;

    fn name(&self) -> &'static str {
        "toy"
    }

    fn dma(&self) -> &Unprotected {
        &Unprotected
    }

    fn matches(&self, dev: &Device<Self>, driver: &dyn AnyDriver<Self>) -> Match {
        driver.ids().contains(&**dev.description()).into()
    }
}

#[derive(PartialEq)]
enum Toy {
    Train,
    Robot,
}

struct TrainDriver(Arc<str>);

impl Driver<ToyBus> for TrainDriver {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.0
    }

    fn ids(&self) -> &[Toy] {
        &[Toy::Train]
    }

    fn probe(&self, dev: &mut BoundTo<'_, ToyBus, DmaApi>) -> Result<(), ProbeError> {
        println!("{} drives {}", self.0, dev.device().name());
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = DriverCore::new().add_bus(ToyBus);
    bus.add_driver(Arc::new(TrainDriver("train".into())))?;
    let train = bus.add_device(DeviceSpec::new("train0", Toy::Train))?;
    let robot = bus.add_device(DeviceSpec::new("robot0", Toy::Robot))?;
    println!("{:?}, {:?}", train.driver_hint(), robot.driver_hint());
    Ok(())
}
