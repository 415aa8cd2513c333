//! The accepted connections that wait for their welcome, and those that are being refused: how many
//! there may be, in all and of one address.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// How many there may be.
///
/// A cluster that restarts stays below it. A flood of strangers costs this many descriptors and
/// small receive buffers, and pushes out its own oldest. (A test process may lack the descriptors
/// to reach it.)
pub(super) const MAX_STRANGERS: usize = if cfg!(test) { 32 } else { 1024 };

/// How many of them may have shown that they have the cluster key, and be shaking hands: each takes
/// the memory of a TLS session. Of those that have shown nothing, the oldest go first.
pub(super) const MAX_PAST_GATE: usize = MAX_STRANGERS / 2;

/// How many there may be of one address; of IPv6, of one /64, as a host can have all of that.
///
/// One host that floods pushes out its own oldest, and no other node's. Far more than the nodes on
/// one host that dial at the same moment and have not said HELLO yet.
pub(super) const STRANGERS_PER_ADDRESS: usize = 64;

/// How many bits of an IPv6 address name the host.
const HOST_BITS: u32 = 64;

/// The strangers of one thread, by their links' numbers, which grow with time.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    all: BTreeMap<u64, IpAddr>,
    by_address: BTreeMap<IpAddr, BTreeSet<u64>>,
    past_gate: BTreeSet<u64>,
    /// Those that are not read, as many others are shaking hands.
    waiting: BTreeSet<u64>,
}

/// A stranger that has to go for another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PushedOut {
    /// It was the oldest of all.
    Oldest(u64),
    /// It was the oldest of its address.
    OldestOfAddress(u64),
}

impl Strangers {
    /// Adds one. Returns the one that has to go for it, which is forgotten.
    pub(super) fn insert(&mut self, id: u64, address: IpAddr) -> Option<PushedOut> {
        let host = host(address);
        self.all.insert(id, host);
        let of_address = self.by_address.entry(host).or_default();
        of_address.insert(id);
        let pushed_out = if of_address.len() > STRANGERS_PER_ADDRESS {
            let nothing_shown = of_address.iter().find(|id| !self.past_gate.contains(id));
            let oldest = nothing_shown.or_else(|| of_address.first());
            oldest.copied().map(PushedOut::OldestOfAddress)
        } else if self.all.len() > MAX_STRANGERS {
            self.oldest().map(PushedOut::Oldest)
        } else {
            None
        };
        if let Some(PushedOut::Oldest(id) | PushedOut::OldestOfAddress(id)) = pushed_out {
            self.remove(id);
        }
        pushed_out
    }

    /// Notes that one has shown that it has the cluster key; there was [room](Self::has_room).
    #[cfg(feature = "security")]
    pub(super) fn pass_gate(&mut self, id: u64) {
        if self.all.contains_key(&id) {
            self.past_gate.insert(id);
        }
    }

    /// Whether one more may show that it has the cluster key.
    pub(super) fn has_room(&self) -> bool {
        self.past_gate.len() < MAX_PAST_GATE
    }

    /// Returns the oldest one that has shown that it has the cluster key.
    #[cfg(feature = "security")]
    pub(super) fn oldest_past_gate(&self) -> Option<u64> {
        self.past_gate.first().copied()
    }

    /// Lets one wait until there is room for it.
    #[cfg(feature = "security")]
    pub(super) fn wait(&mut self, id: u64) {
        self.waiting.insert(id);
    }

    /// Returns those that waited for room, if there is some now.
    pub(super) fn let_in(&mut self) -> BTreeSet<u64> {
        if self.has_room() { std::mem::take(&mut self.waiting) } else { BTreeSet::new() }
    }

    /// Returns the one that goes first: the oldest of those that have shown nothing, or of all.
    pub(super) fn oldest(&self) -> Option<u64> {
        let nothing_shown = self.all.keys().find(|id| !self.past_gate.contains(id));
        nothing_shown.or_else(|| self.all.keys().next()).copied()
    }

    /// Forgets one, if it is there.
    pub(super) fn remove(&mut self, id: u64) {
        let Some(host) = self.all.remove(&id) else { return };
        self.past_gate.remove(&id);
        self.waiting.remove(&id);
        if let Some(of_address) = self.by_address.get_mut(&host) {
            of_address.remove(&id);
            if of_address.is_empty() {
                self.by_address.remove(&host);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.by_address.is_empty()
    }
}

/// What counts as one address.
fn host(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from(address.to_bits() >> HOST_BITS << HOST_BITS).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_oldest_of_all_goes_for_one_of_another_address() {
        let mut strangers = Strangers::default();
        let most = MAX_STRANGERS as u64;
        for id in 0..most {
            assert_eq!(strangers.insert(id, IpAddr::from([10, 0, 0, id as u8])), None);
        }
        assert_eq!(strangers.insert(most, ip("10.1.0.0")), Some(PushedOut::Oldest(0)));
        (0..=most).for_each(|id| strangers.remove(id));
        assert!(strangers.is_empty());
    }

    /// The limit of all is lower in tests, so this one looks at addresses alone.
    #[test]
    fn the_oldest_of_an_address_goes_for_one_of_the_same() {
        for (one, same, other) in [
            ("10.0.0.1", "10.0.0.1", "10.0.0.2"),
            ("fd00:0:0:7::1", "fd00:0:0:7:ffff::9", "fd00:0:0:8::1"),
        ] {
            let mut strangers = Strangers::default();
            let most = STRANGERS_PER_ADDRESS as u64;
            let older = BTreeSet::from_iter(1..=most);
            strangers.by_address.insert(host(ip(one)), older.clone());
            strangers.all.insert(1, host(ip(one)));
            assert_eq!(strangers.insert(most + 1, ip(other)), None);
            let pushed_out = strangers.insert(most + 2, ip(same));
            assert_eq!(pushed_out, Some(PushedOut::OldestOfAddress(1)));
            assert_eq!(strangers.by_address[&host(ip(one))].len(), older.len());
        }
    }
}
