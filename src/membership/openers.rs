//! Which nodes open sealed datagrams, for a node that also speaks with nodes that do not.
//!
//! **Problem.** A sealed datagram is dropped by a node without security, and a plain one by a node
//! that requires it. A node of which security is optional must know which of them it speaks to.
//!
//! | the receiver's security | opens plain ones | opens sealed ones |
//! |---|---|---|
//! | none | yes | no |
//! | optional | yes | yes |
//! | required | no | yes |
//!
//! **Rule.** Each life of a node has security from its start to its end, or never
//! ([`update_security`](crate::Engine::update_security) changes only what it is). So what a life
//! has shown of its security stays true, and only a later life at its address replaces it.
//!
//! | the life has shown | by |
//! |---|---|
//! | that it has security | a sealed datagram in its name, or a secured connection, either way |
//! | that it has none | a connection to its address that is not secured, and nothing of the above |
//!
//! A node that has shown nothing is sent plain datagrams. Each member is dialled when it becomes
//! one, so it has shown something within the time of a handshake.
//!
//! **What a stranger can do.** A recorded sealed datagram names a life. If that is over, a later
//! one at the address has shown what it has by the connection to it. A plain datagram, and a plain
//! connection that another host opened, show nothing: everybody can send them in a node's name. An
//! entry that ends after a minute was rejected: in a large cluster, two nodes that require security
//! send each other a datagram more rarely than that.
//!
//! **Bound.** [`MOST_SHOWN`] addresses. Beyond that the one goes whose life showed nothing for
//! longest, and it is sent plain datagrams until it shows something again.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::clock::Instant;
use crate::types::{Boot, Identity};

/// How many addresses are remembered: as many as there are members at most.
const MOST_SHOWN: usize = 4096;

/// What the lives at some addresses have shown.
#[derive(Debug, Default)]
pub(super) struct Openers {
    by_address: BTreeMap<SocketAddr, Shown>,
}

/// What the latest life at an address has shown.
#[derive(Debug)]
struct Shown {
    boot: Boot,
    has_security: bool,
    /// When it showed something last.
    at: Instant,
}

impl Openers {
    /// Whether the node that advertises this address opens sealed datagrams, as far as is known.
    pub(super) fn has(&self, addr: SocketAddr) -> bool {
        self.by_address.get(&addr).is_some_and(|shown| shown.has_security)
    }

    /// Notes what a life of a node has shown.
    pub(super) fn note(&mut self, now: Instant, life: &Identity, has_security: bool) {
        let new = Shown { boot: life.boot, has_security, at: now };
        match self.by_address.get_mut(&life.addr) {
            Some(shown) if life.boot < shown.boot => {}
            Some(shown) if life.boot == shown.boot => {
                (shown.has_security, shown.at) = (shown.has_security || has_security, now);
            }
            Some(shown) => *shown = new,
            None => {
                if self.by_address.len() >= MOST_SHOWN {
                    self.forget_oldest();
                }
                self.by_address.insert(life.addr, new);
            }
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.by_address.iter().min_by_key(|(_, shown)| shown.at);
        if let Some((&addr, _)) = oldest {
            self.by_address.remove(&addr);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::NodeHash;

    fn at(second: u64) -> Instant {
        Instant::from_nanos(1) + Duration::from_secs(second)
    }

    fn life(host: u16, boot: u64) -> Identity {
        let [high, low] = host.to_be_bytes();
        let addr = SocketAddr::from(([10, 0, high, low], 7000));
        Identity { node: NodeHash(host.into()), boot: Boot(boot), returns: 0, addr }
    }

    #[test]
    fn what_a_life_has_shown_stays_true() {
        let mut openers = Openers::default();
        let one = life(1, 100);
        assert!(!openers.has(one.addr), "it has shown nothing");
        openers.note(at(0), &one, false);
        assert!(!openers.has(one.addr));
        openers.note(at(1), &one, true);
        // It was reached over a plain connection, as its security is optional.
        openers.note(at(2), &one, false);
        assert!(openers.has(one.addr));
        assert!(!openers.has(life(2, 100).addr), "another node");
    }

    #[test]
    fn a_later_life_replaces_an_earlier_one_and_not_the_other_way_round() {
        let mut openers = Openers::default();
        openers.note(at(0), &life(1, 100), true);
        openers.note(at(1), &life(1, 200), false);
        assert!(!openers.has(life(1, 200).addr), "it was started again without security");
        // A recording of the earlier life.
        openers.note(at(2), &life(1, 100), true);
        assert!(!openers.has(life(1, 200).addr));
        openers.note(at(3), &life(1, 300), true);
        openers.note(at(4), &life(1, 200), false);
        assert!(openers.has(life(1, 300).addr));
    }

    #[test]
    fn the_life_that_showed_nothing_for_longest_is_forgotten_first() {
        let mut openers = Openers::default();
        let most = MOST_SHOWN as u16;
        for host in 0..most {
            openers.note(at(host.into()), &life(host, 1), true);
        }
        openers.note(at(5000), &life(0, 1), true);
        openers.note(at(5001), &life(most, 1), true);
        assert_eq!(openers.by_address.len(), MOST_SHOWN);
        assert!(openers.has(life(0, 1).addr) && openers.has(life(most, 1).addr));
        assert!(!openers.has(life(1, 1).addr) && openers.has(life(2, 1).addr));
    }
}
