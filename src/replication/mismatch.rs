//! What to do about a state that the code says cannot be.

use crate::logging;

/// Shows a bug of this node: panics in a debug build, and logs an error in a release build, where
/// the protocol goes on without the event.
///
/// It is for contradictions between parts of one process alone. What a peer can cause by a wrong
/// message is a violation of the protocol, or ignored for a reason that is stated there: a peer
/// must not be able to stop a core.
pub(crate) fn mismatch(what: &str) {
    if cfg!(debug_assertions) {
        unreachable!("{what}");
    }
    logging::error!("a bug in gridkv, please report it: {what}");
}
