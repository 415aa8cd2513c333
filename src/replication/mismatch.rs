//! A machine was told what cannot happen: a bug of this crate, which must show itself.

/// Panics in debug builds. In release builds the engine goes on and the log says so: the request that
/// this belongs to is asked again, or fails by its deadline.
///
/// Nothing that a peer can send leads here: the shard compares each answer with its request first.
#[track_caller]
pub(crate) fn mismatch(what: &str) {
    if cfg!(debug_assertions) {
        unreachable!("{what}");
    }
    log::error!("{what} (this is a bug of gridkv: please report it)");
}
