//! Computes the ABI's identity from the sources that define it. Standard library only: building needs cargo alone.
//! `tools/generate_bindings.py` computes the same hash, so a library and bindings of different sources cannot meet.

use std::{env, fs};

/// The files that define the ABI. tools/generate_bindings.py reads this list.
const SOURCES: [&str; 6] =
    ["src/batch.rs", "src/error.rs", "src/ffi.rs", "src/ffi/listeners.rs", "src/limits.rs", "src/record.rs"];

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    // FNV-1a, 64 bits: identity against mistakes, not against malice.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
        let text = fs::read(format!("{root}/{source}")).unwrap_or_else(|cause| panic!("{source}: {cause}"));
        for byte in text.into_iter().filter(|byte| *byte != b'\r') {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    println!("cargo::rustc-env=SN_ABI_HASH={hash:016x}");
}
