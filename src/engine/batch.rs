//! [`Batch`] and [`Engine::apply`]: many writes at once, one message to each core.

use std::time::Duration;

use super::Engine;
use super::calls::Span;
use crate::clock::Version;
use crate::entry::{Content, Entry};
use crate::error::{NotApplied, WriteError};
use crate::options::WriteOptions;
use crate::runtime::reply::{NoReply, Reply};
use crate::shard::{Call, Outcome, WriteCall, check_lengths, expires_at_ms};
use crate::types::CoreId;

/// A list of writes that [`Engine::apply`] makes together.
///
/// Each core that owns some of the keys gets one message, and the caller waits once for all
/// answers. It is no transaction: each write succeeds or fails by itself, and others might see some
/// of the writes before the rest.
///
/// ```
/// # use gridkv::{Batch, Config, Engine};
/// # let engine = Engine::start(Config::standalone("app-1")).unwrap();
/// let results = engine.apply(Batch::new().set("a", "1").set("b", "2").delete("c"));
/// assert!(results.iter().all(Result::is_ok));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch {
    operations: Vec<Operation>,
}

#[derive(Clone, Debug)]
struct Operation {
    /// The entry that the key gets, without a version and without a time to live so far.
    entry: Result<Entry, NotApplied>,
    ttl: Option<Duration>,
}

/// The writes that go to one core.
#[derive(Default)]
struct Part {
    calls: Vec<Call>,
    /// The index of each write in the batch.
    indices: Vec<usize>,
    /// The length of all values together.
    bytes: usize,
}

impl Batch {
    /// Returns an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns an empty batch with room for this number of writes.
    pub fn with_capacity(writes: usize) -> Self {
        Self { operations: Vec::with_capacity(writes) }
    }

    /// Adds a write that stores `value` under `key`.
    pub fn set(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.add(key.as_ref(), Content::Value(value.as_ref()), None)
    }

    /// Adds a write that stores `value` under `key` for `ttl`, counted from when the batch is
    /// applied.
    pub fn set_with_ttl(
        self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Self {
        self.add(key.as_ref(), Content::Value(value.as_ref()), Some(ttl))
    }

    /// Adds a delete of `key`.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        self.add(key.as_ref(), Content::Tombstone, None)
    }

    /// Returns the number of writes.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Returns whether the batch has no writes.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    fn add(mut self, key: &[u8], content: Content<'_>, ttl: Option<Duration>) -> Self {
        let entry =
            check_lengths(key, content).map(|()| Entry::new(key, content, Version::ZERO, None));
        self.operations.push(Operation { entry, ttl });
        self
    }
}

impl Engine {
    /// Makes the writes of a batch together, and returns one result for each, in their order.
    ///
    /// This costs a fraction of the same writes one by one. Writes to one key take effect in their
    /// order. The exception is a [`read_quorum`](crate::Config::read_quorum) of two or more: then
    /// they are concurrent.
    pub fn apply(&self, batch: Batch) -> Vec<Result<(), WriteError>> {
        self.apply_with(batch, &WriteOptions::new())
    }

    /// Makes the writes of a batch like [`apply`](Self::apply), with a quorum or a timeout for all
    /// of them.
    ///
    /// A time to live in `options` holds for each write that stores a value and has none of its
    /// own.
    pub fn apply_with(&self, batch: Batch, options: &WriteOptions) -> Vec<Result<(), WriteError>> {
        let span = self.span(options.timeout);
        let quorums = self.inner.settings.quorums;
        // If it asks for what cannot be had, each write says so.
        let quorum = quorums.of_write(options.quorum).unwrap_or(quorums.write);
        let unanswered = self.no_write(Err(NoReply::TimedOut), quorum);
        let mut results = Vec::with_capacity(batch.len());
        let mut parts: Vec<Part> = self.cores().map(|_| Part::default()).collect();
        for (index, operation) in batch.operations.into_iter().enumerate() {
            results.push(Err(unanswered.clone()));
            match self.batched(operation, options, span) {
                Ok(call) => parts[usize::from(self.core_of(call.hash).0)].add(index, call),
                Err(error) => results[index] = Err(error.into()),
            }
        }
        let mut sent = Vec::with_capacity(parts.len());
        for (core, part) in self.cores().zip(parts).filter(|(_, part)| !part.calls.is_empty()) {
            let Part { calls, indices, bytes } = part;
            match self.send_part(core, calls, bytes, span) {
                Ok(reply) => sent.push((core, indices, reply)),
                Err(error) => {
                    indices.iter().for_each(|index| results[*index] = Err(error.clone().into()))
                }
            }
        }
        for (core, indices, reply) in sent {
            match self.wait(core, reply, span) {
                Ok(Outcome::Many(outcomes)) => {
                    for (index, outcome) in indices.into_iter().zip(outcomes) {
                        results[index] = match outcome {
                            Outcome::Written(result) => result,
                            other => Err(self.no_write(Ok(other), quorum)),
                        };
                    }
                }
                other => {
                    let error = self.no_write(other, quorum);
                    indices.into_iter().for_each(|index| results[index] = Err(error.clone()));
                }
            }
        }
        results
    }

    fn send_part(
        &self,
        core: CoreId,
        calls: Vec<Call>,
        bytes: usize,
        span: Span,
    ) -> Result<Reply, NotApplied> {
        let permit = self.inner.runtime.allow(bytes, span.deadline)?;
        Ok(self.inner.runtime.send(core, Call::Many(calls), permit, span.deadline)?)
    }

    fn batched(
        &self,
        operation: Operation,
        options: &WriteOptions,
        span: Span,
    ) -> Result<WriteCall, NotApplied> {
        let mut entry = operation.entry?;
        let ttl = operation.ttl.or(options.ttl).filter(|_| entry.value().is_some());
        if let Some(ttl) = ttl {
            entry = entry.copy(Version::ZERO, Some(expires_at_ms(ttl, self.wall())?));
        }
        WriteCall::of(&self.inner.write_rules, entry, options.quorum, span.deadline)
    }
}

impl Part {
    fn add(&mut self, index: usize, call: WriteCall) {
        self.bytes += call.entry.value().map_or(0, <[u8]>::len);
        self.indices.push(index);
        self.calls.push(Call::Write(call));
    }
}
