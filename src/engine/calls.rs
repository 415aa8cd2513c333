//! Calls: how one is made, goes to the core that owns its key, and is waited for.
//!
//! A read looks at this node's copy first, on the caller's own thread. All else is a message to the
//! core, and its answer.

use std::time::Duration;

use super::Engine;
use crate::clock::{Instant, WallTime};
use crate::entry::{Content, Entry};
use crate::error::{NotApplied, ReadError, WriteError};
use crate::events::{MemberInfo, MemberState};
use crate::options::{ReadOptions, WriteOptions};
use crate::quorums::{Count, Quorums};
use crate::runtime::reply::{NoReply, Reply};
use crate::shard::{
    Call, LocalAnswer, LocalRules, Outcome, ReadCall, TouchCall, WriteCall, check_lengths,
    expires_at_ms, read_local,
};
use crate::types::{CoreId, KeyHash, MAX_KEY_BYTES};

/// When a call was made, and how long it may take.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) start: Instant,
    pub(super) deadline: Instant,
}

/// How long a caller waits beyond its timeout, for the core to say how far the call got.
const LAST_WORD: Duration = Duration::from_millis(50);

/// How long one call that is about no key may take: a step of a walk, or the counts of a core.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

impl Engine {
    pub(super) fn write(
        &self,
        key: &[u8],
        content: Content<'_>,
        options: &WriteOptions,
    ) -> Result<(), WriteError> {
        check_lengths(key, content)?;
        let span = self.span(options.timeout);
        let bytes = if let Content::Value(value) = content { value.len() } else { 0 };
        let permit = self.inner.runtime.allow(bytes, span.deadline)?;
        let (core, call) = self.write_call(key, content, options, span)?;
        let needed = call.quorum;
        let reply = self.inner.runtime.send(core, Call::Write(call), permit, span.deadline)?;
        match self.wait(core, reply, span) {
            Ok(Outcome::Written(result)) => result,
            other => Err(self.no_write(other, needed)),
        }
    }

    pub(super) fn write_call(
        &self,
        key: &[u8],
        content: Content<'_>,
        options: &WriteOptions,
        span: Span,
    ) -> Result<(CoreId, WriteCall), NotApplied> {
        let rules = &self.inner.write_rules;
        let call = WriteCall::new(rules, key, content, options, span.deadline, || self.wall())?;
        Ok((self.core_of(call.hash), call))
    }

    /// Gives a key a time to live, or takes it away (`None`).
    pub(super) fn change_expiry(
        &self,
        key: &[u8],
        ttl: Option<Duration>,
    ) -> Result<bool, WriteError> {
        check_lengths(key, Content::Tombstone)?;
        let expires_at_ms = ttl.map(|ttl| expires_at_ms(ttl, self.wall())).transpose()?;
        let span = self.span(None);
        let (core, hash) = self.route(key);
        let call = TouchCall { key: key.into(), hash, expires_at_ms, deadline: span.deadline };
        let reply =
            self.inner.runtime.send(core, Call::Touch(Box::new(call)), None, span.deadline)?;
        match self.wait(core, reply, span) {
            Ok(Outcome::Touched(result)) => result,
            other => Err(self.no_write(other, self.inner.settings.quorums.write)),
        }
    }

    /// Passes the live entry of a key to `look`: from this node's copy, on this thread, if that is
    /// an answer; otherwise what the owning core finds.
    #[inline]
    pub(super) fn look<T>(
        &self,
        key: &[u8],
        rules: LocalRules,
        options: Option<&ReadOptions>,
        look: impl FnOnce(&Entry) -> T,
    ) -> Result<Option<T>, ReadError> {
        let runtime = &self.inner.runtime;
        let hash = KeyHash::of(runtime.cluster(), check_read_key(key)?);
        if let Some(pinned) = runtime.views()?.pin() {
            match read_local(&pinned, rules, hash, key, || runtime.clock().coarse_wall()) {
                LocalAnswer::Value(entry) => return Ok(Some(look(&entry))),
                LocalAnswer::Nothing => return Ok(None),
                LocalAnswer::AskOwner => {}
            }
        }
        Ok(self.fetch(key, options.unwrap_or(&ReadOptions::new()))?.as_ref().map(look))
    }

    /// Returns when this node's copy answers a read with these options.
    pub(super) fn rules(&self, options: &ReadOptions) -> Result<LocalRules, ReadError> {
        let quorums = self.inner.settings.quorums;
        let rules = local_rules(quorums, self.read_quorum(options)?, options.local);
        Ok(LocalRules { one_denies: rules.one_denies && !options.anywhere, ..rules })
    }

    fn read_quorum(&self, options: &ReadOptions) -> Result<Count, ReadError> {
        let quorums = self.inner.settings.quorums;
        let bad = |asked| ReadError::BadQuorum { asked, replicas: quorums.replicas };
        quorums.of_read(options.quorum).map_err(bad)
    }

    #[cold]
    fn fetch(&self, key: &[u8], options: &ReadOptions) -> Result<Option<Entry>, ReadError> {
        let span = self.span(options.timeout);
        let (core, call) = self.read_call(key, options, span)?;
        let reply =
            self.inner.runtime.send(core, Call::Read(Box::new(call)), None, span.deadline)?;
        match self.wait(core, reply, span) {
            Ok(Outcome::Read(result)) => result,
            other => Err(self.no_read(other)),
        }
    }

    pub(super) fn read_call(
        &self,
        key: &[u8],
        options: &ReadOptions,
        span: Span,
    ) -> Result<(CoreId, ReadCall), ReadError> {
        let quorum = self.read_quorum(options)?;
        let (core, hash) = self.route(key);
        let deadline = span.deadline;
        let (key, local, anywhere) = (key.into(), options.local, options.anywhere);
        Ok((core, ReadCall { key, hash, quorum, local, anywhere, deadline }))
    }

    /// Makes a call that is about no key, and waits for its answer.
    pub(super) fn ask(&self, core: CoreId, call: Call) -> Result<Outcome, ReadError> {
        let span = self.span(Some(STEP_TIMEOUT));
        let reply = self.inner.runtime.send(core, call, None, span.deadline)?;
        match self.wait(core, reply, span) {
            Ok(Outcome::Read(Err(error))) => Err(error),
            Ok(outcome) => Ok(outcome),
            Err(NoReply::TimedOut) => Err(ReadError::Overloaded),
            Err(NoReply::Gone) => Err(ReadError::EngineFailed),
        }
    }

    pub(super) fn wait(&self, core: CoreId, reply: Reply, span: Span) -> Result<Outcome, NoReply> {
        self.inner.runtime.wait(core, reply, span.start, span.deadline + LAST_WORD)
    }

    /// Returns the error of a write without an answer.
    pub(super) fn no_write(&self, reply: Result<Outcome, NoReply>, quorum: Count) -> WriteError {
        match reply {
            Err(NoReply::Gone) => WriteError::EngineFailed,
            _ => WriteError::Indeterminate { acked: 0, needed: self.needed(quorum) },
        }
    }

    /// Returns the error of a read without an answer.
    pub(super) fn no_read(&self, reply: Result<Outcome, NoReply>) -> ReadError {
        match reply {
            Err(NoReply::Gone) => ReadError::EngineFailed,
            _ => {
                let needed = self.needed(self.inner.settings.quorums.read);
                ReadError::TimedOut { answered: 0, needed }
            }
        }
    }

    /// Returns how many replicas a quorum is among the nodes that this node sees alive.
    fn needed(&self, quorum: Count) -> usize {
        if let Count::Exactly(quorum) = quorum {
            return quorum.into();
        }
        let members = self.members();
        let me = members.iter().find(|member| member.is_self);
        let here = me.and_then(|me| me.data_center.as_ref());
        let is_alive = |member: &&MemberInfo| {
            let is_up = matches!(member.state, MemberState::Alive | MemberState::Suspect);
            is_up && member.data_center.as_ref() == here
        };
        quorum.count(members.iter().filter(is_alive).count())
    }

    /// Returns the core that owns a key, and the key's hash.
    pub(super) fn route(&self, key: &[u8]) -> (CoreId, KeyHash) {
        let hash = KeyHash::of(self.inner.runtime.cluster(), key);
        (self.core_of(hash), hash)
    }

    pub(super) fn core_of(&self, hash: KeyHash) -> CoreId {
        hash.partition().core(self.inner.settings.cores)
    }

    pub(super) fn cores(&self) -> impl Iterator<Item = CoreId> + use<> {
        (0..self.inner.settings.cores).map(CoreId)
    }

    pub(super) fn wall(&self) -> WallTime {
        self.inner.runtime.clock().wall()
    }

    /// Returns the span of a call that is made now, with its own timeout or the configured one.
    pub(super) fn span(&self, timeout: Option<Duration>) -> Span {
        let start = self.inner.runtime.clock().instant();
        Span { start, deadline: start + timeout.unwrap_or(self.inner.settings.request_timeout) }
    }
}

/// Returns when one copy answers a read of `quorum` replicas, or of this node alone (`local`).
pub(super) fn local_rules(quorums: Quorums, quorum: Count, local: bool) -> LocalRules {
    LocalRules {
        one_answers: quorum == Count::Exactly(1) || local,
        one_denies: quorums.tolerated() == 0 || local,
    }
}

#[inline]
pub(super) fn check_read_key(key: &[u8]) -> Result<&[u8], ReadError> {
    if key.len() > MAX_KEY_BYTES {
        Err(ReadError::KeyTooLong { length: key.len() })
    } else {
        Ok(key)
    }
}

/// Returns the value of an entry that was found to have one.
#[inline]
pub(super) fn value(entry: &Entry) -> &[u8] {
    entry.value().unwrap_or_default()
}
