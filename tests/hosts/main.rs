//! Apps that embed an engine and are not as a program in Rust usually is. Each test starts this
//! program once more, as an app of its own, and sees how that ends.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "tests are apps: they start threads, and wait")]

#[path = "../support/mod.rs"]
mod support;

mod logger;
mod signals;

use std::process::{Command, Stdio};

/// Names the test whose app a process is.
const APP: &str = "GRIDKV_TEST_APP";

/// Runs `app` in a process of its own, which must succeed. `test` is the full name of the test that
/// calls, and calls nothing else.
fn in_own_process(test: &str, app: impl FnOnce()) {
    if std::env::var(APP).is_ok_and(|name| name == test) {
        return app();
    }
    let program = std::env::current_exe().expect("this test is a program");
    let output = Command::new(program)
        .args(["--exact", test, "--nocapture"])
        .env(APP, test)
        .stdin(Stdio::null())
        .output()
        .expect("this program starts again");
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "the app ended with {}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "{test} is no name of a test:\n{out}");
}
