//! Starts this program again as a child process: for what is measured of a whole process.
//!
//! A section names the child's work in one word of text, such as `memory/gridkv/1048576`, and gets
//! back the lines that the child prints. `main.rs` knows which function does which work.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// The argument that a child process is started with, before its work.
pub(crate) const CHILD: &str = "--child";

/// Starts this program again, with `work`, and returns the lines that it prints.
pub(crate) fn run_child(work: &str) -> Vec<String> {
    let program = env::current_exe().expect("this program has a path");
    let child = Command::new(program).args([CHILD, work]).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("this program runs again");
    let lines = BufReader::new(child.stdout.take().expect("its output is ours")).lines();
    let lines: Vec<String> = lines.map(|line| line.expect("it prints text")).collect();
    assert!(child.wait().expect("it ends").success(), "{work} failed");
    lines
}
