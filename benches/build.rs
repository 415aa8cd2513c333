//! Remembers which compiler builds the report, so that the report can say so.

use std::env;
use std::process::Command;

fn main() {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    println!("cargo::rustc-env=REPORT_RUSTC={}", version.unwrap_or_else(|_| "unknown".to_owned()));
    println!("cargo::rerun-if-changed=build.rs");
}
