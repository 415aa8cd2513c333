//! [`List`]: the replicas of one partition, in order, as quorums are counted in them; and how lists
//! follow each other.
//!
//! ```text
//!   list 1 ──▶ list 2 ──▶ list 3 ──▶ list 4      decided: each by a quorum of the list before
//!                  └────▶ list 3' ─▶ list 4'     a fork: made without such a quorum
//! ```
//!
//! **Order.** A list knows the forks through which it descends, as numbers and ids. A child is
//! above its parent. Of two children of one list, the decided one is above a fork, and of two forks
//! the one with the higher id. Their descendants are ordered as these children are. So any two
//! lists of a partition are ordered, and all nodes order them in the same way.
//!
//! A partition's first list is a fork of nothing: clusters that were born apart and meet have an
//! order, too.

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::members_digest;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::{Boot, Identity, NodeHash};

/// How many forks a list remembers: the latest. Two lists that parted longer ago than that many
/// forks are ordered by what they remember.
pub(crate) const MAX_FORKS: usize = 16;

/// The replicas of one partition, in order, as a quorum is counted in them. Immutable; a change of
/// replicas is a new list with the next number.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct List {
    reference: ListRef,
    ancestry: Ancestry,
    members: Box<[Identity]>,
    /// The acceptors of the next list that keep no copy.
    witnesses: Box<[Identity]>,
}

/// The list that a list follows, and the forks through which it descends.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Ancestry {
    /// The list that it follows. A replica that has that one open has this one open, too.
    pub(crate) base: Option<ListRef>,
    /// The members of that list, from which those that come in copy.
    pub(crate) before: Box<[Identity]>,
    /// The forks through which it descends, oldest first, at most [`MAX_FORKS`].
    pub(crate) forks: Box<[Fork]>,
}

/// A list that was made without a quorum of the one before: its number, and an id that no other
/// fork of that number has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Fork {
    pub(crate) number: u64,
    pub(crate) id: u64,
}

/// A list's number and the digest of all that it is: what a request carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct ListRef {
    pub(crate) number: u64,
    pub(crate) digest: u64,
}

/// Who a list should consist of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wish {
    /// The members, best first.
    pub(crate) members: Vec<Identity>,
    /// The acceptors of the next list that keep no copy.
    pub(crate) witnesses: Vec<Identity>,
}

/// The number of a proposal of the next list. No two proposers have one ballot, because a life of a
/// node uses each round once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Ballot {
    pub(crate) round: u64,
    pub(crate) node: NodeHash,
    pub(crate) boot: Boot,
}

impl Default for Ballot {
    /// Returns the ballot below all others.
    fn default() -> Self {
        Self { round: 0, node: NodeHash(0), boot: Boot(0) }
    }
}

impl Ballot {
    /// Whether this life of a node may use it.
    pub(crate) fn is_of(&self, life: &Identity) -> bool {
        (self.node, self.boot) == (life.node, life.boot)
    }

    /// Returns `me`'s ballot of the round behind `seen`.
    pub(crate) fn above(seen: Self, me: &Identity) -> Self {
        Self { round: seen.round.saturating_add(1), node: me.node, boot: me.boot }
    }
}

impl List {
    /// Makes a partition's first list, as all nodes make it that see the same members.
    pub(crate) fn first(wish: &Wish) -> Arc<Self> {
        let id = members_digest(wish.members.iter().chain(&wish.witnesses));
        let forks = [Fork { number: 1, id }].into();
        Self::of(1, wish, Ancestry { forks, ..Ancestry::default() })
    }

    /// Makes a partition's first list where all that was there is lost.
    pub(crate) fn first_again(wish: &Wish, maker: &Identity) -> Arc<Self> {
        let forks = [fork_of(1, ListRef::default(), maker)].into();
        Self::of(1, wish, Ancestry { forks, ..Ancestry::default() })
    }

    /// Makes the list that is to be decided as the next one.
    pub(crate) fn next(&self, wish: &Wish) -> Arc<Self> {
        let forks = self.ancestry.forks.clone();
        let base = Some(self.reference);
        Self::of(self.number() + 1, wish, Ancestry { base, before: self.members.clone(), forks })
    }

    /// Makes a next list that no quorum of this one has decided. A life of a node makes one at
    /// most: from then on it knows that one.
    pub(crate) fn fork(&self, wish: &Wish, maker: &Identity) -> Arc<Self> {
        let number = self.number() + 1;
        let kept = self.ancestry.forks.len().saturating_sub(MAX_FORKS - 1);
        let mut forks = self.ancestry.forks[kept..].to_vec();
        forks.push(fork_of(number, self.reference, maker));
        let (base, before) = (Some(self.reference), self.members.clone());
        Self::of(number, wish, Ancestry { base, before, forks: forks.into() })
    }

    /// Makes a list of what is known of it.
    pub(crate) fn of(number: u64, wish: &Wish, ancestry: Ancestry) -> Arc<Self> {
        let lives = |members: &[Identity]| members.iter().map(Identity::life).collect::<Box<[_]>>();
        let (members, witnesses) = (lives(&wish.members), lives(&wish.witnesses));
        let mut bytes = Vec::new();
        for part in [&members, &witnesses, &ancestry.before] {
            bytes.extend_from_slice(&members_digest(part.iter()).to_le_bytes());
        }
        let base = ancestry.base.unwrap_or_default();
        let forks = ancestry.forks.iter().flat_map(|fork| [fork.number, fork.id]);
        for value in [base.number, base.digest].into_iter().chain(forks) {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let digest = xxh3_64(&bytes);
        Arc::new(Self { reference: ListRef { number, digest }, ancestry, members, witnesses })
    }

    pub(crate) fn reference(&self) -> ListRef {
        self.reference
    }

    pub(crate) fn number(&self) -> u64 {
        self.reference.number
    }

    pub(crate) fn ancestry(&self) -> &Ancestry {
        &self.ancestry
    }

    /// Returns the list that it follows.
    pub(crate) fn base(&self) -> Option<ListRef> {
        self.ancestry.base
    }

    /// Returns the members of the list that it follows.
    pub(crate) fn before(&self) -> &[Identity] {
        &self.ancestry.before
    }

    /// Whether one of the two descends from the other, and each list between them was decided. So
    /// it is for as long as both remember the same forks.
    pub(crate) fn is_of_line(&self, other: &Self) -> bool {
        self.ancestry.forks == other.ancestry.forks
    }

    /// Whether no quorum has decided it.
    pub(crate) fn is_fork(&self) -> bool {
        self.ancestry.forks.last().is_some_and(|fork| fork.number == self.number())
    }

    pub(crate) fn members(&self) -> &[Identity] {
        &self.members
    }

    pub(crate) fn witnesses(&self) -> &[Identity] {
        &self.witnesses
    }

    /// Returns the nodes that decide the next list.
    pub(crate) fn acceptors(&self) -> impl Iterator<Item = &Identity> {
        self.members.iter().chain(&self.witnesses)
    }

    pub(crate) fn contains(&self, identity: &Identity) -> bool {
        has(&self.members, identity)
    }

    pub(crate) fn is_acceptor(&self, identity: &Identity) -> bool {
        has(&self.members, identity) || has(&self.witnesses, identity)
    }

    pub(crate) fn has_members(&self, members: &[Identity]) -> bool {
        *self.members == *members
    }

    /// Whether a quorum of `list` may decide it as what follows.
    pub(crate) fn is_next_of(&self, list: &Self) -> bool {
        let Ancestry { base, before, forks } = &self.ancestry;
        *base == Some(list.reference) && **before == *list.members && *forks == list.ancestry.forks
    }

    /// Whether it is as wished.
    pub(crate) fn is(&self, wish: &Wish) -> bool {
        *self.members == *wish.members && *self.witnesses == *wish.witnesses
    }

    /// Whether a node that knows `other` moves to this list.
    pub(crate) fn is_above(&self, other: &Self) -> bool {
        // Of one that has forgotten its oldest forks, only the others are compared.
        let oldest = |forks: &[Fork]| match forks {
            [first, ..] if forks.len() == MAX_FORKS => first.number,
            _ => 0,
        };
        let known_from = oldest(&self.ancestry.forks).max(oldest(&other.ancestry.forks));
        let known = |list: &'_ Self| {
            let forks = list.ancestry.forks.iter().copied();
            forks.filter(|fork| fork.number >= known_from).collect::<Vec<_>>()
        };
        let (mine, others) = (known(self), known(other));
        let common = mine.iter().zip(&others).take_while(|(mine, other)| mine == other).count();
        match (mine.get(common), others.get(common)) {
            (Some(mine), Some(others)) => mine > others,
            (Some(mine), None) => other.number() < mine.number,
            (None, Some(others)) => self.number() >= others.number,
            (None, None) => self.reference > other.reference,
        }
    }
}

fn has(members: &[Identity], identity: &Identity) -> bool {
    let is_other_life = |member: &Identity| rule(ProtocolMutant::BootIgnored, member != identity);
    members.iter().any(|it| it.node == identity.node && !is_other_life(it))
}

/// Returns the fork of `base` that `maker` makes.
fn fork_of(number: u64, base: ListRef, maker: &Identity) -> Fork {
    let parts = [number, base.number, base.digest, maker.node.0, maker.boot.0];
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_le_bytes()).collect();
    Fork { number, id: xxh3_64(&bytes) }
}

impl fmt::Debug for ListRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{:04x}", self.number, self.digest >> 48)
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = |members: &[Identity]| members.iter().map(|m| m.node).collect::<Vec<_>>();
        let fork = if self.is_fork() { "'" } else { "" };
        write!(f, "{:?}{fork}{:?}", self.reference, nodes(&self.members))?;
        if !self.witnesses.is_empty() {
            write!(f, "+{:?}", nodes(&self.witnesses))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u64) -> Identity {
        let (node, boot, addr) = (NodeHash(number), Boot(1), ([127, 0, 0, 1], 1).into());
        Identity { node, boot, returns: 0, addr }
    }

    fn wish(members: impl IntoIterator<Item = u64>) -> Wish {
        Wish { members: members.into_iter().map(node).collect(), witnesses: Vec::new() }
    }

    /// A list with its descendants: decided ones, forks, and the children of these.
    fn family() -> Vec<Arc<List>> {
        let mut all = vec![List::first(&wish([1, 2, 3])), List::first(&wish([7, 8, 9]))];
        let mut parents = vec![all[0].clone()];
        for generation in 0..3 {
            let mut children = Vec::new();
            for parent in &parents {
                children.push(parent.next(&wish([1, 2, generation + 4])));
                children.push(parent.fork(&wish([2, 3, generation + 4]), &node(2)));
                children.push(parent.fork(&wish([3, 1, generation + 4]), &node(3)));
            }
            all.append(&mut parents);
            parents = children;
        }
        all.append(&mut parents);
        all
    }

    #[test]
    fn any_two_lists_are_ordered_and_so_are_any_three() {
        let all = family();
        for a in &all {
            for b in &all {
                let is_same = a.reference() == b.reference();
                assert_eq!(a.is_above(b) || b.is_above(a), !is_same, "{a:?} {b:?}");
                assert!(!(a.is_above(b) && b.is_above(a)), "{a:?} {b:?}");
                for c in &all {
                    let in_turn = a.is_above(b) && b.is_above(c);
                    assert!(!in_turn || a.is_above(c), "{a:?} {b:?} {c:?}");
                }
            }
        }
    }

    #[test]
    fn a_child_is_above_its_parent_and_a_decided_one_above_forks_and_their_descendants() {
        let parent = List::first(&wish([1, 2, 3]));
        let decided = parent.next(&wish([1, 2, 4]));
        let fork = parent.fork(&wish([3, 5, 6]), &node(3));
        let grandchild = fork.next(&wish([3, 5, 7])).next(&wish([3, 5, 8]));
        assert!(decided.is_above(&parent) && fork.is_above(&parent));
        assert!(decided.is_above(&fork) && decided.is_above(&grandchild));
        assert!(grandchild.is_above(&fork) && grandchild.is_above(&parent));
        assert!(fork.is_fork() && !grandchild.is_fork() && !decided.is_fork());
    }

    #[test]
    fn forks_that_were_forgotten_do_not_change_the_order() {
        let mut list = List::first(&wish([1, 2, 3]));
        let mut older = Vec::new();
        for round in 0..3 * MAX_FORKS as u64 {
            older.push(list.clone());
            list = list.fork(&wish([1, 2, 4 + round]), &node(1));
            assert!(older.iter().all(|old| list.is_above(old) && !old.is_above(&list)));
            assert!(list.ancestry().forks.len() <= MAX_FORKS);
        }
    }

    #[test]
    fn lists_of_other_witnesses_or_parents_are_other_lists() {
        let parent = List::first(&wish([1, 2]));
        let with_witness = Wish { witnesses: vec![node(9)], ..wish([1, 2]) };
        let plain = parent.next(&wish([1, 2]));
        assert_ne!(plain.reference(), parent.next(&with_witness).reference());
        assert_ne!(plain.reference(), List::first(&wish([1, 3])).next(&wish([1, 2])).reference());
        assert!(parent.next(&with_witness).is_acceptor(&node(9)) && !plain.is_acceptor(&node(9)));
    }
}
