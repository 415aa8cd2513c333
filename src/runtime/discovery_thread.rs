//! The discovery thread: it looks up names and asks the app's [`Discovery`](crate::Discovery).
//!
//! Both may block for minutes, which no other thread of an engine may do. The thread looks once for
//! each request of the control thread. A request that comes while it looks is kept; more than one
//! are one.

#![forbid(unsafe_code)]

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::mailbox::{SendError, Sender};
use super::messages::ToControl;
use crate::discovery::AddressSource;
use crate::logging;

/// The control thread's handle to the discovery thread, which ends when this is dropped and its
/// last lookup returns.
#[derive(Debug)]
pub(crate) struct DiscoveryRequests(SyncSender<()>);

impl DiscoveryRequests {
    /// Asks the thread to look, unless a request waits already.
    pub(crate) fn look(&self) {
        match self.0.try_send(()) {
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => {
                logging::error!("the discovery thread has ended");
            }
        }
    }
}

/// Starts the thread. It is never joined: a name server may take a minute to say nothing.
///
/// # Errors
///
/// The system's, if it gives no thread.
pub(crate) fn start(
    source: AddressSource,
    control: Sender<ToControl>,
) -> io::Result<DiscoveryRequests> {
    let (requests, asked) = sync_channel(1);
    thread::Builder::new()
        .name("gridkv-discovery".to_owned())
        .spawn(move || run(&source, &asked, &control))?;
    Ok(DiscoveryRequests(requests))
}

fn run(source: &AddressSource, asked: &Receiver<()>, control: &Sender<ToControl>) {
    while asked.recv().is_ok() {
        let mut message = ToControl::Found(Box::new(source.find()));
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
