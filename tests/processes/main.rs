//! Nodes as processes of their own, over sockets: killed, paused, restarted, and unplugged.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "tests are apps: they start threads, and wait")]

mod support;

mod clocks;
mod forwarded;
mod idle;
mod links;
mod lives;
mod moved;
mod partial;
mod rolling;
mod secured;
mod strangers;
mod transports;
