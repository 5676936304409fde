#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod locks;
mod memory;

extern "C" fn main() -> ! {
    line!("booted");
    let core = device_model::DriverCore::new();
    let _ = core;
    boot::exit(boot::Exit::Success)
}
