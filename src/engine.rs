//! [`Engine`]: the handle that an app holds.

use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Instant, Version, WallTime};
use crate::config::{Config, Settings};
use crate::entry::{Content, Entry};
use crate::error::{LeaveError, NotApplied, NotReady, ReadError, StartError, WriteError};
use crate::events::{Events, MemberInfo, subscription};
use crate::options::{Quorum, ReadOptions, WriteOptions};
use crate::runtime::reply::{Answers, NoReply, Replies, ReplyTo};
use crate::runtime::{NotSent, Runtime};
use crate::shard::{
    Call, Counts, KeysCall, LocalAnswer, LocalRules, Outcome, ReadCall, TouchCall, WriteCall, read_local,
};
use crate::store::{Keys, Place, Store};
use crate::types::{CoreId, KeyHash, MAX_KEY_BYTES, MAX_VALUE_BYTES};

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
    runtime: Runtime,
}

/// Beyond a call's own timeout, how long to wait for the core to say how far it got.
const LAST_WORD: Duration = Duration::from_millis(50);

/// How many keys are brought closer before the first of them is looked at: about as many as a processor has
/// outstanding misses for, twice over.
const TOGETHER: usize = 32;

/// How long one step of a walk over the keys may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// The end of the calendar for a time to live: the year 10000, in milliseconds since 1970.
const CALENDAR_END_MS: u128 = 253_402_300_800_000;

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
        Ok(Self { inner: Arc::new(Inner { settings, runtime }) })
    }

    /// Waits until enough members are here for calls to succeed: W and R of them, with their partitions
    /// agreed on.
    ///
    /// # Errors
    ///
    /// [`NotReady`] says what is missing. The engine goes on trying.
    pub fn wait_ready(&self, timeout: Duration) -> Result<(), NotReady> {
        self.inner.runtime.wait_ready(timeout, self.inner.settings.quorum_members())
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
        let value = value.as_ref();
        if value.len() > MAX_VALUE_BYTES {
            return Err(NotApplied::ValueTooLong { length: value.len() }.into());
        }
        self.write(key.as_ref(), Content::Value(value), options)
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
    /// [`Config::standalone`] alone has this so far.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set); [`NotReplicated`](NotApplied::NotReplicated) on a node of a cluster.
    pub fn touch(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<bool, WriteError> {
        self.change_expiry(key.as_ref(), Some(ttl))
    }

    /// Lets `key` live for ever. `false` where there is no such key, or where it had no time to live.
    /// [`Config::standalone`] alone has this so far.
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
        let deadline = self.look(key.as_ref(), &ReadOptions::new(), Entry::expires_at_ms)?;
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
        self.get_with(key, &ReadOptions::new())
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
        self.look(key.as_ref(), options, |entry| value(entry).to_vec())
    }

    /// Lets `look` see the value of `key` without copying it; `None` where there is none.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn read<T>(
        &self,
        key: impl AsRef<[u8]>,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, ReadError> {
        self.look(key.as_ref(), &ReadOptions::new(), |entry| look(value(entry)))
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool, ReadError> {
        Ok(self.look(key.as_ref(), &ReadOptions::new(), |_| ())?.is_some())
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
        let rules = self.local_rules(&ReadOptions::new())?;
        let views = runtime.views().ok_or(ReadError::ShutDown)?;
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

    /// Asks the owners of some of the keys, all at once.
    fn ask_for_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        which: &[usize],
        values: &mut [Option<Vec<u8>>],
    ) -> Result<(), ReadError> {
        let options = ReadOptions::new();
        let replies = Replies::new(which.len());
        let deadline = self.deadline(options.timeout);
        for &index in which {
            let (core, call) = self.read_call(keys[index].as_ref(), &options, deadline)?;
            self.send(core, Call::Read(call), replies.reply_to(index), deadline)
                .map_err(NotSent::into_read_error)?;
        }
        let answers = replies.sent();
        for _ in which {
            let (index, outcome) = self.await_read(&answers, deadline)?;
            values[index] = outcome?.map(|entry| value(&entry).to_vec());
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

    /// Where this node listens, with the port that it was given where the configuration said 0; `None`
    /// where the engine is standalone.
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

    /// Hands this node's data over to the others, tells them, and stops. Other handles get
    /// [`ShutDown`](NotApplied::ShutDown) from then on. The last node of a cluster leaves at once, and
    /// the data is gone.
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

    fn write(&self, key: &[u8], content: Content<'_>, options: &WriteOptions) -> Result<(), WriteError> {
        let deadline = self.deadline(options.timeout);
        let (core, call) = self.write_call(key, content, options, deadline)?;
        let needed = call.quorum;
        let replies = Replies::new(1);
        self.send(core, Call::Write(call), replies.reply_to(0), deadline)
            .map_err(NotSent::into_write_error)?;
        match replies.sent().next_before(self.last_word(deadline)) {
            Ok((_, Outcome::Written(result))) => result,
            Ok((_, Outcome::Touched(_) | Outcome::Read(_) | Outcome::Keys(_) | Outcome::Counts(_)))
            | Err(NoReply::TimedOut | NoReply::Gone) => Err(WriteError::Indeterminate { acked: 0, needed }),
        }
    }

    fn write_call(
        &self,
        key: &[u8],
        content: Content<'_>,
        options: &WriteOptions,
        deadline: Instant,
    ) -> Result<(CoreId, WriteCall), NotApplied> {
        check_key(key)?;
        let Settings { replicas, write_quorum, .. } = self.inner.settings;
        let quorum = options.quorum.count(write_quorum, replicas);
        if quorum < write_quorum || quorum > replicas {
            return Err(NotApplied::BadQuorum { asked: quorum, write_quorum, replicas });
        }
        let expires_at_ms = options.ttl.map(|ttl| self.expires_at_ms(ttl)).transpose()?;
        let entry = Entry::new(key, content, Version::ZERO, expires_at_ms);
        if let Some(share) = self.inner.settings.memory {
            Store::check_size(&entry, share)
                .map_err(|(bytes, share)| NotApplied::EntryTooLarge { bytes, share })?;
        }
        let (core, hash) = self.place(key);
        Ok((core, WriteCall { entry, hash, quorum, deadline }))
    }

    /// `None` for a `ttl`: for ever.
    fn change_expiry(&self, key: &[u8], ttl: Option<Duration>) -> Result<bool, WriteError> {
        if self.inner.settings.address.is_some() {
            return Err(NotApplied::NotReplicated.into());
        }
        check_key(key)?;
        let expires_at_ms = ttl.map(|ttl| self.expires_at_ms(ttl)).transpose()?;
        let deadline = self.deadline(None);
        let (core, hash) = self.place(key);
        let call = Call::Touch(TouchCall { key: key.into(), hash, expires_at_ms, deadline });
        let replies = Replies::new(1);
        self.send(core, call, replies.reply_to(0), deadline).map_err(NotSent::into_write_error)?;
        match replies.sent().next_before(self.last_word(deadline)) {
            Ok((_, Outcome::Touched(result))) => result,
            Ok((_, Outcome::Written(_) | Outcome::Read(_) | Outcome::Keys(_) | Outcome::Counts(_)))
            | Err(NoReply::TimedOut | NoReply::Gone) => {
                Err(WriteError::Indeterminate { acked: 0, needed: 1 })
            }
        }
    }

    /// When a value ends that lives for `ttl` from now, in milliseconds of wall time.
    fn expires_at_ms(&self, ttl: Duration) -> Result<NonZeroU64, NotApplied> {
        let at_ms = u128::from(self.wall().millis()) + ttl.as_millis();
        let is_kept = ttl >= Duration::from_millis(1) && at_ms < CALENDAR_END_MS;
        NonZeroU64::new(at_ms as u64).filter(|_| is_kept).ok_or(NotApplied::BadTtl { ttl })
    }

    /// Lets `look` see the live entry of a key: this node's, on this thread, where that is an answer; else what
    /// the owning core finds.
    #[inline]
    fn look<T>(
        &self,
        key: &[u8],
        options: &ReadOptions,
        look: impl FnOnce(&Entry) -> T,
    ) -> Result<Option<T>, ReadError> {
        let runtime = &self.inner.runtime;
        let rules = self.local_rules(options)?;
        let hash = KeyHash::of(runtime.cluster(), check_read_key(key)?);
        if let Some(pinned) = runtime.views().ok_or(ReadError::ShutDown)?.pin() {
            match read_local(&pinned, rules, hash, key, || runtime.clock().coarse_wall()) {
                LocalAnswer::Value(entry) => return Ok(Some(look(&entry))),
                LocalAnswer::Nothing => return Ok(None),
                LocalAnswer::AskOwner => {}
            }
        }
        Ok(self.fetch(key, options)?.as_ref().map(look))
    }

    #[inline]
    fn local_rules(&self, options: &ReadOptions) -> Result<LocalRules, ReadError> {
        let Settings { replicas, write_quorum, read_quorum, .. } = self.inner.settings;
        let quorum = options.quorum.count(read_quorum, replicas);
        if quorum == 0 || quorum > replicas {
            return Err(ReadError::BadQuorum { asked: quorum, replicas });
        }
        Ok(LocalRules {
            one_answers: quorum == 1 || options.local,
            one_denies: replicas == write_quorum || options.local,
        })
    }

    #[cold]
    fn fetch(&self, key: &[u8], options: &ReadOptions) -> Result<Option<Entry>, ReadError> {
        let deadline = self.deadline(options.timeout);
        let (core, call) = self.read_call(key, options, deadline)?;
        let replies = Replies::new(1);
        self.send(core, Call::Read(call), replies.reply_to(0), deadline).map_err(NotSent::into_read_error)?;
        self.await_read(&replies.sent(), deadline)?.1
    }

    fn read_call(
        &self,
        key: &[u8],
        options: &ReadOptions,
        deadline: Instant,
    ) -> Result<(CoreId, ReadCall), ReadError> {
        let Settings { replicas, read_quorum, .. } = self.inner.settings;
        let quorum = options.quorum.count(read_quorum, replicas);
        let (core, hash) = self.place(key);
        Ok((core, ReadCall { key: key.into(), hash, quorum, local: options.local, deadline }))
    }

    /// The next answer of a read, with its number.
    fn await_read(
        &self,
        answers: &Answers,
        deadline: Instant,
    ) -> Result<(usize, Result<Option<Entry>, ReadError>), ReadError> {
        match answers.next_before(self.last_word(deadline)) {
            Ok((index, Outcome::Read(result))) => Ok((index, result)),
            Err(NoReply::TimedOut) => {
                Err(ReadError::TimedOut { answered: 0, needed: self.inner.settings.read_quorum })
            }
            Ok(_) | Err(NoReply::Gone) => Err(ReadError::ShutDown),
        }
    }

    /// Asks a core for something that is not about a key.
    fn ask(&self, core: CoreId, call: Call) -> Result<Outcome, ReadError> {
        let replies = Replies::new(1);
        let deadline = self.deadline(Some(STEP_TIMEOUT));
        self.send(core, call, replies.reply_to(0), deadline).map_err(NotSent::into_read_error)?;
        match replies.sent().next_before(self.last_word(deadline)) {
            Ok((_, Outcome::Read(Err(error)))) => Err(error),
            Ok((_, outcome)) => Ok(outcome),
            Err(NoReply::TimedOut) => Err(ReadError::Overloaded),
            Err(NoReply::Gone) => Err(ReadError::ShutDown),
        }
    }

    fn send(&self, core: CoreId, call: Call, reply_to: ReplyTo, deadline: Instant) -> Result<(), NotSent> {
        self.inner.runtime.call(core, call, reply_to, deadline)
    }

    fn place(&self, key: &[u8]) -> (CoreId, KeyHash) {
        let hash = KeyHash::of(self.inner.runtime.cluster(), key);
        (hash.partition().core(self.inner.settings.cores), hash)
    }

    fn wall(&self) -> WallTime {
        self.inner.runtime.clock().now().wall
    }

    fn deadline(&self, timeout: Option<Duration>) -> Instant {
        self.inner.runtime.clock().instant() + timeout.unwrap_or(self.inner.settings.request_timeout)
    }

    /// Until when a call with this deadline waits.
    fn last_word(&self, deadline: Instant) -> std::time::Instant {
        self.inner.runtime.clock().to_os(deadline + LAST_WORD)
    }
}

fn check_key(key: &[u8]) -> Result<(), NotApplied> {
    if key.len() > MAX_KEY_BYTES { Err(NotApplied::KeyTooLong { length: key.len() }) } else { Ok(()) }
}

fn check_read_key(key: &[u8]) -> Result<&[u8], ReadError> {
    if key.len() > MAX_KEY_BYTES { Err(ReadError::KeyTooLong { length: key.len() }) } else { Ok(key) }
}

/// Of an entry that was found to have one.
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
            let call = Call::Keys(KeysCall { prefix: self.prefix.clone(), from, end });
            if let Outcome::Keys(Keys { keys, next }) = self.engine.ask(CoreId(self.core), call)? {
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
        let views = self.engine.inner.runtime.views().ok_or(ReadError::ShutDown)?;
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

impl Quorum {
    /// How many replicas this means.
    fn count(self, configured: usize, replicas: usize) -> usize {
        match self {
            Self::Configured => configured,
            Self::Majority => configured.max(replicas / 2 + 1),
            Self::All => replicas,
            Self::Count(count) => count,
        }
    }
}
