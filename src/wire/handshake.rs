//! Which nodes may talk to each other: what the acceptor of a connection checks in a HELLO, and the
//! opener in the WELCOME.
//!
//! Both refuse with a reason and a text that names the settings of both sides. So an operator reads
//! the cause in the log of either node.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::frame::MAX_HANDSHAKE_BYTES;
use super::message::{Channel, Hello, MemberDetails, Refusal, RefusalReason};
use crate::options::OnPartition;
use crate::placement::Site;
use crate::quorums::{Count, Quorums};
use crate::types::{Boot, ClusterHash, Identity, MAX_CORES, MAX_NAME_BYTES, NodeHash, PARTITIONS};

/// The protocol versions that this build speaks. Version 1 told a member's details in its own HELLO
/// alone, version 2 a number of nodes of which it required a majority, and lists that were not a
/// chain, version 3 neither a read quorum nor in which list something was forgotten last.
pub(crate) const PROTOCOL: RangeInclusive<u16> = 4..=4;

/// The longest text of a refusal, which quotes what the other node said of itself: it must fit its
/// frame, and it stands in a log.
const MAX_REFUSAL_BYTES: usize = MAX_HANDSHAKE_BYTES / 2;

/// What this node says of itself, and what it holds other nodes to.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) cluster: String,
    pub(crate) node_id: String,
    pub(crate) cores: u16,
    pub(crate) quorums: Quorums,
    pub(crate) on_partition: OnPartition,
    pub(crate) site: Site,
}

impl Local {
    /// Returns the first frame of this node, with `identity`, for a connection to `channel`.
    pub(crate) fn hello(
        &self,
        identity: Identity,
        channel: Channel,
        expects: Option<(NodeHash, Boot)>,
    ) -> Hello {
        Hello {
            protocol: (*PROTOCOL.start(), *PROTOCOL.end()),
            cluster: self.cluster.clone(),
            node_id: self.node_id.clone(),
            identity,
            cores: self.cores,
            partitions: PARTITIONS,
            replicas: self.quorums.replicas,
            write_quorum: self.quorums.write,
            read_quorum: self.quorums.read,
            on_partition: self.on_partition,
            data_center: self.site.data_center.to_string(),
            zone: self.site.zone.to_string(),
            weight: self.site.weight,
            channel,
            expects,
        }
    }

    /// Returns what this node, the acceptor with `identity`, answers to a HELLO.
    pub(crate) fn judge_hello(&self, identity: Identity, hello: &Hello) -> Result<Hello, Refusal> {
        self.judge(identity, hello)?;
        if hello.expects.is_some_and(|(node, boot)| (node, boot) != (identity.node, identity.boot))
        {
            return refuse(
                RefusalReason::NotMe,
                format!("another node, or an earlier life of {:?}, was here before", self.node_id),
            );
        }
        if let Channel::Core(core) = hello.channel
            && core.0 >= self.cores
        {
            return refuse(
                RefusalReason::NoSuchCore,
                format!("core {} of {} was asked for", core.0, self.cores),
            );
        }
        Ok(self.hello(identity, hello.channel, None))
    }

    /// Checks a WELCOME for this node, the opener with `identity`, which wanted to reach `expects`.
    pub(crate) fn judge_welcome(
        &self,
        identity: Identity,
        expects: Option<(NodeHash, Boot)>,
        welcome: &Hello,
    ) -> Result<(), Refusal> {
        self.judge(identity, welcome)?;
        let is = (welcome.identity.node, welcome.identity.boot);
        if expects.is_some_and(|expected| expected != is) {
            return refuse(
                RefusalReason::NotMe,
                format!("{:?} answered in its place", welcome.node_id),
            );
        }
        Ok(())
    }

    /// Checks for this node, with `identity`, what another one says that the member `of` told in
    /// its HELLO. This node would have refused such a HELLO if it refuses this.
    pub(crate) fn judge_details(
        &self,
        identity: Identity,
        of: Identity,
        details: &MemberDetails,
    ) -> Result<(), Refusal> {
        let hello = Hello {
            protocol: details.protocol,
            cluster: self.cluster.clone(),
            node_id: details.id.as_str().into(),
            identity: of,
            cores: details.cores,
            partitions: PARTITIONS,
            replicas: details.replicas,
            write_quorum: details.write_quorum,
            read_quorum: details.read_quorum,
            on_partition: details.on_partition,
            data_center: (*details.site.data_center).into(),
            zone: (*details.site.zone).into(),
            weight: details.site.weight,
            channel: Channel::Control,
            expects: None,
        };
        self.judge(identity, &hello)
    }

    /// Checks what each side requires of the other.
    fn judge(&self, identity: Identity, other: &Hello) -> Result<(), Refusal> {
        let (oldest, newest) = other.protocol;
        if oldest > *PROTOCOL.end() || newest < *PROTOCOL.start() {
            return refuse(
                RefusalReason::Protocol,
                format!(
                    "{:?} speaks protocol {}..={}, {:?} speaks {oldest}..={newest}: upgrade one \
                     version at a time",
                    self.node_id,
                    PROTOCOL.start(),
                    PROTOCOL.end(),
                    other.node_id
                ),
            );
        }
        if other.cluster != self.cluster {
            return refuse(
                RefusalReason::Cluster,
                format!(
                    "{:?} is of cluster {:?}, {:?} of cluster {:?}: give both the same \
                     Config::cluster, or other seeds",
                    self.node_id, self.cluster, other.node_id, other.cluster
                ),
            );
        }
        let is_here = other.data_center == *self.site.data_center;
        let Quorums { replicas, write, read } = self.quorums;
        let mine = (PARTITIONS, replicas, write, read);
        let theirs = (other.partitions, other.replicas, other.write_quorum, other.read_quorum);
        let text = |(partitions, replicas, write, read)| match (replicas, write) {
            (Count::ALL, Count::AllBut(missing)) => format!(
                "{partitions} partitions and Replicas::All, of which {missing} need not \
                 acknowledge, R = {read}"
            ),
            _ => format!("{partitions} partitions, N = {replicas}, W = {write}, R = {read}"),
        };
        if mine.0 != theirs.0 || is_here && mine != theirs {
            return refuse(
                RefusalReason::Quorums,
                format!(
                    "{:?} has {}, {:?} has {}: replicas, write_quorum and read_quorum must be the \
                     same on every node of a data center; to change one, stop all of its nodes",
                    self.node_id,
                    text(mine),
                    other.node_id,
                    text(theirs)
                ),
            );
        }
        if is_here && other.on_partition != self.on_partition {
            return refuse(
                RefusalReason::Quorums,
                format!(
                    "{:?} has OnPartition::{:?}, {:?} has OnPartition::{:?}: Config::on_partition \
                     must be the same on every node of a data center",
                    self.node_id, self.on_partition, other.node_id, other.on_partition
                ),
            );
        }
        if !(1..=MAX_NAME_BYTES).contains(&other.node_id.len()) {
            return refuse(
                RefusalReason::Other,
                format!("a node id has 1 to {MAX_NAME_BYTES} bytes, not {}", other.node_id.len()),
            );
        }
        if other.identity.node != NodeHash::of(ClusterHash::of(&self.cluster), &other.node_id) {
            return refuse(
                RefusalReason::Other,
                format!("the identity is not that of {:?}", other.node_id),
            );
        }
        if other.cores == 0 || usize::from(other.cores) > MAX_CORES {
            return refuse(
                RefusalReason::Other,
                format!("{:?} has {} cores", other.node_id, other.cores),
            );
        }
        let longest_name = other.zone.len().max(other.data_center.len());
        if longest_name > MAX_NAME_BYTES || other.weight == 0 {
            return refuse(
                RefusalReason::Other,
                format!("{:?} tells no data center, zone and weight", other.node_id),
            );
        }
        if other.identity.node == identity.node && other.identity.addr != identity.addr {
            return Err(duplicate_id(&self.node_id, identity.addr, other.identity.addr));
        }
        Ok(())
    }
}

/// Returns the refusal of a node id that is in use at two addresses.
pub(crate) fn duplicate_id(id: &str, one: SocketAddr, other: SocketAddr) -> Refusal {
    let text = format!(
        "the node id {id:?} is in use at {one} and at {other}: every node needs an id of its own, \
         give one of them another or stop it"
    );
    refusal(RefusalReason::DuplicateId, text)
}

fn refuse<T>(reason: RefusalReason, text: String) -> Result<T, Refusal> {
    Err(refusal(reason, text))
}

fn refusal(reason: RefusalReason, mut text: String) -> Refusal {
    text.truncate(text.floor_char_boundary(MAX_REFUSAL_BYTES));
    Refusal { reason, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::CoreId;

    fn local(id: &str) -> Local {
        Local {
            cluster: "shop".into(),
            node_id: id.into(),
            cores: 2,
            quorums: Quorums::exactly(3, 2, 1),
            on_partition: OnPartition::Serve,
            site: Site::default(),
        }
    }

    fn identity(id: &str, port: u16) -> Identity {
        Identity {
            node: NodeHash::of(ClusterHash::of("shop"), id),
            boot: Boot(5),
            returns: 0,
            addr: ([127, 0, 0, 1], port).into(),
        }
    }

    fn hello() -> Hello {
        local("b").hello(identity("b", 2), Channel::Core(CoreId(1)), None)
    }

    fn refusal(hello: &Hello) -> RefusalReason {
        local("a").judge_hello(identity("a", 1), hello).unwrap_err().reason
    }

    #[test]
    fn alike_nodes_welcome_each_other() {
        let welcome = local("a").judge_hello(identity("a", 1), &hello()).unwrap();
        let expects = Some((identity("a", 1).node, Boot(5)));
        local("b").judge_welcome(identity("b", 2), expects, &welcome).unwrap();
    }

    #[test]
    fn each_difference_is_refused_with_its_reason() {
        let next = *PROTOCOL.end() + 1;
        assert_eq!(refusal(&Hello { protocol: (next, next), ..hello() }), RefusalReason::Protocol);
        assert_eq!(refusal(&Hello { cluster: "other".into(), ..hello() }), RefusalReason::Cluster);
        assert_eq!(
            refusal(&Hello { replicas: Count::Exactly(2), ..hello() }),
            RefusalReason::Quorums
        );
        assert_eq!(
            refusal(&Hello { write_quorum: Count::Exactly(3), ..hello() }),
            RefusalReason::Quorums
        );
        assert_eq!(refusal(&Hello { partitions: 1024, ..hello() }), RefusalReason::Quorums);
        let strong = Hello { read_quorum: Count::Exactly(2), ..hello() };
        assert_eq!(refusal(&strong), RefusalReason::Quorums);
        let waits = Hello { on_partition: OnPartition::Majority, ..hello() };
        assert_eq!(refusal(&waits), RefusalReason::Quorums);
        assert_eq!(refusal(&Hello { cores: 0, ..hello() }), RefusalReason::Other);
        let twin = Hello { identity: identity("a", 3), node_id: "a".into(), ..hello() };
        assert_eq!(refusal(&twin), RefusalReason::DuplicateId);
        assert_eq!(refusal(&Hello { identity: identity("z", 3), ..hello() }), RefusalReason::Other);
        assert_eq!(
            refusal(&Hello { channel: Channel::Core(CoreId(2)), ..hello() }),
            RefusalReason::NoSuchCore
        );
        let expects = Some((identity("a", 1).node, Boot(4)));
        assert_eq!(refusal(&Hello { expects, ..hello() }), RefusalReason::NotMe);
    }

    #[test]
    fn another_data_center_may_have_settings_of_its_own() {
        let one = Count::Exactly(1);
        let in_other_data_center = Hello {
            data_center: "eu".into(),
            replicas: one,
            write_quorum: one,
            read_quorum: Count::Exactly(2),
            on_partition: OnPartition::Majority,
            ..hello()
        };
        local("a").judge_hello(identity("a", 1), &in_other_data_center).unwrap();
        assert_eq!(
            refusal(&Hello { partitions: 1024, ..in_other_data_center }),
            RefusalReason::Quorums
        );
        assert_eq!(
            refusal(&Hello { data_center: "x".repeat(256), ..hello() }),
            RefusalReason::Other
        );
    }

    /// Found by a fuzzer: a HELLO of 4 KiB had its names quoted whole, in up to 20 KiB. The text
    /// was cut on its way to the opener, and neither in the log nor in what the app is told.
    #[test]
    fn a_refusal_that_quotes_long_names_is_cut() {
        let long = "\u{1}".repeat(MAX_HANDSHAKE_BYTES / 3);
        let of_two_clusters = Hello { cluster: long.clone(), node_id: long.clone(), ..hello() };
        let refusal = local("a").judge_hello(identity("a", 1), &of_two_clusters).unwrap_err();
        let twin = duplicate_id(&long, identity("a", 1).addr, identity("a", 2).addr);
        for Refusal { text, .. } in [refusal, twin] {
            assert!(text.len() <= MAX_HANDSHAKE_BYTES / 2, "{} bytes", text.len());
        }
    }

    /// Found by a fuzzer: a node was let in under a name that no configuration can have. Others do
    /// not believe what is told of a member of such a name.
    #[test]
    fn a_name_that_is_empty_or_too_long_is_refused() {
        for id in ["", &"x".repeat(MAX_NAME_BYTES + 1)] {
            let hello = Hello { node_id: id.into(), identity: identity(id, 2), ..hello() };
            assert_eq!(refusal(&hello), RefusalReason::Other);
        }
        let id = "x".repeat(MAX_NAME_BYTES);
        let hello = Hello { node_id: id.clone(), identity: identity(&id, 2), ..hello() };
        local("a").judge_hello(identity("a", 1), &hello).unwrap();
    }

    #[test]
    fn an_opener_refuses_whoever_answers_in_anothers_place() {
        let welcome = local("c").hello(identity("c", 1), Channel::Control, None);
        let expects = Some((identity("a", 1).node, Boot(5)));
        let refusal = local("b").judge_welcome(identity("b", 2), expects, &welcome).unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::NotMe);
    }
}
