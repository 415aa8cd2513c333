//! Whether what clients were told, and what the nodes hold in the end, keep the promises.
//!
//! Pure functions over a [`History`] and final states. Each returns the first broken promise that it finds, with
//! the operations that show it:
//!
//! - [`durability`]: what was acknowledged is there in the end, or something newer; what was deleted stays deleted;
//! - [`reads`]: nothing is read that nobody wrote, and no more is forgotten than a weak read may forget;
//! - [`linearizable`]: the operations on one key could have happened one after the other;
//! - [`answered`]: every call ended in time;
//! - [`converged`]: all copies of a key are there, and the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::Stored;
use super::workload::{Answer, History, Kind, Operation, UNKNOWN};
use crate::wire::timing::HINT_WINDOW;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Which promise.
    pub promise: &'static str,
    /// Of which key, where it is about one.
    pub key: Option<usize>,
    /// How it was broken.
    pub what: String,
    /// The operations that show it.
    pub operations: Vec<Operation>,
}

impl Violation {
    /// A promise about no key in particular.
    pub(super) fn general(promise: &'static str, what: String) -> Self {
        Self { promise, key: None, what, operations: Vec::new() }
    }

    fn of(promise: &'static str, what: String, operations: &[&Operation]) -> Self {
        let key = operations.first().map(|operation| operation.key);
        let mut operations: Vec<Operation> =
            operations.iter().map(|operation| (*operation).clone()).collect();
        operations.sort_by_key(|operation| operation.start);
        Self { promise, key, what, operations }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken: {}", self.promise)?;
        if let Some(key) = self.key {
            write!(f, " (key {key})")?;
        }
        write!(f, "\n  {}", self.what)?;
        self.operations.iter().try_for_each(|operation| write!(f, "\n  {operation}"))
    }
}

/// Which order of writes is promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// A write that began after another was acknowledged is the newer one.
    Everywhere,
    /// The same, of two writes through one life of one node. What the sides of a split network did is merged, in no
    /// order that anybody promised.
    PerNode,
}

/// Whether `later` must have replaced what `earlier` did.
fn replaces(later: &Operation, earlier: &Operation, order: Order) -> bool {
    let is_same_node = (later.node, later.life) == (earlier.node, earlier.life);
    later.is_write()
        && later.is_acknowledged()
        && earlier.is_before(later)
        && (order == Order::Everywhere || is_same_node)
}

/// What is there in the end, by key; a key that has no value is not there. It is what some write left that happened
/// or may have, and no acknowledged write that began after that one was over is missing.
///
/// # Errors
///
/// What was lost, came back, or was never written.
pub fn durability(history: &History, values: &BTreeMap<usize, u64>, order: Order) -> Result<(), Violation> {
    let keys: BTreeSet<usize> = history.operations.iter().map(|operation| operation.key).collect();
    for key in keys {
        let operations = history.of_key(key);
        let writes: Vec<&Operation> =
            operations.into_iter().filter(|operation| operation.may_have_happened()).collect();
        match values.get(&key) {
            Some(&value) => {
                let Some(write) = writes.iter().find(|write| write.writes() == Some(value)) else {
                    let what =
                        format!("in the end it is {value}, which nobody wrote or which was not applied");
                    return Err(Violation { key: Some(key), ..Violation::general(INVENTED, what) });
                };
                if let Some(later) = writes.iter().find(|later| replaces(later, write, order)) {
                    let promise = if later.kind == Kind::Delete { RESURRECTED } else { LOST };
                    let what = format!("in the end it is {value}, which was replaced");
                    return Err(Violation::of(promise, what, &[*write, *later]));
                }
            }
            None => {
                let removers = || writes.iter().filter(|write| removes(write));
                let is_lost = |write: &&&Operation| {
                    let is_kept = write.is_acknowledged() && !removes(write);
                    is_kept && removers().all(|remover| replaces(write, remover, order))
                };
                // In weak order a write is certain to stay only where nobody may have removed it at all.
                if let Some(write) = writes.iter().find(is_lost) {
                    let mut shown = vec![*write];
                    shown.extend(removers().copied());
                    return Err(Violation::of(LOST, "in the end it is not there".into(), &shown));
                }
            }
        }
    }
    Ok(())
}

/// What it leaves may be nothing.
fn removes(write: &Operation) -> bool {
    matches!(write.kind, Kind::Delete | Kind::SetFor(_))
}

const LOST: &str = "an acknowledged write, or a newer one, is there in the end";
const RESURRECTED: &str = "a deleted key stays deleted";
const INVENTED: &str = "a value was written by somebody";
const FOUND: &str = "what was acknowledged, and not deleted since, is found";
const OWN: &str = "a node's reads see the node's own acknowledged writes";
const LINEARIZABLE: &str = "the operations on a key could have happened one after the other";
const ANSWERED: &str = "every call ends in time";
const EQUAL: &str = "all copies are equal in the end";
const COPIES: &str = "there are N copies in the end";

/// No read finds a value that was never written, not yet written, or not applied. Where the network was never split,
/// none is told that there is nothing where a write was acknowledged and nobody has deleted since, and none sees
/// anything older than what its own node's own clients were told is written.
///
/// # Errors
///
/// The first read that does.
pub fn reads(history: &History, order: Order) -> Result<(), Violation> {
    let keys: BTreeSet<usize> = history.operations.iter().map(|operation| operation.key).collect();
    for key in keys {
        let operations = history.of_key(key);
        let by_value: BTreeMap<u64, &Operation> =
            operations.iter().filter_map(|operation| Some((operation.writes()?, *operation))).collect();
        let writes: Vec<&Operation> =
            operations.iter().copied().filter(|operation| operation.may_have_happened()).collect();
        for read in operations.iter().copied().filter(|operation| !operation.is_write()) {
            let Some(end) = read.end else { continue };
            let seen = match read.answer {
                Some(Answer::Found(value)) => {
                    let write = by_value.get(&value).filter(|write| write.may_have_happened());
                    match write.filter(|write| write.start <= end && value != UNKNOWN) {
                        Some(write) => Some(*write),
                        None => {
                            let what = "it found what nobody had written".to_owned();
                            return Err(Violation::of(INVENTED, what, &[read]));
                        }
                    }
                }
                Some(Answer::NotFound) => None,
                _ => continue,
            };
            if order == Order::Everywhere {
                check_recent(read, seen, &writes)?;
            }
        }
    }
    Ok(())
}

/// That a read saw at least what its node's own clients were told is there.
fn check_recent(read: &Operation, seen: Option<&Operation>, writes: &[&Operation]) -> Result<(), Violation> {
    let acknowledged = |write: &&&Operation| write.is_acknowledged() && write.is_before(read);
    let is_own = |write: &&&Operation| (write.node, write.life) == (read.node, read.life);
    let removers = || writes.iter().copied().filter(|write| removes(write) && read.end > Some(write.start));
    // A lost one began after the last of them was over, with certainty.
    let over = |write: &Operation| write.end.filter(|_| write.is_acknowledged()).unwrap_or(Duration::MAX);
    let lost = || {
        let removed = removers().map(over).max();
        let is_kept = |write: &&&Operation| !removes(write) && removed.is_none_or(|at| at < write.start);
        writes.iter().filter(is_kept).rfind(acknowledged)
    };
    if seen.is_none()
        && let Some(write) = lost()
    {
        let mut shown = vec![*write, read];
        shown.extend(removers().max_by_key(|remover| remover.start));
        return Err(Violation::of(FOUND, "it was not found".into(), &shown));
    }
    // It knows who has its writes for as long as they are offered to the others.
    let is_offered = |write: &&&Operation| write.end.is_some_and(|end| read.start < end + HINT_WINDOW);
    // They are in the order of their starts, and none takes that long itself.
    let since = writes.partition_point(|write| write.start + 2 * HINT_WINDOW < read.start);
    let until = writes.partition_point(|write| write.start < read.start);
    let own = writes[since..until].iter().filter(acknowledged).filter(is_own).filter(is_offered);
    let own = own.max_by_key(|write| write.start);
    if let Some(own) = own {
        // That it saw nothing, though that is older, was found out above.
        if let Some(older) = seen.filter(|seen| seen.is_before(own)) {
            return Err(Violation::of(OWN, "it saw what was before".into(), &[older, *own, read]));
        }
    }
    Ok(())
}

/// What was found out about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    Not(Violation),
    /// The search was given up.
    Undecided,
}

/// After so many states the search for an order is given up.
const MOST_STATES: usize = 300_000;

/// Whether the operations on one key could have happened one after the other, each between its start and its end, and
/// those that may have happened at any time after their start, or never.
///
/// The search is that of Wing and Gong, which remembers the states that led nowhere (Lowe, "Testing for
/// linearizability", 2017). The key is there for nobody in the beginning.
pub fn linearizable(operations: &[&Operation]) -> Verdict {
    let Some(mut search) = Search::new(operations) else { return Verdict::Undecided };
    match search.run() {
        Some(true) => Verdict::Linearizable,
        None => Verdict::Undecided,
        Some(false) => {
            let stuck = &search.steps[search.stuck_at.min(search.steps.len() - 1)];
            let blamed = operations[stuck.index];
            // What it overlaps with, and a few before.
            let end = blamed.end.unwrap_or(Duration::MAX);
            let near = operations.iter().filter(|other| {
                other.start <= end && other.end.is_none_or(|end| end + Duration::from_secs(3) >= blamed.start)
            });
            let mut shown: Vec<&Operation> = vec![blamed];
            let near: Vec<&Operation> = near.copied().filter(|other| *other != blamed).collect();
            shown.extend(&near[near.len().saturating_sub(24)..]);
            let what = format!("no order of them puts this one anywhere: {blamed}");
            Verdict::Not(Violation::of(LINEARIZABLE, what, &shown))
        }
    }
}

/// An operation that must have happened.
struct Step {
    index: usize,
    start: Duration,
    end: Duration,
    effect: Effect,
}

#[derive(Clone, Copy)]
enum Effect {
    Write(Option<u64>),
    Read(Option<u64>),
}

#[derive(Clone, Copy)]
enum Move {
    Step(usize),
    /// One of the deletes that may have happened.
    Maybe(usize),
}

struct Search {
    /// By start.
    steps: Vec<Step>,
    /// When the deletes began that may have happened. (A write that may have happened has where it was read.)
    maybes: Vec<Duration>,
    done: Vec<bool>,
    maybes_done: Vec<bool>,
    /// How many of the first steps are done.
    lowest: usize,
    left: usize,
    value: Option<u64>,
    seen: BTreeSet<Vec<u64>>,
    /// The step that the longest order got stuck at.
    stuck_at: usize,
    least_left: usize,
}

struct Branch {
    moves: Vec<Move>,
    /// How this was come to, and what the value was before.
    by: Option<(Move, Option<u64>)>,
}

impl Search {
    /// `None` where an operation cannot be searched for: it expires.
    fn new(operations: &[&Operation]) -> Option<Self> {
        let mut read_at: BTreeMap<u64, Duration> = BTreeMap::new();
        for operation in operations {
            if let (Some(Answer::Found(value)), Some(end)) = (operation.answer, operation.end) {
                let first = read_at.entry(value).or_insert(end);
                *first = end.min(*first);
            }
        }
        let (mut steps, mut maybes) = (Vec::new(), Vec::new());
        for (index, operation) in operations.iter().enumerate() {
            let certain_end = operation.end.filter(|_| !operation.is_write() || operation.is_acknowledged());
            let (effect, end) = match (operation.kind, operation.answer) {
                (Kind::SetFor(_), _) => return None,
                (_, Some(Answer::NotApplied)) => continue,
                (Kind::Get, Some(Answer::Found(value))) => (Effect::Read(Some(value)), certain_end),
                (Kind::Get, Some(Answer::NotFound)) => (Effect::Read(None), certain_end),
                (Kind::Get | Kind::Persist, _) => continue,
                // One that nobody saw may as well never have happened.
                (Kind::Set(value), _) => {
                    (Effect::Write(Some(value)), certain_end.or(read_at.get(&value).copied()))
                }
                (Kind::Delete, _) if certain_end.is_none() => {
                    maybes.push(operation.start);
                    continue;
                }
                (Kind::Delete, _) => (Effect::Write(None), certain_end),
            };
            if let Some(end) = end {
                steps.push(Step { index, start: operation.start, end, effect });
            }
        }
        steps.sort_by_key(|step| step.start);
        maybes.sort();
        Some(Self {
            done: vec![false; steps.len()],
            maybes_done: vec![false; maybes.len()],
            lowest: 0,
            left: steps.len(),
            least_left: usize::MAX,
            stuck_at: 0,
            value: None,
            seen: BTreeSet::new(),
            steps,
            maybes,
        })
    }

    /// Whether there is an order; `None` where the search is given up.
    fn run(&mut self) -> Option<bool> {
        let mut branches = vec![Branch { moves: self.moves(), by: None }];
        while let Some(branch) = branches.last_mut() {
            if self.left == 0 {
                return Some(true);
            }
            let Some(next) = branch.moves.pop() else {
                if let Some((last, before)) = branch.by {
                    self.take_back(last, before);
                }
                branches.pop();
                continue;
            };
            let before = self.value;
            self.make(next);
            if self.seen.insert(self.state()) {
                let moves = self.moves();
                branches.push(Branch { moves, by: Some((next, before)) });
            } else {
                self.take_back(next, before);
            }
            if self.seen.len() > MOST_STATES {
                return None;
            }
        }
        Some(self.left == 0)
    }

    /// What may be next: whatever began before the first end among what is left.
    fn moves(&mut self) -> Vec<Move> {
        let mut first_end = Duration::MAX;
        let mut first_to_end = self.lowest;
        let mut open = Vec::new();
        for at in self.lowest..self.steps.len() {
            let step = &self.steps[at];
            if step.start > first_end {
                break;
            }
            if !self.done[at] {
                open.push(at);
                if step.end < first_end {
                    (first_end, first_to_end) = (step.end, at);
                }
            }
        }
        if self.left < self.least_left {
            (self.least_left, self.stuck_at) = (self.left, first_to_end);
        }
        open.retain(|&at| self.steps[at].start <= first_end);
        let is_fit =
            |&at: &usize| matches!(self.steps[at].effect, Effect::Read(value) if value == self.value);
        if let Some(at) = open.iter().copied().find(is_fit) {
            // A read that fits changes nothing: it may as well be next.
            return vec![Move::Step(at)];
        }
        // A delete that may have happened is of use just before a read that found nothing, and nowhere else.
        let is_miss = |&at: &usize| matches!(self.steps[at].effect, Effect::Read(None));
        let is_of_use = open.iter().any(is_miss);
        let maybes = (0..self.maybes.len())
            .filter(|&at| is_of_use && !self.maybes_done[at] && self.maybes[at] <= first_end);
        // The last is tried first: the write that ends first.
        let mut moves: Vec<Move> = maybes.map(Move::Maybe).collect();
        let mut writes: Vec<usize> =
            open.into_iter().filter(|&at| matches!(self.steps[at].effect, Effect::Write(_))).collect();
        writes.sort_by_key(|&at| std::cmp::Reverse(self.steps[at].end));
        moves.extend(writes.into_iter().map(Move::Step));
        moves
    }

    fn make(&mut self, next: Move) {
        match next {
            Move::Step(at) => {
                self.done[at] = true;
                self.left -= 1;
                if let Effect::Write(value) = self.steps[at].effect {
                    self.value = value;
                }
            }
            Move::Maybe(at) => {
                self.maybes_done[at] = true;
                self.value = None;
            }
        }
        while self.done.get(self.lowest) == Some(&true) {
            self.lowest += 1;
        }
    }

    fn take_back(&mut self, last: Move, value: Option<u64>) {
        match last {
            Move::Step(at) => {
                self.done[at] = false;
                self.left += 1;
                self.lowest = self.lowest.min(at);
            }
            Move::Maybe(at) => self.maybes_done[at] = false,
        }
        self.value = value;
    }

    /// What is done, and the value: equal for states from which the same can be done.
    fn state(&self) -> Vec<u64> {
        let mut state = vec![self.lowest as u64, self.value.map_or(0, |value| value.wrapping_add(1))];
        let last = self.done.iter().rposition(|done| *done).map_or(0, |last| last + 1);
        let window = self.done.get(self.lowest..last).unwrap_or_default();
        for bits in [window, &self.maybes_done] {
            state.push(bits.len() as u64);
            state.extend(
                bits.chunks(64).map(|bits| {
                    bits.iter().enumerate().fold(0, |word, (at, bit)| word | u64::from(*bit) << at)
                }),
            );
        }
        state
    }
}

/// No call is without an answer, nor was it for longer than `timeout` and `slack`, a pause of its node aside. Those
/// that `lives` (which node, in which of its lives) has not are exempt: their nodes are gone.
///
/// # Errors
///
/// The first call that is.
pub fn answered(
    history: &History,
    lives: &BTreeSet<(usize, u32)>,
    timeout: Duration,
    slack: Duration,
) -> Result<(), Violation> {
    for operation in &history.operations {
        let mut limit = operation.start + timeout + slack;
        for &(_, from, until) in history.pauses.iter().filter(|(node, _, _)| *node == operation.node) {
            if from <= limit && until >= operation.start {
                limit = limit.max(until + slack);
            }
        }
        let is_late = match operation.end {
            Some(end) => end > limit,
            None => lives.contains(&(operation.node, operation.life)),
        };
        if is_late {
            let what = format!("it should have ended by {:.6}", limit.as_secs_f64());
            return Err(Violation::of(ANSWERED, what, &[operation]));
        }
    }
    Ok(())
}

/// So many nodes serve the key, each in the list of a number, and all of them store the same for it, a delete's trace
/// included.
///
/// # Errors
///
/// How they differ.
pub fn converged(
    key: usize,
    serving: &[(usize, u64)],
    stored: &[Stored],
    copies: usize,
) -> Result<(), Violation> {
    let at = |node: &usize| stored.iter().find(|stored| stored.node == *node);
    let state = |stored: &Stored| (stored.version, stored.content_hash, stored.expires_at_ms);
    let broken = |promise, what| {
        let mut text = format!("{what}:");
        for (node, list) in serving {
            text += &format!("\n    n{node} in list {list} has {:?}", at(node));
        }
        Err(Violation { key: Some(key), ..Violation::general(promise, text) })
    };
    if serving.len() != copies {
        return broken(COPIES, format!("{} nodes serve it, of {copies}", serving.len()));
    }
    let mut states = serving.iter().map(|(node, _)| at(node).map(state));
    let first = states.next().flatten();
    if states.any(|other| other != first) {
        return broken(EQUAL, "its copies differ".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK: Answer = Answer::Acknowledged;
    const MAYBE: Answer = Answer::Indeterminate;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// An operation on key 0 through node 0, from and until when, in milliseconds.
    fn op(kind: Kind, start: u64, end: u64, answer: Answer) -> Operation {
        let (start, end) = (ms(start), Some(ms(end)));
        Operation { node: 0, life: 1, key: 0, kind, start, end, answer: Some(answer) }
    }

    fn set(value: u64, start: u64, end: u64, answer: Answer) -> Operation {
        op(Kind::Set(value), start, end, answer)
    }

    fn delete(start: u64, end: u64, answer: Answer) -> Operation {
        op(Kind::Delete, start, end, answer)
    }

    fn get(value: u64, start: u64, end: u64) -> Operation {
        op(Kind::Get, start, end, Answer::Found(value))
    }

    fn miss(start: u64, end: u64) -> Operation {
        op(Kind::Get, start, end, Answer::NotFound)
    }

    fn through(node: usize, operation: Operation) -> Operation {
        Operation { node, ..operation }
    }

    fn history(operations: Vec<Operation>) -> History {
        History { operations, pauses: Vec::new() }
    }

    fn ends_as(operations: Vec<Operation>, value: Option<u64>, order: Order) -> Result<(), &'static str> {
        let values = value.map(|value| (0, value)).into_iter().collect();
        durability(&history(operations), &values, order).map_err(|violation| violation.promise)
    }

    #[test]
    fn the_last_acknowledged_write_is_durable_and_so_is_what_may_have_followed_it() {
        let strict = Order::Everywhere;
        let one_after_the_other = || vec![set(1, 0, 10, ACK), through(1, set(2, 20, 30, ACK))];
        assert_eq!(ends_as(one_after_the_other(), Some(2), strict), Ok(()));
        assert_eq!(ends_as(one_after_the_other(), Some(1), strict), Err(LOST));
        assert_eq!(ends_as(one_after_the_other(), None, strict), Err(LOST));
        assert_eq!(ends_as(one_after_the_other(), Some(3), strict), Err(INVENTED));
        let at_once = || vec![set(1, 0, 25, ACK), set(2, 20, 30, ACK)];
        assert_eq!(ends_as(at_once(), Some(1), strict), Ok(()));
        assert_eq!(ends_as(at_once(), Some(2), strict), Ok(()));
        let failed = |answer| vec![set(1, 0, 10, ACK), set(2, 20, 30, answer)];
        assert_eq!(ends_as(failed(MAYBE), Some(2), strict), Ok(()));
        assert_eq!(ends_as(failed(MAYBE), Some(1), strict), Ok(()));
        assert_eq!(ends_as(failed(Answer::NotApplied), Some(2), strict), Err(INVENTED));
        // A write that failed may take effect later than what began after it had failed.
        assert_eq!(ends_as(vec![set(1, 0, 10, MAYBE), set(2, 20, 30, ACK)], Some(1), strict), Ok(()));
    }

    #[test]
    fn a_deleted_key_stays_deleted() {
        let strict = Order::Everywhere;
        let deleted = |answer| vec![set(1, 0, 10, ACK), delete(20, 30, answer)];
        assert_eq!(ends_as(deleted(ACK), None, strict), Ok(()));
        assert_eq!(ends_as(deleted(ACK), Some(1), strict), Err(RESURRECTED));
        assert_eq!(ends_as(deleted(MAYBE), Some(1), strict), Ok(()));
        assert_eq!(ends_as(deleted(MAYBE), None, strict), Ok(()));
        let written_again = || vec![delete(0, 10, ACK), set(1, 20, 30, ACK)];
        assert_eq!(ends_as(written_again(), None, strict), Err(LOST));
        assert_eq!(ends_as(vec![delete(0, 25, ACK), set(1, 20, 30, ACK)], None, strict), Ok(()));
        assert_eq!(ends_as(vec![op(Kind::SetFor(1), 0, 10, ACK)], None, strict), Ok(()));
    }

    #[test]
    fn between_the_sides_of_a_split_no_order_is_promised() {
        let weak = Order::PerNode;
        let two_sides = || vec![set(1, 0, 10, ACK), through(1, set(2, 20, 30, ACK))];
        assert_eq!(ends_as(two_sides(), Some(1), weak), Ok(()));
        assert_eq!(ends_as(two_sides(), Some(2), weak), Ok(()));
        assert_eq!(ends_as(two_sides(), None, weak), Err(LOST));
        assert_eq!(ends_as(two_sides(), Some(3), weak), Err(INVENTED));
        let one_side = || vec![set(1, 0, 10, ACK), set(2, 20, 30, ACK)];
        assert_eq!(ends_as(one_side(), Some(1), weak), Err(LOST));
        let other_life = || vec![set(1, 0, 10, ACK), Operation { life: 2, ..set(2, 20, 30, ACK) }];
        assert_eq!(ends_as(other_life(), Some(1), weak), Ok(()));
    }

    fn read(operations: Vec<Operation>) -> Result<(), &'static str> {
        reads(&history(operations), Order::Everywhere).map_err(|violation| violation.promise)
    }

    #[test]
    fn reads_find_what_was_written() {
        assert_eq!(read(vec![set(1, 0, 10, ACK), get(1, 5, 6)]), Ok(()));
        assert_eq!(read(vec![set(1, 0, 10, MAYBE), get(1, 50, 60)]), Ok(()));
        assert_eq!(read(vec![set(1, 0, 10, Answer::NotApplied), get(1, 50, 60)]), Err(INVENTED));
        assert_eq!(read(vec![get(1, 0, 5), set(1, 6, 10, ACK)]), Err(INVENTED));
        assert_eq!(read(vec![get(UNKNOWN, 0, 5)]), Err(INVENTED));
    }

    #[test]
    fn an_acknowledged_key_is_found_unless_somebody_has_deleted_it() {
        assert_eq!(read(vec![set(1, 0, 10, ACK), through(1, miss(20, 30))]), Err(FOUND));
        assert_eq!(read(vec![set(1, 0, 10, ACK), through(1, miss(5, 30))]), Ok(()));
        assert_eq!(read(vec![set(1, 0, 10, MAYBE), through(1, miss(20, 30))]), Ok(()));
        assert_eq!(
            read(vec![set(1, 0, 10, ACK), through(2, delete(25, 50, MAYBE)), through(1, miss(20, 30))]),
            Ok(())
        );
        assert_eq!(read(vec![delete(0, 10, ACK), set(1, 20, 30, ACK), through(1, miss(40, 50))]), Err(FOUND));
        assert_eq!(read(vec![delete(0, 25, ACK), set(1, 20, 30, ACK), through(1, miss(40, 50))]), Ok(()));
        assert_eq!(read(vec![delete(0, 10, MAYBE), set(1, 20, 30, ACK), through(1, miss(40, 50))]), Ok(()));
        let weak = history(vec![set(1, 0, 10, ACK), through(1, miss(20, 30))]);
        assert_eq!(reads(&weak, Order::PerNode), Ok(()));
    }

    #[test]
    fn a_nodes_reads_see_its_own_writes() {
        let old = |node| vec![set(1, 0, 10, ACK), set(2, 20, 30, ACK), through(node, get(1, 40, 50))];
        assert_eq!(read(old(0)), Err(OWN));
        assert_eq!(read(old(1)), Ok(()), "another node's reads may be briefly old");
        let concurrent = vec![set(1, 0, 25, ACK), set(2, 20, 30, ACK), get(1, 40, 50)];
        assert_eq!(read(concurrent), Ok(()));
        assert_eq!(read(vec![set(1, 0, 10, ACK), delete(20, 30, ACK), get(1, 40, 50)]), Err(OWN));
        assert_eq!(read(vec![delete(0, 10, ACK), set(1, 20, 30, ACK), get(1, 40, 50)]), Ok(()));
    }

    fn is_linearizable(operations: &[Operation]) -> bool {
        match linearizable(&operations.iter().collect::<Vec<_>>()) {
            Verdict::Linearizable => true,
            Verdict::Not(violation) => {
                assert_eq!(violation.promise, LINEARIZABLE);
                false
            }
            Verdict::Undecided => panic!("undecided"),
        }
    }

    #[test]
    fn an_order_is_found_where_there_is_one() {
        assert!(is_linearizable(&[]));
        assert!(is_linearizable(&[miss(0, 5), set(1, 0, 10, ACK), get(1, 6, 20), get(1, 30, 40)]));
        assert!(is_linearizable(&[set(1, 0, 100, ACK), set(2, 0, 100, ACK), get(2, 10, 20), get(1, 30, 40)]));
        assert!(is_linearizable(&[set(1, 0, 10, ACK), delete(0, 100, ACK), get(1, 20, 30), miss(40, 50)]));
        // A failed write takes effect late, or never.
        assert!(is_linearizable(&[
            set(1, 0, 10, MAYBE),
            set(2, 20, 30, ACK),
            get(2, 40, 50),
            get(1, 60, 70),
            get(1, 80, 90)
        ]));
        assert!(is_linearizable(&[set(1, 0, 10, ACK), set(2, 20, 30, MAYBE), get(1, 60, 70)]));
        assert!(is_linearizable(&[set(1, 0, 10, ACK), delete(20, 30, MAYBE), get(1, 60, 70), miss(80, 90)]));
        assert!(is_linearizable(&[set(1, 0, 10, Answer::NotApplied), miss(20, 30)]));
    }

    #[test]
    fn no_order_is_found_where_there_is_none() {
        assert!(!is_linearizable(&[set(1, 0, 10, ACK), miss(20, 30)]), "lost");
        assert!(!is_linearizable(&[set(1, 0, 10, ACK), set(2, 20, 30, ACK), get(1, 40, 50)]), "stale");
        let flipping =
            [set(1, 0, 100, ACK), set(2, 0, 100, ACK), get(2, 10, 20), get(1, 30, 40), get(2, 50, 60)];
        assert!(!is_linearizable(&flipping), "a write that takes effect twice");
        let inverted = [set(1, 0, 10, ACK), set(2, 20, 90, ACK), get(2, 30, 40), get(1, 50, 60)];
        assert!(!is_linearizable(&inverted), "a later read sees less");
        let twice = [set(1, 0, 10, MAYBE), set(2, 20, 30, ACK), get(1, 40, 50), get(2, 60, 70)];
        assert!(!is_linearizable(&twice), "a failed write hides another and goes away");
        let deleted_once = [set(1, 0, 10, ACK), delete(20, 30, MAYBE), miss(40, 50), get(1, 60, 70)];
        assert!(!is_linearizable(&deleted_once));
    }

    /// Every order of a few concurrent writes is tried, and long histories are no trouble where few operations
    /// overlap.
    #[test]
    fn the_search_is_fast_on_long_histories() {
        let mut operations = Vec::new();
        for round in 0..500 {
            let at = round * 100;
            for writer in 0..4 {
                let answer = if writer == 3 { MAYBE } else { ACK };
                operations.push(set(round * 4 + writer + 1, at + writer, at + 50, answer));
            }
            operations.push(delete(at + 5, at + 50, if round % 50 == 0 { MAYBE } else { ACK }));
            operations.push(get(round * 4 + 1 + round % 3, at + 60, at + 70));
        }
        assert!(is_linearizable(&operations));
        operations.push(get(1, 50_000, 50_001));
        assert!(!is_linearizable(&operations));
    }

    #[test]
    fn calls_end_in_time() {
        let lives = BTreeSet::from([(0, 1)]);
        let check = |history: &History| answered(history, &lives, ms(2000), ms(100)).is_ok();
        assert!(check(&history(vec![get(1, 0, 2100)])));
        assert!(!check(&history(vec![get(1, 0, 2101)])));
        let without = |node| {
            let operation = Operation { end: None, answer: None, ..through(node, get(1, 0, 1)) };
            history(vec![operation])
        };
        assert!(!check(&without(0)));
        assert!(check(&without(1)), "its node is gone");
        let paused = |from, until| History {
            pauses: vec![(0, ms(from), ms(until))],
            ..history(vec![get(1, 0, 5000)])
        };
        assert!(check(&paused(1000, 4950)));
        assert!(!check(&paused(1000, 4000)));
        assert!(!check(&paused(3000, 4950)), "it was late before");
    }

    #[test]
    fn copies_are_there_and_equal() {
        let stored = |node, version, content_hash| Stored {
            node,
            is_synced: true,
            version,
            value: None,
            content_hash,
            expires_at_ms: None,
        };
        assert_eq!(
            converged(0, &[(0, 1), (1, 1)], &[stored(0, 5, 1), stored(1, 5, 1), stored(2, 4, 1)], 2),
            Ok(())
        );
        assert_eq!(converged(0, &[(0, 1), (1, 1)], &[], 2), Ok(()));
        let promise = |stored: &[Stored]| converged(0, &[(0, 1), (1, 1)], stored, 2).map_err(|it| it.promise);
        assert_eq!(promise(&[stored(0, 5, 1), stored(1, 4, 1)]), Err(EQUAL));
        assert_eq!(promise(&[stored(0, 5, 1), stored(1, 5, 2)]), Err(EQUAL), "one version, two contents");
        assert_eq!(promise(&[stored(0, 5, 1)]), Err(EQUAL), "a delete that one has forgotten");
        let too_few = converged(0, &[(0, 1)], &[stored(0, 5, 1)], 2).map_err(|it| it.promise);
        assert_eq!(too_few, Err(COPIES));
    }
}
