//! Closures that run on the core that owns their keys, as apps let them.

use std::any::Any;
use std::time::Duration;

use super::{Ask, CALL_TIMEOUT, CallId, SimCluster, What};
use crate::error::{NotApplied, RunError, WriteError};
use crate::options::WriteOptions;
use crate::shard::{Call, LocalShard, Outcome, Returned, RunCall};

/// A write that a closure makes.
struct LocalWrite {
    key: Vec<u8>,
    /// `None` deletes the key.
    value: Option<Vec<u8>>,
    ttl: Option<Duration>,
}

impl LocalWrite {
    fn new(ask: &Ask<'_>) -> Self {
        let (value, ttl) = match ask.what {
            What::Set(value, ttl) => (Some(value.to_vec()), ttl),
            What::Delete => (None, None),
            What::Get | What::Touch(_) => panic!("a closure sets and deletes"),
        };
        Self { key: ask.key.to_vec(), value, ttl }
    }

    /// Makes the write. If `is_own_copy_written`, a copy on this node has it when that returns.
    fn make(
        &self,
        shard: &mut LocalShard<'_>,
        is_own_copy_written: bool,
    ) -> Result<(), NotApplied> {
        let is_local = shard.get(&self.key).is_ok();
        match &self.value {
            Some(value) => {
                let options = WriteOptions { ttl: self.ttl, ..WriteOptions::new() };
                shard.set_with(&self.key, value, &options)?;
            }
            None => shard.delete(&self.key)?,
        }
        if is_local && is_own_copy_written {
            let found = shard.get(&self.key).expect("a copy that was there before");
            assert_eq!(found, self.value.as_deref(), "a closure finds what it has written");
        }
        Ok(())
    }
}

impl SimCluster {
    /// Runs a closure on the core of `node` that owns all of these keys, as
    /// [`Engine::run_on`](crate::Engine::run_on) does. It makes these writes, one after the other;
    /// all of them end when the closure's call does.
    ///
    /// # Panics
    ///
    /// If one of them is no write.
    pub fn run_on(&mut self, node: usize, writes: &[Ask<'_>]) -> Vec<CallId> {
        let Some(first) = writes.first() else { return Vec::new() };
        let core = self.place(first.key).2;
        let ids: Vec<CallId> = writes.iter().map(|_| self.next_id()).collect();
        let writes: Vec<LocalWrite> = writes.iter().map(LocalWrite::new).collect();
        let id = self.next_id();
        self.groups.insert(id, ids.clone());
        // With R ≥ 2 other replicas are asked for the version first.
        let is_own_copy_written = self.options.read_quorum == 1;
        let deadline = self.now_of(node).instant + CALL_TIMEOUT;
        let make_all = move |shard: &mut LocalShard<'_>| -> Box<dyn Any + Send> {
            let make = |write: &LocalWrite| write.make(shard, is_own_copy_written);
            Box::new(writes.iter().map(make).collect::<Vec<Result<(), NotApplied>>>())
        };
        self.begin(node, core, id, Call::Run(RunCall { run: Box::new(make_all), deadline }));
        ids
    }

    /// Keeps how the writes of a closure ended.
    pub(super) fn ran(
        &mut self,
        node: usize,
        caller: CallId,
        result: Result<Returned, Box<RunError>>,
    ) {
        let callers = self.groups.remove(&caller).unwrap_or_default();
        let all = |error: WriteError| vec![Err(error); callers.len()];
        let ended = match result.map_err(|error| *error) {
            Ok(made) => {
                let made: Vec<Result<(), NotApplied>> = made.take().expect("its own type");
                made.into_iter().map(|made| made.map_err(WriteError::from)).collect()
            }
            Err(RunError::NotApplied(why)) => all(why.into()),
            Err(RunError::Write { first, .. }) if callers.len() == 1 => all(first),
            Err(RunError::Panicked { message }) => panic!("{message}"),
            // It is not said which of them failed.
            Err(_) => all(WriteError::Indeterminate { acked: 0, needed: 0 }),
        };
        for (caller, ended) in callers.into_iter().zip(ended) {
            self.reply(node, caller, Outcome::Written(ended));
        }
    }
}
