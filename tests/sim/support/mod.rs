//! What the simulator's tests share: a cluster that is asked, and waited for.
//!
//! Each wait has one limit, in simulated time. A wait ends as soon as what it waits for is so, so a
//! generous limit costs nothing and changes no history.

mod workload;

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use gridkv::sim::{CallId, CallResult, SimCluster, SimOptions};

pub(crate) use self::workload::{RandomCalls, lossy, one_thing_at_a_time, seeds};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const WRITTEN: CallResult = CallResult::Written(Ok(()));

/// Within this a call has ended: it may take two seconds (`CALL_TIMEOUT`), and its coordinator may
/// have been told of it late.
pub(crate) const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

/// Within this nodes that were started together are a cluster: they wait a few seconds for members,
/// and copy nothing yet.
pub(crate) const STARTED_WITHIN: Duration = Duration::from_secs(20);

/// Within this a cluster is whole again after the trouble that tests make. Most of it takes a few
/// seconds: deaths are found, nodes that were cut off are dialled again, and copies are made.
pub(crate) const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// A cluster that says its seed when a test fails, and writes its trace to the file that
/// `GRIDKV_TRACE` names.
pub(crate) struct Traced {
    cluster: SimCluster,
    seed: u64,
}

impl Traced {
    pub(crate) fn new(seed: u64, options: SimOptions) -> Self {
        Self { cluster: SimCluster::with_options(seed, options), seed }
    }
}

impl Deref for Traced {
    type Target = SimCluster;

    fn deref(&self) -> &SimCluster {
        &self.cluster
    }
}

impl DerefMut for Traced {
    fn deref_mut(&mut self) -> &mut SimCluster {
        &mut self.cluster
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("the cluster that failed has seed {}", self.seed);
        if let Ok(path) = std::env::var("GRIDKV_TRACE") {
            let _ = std::fs::write(path, self.trace());
        }
    }
}

/// Starts nodes, and waits until they are a cluster.
pub(crate) fn started(seed: u64, nodes: usize, options: SimOptions) -> Traced {
    let mut cluster = Traced::new(seed, options);
    for _ in 0..nodes {
        cluster.start_node();
    }
    wait(&mut cluster, STARTED_WITHIN, SimCluster::is_settled);
    cluster
}

/// Waits until members, lists and copies are as they should be.
#[track_caller]
pub(crate) fn settle(cluster: &mut SimCluster) {
    wait(cluster, SETTLED_WITHIN, SimCluster::is_settled);
}

/// Waits until a condition holds. Fails if it does not within `limit`, and says what the nodes see.
#[track_caller]
pub(crate) fn wait(cluster: &mut SimCluster, limit: Duration, is_so: impl Fn(&SimCluster) -> bool) {
    assert!(cluster.run_until(limit, is_so), "not within {limit:?}:\n{}", cluster.describe());
}

/// Waits for the end of a call, and returns how it ended.
#[track_caller]
pub(crate) fn outcome(cluster: &mut SimCluster, call: CallId) -> CallResult {
    let has_ended = |cluster: &SimCluster| cluster.outcome(call).is_some();
    assert!(cluster.run_until(ANSWERED_WITHIN, has_ended), "a call got no answer");
    cluster.outcome(call).unwrap().clone()
}

/// Writes a value through a node, and returns how that ended.
#[track_caller]
pub(crate) fn set(
    cluster: &mut SimCluster,
    node: usize,
    key: impl AsRef<[u8]>,
    value: impl AsRef<[u8]>,
) -> CallResult {
    let call = cluster.set(node, key, value);
    outcome(cluster, call)
}

/// Writes a value through a node, which must be acknowledged.
#[track_caller]
pub(crate) fn write(
    cluster: &mut SimCluster,
    node: usize,
    key: impl AsRef<[u8]>,
    value: impl AsRef<[u8]>,
) {
    let name = String::from_utf8_lossy(key.as_ref()).into_owned();
    assert_eq!(set(cluster, node, key, value), WRITTEN, "{name} through {node}");
}

/// Deletes a key through a node, which must be acknowledged.
#[track_caller]
pub(crate) fn delete(cluster: &mut SimCluster, node: usize, key: impl AsRef<[u8]>) {
    let name = String::from_utf8_lossy(key.as_ref()).into_owned();
    let call = cluster.delete(node, key);
    assert_eq!(outcome(cluster, call), WRITTEN, "{name} through {node}");
}

/// Reads a key through a node, which must succeed, and returns its value, if there is one.
#[track_caller]
pub(crate) fn read(
    cluster: &mut SimCluster,
    node: usize,
    key: impl AsRef<[u8]>,
) -> Option<Vec<u8>> {
    let name = String::from_utf8_lossy(key.as_ref()).into_owned();
    let call = cluster.get(node, key);
    match outcome(cluster, call) {
        CallResult::Read(Ok(found)) => found,
        other => panic!("{name} through {node}: {other:?}"),
    }
}
