//! A driver that cannot leave while a program holds its device open, and a driver that cannot come before another has:
//! an unbind that is driven by hand, and a deferred probe. `cargo run -p device-model --example waiting_unbind`.

use std::error::Error;
use std::sync::Arc;

use device_model::platform::{PlatformBus, PlatformDevice};
use device_model::sync::Users;
use device_model::{
    Awaits, BoundTo, DeviceSpec, DmaApi, Driver, DriverCore, ProbeError, Progress, Removal, Unprotected,
};

type Platform = PlatformBus<Unprotected>;

/// Drives cameras, which programs open.
struct CameraDriver(Arc<str>);

impl Driver<Platform> for CameraDriver {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.0
    }

    fn probe(&self, dev: &mut BoundTo<'_, Platform, DmaApi>) -> Result<(), ProbeError> {
        dev.manage(Arc::new(Users::new()));
        println!("camera: probes {}", dev.device().name());
        Ok(())
    }

    fn remove(&self, dev: &mut BoundTo<'_, Platform, DmaApi>, attempt: u32) -> Removal {
        let Some(users) = dev.resource::<Arc<Users>>() else { return Removal::Done };
        users.close();
        println!("camera: is to let {} go, attempt {attempt}, users {}", dev.device().name(), users.inside());
        if users.inside() == 0 {
            return Removal::Done;
        }
        // The device lock is held here, so the program hears of it later, from whoever waits.
        users.ask_with(|| println!("program: is asked to close the camera"));
        Removal::Waiting(users.clone())
    }
}

/// Drives the flash of a camera, which works only with the camera's driver.
struct FlashDriver(Arc<str>);

impl Driver<Platform> for FlashDriver {
    type Dma = DmaApi;

    fn name(&self) -> &Arc<str> {
        &self.0
    }

    fn probe(&self, dev: &mut BoundTo<'_, Platform, DmaApi>) -> Result<(), ProbeError> {
        match dev.device().parent() {
            Some(camera) if camera.driver_hint().is_none() => {
                println!("flash: defers {}", dev.device().name());
                Err(ProbeError::Deferred(Awaits::Supplier(camera.name().clone())))
            }
            _ => {
                println!("flash: probes {}", dev.device().name());
                Ok(())
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let core = DriverCore::new();
    let bus = core.add_bus(PlatformBus::new(Unprotected));
    let camera_driver = bus.add_driver(Arc::new(CameraDriver("camera".into())))?;
    bus.add_driver(Arc::new(FlashDriver("flash".into())))?;
    let camera = bus.add_device(DeviceSpec::new("camera.0", PlatformDevice::default()))?;

    // What the file in /dev refers to. An open takes no device lock: a driver that waits for its users holds it.
    let file = camera.lock().resource::<Arc<Users>>().cloned().ok_or("camera.0 has no driver")?;
    let program = file.enter().ok_or("the file is closed")?;

    // Nothing happens before the unbind is driven; then it comes as far as the program lets it.
    let mut unbind = bus.unbind(&camera_driver, &camera)?;
    match unbind.try_finish() {
        Progress::Waiting { device, users } => {
            println!("unbind: {} waits for {} user", device.name(), users.inside());
            assert_eq!(users.inside(), 1);
        }
        Progress::Done => return Err("the driver has left while a program held the device open".into()),
    }
    assert!(file.enter().is_none(), "nobody comes in any more");

    drop(program);
    assert!(matches!(unbind.try_finish(), Progress::Done));
    assert!(!camera.lock().is_bound());
    println!("unbind: done");

    // The flash comes while the camera has no driver: its probe is deferred, and repeated once the camera is bound.
    let flash = bus.add_device(DeviceSpec::new("flash.0", PlatformDevice::default()).below(camera.clone()))?;
    let deferred: Vec<_> = core.deferred().iter().map(|dev| dev.name().to_string()).collect();
    assert_eq!(deferred, ["flash.0"]);
    bus.bind(&camera_driver, &camera)?;
    assert!(flash.lock().is_bound() && core.deferred().is_empty());

    // A removal is driven in the same way, and takes what is below first.
    camera.remove().wait();
    assert!(bus.devices().is_empty());
    println!("removed: flash.0, camera.0");
    Ok(())
}
