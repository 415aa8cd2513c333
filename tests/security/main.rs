//! What can be done to nodes by those who reach their port: each attack over real sockets, against
//! nodes that are processes, measured from outside. (Nodes with certificates are engines in this
//! process: which hosts they keep out, their calls tell.)
//!
//! Each test ends with a cluster that serves, and with nodes that hold about as much memory and as
//! many descriptors as before.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "tests are apps: they start threads, and wait")]

mod attacker;
#[path = "../../src/security/authority.rs"]
#[allow(dead_code, reason = "the units of the crate use more of it")]
mod authority;
mod support;
mod tap;
mod tls_attacker;
mod victims;

mod certificates;
mod cut;
mod datagrams;
mod downgrade;
mod garbage;
mod in_between;
mod loris;
mod many;
mod names;
mod no_key;
mod old_key;
mod records;
mod replay;
mod sealed;
mod secrets;
mod slow;
