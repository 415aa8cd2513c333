//! Helpers: the members that are asked to probe a silent member indirectly.
//!
//! **Problem.** A member that lives might never answer a direct probe: the way to it is closed, and
//! open to others. In a network of a hub and spokes that is so for most pairs of nodes. SWIM asks a
//! few members at random, and most of them might be spokes, too. Then a healthy member is
//! suspected again and again, and dead as soon as one refutation comes late.
//!
//! So it is remembered which helpers passed on an answer of which member. These are asked first,
//! then those that helped with other members. Only if none is known to help with this member, more
//! are asked than SWIM would ask, at random. A helper that was asked and passed nothing on is
//! forgotten: the way from it to the member might be closed by now.
//!
//! foca chooses its helpers by itself, and accepts the word of those alone. So these are asked in
//! addition. If one of them passes an answer on, foca is handed the ack that the member would have
//! sent if it could.
//!
//! **Limit.** A member is alive for a node if the node reaches it, or reaches one that does. Two
//! nodes between them are too far.

use std::collections::BTreeMap;

use super::swim::FAN_OUT;
use crate::types::Identity;

/// How many helpers are remembered for each member.
const KEPT: usize = 3;

/// How many members are asked if none is known to help with this one.
const MANY: usize = 16;

/// Which members have passed on answers of which.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    /// For each member its helpers, the latest first.
    by_member: BTreeMap<Identity, Vec<Identity>>,
    asked: Option<Asked>,
}

/// The last probe for which helpers were asked.
#[derive(Debug)]
struct Asked {
    member: Identity,
    number: u8,
    /// Those that foca did not choose, until one of them has passed on an answer.
    helpers: Vec<Identity>,
    /// Those that have passed nothing on, foca's choice among them.
    silent: Vec<Identity>,
}

impl Helpers {
    /// Notes that `helper` passed on an answer of `member`. Both take part, so no more is kept than
    /// there are members.
    pub(super) fn helped(&mut self, member: Identity, helper: Identity) {
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.member == member) {
            asked.silent.retain(|it| *it != helper);
        }
        let known = self.by_member.entry(member).or_default();
        known.retain(|it| *it != helper);
        known.insert(0, helper);
        known.truncate(KEPT);
    }

    /// Returns which of these candidates, which come in random order, are to be asked about a
    /// member.
    pub(super) fn choose(&self, member: &Identity, candidates: &[Identity]) -> Vec<Identity> {
        let known = self.by_member.get(member).map_or(&[][..], |known| known);
        let mut chosen: Vec<Identity> = Vec::new();
        let mut add = |it: &Identity, most: usize| {
            if chosen.len() < most && candidates.contains(it) && !chosen.contains(it) {
                chosen.push(*it);
            }
        };
        let few = FAN_OUT.get();
        known.iter().for_each(|it| add(it, few));
        let of_others = self.by_member.values().filter_map(|helpers| helpers.first());
        of_others.for_each(|it| add(it, few));
        let most = if known.is_empty() { MANY } else { few };
        candidates.iter().for_each(|it| add(it, most));
        chosen
    }

    /// Notes which helpers were asked to probe a member, under this number of the probe: of our own
    /// choice, and of foca's. The probe before is over, and its silent helpers are forgotten.
    pub(super) fn asked(
        &mut self,
        (member, number): (Identity, u8),
        helpers: Vec<Identity>,
        of_foca: impl Iterator<Item = Identity>,
    ) {
        if let Some(Asked { member, silent, .. }) = self.asked.take()
            && let Some(known) = self.by_member.get_mut(&member)
        {
            known.retain(|it| !silent.contains(it));
            if known.is_empty() {
                self.by_member.remove(&member);
            }
        }
        let silent = helpers.iter().copied().chain(of_foca).collect();
        self.asked = Some(Asked { member, number, helpers, silent });
    }

    /// Whether the answer to the last probe came through a helper that was asked here. True once.
    pub(super) fn take_answer(&mut self, member: &Identity, number: u8, helper: &Identity) -> bool {
        let is_it = |asked: &Asked| {
            asked.member == *member && asked.number == number && asked.helpers.contains(helper)
        };
        let asked = self.asked.as_mut().filter(|asked| is_it(asked));
        asked.map(|asked| asked.helpers.clear()).is_some()
    }

    /// Forgets a life that is over.
    pub(super) fn forget(&mut self, life: &Identity) {
        self.by_member.remove(life);
        self.by_member.retain(|_, helpers| {
            helpers.retain(|helper| helper != life);
            !helpers.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Boot, NodeHash};

    fn node(number: u16) -> Identity {
        let addr = ([127, 0, 0, 1], 1 + number).into();
        Identity { node: NodeHash(u64::from(number)), boot: Boot(1), returns: 0, addr }
    }

    #[test]
    fn who_helped_with_a_member_is_asked_first_and_many_if_none_did() {
        let mut helpers = Helpers::default();
        let all: Vec<Identity> = (1..40).map(node).collect();
        assert_eq!(helpers.choose(&node(99), &all), all[..MANY]);
        helpers.helped(node(50), node(30));
        let for_another = helpers.choose(&node(99), &all);
        assert_eq!((for_another[0], for_another.len()), (node(30), MANY));
        for helper in [31, 32, 33, 34, 33] {
            helpers.helped(node(99), node(helper));
        }
        assert_eq!(helpers.choose(&node(99), &all), [node(33), node(34), node(32)]);
        helpers.forget(&node(34));
        assert_eq!(helpers.choose(&node(99), &all), [node(33), node(32), node(30)]);
        helpers.forget(&node(30));
        assert_eq!(helpers.choose(&node(99), &all), [node(33), node(32), node(1)]);
        helpers.forget(&node(99));
        assert!(helpers.by_member.is_empty());
    }

    /// A helper had helped once, and the way from it to the member was closed since. It kept its
    /// place for as long as it lived, before others that could have helped.
    #[test]
    fn a_helper_that_passes_nothing_on_is_forgotten() {
        let mut helpers = Helpers::default();
        let all: Vec<Identity> = (1..40).map(node).collect();
        let member = node(99);
        [31, 32, 33].into_iter().for_each(|helper| helpers.helped(member, node(helper)));
        helpers.asked((member, 1), vec![node(33), node(32)], [node(31)].into_iter());
        assert!(!helpers.take_answer(&member, 1, &node(31)), "foca waits for it by itself");
        helpers.helped(member, node(32));
        assert!(helpers.take_answer(&member, 1, &node(32)));
        assert!(!helpers.take_answer(&member, 1, &node(33)), "one answer is enough");
        assert_eq!(helpers.choose(&member, &all), [node(32), node(33), node(31)], "not yet");
        helpers.asked((node(98), 2), vec![node(5)], std::iter::empty());
        assert_eq!(helpers.choose(&member, &all), [node(32), node(1), node(2)]);
        helpers.asked((member, 3), vec![node(32), node(1), node(2)], std::iter::empty());
        helpers.asked((member, 4), Vec::new(), std::iter::empty());
        assert_eq!(helpers.choose(&member, &all), all[..MANY], "none is known to help");
    }
}
