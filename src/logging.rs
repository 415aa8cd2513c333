//! What the engine tells the app's logger.
//!
//! The logger is the app's, and may block: on a full pipe, a disk that hangs, a lock. A thread of
//! the engine must not wait for it, so it hands its lines to an *outlet* ([`set_outlet`]), behind
//! which another thread talks to the logger. All other threads talk to the logger themselves.

use std::cell::RefCell;
use std::fmt;

use log::{Level, Record};

/// A place in the source that says something, and how important that is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) level: Level,
    pub(crate) module: &'static str,
    pub(crate) file: &'static str,
    pub(crate) line: u32,
}

/// A line on its way to the logger.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) place: Place,
    pub(crate) text: String,
}

/// Takes a line without waiting for anything.
pub(crate) type Outlet = Box<dyn Fn(Line) + Send>;

thread_local! {
    static OUTLET: RefCell<Option<Outlet>> = const { RefCell::new(None) };
}

/// Sets where the lines of the calling thread go; without an outlet, to the logger.
pub(crate) fn set_outlet(outlet: Option<Outlet>) {
    OUTLET.set(outlet);
}

impl Line {
    /// Gives the line to the logger, which may take its time.
    pub(crate) fn log(&self) {
        tell(self.place, format_args!("{}", self.text));
    }
}

/// Says something. For the macros of this module.
pub(crate) fn say(place: Place, text: fmt::Arguments<'_>) {
    if place.level > log::STATIC_MAX_LEVEL || place.level > log::max_level() {
        return;
    }
    let is_out = OUTLET.try_with(|outlet| match &*outlet.borrow() {
        Some(outlet) => {
            outlet(Line { place, text: text.to_string() });
            true
        }
        None => false,
    });
    if is_out != Ok(true) {
        tell(place, text);
    }
}

fn tell(Place { level, module, file, line }: Place, text: fmt::Arguments<'_>) {
    let mut record = Record::builder();
    record.level(level).target(module).args(text);
    record.module_path_static(Some(module)).file_static(Some(file)).line(Some(line));
    log::logger().log(&record.build());
}

/// Says something on a level: `say_line!(Debug, "{number} lines")`.
macro_rules! say_line {
    ($level:ident, $($text:tt)+) => {
        $crate::logging::say(
            $crate::logging::Place {
                level: log::Level::$level,
                module: module_path!(),
                file: file!(),
                line: line!(),
            },
            format_args!($($text)+),
        )
    };
}
macro_rules! error {
    ($($text:tt)+) => { $crate::logging::say_line!(Error, $($text)+) };
}
macro_rules! warn_ {
    ($($text:tt)+) => { $crate::logging::say_line!(Warn, $($text)+) };
}
macro_rules! info {
    ($($text:tt)+) => { $crate::logging::say_line!(Info, $($text)+) };
}
macro_rules! debug {
    ($($text:tt)+) => { $crate::logging::say_line!(Debug, $($text)+) };
}
pub(crate) use {debug, error, info, say_line, warn_ as warn};
