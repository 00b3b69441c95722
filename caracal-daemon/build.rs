//! Embeds the kernel programs, which `cargo xtask build` compiles for the BPF target.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-env-changed=CARACAL_BPF_OBJECT");
    let object = env::var_os("CARACAL_BPF_OBJECT")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/caracal.o"), PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    // For a unit test: the same programs with lines, which are no part of the binary.
    println!("cargo:rustc-env=CARACAL_BPF_LOG_OBJECT={}", object.with_file_name("caracal-log.o").display());
    let Some(out) = env::var_os("OUT_DIR") else { return };
    let Ok(bytes) = fs::read(&object) else {
        println!(
            "cargo:error=the kernel programs are not built ({} is missing): run `cargo xtask build`",
            object.display()
        );
        return;
    };
    if let Err(error) = fs::write(PathBuf::from(out).join("caracal.o"), bytes) {
        println!("cargo:error=cannot copy the kernel programs: {error}");
    }
}
