//! Calls through nodes, as apps make them: one at a time, or some together.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use super::event::SimEvent;
use super::{CALL_TIMEOUT, CallId, CallResult, SimCluster, options};
use crate::clock::Version;
use crate::entry::{Content, Entry};
use crate::mutants::set_for_this_thread;
use crate::options::Quorum;
use crate::shard::{Call, ReadCall, TouchCall, WriteCall, expires_at_ms};
use crate::types::{CoreId, KeyHash};

/// A call that a test makes.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What it asks for.
    pub what: What<'a>,
    /// How many replicas must answer. A number that an engine would refuse is as good as
    /// [`Quorum::Configured`].
    pub quorum: Quorum,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// Writes a value, to expire after a time by the node's clock, or never.
    Set(&'a [u8], Option<Duration>),
    /// Deletes the key.
    Delete,
    /// Reads the key.
    Get,
    /// Gives the key another time to live; `None` lets it never expire.
    Touch(Option<Duration>),
}

impl SimCluster {
    /// Writes `value` under `key` through `node`.
    pub fn set(&mut self, node: usize, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> CallId {
        self.ask(node, &configured(key.as_ref(), What::Set(value.as_ref(), None)))
    }

    /// Writes `value` under `key` through `node`, to expire after `ttl` by that node's clock.
    pub fn set_for(
        &mut self,
        node: usize,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> CallId {
        self.ask(node, &configured(key.as_ref(), What::Set(value.as_ref(), Some(ttl))))
    }

    /// Deletes `key` through `node`.
    pub fn delete(&mut self, node: usize, key: impl AsRef<[u8]>) -> CallId {
        self.ask(node, &configured(key.as_ref(), What::Delete))
    }

    /// Gives `key` another time to live through `node`; `None` lets it never expire.
    ///
    /// # Panics
    ///
    /// If an engine would refuse the time to live.
    pub fn touch(&mut self, node: usize, key: impl AsRef<[u8]>, ttl: Option<Duration>) -> CallId {
        self.ask(node, &configured(key.as_ref(), What::Touch(ttl)))
    }

    /// Reads `key` through `node`.
    pub fn get(&mut self, node: usize, key: impl AsRef<[u8]>) -> CallId {
        self.ask(node, &configured(key.as_ref(), What::Get))
    }

    /// Reads `key` through `node`; if its own data center has no value, in the others too.
    pub fn get_anywhere(&mut self, node: usize, key: impl AsRef<[u8]>) -> CallId {
        let ask = configured(key.as_ref(), What::Get);
        let mut call = self.call_for(node, &ask);
        if let Call::Read(call) = &mut call {
            call.anywhere = true;
        }
        self.call(node, self.place(ask.key).2, call)
    }

    /// Makes a call through `node`.
    ///
    /// # Panics
    ///
    /// If an engine would refuse the time to live.
    pub fn ask(&mut self, node: usize, ask: &Ask<'_>) -> CallId {
        if let Some(id) = self.read_locally(node, ask) {
            return id;
        }
        let call = self.call_for(node, ask);
        self.call(node, self.place(ask.key).2, call)
    }

    /// Makes calls through `node` at once, each core's in one message, as a batch of writes and
    /// [`Engine::get_many`](crate::Engine::get_many) do.
    ///
    /// # Panics
    ///
    /// If an engine would refuse a time to live.
    pub fn ask_together(&mut self, node: usize, asks: &[Ask<'_>]) -> Vec<CallId> {
        let mut groups: BTreeMap<CoreId, (Vec<CallId>, Vec<Call>)> = BTreeMap::new();
        let mut ids = Vec::new();
        for ask in asks {
            let id = self.read_locally(node, ask).unwrap_or_else(|| {
                let id = self.next_id();
                let (ids, calls) = groups.entry(self.place(ask.key).2).or_default();
                ids.push(id);
                calls.push(self.call_for(node, ask));
                id
            });
            ids.push(id);
        }
        for (core, (ids, calls)) in groups {
            let id = self.next_id();
            self.groups.insert(id, ids);
            self.begin(node, core, id, Call::Many(calls));
        }
        ids
    }

    /// Reads as an app's thread does, if this node's copy is the answer.
    fn read_locally(&mut self, node: usize, ask: &Ask<'_>) -> Option<CallId> {
        set_for_this_thread(self.options.mutant, self.options.partitions);
        let (key, hash, _) = self.place(ask.key);
        if !matches!(ask.what, What::Get) {
            return None;
        }
        let (quorums, now) = (self.options.quorums(), self.now_of(node));
        let quorum = quorums.of_read(ask.quorum).unwrap_or(quorums.read);
        let found = self.nodes[node].read_local(now, quorums, quorum, hash, key)?;
        let id = self.next_id();
        self.note(|| format!("read n{node} {id:?} locally: {found:?}"));
        self.outcomes.insert(id, (self.now, CallResult::Read(Ok(found))));
        Some(id)
    }

    fn call_for(&self, node: usize, ask: &Ask<'_>) -> Call {
        let Ask { key, what, quorum: asked } = *ask;
        let (key, hash, _) = self.place(key);
        let now = self.now_of(node);
        let deadline = now.instant + CALL_TIMEOUT;
        let quorums = self.options.quorums();
        let write = |content, expires_at_ms| {
            Call::Write(WriteCall {
                entry: Entry::new(key, content, Version::ZERO, expires_at_ms),
                hash,
                quorum: quorums.of_write(asked).unwrap_or(quorums.write),
                every_live: quorums.waits_for_every_live(asked, self.options.every_live),
                deadline,
            })
        };
        match what {
            What::Set(value, ttl) => {
                let at_ms =
                    |ttl: Duration| now.wall.millis().saturating_add(ttl.as_millis() as u64);
                write(Content::Value(value), ttl.map(at_ms).and_then(NonZeroU64::new))
            }
            What::Delete => write(Content::Tombstone, None),
            What::Get => Call::Read(Box::new(ReadCall {
                key: key.into(),
                hash,
                quorum: quorums.of_read(asked).unwrap_or(quorums.read),
                local: false,
                anywhere: false,
                deadline,
            })),
            What::Touch(ttl) => Call::Touch(Box::new(TouchCall {
                key: key.into(),
                hash,
                expires_at_ms: ttl.map(|ttl| {
                    expires_at_ms(ttl, now.wall).expect("a time to live that can be kept")
                }),
                deadline,
            })),
        }
    }

    pub(super) fn next_id(&mut self) -> CallId {
        let id = CallId(self.next_call);
        self.next_call += 1;
        id
    }

    fn call(&mut self, node: usize, core: CoreId, call: Call) -> CallId {
        let id = self.next_id();
        self.begin(node, core, id, call);
        id
    }

    pub(super) fn begin(&mut self, node: usize, core: CoreId, id: CallId, call: Call) {
        set_for_this_thread(self.options.mutant, self.options.partitions);
        self.note(|| format!("call n{node} {id:?} {call:?}"));
        let life = self.nodes[node].life;
        self.handle(SimEvent::Call { node, life, core, call: Box::new(call), id });
    }

    /// Returns the key with its hash and the core that owns it.
    pub(super) fn place<'a>(&self, key: &'a [u8]) -> (&'a [u8], KeyHash, CoreId) {
        let hash = KeyHash::of(options::cluster(), key);
        assert!(
            hash.partition().index() < self.options.partitions,
            "a key outside of the partitions in use"
        );
        (key, hash, hash.partition().core(self.options.cores))
    }
}

fn configured<'a>(key: &'a [u8], what: What<'a>) -> Ask<'a> {
    Ask { key, what, quorum: Quorum::Configured }
}
