//! Apps that embed an engine and are not as a program in Rust usually is. Each test starts this
//! program once more, as an app of its own, and sees how that ends.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "tests are apps: they start threads, and wait")]

#[path = "../support/mod.rs"]
mod support;

mod crowds;
mod descriptors;
mod filters;
mod forks;
mod limits;
mod logger;
mod signals;

use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// Names the test whose app a process is, and what the app is to try.
const APP: &str = "GRIDKV_TEST_APP";
const TRIAL: &str = "GRIDKV_TEST_TRIAL";

/// Runs `app` in a process of its own, which must succeed. `test` is the full name of the test that
/// calls, and calls nothing else.
fn in_own_process(test: &str, app: impl FnOnce()) {
    if trial(test).is_some() {
        return app();
    }
    let output = start_app(test, "", &[]);
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "the app ended with {}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "{test} is no name of a test:\n{out}");
}

/// What the app of this test is to try. `None` if this process is not that app.
fn trial(test: &str) -> Option<String> {
    let is_app = std::env::var(APP).is_ok_and(|name| name == test);
    is_app.then(|| std::env::var(TRIAL).unwrap_or_default())
}

/// Starts this program once more as the app of a test, and returns how it ended.
fn start_app(test: &str, trial: &str, environment: &[(&str, &str)]) -> Output {
    let program = std::env::current_exe().expect("this test is a program");
    Command::new(program)
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .envs(environment.iter().copied())
        .env(APP, test)
        .env(TRIAL, trial)
        .stdin(Stdio::null())
        .output()
        .expect("this program starts again")
}

/// Says that it is over when it is dropped, so that other threads end if the test fails as well.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
