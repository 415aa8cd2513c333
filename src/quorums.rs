//! [`Quorums`]: N, W and R, and all arithmetic that is done with them.
//!
//! A cluster keeps N copies of a key, or with [`Replicas::All`](crate::Replicas::All) one on every
//! node. In the second case W cannot be a fixed number, because the number of nodes changes. It is
//! counted from the other end instead, which is what [`Count`] expresses:
//!
//! | configured | N | W | R |
//! |---|---|---|---|
//! | `replicas(3)` | `Exactly(3)` | `Exactly(2)` | `Exactly(1)` |
//! | `replicas(Replicas::All)` | `AllBut(0)` | `AllBut(1)` | `Exactly(1)` |
//!
//! Invariants, which `Config` checks: N is `AllBut(0)` exactly if W is an `AllBut`. R is an
//! `Exactly`. No number exceeds [`MAX_REPLICAS`].

use std::fmt;

use crate::options::Quorum;
use crate::types::MAX_REPLICAS;

/// The most copies of a partition if every node keeps one. No list of replicas is longer.
pub(crate) const MAX_COPIES: usize = 255;

/// A number of replicas: fixed, or counted from the number of nodes that there are.
///
/// Errors print it as `3`, `all` or `all but 1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Count {
    /// Exactly this number of replicas.
    Exactly(u8),
    /// All replicas but this number, and in any case more than half of them. `AllBut(0)` is all.
    AllBut(u8),
}

/// N, W and R of one cluster or data center.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Quorums {
    /// N: how many nodes keep a copy of a key.
    pub(crate) replicas: Count,
    /// W: how many replicas must apply a write before it is acknowledged.
    pub(crate) write: Count,
    /// R: how many replicas must answer a read.
    pub(crate) read: Count,
}

impl Count {
    /// Every replica.
    pub(crate) const ALL: Self = Self::AllBut(0);
    /// More than half of the replicas. All but 127 of at most [`MAX_COPIES`] are never more than
    /// that, so the second half of the rule decides.
    pub(crate) const MAJORITY: Self = Self::AllBut(127);

    /// Returns what the count means in a list of `members` replicas.
    ///
    /// An `AllBut` is a majority at least: two writes must share a replica, or the later one could
    /// be stamped below the earlier.
    #[inline]
    pub(crate) fn count(self, members: usize) -> usize {
        match self {
            Self::Exactly(count) => usize::from(count),
            Self::AllBut(missing) => members.saturating_sub(missing.into()).max(members / 2 + 1),
        }
    }

    /// Returns how many of `nodes` nodes keep a copy: N, this count, or all of them if they are
    /// fewer. At most [`MAX_COPIES`] do.
    pub(crate) fn copies(self, nodes: usize) -> usize {
        self.count(nodes).min(nodes).min(MAX_COPIES)
    }

    /// Returns how many of a list's `members` have, together, every write that it acknowledged. If
    /// as many count in it no more, W, which is this count, is out of reach for the others.
    pub(crate) fn transfer_quorum(self, members: usize) -> usize {
        (members + 1).saturating_sub(self.count(members)).max(1)
    }

    /// Returns the count as one byte, as it crosses the wire: an `Exactly` as itself, and an
    /// `AllBut` as 255 less its number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Exactly(count) => count,
            Self::AllBut(missing) => u8::MAX - missing,
        }
    }

    /// Returns the count that has this [`code`](Self::code). Every byte is the code of one count.
    pub(crate) fn from_code(code: u8) -> Self {
        const MAJORITY: u8 = u8::MAX / 2 + 1;
        match code {
            0..MAJORITY => Self::Exactly(code),
            _ => Self::AllBut(u8::MAX - code),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exactly(count) => write!(f, "{count}"),
            Self::ALL => f.write_str("all"),
            Self::MAJORITY => f.write_str("a majority"),
            Self::AllBut(missing) => write!(f, "all but {missing}"),
        }
    }
}

impl Quorums {
    /// One copy, which acknowledges and answers alone.
    pub(crate) const ONE: Self =
        Self { replicas: Count::Exactly(1), write: Count::Exactly(1), read: Count::Exactly(1) };

    /// Returns the quorums of a fixed number of copies.
    #[cfg(test)]
    pub(crate) const fn exactly(replicas: u8, write: u8, read: u8) -> Self {
        let (replicas, write) = (Count::Exactly(replicas), Count::Exactly(write));
        Self { replicas, write, read: Count::Exactly(read) }
    }

    /// Returns f = N − W: how many replicas may miss an acknowledged write.
    pub(crate) fn tolerated(self) -> usize {
        // N and W are counted from the same end, and there codes differ as the numbers do.
        self.replicas.code().saturating_sub(self.write.code()).into()
    }

    /// Returns the fewest nodes of which all writes reach a majority: N, or 2 f + 1 if every node
    /// keeps a copy. (Below that, all but f are not more than half of the nodes.)
    pub(crate) fn fewest_nodes(self) -> usize {
        match self.replicas {
            Count::Exactly(replicas) => replicas.into(),
            Count::AllBut(_) => 2 * self.tolerated() + 1,
        }
    }

    /// Returns how many members calls need at least: W and R of them. With a copy on every node,
    /// one member can be enough for W.
    pub(crate) fn members_needed(self) -> usize {
        self.write.count(1).max(self.read.count(1))
    }

    /// Whether any two writes share a replica: 2 W > N.
    pub(crate) fn writes_overlap(self) -> bool {
        self.fewest_nodes() > 2 * self.tolerated()
    }

    /// Whether a read of R replicas meets every acknowledged write: W + R > N.
    pub(crate) fn reads_see_writes(self) -> bool {
        // An `AllBut` never stands for R.
        self.read.count(1) > self.tolerated()
    }

    /// Returns how many replicas must acknowledge a write that asks for `asked`.
    ///
    /// # Errors
    ///
    /// The number that was asked for, if it is below W or above N, or if every node keeps a copy:
    /// no number is then at least W for every number of nodes.
    pub(crate) fn of_write(self, asked: Quorum) -> Result<Count, usize> {
        match (asked, self.write, self.replicas) {
            (Quorum::Count(asked), Count::Exactly(least), Count::Exactly(most))
                if (least.into()..=most.into()).contains(&asked) =>
            {
                Ok(Count::Exactly(asked as u8))
            }
            (Quorum::Count(asked), ..) => Err(asked),
            (Quorum::Configured | Quorum::EveryLive, ..) => Ok(self.write),
            (Quorum::Majority, ..) => Ok(self.majority_over(self.write)),
            (Quorum::All, ..) => Ok(self.replicas),
        }
    }

    /// Whether a write that asks for `asked` also waits for every other replica that is alive, for
    /// a short time. `by_default` says whether one that asks for nothing does.
    ///
    /// Where two writes need not share a replica, all of them wait: only with the answers of all
    /// replicas is a write stamped above each one that was acknowledged before.
    pub(crate) fn waits_for_every_live(self, asked: Quorum, by_default: bool) -> bool {
        match asked {
            Quorum::EveryLive => true,
            Quorum::Configured if by_default => true,
            _ => !self.writes_overlap(),
        }
    }

    /// Returns how many replicas must answer a read that asks for `asked`.
    ///
    /// # Errors
    ///
    /// The number that was asked for, if it is zero or above N. If every node keeps a copy, at most
    /// [`MAX_REPLICAS`] can be asked for as a number.
    #[inline]
    pub(crate) fn of_read(self, asked: Quorum) -> Result<Count, usize> {
        match asked {
            Quorum::Count(asked) if (1..=self.most_answers()).contains(&asked) => {
                Ok(Count::Exactly(asked as u8))
            }
            Quorum::Count(asked) => Err(asked),
            Quorum::Configured | Quorum::EveryLive => Ok(self.read),
            Quorum::Majority => Ok(self.majority_over(self.read)),
            Quorum::All => Ok(self.replicas),
        }
    }

    fn most_answers(self) -> usize {
        match self.replicas {
            Count::Exactly(replicas) => replicas.into(),
            Count::AllBut(_) => MAX_REPLICAS,
        }
    }

    /// Returns a majority of N, or what is configured if that is more.
    fn majority_over(self, configured: Count) -> Count {
        match (self.replicas, configured) {
            (Count::Exactly(replicas), Count::Exactly(least)) => {
                Count::Exactly(least.max(replicas / 2 + 1))
            }
            // All but f are a majority already, and for every number of nodes.
            (_, Count::AllBut(_)) => configured,
            (Count::AllBut(_), Count::Exactly(_)) => Count::MAJORITY,
        }
    }

    /// Returns how many synced members of a list have, together, every acknowledged write:
    /// N − W + 1.
    pub(crate) fn all_writes(self) -> usize {
        self.tolerated() + 1
    }

    /// Returns how many members of a list must have nothing before a read believes it: enough that
    /// one of them has each acknowledged write.
    ///
    /// That is N − W + 1, or all members if they are fewer. A list that is too short to acknowledge
    /// a write confirms nothing: the count is then beyond its members.
    pub(crate) fn miss_confirmed_by(self, members: usize) -> usize {
        self.all_writes().min(members.max(self.write.count(members)))
    }

    /// Returns how many nodes decide what follows a list of this many members, if there are as many
    /// nodes: 2 W − 1. So as many of them can die as the data survives the death of.
    pub(crate) fn acceptors(self, members: usize) -> usize {
        (2 * self.write.count(members)).saturating_sub(1).max(members)
    }

    /// Whether one replica acknowledges a write: W = 1.
    #[inline]
    pub(crate) fn one_acknowledges(self) -> bool {
        self.write == Count::Exactly(1)
    }

    /// Whether one replica answers a read: R = 1.
    #[inline]
    pub(crate) fn one_answers(self) -> bool {
        self.read == Count::Exactly(1)
    }

    /// Returns how many replicas must tell a key's version before a write of it is stamped.
    ///
    /// With R = 1 it is none. Otherwise as many as R, and enough to have every acknowledged write
    /// among them: the stamp must exceed the version of each write that was acknowledged before.
    #[inline]
    pub(crate) fn versions_needed(self) -> usize {
        if self.one_answers() { 0 } else { self.read.count(1).max(self.all_writes()) }
    }

    /// Returns how many copies of a partition there should be at least: N, or f + 1 if every node
    /// keeps a copy.
    pub(crate) fn copies_wanted(self) -> usize {
        match self.replicas {
            Count::Exactly(replicas) => replicas.into(),
            Count::AllBut(_) => self.tolerated() + 1,
        }
    }

    /// Returns how many members a cluster needs for its birth: W, or f + 1 if every node keeps a
    /// copy.
    ///
    /// Then no node that starts alone takes its empty memory for all the data there is.
    pub(crate) fn least_at_birth(self) -> usize {
        match self.write {
            Count::Exactly(write) => write.into(),
            Count::AllBut(missing) => usize::from(missing) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_every_node(missing: u8, read: u8) -> Quorums {
        let (write, read) = (Count::AllBut(missing), Count::Exactly(read));
        Quorums { replicas: Count::ALL, write, read }
    }

    #[test]
    fn counts_from_the_other_end_follow_the_list_and_are_majorities() {
        let of = |count: Count| [1, 2, 3, 4, 7].map(|members| count.count(members));
        assert_eq!(of(Count::Exactly(2)), [2; 5], "a number is a number");
        assert_eq!(of(Count::ALL), [1, 2, 3, 4, 7]);
        assert_eq!(of(Count::AllBut(1)), [1, 2, 2, 3, 6]);
        assert_eq!(of(Count::AllBut(3)), [1, 2, 2, 3, 4]);
        assert_eq!(of(Count::MAJORITY), [1, 2, 2, 3, 4]);
        assert_eq!(Count::MAJORITY.count(255), 128, "as many nodes as there can be");
        assert_eq!(Count::ALL.count(0), 1, "an empty list acknowledges nothing");
    }

    #[test]
    fn each_byte_is_the_code_of_one_count() {
        for code in 0..=u8::MAX {
            assert_eq!(Count::from_code(code).code(), code);
        }
        assert_eq!(Count::from_code(3), Count::Exactly(3));
        assert_eq!(Count::from_code(255), Count::ALL);
        assert_eq!(Count::from_code(254), Count::AllBut(1));
        assert_eq!(Count::from_code(128), Count::MAJORITY);
    }

    #[test]
    fn counts_are_printed_as_people_write_them() {
        let text = |count: Count| count.to_string();
        assert_eq!(text(Count::Exactly(3)), "3");
        assert_eq!(text(Count::ALL), "all");
        assert_eq!(text(Count::AllBut(1)), "all but 1");
        assert_eq!(text(Count::MAJORITY), "a majority");
    }

    #[test]
    fn a_write_may_miss_as_many_replicas_as_w_leaves_out() {
        assert_eq!(Quorums::ONE.tolerated(), 0);
        assert_eq!(Quorums::exactly(3, 2, 1).tolerated(), 1);
        assert_eq!(Quorums::exactly(5, 2, 1).tolerated(), 3);
        assert_eq!(on_every_node(0, 1).tolerated(), 0);
        assert_eq!(on_every_node(2, 1).tolerated(), 2);
        let both = [Quorums::exactly(3, 2, 1), on_every_node(2, 1)];
        assert_eq!(both.map(Quorums::all_writes), [2, 3]);
        assert_eq!(both.map(Quorums::copies_wanted), [3, 3]);
        assert_eq!(both.map(Quorums::least_at_birth), [2, 3]);
        assert_eq!(both.map(Quorums::fewest_nodes), [3, 5]);
    }

    #[test]
    fn what_stays_in_a_list_that_was_left_acknowledges_nothing() {
        for members in 1..=7 {
            for write in [Count::Exactly(2), Count::ALL, Count::AllBut(1), Count::MAJORITY] {
                let left = write.transfer_quorum(members);
                assert!(left >= 1 && members - left < write.count(members), "{write} of {members}");
            }
        }
        assert_eq!(Count::Exactly(2).transfer_quorum(5), 4);
        assert_eq!(Count::AllBut(1).transfer_quorum(5), 2);
    }

    #[test]
    fn a_majority_of_the_acceptors_is_w_or_more() {
        for (replicas, write) in [(1, 1), (2, 2), (3, 2), (3, 3), (4, 3), (5, 3), (5, 4)] {
            let acceptors = Quorums::exactly(replicas, write, 1).acceptors(replicas.into());
            assert_eq!(acceptors, 2 * usize::from(write) - 1);
        }
        assert_eq!(Quorums::exactly(3, 1, 1).acceptors(3), 3, "each member is one");
        assert_eq!(on_every_node(1, 1).acceptors(3), 3);
    }

    #[test]
    fn no_more_copies_than_nodes() {
        let of = |count: Count| [0, 1, 2, 7, 300].map(|nodes| count.copies(nodes));
        assert_eq!(of(Count::Exactly(3)), [0, 1, 2, 3, 3]);
        assert_eq!(of(Count::ALL), [0, 1, 2, 7, 255]);
    }

    #[test]
    fn a_strong_write_asks_for_versions_first() {
        assert!(Quorums::ONE.one_answers() && !Quorums::exactly(3, 2, 2).one_answers());
        assert_eq!(Quorums::exactly(3, 2, 1).versions_needed(), 0);
        assert_eq!(Quorums::exactly(3, 2, 2).versions_needed(), 2);
        assert_eq!(Quorums::exactly(4, 3, 3).versions_needed(), 3, "R of them at least");
        assert_eq!(Quorums::exactly(5, 1, 2).versions_needed(), 5, "or one that has each write");
        assert_eq!(on_every_node(1, 1).versions_needed(), 0);
        assert_eq!(on_every_node(1, 2).versions_needed(), 2);
    }

    #[test]
    fn a_miss_is_confirmed_by_enough_members_to_have_every_write() {
        let of = |quorums: Quorums| [1, 2, 3, 5].map(|members| quorums.miss_confirmed_by(members));
        assert_eq!(of(Quorums::exactly(3, 2, 1)), [2; 4], "one member acknowledges nothing");
        assert_eq!(of(Quorums::exactly(3, 3, 1)), [1; 4], "each member has all writes");
        assert_eq!(of(Quorums::exactly(3, 1, 1)), [1, 2, 3, 3], "a list of one acknowledges");
        assert_eq!(of(Quorums::exactly(5, 3, 1)), [3; 4]);
        assert_eq!(of(Quorums::exactly(5, 2, 1)), [2, 2, 3, 4]);
        assert_eq!(of(on_every_node(1, 1)), [1, 2, 2, 2]);
        assert_eq!(of(on_every_node(2, 1)), [1, 2, 3, 3]);
    }

    #[test]
    fn the_members_that_calls_need() {
        assert_eq!(Quorums::exactly(3, 2, 1).members_needed(), 2);
        assert_eq!(Quorums::exactly(3, 1, 3).members_needed(), 3);
        assert_eq!(on_every_node(1, 1).members_needed(), 1);
        assert_eq!(on_every_node(1, 2).members_needed(), 2);
    }

    #[test]
    fn quorums_overlap_as_their_sums_do() {
        for replicas in 1..=7_u8 {
            for write in 1..=replicas {
                for read in 1..=replicas {
                    let quorums = Quorums::exactly(replicas, write, read);
                    assert_eq!(quorums.writes_overlap(), 2 * write > replicas, "{quorums:?}");
                    assert_eq!(quorums.reads_see_writes(), write + read > replicas, "{quorums:?}");
                }
            }
        }
        assert!(on_every_node(16, 1).writes_overlap(), "all but f are a majority at least");
        assert!(on_every_node(1, 2).reads_see_writes() && !on_every_node(2, 2).reads_see_writes());
    }

    #[test]
    fn a_call_asks_for_w_to_n_acknowledgements_and_for_one_to_n_answers() {
        let quorums = Quorums::exactly(5, 2, 1);
        assert_eq!(quorums.of_write(Quorum::Configured), Ok(Count::Exactly(2)));
        assert_eq!(quorums.of_write(Quorum::Majority), Ok(Count::Exactly(3)));
        assert_eq!(quorums.of_write(Quorum::All), Ok(Count::Exactly(5)));
        assert_eq!(quorums.of_read(Quorum::Configured), Ok(Count::Exactly(1)));
        assert_eq!(quorums.of_read(Quorum::Majority), Ok(Count::Exactly(3)));
        assert_eq!(quorums.of_read(Quorum::All), Ok(Count::Exactly(5)));
        for asked in [0, 1, 6, 300] {
            assert_eq!(quorums.of_write(Quorum::Count(asked)), Err(asked));
        }
        for asked in [0, 6, 300] {
            assert_eq!(quorums.of_read(Quorum::Count(asked)), Err(asked));
        }
        assert_eq!(quorums.of_write(Quorum::Count(4)), Ok(Count::Exactly(4)));
        assert_eq!(quorums.of_read(Quorum::Count(4)), Ok(Count::Exactly(4)));
        assert_eq!(Quorums::exactly(5, 4, 1).of_write(Quorum::Majority), Ok(Count::Exactly(4)));
    }

    #[test]
    fn a_write_waits_for_every_live_replica_if_it_asks_or_shares_none_with_others() {
        let quorums = Quorums::exactly(3, 2, 1);
        assert_eq!(quorums.of_write(Quorum::EveryLive), Ok(Count::Exactly(2)));
        assert_eq!(quorums.of_read(Quorum::EveryLive), Ok(Count::Exactly(1)));
        let asked = [Quorum::Configured, Quorum::EveryLive, Quorum::Count(2), Quorum::All];
        let waits = |quorums: Quorums, by_default| {
            asked.map(|asked| quorums.waits_for_every_live(asked, by_default))
        };
        assert_eq!(waits(quorums, false), [false, true, false, false]);
        assert_eq!(waits(quorums, true), [true, true, false, false]);
        assert_eq!(waits(Quorums::exactly(3, 1, 1), false), [true; 4]);
        assert_eq!(waits(Quorums::exactly(4, 2, 1), false), [true; 4]);
        assert_eq!(waits(on_every_node(1, 1), false), [false, true, false, false]);
    }

    /// When N was the number 255 and W 255 − f, a write that asked for 254 replicas got all but
    /// one.
    #[test]
    fn where_every_node_has_a_copy_a_write_cannot_ask_for_a_number() {
        let quorums = on_every_node(1, 1);
        assert_eq!(quorums.of_write(Quorum::Configured), Ok(Count::AllBut(1)));
        assert_eq!(quorums.of_write(Quorum::Majority), Ok(Count::AllBut(1)));
        assert_eq!(quorums.of_write(Quorum::All), Ok(Count::ALL));
        for asked in [0, 1, 3, 254, 255, 256] {
            assert_eq!(quorums.of_write(Quorum::Count(asked)), Err(asked));
        }
        assert_eq!(quorums.of_read(Quorum::Majority), Ok(Count::MAJORITY));
        assert_eq!(quorums.of_read(Quorum::All), Ok(Count::ALL));
        assert_eq!(quorums.of_read(Quorum::Count(16)), Ok(Count::Exactly(16)));
        for asked in [0, 17, 254] {
            assert_eq!(quorums.of_read(Quorum::Count(asked)), Err(asked));
        }
    }
}
