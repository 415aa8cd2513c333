//! What goes wrong: faults that a test, or a schedule of faults, brings upon a [`SimCluster`].
//!
//! | fault | what it stands for |
//! |---|---|
//! | [`crash_node`], [`restart_node`] | a process that dies with its memory, and returns |
//! | [`pause_node`] | a process that is stopped, or whose host hangs |
//! | [`suspend_node`] | a host that sleeps, and its monotonic clock with it |
//! | [`stall_cores`], [`stall_control`] | a core or control thread that is stuck |
//! | [`set_loss`], [`set_duplication`] | a network that loses, repeats and breaks |
//! | [`set_delay`], [`slow_down`] | a network, or one way through it, that is slow |
//! | [`break_connections`] | a firewall that forgets what it let through |
//! | [`cut`], [`cut_off_cores`] | gossip that gets through where data does not |
//! | [`swallow`] | a proxy that accepts what is sent, and passes nothing on |
//! | [`block`], [`split`] | a link that is down, one way or both, and a network that falls apart |
//! | [`lose_datagrams`], [`lose_connections`] | a firewall that drops UDP alone, or TCP alone |
//! | [`hide`] | a node that reaches all others, and advertises an address that none reaches |
//! | [`move_clock`] | a wall clock that is set |
//!
//! [`mend`](SimCluster::mend) ends what is wrong with links.
//!
//! [`crash_node`]: SimCluster::crash_node
//! [`restart_node`]: SimCluster::restart_node
//! [`pause_node`]: SimCluster::pause_node
//! [`suspend_node`]: SimCluster::suspend_node
//! [`stall_cores`]: SimCluster::stall_cores
//! [`stall_control`]: SimCluster::stall_control
//! [`set_loss`]: SimCluster::set_loss
//! [`set_duplication`]: SimCluster::set_duplication
//! [`set_delay`]: SimCluster::set_delay
//! [`slow_down`]: SimCluster::slow_down
//! [`break_connections`]: SimCluster::break_connections
//! [`cut`]: SimCluster::cut
//! [`cut_off_cores`]: SimCluster::cut_off_cores
//! [`swallow`]: SimCluster::swallow
//! [`block`]: SimCluster::block
//! [`split`]: SimCluster::split
//! [`lose_datagrams`]: SimCluster::lose_datagrams
//! [`lose_connections`]: SimCluster::lose_connections
//! [`hide`]: SimCluster::hide
//! [`move_clock`]: SimCluster::move_clock

use std::time::Duration;

use super::SimCluster;
use super::node::{Part, Stall};

/// One thing that was done to a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Fault {
    /// When it began, since the start of the cluster.
    pub at: Duration,
    /// Its kind, as reports count it.
    pub kind: &'static str,
    /// What happened, and to which nodes.
    pub what: String,
}

impl SimCluster {
    /// Kills a node: its memory is gone, its connections break.
    pub fn crash_node(&mut self, node: usize) {
        self.fault("crash", || format!("n{node} crashes"));
        self.crashed_at = Some(self.now);
        self.nodes[node].crash();
        self.end_connections_of(node);
    }

    /// Stops a node for `time`, as a long pause of its process would: it handles nothing, and
    /// afterwards everything that came during the pause.
    pub fn pause_node(&mut self, node: usize, time: Duration) {
        self.fault("pause", || format!("n{node} pauses for {time:?}"));
        self.nodes[node].paused_until = Some(self.now + time);
    }

    /// Suspends a node's host for `time`: it handles nothing, and its monotonic clock stands still,
    /// while its wall clock goes on. Afterwards it handles what came.
    pub fn suspend_node(&mut self, node: usize, time: Duration) {
        self.fault("suspend", || format!("the host of n{node} is suspended for {time:?}"));
        let now = self.now;
        self.nodes[node].suspend(now, time);
    }

    /// Stops all cores of a node for `time`, while its control thread works: others see a member
    /// that is well and answers no request, until the control thread has noticed and answers no
    /// probe either. Afterwards the cores handle what came.
    pub fn stall_cores(&mut self, node: usize, time: Duration) {
        self.fault("stalled cores", || format!("the cores of n{node} stand still for {time:?}"));
        let stall = self.stall_for(time);
        self.nodes[node].stall(Part::Cores, stall);
    }

    /// Stops the control thread of a node for `time`, while its cores work: others see a member
    /// that does not answer, and whose connections accept requests.
    pub fn stall_control(&mut self, node: usize, time: Duration) {
        self.fault("stalled control", || {
            format!("the control thread of n{node} stands still for {time:?}")
        });
        let stall = self.stall_for(time);
        self.nodes[node].stall(Part::Control, stall);
    }

    fn stall_for(&self, time: Duration) -> Stall {
        Stall { until: self.now + time, from: self.now }
    }

    /// Whether the node, or its cores, stand still: an app's call to it waits.
    pub fn is_paused(&self, node: usize) -> bool {
        self.nodes[node].still_until(Part::Cores, self.now).is_some()
    }

    /// Whether the node, or any part of it, stands still.
    pub fn stands_still(&self, node: usize) -> bool {
        let is_still = |part| self.nodes[node].still_until(part, self.now).is_some();
        is_still(Part::Cores) || is_still(Part::Control)
    }

    /// Keeps the cores of a node from reaching those of any other, and from being reached, until
    /// [`mend`](Self::mend), while gossip gets through: a port that is filtered, or a process that
    /// is out of file descriptors. Nodes that are started later are not concerned.
    pub fn cut_off_cores(&mut self, node: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Loses what one node sends to another over connections, until [`mend`](Self::mend), while
    /// neither of them notices. Datagrams arrive, and new connections fail.
    pub fn swallow(&mut self, from: usize, to: usize) {
        self.fault("swallow", || format!("connections swallow what n{from} sends to n{to}"));
        self.swallowed.insert((from, to));
    }

    /// Changes what the network loses from here on: how many of a thousand datagrams, and how many
    /// of a thousand frames. With a frame its connection is lost.
    pub fn set_loss(&mut self, datagrams_per_mille: u32, connections_per_mille: u32) {
        self.fault("loss", || {
            format!(
                "{datagrams_per_mille} ‰ of datagrams are lost, {connections_per_mille} ‰ of \
                 frames break a connection"
            )
        });
        self.options.datagrams_lost_per_mille = datagrams_per_mille;
        self.options.connections_broken_per_mille = connections_per_mille;
    }

    /// Changes how many of a thousand datagrams arrive twice.
    pub fn set_duplication(&mut self, datagrams_per_mille: u32) {
        self.fault("duplication", || format!("{datagrams_per_mille} ‰ of datagrams arrive twice"));
        self.options.datagrams_duplicated_per_mille = datagrams_per_mille;
    }

    /// Changes how long every message takes, from `least` to `most`. Datagrams overtake each other;
    /// what one connection carries keeps its order.
    ///
    /// # Panics
    ///
    /// If `least` is above `most`.
    pub fn set_delay(&mut self, least: Duration, most: Duration) {
        assert!(least <= most, "the least delay is above the most");
        self.fault("delay", || format!("messages take {least:?} to {most:?}"));
        self.options.delay = (least, most);
    }

    /// Changes how long messages take from one node to another, until [`mend`](Self::mend).
    ///
    /// # Panics
    ///
    /// If `least` is above `most`.
    pub fn slow_down(&mut self, from: usize, to: usize, least: Duration, most: Duration) {
        assert!(least <= most, "the least delay is above the most");
        self.fault("slow link", || {
            format!("messages from n{from} to n{to} take {least:?} to {most:?}")
        });
        self.slow.insert((from, to), (least, most));
    }

    /// Breaks every connection between two nodes, once: both can open new ones at once.
    pub fn break_connections(&mut self, one: usize, other: usize) {
        self.fault("broken connections", || {
            format!("connections between n{one} and n{other} break")
        });
        self.break_between(one, other);
    }

    /// Keeps the cores of one node from reaching those of another, until [`mend`](Self::mend),
    /// while gossip gets through. The connections that they opened break, and new ones are refused.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.fault("cut", || format!("the cores of n{from} do not reach those of n{to}"));
        self.cut.insert((from, to));
        self.break_core_connections(from, to);
    }

    /// Lets nothing that one node sends arrive at another, until [`mend`](Self::mend).
    ///
    /// Datagrams are lost, and new connections fail in both directions. On open connections frames
    /// wait until these break, after two seconds, as the sockets of the product do.
    pub fn block(&mut self, from: usize, to: usize) {
        self.fault("block", || format!("nothing from n{from} arrives at n{to}"));
        self.blocked.insert((from, to));
    }

    /// [Blocks](Self::block) every link between two groups of nodes, in both directions.
    pub fn split(&mut self, some: &[usize], others: &[usize]) {
        self.fault("split", || format!("{some:?} and {others:?} do not reach each other"));
        for &one in some {
            for &other in others {
                self.blocked.extend([(one, other), (other, one)]);
            }
        }
    }

    /// Loses every datagram that one node sends to another, until [`mend`](Self::mend).
    /// Connections are not concerned.
    pub fn lose_datagrams(&mut self, from: usize, to: usize) {
        self.fault("lost datagrams", || format!("no datagram from n{from} arrives at n{to}"));
        self.no_datagrams.insert((from, to));
    }

    /// Lets nothing arrive that one node sends to another over connections, until
    /// [`mend`](Self::mend). Datagrams are not concerned. Connections go on and end as if the way
    /// was [blocked](Self::block).
    pub fn lose_connections(&mut self, from: usize, to: usize) {
        self.fault("lost connections", || {
            format!("nothing arrives over connections from n{from} at n{to}")
        });
        self.no_connections.insert((from, to));
    }

    /// Hides the address that a node advertises, until [`mend`](Self::mend): no datagram and no
    /// connection to it arrives. The node reaches all others, and what they answer over the
    /// connections that it opened. If `is_refused`, new connections fail at once, and otherwise
    /// after the time that is waited for one.
    pub fn hide(&mut self, node: usize, is_refused: bool) {
        self.fault("hidden", || format!("the address of n{node} reaches no node"));
        self.hidden.insert(node, is_refused);
        self.break_where(|_, acceptor| acceptor == node);
    }

    /// Ends every [`cut`](Self::cut), [`block`](Self::block), [`split`](Self::split),
    /// [`swallow`](Self::swallow), [`slow_down`](Self::slow_down),
    /// [`lose_datagrams`](Self::lose_datagrams), [`lose_connections`](Self::lose_connections) and
    /// [`hide`](Self::hide).
    pub fn mend(&mut self) {
        self.fault("mend", || "the network is whole".into());
        self.cut.clear();
        self.blocked.clear();
        self.no_datagrams.clear();
        self.no_connections.clear();
        self.hidden.clear();
        self.swallowed.clear();
        self.slow.clear();
        self.resume_stalled();
    }

    /// Sets a node's wall clock forward, or back if `by_millis` is negative. It stays that far off,
    /// over restarts too. Its monotonic clock goes on.
    pub fn move_clock(&mut self, node: usize, by_millis: i64) {
        self.fault("clock", || format!("the clock of n{node} jumps by {by_millis} ms"));
        let epoch = &mut self.nodes[node].epoch_micros;
        *epoch = epoch.saturating_add_signed(by_millis.saturating_mul(1000));
    }

    /// Returns what was done to the cluster so far, starts and leaves included.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Whether nothing gets through over connections.
    pub(super) fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.contains(&(from, to)) || self.no_connections.contains(&(from, to))
    }

    pub(super) fn loses_datagrams(&self, from: usize, to: usize) -> bool {
        self.blocked.contains(&(from, to))
            || self.no_datagrams.contains(&(from, to))
            || self.hidden.contains_key(&to)
    }

    pub(super) fn fault(&mut self, kind: &'static str, what: impl FnOnce() -> String) {
        let fault = Fault { at: self.elapsed(), kind, what: what() };
        self.note(|| format!("{}: {}", fault.kind, fault.what));
        self.faults.push(fault);
    }
}
