//! Values that several messages carry: identities, settings, routes, lists and entries.
//!
//! A key travels without its hash. The shard computes it, so that no peer can choose another place
//! for a key than its own. Key and value are copied once, from the receive buffer into their entry.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::body::{MAX_NUMBER, Reader};
use crate::entry::{Content, Entry};
use crate::options::OnPartition;
use crate::placement::{Ancestry, Ballot, Fork, List, ListRef, MAX_FORKS, Wish};
use crate::quorums::MAX_COPIES;
use crate::types::{Boot, Identity, MAX_MEMBERS, MAX_VALUE_BYTES, NodeHash};
use crate::wire::frame::FrameError;
use crate::wire::message::Route;
use crate::wire::retention::{Agreed, PurgeMark};

#[derive(Archive, Serialize)]
pub(super) struct WirePurgeMark {
    horizon: u64,
    agreed_list: u64,
    agreed_horizon: u64,
}

const _: () = assert!(size_of::<ArchivedWirePurgeMark>() == 24);

pub(super) fn wire_mark(mark: PurgeMark) -> WirePurgeMark {
    let PurgeMark { horizon, agreed } = mark;
    WirePurgeMark { horizon: horizon.0, agreed_list: agreed.list, agreed_horizon: agreed.horizon.0 }
}

#[derive(Archive, Serialize, Clone, Copy)]
pub(super) struct WireIdentity {
    node: u64,
    boot: u64,
    /// An IPv4 address is mapped into IPv6.
    ip: [u8; 16],
    port: u16,
    returns: u16,
}

const _: () = assert!(size_of::<ArchivedWireIdentity>() == 40);

pub(super) fn wire_identity(identity: &Identity) -> WireIdentity {
    let ip = match identity.addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    WireIdentity {
        node: identity.node.0,
        boot: identity.boot.0,
        ip,
        port: identity.addr.port(),
        returns: identity.returns,
    }
}

fn identity(wire: &ArchivedWireIdentity) -> Identity {
    let ip = match wire.ip {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => {
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        octets => IpAddr::V6(octets.into()),
    };
    Identity {
        node: NodeHash(wire.node.to_native()),
        boot: Boot(wire.boot.to_native()),
        returns: wire.returns.to_native(),
        addr: SocketAddr::new(ip, wire.port.to_native()),
    }
}

/// Returns the setting as one byte: 0 is `Serve`, 1 `Majority`.
pub(super) fn on_partition_code(what: OnPartition) -> u8 {
    match what {
        OnPartition::Serve => 0,
        OnPartition::Majority => 1,
    }
}

/// Returns a route as the asker and the member, or as none of both.
pub(super) fn wire_route(route: Option<&Route>) -> Vec<WireIdentity> {
    let both = route.into_iter().flat_map(|route| [&route.asker, &route.to]);
    both.map(wire_identity).collect()
}

#[derive(Archive, Serialize, Clone, Copy)]
pub(super) struct WireListRef {
    number: u64,
    digest: u64,
}

const _: () = assert!(size_of::<ArchivedWireListRef>() == 16);

pub(super) fn wire_ref(list: ListRef) -> WireListRef {
    WireListRef { number: list.number, digest: list.digest }
}

pub(super) fn list_ref(wire: &ArchivedWireListRef) -> ListRef {
    ListRef { number: wire.number.to_native(), digest: wire.digest.to_native() }
}

#[derive(Archive, Serialize)]
pub(super) struct WireList {
    number: u64,
    /// The list's number is zero if there is no base.
    base: WireListRef,
    members: Vec<WireIdentity>,
    witnesses: Vec<WireIdentity>,
    /// The members of the base.
    before: Vec<WireIdentity>,
    forks: Vec<WireFork>,
}

const _: () = assert!(size_of::<ArchivedWireList>() == 56);

#[derive(Archive, Serialize)]
struct WireFork {
    number: u64,
    id: u64,
}

const _: () = assert!(size_of::<ArchivedWireFork>() == 16);

pub(super) fn wire_list(list: &List) -> WireList {
    let Ancestry { base, before, forks } = list.ancestry();
    let identities = |members: &[Identity]| members.iter().map(wire_identity).collect();
    let fork = |&Fork { number, id }: &Fork| WireFork { number, id };
    WireList {
        number: list.number(),
        base: wire_ref(base.unwrap_or_default()),
        members: identities(list.members()),
        witnesses: identities(list.witnesses()),
        before: identities(before),
        forks: forks.iter().map(fork).collect(),
    }
}

#[derive(Archive, Serialize, Clone, Copy)]
pub(super) struct WireBallot {
    round: u64,
    node: u64,
    boot: u64,
}

const _: () = assert!(size_of::<ArchivedWireBallot>() == 24);

pub(super) fn wire_ballot(Ballot { round, node, boot }: Ballot) -> WireBallot {
    WireBallot { round, node: node.0, boot: boot.0 }
}

#[derive(Archive, Serialize)]
pub(super) struct WireEntry<'a> {
    version: u64,
    /// Zero if the entry does not expire.
    expires_at_ms: u64,
    /// The hash of the value that a husk had.
    content_hash: u32,
    /// 0 is a value, 1 a tombstone, 2 a husk.
    content: u8,
    #[rkyv(with = InlineAsBox)]
    key: &'a [u8],
    #[rkyv(with = InlineAsBox)]
    value: &'a [u8],
}

const _: () = assert!(size_of::<ArchivedWireEntry>() == 40);

pub(super) fn wire_entry(entry: &Entry) -> WireEntry<'_> {
    let (content, content_hash, value): (_, _, &[u8]) = match entry.content() {
        Content::Value(value) => (0, 0, value),
        Content::Tombstone => (1, 0, &[]),
        Content::Husk(hash) => (2, hash, &[]),
    };
    WireEntry {
        version: entry.version().0,
        expires_at_ms: entry.expires_at_ms().map_or(0, NonZeroU64::get),
        content_hash,
        content,
        key: entry.key(),
        value,
    }
}

pub(super) fn wire_entries(entries: &[Entry]) -> Vec<WireEntry<'_>> {
    entries.iter().map(wire_entry).collect()
}

impl Reader<'_> {
    pub(super) fn mark(&self, wire: &ArchivedWirePurgeMark) -> Result<PurgeMark, FrameError> {
        let horizon = self.version(wire.horizon.to_native())?;
        let agreed = Agreed {
            list: wire.agreed_list.to_native(),
            horizon: self.version(wire.agreed_horizon.to_native())?,
        };
        Ok(PurgeMark { horizon, agreed })
    }

    pub(super) fn on_partition(&self, code: u8) -> Result<OnPartition, FrameError> {
        match code {
            0 => Ok(OnPartition::Serve),
            1 => Ok(OnPartition::Majority),
            _ => Err(self.bad("an unknown setting for network partitions")),
        }
    }

    /// Refuses an identity that no node [can have](Identity::is_possible).
    pub(super) fn identity(&self, wire: &ArchivedWireIdentity) -> Result<Identity, FrameError> {
        let identity = identity(wire);
        if identity.is_possible() { Ok(identity) } else { Err(self.bad("an impossible node")) }
    }

    /// Does the same with some of them, of which there are not more than a cluster has members.
    pub(super) fn identities(
        &self,
        wire: &[ArchivedWireIdentity],
    ) -> Result<Vec<Identity>, FrameError> {
        self.at_most(MAX_MEMBERS, wire.len())?;
        wire.iter().map(|it| self.identity(it)).collect()
    }

    pub(super) fn at_most(&self, most: usize, count: usize) -> Result<(), FrameError> {
        if count > most { Err(self.bad("more than there can be")) } else { Ok(()) }
    }

    pub(super) fn route(&self, wire: &[ArchivedWireIdentity]) -> Result<Option<Route>, FrameError> {
        match wire {
            [] => Ok(None),
            [asker, to] => Ok(Some(Route { asker: self.identity(asker)?, to: self.identity(to)? })),
            _ => Err(self.bad("a route of another length")),
        }
    }

    pub(super) fn ballot(&self, wire: &ArchivedWireBallot) -> Result<Ballot, FrameError> {
        let round = wire.round.to_native();
        if round > MAX_NUMBER {
            return Err(self.bad("a ballot with a round out of range"));
        }
        let (node, boot) = (NodeHash(wire.node.to_native()), Boot(wire.boot.to_native()));
        Ok(Ballot { round, node, boot })
    }

    pub(super) fn list(&self, wire: &ArchivedWireList) -> Result<Arc<List>, FrameError> {
        let parts = [&wire.members, &wire.witnesses, &wire.before];
        if parts.iter().any(|members| members.len() > MAX_COPIES) {
            return Err(self.bad("a list longer than N can be"));
        }
        if wire.members.is_empty() || !(1..=MAX_NUMBER).contains(&wire.number.to_native()) {
            return Err(self.bad("a list without members, or with a number out of range"));
        }
        let number = wire.number.to_native();
        let forks: Box<[Fork]> = wire
            .forks
            .iter()
            .map(|fork| Fork { number: fork.number.to_native(), id: fork.id.to_native() })
            .collect();
        let is_in_order = forks.windows(2).all(|pair| pair[0].number < pair[1].number)
            && forks.last().is_none_or(|last| last.number <= number);
        if forks.len() > MAX_FORKS || !is_in_order {
            return Err(self.bad("a list with forks that it cannot have"));
        }
        let base = Some(list_ref(&wire.base)).filter(|base| base.number > 0);
        if base.is_some_and(|base| base.number.checked_add(1) != Some(number)) {
            return Err(self.bad("a list that does not follow its base"));
        }
        let [members, witnesses, before] = parts.map(|members| self.identities(members));
        let (members, witnesses, before) = (members?, witnesses?, before?);
        let mut nodes: Vec<NodeHash> =
            members.iter().chain(&witnesses).map(|member| member.node).collect();
        nodes.sort_unstable();
        if nodes.windows(2).any(|pair| pair[0] == pair[1]) || base.is_some() == before.is_empty() {
            return Err(self.bad("a list with a node twice, or without the members before it"));
        }
        let wish = Wish { members, witnesses };
        Ok(List::of(number, &wish, Ancestry { base, before: before.into(), forks }))
    }

    pub(super) fn entry(&self, wire: &ArchivedWireEntry<'_>) -> Result<Entry, FrameError> {
        if wire.value.len() > MAX_VALUE_BYTES {
            return Err(self.bad("a value over the limit"));
        }
        let content = match wire.content {
            0 => Content::Value(&wire.value),
            1 => Content::Tombstone,
            2 => Content::Husk(wire.content_hash.to_native()),
            _ => return Err(self.bad("an unknown kind of content")),
        };
        let version = self.version(wire.version.to_native())?;
        let expires_at_ms = NonZeroU64::new(wire.expires_at_ms.to_native());
        Ok(Entry::new(self.key(&wire.key)?, content, version, expires_at_ms))
    }

    pub(super) fn entries(&self, wire: &[ArchivedWireEntry<'_>]) -> Result<Vec<Entry>, FrameError> {
        wire.iter().map(|entry| self.entry(entry)).collect()
    }
}
