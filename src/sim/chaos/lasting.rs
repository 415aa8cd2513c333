//! Trouble that is never mended, and what is judged while it goes on.

use std::time::Duration;

use super::Chaos;
use crate::sim::checks::{self, Safety};

/// What is wrong to the end of a schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lasting {
    Nothing,
    /// The nodes of all data centers but the first do not reach those of each other.
    Spokes,
    /// Two nodes do not reach each other.
    Pair {
        /// Since before the cluster is born.
        from_the_start: bool,
        /// Gossip gets through.
        cores_alone: bool,
        /// Only what the first sends to the second is lost.
        one_way: bool,
    },
    /// The cores of one node neither reach those of any other, nor are reached.
    Cores,
}

/// More nodes than a schedule starts.
const MORE_THAN_ALL: usize = 64;

/// For how long a node that was asked whether it is safe may answer.
const SAFE_WITHIN: Duration = Duration::from_secs(120);

/// How long a round of questions takes at most, until the answers that make it safe are here.
const ROUND: Duration = Duration::from_secs(1);

impl Chaos {
    /// Chooses whom it strikes, if it begins now: before the first node starts, or when the cluster
    /// is whole.
    pub(super) fn begin_lasting(&mut self, is_before_birth: bool) {
        let begins_before = match self.lasting {
            Lasting::Nothing => return,
            Lasting::Spokes => true,
            Lasting::Pair { from_the_start, .. } => from_the_start,
            Lasting::Cores => false,
        };
        if begins_before != is_before_birth {
            return;
        }
        self.struck = if is_before_birth { Some((0, self.nodes - 1)) } else { self.pick_two() };
        self.apply_lasting();
    }

    /// Does it again, after everything was mended or a node has joined.
    pub(super) fn apply_lasting(&mut self) {
        let Some((one, other)) = self.struck else { return };
        match self.lasting {
            Lasting::Nothing => {}
            Lasting::Spokes => self.part_spokes(),
            Lasting::Pair { cores_alone, one_way, .. } => {
                let ways = [(one, other), (other, one)];
                for (from, to) in ways.into_iter().take(if one_way { 1 } else { 2 }) {
                    if cores_alone {
                        self.cluster.cut(from, to);
                    } else {
                        self.cluster.block(from, to);
                    }
                }
            }
            Lasting::Cores => self.cluster.cut_off_cores(one),
        }
    }

    fn part_spokes(&mut self) {
        let sites = self.sim.data_centers;
        let of = |site: usize| -> Vec<usize> {
            (0..MORE_THAN_ALL).filter(|node| node % sites == site).collect()
        };
        for one in 1..sites {
            for other in one + 1..sites {
                self.cluster.split(&of(one), &of(other));
            }
        }
    }

    /// Whether a node's cores can do nothing for others, to the end.
    pub(super) fn is_half_dead(&self, node: usize) -> bool {
        self.lasting == Lasting::Cores && self.struck.is_some_and(|(struck, _)| struck == node)
    }

    /// Whether requests of one node reach another one, to the end.
    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        let is_parted = match self.lasting {
            Lasting::Nothing => false,
            Lasting::Pair { .. } => {
                self.struck.is_some_and(|pair| pair == (from, to) || pair == (to, from))
            }
            Lasting::Cores => self.is_half_dead(from) || self.is_half_dead(to),
            // A write is acknowledged by the data center of its node.
            Lasting::Spokes => from % self.sim.data_centers != to % self.sim.data_centers,
        };
        from == to || !is_parted
    }

    /// Returns how many of `others` a node reaches that reach each other, too.
    pub(super) fn joined(&self, node: usize, others: &[usize]) -> usize {
        let reached: Vec<usize> =
            others.iter().copied().filter(|other| self.reaches(node, *other)).collect();
        // The one pair that is parted, if both of it are among them.
        let is_parted = |one: &usize| reached.iter().any(|other| !self.reaches(*one, *other));
        reached.len() - usize::from(reached.iter().any(is_parted))
    }

    /// Asks a node when it is safe to stop one.
    pub(super) fn ask_safety(&mut self, node: usize) {
        let ticket = self.cluster.watch_safety(node, SAFE_WITHIN);
        self.safety_asked.push((node, ticket));
        self.asked_until = self.cluster.elapsed() + SAFE_WITHIN;
    }

    /// Judges the copies at the moment at which a node says that it is safe.
    pub(super) fn judge_safety(&mut self) {
        if self.sim.data_centers > 1 || self.broken.is_some() {
            return self.safety_asked.clear();
        }
        let cluster = &self.cluster;
        self.safety_asked.retain(|(node, _)| cluster.is_running(*node));
        let asked = self.safety_asked.len();
        self.safety_asked.retain(|(node, ticket)| !cluster.is_safe(*node, *ticket));
        // It was safe when the nodes answered: one that crashed since had its copies.
        if self.safety_asked.len() == asked || self.cluster.has_just_crashed(ROUND) {
            return;
        }
        self.judge_copies();
    }

    /// Judges whether W nodes have each acknowledged write, or a newer one.
    pub(super) fn judge_copies(&mut self) {
        let running = self.running().len();
        let copies = self.sim.quorums().write.count(running);
        let history = self.workload.history();
        let safety = Safety { history, copies, running, apart: self.apart };
        let judge = |key| checks::safe(&safety, key, &self.cluster.stored(self.name(key)));
        self.broken = (0..self.workload.options().keys).find_map(|key| judge(key).err());
    }
}
