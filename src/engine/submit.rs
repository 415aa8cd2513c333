//! Calls that do not wait for their answers: `submit_set`, `submit_delete` and `submit_get`.

use super::Engine;
use crate::entry::{Content, Entry};
use crate::error::{NotApplied, ReadError, SubmitError, WriteError};
use crate::options::{ReadOptions, WriteOptions};
use crate::runtime::completions::{CompletionSlot, Completions, Ticket};
use crate::shard::{Call, LocalAnswer, Outcome, check_lengths, read_local};

impl Engine {
    /// Stores `value` under `key` like [`set_with`](Self::set_with), without waiting.
    ///
    /// The answer comes through `completions`, under the ticket that this method returns.
    ///
    /// # Errors
    ///
    /// [`SubmitError`]: nothing was done, and no completion will come. If the core's queue is full,
    /// it is [`NotApplied::Overloaded`].
    pub fn submit_set(
        &self,
        completions: &Completions,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<Ticket, SubmitError> {
        self.submit_write(completions, key.as_ref(), Content::Value(value.as_ref()), options)
    }

    /// Deletes `key` like [`delete_with`](Self::delete_with), without waiting.
    ///
    /// # Errors
    ///
    /// [`SubmitError`], as for [`submit_set`](Self::submit_set).
    pub fn submit_delete(
        &self,
        completions: &Completions,
        key: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<Ticket, SubmitError> {
        let options = WriteOptions { ttl: None, ..options.clone() };
        self.submit_write(completions, key.as_ref(), Content::Tombstone, &options)
    }

    /// Reads the value of `key` like [`get_with`](Self::get_with), without waiting.
    ///
    /// If this node's copy is an answer, the completion is there at once.
    ///
    /// # Errors
    ///
    /// [`SubmitError`], as for [`submit_set`](Self::submit_set).
    pub fn submit_get(
        &self,
        completions: &Completions,
        key: impl AsRef<[u8]>,
        options: &ReadOptions,
    ) -> Result<Ticket, SubmitError> {
        let key = key.as_ref();
        let span = self.span(options.timeout);
        check_lengths(key, Content::Tombstone)?;
        let rules = self.rules(options).map_err(submit_error)?;
        let (core, call) = self.read_call(key, options, span).map_err(submit_error)?;
        let place = self.reserve(completions, Outcome::Read(Err(ReadError::EngineFailed)))?;
        let ticket = place.ticket();
        let runtime = &self.inner.runtime;
        if let Some(pinned) = runtime.views().map_err(NotApplied::from)?.pin() {
            let answer =
                read_local(&pinned, rules, call.hash, key, || runtime.clock().coarse_wall());
            let found = match answer {
                LocalAnswer::Value(entry) => Some(Some(Entry::clone(&entry))),
                LocalAnswer::Nothing => Some(None),
                LocalAnswer::AskOwner => None,
            };
            if let Some(found) = found {
                place.complete(Some(Outcome::Read(Ok(found))));
                return Ok(ticket);
            }
        }
        runtime.submit(core, Call::Read(Box::new(call)), place, None).map_err(NotApplied::from)?;
        Ok(ticket)
    }

    fn submit_write(
        &self,
        completions: &Completions,
        key: &[u8],
        content: Content<'_>,
        options: &WriteOptions,
    ) -> Result<Ticket, SubmitError> {
        check_lengths(key, content)?;
        let span = self.span(options.timeout);
        let place = self.reserve(completions, Outcome::Written(Err(WriteError::EngineFailed)))?;
        let ticket = place.ticket();
        let runtime = &self.inner.runtime;
        let bytes = if let Content::Value(value) = content { value.len() } else { 0 };
        let permit = runtime.allow_now(bytes).map_err(NotApplied::from)?;
        let (core, call) = self.write_call(key, content, options, span)?;
        runtime.submit(core, Call::Write(call), place, permit).map_err(NotApplied::from)?;
        Ok(ticket)
    }

    fn reserve(
        &self,
        completions: &Completions,
        if_lost: Outcome,
    ) -> Result<CompletionSlot, SubmitError> {
        completions.reserve(if_lost).ok_or(SubmitError::Full { capacity: completions.capacity() })
    }
}

/// Returns the error of a read that could not be made.
fn submit_error(error: ReadError) -> SubmitError {
    match error {
        ReadError::BadQuorum { asked, replicas } => SubmitError::BadReadQuorum { asked, replicas },
        _ => NotApplied::ShutDown.into(),
    }
}
