//! [`LocalShard`]: what an app's closure may do on the core that owns a key, without a message for each step.
//!
//! The closure runs between two calls, so nothing changes under it. Its writes take the way of all writes: this
//! node's own replica has applied them when they return, the others are asked meanwhile, and the closure's
//! caller hears when all of them were acknowledged. A *run* counts how many are not yet.
//!
//! A panic of the closure ends at [`Shard::run`]; one of the shard's own code, however it was called, goes on.

use std::any::Any;
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::{Action, Caller, Outcome, RunCall, Shard, WriteCall};
use crate::clock::{Instant, Now};
use crate::entry::Content;
use crate::error::{NotApplied, ReadError, RunError, WriteError};
use crate::options::WriteOptions;
use crate::store::Admission;
use crate::types::MAX_KEY_BYTES;

/// How often room is made for one entry: enough for the largest among the smallest, all of them read lately.
const ROOM_TRIES: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct RunId(u64);

/// A closure whose writes are not all acknowledged yet.
pub(super) struct Run<C> {
    /// How many of its writes are under way.
    open: usize,
    failed: usize,
    /// How the first of those failed.
    first: Option<WriteError>,
    /// Who waits, and what the closure returned, once it has.
    end: Option<(Caller<C>, Returned)>,
}

/// What a closure returned, whose type its caller knows. Where the caller has gone, whichever thread comes upon it
/// last drops it: a panic of that is an app's own, and must not end an engine's thread.
pub(crate) struct Returned(Option<Box<dyn Any + Send>>);

/// One core's share of this node, as a closure sees it that runs there: reads and writes of the keys that this
/// core owns, without messages.
///
/// Keys of other cores give an error, [`NotApplied::OtherCore`] or [`ReadError::OtherCore`]; [`owns`](Self::owns)
/// tells. Time stands still while the closure runs: what expires meanwhile is still there. So does everything
/// else on this core: its other calls, its connections and its timers wait, so a closure should take no longer than
/// some microseconds, and must not wait for anything.
pub struct LocalShard<'a> {
    owner: &'a mut dyn Owner,
}

impl LocalShard<'_> {
    /// The number of this core, from zero.
    pub fn core(&self) -> usize {
        self.owner.core()
    }

    /// Whether `key` is one of this core's.
    pub fn owns(&self, key: impl AsRef<[u8]>) -> bool {
        self.owner.owns(key.as_ref())
    }

    /// This node's own copy of the value of `key`; `None` where there is none. As with
    /// [`ReadOptions::local`](crate::ReadOptions::local), no other node is asked.
    ///
    /// # Errors
    ///
    /// [`ReadError::NotLocal`] where this node holds no current copy, [`ReadError::OtherCore`],
    /// [`ReadError::KeyTooLong`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<&[u8]>, ReadError> {
        self.owner.get(key.as_ref())
    }

    /// Whether this node's own copy of `key` has a value.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool, ReadError> {
        Ok(self.get(key)?.is_some())
    }

    /// Stores `value` under `key`: at once on this node, where it is a replica of the key, and on the others
    /// meanwhile. Whether W of them acknowledged it is what the closure's caller is told.
    ///
    /// With a [`read_quorum`](crate::Config::read_quorum) of two or more, other replicas are asked for the key's
    /// version first: [`get`](Self::get) then does not find the value before the closure has ended.
    ///
    /// # Errors
    ///
    /// [`NotApplied`] where it is clear at once that the write does not happen: the closure goes on, and its
    /// caller is not told of it.
    pub fn set(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), NotApplied> {
        self.set_with(key, value, &WriteOptions::new())
    }

    /// [`set`](Self::set) with a time to live, a quorum or a timeout of its own; the last is at most what the
    /// closure's caller waits.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn set_with(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<(), NotApplied> {
        self.owner.write(key.as_ref(), Content::Value(value.as_ref()), options)
    }

    /// Deletes `key`, whether or not it exists, as [`set`](Self::set) writes.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<(), NotApplied> {
        self.owner.write(key.as_ref(), Content::Tombstone, &WriteOptions::new())
    }
}

impl fmt::Debug for LocalShard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalShard").field("core", &self.core()).finish_non_exhaustive()
    }
}

/// A shard of whatever callers, for one closure.
trait Owner {
    fn core(&self) -> usize;
    fn owns(&self, key: &[u8]) -> bool;
    fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, ReadError>;
    fn write(&mut self, key: &[u8], content: Content<'_>, options: &WriteOptions) -> Result<(), NotApplied>;
}

struct Running<'a, C> {
    shard: &'a mut Shard<C>,
    actions: &'a mut Vec<Action<C>>,
    now: Now,
    id: RunId,
    deadline: Instant,
    /// Whether the shard's own code runs: then a panic is its own.
    is_inside: bool,
}

impl<C> Owner for Running<'_, C> {
    fn core(&self) -> usize {
        usize::from(self.shard.config.core.0)
    }

    fn owns(&self, key: &[u8]) -> bool {
        self.shard.owns(self.shard.hash(key).partition())
    }

    fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, ReadError> {
        if key.len() > MAX_KEY_BYTES {
            return Err(ReadError::KeyTooLong { length: key.len() });
        }
        self.shard.get_in_run(self.now, key)
    }

    fn write(&mut self, key: &[u8], content: Content<'_>, options: &WriteOptions) -> Result<(), NotApplied> {
        let end = options.timeout.map_or(self.deadline, |timeout| self.now.instant + timeout);
        let deadline = end.min(self.deadline);
        self.is_inside = true;
        let wall = self.now.wall;
        let call = WriteCall::new(&self.shard.write_rules, key, content, options, deadline, || wall);
        let begun = call.and_then(|call| self.shard.write_in_run(self.now, self.id, call, self.actions));
        self.is_inside = false;
        begun
    }
}

impl<C> Shard<C> {
    /// Runs an app's closure.
    pub(super) fn run(&mut self, now: Now, call: RunCall, caller: Caller<C>, actions: &mut Vec<Action<C>>) {
        let id = RunId(self.new_id());
        self.runs.insert(id, Run { open: 0, failed: 0, first: None, end: None });
        let RunCall { run, deadline } = call;
        let mut owner =
            Running { shard: &mut *self, actions: &mut *actions, now, id, deadline, is_inside: false };
        let result = catch_unwind(AssertUnwindSafe(|| run(&mut LocalShard { owner: &mut owner })));
        let is_own = mem::take(&mut owner.is_inside);
        match result {
            Err(payload) if is_own => resume_unwind(payload),
            Ok(_) if is_own => panic!("the shard panicked, and an app's closure hid it"),
            Ok(value) => {
                if let Some(run) = self.runs.get_mut(&id) {
                    run.end = Some((caller, Returned(Some(value))));
                }
                self.end_run(id, actions);
            }
            Err(payload) => {
                // Its writes go on, for nobody.
                self.runs.remove(&id);
                let message = message(&*payload);
                drop_quietly(payload);
                self.reply(caller, Outcome::Ran(Err(Box::new(RunError::Panicked { message }))), actions);
            }
        }
    }

    fn get_in_run(&self, now: Now, key: &[u8]) -> Result<Option<&[u8]>, ReadError> {
        let hash = self.hash(key);
        if !self.owns(hash.partition()) {
            return Err(ReadError::OtherCore);
        }
        if !self.replica(hash.partition()).serves_synced(&self.me) {
            return Err(ReadError::NotLocal);
        }
        let held = self.store.get(hash, key).filter(|held| held.live_value(now.wall).is_some());
        Ok(held.and_then(|held| {
            held.visit();
            held.into_value()
        }))
    }

    fn write_in_run(
        &mut self,
        now: Now,
        id: RunId,
        call: WriteCall,
        actions: &mut Vec<Action<C>>,
    ) -> Result<(), NotApplied> {
        if !self.owns(call.hash.partition()) {
            return Err(NotApplied::OtherCore);
        }
        if call.deadline <= now.instant {
            return Err(NotApplied::Overloaded);
        }
        self.check_alive(now, call.quorum)?;
        self.make_room_at_once(&call)?;
        if self.is_decided_alone(&call) {
            self.write_alone(now, call, actions);
            return Ok(());
        }
        if let Some(run) = self.runs.get_mut(&id) {
            run.open += 1;
        }
        self.begin_write(now, call, Caller::Run(id), actions);
        self.answer_self(now, actions);
        Ok(())
    }

    /// The closure cannot be left and come back to, so all steps are taken now. There are so many at the most as
    /// make room for the largest entry.
    fn make_room_at_once(&mut self, call: &WriteCall) -> Result<(), NotApplied> {
        for _ in 0..ROOM_TRIES {
            match self.room_for(call) {
                Admission::Enough => return Ok(()),
                Admission::Later => {}
                room => return Err(self.no_room(room)),
            }
        }
        Err(NotApplied::Overloaded)
    }

    /// A write of a closure has ended.
    pub(super) fn run_written(
        &mut self,
        id: RunId,
        result: Result<(), WriteError>,
        actions: &mut Vec<Action<C>>,
    ) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.open -= 1;
        if let Err(error) = result {
            run.failed += 1;
            run.first.get_or_insert(error);
        }
        self.end_run(id, actions);
    }

    /// Answers a run that is over and whose writes are.
    fn end_run(&mut self, id: RunId, actions: &mut Vec<Action<C>>) {
        let Some(run) = self.runs.get_mut(&id).filter(|run| run.open == 0) else { return };
        let Some((caller, value)) = run.end.take() else { return };
        let (failed, first) = (run.failed, run.first.take());
        self.runs.remove(&id);
        let result = match first {
            None => Ok(value),
            Some(first) => Err(Box::new(RunError::Write { failed, first })),
        };
        self.reply(caller, Outcome::Ran(result), actions);
    }
}

impl Returned {
    /// As the type that the closure returned; `None` for another one.
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

/// Drops what an app made, which may panic.
pub(super) fn drop_quietly<T>(value: T) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // What is thrown by whoever does this may do it again.
        mem::forget(payload);
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
