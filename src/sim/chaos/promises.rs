//! What must come true once the faults are over.
//!
//! | promise | checked by |
//! |---|---|
//! | every call ended in time | [`checks::answered`] |
//! | reads found what was written | [`checks::reads`] |
//! | of the sides of a network partition no more than one serves a key | `check_majority` |
//! | keys are linearizable with R ≥ 2, until their lists fork | [`checks::linearizable`] |
//! | N copies are there within a minute | `settle` |
//! | nothing is under way or owed | `check_queues` |
//! | all copies are equal after two cycles of anti-entropy | `wait_for_equal_copies` |
//! | what was acknowledged is there | [`checks::durability`] |
//! | what was acknowledged is never "not found" | [`checks::misses`] |
//! | "safe" means W copies of everything | [`checks::safe`] |
//! | a node leaves when others have what it holds | `judge_leaves` |
//! | however full, keys are deleted, and then it is safe again | `make_room`, `check_safe_again` |
//!
//! Where trouble lasts to the end, these too:
//!
//! | promise | checked by |
//! |---|---|
//! | a node writes what W members hold that it, and each other, reach | `check_availability` |
//! | at rest no node is taken for dead, and little is sent | `check_rest` |
//! | tombstones are forgotten | `check_purged` |

use std::collections::BTreeMap;
use std::time::Duration;

use super::lasting::Lasting;
use super::report::Linearizable;
use super::{Chaos, Profile, Summary};
use crate::options::Quorum;
use crate::sim::checks::{self, Verdict, Violation};
use crate::sim::workload::{Answer, Kind, Operation, value_number};
use crate::sim::{CALL_TIMEOUT, SimCluster};
use crate::wire::timing::{COMPARE_CYCLE, HINT_WINDOW, OFFERED_AGAIN_AFTER, is_longer};

/// Within this time all copies of a data center are equal: two cycles of comparing everything, and
/// time to repair.
const EQUAL_WITHIN: Duration = Duration::from_secs(150);

const _: () = assert!(is_longer(EQUAL_WITHIN, COMPARE_CYCLE.saturating_mul(2)));

/// The first replica alone compares with other data centers, which takes another cycle once it has
/// what another one had alone.
const FAR_EQUAL_WITHIN: Duration = EQUAL_WITHIN.saturating_add(COMPARE_CYCLE);

/// Within this time every acknowledged write is with every replica, once all replicas are there.
const PAID_WITHIN: Duration = Duration::from_secs(5);

/// How late an answer may come.
const SLACK: Duration = Duration::from_millis(100);

/// How long a node's pause is waited out; all of them are shorter.
const PAUSED_AT_MOST: Duration = Duration::from_secs(60);

/// Within this time after the last fault that ends everything can be written of which W replicas
/// can be reached.
const AVAILABLE_WITHIN: Duration = Duration::from_secs(20);

/// Within this time those of the list that live and reach each other are replicas. Where no quorum
/// is left, a member that is silent and not dead is waited for twice: ten seconds until a list is
/// made without it, and ten more until a newcomer opens that.
const REPLICAS_WITHIN: Duration = Duration::from_secs(40);

/// For how long nothing happens while rest is judged, and how many events there may be for each
/// node: messages, timers, and messages between threads. Anti-entropy and pings make most of them.
const REST: Duration = Duration::from_secs(60);
const MOST_EVENTS_AT_REST: u64 = 15_000;

/// Within this time after all copies are equal nothing is left of deleted keys: three cycles of
/// anti-entropy, which agreeing on it takes at the longest.
const PURGED_WITHIN: Duration = Duration::from_secs(240);

/// By how much a clock is set wrong at most.
const STEPPED_BY: Duration = Duration::from_secs(3600);

/// A time to live is counted in whole milliseconds.
const CLOCK_TICK: Duration = Duration::from_millis(1);

/// How many writes of a key a failure shows whose copies differ.
const WRITES_SHOWN: usize = 8;

impl Chaos {
    /// Ends the faults, and checks everything that is promised.
    pub(super) fn heal(&mut self) -> Result<Summary, Violation> {
        self.calm();
        self.wait_for_paused();
        let mut healed = self.cluster.elapsed();
        self.workload.drain(&mut self.cluster, CALL_TIMEOUT + 10 * SLACK);
        let lives =
            self.running().into_iter().map(|node| (node, self.cluster.life(node))).collect();
        checks::answered(self.workload.history(), &lives, CALL_TIMEOUT, SLACK)?;
        self.workload.excuse_misses(&self.wrong);
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        checks::reads(self.workload.history(), self.order)?;
        if self.sim.data_centers == 1 {
            let at_risk_since = |key| self.cluster.at_risk_since(self.name(key));
            checks::misses(self.workload.history(), at_risk_since)?;
        }
        self.check_majority()?;
        let linearizable = self.check_linearizable()?;
        if self.rests {
            self.check_availability(healed)?;
        }
        if self.profile == Profile::Full {
            self.make_room()?;
            healed = self.cluster.elapsed();
        }
        let is_whole = self.becomes_whole();
        if is_whole {
            self.settle("N copies are there again once the faults are over")?;
        } else {
            const PROMISE: &str = "all nodes see each other again once the faults are over";
            self.reach(PROMISE, SimCluster::see_each_other)?;
        }
        let settled_after = self.cluster.elapsed().saturating_sub(healed);
        if is_whole {
            self.check_queues()?;
            if self.profile == Profile::Full {
                self.check_safe_again()?;
            }
            self.wait_for_equal_copies(healed)?;
        }
        let equal_after = self.cluster.elapsed().saturating_sub(healed);
        self.wait_for_durability(healed)?;
        if self.rests && is_whole {
            self.check_rest()?;
            if !self.is_parted_pair() {
                self.check_purged()?;
            }
        }
        Ok(Summary {
            profile: self.profile,
            simulated: self.cluster.elapsed(),
            events: self.cluster.events_handled(),
            operations: self.workload.history().operations.len(),
            answered: self.answered(),
            refused: self.refused(),
            linearizable,
            settled_after,
            equal_after,
            faults: self.count_faults(),
            trace_hash: self.cluster.trace_hash(),
        })
    }

    /// Some time after the last change every node that is not asked to leave can write each key of
    /// which it reaches W replicas; later also each of which it reaches W members of the list that
    /// reach each other, as these must be replicas by then.
    fn check_availability(&mut self, healed: Duration) -> Result<(), Violation> {
        self.wait_since(healed, AVAILABLE_WITHIN);
        let reaches = |chaos: &Self, node, key| chaos.reaches_replicas(node, key);
        let others = self.check_written(reaches)?;
        if others == 0 {
            return Ok(());
        }
        self.wait_since(healed, REPLICAS_WITHIN);
        let should = |chaos: &Self, node, key| {
            chaos.reaches_replicas(node, key) || chaos.reaches_members(node, key)
        };
        self.check_written(should).map(|_| ())
    }

    fn wait_since(&mut self, healed: Duration, time: Duration) {
        self.cluster.run_for((healed + time).saturating_sub(self.cluster.elapsed()));
    }

    /// Writes keys through nodes where that `should` succeed. Returns how often it need not.
    fn check_written(
        &mut self,
        should: impl Fn(&Self, usize, usize) -> bool,
    ) -> Result<usize, Violation> {
        const PROMISE: &str = "a node that reaches W replicas of a key can write it";
        let begun = self.workload.history().operations.len();
        let mut others = 0;
        for node in self.staying() {
            if self.is_half_dead(node) {
                continue;
            }
            let keys = self.workload.options().keys;
            // What the clients wrote is judged later. In a full cluster only a key that is there
            // has room.
            let first = if self.profile == Profile::Full { 0 } else { keys };
            for key in first..first + keys {
                if should(self, node, key) {
                    self.workload.write_through(&mut self.cluster, node, key);
                } else {
                    others += 1;
                }
            }
            self.workload.drain(&mut self.cluster, CALL_TIMEOUT + 10 * SLACK);
        }
        let writes = &self.workload.history().operations[begun..];
        match writes.iter().find(|write| !write.is_acknowledged()) {
            None => Ok(others),
            Some(failed) => {
                let count = writes.iter().filter(|write| !write.is_acknowledged()).count();
                let what = format!("{count} of {} writes failed", writes.len());
                let operations = vec![failed.clone()];
                let key = Some(failed.key);
                Err(Violation { key, operations, ..Violation::general(PROMISE, what) })
            }
        }
    }

    fn reaches_replicas(&self, node: usize, key: usize) -> bool {
        let replicas = self.cluster.replicas(self.name(key));
        let reached = replicas.iter().filter(|(to, _)| self.reaches(node, *to)).count();
        reached >= self.sim.quorums().write.count(replicas.len())
    }

    fn reaches_members(&self, node: usize, key: usize) -> bool {
        let quorums = self.sim.quorums();
        let data_center = node % self.sim.data_centers;
        let (members, running) = self.cluster.members(self.name(key), data_center);
        let needed = quorums.write.count(members).max(quorums.versions_needed());
        members > 0 && self.joined(node, &running) >= needed
    }

    /// While nothing changes no living node is taken for dead, and little happens.
    fn check_rest(&mut self) -> Result<(), Violation> {
        // With fewer nodes than copies it is never safe, and a node that waits for that asks often.
        if self.safety_asked.iter().any(|(node, ticket)| !self.cluster.is_safe(*node, *ticket)) {
            let at = self.asked_until;
            self.cluster.run_for(at.saturating_sub(self.cluster.elapsed()));
        }
        let (deaths, events) = (self.cluster.deaths().len(), self.cluster.events_handled());
        self.cluster.run_for(REST);
        if let Some(death) = self.cluster.deaths()[deaths..].iter().find(|death| death.is_false) {
            const PROMISE: &str = "no living node is taken for dead while nothing changes";
            return Err(Violation::general(PROMISE, format!("{death:?}")));
        }
        let events = self.cluster.events_handled() - events;
        let most = MOST_EVENTS_AT_REST * self.running().len() as u64;
        if events > most {
            let what = format!("{events} events in {REST:?}, {most} at most");
            return Err(Violation::general("little is sent while nothing changes", what));
        }
        Ok(())
    }

    /// Whether two nodes are left that do not reach each other: no third passes their questions on.
    fn is_parted_pair(&self) -> bool {
        matches!(*self.running(), [one, other] if !self.reaches(one, other))
    }

    /// Nothing is left of keys that are deleted.
    fn check_purged(&mut self) -> Result<(), Violation> {
        let left = |chaos: &Self| {
            let deleted = |key: &usize| {
                let stored = chaos.cluster.stored(chaos.name(*key));
                stored.iter().any(|stored| stored.value.is_none())
            };
            (0..chaos.workload.options().keys).find(deleted)
        };
        let until = self.cluster.elapsed() + PURGED_WITHIN;
        while let Some(key) = left(self) {
            if self.cluster.elapsed() > until {
                let what = format!("not within {PURGED_WITHIN:?}");
                let general = Violation::general("deleted keys are forgotten", what);
                return Err(Violation { key: Some(key), ..general });
            }
            self.cluster.run_for(Duration::from_secs(1));
        }
        Ok(())
    }

    fn wait_for_paused(&mut self) {
        for node in self.running() {
            let from = self.cluster.elapsed();
            while self.cluster.stands_still(node) && self.cluster.elapsed() < from + PAUSED_AT_MOST
            {
                self.cluster.run_for(Duration::from_millis(100));
            }
        }
    }

    /// How many operations were acknowledged, or found an answer.
    fn answered(&self) -> usize {
        let has_answer = |operation: &&Operation| match operation.kind {
            Kind::Get => operation.answer.is_some_and(|answer| answer != Answer::Failed),
            _ => operation.is_acknowledged(),
        };
        self.workload.history().operations.iter().filter(has_answer).count()
    }

    /// How many writes were refused before anything had happened.
    fn refused(&self) -> usize {
        let is_refused = |operation: &&Operation| operation.answer == Some(Answer::NotApplied);
        self.workload.history().operations.iter().filter(is_refused).count()
    }

    fn count_faults(&self) -> BTreeMap<&'static str, usize> {
        let mut faults = BTreeMap::new();
        for fault in self.cluster.faults() {
            *faults.entry(fault.kind).or_default() += 1;
        }
        faults
    }

    /// While the network is in two, no two sides acknowledge writes of one key that began then, nor
    /// answer reads of it with R ≥ 2.
    fn check_majority(&self) -> Result<(), Violation> {
        const PROMISE: &str = "of the sides of a network partition no more than one serves a key";
        let is_strong = self.sim.read_quorum >= 2;
        let counts = |it: &&Operation| match it.answer {
            Some(Answer::Acknowledged) => true,
            Some(Answer::Found(_) | Answer::NotFound) => is_strong,
            _ => false,
        };
        let operations = self.workload.history().operations.iter();
        let served: Vec<&Operation> = operations.filter(counts).collect();
        for (from, sides, until) in &self.splits {
            let during =
                |it: &&&Operation| it.start >= *from && it.end.is_some_and(|end| end <= *until);
            let mut first: BTreeMap<usize, &Operation> = BTreeMap::new();
            for operation in served.iter().filter(during) {
                let side = |of: &Operation| sides[0].contains(&of.node);
                let first = first.entry(operation.key).or_insert(operation);
                if side(first) != side(operation) {
                    let what = format!("the network fell into {sides:?} at {from:?}");
                    let operations = vec![(*first).clone(), (*operation).clone()];
                    let general = Violation::general(PROMISE, what);
                    return Err(Violation { key: Some(operation.key), operations, ..general });
                }
            }
        }
        Ok(())
    }

    /// Checks that every key is linearizable for which that is promised: where R ≥ 2, and until the
    /// lists of its partition fork, or acknowledged writes might be lost.
    fn check_linearizable(&mut self) -> Result<Linearizable, Violation> {
        let mut found = Linearizable::default();
        // Where R = 1 is configured, writes do not ask for versions first. Then a call that asks
        // for more replicas sees each acknowledged write, but a write may take effect twice.
        if !self.sim.is_strong(Quorum::Configured) || self.sim.data_centers > 1 {
            return Ok(found);
        }
        self.read_all();
        let is_judged = |it: &&Operation| it.kind != Kind::Get || self.sim.is_strong(it.quorum);
        let wrong_by = if self.wrong.is_empty() { Duration::ZERO } else { STEPPED_BY };
        let clocks_apart = 2 * self.sim.clock_skew + CLOCK_TICK + wrong_by;
        for key in 0..self.workload.options().keys {
            let name = self.name(key);
            let parted_since = self.cluster.parted_since(name);
            let mut all = self.workload.history().of_key(key);
            all.retain(is_judged);
            let known = parted_since.map(|at| checks::linearizable_until(&all, at));
            let operations = known.as_ref().map_or(all, |known| known.iter().collect());
            match checks::linearizable(&operations, clocks_apart) {
                Verdict::Linearizable => found.keys += 1,
                Verdict::Undecided => found.undecided += 1,
                Verdict::Not(violation) => return Err(violation),
            }
            found.parted += usize::from(parted_since.is_some());
            found.over_changes += usize::from(self.cluster.list_number(name) > self.lists[key]);
        }
        Ok(found)
    }

    /// Reads each key once more through some node, so that the last writes are judged, too.
    fn read_all(&mut self) {
        let nodes = self.callable();
        for key in 0..self.workload.options().keys {
            if let Some(node) = self.pick(&nodes) {
                self.workload.read_through(&mut self.cluster, node, key, Quorum::Majority);
            }
        }
        self.workload.drain(&mut self.cluster, CALL_TIMEOUT + 10 * SLACK);
    }

    fn converged(&self) -> Result<(), Violation> {
        let running = self.running();
        let of = |data_center| {
            running.iter().filter(|node| **node % self.sim.data_centers == data_center).count()
        };
        let wanted = self.sim.quorums().replicas;
        let copies = (0..self.sim.data_centers).map(|it| wanted.copies(of(it))).sum();
        for key in 0..self.workload.options().keys {
            let serving = self.cluster.replicas(self.name(key));
            let mut stored = self.cluster.stored(self.name(key));
            if self.profile == Profile::Clocks {
                // What has expired for one node lives for another, to the end.
                stored.iter_mut().for_each(|copy| copy.value = None);
            }
            checks::converged(key, &serving, &stored, copies)?;
        }
        Ok(())
    }

    /// Whether every node holds what it should in the end. What a half-dead one holds cannot be
    /// whole, nor equal.
    fn becomes_whole(&self) -> bool {
        self.lasting != Lasting::Cores
    }

    fn equal_within(&self) -> Duration {
        if self.sim.data_centers > 1 { FAR_EQUAL_WITHIN } else { EQUAL_WITHIN }
    }

    fn wait_for_equal_copies(&mut self, healed: Duration) -> Result<(), Violation> {
        loop {
            match self.converged() {
                Ok(()) => return Ok(()),
                Err(violation) if self.cluster.elapsed() > healed + self.equal_within() => {
                    // What is stored tells less than what happened.
                    let history = self.workload.history();
                    let of_key = violation.key.map(|key| history.of_key(key)).unwrap_or_default();
                    let writes = of_key.iter().filter(|operation| operation.may_have_happened());
                    let mut last: Vec<Operation> =
                        writes.rev().take(WRITES_SHOWN).map(|it| (*it).clone()).collect();
                    last.reverse();
                    return Err(Violation { operations: last, ..violation });
                }
                Err(_) => self.cluster.run_for(Duration::from_millis(500)),
            }
        }
    }

    /// What was acknowledged is there. Where all copies are equal it is there at once; a node that
    /// met the others again a moment ago still brings theirs to the newest list.
    fn wait_for_durability(&mut self, healed: Duration) -> Result<(), Violation> {
        loop {
            let judged = checks::durability(self.workload.history(), &self.values(), self.order);
            let is_over = self.cluster.elapsed() > healed + self.equal_within();
            if judged.is_ok() || self.becomes_whole() || is_over {
                return judged;
            }
            self.cluster.run_for(Duration::from_millis(500));
        }
    }

    /// Returns the value of each key in the end: the newest that its replicas have. Those of a
    /// half-dead node do not count: it never hears of another list, so it takes itself for a
    /// replica to the end, and its copies stay as they were.
    fn values(&self) -> BTreeMap<usize, u64> {
        let value = |key: usize| {
            let stored = self.cluster.stored(self.name(key)).into_iter();
            let counts = stored.filter(|copy| copy.is_synced && !self.is_half_dead(copy.node));
            let newest = counts.max_by_key(|copy| copy.version)?;
            Some((key, value_number(&newest.value?)))
        };
        (0..self.workload.keys().len()).filter_map(value).collect()
    }

    /// Long after the last call nothing is under way, and nothing is owed.
    fn check_queues(&mut self) -> Result<(), Violation> {
        let is_idle = |cluster: &SimCluster| {
            (0..cluster.nodes())
                .all(|node| !cluster.is_running(node) || cluster.open_calls(node) == (0, 0))
        };
        // A replica that this node never reaches is offered a write until the window ends. One
        // whose answer got lost while the connection stayed is asked again before.
        let is_parted = matches!(self.lasting, Lasting::Pair { .. });
        let is_unanswered = self.cluster.faults().iter().any(|fault| fault.kind == "swallow");
        let longer = match (is_parted, is_unanswered) {
            (true, _) => HINT_WINDOW,
            (false, true) => OFFERED_AGAIN_AFTER,
            (false, false) => Duration::ZERO,
        };
        if self.cluster.run_until(PAID_WITHIN + longer, is_idle) {
            return Ok(());
        }
        let open = self.running().into_iter().map(|node| (node, self.cluster.open_calls(node)));
        let what = format!("by node, calls and writes owed: {:?}", open.collect::<Vec<_>>());
        Err(Violation::general("nothing is under way or owed in the end", what))
    }
}
