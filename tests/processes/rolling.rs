//! Clusters of processes that are restarted, killed and paused under load: what was acknowledged
//! stays, and callers of the other nodes notice nothing.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::load::Load;
use crate::support::process::{NodeProcess, cluster};

/// How many times a test does what it does: as often as `GRIDKV_ROUNDS` says.
fn rounds(default: usize) -> usize {
    std::env::var("GRIDKV_ROUNDS").map_or(default, |text| text.parse().expect("a number"))
}

/// Three nodes, and their flags.
pub(crate) struct Three {
    pub(crate) nodes: Vec<NodeProcess>,
    pub(crate) flags: Vec<String>,
}

impl Three {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let nodes = cluster(3, flags);
        Self { nodes, flags: flags.iter().map(|flag| (*flag).to_owned()).collect() }
    }

    /// Starts a node again, at its address. It is another life of it.
    fn restart(&self, slot: usize) -> NodeProcess {
        let address = self.nodes[slot].seed();
        let seeds: Vec<String> =
            self.nodes.iter().map(NodeProcess::seed).filter(|seed| *seed != address).collect();
        let mut flags = vec!["--address", &address];
        seeds.iter().for_each(|seed| flags.extend(["--seed", seed]));
        flags.extend(self.flags.iter().map(String::as_str));
        NodeProcess::start(["a", "b", "c"][slot], &flags)
    }

    /// Each node leaves and comes back, one at a time.
    pub(crate) fn roll(&mut self, load: &Load) {
        for slot in 0..3 {
            load.wait_writes(2);
            load.may_fail(slot);
            self.nodes[slot].ok_beside("leave 30000");
            load.close(slot);
            self.nodes[slot].ok("quit");
            self.nodes[slot].wait_gone();
            self.come_back(load, slot);
        }
    }

    /// A node is killed and started again at once, nothing is waited for. How long it was away.
    pub(crate) fn kill(&mut self, load: &Load, slot: usize) -> Duration {
        load.may_fail(slot);
        // In the middle of the calls that it coordinates.
        self.nodes[slot].signal("-KILL");
        let begun = Instant::now();
        self.nodes[slot].wait_gone();
        load.close(slot);
        self.nodes[slot] = self.restart(slot);
        let away = begun.elapsed();
        self.serve_again(load, slot);
        away
    }

    fn come_back(&mut self, load: &Load, slot: usize) {
        self.nodes[slot] = self.restart(slot);
        self.serve_again(load, slot);
    }

    fn serve_again(&mut self, load: &Load, slot: usize) {
        self.nodes[slot].ok("wait-ready 20000");
        load.open(slot, &self.nodes[slot]);
        // Any node will do.
        let answer = self.nodes[(slot + 1) % 3].ask_beside("wait-safe 20000");
        assert_eq!(answer, "ok");
        load.check();
    }

    /// Asserts that every acknowledged write is there. The clients have ended.
    pub(crate) fn check_nothing_lost(&mut self, load: &Load) {
        self.nodes[0].ok("wait-safe 20000");
        load.check_nothing_lost(&mut self.nodes);
    }
}

fn roll_rounds(what: &str, flags: &[&'static str], is_strong: bool, rounds: usize) {
    let mut three = Three::start(flags);
    let load = Load::new(&three.nodes, is_strong);
    let mut times = Vec::new();
    load.during(|| {
        for _ in 0..rounds {
            let begun = Instant::now();
            three.roll(&load);
            times.push(begun.elapsed());
        }
        load.wait_writes(1);
    });
    three.check_nothing_lost(&load);
    report(what, &mut times, &load);
}

/// The median, and the longest.
fn report(what: &str, times: &mut [Duration], load: &Load) {
    times.sort();
    if let Some(longest) = times.last() {
        println!(
            "{what}: {} rounds, {:.1?} each, at most {longest:.1?}",
            times.len(),
            times[times.len() / 2]
        );
    }
    println!("{what}: {}", load.figures());
}

#[test]
fn a_rolling_restart_loses_nothing() {
    roll_rounds("rolling restart", &[], false, rounds(2));
}

#[test]
fn a_rolling_restart_is_not_noticed_by_strong_reads() {
    roll_rounds("rolling restart, R = 2", &["--read-quorum", "2"], true, rounds(2));
}

/// With N = 1, no other node has what a node holds until it leaves.
#[test]
fn a_rolling_restart_loses_nothing_of_which_there_is_one_copy() {
    roll_rounds("rolling restart, N = 1", &["--replicas", "1"], true, rounds(2));
}

fn kill_rounds(what: &str, flags: &[&'static str], is_strong: bool, rounds: usize) {
    let mut three = Three::start(flags);
    let load = Load::new(&three.nodes, is_strong);
    let mut times = Vec::new();
    load.during(|| {
        for _ in 0..rounds {
            load.wait_writes(2);
            // The next one as soon as it is safe, and no later.
            for slot in 0..3 {
                times.push(three.kill(&load, slot));
            }
        }
        load.wait_writes(1);
    });
    three.check_nothing_lost(&load);
    report(what, &mut times, &load);
}

#[test]
fn who_is_killed_and_starts_again_before_anybody_notices_costs_nothing() {
    kill_rounds("killed and restarted", &[], false, rounds(1));
}

#[test]
fn strong_reads_do_not_notice_who_is_killed_and_starts_again() {
    kill_rounds("killed and restarted, R = 2", &["--read-quorum", "2"], true, rounds(1));
}

/// A node sleeps for a while under load; as soon as it wakes up, another one dies.
fn pause_rounds(what: &str, flags: &[&'static str], rounds: usize) {
    let mut three = Three::start(flags);
    let load = Load::new(&three.nodes, false);
    let mut times = Vec::new();
    load.during(|| {
        for round in 0..rounds {
            let (sleeper, victim) = (round % 3, (round + 1) % 3);
            load.wait_writes(2);
            // Calls through a node that sleeps wait, and are made too late.
            load.may_fail(sleeper);
            three.nodes[sleeper].pause();
            // This is what the test is about, and no condition.
            thread::sleep(Duration::from_secs(3));
            three.nodes[sleeper].resume();
            times.push(three.kill(&load, victim));
            load.open(sleeper, &three.nodes[sleeper]);
        }
        load.wait_writes(1);
    });
    three.check_nothing_lost(&load);
    report(what, &mut times, &load);
}

#[test]
fn who_sleeps_and_is_missed_by_nobody_costs_nothing_when_another_dies() {
    pause_rounds("paused for 3 s", &[], rounds(1));
}

#[test]
fn who_sleeps_and_is_taken_for_dead_costs_nothing_when_another_dies() {
    pause_rounds(
        "paused for 3 s and declared dead",
        &["--suspicion-timeout-ms", "1000"],
        rounds(1),
    );
}
