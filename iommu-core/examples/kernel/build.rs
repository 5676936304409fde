//! Links at the address where the CPU has the kernel when it starts, before there are page tables.

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rustc-link-arg=-T{}/link.ld", std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
}
