//! [`Engine`]: the handle that an app holds.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Instant, WallTime};
use crate::config::{Config, Settings};
use crate::entry::{Content, Entry};
use crate::error::{LeaveError, NotApplied, NotReady, NotSafe, ReadError, StartError, WriteError};
use crate::events::{Events, MemberInfo, MemberState, subscription};
use crate::options::{ReadOptions, WriteOptions};
use crate::quorums::Count;
use crate::runtime::Runtime;
use crate::runtime::reply::{NoReply, Reply};
use crate::shard::{
    Call, Counts, KeysCall, LocalAnswer, LocalRules, Outcome, ReadCall, TouchCall, WriteCall, WriteRules,
    check_lengths, expires_at_ms, read_local,
};
use crate::store::{Keys, Place};
use crate::types::{CoreId, KeyHash, MAX_KEY_BYTES};

mod batch;
mod load;
mod run;
mod submit;
#[cfg(test)]
mod tests;

pub use batch::Batch;
use load::Loads;

/// A running engine. Cloning gives another handle to the same one; it stops, and its threads are joined,
/// when the last handle is dropped.
///
/// Every method may be called from any number of threads. Calls wait for their answer, at most as long
/// as their timeout ([`Config::request_timeout`] where they name none).
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    /// Of reads without options of their own.
    rules: LocalRules,
    write_rules: WriteRules,
    loads: Loads,
    runtime: Runtime,
}

/// When a call was made, and until when it may take.
#[derive(Clone, Copy)]
struct Span {
    start: Instant,
    deadline: Instant,
}

/// Beyond a call's own timeout, how long to wait for the core to say how far it got.
const LAST_WORD: Duration = Duration::from_millis(50);

/// How many keys are brought closer before the first of them is looked at: about as many as a processor has
/// outstanding misses for, twice over.
const TOGETHER: usize = 32;

/// How long one step of a walk over the keys may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

impl Engine {
    /// Checks `config` and starts the engine's threads. A node of a cluster looks for the others in the
    /// background: [`wait_ready`](Self::wait_ready) waits for them.
    ///
    /// # Errors
    ///
    /// [`StartError`] says what to change; no thread and no socket is left behind.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let settings = config.check()?;
        let runtime = Runtime::start(&settings)?;
        let Settings { quorums, memory, .. } = settings;
        let rules = local_rules(&settings, quorums.read, false);
        let write_rules = WriteRules { cluster: runtime.cluster(), quorums, memory };
        let loads = Loads::default();
        Ok(Self { inner: Arc::new(Inner { settings, rules, write_rules, loads, runtime }) })
    }

    /// Waits until enough members are here for calls to succeed: W and R of them, and a majority where
    /// [`Config::require_majority`](crate::Config::require_majority) asks for one, with their partitions agreed on.
    ///
    /// # Errors
    ///
    /// [`NotReady`] says what is missing. The engine goes on trying.
    pub fn wait_ready(&self, timeout: Duration) -> Result<(), NotReady> {
        self.inner.runtime.wait_ready(timeout, self.inner.settings.members_needed())
    }

    /// Waits until no copy of anything is missing anywhere: N nodes hold each partition, every one of them completely,
    /// and no write acknowledged before is on its way to any. Then any node may be stopped, and what was acknowledged
    /// before is still there: a rolling restart stops a node, starts it again, waits for this on any node, and goes on
    /// with the next.
    ///
    /// All members are asked, ten times a second while somebody waits. With fewer members than replicas (N) it is never
    /// safe.
    ///
    /// # Errors
    ///
    /// [`NotSafe::TimedOut`] says what is missing where.
    pub fn wait_until_safe(&self, timeout: Duration) -> Result<(), NotSafe> {
        self.inner.runtime.wait_until_safe(timeout)
    }

    /// Stores `value` under `key`. Acknowledged by W replicas, each after it has applied it.
    ///
    /// # Errors
    ///
    /// [`WriteError`] says whether the write may have happened.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), WriteError> {
        self.set_with(key, value, &WriteOptions::new())
    }

    /// [`set`](Self::set) with a time to live, a quorum or a timeout of its own.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<(), WriteError> {
        self.write(key.as_ref(), Content::Value(value.as_ref()), options)
    }

    /// Deletes `key`, whether or not it exists. The delete is versioned like a write: no replica that
    /// missed it brings the key back.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), WriteError> {
        self.delete_with(key, &WriteOptions::new())
    }

    /// [`delete`](Self::delete) with a quorum or a timeout of its own. A time to live means nothing here.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn delete_with(&self, key: impl AsRef<[u8]>, options: &WriteOptions) -> Result<(), WriteError> {
        self.write(key.as_ref(), Content::Tombstone, &WriteOptions { ttl: None, ..options.clone() })
    }

    /// Gives `key` a new time to live, from now; its value stays. `false` where there is no such key.
    ///
    /// In a cluster this costs a read of N − W + 1 replicas, or of R where that is more, and a write of the value that
    /// they have. It never makes that value newer than one which was written meanwhile, nor does it bring a deleted
    /// key back: of a touch and a write at the same time the write stays, and the touch succeeds as if it had come
    /// just before.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn touch(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<bool, WriteError> {
        self.change_expiry(key.as_ref(), Some(ttl))
    }

    /// Lets `key` live for ever, as [`touch`](Self::touch) lets it live on. `false` where there is no such key, or
    /// where it had no time to live.
    ///
    /// # Errors
    ///
    /// As [`touch`](Self::touch).
    pub fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool, WriteError> {
        self.change_expiry(key.as_ref(), None)
    }

    /// How long `key` has to live; `None` where there is no such key.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<TimeToLive>, ReadError> {
        let deadline = self.look(key.as_ref(), self.inner.rules, None, Entry::expires_at_ms)?;
        let Some(deadline) = deadline else { return Ok(None) };
        let Some(at_ms) = deadline else { return Ok(Some(TimeToLive::Forever)) };
        let now = Duration::from_micros(self.wall().micros());
        let left = Duration::from_millis(at_ms.get()).saturating_sub(now);
        // It may have expired on its way here.
        Ok((!left.is_zero()).then_some(TimeToLive::Left(left)))
    }

    /// The value of `key`; `None` where it does not exist, was deleted or has expired.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; a read can always be tried again.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, ReadError> {
        self.look(key.as_ref(), self.inner.rules, None, |entry| value(entry).to_vec())
    }

    /// [`get`](Self::get) with a quorum or a timeout of its own, or from this node alone.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_with(
        &self,
        key: impl AsRef<[u8]>,
        options: &ReadOptions,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        self.look(key.as_ref(), self.rules(options)?, Some(options), |entry| value(entry).to_vec())
    }

    /// Lets `look` see the value of `key` without copying it; `None` where there is none. While `look` runs,
    /// nothing that anybody overwrites, deletes or evicts in this engine is freed: long ones let memory fill up
    /// until writes fail with [`Overloaded`](NotApplied::Overloaded), those that `look` makes itself among them.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn read<T>(
        &self,
        key: impl AsRef<[u8]>,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, ReadError> {
        self.look(key.as_ref(), self.inner.rules, None, |entry| look(value(entry)))
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool, ReadError> {
        Ok(self.look(key.as_ref(), self.inner.rules, None, |_| ())?.is_some())
    }

    /// The values of `keys`, in their order, asked for all at once.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), the first error there is.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        let mut values = vec![None; keys.len()];
        let mut others = Vec::new();
        for (at, (keys, values)) in keys.chunks(TOGETHER).zip(values.chunks_mut(TOGETHER)).enumerate() {
            let mut ask = |index| others.push(at * TOGETHER + index);
            self.look_at_many(keys, values, &mut ask)?;
        }
        if !others.is_empty() {
            self.ask_for_many(keys, &others, &mut values)?;
        }
        Ok(values)
    }

    /// Takes what this node can answer by itself, bringing all of it closer before looking at any; `ask` is
    /// told which keys are left.
    fn look_at_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        values: &mut [Option<Vec<u8>>],
        ask: &mut impl FnMut(usize),
    ) -> Result<(), ReadError> {
        let runtime = &self.inner.runtime;
        let rules = self.inner.rules;
        let views = runtime.views()?;
        let mut hashes = [KeyHash(0); TOGETHER];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = KeyHash::of(runtime.cluster(), check_read_key(key.as_ref())?);
        }
        let Some(pinned) = views.pin() else {
            (0..keys.len()).for_each(ask);
            return Ok(());
        };
        let hashes = &hashes[..keys.len()];
        hashes.iter().for_each(|hash| pinned.prefetch_bucket(*hash));
        hashes.iter().for_each(|hash| pinned.prefetch_entry(*hash));
        for (index, ((key, hash), slot)) in keys.iter().zip(hashes).zip(values).enumerate() {
            match read_local(&pinned, rules, *hash, key.as_ref(), || runtime.clock().coarse_wall()) {
                LocalAnswer::Value(entry) => *slot = Some(value(&entry).to_vec()),
                LocalAnswer::Nothing => {}
                LocalAnswer::AskOwner => ask(index),
            }
        }
        Ok(())
    }

    /// Asks the owners of some of the keys, each for all of its own at once.
    fn ask_for_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        which: &[usize],
        values: &mut [Option<Vec<u8>>],
    ) -> Result<(), ReadError> {
        let options = ReadOptions::new();
        let span = self.span(options.timeout);
        let mut groups: Vec<(Vec<usize>, Vec<Call>)> = self.cores().map(|_| Default::default()).collect();
        for &index in which {
            let (core, call) = self.read_call(keys[index].as_ref(), &options, span)?;
            let (indices, calls) = &mut groups[usize::from(core.0)];
            indices.push(index);
            calls.push(Call::Read(Box::new(call)));
        }
        let mut asked = Vec::new();
        for (core, (indices, calls)) in self.cores().zip(groups) {
            if !calls.is_empty() {
                let reply = self.inner.runtime.send(core, Call::Many(calls), None, span.deadline)?;
                asked.push((core, indices, reply));
            }
        }
        for (core, indices, reply) in asked {
            let outcomes = match self.wait(core, reply, span) {
                Ok(Outcome::Many(outcomes)) => outcomes,
                other => return Err(self.no_read(other)),
            };
            for (index, outcome) in indices.into_iter().zip(outcomes) {
                let Outcome::Read(found) = outcome else { return Err(self.no_read(Ok(outcome))) };
                values[index] = found?.map(|entry| value(&entry).to_vec());
            }
        }
        Ok(())
    }

    /// The keys with this prefix of which this node holds a value: its own copies, current or not, not
    /// the whole cluster's keys. Walks in bounded steps beside whatever else goes on; a key written or
    /// deleted meanwhile may or may not be seen, every other one is seen once.
    pub fn local_keys(&self, prefix: impl AsRef<[u8]>) -> LocalKeys {
        LocalKeys {
            engine: self.clone(),
            prefix: prefix.as_ref().into(),
            core: 0,
            path: Some(0),
            owner: None,
            found: Vec::new().into_iter(),
        }
    }

    /// Every node that this one knows, itself included, by name. Nodes that died or left are kept for a
    /// day.
    pub fn members(&self) -> Vec<MemberInfo> {
        self.inner.runtime.members()
    }

    /// Where other nodes reach this one: what it advertises, or else listens on, with the port that it was given where the
    /// configuration said 0; `None` where the engine is standalone.
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.inner.runtime.address()
    }

    /// What happens in the cluster from now on.
    pub fn events(&self) -> Events {
        let (subscriber, events) = subscription();
        self.inner.runtime.subscribe(subscriber);
        events
    }

    /// What this node holds and does, as of now.
    ///
    /// # Errors
    ///
    /// [`ReadError::ShutDown`] or [`ReadError::Overloaded`].
    pub fn stats(&self) -> Result<Stats, ReadError> {
        let mut total = Stats::default();
        for core in 0..self.inner.settings.cores {
            if let Outcome::Counts(counts) = self.ask(CoreId(core), Call::Counts)? {
                total.add(&counts);
            }
        }
        Ok(total)
    }

    /// Hands this node's data over to the others, tells them, and stops. Calls go on meanwhile. When all is handed
    /// over, new ones get [`ShutDown`](NotApplied::ShutDown), those under way get their answers, and every replica the
    /// writes that this node acknowledged; only then is it gone. The last node of a cluster leaves at once, and the
    /// data is gone; so do all nodes, where all are asked to leave together. Where other data centers can be reached, they
    /// are given first what this node has acknowledged and they have not confirmed.
    ///
    /// # Errors
    ///
    /// [`LeaveError::TimedOut`]: it has stopped all the same, as if it had died.
    pub fn leave(&self, timeout: Duration) -> Result<(), LeaveError> {
        self.inner.runtime.leave(timeout)
    }

    /// Stops in silence, as a crash would: the others find out by themselves. For tests.
    pub fn abort(&self) {
        self.inner.runtime.stop(false);
    }

    /// Why the engine has stopped by itself: which of its threads failed, and how. `None` where it runs, or was
    /// stopped.
    pub fn failure(&self) -> Option<String> {
        self.inner.runtime.failure()
    }

    fn write(&self, key: &[u8], content: Content<'_>, options: &WriteOptions) -> Result<(), WriteError> {
        check_lengths(key, content)?;
        let span = self.span(options.timeout);
        let bytes = if let Content::Value(value) = content { value.len() } else { 0 };
        let permit = self.inner.runtime.allow(bytes, span.deadline)?;
        let (core, call) = self.write_call(key, content, options, span)?;
        let needed = Count::from_code(call.quorum as u8);
        let reply = self.inner.runtime.send(core, Call::Write(call), permit, span.deadline)?;
        match self.wait(core, reply, span) {
            Ok(Outcome::Written(result)) => result,
            other => Err(self.no_write(other, needed)),
        }
    }

    fn write_call(
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

    /// `None` for a `ttl`: for ever.
    fn change_expiry(&self, key: &[u8], ttl: Option<Duration>) -> Result<bool, WriteError> {
        check_lengths(key, Content::Tombstone)?;
        let expires_at_ms = ttl.map(|ttl| expires_at_ms(ttl, self.wall())).transpose()?;
        let span = self.span(None);
        let (core, hash) = self.place(key);
        let call = TouchCall { key: key.into(), hash, expires_at_ms, deadline: span.deadline };
        let reply = self.inner.runtime.send(core, Call::Touch(Box::new(call)), None, span.deadline)?;
        match self.wait(core, reply, span) {
            Ok(Outcome::Touched(result)) => result,
            other => Err(self.no_write(other, self.inner.settings.quorums.write)),
        }
    }

    /// Lets `look` see the live entry of a key: this node's, on this thread, where that is an answer; else what
    /// the owning core finds.
    #[inline]
    fn look<T>(
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

    fn rules(&self, options: &ReadOptions) -> Result<LocalRules, ReadError> {
        let rules = local_rules(&self.inner.settings, self.read_quorum(options)?, options.local);
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
        let reply = self.inner.runtime.send(core, Call::Read(Box::new(call)), None, span.deadline)?;
        match self.wait(core, reply, span) {
            Ok(Outcome::Read(result)) => result,
            other => Err(self.no_read(other)),
        }
    }

    fn read_call(
        &self,
        key: &[u8],
        options: &ReadOptions,
        span: Span,
    ) -> Result<(CoreId, ReadCall), ReadError> {
        let quorum = self.read_quorum(options)?.code().into();
        let (core, hash) = self.place(key);
        let deadline = span.deadline;
        let (key, local, anywhere) = (key.into(), options.local, options.anywhere);
        Ok((core, ReadCall { key, hash, quorum, local, anywhere, deadline }))
    }

    /// Asks a core for something that is not about a key.
    fn ask(&self, core: CoreId, call: Call) -> Result<Outcome, ReadError> {
        let span = self.span(Some(STEP_TIMEOUT));
        let reply = self.inner.runtime.send(core, call, None, span.deadline)?;
        match self.wait(core, reply, span) {
            Ok(Outcome::Read(Err(error))) => Err(error),
            Ok(outcome) => Ok(outcome),
            Err(NoReply::TimedOut) => Err(ReadError::Overloaded),
            Err(NoReply::Gone) => Err(ReadError::EngineFailed),
        }
    }

    fn wait(&self, core: CoreId, reply: Reply, span: Span) -> Result<Outcome, NoReply> {
        self.inner.runtime.wait(core, reply, span.start, span.deadline + LAST_WORD)
    }

    /// What to say of a write without an answer.
    fn no_write(&self, reply: Result<Outcome, NoReply>, quorum: Count) -> WriteError {
        match reply {
            Err(NoReply::Gone) => WriteError::EngineFailed,
            _ => WriteError::Indeterminate { acked: 0, needed: self.needed(quorum) },
        }
    }

    /// How many replicas a quorum is, for all that this node sees.
    fn needed(&self, quorum: Count) -> usize {
        if let Count::Exactly(quorum) = quorum {
            return quorum.into();
        }
        let members = self.members();
        let here = members.iter().find(|member| member.is_self).and_then(|me| me.data_center.as_ref());
        let is_alive = |member: &&MemberInfo| {
            let is_up = matches!(member.state, MemberState::Alive | MemberState::Suspect);
            is_up && member.data_center.as_ref() == here
        };
        quorum.count(members.iter().filter(is_alive).count())
    }

    /// What to say of a read without an answer.
    fn no_read(&self, reply: Result<Outcome, NoReply>) -> ReadError {
        match reply {
            Err(NoReply::Gone) => ReadError::EngineFailed,
            _ => ReadError::TimedOut { answered: 0, needed: self.needed(self.inner.settings.quorums.read) },
        }
    }

    fn place(&self, key: &[u8]) -> (CoreId, KeyHash) {
        let hash = KeyHash::of(self.inner.runtime.cluster(), key);
        (self.core_of(hash), hash)
    }

    fn core_of(&self, hash: KeyHash) -> CoreId {
        hash.partition().core(self.inner.settings.cores)
    }

    fn cores(&self) -> impl Iterator<Item = CoreId> + use<> {
        (0..self.inner.settings.cores).map(CoreId)
    }

    fn wall(&self) -> WallTime {
        self.inner.runtime.clock().now().wall
    }

    /// From now on, for as long as a call may take.
    fn span(&self, timeout: Option<Duration>) -> Span {
        let start = self.inner.runtime.clock().instant();
        Span { start, deadline: start + timeout.unwrap_or(self.inner.settings.request_timeout) }
    }
}

fn local_rules(settings: &Settings, quorum: Count, local: bool) -> LocalRules {
    LocalRules {
        one_answers: quorum == Count::Exactly(1) || local,
        one_denies: settings.quorums.tolerated() == 0 || local,
    }
}

#[inline]
fn check_read_key(key: &[u8]) -> Result<&[u8], ReadError> {
    if key.len() > MAX_KEY_BYTES { Err(ReadError::KeyTooLong { length: key.len() }) } else { Ok(key) }
}

/// Of an entry that was found to have one.
#[inline]
fn value(entry: &Entry) -> &[u8] {
    entry.value().unwrap_or_default()
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("node", &self.inner.settings.node_id)
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.runtime.stop(true);
    }
}

/// How long a key has to live: [`Engine::ttl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeToLive {
    /// It was written without a time to live.
    Forever,
    /// It disappears after this time, by this node's clock.
    Left(Duration),
}

/// What one node holds and does: [`Engine::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Keys of which this node holds a value.
    pub keys: usize,
    /// How many bytes they take, keys, tombstones, index and timers included: what
    /// [`Config::max_memory`] limits.
    pub bytes: usize,
    /// How many more bytes were overwritten, deleted or evicted and are kept for as long as readers may still
    /// look at them.
    pub held_bytes: usize,
    /// Partitions, of 4096, that this node holds completely.
    pub synced_partitions: usize,
    /// Partitions that it should hold and is still fetching.
    pub pending_partitions: usize,
    /// Partitions that it holds and is handing over.
    pub giving_partitions: usize,
    /// Calls that have no answer yet.
    pub calls_in_flight: usize,
    /// Acknowledged writes that some replica has not confirmed yet.
    pub writes_owed: usize,
    /// Acknowledged writes that another data center has not confirmed yet. Of several writes of a key, the last counts.
    pub writes_to_relay: usize,
    /// How many writes, since the start, were not sent to another data center because too many waited, or it was away for
    /// too long: background comparison brings them there.
    pub writes_not_relayed: u64,
    /// How often, since the start, this node found that another replica's partition differed from its own for
    /// good, and saw them equal after both had merged. Of two replicas, one looks.
    pub partitions_repaired: u64,
    /// How much is missing before any node may be stopped, as this one knows it: partitions that it should hold and
    /// has not completely, or holds and has yet to give away; each copy of a partition for which there are too few
    /// members, counted by one of those that hold it; and writes that it acknowledged more than a tenth of a second ago
    /// and that some replica has not confirmed. (Such a write is offered for half a minute. After that only the
    /// background comparison knows of it.) The sum over all nodes is zero where no copy is missing:
    /// [`Engine::wait_until_safe`] waits for that.
    pub redundancy_debt: usize,
}

impl Stats {
    fn add(&mut self, core: &Counts) {
        self.keys += core.keys;
        self.bytes += core.bytes;
        self.held_bytes += core.held_bytes;
        self.synced_partitions += core.synced_partitions;
        self.pending_partitions += core.pending_partitions;
        self.giving_partitions += core.giving_partitions;
        self.calls_in_flight += core.calls_in_flight;
        self.writes_owed += core.writes_owed;
        self.writes_to_relay += core.writes_to_relay;
        self.writes_not_relayed += core.writes_not_relayed;
        self.partitions_repaired += core.partitions_repaired;
        self.redundancy_debt += core.redundancy_debt;
    }
}

/// A walk over this node's keys: [`Engine::local_keys`].
#[derive(Debug)]
pub struct LocalKeys {
    engine: Engine,
    prefix: Box<[u8]>,
    core: u16,
    /// Where the next segment of the core's table begins; `None` behind the last.
    path: Option<u64>,
    /// What only the owning core sees: from a place on to before a path.
    owner: Option<(Place, Option<u64>)>,
    found: std::vec::IntoIter<Box<[u8]>>,
}

impl LocalKeys {
    /// Takes the next step, or moves on to the next core. Breaks when there is none.
    fn step(&mut self) -> Result<ControlFlow<()>, ReadError> {
        if let Some((from, end)) = self.owner.take() {
            let call = Call::Keys(Box::new(KeysCall { prefix: self.prefix.clone(), from, end }));
            if let Outcome::Keys(found) = self.engine.ask(CoreId(self.core), call)? {
                let Keys { keys, next } = *found;
                self.found = keys.into_iter();
                self.owner = next.map(|next| (next, end));
            }
        } else if let Some(path) = self.path {
            self.walk(path)?;
        } else {
            self.core += 1;
            if self.core >= self.engine.inner.settings.cores {
                return Ok(ControlFlow::Break(()));
            }
            self.path = Some(0);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Takes the keys of one segment of the table.
    fn walk(&mut self, path: u64) -> Result<(), ReadError> {
        let wall = self.engine.wall();
        let views = self.engine.inner.runtime.views()?;
        let Some(pinned) = views.pin() else {
            self.owner = Some(((path, Box::default()), None));
            self.path = None;
            return Ok(());
        };
        let mut found: Vec<Box<[u8]>> = Vec::new();
        let (next, has_more) = pinned.walk(CoreId(self.core), path, |at, entry| {
            let is_wanted = at >= path && entry.key().starts_with(&self.prefix);
            if is_wanted && entry.live_value(wall).is_some() {
                found.push(entry.key().into());
            }
        });
        if has_more {
            self.owner = Some(((path, Box::default()), next));
        } else {
            self.found = found.into_iter();
        }
        self.path = next;
        Ok(())
    }
}

impl Iterator for LocalKeys {
    /// A key, or why the walk ended before its end.
    type Item = Result<Vec<u8>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(key) = self.found.next() {
                return Some(Ok(key.into_vec()));
            }
            match self.step() {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return None,
                Err(error) => {
                    (self.path, self.owner) = (None, None);
                    self.core = self.engine.inner.settings.cores;
                    return Some(Err(error));
                }
            }
        }
    }
}
