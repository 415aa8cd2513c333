//! What the members' reports mean for a partition's list: which list counts, whether this node may
//! replace it, what comes next, and who must hear of it.
//!
//! **Problem.** The reports come from members that may know different lists, and some members do
//! not answer. A wrong decision lets two lists acknowledge writes at the same time, or leaves an
//! acknowledged write behind.
//!
//! | what was reported | what this node does |
//! |---|---|
//! | no list | makes the first one, when no member has known any for a while |
//! | a list with members that this node never heard of | waits: a node that knows more made it |
//! | enough members of the list that counts are here | replaces it |
//! | too few, and the others are dead for every member | replaces it without the dead, or waits |
//! | too few, for any other reason | waits |
//!
//! **Invariant: one list counts.** A list is replaced when enough of its members have adopted the
//! next one ([`List::leave_quorum`]): the rest can acknowledge nothing, and no other list can
//! replace it too. A member is excused only if it is taken for dead, and only when every living
//! member has reported and takes the same members for dead. Otherwise a later list might exist that
//! only its own members know, and these might be alive behind a network partition. If too many are
//! dead, both sides of a network partition go on. A list too short to acknowledge a write is not
//! made that way: a node that is cut off from all others keeps the list it had.
//!
//! With [`OnPartition::Majority`] no member is ever excused, and no first list is made for a
//! partition that was lost: it waits. Then no two sides have a list that counts.
//!
//! **When lists meet.**
//!
//! - *Of different numbers:* the higher one counts. A replica adopts it, and is synced in it only
//!   if it was synced in its base.
//! - *Of one number:* each stays with the replicas that adopted it. A node that finds both makes
//!   one above them without a base. In that one each replica merges every holder before it is
//!   synced.
//! - *Made by two newcomers from one old list:* they are the same list, because number, members and
//!   base determine its id. So the newcomers need not agree on who drives.
//!
//! Everything here is a function of the reports. This file asks no member and keeps nothing.

use std::sync::Arc;

use super::copy::Sources;
use crate::mutants::{ProtocolMutant, rule};
use crate::options::OnPartition;
use crate::placement::{List, Placement};
use crate::quorums::Quorums;
use crate::types::Identity;
use crate::wire::message::Listed;

/// What lists go by in this node's data center.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListRules {
    pub(crate) quorums: Quorums,
    /// Whether a list goes on without the dead if too few of its members are left to replace it.
    pub(crate) on_partition: OnPartition,
}

impl ListRules {
    /// Whether a partition waits for members that are dead, rather than go on without them.
    pub(super) fn waits_for_dead(self) -> bool {
        let waits = self.on_partition == OnPartition::Majority;
        rule(ProtocolMutant::DeadExcused, waits)
    }
}

/// What this node itself knows.
pub(crate) struct Mine<'a> {
    /// What this node would report of the partition.
    pub(crate) listed: Listed,
    /// The members as this node sees them.
    pub(crate) placement: &'a Placement,
}

/// What is to become of the list.
#[derive(Debug)]
pub(super) struct Plan {
    /// The list that is to count; the old one if it has the right members.
    pub(super) list: Arc<List>,
    /// The list that counted so far; `None` if no member knew any.
    pub(super) old: Option<Arc<List>>,
    /// How many members of the old list must adopt the new one.
    pub(super) leavers: usize,
    /// Whether this node is synced in the old list.
    pub(super) is_synced: bool,
    /// Whether W members of the old list died: what they acknowledged among themselves is gone.
    pub(super) is_at_risk: bool,
}

impl Plan {
    /// Returns the plan to merge into a list that was adopted already.
    pub(super) fn only_merge(list: Arc<List>) -> Self {
        Self { list, old: None, leavers: 0, is_synced: true, is_at_risk: false }
    }

    /// Returns the plan to make the first list, of these members, when no member knows any.
    pub(super) fn first_list(members: &[Identity]) -> Self {
        let list = List::new(1, members.iter().copied(), None);
        Self { list, old: None, leavers: 0, is_synced: false, is_at_risk: true }
    }

    /// Whether enough members have left the old list: those that adopted the new one, and `me`.
    pub(super) fn is_left(&self, me: &Identity, adopted: &[Identity]) -> bool {
        let has_left = |member: &&Identity| *member == me || adopted.contains(member);
        let old = self.old.iter().flat_map(|old| old.members());
        old.filter(has_left).count() >= self.leavers
    }

    /// Whether this node and the synced members of the old list that it merged have every
    /// acknowledged write among them, though others were not merged.
    pub(super) fn suffices(&self, synced_merged: usize, quorums: Quorums) -> bool {
        self.is_synced || synced_merged >= quorums.all_writes()
    }
}

/// Whether a list may be replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leave {
    Granted,
    /// Another survey might find more members, or agreement on who is dead.
    NotYet,
    /// The next list would be too short to acknowledge a write.
    TooFewMembers,
}

/// What the members said about one partition when all of them were asked.
pub(super) struct Reports<'a> {
    pub(super) me: Identity,
    pub(super) rules: ListRules,
    /// The members that the next list should have.
    pub(super) target: &'a [Identity],
    pub(super) mine: &'a Mine<'a>,
    /// Each member that answered, in the order of the answers, and this node last.
    pub(super) reports: Vec<(Identity, Listed)>,
    /// The members that did not answer.
    pub(super) missing: Vec<Identity>,
}

impl Reports<'_> {
    /// Returns the list that counts: the highest one. `None` means that no member that answered
    /// knows any.
    pub(super) fn counting_list(&self) -> Option<Arc<List>> {
        let highest = self.lists().max_by_key(|list| list.reference());
        let lowest = self.lists().min_by_key(|list| list.reference());
        if rule(ProtocolMutant::LowestReplaced, true) { highest } else { lowest }.cloned()
    }

    /// Whether `old` has members that this node has never heard of. They are neither alive nor dead
    /// for it.
    pub(super) fn has_unknown_members(&self, old: &List) -> bool {
        let placement = self.mine.placement;
        let is_unknown = |member: &Identity| {
            !self.is_here(member) && !placement.is_alive(member) && !placement.is_dead(member)
        };
        old.members().iter().any(is_unknown)
    }

    /// Returns whether `old` may be replaced: enough of its members are here, or the others are
    /// dead for every member.
    pub(super) fn leave(&self, old: &List) -> Leave {
        let write = self.rules.quorums.write;
        if self.count_here(old) >= old.leave_quorum(write) {
            return Leave::Granted;
        }
        if self.rules.waits_for_dead() {
            return Leave::NotYet;
        }
        if self.target.len() < write.count(self.target.len()) {
            return Leave::TooFewMembers;
        }
        // If the dead are excused, a later list might be known to its own members alone.
        let placement = self.mine.placement;
        let digest = placement.digest();
        let all_agree = self.reports.iter().all(|(_, listed)| listed.members_digest == digest);
        let all_spoke = self.missing.is_empty() && placement.is_complete() && all_agree;
        if old.members().iter().any(|member| self.is_silent(member)) || !all_spoke {
            return Leave::NotYet;
        }
        Leave::Granted
    }

    /// Returns what replaces `old`: `old` itself if it has the right members, or a list with the
    /// next number.
    pub(super) fn plan(&self, old: Arc<List>) -> Plan {
        let is_disputed = self.is_disputed(&old);
        let is_kept = old.has_members(self.target) && !is_disputed;
        let list = if is_kept {
            old.clone()
        } else {
            let base = (!is_disputed).then_some(old.reference());
            List::new(old.number() + 1, self.target.iter().copied(), base)
        };
        let is_dead = |member: &&Identity| !self.is_here(member) && !self.is_silent(member);
        let dead = old.members().iter().filter(is_dead).count();
        Plan {
            is_at_risk: !is_kept && dead >= self.rules.quorums.write.count(old.members().len()),
            leavers: match rule(ProtocolMutant::NotLeft, true) {
                true => self.count_here(&old).min(old.leave_quorum(self.rules.quorums.write)),
                false => 0,
            },
            is_synced: self.is_synced_in(&old, &self.me, &self.mine.listed),
            list,
            old: Some(old),
        }
    }

    /// Chooses the replicas to copy from, best first, and returns the members that must adopt the
    /// new list.
    pub(super) fn choose_sources(
        &self,
        old: &List,
        new: &List,
        sources: &mut Sources,
    ) -> Vec<Identity> {
        for (from, listed) in self.reports.iter().filter(|(_, listed)| listed.synced) {
            sources.add(*from, self.is_synced_in(old, from, listed));
        }
        for (from, _) in self.reports.iter().filter(|(_, listed)| listed.holds) {
            sources.add(*from, false);
        }
        for member in old.members().iter().filter(|member| self.is_here(member)) {
            sources.add(*member, false);
        }
        let to_tell = self.to_tell(old, new, sources);
        // A silent member might hold something too. It is merged with the others if it can be
        // reached by then.
        self.missing.iter().for_each(|silent| sources.add(*silent, false));
        if !rule(ProtocolMutant::OneSource, true) {
            sources.truncate(1);
        }
        to_tell
    }

    /// Returns the members that must adopt the new list: the sources, its own members that are
    /// here, and every member that believes itself to be in some list.
    fn to_tell(&self, old: &List, new: &List, sources: &Sources) -> Vec<Identity> {
        let mut to_tell = sources.replicas();
        let is_believer = |(from, listed): &&(Identity, Listed)| {
            listed.list.as_ref().is_some_and(|list| list.contains(from))
        };
        let believers = self.reports.iter().filter(is_believer).map(|(from, _)| from);
        let of_new = new.members().iter().filter(|member| self.is_here(member));
        for member in of_new.chain(believers) {
            if *member != self.me && !to_tell.contains(member) {
                to_tell.push(*member);
            }
        }
        if !rule(ProtocolMutant::NotLeft, true) {
            to_tell.retain(|member| new.contains(member) && !old.contains(member));
        }
        to_tell
    }

    fn lists(&self) -> impl Iterator<Item = &Arc<List>> {
        self.reports.iter().filter_map(|(_, listed)| listed.list.as_ref())
    }

    /// Whether another list with the number of `old` exists: nodes made them that did not know of
    /// each other.
    fn is_disputed(&self, old: &List) -> bool {
        self.lists().any(|list| list.number() == old.number() && **list != *old)
    }

    /// Whether the member has reported.
    fn is_here(&self, member: &Identity) -> bool {
        self.reports.iter().any(|(from, _)| from == member)
    }

    /// Whether the member is alive and has not reported.
    fn is_silent(&self, member: &Identity) -> bool {
        !self.is_here(member) && self.mine.placement.is_alive(member)
    }

    fn count_here(&self, old: &List) -> usize {
        old.members().iter().filter(|member| self.is_here(member)).count()
    }

    /// Whether `from`, which reported `listed`, is a synced member of `old`. No member is synced in
    /// a disputed list.
    fn is_synced_in(&self, old: &List, from: &Identity, listed: &Listed) -> bool {
        let serves_old = listed.list.as_ref().is_some_and(|list| **list == *old);
        listed.synced && serves_old && old.contains(from) && !self.is_disputed(old)
    }
}
