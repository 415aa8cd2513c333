//! [`LocalShard`]: what an app's closure can do on the core that owns a key, without a message for
//! each step.

use std::any::Any;
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::entry::Content;
use crate::error::{NotApplied, ReadError};
use crate::options::WriteOptions;

/// Reads and writes the keys that one core owns, without messages, in a closure that runs on that
/// core.
///
/// Keys of other cores give an error, [`NotApplied::OtherCore`] or [`ReadError::OtherCore`];
/// [`owns`](Self::owns) tells. Time stands still while the closure runs: what expires during the
/// call is still there. Everything else on this core waits too, its other calls, its connections
/// and its timers. A closure should take no longer than a few microseconds, and must not wait for
/// anything.
pub struct LocalShard<'a> {
    owner: &'a mut dyn Owner,
}

/// A shard with callers of any type, for one closure.
pub(super) trait Owner {
    fn core(&self) -> usize;
    fn owns(&self, key: &[u8]) -> bool;
    fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, ReadError>;
    fn write(
        &mut self,
        key: &[u8],
        content: Content<'_>,
        options: &WriteOptions,
    ) -> Result<(), NotApplied>;
}

impl<'a> LocalShard<'a> {
    pub(super) fn new(owner: &'a mut dyn Owner) -> Self {
        Self { owner }
    }

    /// Returns the number of this core, from zero.
    pub fn core(&self) -> usize {
        self.owner.core()
    }

    /// Returns whether this core owns `key`.
    pub fn owns(&self, key: impl AsRef<[u8]>) -> bool {
        self.owner.owns(key.as_ref())
    }

    /// Returns this node's own copy of the value of `key`, or `None` if there is none. No other
    /// node is asked, as with [`ReadOptions::local`](crate::ReadOptions::local).
    ///
    /// # Errors
    ///
    /// - [`ReadError::NotLocal`] if this node holds no current copy.
    /// - [`ReadError::OtherCore`] if another core owns the key.
    /// - [`ReadError::KeyTooLong`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<&[u8]>, ReadError> {
        self.owner.get(key.as_ref())
    }

    /// Returns whether this node's own copy of `key` has a value.
    ///
    /// # Errors
    ///
    /// The errors of [`get`](Self::get).
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool, ReadError> {
        Ok(self.get(key)?.is_some())
    }

    /// Stores `value` under `key`. If this node is a replica of the key, its own copy has the value
    /// when this returns; the other replicas are asked after that. The closure's caller is told
    /// whether W of them acknowledged the write.
    ///
    /// With a [`read_quorum`](crate::Config::read_quorum) of two or more, other replicas are first
    /// asked for the key's version: [`get`](Self::get) then finds the value only after the closure
    /// has ended.
    ///
    /// # Errors
    ///
    /// [`NotApplied`] if it is clear at once that the write does not happen. The closure goes on,
    /// and its caller is not told of this error.
    pub fn set(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), NotApplied> {
        self.set_with(key, value, &WriteOptions::new())
    }

    /// Stores `value` under `key` as [`set`](Self::set) does, with a time to live, a quorum or a
    /// timeout of its own. The timeout is never longer than the closure's caller waits.
    ///
    /// # Errors
    ///
    /// The errors of [`set`](Self::set).
    pub fn set_with(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<(), NotApplied> {
        self.owner.write(key.as_ref(), Content::Value(value.as_ref()), options)
    }

    /// Deletes `key`, whether or not it exists. The delete is written as [`set`](Self::set) writes.
    ///
    /// # Errors
    ///
    /// The errors of [`set`](Self::set).
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<(), NotApplied> {
        self.owner.write(key.as_ref(), Content::Tombstone, &WriteOptions::new())
    }
}

impl fmt::Debug for LocalShard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalShard").field("core", &self.core()).finish_non_exhaustive()
    }
}

/// What a closure returned; its caller knows the type. If the caller has gone, the last thread that
/// comes upon it drops it: a panic of that is an app's own, and must not end an engine's thread.
pub(crate) struct Returned(Option<Box<dyn Any + Send>>);

impl Returned {
    pub(super) fn new(value: Box<dyn Any + Send>) -> Self {
        Self(Some(value))
    }

    /// Returns it as the type that the closure returned; `None` for another one.
    pub(crate) fn take<T: 'static>(mut self) -> Option<T> {
        self.0.take()?.downcast().ok().map(|value| *value)
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(drop_quietly);
    }
}

impl fmt::Debug for Returned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Returned")
    }
}

/// Drops what an app made, which might panic.
pub(super) fn drop_quietly<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // What was thrown might panic when it is dropped, too.
        mem::forget(payload);
    }
}
