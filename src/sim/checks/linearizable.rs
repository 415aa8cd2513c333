//! Whether the operations on one key are linearizable: an order is searched for.
//!
//! The search is that of Wing and Gong with the improvement of Lowe ("Testing for linearizability",
//! 2017): it remembers the states that led to no order. At each point it may take any operation
//! that began before the first end among those that are left. Three facts of this register keep it
//! short:
//!
//! - a read that fits changes nothing, so it is taken at once, and nothing else is tried;
//! - a write that might have happened has happened if its value was read, and ended by then;
//!   otherwise it may as well never have happened;
//! - a delete that might have happened is of use only just before a read that found nothing.
//!
//! A value that expires may be found by one node and not by another, as their clocks differ. So a
//! read that finds nothing also fits such a value, from the earliest moment at which it expires.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{LINEARIZABLE, Violation};
use crate::sim::workload::{Answer, Kind, Operation, SHORTENED, TIME_TO_LIVE};

/// What the search found out about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An order was found.
    Linearizable,
    /// There is no order.
    Not(Violation),
    /// The search was given up: too many states.
    Undecided,
}

/// How many states are searched until the search is given up.
const MAX_STATES: usize = 300_000;

/// Whether the operations on one key could have happened one after the other.
///
/// Each must have happened between its start and its end; one that might have happened, at any time
/// after its start, or never. At first the key does not exist. Two nodes' clocks differ by no more
/// than `clocks_apart`.
pub fn linearizable(operations: &[&Operation], clocks_apart: Duration) -> Verdict {
    let mut search = Search::new(operations, clocks_apart);
    match search.run() {
        Some(true) => Verdict::Linearizable,
        None => Verdict::Undecided,
        Some(false) => {
            let stuck = &search.steps[search.stuck_at.min(search.steps.len() - 1)];
            let blamed = operations[stuck.index];
            // The operations that it overlaps with, and a few before.
            let end = blamed.end.unwrap_or(Duration::MAX);
            let near = operations.iter().filter(|other| {
                other.start <= end
                    && other.end.is_none_or(|end| end + Duration::from_secs(3) >= blamed.start)
            });
            let mut shown: Vec<&Operation> = vec![blamed];
            let near: Vec<&Operation> = near.copied().filter(|other| *other != blamed).collect();
            shown.extend(&near[near.len().saturating_sub(24)..]);
            let what = format!("no order of them puts this one anywhere: {blamed}");
            Verdict::Not(Violation::of(LINEARIZABLE, what, &shown))
        }
    }
}

/// Returns what was known of these operations at a moment: those that began before, and how they
/// ended if they did.
pub fn linearizable_until(operations: &[&Operation], at: Duration) -> Vec<Operation> {
    let known = |operation: &&Operation| {
        let is_over = operation.end.is_some_and(|end| end < at);
        let (end, answer) = (operation.end.filter(|_| is_over), operation.answer);
        Operation { end, answer: answer.filter(|_| is_over), ..(*operation).clone() }
    };
    operations.iter().filter(|operation| operation.start < at).map(known).collect()
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
    /// One of the deletes that might have happened.
    Maybe(usize),
}

/// A search for an order, which goes deep first and takes back what led to none.
struct Search {
    /// The steps, ordered by their start.
    steps: Vec<Step>,
    /// When the deletes began that might have happened, and when writes that might have happened
    /// expired, at the earliest.
    maybes: Vec<Duration>,
    /// The values that expire, each with the earliest moment at which it does.
    expiring: BTreeMap<u64, Duration>,
    done: Vec<bool>,
    maybes_done: Vec<bool>,
    /// How many of the first steps are done without a gap.
    lowest: usize,
    left: usize,
    value: Option<u64>,
    seen: BTreeSet<Vec<u64>>,
    /// The step at which the longest order got stuck.
    stuck_at: usize,
    fewest_left: usize,
}

/// A state of the search, and the moves that were not tried from it yet.
struct Branch {
    moves: Vec<Move>,
    /// The move that led here, and the value before it.
    by: Option<(Move, Option<u64>)>,
}

impl Search {
    fn new(operations: &[&Operation], clocks_apart: Duration) -> Self {
        let mut read_at: BTreeMap<u64, Duration> = BTreeMap::new();
        for operation in operations {
            if let (Some(Answer::Found(value)), Some(end)) = (operation.answer, operation.end) {
                let first = read_at.entry(value).or_insert(end);
                *first = end.min(*first);
            }
        }
        let expiring = expiring(operations, clocks_apart);
        let (mut steps, mut maybes) = (Vec::new(), Vec::new());
        for (index, operation) in operations.iter().enumerate() {
            let certain_end =
                operation.end.filter(|_| !operation.is_write() || operation.is_acknowledged());
            let (effect, end) = match (operation.kind, operation.answer) {
                (_, Some(Answer::NotApplied)) => continue,
                (Kind::Get, Some(Answer::Found(value))) => (Effect::Read(Some(value)), certain_end),
                (Kind::Get, Some(Answer::NotFound)) => (Effect::Read(None), certain_end),
                (Kind::Get | Kind::Persist | Kind::Shorten, _) => continue,
                // A write that no read saw may as well never have happened. One that has expired
                // might be seen: by a read that finds nothing.
                (Kind::Set(value) | Kind::SetFor(value) | Kind::SetLasting(value), _) => {
                    let is_unseen = certain_end.is_none() && !read_at.contains_key(&value);
                    maybes.extend(expiring.get(&value).filter(|_| is_unseen));
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
        Self {
            done: vec![false; steps.len()],
            maybes_done: vec![false; maybes.len()],
            lowest: 0,
            left: steps.len(),
            fewest_left: usize::MAX,
            stuck_at: 0,
            value: None,
            seen: BTreeSet::new(),
            steps,
            maybes,
            expiring,
        }
    }

    /// Whether there is an order; `None` if the search is given up.
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
            if self.seen.len() > MAX_STATES {
                return None;
            }
        }
        Some(self.left == 0)
    }

    /// The moves that can be next: all steps that began before the first end among those left.
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
        if self.left < self.fewest_left {
            (self.fewest_left, self.stuck_at) = (self.left, first_to_end);
        }
        open.retain(|&at| self.steps[at].start <= first_end);
        let is_fit = |&at: &usize| match self.steps[at].effect {
            Effect::Read(None) => self.is_nothing_at(self.steps[at].end),
            Effect::Read(value) => value == self.value,
            _ => false,
        };
        if let Some(at) = open.iter().copied().find(is_fit) {
            // A read that fits changes nothing: it may as well be next.
            return vec![Move::Step(at)];
        }
        // What might have happened and leaves nothing is of use only before a read that found
        // nothing.
        let is_miss = |&at: &usize| matches!(self.steps[at].effect, Effect::Read(None));
        let is_of_use = open.iter().any(is_miss);
        let maybes = (0..self.maybes.len())
            .filter(|&at| is_of_use && !self.maybes_done[at] && self.maybes[at] <= first_end);
        // The last is tried first: the write that ends first.
        let mut moves: Vec<Move> = maybes.map(Move::Maybe).collect();
        let mut writes: Vec<usize> = open
            .into_iter()
            .filter(|&at| matches!(self.steps[at].effect, Effect::Write(_)))
            .collect();
        writes.sort_by_key(|&at| std::cmp::Reverse(self.steps[at].end));
        moves.extend(writes.into_iter().map(Move::Step));
        moves
    }

    /// Whether a read that ended then may have found nothing.
    fn is_nothing_at(&self, end: Duration) -> bool {
        let expires = |value| self.expiring.get(&value).is_some_and(|at| *at <= end);
        self.value.is_none_or(expires)
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

    /// What is done, and the value: equal for states from which the same can follow.
    fn state(&self) -> Vec<u64> {
        let mut state =
            vec![self.lowest as u64, self.value.map_or(0, |value| value.wrapping_add(1))];
        let last = self.done.iter().rposition(|done| *done).map_or(0, |last| last + 1);
        let window = self.done.get(self.lowest..last).unwrap_or_default();
        for bits in [window, &self.maybes_done] {
            state.push(bits.len() as u64);
            state.extend(bits.chunks(64).map(|bits| {
                bits.iter().enumerate().fold(0, |word, (at, bit)| word | u64::from(*bit) << at)
            }));
        }
        state
    }
}

/// Returns the values that expire, each with the earliest moment at which it does.
fn expiring(operations: &[&Operation], clocks_apart: Duration) -> BTreeMap<u64, Duration> {
    let is_shortening =
        |it: &&&Operation| it.kind == Kind::Shorten && it.answer != Some(Answer::NotApplied);
    let shortenings: Vec<&&Operation> = operations.iter().filter(is_shortening).collect();
    let mut found = BTreeMap::new();
    for write in operations {
        let Some(value) = write.writes() else { continue };
        let its_own = matches!(write.kind, Kind::SetFor(_)).then(|| write.start + TIME_TO_LIVE);
        // One that ended before the write began has read another value.
        let shortened = shortenings
            .iter()
            .filter(|it| it.end.is_none_or(|end| end >= write.start))
            .map(|it| it.start + SHORTENED);
        if let Some(at) = shortened.chain(its_own).min() {
            found.insert(value, at.saturating_sub(clocks_apart));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ACK, MAYBE, delete, get, miss, op, set};
    use super::*;

    fn is_linearizable(operations: &[Operation]) -> bool {
        match linearizable(&operations.iter().collect::<Vec<_>>(), Duration::ZERO) {
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
        assert!(is_linearizable(&[
            set(1, 0, 100, ACK),
            set(2, 0, 100, ACK),
            get(2, 10, 20),
            get(1, 30, 40)
        ]));
        assert!(is_linearizable(&[
            set(1, 0, 10, ACK),
            delete(0, 100, ACK),
            get(1, 20, 30),
            miss(40, 50)
        ]));
        // A failed write takes effect late, or never.
        assert!(is_linearizable(&[
            set(1, 0, 10, MAYBE),
            set(2, 20, 30, ACK),
            get(2, 40, 50),
            get(1, 60, 70),
            get(1, 80, 90)
        ]));
        assert!(is_linearizable(&[set(1, 0, 10, ACK), set(2, 20, 30, MAYBE), get(1, 60, 70)]));
        assert!(is_linearizable(&[
            set(1, 0, 10, ACK),
            delete(20, 30, MAYBE),
            get(1, 60, 70),
            miss(80, 90)
        ]));
        assert!(is_linearizable(&[set(1, 0, 10, Answer::NotApplied), miss(20, 30)]));
    }

    #[test]
    fn no_order_is_found_where_there_is_none() {
        assert!(!is_linearizable(&[set(1, 0, 10, ACK), miss(20, 30)]), "lost");
        assert!(
            !is_linearizable(&[set(1, 0, 10, ACK), set(2, 20, 30, ACK), get(1, 40, 50)]),
            "stale"
        );
        let flipping = [
            set(1, 0, 100, ACK),
            set(2, 0, 100, ACK),
            get(2, 10, 20),
            get(1, 30, 40),
            get(2, 50, 60),
        ];
        assert!(!is_linearizable(&flipping), "a write that takes effect twice");
        let inverted = [set(1, 0, 10, ACK), set(2, 20, 90, ACK), get(2, 30, 40), get(1, 50, 60)];
        assert!(!is_linearizable(&inverted), "a later read sees less");
        let twice = [set(1, 0, 10, MAYBE), set(2, 20, 30, ACK), get(1, 40, 50), get(2, 60, 70)];
        assert!(!is_linearizable(&twice), "a failed write hides another and goes away");
        let deleted_once =
            [set(1, 0, 10, ACK), delete(20, 30, MAYBE), miss(40, 50), get(1, 60, 70)];
        assert!(!is_linearizable(&deleted_once));
    }

    #[test]
    fn a_value_that_expires_is_nothing_from_then_on_and_not_before() {
        let to_expire = || op(Kind::SetFor(1), 0, 10, ACK);
        assert!(is_linearizable(&[to_expire(), get(1, 20, 30), miss(2990, 3010)]));
        assert!(is_linearizable(&[to_expire(), miss(3010, 3020), get(1, 3015, 3030)]));
        assert!(is_linearizable(&[to_expire(), miss(3010, 3020), set(2, 3030, 3040, ACK)]));
        assert!(!is_linearizable(&[to_expire(), miss(20, 30)]), "too early");
        // It might take effect when it has expired already: a read can bring that about.
        let maybe = || [set(2, 0, 5, ACK), op(Kind::SetFor(1), 10, 20, MAYBE)];
        let late = [get(2, 3010, 3015), miss(3020, 3030)];
        assert!(is_linearizable(&[maybe(), late.clone()].concat()));
        assert!(!is_linearizable(&[maybe(), [get(2, 30, 40), miss(50, 60)]].concat()));
        let shorten = |start, end| op(Kind::Shorten, start, end, Answer::Touched);
        assert!(is_linearizable(&[set(1, 0, 10, ACK), shorten(20, 30), miss(1020, 1030)]));
        assert!(!is_linearizable(&[shorten(20, 30), set(1, 40, 50, ACK), miss(1020, 1030)]));
        let kept = [to_expire(), set(2, 20, 30, ACK), miss(3010, 3020)];
        assert!(!is_linearizable(&kept), "it was replaced by one that stays");
    }

    #[test]
    fn what_ends_later_is_open() {
        let operations = [set(1, 0, 10, ACK), set(2, 20, 40, ACK), get(1, 25, 50), miss(60, 70)];
        let known =
            linearizable_until(&operations.iter().collect::<Vec<_>>(), Duration::from_millis(30));
        assert_eq!(known[0], operations[0]);
        assert_eq!(known[1..].iter().filter(|it| it.answer.is_none()).count(), 2);
        assert!(is_linearizable(&known) && !is_linearizable(&operations));
    }

    /// Every order of a few concurrent writes is tried, and a long history is no trouble if few
    /// operations overlap.
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
}
