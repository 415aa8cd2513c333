//! Clients of processes, which know what was acknowledged, and what must not happen to them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::process::{Client, Door, NodeProcess};
use super::{Dice, wait_until};

/// Held by each [`Load`], and alone by tests that say how soon a call ends.
static LOADS: RwLock<()> = RwLock::new(());

/// Waits until no test loads its nodes, and keeps others from it until the guard is dropped.
pub(crate) fn without() -> RwLockWriteGuard<'static, ()> {
    LOADS.write().unwrap_or_else(PoisonError::into_inner)
}

/// At each node: who writes, each of them some keys of its own, and who reads any key.
const WRITERS: usize = 2;
const READERS: usize = 1;
const KEYS_PER_WRITER: usize = 8;

/// A node as its clients see it.
struct NodeSlot {
    /// The way in for clients. `None` while the node is down.
    door: Option<Door>,
    /// How many lives it has had.
    life: usize,
    /// It has begun to leave, or may be dead: calls through it may fail.
    is_ending: bool,
}

/// Clients at each of some nodes, and what they know. Each key holds numbers that only grow, by one
/// writer.
pub(crate) struct Load {
    _turn: RwLockReadGuard<'static, ()>,
    slots: Vec<Mutex<NodeSlot>>,
    keys: Vec<WrittenKey>,
    /// Whether reads see all that was acknowledged before them.
    is_strong: bool,
    has_ended: AtomicBool,
    /// Any call may fail, and its client stays at its node.
    is_pardoned: AtomicBool,
    /// What must not happen, and did.
    wrongs: Mutex<Vec<String>>,
    writes: AtomicU64,
    reads: AtomicU64,
    /// Calls that failed through nodes that were ending.
    excused: AtomicU64,
    /// The longest that a call took through any other node, in microseconds.
    longest_us: AtomicU64,
}

#[derive(Default)]
struct WrittenKey {
    /// The last number that a write was begun of, and that one was acknowledged of.
    tried: AtomicU64,
    acked: AtomicU64,
}

/// A client's way to the nodes: to its own, and to the others while that one is down.
struct Way<'a> {
    load: &'a Load,
    name: String,
    home: usize,
    /// The node at which it is, and in which of its lives.
    at: Option<(usize, usize, Client)>,
    /// How many lives of each node it has given up.
    given_up: Vec<usize>,
}

impl Load {
    pub(crate) fn new(nodes: &[NodeProcess], is_strong: bool) -> Self {
        let slot = |node: &NodeProcess| {
            Mutex::new(NodeSlot { door: Some(node.door()), life: 1, is_ending: false })
        };
        let keys = nodes.len() * WRITERS * KEYS_PER_WRITER;
        Self {
            _turn: LOADS.read().unwrap_or_else(PoisonError::into_inner),
            slots: nodes.iter().map(slot).collect(),
            keys: (0..keys).map(|_| WrittenKey::default()).collect(),
            is_strong,
            has_ended: AtomicBool::new(false),
            is_pardoned: AtomicBool::new(false),
            wrongs: Mutex::default(),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            excused: AtomicU64::new(0),
            longest_us: AtomicU64::new(0),
        }
    }

    /// Runs the clients for as long as `body` takes.
    pub(crate) fn during(&self, body: impl FnOnce()) {
        thread::scope(|scope| {
            for home in 0..self.slots.len() {
                for number in 0..WRITERS {
                    let first = (home * WRITERS + number) * KEYS_PER_WRITER;
                    let keys = first..first + KEYS_PER_WRITER;
                    scope.spawn(move || Way::new(self, format!("w{number}"), home).write(keys));
                }
                for number in 0..READERS {
                    let dice = Dice((home * READERS + number) as u64);
                    scope.spawn(move || Way::new(self, format!("r{number}"), home).read(dice));
                }
            }
            let _end = End(self);
            body();
        });
        self.check();
    }

    fn slot(&self, slot: usize) -> MutexGuard<'_, NodeSlot> {
        self.slots[slot].lock().unwrap()
    }

    /// From now on calls through this node may fail.
    pub(crate) fn may_fail(&self, slot: usize) {
        self.slot(slot).is_ending = true;
    }

    /// Keeps clients out of this node from now on.
    pub(crate) fn close(&self, slot: usize) {
        self.slot(slot).door = None;
    }

    /// Another life of this node serves.
    pub(crate) fn open(&self, slot: usize, node: &NodeProcess) {
        let mut slot = self.slot(slot);
        *slot = NodeSlot { door: Some(node.door()), life: slot.life + 1, is_ending: false };
    }

    /// Whether calls may fail through any node, from now on. One that is under way at either end
    /// of that time may.
    pub(crate) fn pardon(&self, is_pardoned: bool) {
        self.is_pardoned.store(is_pardoned, Ordering::SeqCst);
    }

    fn is_wrong(&self, what: String) {
        self.wrongs.lock().unwrap().push(what);
    }

    pub(crate) fn check(&self) {
        let wrongs = self.wrongs.lock().unwrap();
        assert!(
            wrongs.is_empty(),
            "{} times, first:\n{}",
            wrongs.len(),
            wrongs[..wrongs.len().min(10)].join("\n")
        );
    }

    /// Waits until each key was written and acknowledged this many times more.
    pub(crate) fn wait_writes(&self, more: u64) {
        let goals: Vec<u64> =
            self.keys.iter().map(|key| key.acked.load(Ordering::SeqCst) + more).collect();
        wait_until("every key is written under load", || {
            self.check();
            self.keys
                .iter()
                .zip(&goals)
                .all(|(key, goal)| key.acked.load(Ordering::SeqCst) >= *goal)
        });
    }

    /// Waits for writes of every key, for at least this long.
    pub(crate) fn go_on(&self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.wait_writes(1);
        }
    }

    /// Asserts that each node has the last acknowledged number of each key, or one that was begun
    /// after it, and that the nodes agree. The clients have ended, and no copy is missing.
    pub(crate) fn check_nothing_lost(&self, nodes: &mut [NodeProcess]) {
        for (number, key) in self.keys.iter().enumerate() {
            let (acked, tried) =
                (key.acked.load(Ordering::SeqCst), key.tried.load(Ordering::SeqCst));
            let found: Vec<u64> = nodes
                .iter_mut()
                .map(|node| {
                    number_of(&node.ask(&format!("get {}", name(number)))).expect("a number")
                })
                .collect();
            assert!(
                found.iter().all(|found| (acked..=tried).contains(found))
                    && found.windows(2).all(|w| w[0] == w[1]),
                "{}: acknowledged up to {acked}, tried up to {tried}, the nodes have {found:?}",
                name(number)
            );
        }
    }

    /// The longest that a call took through a node that was not ending.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.load(Ordering::Relaxed))
    }

    pub(crate) fn figures(&self) -> String {
        format!(
            "{} writes acknowledged, {} reads, {} calls failed through ending nodes, \
             the longest other took {:.1?}",
            self.writes.load(Ordering::Relaxed),
            self.reads.load(Ordering::Relaxed),
            self.excused.load(Ordering::Relaxed),
            self.longest()
        )
    }
}

/// Ends the load, also where the test fails.
struct End<'a>(&'a Load);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::SeqCst);
    }
}

fn name(key: usize) -> String {
    format!("k{key}")
}

/// The number in the answer to a read: zero if the key has no value yet, `None` if the read failed.
fn number_of(answer: &str) -> Option<u64> {
    match answer {
        "none" => Some(0),
        _ => answer.strip_prefix("value ")?.parse().ok(),
    }
}

impl<'a> Way<'a> {
    fn new(load: &'a Load, name: String, home: usize) -> Self {
        let given_up = vec![0; load.slots.len()];
        Self { load, name: format!("{home}{name}"), home, at: None, given_up }
    }

    /// Calls at its own node, or at the next one that serves. `None` where the call failed, which
    /// it may through a node that ends, and nowhere else.
    fn call(&mut self, command: &str) -> Option<String> {
        let was_pardoned = self.load.is_pardoned.load(Ordering::SeqCst);
        self.go_home();
        let Some((slot, life, client)) = &self.at else {
            // None serves: this test ends one at a time.
            self.load.is_wrong(format!("no node serves {command}"));
            return None;
        };
        let (slot, life) = (*slot, *life);
        let begun = Instant::now();
        let answer = client.ask(command);
        let took = begun.elapsed();
        let place = self.load.slot(slot);
        let may_fail = place.is_ending || place.life != life;
        drop(place);
        let is_pardoned = was_pardoned || self.load.is_pardoned.load(Ordering::SeqCst);
        if !may_fail && !is_pardoned {
            self.load.longest_us.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
        }
        if let Some(answer) = answer.as_ref().filter(|answer| !answer.starts_with("failed")) {
            return Some(answer.clone());
        }
        if is_pardoned {
            self.load.excused.fetch_add(1, Ordering::Relaxed);
            // One that fails at once is not tried again at once.
            thread::sleep(Duration::from_millis(10));
        } else if may_fail {
            self.load.excused.fetch_add(1, Ordering::Relaxed);
            self.given_up[slot] = life;
        } else if !self.load.has_ended.load(Ordering::SeqCst) {
            let node = (b'a' + slot as u8) as char;
            self.load.is_wrong(format!(
                "{command} through {node}, which was to serve, after {took:?}: {answer:?}"
            ));
        }
        None
    }

    /// Sees to it that it is at its own node, or else the first that serves and that it has not
    /// given up.
    fn go_home(&mut self) {
        let count = self.load.slots.len();
        for slot in (0..count).map(|step| (self.home + step) % count) {
            let place = self.load.slot(slot);
            if self.given_up[slot] >= place.life {
                continue;
            }
            let Some(door) = &place.door else { continue };
            if self.at.as_ref().is_none_or(|(at, life, _)| (*at, *life) != (slot, place.life)) {
                self.at = Some((slot, place.life, door.client(&self.name)));
            }
            return;
        }
        self.at = None;
    }

    fn goes_on(&self) -> bool {
        !self.load.has_ended.load(Ordering::SeqCst)
    }

    /// Writes the next number of each of its keys in turn, and sometimes reads it back.
    fn write(&mut self, keys: std::ops::Range<usize>) {
        for number in keys.cycle() {
            if !self.goes_on() {
                return;
            }
            let key = &self.load.keys[number];
            let next = key.tried.fetch_add(1, Ordering::SeqCst) + 1;
            if self.call(&format!("set {} {next}", name(number))).is_none() {
                continue;
            }
            key.acked.store(next, Ordering::SeqCst);
            self.load.writes.fetch_add(1, Ordering::Relaxed);
            if next.is_multiple_of(4) {
                let at = self.at.as_ref().map(|(slot, life, _)| (*slot, *life));
                let read = self.call(&format!("get {}", name(number)));
                let is_same = at == self.at.as_ref().map(|(slot, life, _)| (*slot, *life));
                self.check_read(number, read, if is_same { next } else { 0 }, "its own write");
            }
        }
    }

    fn read(&mut self, mut dice: Dice) {
        while self.goes_on() {
            let number = dice.roll(self.load.keys.len() as u64) as usize;
            let acked = self.load.keys[number].acked.load(Ordering::SeqCst);
            let floor = if self.load.is_strong { acked } else { acked.min(1) };
            let read = self.call(&format!("get {}", name(number)));
            self.check_read(number, read, floor, "what was acknowledged");
            // Local reads would take the processors from all others.
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn check_read(&self, number: usize, read: Option<String>, floor: u64, what: &str) {
        let Some(read) = read else { return };
        self.load.reads.fetch_add(1, Ordering::Relaxed);
        let tried = self.load.keys[number].tried.load(Ordering::SeqCst);
        if !number_of(&read).is_some_and(|found| (floor..=tried).contains(&found)) {
            let at = self.at.as_ref().map(|(slot, life, _)| (*slot, *life));
            let key = name(number);
            self.load.is_wrong(format!(
                "{key} at {at:?}: {read:?} after {floor}, {what}; tried up to {tried}"
            ));
        }
    }
}
