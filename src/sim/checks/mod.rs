//! Whether what clients were told, and what the nodes hold in the end, keep the promises.
//!
//! Pure functions over a [`History`] and final states. Each returns the first broken promise that
//! it finds, with the operations that show it:
//!
//! | check | promise |
//! |---|---|
//! | [`durability`] | in the end every acknowledged write, or a newer one, is there |
//! | [`reads`] | a read finds only what was written, and misses no more than a weak read can miss |
//! | [`misses`] | what was acknowledged and never removed is found, or the read fails |
//! | [`safe`] | when a node says that any node may be stopped, W copies are there |
//! | [`seen_everywhere`] | no read finds anything older than what was acknowledged before it |
//! | [`linearizable()`] | the operations on one key could have happened one after the other |
//! | [`answered`] | every call ends in time |
//! | [`converged`] | all copies of a key are there, and equal |

mod linearizable;
mod safety;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

pub use self::linearizable::{Verdict, linearizable, linearizable_until};
pub use self::safety::{Safety, misses, safe};
use super::Stored;
use super::workload::{Answer, History, Kind, Operation, UNKNOWN};
use crate::wire::timing::HINT_WINDOW;

const LOST: &str = "an acknowledged write, or a newer one, is there in the end";
const RESURRECTED: &str = "a deleted key stays deleted";
const INVENTED: &str = "a value was written by somebody";
const FOUND: &str = "what was acknowledged, and not deleted since, is found";
const OWN: &str = "a node's reads see the node's own acknowledged writes";
const SEEN: &str = "what every live replica has acknowledged is seen by each read from then on";
const LINEARIZABLE: &str = "the operations on a key could have happened one after the other";
const ANSWERED: &str = "every call ends in time";
const EQUAL: &str = "all copies are equal in the end";
const COPIES: &str = "there are N copies in the end";

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The promise.
    pub promise: &'static str,
    /// The key, if the promise is about one.
    pub key: Option<usize>,
    /// How it was broken.
    pub what: String,
    /// The operations that show it.
    pub operations: Vec<Operation>,
}

impl Violation {
    /// Makes a violation of a promise that is about no key in particular.
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
pub enum WriteOrder {
    /// A write that began after another was acknowledged is the newer one.
    Everywhere,
    /// A write that began after another was acknowledged is the newer one, if both went through one
    /// life of one node. What the sides of a split network did is merged, in no promised order.
    PerNode,
    /// A write is the newer one as in `PerNode`, and through any node if it began this long after
    /// another was acknowledged: longer than two clocks differ, so its version is the higher one.
    ByClock(Duration),
}

/// Whether `later` must have replaced what `earlier` did.
fn replaces(later: &Operation, earlier: &Operation, order: WriteOrder) -> bool {
    let is_same_node = (later.node, later.life) == (earlier.node, earlier.life);
    let is_ordered = match order {
        WriteOrder::Everywhere => true,
        WriteOrder::PerNode => is_same_node,
        WriteOrder::ByClock(apart) => {
            is_same_node || earlier.end.is_some_and(|end| end + apart < later.start)
        }
    };
    later.is_write() && later.is_acknowledged() && earlier.is_before(later) && is_ordered
}

/// Whether nothing may be left after the write.
fn removes(write: &Operation) -> bool {
    matches!(write.kind, Kind::Delete | Kind::SetFor(_) | Kind::Shorten)
}

/// Checks the final value of each key; `values` has no entry for a key without a value.
///
/// The value must be from a write that happened or might have, and no acknowledged write may be
/// missing that began after that one was over.
///
/// # Errors
///
/// What was lost, came back, or was never written.
pub fn durability(
    history: &History,
    values: &BTreeMap<usize, u64>,
    order: WriteOrder,
) -> Result<(), Violation> {
    let keys: BTreeSet<usize> = history.operations.iter().map(|operation| operation.key).collect();
    for key in keys {
        let operations = history.of_key(key);
        let writes: Vec<&Operation> =
            operations.into_iter().filter(|operation| operation.may_have_happened()).collect();
        match values.get(&key) {
            Some(&value) => ends_with(key, value, &writes, order)?,
            None => ends_with_nothing(&writes, order)?,
        }
    }
    Ok(())
}

fn ends_with(
    key: usize,
    value: u64,
    writes: &[&Operation],
    order: WriteOrder,
) -> Result<(), Violation> {
    let Some(write) = writes.iter().find(|write| write.writes() == Some(value)) else {
        let what = format!("in the end it is {value}, which nobody wrote or which was not applied");
        return Err(Violation { key: Some(key), ..Violation::general(INVENTED, what) });
    };
    if let Some(later) = writes.iter().find(|later| replaces(later, write, order)) {
        let promise = if later.kind == Kind::Delete { RESURRECTED } else { LOST };
        let what = format!("in the end it is {value}, which was replaced");
        return Err(Violation::of(promise, what, &[*write, *later]));
    }
    Ok(())
}

fn ends_with_nothing(writes: &[&Operation], order: WriteOrder) -> Result<(), Violation> {
    let removers = || writes.iter().filter(|write| removes(write));
    let is_lost = |write: &&&Operation| {
        let is_kept = write.is_acknowledged() && !removes(write);
        is_kept && removers().all(|remover| replaces(write, remover, order))
    };
    // In weak order a write is certain to stay only if no write could have removed it at all.
    if let Some(write) = writes.iter().find(is_lost) {
        let mut shown = vec![*write];
        shown.extend(removers().copied());
        return Err(Violation::of(LOST, "in the end it is not there".into(), &shown));
    }
    Ok(())
}

/// Checks what reads found.
///
/// No read finds a value that was never written, not yet written, or not applied. If the order of
/// all writes is promised, two more things are:
///
/// - No read finds nothing if a write was acknowledged before, and no delete began since.
/// - No read sees anything older than what the clients of its own node were told is written.
///
/// # Errors
///
/// The first read that breaks one of these.
pub fn reads(history: &History, order: WriteOrder) -> Result<(), Violation> {
    let keys: BTreeSet<usize> = history.operations.iter().map(|operation| operation.key).collect();
    for key in keys {
        let operations = history.of_key(key);
        let by_value: BTreeMap<u64, &Operation> = operations
            .iter()
            .filter_map(|operation| Some((operation.writes()?, *operation)))
            .collect();
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
            if order == WriteOrder::Everywhere {
                check_recent(read, seen, &writes)?;
            }
        }
    }
    Ok(())
}

/// Checks that a read saw at least what the clients of its node were told is there.
fn check_recent(
    read: &Operation,
    seen: Option<&Operation>,
    writes: &[&Operation],
) -> Result<(), Violation> {
    let acknowledged = |write: &&&Operation| write.is_acknowledged() && write.is_before(read);
    let is_own = |write: &&&Operation| (write.node, write.life) == (read.node, read.life);
    let removers =
        || writes.iter().copied().filter(|write| removes(write) && read.end > Some(write.start));
    // A lost write began after the last of them was certainly over.
    let over =
        |write: &Operation| write.end.filter(|_| write.is_acknowledged()).unwrap_or(Duration::MAX);
    let lost = || {
        let removed = removers().map(over).max();
        let is_kept =
            |write: &&&Operation| !removes(write) && removed.is_none_or(|at| at < write.start);
        writes.iter().filter(is_kept).rfind(acknowledged)
    };
    if seen.is_none()
        && let Some(write) = lost()
    {
        let mut shown = vec![*write, read];
        shown.extend(removers().max_by_key(|remover| remover.start));
        return Err(Violation::of(FOUND, "it was not found".into(), &shown));
    }
    // A node knows which replicas have its writes for as long as it offers them to the others.
    let is_offered =
        |write: &&&Operation| write.end.is_some_and(|end| read.start < end + HINT_WINDOW);
    // Writes are in the order of their starts, and no write takes as long as the window itself.
    let since = writes.partition_point(|write| write.start + 2 * HINT_WINDOW < read.start);
    let until = writes.partition_point(|write| write.start < read.start);
    let own = writes[since..until].iter().filter(acknowledged).filter(is_own).filter(is_offered);
    let own = own.max_by_key(|write| write.start);
    if let Some(own) = own {
        // To have seen nothing, which is older too, was judged above.
        if let Some(older) = seen.filter(|seen| seen.is_before(own)) {
            return Err(Violation::of(OWN, "it saw what was before".into(), &[older, *own, read]));
        }
    }
    Ok(())
}

/// Checks that no read, through any node, finds anything older than a write that was acknowledged
/// before the read began.
///
/// This is promised if every write waits for all replicas that are alive, while nothing is wrong:
/// no fault, no death, no change of members.
///
/// # Errors
///
/// The first read that saw less.
pub fn seen_everywhere(history: &History) -> Result<(), Violation> {
    let keys: BTreeSet<usize> = history.operations.iter().map(|operation| operation.key).collect();
    for key in keys {
        let operations = history.of_key(key);
        let writes: Vec<&Operation> =
            operations.iter().copied().filter(|operation| operation.may_have_happened()).collect();
        for read in operations.iter().copied().filter(|operation| operation.kind == Kind::Get) {
            let seen = match read.answer {
                Some(Answer::Found(value)) => {
                    writes.iter().filter(|write| write.writes() == Some(value)).collect()
                }
                Some(Answer::NotFound) => {
                    let began = |write: &&&Operation| read.end > Some(write.start);
                    writes.iter().filter(|write| removes(write)).filter(began).collect::<Vec<_>>()
                }
                _ => continue,
            };
            let is_before = |write: &&&Operation| write.is_acknowledged() && write.is_before(read);
            // A miss at first is what was before the first write.
            let is_missed = |write: &&&Operation| {
                let is_kept = !removes(write) || read.answer != Some(Answer::NotFound);
                is_kept && seen.iter().all(|seen| seen.is_before(write))
            };
            if let Some(missed) = writes.iter().filter(is_before).find(is_missed) {
                let mut shown: Vec<&Operation> = vec![*missed, read];
                shown.extend(seen.last().copied());
                return Err(Violation::of(SEEN, "it saw what was before".into(), &shown));
            }
        }
    }
    Ok(())
}

/// Checks that every call ended within `timeout` and `slack`, not counting pauses of its node.
///
/// `lives` has the nodes that run, each with its life. A call through any other is exempt: its node
/// is gone.
///
/// # Errors
///
/// The first call that ended late, or did not end.
pub fn answered(
    history: &History,
    lives: &BTreeSet<(usize, u32)>,
    timeout: Duration,
    slack: Duration,
) -> Result<(), Violation> {
    for operation in &history.operations {
        let mut limit = operation.start + timeout + slack;
        for &(_, from, until) in
            history.pauses.iter().filter(|(node, _, _)| *node == operation.node)
        {
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

/// Checks that `copies` nodes serve the key and store the same for it, tombstones included. A value
/// that has expired for one node has for all.
///
/// `serving` has these nodes, each with the number of the list that it counts in.
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
    let state = |stored: &Stored| {
        let Stored { version, content_hash, expires_at_ms, .. } = *stored;
        (version, content_hash, expires_at_ms, stored.value.is_some())
    };
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
    use crate::options::Quorum;

    pub(super) const ACK: Answer = Answer::Acknowledged;
    pub(super) const MAYBE: Answer = Answer::Indeterminate;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// An operation on key 0 through node 0, with its start and end in milliseconds.
    pub(super) fn op(kind: Kind, start: u64, end: u64, answer: Answer) -> Operation {
        let (start, end) = (ms(start), Some(ms(end)));
        let (quorum, answer) = (Quorum::Configured, Some(answer));
        Operation { node: 0, life: 1, key: 0, kind, quorum, start, end, answer }
    }

    pub(super) fn set(value: u64, start: u64, end: u64, answer: Answer) -> Operation {
        op(Kind::Set(value), start, end, answer)
    }

    pub(super) fn delete(start: u64, end: u64, answer: Answer) -> Operation {
        op(Kind::Delete, start, end, answer)
    }

    pub(super) fn get(value: u64, start: u64, end: u64) -> Operation {
        op(Kind::Get, start, end, Answer::Found(value))
    }

    pub(super) fn miss(start: u64, end: u64) -> Operation {
        op(Kind::Get, start, end, Answer::NotFound)
    }

    fn through(node: usize, operation: Operation) -> Operation {
        Operation { node, ..operation }
    }

    fn history(operations: Vec<Operation>) -> History {
        History { operations, pauses: Vec::new() }
    }

    fn ends_as(
        operations: Vec<Operation>,
        value: Option<u64>,
        order: WriteOrder,
    ) -> Result<(), &'static str> {
        let values = value.map(|value| (0, value)).into_iter().collect();
        durability(&history(operations), &values, order).map_err(|violation| violation.promise)
    }

    #[test]
    fn the_last_acknowledged_write_is_durable_and_so_is_what_may_have_followed_it() {
        let strict = WriteOrder::Everywhere;
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
        assert_eq!(
            ends_as(vec![set(1, 0, 10, MAYBE), set(2, 20, 30, ACK)], Some(1), strict),
            Ok(())
        );
    }

    #[test]
    fn a_deleted_key_stays_deleted() {
        let strict = WriteOrder::Everywhere;
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
        let weak = WriteOrder::PerNode;
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
        reads(&history(operations), WriteOrder::Everywhere).map_err(|violation| violation.promise)
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
    fn an_acknowledged_key_is_found_unless_it_was_deleted() {
        assert_eq!(read(vec![set(1, 0, 10, ACK), through(1, miss(20, 30))]), Err(FOUND));
        assert_eq!(read(vec![set(1, 0, 10, ACK), through(1, miss(5, 30))]), Ok(()));
        assert_eq!(read(vec![set(1, 0, 10, MAYBE), through(1, miss(20, 30))]), Ok(()));
        assert_eq!(
            read(vec![
                set(1, 0, 10, ACK),
                through(2, delete(25, 50, MAYBE)),
                through(1, miss(20, 30))
            ]),
            Ok(())
        );
        assert_eq!(
            read(vec![delete(0, 10, ACK), set(1, 20, 30, ACK), through(1, miss(40, 50))]),
            Err(FOUND)
        );
        assert_eq!(
            read(vec![delete(0, 25, ACK), set(1, 20, 30, ACK), through(1, miss(40, 50))]),
            Ok(())
        );
        assert_eq!(
            read(vec![delete(0, 10, MAYBE), set(1, 20, 30, ACK), through(1, miss(40, 50))]),
            Ok(())
        );
        let weak = history(vec![set(1, 0, 10, ACK), through(1, miss(20, 30))]);
        assert_eq!(reads(&weak, WriteOrder::PerNode), Ok(()));
    }

    #[test]
    fn a_nodes_reads_see_its_own_writes() {
        let old =
            |node| vec![set(1, 0, 10, ACK), set(2, 20, 30, ACK), through(node, get(1, 40, 50))];
        assert_eq!(read(old(0)), Err(OWN));
        assert_eq!(read(old(1)), Ok(()), "another node's reads may be briefly old");
        let concurrent = vec![set(1, 0, 25, ACK), set(2, 20, 30, ACK), get(1, 40, 50)];
        assert_eq!(read(concurrent), Ok(()));
        assert_eq!(read(vec![set(1, 0, 10, ACK), delete(20, 30, ACK), get(1, 40, 50)]), Err(OWN));
        assert_eq!(read(vec![delete(0, 10, ACK), set(1, 20, 30, ACK), get(1, 40, 50)]), Ok(()));
    }

    #[test]
    fn what_is_acknowledged_is_seen_through_every_node() {
        let check = |operations| {
            seen_everywhere(&history(operations)).map_err(|violation| violation.promise)
        };
        let two = || vec![set(1, 0, 10, ACK), set(2, 20, 30, ACK)];
        let then = |read: Operation| [two(), vec![through(1, read)]].concat();
        assert_eq!(check(then(get(2, 40, 50))), Ok(()));
        assert_eq!(check(then(get(1, 40, 50))), Err(SEEN), "the second was acknowledged before");
        assert_eq!(check(then(miss(40, 50))), Err(SEEN));
        assert_eq!(check(then(get(1, 25, 50))), Ok(()), "it began before the acknowledgement");
        let failed = vec![set(1, 0, 10, ACK), set(2, 20, 30, MAYBE), get(1, 40, 50)];
        assert_eq!(check(failed), Ok(()));
        let at_once = vec![set(1, 0, 25, ACK), set(2, 20, 30, ACK), get(1, 40, 50)];
        assert_eq!(check(at_once), Ok(()));
        let deleted = |read| vec![set(1, 0, 10, ACK), delete(20, 30, ACK), through(1, read)];
        assert_eq!(check(deleted(miss(40, 50))), Ok(()));
        assert_eq!(check(deleted(get(1, 40, 50))), Err(SEEN));
        let perhaps = vec![set(1, 0, 10, ACK), delete(20, 30, MAYBE), miss(40, 50)];
        assert_eq!(check(perhaps), Ok(()));
        let again = vec![delete(0, 10, ACK), set(1, 20, 30, ACK), through(1, miss(40, 50))];
        assert_eq!(check(again), Err(SEEN), "the key was deleted before that");
        assert_eq!(check(vec![miss(0, 10), set(1, 20, 30, ACK)]), Ok(()));
        assert_eq!(check(vec![op(Kind::SetFor(1), 0, 10, ACK), miss(40, 50)]), Ok(()));
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
            converged(
                0,
                &[(0, 1), (1, 1)],
                &[stored(0, 5, 1), stored(1, 5, 1), stored(2, 4, 1)],
                2
            ),
            Ok(())
        );
        assert_eq!(converged(0, &[(0, 1), (1, 1)], &[], 2), Ok(()));
        let promise =
            |stored: &[Stored]| converged(0, &[(0, 1), (1, 1)], stored, 2).map_err(|it| it.promise);
        assert_eq!(promise(&[stored(0, 5, 1), stored(1, 4, 1)]), Err(EQUAL));
        assert_eq!(
            promise(&[stored(0, 5, 1), stored(1, 5, 2)]),
            Err(EQUAL),
            "one version, two contents"
        );
        assert_eq!(promise(&[stored(0, 5, 1)]), Err(EQUAL), "a delete that one has forgotten");
        let too_few = converged(0, &[(0, 1)], &[stored(0, 5, 1)], 2).map_err(|it| it.promise);
        assert_eq!(too_few, Err(COPIES));
    }
}
