//! Looks up names, and asks what the app brought to find nodes: both may block, which no engine's thread may.

#![forbid(unsafe_code)]

use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::control_thread::ToControl;
use super::mailbox::{SendError, Sender};
use crate::discovery::{Custom, Found};

/// How many addresses count.
const MOST_FOUND: usize = 1000;

/// Where addresses come from that are not given.
#[derive(Clone, Debug)]
pub(crate) struct Finder {
    /// Host names and ports.
    pub(crate) names: Vec<String>,
    pub(crate) custom: Option<Custom>,
}

impl Finder {
    pub(crate) fn is_needed(&self) -> bool {
        !self.names.is_empty() || self.custom.is_some()
    }

    fn find(&self) -> Found {
        let mut found = Found::default();
        let mut failures = Vec::new();
        for name in &self.names {
            match name.to_socket_addrs() {
                Ok(addresses) => found.addresses.extend(addresses),
                Err(error) => failures.push(format!("the seed {name:?}: {error}")),
            }
        }
        if let Some(Custom(custom)) = &self.custom {
            match catch_unwind(AssertUnwindSafe(|| custom.discover())) {
                Ok(Ok(addresses)) => found.addresses.extend(addresses),
                Ok(Err(error)) => failures.push(format!("Config::discovery: {error}")),
                Err(_) => failures.push("Config::discovery panicked".to_owned()),
            }
        }
        // One node, one spelling.
        let canonical = |addr: &SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let is_reachable = |addr: &SocketAddr| addr.port() != 0 && !addr.ip().is_unspecified();
        found.addresses = found.addresses.iter().map(canonical).filter(is_reachable).collect();
        found.addresses.sort_unstable();
        found.addresses.dedup();
        found.addresses.truncate(MOST_FOUND);
        found.failure = (!failures.is_empty()).then(|| failures.join("; "));
        found
    }
}

/// The control thread's way to the discovery thread. That ends once this is dropped, and what it does then is done.
#[derive(Debug)]
pub(crate) struct Wishes(SyncSender<()>);

impl Wishes {
    /// Asks it to look, unless it has been asked.
    pub(crate) fn look(&self) {
        match self.0.try_send(()) {
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => log::error!("the discovery thread has ended"),
        }
    }
}

/// Starts the thread. Nobody joins it: a name server may take a minute to say nothing.
///
/// # Errors
///
/// Where the system gives no thread.
pub(crate) fn start(finder: Finder, control: Sender<ToControl>) -> io::Result<Wishes> {
    let (wishes, asked) = sync_channel(1);
    thread::Builder::new()
        .name("gridkv-discovery".to_owned())
        .spawn(move || run(&finder, &asked, &control))?;
    Ok(Wishes(wishes))
}

fn run(finder: &Finder, asked: &Receiver<()>, control: &Sender<ToControl>) {
    while asked.recv().is_ok() {
        let mut message = ToControl::Found(Box::new(finder.find()));
        // The control thread waits for an answer before it asks again.
        while let Err(SendError::Full(unsent)) = control.send_until(message, until()) {
            message = unsent;
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long to wait for room, on a thread without a clock of its own"
)]
fn until() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn finder(names: &[&str], custom: Option<Custom>) -> Finder {
        Finder { names: names.iter().map(|name| (*name).to_owned()).collect(), custom }
    }

    #[test]
    fn names_and_what_the_app_brought_are_looked_up_and_one_failure_is_not_the_end_of_the_other() {
        let custom = || {
            let mapped = "[::ffff:10.0.0.3]:8001".parse()?;
            Ok(vec![mapped, "10.0.0.2:8001".parse()?, "10.0.0.2:8001".parse()?, "0.0.0.0:1".parse()?])
        };
        let custom = Custom(Arc::new(custom));
        let found = finder(&["127.0.0.1:8000", "no host:1"], Some(custom)).find();
        let expected = ["10.0.0.2:8001", "10.0.0.3:8001", "127.0.0.1:8000"];
        assert_eq!(found.addresses, expected.map(|addr| addr.parse::<SocketAddr>().unwrap()));
        assert!(found.failure.unwrap().starts_with("the seed \"no host:1\": "));
    }

    #[test]
    fn a_panic_and_an_error_are_failures() {
        let panics = Custom(Arc::new(|| panic!("on purpose")));
        assert_eq!(finder(&[], Some(panics)).find().failure.as_deref(), Some("Config::discovery panicked"));
        let fails = Custom(Arc::new(|| Err("no registry".into())));
        let failure = finder(&[], Some(fails)).find().failure;
        assert_eq!(failure.as_deref(), Some("Config::discovery: no registry"));
    }
}
