//! [`Engine`]: what an app can do, nothing else.
//!
//! `calls.rs` makes a call and waits for its answer. The other files each add one way to work with
//! an engine: `many` (reads together), `batch` (writes together), `submit` (without waiting),
//! `load` (one loader a key), `run` (code on a core), `local_keys` (a walk), `security` (new keys)
//! and `stats`. These files may use the runtime and the shard's calls; nothing else may use them.

mod batch;
mod calls;
mod load;
mod local_keys;
mod many;
mod run;
#[cfg(feature = "security")]
mod security;
mod stats;
mod submit;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

pub use self::batch::Batch;
use self::calls::{local_rules, value};
use self::load::Loads;
pub use self::local_keys::LocalKeys;
pub use self::stats::Stats;
use crate::config::{Config, Settings};
use crate::entry::{Content, Entry};
use crate::error::{LeaveError, NotReady, NotSafe, ReadError, StartError, WriteError};
use crate::events::{Events, MemberInfo, subscription};
use crate::options::{ReadOptions, WriteOptions};
use crate::runtime::Runtime;
use crate::shard::{LocalRules, WriteRules};

/// A running node: the handle through which an app reads, writes and watches the cluster.
///
/// Cloning gives another handle to the same engine. When the last handle is dropped, the engine
/// stops and its threads are joined.
///
/// Any number of threads may call any method. A call waits for its answer at most as long as its
/// timeout, which is [`Config::request_timeout`] if the call names none.
///
/// In a process that forks, the engine stays with the parent. In the child its calls fail at once
/// with `ShutDown`, [`members`](Self::members) is empty, and the handle may be dropped, which does
/// nothing. (On systems other than Linux, and on Linux before 4.14, the handle may be dropped, and
/// must not be used for calls.) The child's copies of the engine's sockets stay open until it ends
/// or executes another program.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

// A panic of the app in the middle of a call leaves nothing half done: the queues to the cores are
// whole at every point where the app's code runs, and the engine's own panics close it.
impl UnwindSafe for Engine {}
impl RefUnwindSafe for Engine {}

struct Inner {
    settings: Settings,
    /// The rules of reads that have no options of their own.
    rules: LocalRules,
    write_rules: WriteRules,
    loads: Loads,
    runtime: Runtime,
}

/// How long a key has to live, as [`Engine::ttl`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeToLive {
    /// The key does not expire.
    Forever,
    /// The key expires after this time, by this node's clock.
    Left(Duration),
}

impl Engine {
    /// Checks `config` and starts the engine's threads.
    ///
    /// A node of a cluster looks for the others in the background:
    /// [`wait_ready`](Self::wait_ready) waits for them.
    ///
    /// # Errors
    ///
    /// [`StartError`] says what to change. No thread and no socket is left behind.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let settings = config.check()?;
        let runtime = Runtime::start(&settings)?;
        let Settings { quorums, memory, wait_for_every_live: every_live, .. } = settings;
        let rules = local_rules(quorums, quorums.read, false);
        let write_rules = WriteRules { cluster: runtime.cluster(), quorums, every_live, memory };
        let loads = Loads::default();
        Ok(Self { inner: Arc::new(Inner { settings, rules, write_rules, loads, runtime }) })
    }

    /// Waits until there are enough members for calls to succeed, and until these have agreed on
    /// the placement of the partitions.
    ///
    /// W and R members are enough. For the first start of a cluster,
    /// [`Config::expect`](crate::Config::expect) can ask for more.
    ///
    /// # Errors
    ///
    /// [`NotReady`] says what is missing. The engine runs on and keeps trying.
    pub fn wait_ready(&self, timeout: Duration) -> Result<(), NotReady> {
        self.inner.runtime.wait_ready(timeout, self.inner.settings.quorums.members_needed())
    }

    /// Waits until no copy is missing on any node, so that any one node may be stopped without
    /// loss.
    ///
    /// It is safe when N nodes hold each partition completely, and every write that was
    /// acknowledged before has reached all of them. (A node that the writer has not reached for six
    /// seconds, though it lives, is not waited for if W nodes have the write.) For a rolling
    /// restart: stop a node, start it again, wait with this method on any node, and go on with the
    /// next.
    ///
    /// If all nodes of a data center started again, its partitions begin empty. They count as
    /// missing until each was compared with another data center that this one reaches.
    ///
    /// This node asks all members of its data center, ten times a second during the wait. With
    /// fewer members than replicas (N) it is never safe. A standalone engine is always safe.
    ///
    /// # Errors
    ///
    /// [`NotSafe::TimedOut`] says which copies are missing, and on which nodes.
    pub fn wait_until_safe(&self, timeout: Duration) -> Result<(), NotSafe> {
        self.inner.runtime.wait_until_safe(timeout)
    }

    /// Stores `value` under `key`, and returns when W replicas have applied the write.
    ///
    /// # Errors
    ///
    /// [`WriteError`] says whether the write may have happened.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), WriteError> {
        self.set_with(key, value, &WriteOptions::new())
    }

    /// Stores `value` under `key` like [`set`](Self::set), with a time to live, a quorum or a
    /// timeout of its own.
    ///
    /// # Errors
    ///
    /// [`WriteError`] says whether the write may have happened.
    pub fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<(), WriteError> {
        self.write(key.as_ref(), Content::Value(value.as_ref()), options)
    }

    /// Deletes `key`, whether or not it exists.
    ///
    /// The delete has a version like any write, so no replica that missed it brings the key back.
    ///
    /// # Errors
    ///
    /// [`WriteError`] says whether the delete may have happened.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), WriteError> {
        self.delete_with(key, &WriteOptions::new())
    }

    /// Deletes `key` like [`delete`](Self::delete), with a quorum or a timeout of its own. A time
    /// to live has no effect.
    ///
    /// # Errors
    ///
    /// [`WriteError`] says whether the delete may have happened.
    pub fn delete_with(
        &self,
        key: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<(), WriteError> {
        self.write(key.as_ref(), Content::Tombstone, &WriteOptions { ttl: None, ..options.clone() })
    }

    /// Gives `key` a new time to live, counted from now, and keeps its value. Returns `false` if
    /// there is no such key.
    ///
    /// In a cluster it costs a read of N − W + 1 replicas (or of R, if that is more), and a write
    /// of the value that these have. It never replaces a value that was written at the same time,
    /// and never brings a deleted key back: the other write stays, and the touch succeeds as if it
    /// had come just before.
    ///
    /// # Errors
    ///
    /// [`WriteError`] says whether the change may have happened.
    pub fn touch(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<bool, WriteError> {
        self.change_expiry(key.as_ref(), Some(ttl))
    }

    /// Removes the time to live of `key`, and keeps its value. Returns `false` if there is no such
    /// key, or if it had no time to live.
    ///
    /// It costs as much as [`touch`](Self::touch), and gives way to other writes in the same
    /// manner.
    ///
    /// # Errors
    ///
    /// [`WriteError`] says whether the change may have happened.
    pub fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool, WriteError> {
        self.change_expiry(key.as_ref(), None)
    }

    /// Returns how long `key` has to live, or `None` if there is no such key.
    ///
    /// # Errors
    ///
    /// [`ReadError`] says why there is no answer. A read can always be tried again.
    pub fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Option<TimeToLive>, ReadError> {
        let deadline = self.look(key.as_ref(), self.inner.rules, None, Entry::expires_at_ms)?;
        let Some(deadline) = deadline else { return Ok(None) };
        let Some(at_ms) = deadline else { return Ok(Some(TimeToLive::Forever)) };
        let now = Duration::from_micros(self.wall().micros());
        let left = Duration::from_millis(at_ms.get()).saturating_sub(now);
        // It may have expired on its way here.
        Ok((!left.is_zero()).then_some(TimeToLive::Left(left)))
    }

    /// Returns the value of `key`, or `None` if it does not exist, was deleted or has expired.
    ///
    /// With R = 1, a value that this node holds is returned without asking another node. A miss is
    /// confirmed by other replicas, and fails with [`ReadError::Unconfirmed`] if too few of them
    /// answer.
    ///
    /// # Errors
    ///
    /// [`ReadError`] says why there is no answer. A read can always be tried again.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, ReadError> {
        self.look(key.as_ref(), self.inner.rules, None, |entry| value(entry).to_vec())
    }

    /// Returns the value of `key` like [`get`](Self::get), with a quorum or a timeout of its own,
    /// or from this node alone.
    ///
    /// # Errors
    ///
    /// [`ReadError`] says why there is no answer. A read can always be tried again.
    pub fn get_with(
        &self,
        key: impl AsRef<[u8]>,
        options: &ReadOptions,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        self.look(key.as_ref(), self.rules(options)?, Some(options), |entry| value(entry).to_vec())
    }

    /// Passes the value of `key` to `look` without copying it, and returns the result of `look`.
    /// Returns `None` if the key has no value.
    ///
    /// While `look` runs, no memory is freed that is overwritten, deleted or evicted anywhere in
    /// this engine. So keep it short: otherwise memory fills up, until writes fail with
    /// [`Overloaded`](crate::NotApplied::Overloaded). That includes writes that `look` makes
    /// itself.
    ///
    /// # Errors
    ///
    /// [`ReadError`] says why there is no answer. A read can always be tried again.
    pub fn read<T>(
        &self,
        key: impl AsRef<[u8]>,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, ReadError> {
        self.look(key.as_ref(), self.inner.rules, None, |entry| look(value(entry)))
    }

    /// Returns whether `key` has a value.
    ///
    /// # Errors
    ///
    /// [`ReadError`] says why there is no answer. A read can always be tried again.
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool, ReadError> {
        Ok(self.look(key.as_ref(), self.inner.rules, None, |_| ())?.is_some())
    }

    /// Returns every node that this node knows, itself included, sorted by name.
    ///
    /// Nodes that died or left stay in the list for a day.
    pub fn members(&self) -> Vec<MemberInfo> {
        self.inner.runtime.members()
    }

    /// Returns the address at which other nodes reach this one, or `None` if the engine is
    /// standalone.
    ///
    /// It is the address that the node advertises, or else the one on which it listens. If the
    /// configuration said port 0, it has the port that the system chose.
    pub fn address(&self) -> Option<SocketAddr> {
        self.inner.runtime.address()
    }

    /// Subscribes to the events of the cluster, from now on.
    pub fn events(&self) -> Events {
        let (subscriber, events) = subscription();
        self.inner.runtime.subscribe(subscriber);
        events
    }

    /// Hands this node's data over to the other nodes and stops.
    ///
    /// Calls are served until the handover is complete. Then new calls fail with
    /// [`ShutDown`](crate::NotApplied::ShutDown) and pending calls complete. The node leaves when
    /// every replica has the writes that this node acknowledged. If other data centers can be
    /// reached, they first get the acknowledged writes that they have not confirmed.
    ///
    /// The last node of a cluster leaves at once, and its data is gone. If all nodes are asked to
    /// leave together, all leave at once. A node that is taken for dead and might return counts as
    /// there: what this node holds might be nowhere else, and it waits until `timeout`. So does the
    /// last of a cluster whose other nodes have all died.
    ///
    /// # Errors
    ///
    /// [`LeaveError::TimedOut`] says how much was not handed over, and whether other nodes have no
    /// room for it. The node has stopped all the same, as if it had died.
    pub fn leave(&self, timeout: Duration) -> Result<(), LeaveError> {
        self.inner.runtime.leave(timeout)
    }

    /// Stops without a farewell, as a crash would: the other nodes have to find out. For tests.
    pub fn abort(&self) {
        self.inner.runtime.stop(false);
    }

    /// Returns why the engine has stopped by itself: which of its threads failed, and how. Returns
    /// `None` if it runs, or was stopped by the app.
    pub fn failure(&self) -> Option<String> {
        self.inner.runtime.failure()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("node", &self.inner.settings.node_id)
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.runtime.is_forked() {
            return self.runtime.forget();
        }
        self.runtime.stop(true);
    }
}
