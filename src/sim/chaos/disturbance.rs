//! What a schedule does to its cluster, and when that is allowed.
//!
//! A disturbance that is not allowed at this moment is tried again until it is: memory is lost only
//! while no copy is missing, for one node at a time. See the [module](super) for the rules.

use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::Chaos;
use super::options::MAX_NODES;
use super::profile::Profile;
use crate::sim::CALL_TIMEOUT;
use crate::sim::checks::WriteOrder;

/// What a schedule does; which node or link it strikes, and for how long, is left to chance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Disturbance {
    Crash,
    Restart,
    Leave,
    Join,
    ShortPause,
    LongPause,
    Loss,
    Delay,
    SlowLink,
    Break,
    Cut,
    Block,
    /// Connections lose what is sent over them, one way.
    Swallow,
    Split,
    Clock,
    /// The clock of one node, always the same one, is set wrong for a while.
    Step,
    /// A node gets lost just after it began to write.
    LostWriter,
    /// A node crashes and is back within 50 ms.
    QuickRestart,
    /// All replicas are replaced.
    Replace,
    /// W - 1 nodes crash at once, while there is other trouble.
    Crashes,
    /// A node's host is suspended.
    Suspend,
    /// The cores of a node stand still.
    StallCores,
    /// The control thread of a node stands still.
    StallControl,
    /// A node is asked when it is safe to stop any node.
    AskSafety,
}

/// A clock that is wrong.
pub(super) struct Stepped {
    node: usize,
    by: i64,
    since: Duration,
    pub(super) until: Duration,
}

/// Brings disturbances about. Each method returns `false` if the disturbance is not allowed now; it
/// might be allowed later.
impl Chaos {
    pub(super) fn choose(&mut self) -> Disturbance {
        let total: u32 = self.disturbances.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.random_range(0..total.max(1));
        for (disturbance, weight) in &self.disturbances {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return *disturbance,
            }
        }
        Disturbance::Break
    }

    pub(super) fn disturb(&mut self, disturbance: Disturbance) -> bool {
        self.leaving.retain(|node| self.cluster.is_running(*node));
        match disturbance {
            Disturbance::Crash => self.crash(),
            Disturbance::Restart => self.restart(),
            Disturbance::Join => self.join(),
            Disturbance::Leave => self.leave(),
            Disturbance::ShortPause => {
                let (nodes, time) = (self.callable(), self.millis(1, 200));
                self.pause_one(&nodes, time)
            }
            Disturbance::LongPause => {
                if !self.is_weak() && !self.may_lose_one() {
                    return false;
                }
                let (nodes, time) = (self.callable(), self.millis(300, 15_000));
                self.pause_one(&nodes, time)
            }
            Disturbance::Loss => self.lose_messages(),
            Disturbance::Delay => self.delay_messages(),
            Disturbance::SlowLink => self.slow_link_down(),
            Disturbance::Break => self.break_link(),
            Disturbance::Cut => self.cut_link(),
            Disturbance::Block => self.block_link(),
            Disturbance::Swallow => self.swallow_link(),
            Disturbance::Split if self.profile == Profile::Majority => self.split_in_two(),
            Disturbance::Split => self.split(),
            Disturbance::Clock => self.move_clock(),
            Disturbance::Step => self.step_clock(),
            Disturbance::LostWriter => self.lose_writer(),
            Disturbance::QuickRestart => self.restart_quickly(),
            Disturbance::Replace => self.replace_all(),
            Disturbance::Crashes => self.crash_some(),
            Disturbance::Suspend | Disturbance::StallCores | Disturbance::StallControl => {
                self.stop_part(disturbance)
            }
            Disturbance::AskSafety => {
                let nodes = self.callable();
                if let Some(node) = self.pick(&nodes) {
                    self.ask_safety(node);
                }
                true
            }
        }
    }

    /// Whether the checkers expect no order of writes between nodes, so that trouble may be worse.
    fn is_weak(&self) -> bool {
        self.order != WriteOrder::Everywhere
    }

    fn crash(&mut self) -> bool {
        if !self.may_lose_one() {
            return false;
        }
        let nodes = self.spare();
        if nodes.is_empty() {
            return false;
        }
        if let Some(node) = self.pick(&nodes) {
            self.cluster.crash_node(node);
        }
        true
    }

    /// Crashes up to W - 1 nodes at once, while others are out of reach for some time. No copy is
    /// lost by that which is not on a node that lives.
    fn crash_some(&mut self) -> bool {
        let mut nodes = self.staying();
        let spare = nodes.len().saturating_sub(self.sim.needed());
        let most = spare.min(self.sim.quorums().write.count(3) - 1);
        if most == 0 || self.mend_at.is_some() || !self.may_lose_one() {
            return false;
        }
        nodes.shuffle(&mut self.rng);
        let crashed = nodes.split_off(nodes.len() - self.rng.random_range(1..=most));
        if let Some(beside) = self.pick(&nodes) {
            match self.rng.random_range(0..4) {
                0 => {
                    let time = self.millis(300, 5000);
                    self.pause_one(&[beside], time);
                }
                1 => {
                    self.cluster.cut(beside, crashed[0]);
                    self.mend_after(100, 5000);
                }
                2 => {
                    let others: Vec<usize> =
                        nodes.iter().copied().filter(|node| *node != beside).collect();
                    self.cluster.split(&[beside], &others);
                    self.mend_after(100, 8000);
                }
                _ => {}
            }
        }
        let wait = self.millis(0, 1500);
        self.call_for(wait);
        for node in crashed {
            if self.cluster.is_running(node) {
                self.cluster.crash_node(node);
            }
        }
        true
    }

    fn stop_part(&mut self, disturbance: Disturbance) -> bool {
        let nodes = self.callable();
        let Some(node) = self.pick(&nodes) else { return true };
        let time = self.millis(50, 12_000);
        let from = self.cluster.elapsed();
        match disturbance {
            Disturbance::Suspend => {
                self.cluster.suspend_node(node, time);
                // A timeout counts no time that the monotonic clock does not.
                self.workload.note_pause(node, from, from + time + CALL_TIMEOUT);
            }
            Disturbance::StallCores => {
                self.cluster.stall_cores(node, time);
                self.workload.note_pause(node, from, from + time);
            }
            _ => self.cluster.stall_control(node, time),
        }
        true
    }

    fn restart(&mut self) -> bool {
        let down: Vec<usize> =
            (0..self.cluster.nodes()).filter(|&node| !self.cluster.is_running(node)).collect();
        if self.running().len() < MAX_NODES
            && let Some(node) = self.pick(&down)
        {
            self.cluster.restart_node(node);
        }
        true
    }

    fn join(&mut self) -> bool {
        if self.running().len() < MAX_NODES {
            self.cluster.start_node();
            self.apply_lasting();
        }
        true
    }

    fn leave(&mut self) -> bool {
        // With one less, two that do not reach each other may be all that is left.
        if self.mend_at.is_some() && self.order == WriteOrder::Everywhere {
            return false;
        }
        let nodes = self.staying();
        let least = self.sim.quorums().fewest_nodes();
        if nodes.len() > least * self.sim.data_centers
            && let Some(node) = self.pick(&nodes)
        {
            self.leaving.insert(node);
            self.note_leave(node);
            self.cluster.leave(node);
        }
        true
    }

    fn pause_one(&mut self, nodes: &[usize], time: Duration) -> bool {
        if let Some(node) = self.pick(nodes) {
            let from = self.cluster.elapsed();
            self.workload.note_pause(node, from, from + time);
            self.cluster.pause_node(node, time);
        }
        true
    }

    fn lose_messages(&mut self) -> bool {
        let most = if self.is_weak() { 300 } else { 30 };
        let datagrams = self.rng.random_range(0..=most);
        let connections = self.rng.random_range(0..=10);
        let twice = self.rng.random_range(0..=100);
        self.cluster.set_loss(datagrams, connections);
        self.cluster.set_duplication(twice);
        self.calm_after(500, 8000);
        true
    }

    fn delay_messages(&mut self) -> bool {
        // In a weak schedule long enough for members to take each other for dead.
        let most = if self.is_weak() { 2000 } else { 20 };
        let most = Duration::from_millis(self.rng.random_range(1..=most));
        self.cluster.set_delay(most / 20, most);
        self.calm_after(500, 5000);
        true
    }

    fn slow_link_down(&mut self) -> bool {
        let most = self.millis(10, if self.is_weak() { 3000 } else { 40 });
        if let Some((from, to)) = self.pick_two() {
            self.cluster.slow_down(from, to, most / 4, most);
            self.mend_after(500, 5000);
        }
        true
    }

    fn break_link(&mut self) -> bool {
        if let Some((one, other)) = self.pick_two() {
            self.cluster.break_connections(one, other);
        }
        true
    }

    fn cut_link(&mut self) -> bool {
        if let Some((from, to)) = self.pick_two() {
            self.cluster.cut(from, to);
            self.mend_after(100, 10_000);
        }
        true
    }

    fn block_link(&mut self) -> bool {
        if !self.is_weak() && !self.may_lose_one() {
            return false;
        }
        if let Some((from, to)) = self.pick_two() {
            self.cluster.block(from, to);
            self.mend_after(100, 20_000);
        }
        true
    }

    fn swallow_link(&mut self) -> bool {
        if let Some((from, to)) = self.pick_two() {
            self.cluster.swallow(from, to);
            self.mend_after(500, 10_000);
        }
        true
    }

    fn split(&mut self) -> bool {
        let mut some = self.running();
        let mut others = some.split_off(self.rng.random_range(1..some.len().max(2)));
        if self.rng.random_range(0..2) == 0 {
            some.rotate_left(1);
        }
        if self.sim.data_centers > 1 && self.rng.random_range(0..4) > 0 {
            let here = |node: &usize| node.is_multiple_of(self.sim.data_centers);
            (some, others) = self.running().into_iter().partition(here);
        }
        self.cluster.split(&some, &others);
        self.mend_after(100, 15_000);
        true
    }

    /// Splits a whole cluster, whose lists are the same everywhere, and keeps what the checker of a
    /// majority needs.
    fn split_in_two(&mut self) -> bool {
        if self.mend_at.is_some() || !self.cluster.is_settled() {
            return false;
        }
        let mut nodes: Vec<usize> = (0..self.cluster.nodes()).collect();
        nodes.shuffle(&mut self.rng);
        let others = nodes.split_off(self.rng.random_range(1..nodes.len()));
        self.cluster.split(&nodes, &others);
        self.splits.push((self.cluster.elapsed(), [nodes, others], Duration::MAX));
        self.mend_after(1000, 15_000);
        true
    }

    fn move_clock(&mut self) -> bool {
        let nodes = self.running();
        let most = self.sim.clock_skew.as_millis() as i64;
        let by = self.rng.random_range(-most..=most);
        if let Some(node) = self.pick(&nodes) {
            self.cluster.move_clock(node, by);
        }
        true
    }

    /// Sets the clock of the first node wrong for a while, by seconds, minutes or an hour.
    fn step_clock(&mut self) -> bool {
        if self.stepped.is_some() {
            return false;
        }
        let node = 0;
        // By so much more often than not that what lasts beyond the history expires.
        let by = match self.rng.random_range(0..3) {
            0 => self.rng.random_range(1000..=10_000),
            1 => self.rng.random_range(60_000..=1_200_000),
            _ => 3_600_000,
        };
        let by = by * [1, 1, -1][self.rng.random_range(0..3)];
        self.cluster.move_clock(node, by);
        self.workload.mislead(Some(node));
        let now = self.cluster.elapsed();
        self.stepped =
            Some(Stepped { node, by, since: now, until: now + self.millis(100, 15_000) });
        true
    }

    /// Sets the clock right that was set wrong.
    pub(super) fn step_back(&mut self) {
        if let Some(Stepped { node, by, since, .. }) = self.stepped.take() {
            self.cluster.move_clock(node, -by);
            self.workload.mislead(None);
            self.wrong.push((node, since, self.cluster.elapsed()));
        }
    }

    fn restart_quickly(&mut self) -> bool {
        if !self.may_lose_one() {
            return false;
        }
        if let Some((node, other)) = self.pick_two() {
            // It still reaches a node that knows of the cluster.
            if self.running().len() > 2 && self.rng.random_range(0..4) > 0 {
                self.cluster.split(&[node], &[other]);
                self.mend_after(50, 10_000);
            }
            self.cluster.crash_node(node);
            let wait = self.millis(0, 50);
            self.cluster.run_for(wait);
            self.cluster.restart_node(node);
        }
        true
    }

    /// Begins a write through a node which, while its requests are on their way, crashes or loses
    /// the connections of its cores to all other nodes.
    fn lose_writer(&mut self) -> bool {
        let nodes = self.callable();
        let Some(node) = self.pick(&nodes) else { return true };
        let crashes = !matches!(self.profile, Profile::Strong | Profile::Weak)
            && self.rng.random_range(0..3) == 0
            && self.may_lose_one();
        if crashes && !self.can_spare() {
            return false;
        }
        let key = self.rng.random_range(0..self.workload.options().keys);
        let others: Vec<usize> = nodes.into_iter().filter(|other| *other != node).collect();
        if !crashes {
            self.cut_some(node, &others);
        }
        for writer in self.choose_writers(node, &others) {
            self.workload.write_through(&mut self.cluster, writer, key);
        }
        let until = self.cluster.elapsed() + self.millis(100, 1500);
        self.workload.watch(key, until);
        let wait = Duration::from_micros(self.rng.random_range(0..1500));
        self.cluster.run_for(wait);
        if crashes {
            self.cluster.crash_node(node);
        } else {
            for other in others {
                self.cluster.cut(node, other);
            }
        }
        true
    }

    /// Cuts a node off from some of the others: some of its requests arrive, some do not.
    fn cut_some(&mut self, node: usize, others: &[usize]) {
        for &other in others {
            if self.rng.random_range(0..5) < 2 {
                self.cluster.cut(node, other);
            }
        }
        self.mend_after(500, 5000);
    }

    /// Returns `node`, and in every other case one more that writes the same key at the same time:
    /// two contents of one version, if their clocks agree. Either might be the one that stays.
    fn choose_writers(&mut self, node: usize, others: &[usize]) -> Vec<usize> {
        let mut writers = vec![node];
        if self.rng.random_range(0..2) == 0 {
            writers.extend(self.pick(others));
            let first = self.rng.random_range(0..writers.len());
            writers.rotate_left(first);
        }
        writers
    }

    /// Starts three nodes and lets those that were there leave, while one of them hears of it late.
    fn replace_all(&mut self) -> bool {
        if !self.leaving_is_over() || self.running().len() > 4 {
            return false;
        }
        let old = self.staying();
        self.cluster.set_loss(100, 5);
        self.calm_after(1000, 6000);
        if let Some(late) = self.pick(&old) {
            let slow = self.millis(200, 1000);
            for &node in old.iter().filter(|node| **node != late) {
                self.cluster.slow_down(node, late, slow / 2, slow);
            }
            self.mend_after(500, 3000);
        }
        self.start_replacements(&old);
        for node in old {
            let wait = self.millis(0, 1500);
            self.cluster.run_for(wait);
            if self.cluster.is_running(node) {
                self.leaving.insert(node);
                self.cluster.leave(node);
            }
        }
        true
    }

    fn start_replacements(&mut self, old: &[usize]) {
        for _ in 0..3 {
            let new = self.cluster.start_node();
            if self.rng.random_range(0..2) == 0 {
                let wait = self.millis(0, 500);
                self.cluster.run_for(wait);
            }
            if let Some(late) = self.pick(old)
                && self.cluster.is_running(late)
            {
                let slow = self.millis(100, 500);
                self.cluster.slow_down(new, late, slow / 2, slow);
            }
        }
    }
}
