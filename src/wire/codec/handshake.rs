//! The opening of a connection: `Hello`, its answers `Welcome` and `Refused`, and `Proof`.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::body::{Body, Decoder, Reader};
use super::values::{WireIdentity, on_partition_code, wire_identity};
use crate::quorums::Count;
use crate::types::{Boot, CoreId, NodeHash};
use crate::wire::frame::FrameError;
use crate::wire::message::{Channel, Hello, Message, Proof, Refusal, RefusalReason};

pub(super) const DECODERS: &[(u8, Decoder)] = &[
    (HELLO, |reader| Ok(Message::Hello(decode_hello(reader)?))),
    (WELCOME, |reader| Ok(Message::Welcome(decode_hello(reader)?))),
    (REFUSED, decode_refusal),
    (PROOF, decode_proof),
];

const HELLO: u8 = 1;
const WELCOME: u8 = 2;

#[derive(Archive, Serialize)]
struct WireHello<'a> {
    identity: WireIdentity,
    expects_node: u64,
    expects_boot: u64,
    protocol_min: u16,
    protocol_max: u16,
    cores: u16,
    partitions: u16,
    /// A core's number; [`CONTROL`] is the control thread.
    channel: u16,
    weight: u16,
    replicas: u8,
    write_quorum: u8,
    read_quorum: u8,
    on_partition: u8,
    expects: bool,
    #[rkyv(with = InlineAsBox)]
    cluster: &'a str,
    #[rkyv(with = InlineAsBox)]
    node_id: &'a str,
    #[rkyv(with = InlineAsBox)]
    data_center: &'a str,
    #[rkyv(with = InlineAsBox)]
    zone: &'a str,
}

const _: () = assert!(size_of::<ArchivedWireHello>() == 112);

const CONTROL: u16 = u16::MAX;

pub(super) fn encode_hello(hello: &Hello) -> Body {
    Body::of(HELLO, &wire_hello(hello))
}

pub(super) fn encode_welcome(welcome: &Hello) -> Body {
    Body::of(WELCOME, &wire_hello(welcome))
}

fn wire_hello(hello: &Hello) -> WireHello<'_> {
    let (expects_node, expects_boot) =
        hello.expects.map_or((0, 0), |(node, boot)| (node.0, boot.0));
    WireHello {
        identity: wire_identity(&hello.identity),
        expects_node,
        expects_boot,
        protocol_min: hello.protocol.0,
        protocol_max: hello.protocol.1,
        cores: hello.cores,
        partitions: hello.partitions,
        channel: match hello.channel {
            Channel::Control => CONTROL,
            Channel::Core(core) => core.0,
        },
        replicas: hello.replicas.code(),
        write_quorum: hello.write_quorum.code(),
        read_quorum: hello.read_quorum.code(),
        on_partition: on_partition_code(hello.on_partition),
        weight: hello.weight,
        expects: hello.expects.is_some(),
        cluster: &hello.cluster,
        node_id: &hello.node_id,
        data_center: &hello.data_center,
        zone: &hello.zone,
    }
}

fn decode_hello(reader: &Reader<'_>) -> Result<Hello, FrameError> {
    let wire = reader.archive::<ArchivedWireHello>()?;
    let expects = (NodeHash(wire.expects_node.to_native()), Boot(wire.expects_boot.to_native()));
    Ok(Hello {
        protocol: (wire.protocol_min.to_native(), wire.protocol_max.to_native()),
        cluster: wire.cluster.to_string(),
        node_id: wire.node_id.to_string(),
        identity: reader.identity(&wire.identity)?,
        cores: wire.cores.to_native(),
        partitions: wire.partitions.to_native(),
        replicas: Count::from_code(wire.replicas),
        write_quorum: Count::from_code(wire.write_quorum),
        read_quorum: Count::from_code(wire.read_quorum),
        on_partition: reader.on_partition(wire.on_partition)?,
        data_center: wire.data_center.to_string(),
        zone: wire.zone.to_string(),
        weight: wire.weight.to_native(),
        channel: match wire.channel.to_native() {
            CONTROL => Channel::Control,
            core => Channel::Core(CoreId(core)),
        },
        expects: wire.expects.then_some(expects),
    })
}

const REFUSED: u8 = 3;

#[derive(Archive, Serialize)]
struct WireRefusal<'a> {
    reason: u16,
    #[rkyv(with = InlineAsBox)]
    text: &'a str,
}

const _: () = assert!(size_of::<ArchivedWireRefusal>() == 12);

/// The number of each reason. `Other` comes last: it also stands for numbers that only a newer
/// version knows.
const REASONS: [(u16, RefusalReason); 11] = [
    (1, RefusalReason::Protocol),
    (2, RefusalReason::Cluster),
    (3, RefusalReason::Quorums),
    (4, RefusalReason::DuplicateId),
    (5, RefusalReason::NotMe),
    (6, RefusalReason::NoSuchCore),
    (7, RefusalReason::Stopping),
    (8, RefusalReason::Security),
    (9, RefusalReason::Full),
    (10, RefusalReason::NoSecurity),
    (0, RefusalReason::Other),
];

pub(super) fn encode_refusal(refusal: &Refusal) -> Body {
    let known = REASONS.iter().find(|(_, reason)| *reason == refusal.reason);
    let reason = known.map_or(0, |(number, _)| *number);
    Body::of(REFUSED, &WireRefusal { reason, text: &refusal.text })
}

fn decode_refusal(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireRefusal>()?;
    let known = REASONS.iter().find(|(number, _)| *number == wire.reason.to_native());
    let reason = known.map_or(RefusalReason::Other, |(_, reason)| *reason);
    Ok(Message::Refused(Refusal { reason, text: wire.text.to_string() }))
}

const PROOF: u8 = 11;

#[derive(Archive, Serialize)]
struct WireProof {
    identity: WireIdentity,
    key_id: u32,
    flags: u8,
    mac: [u8; 32],
    public_key: [u8; 32],
    signature: [u8; 64],
    session_signature: [u8; 64],
}

const _: () = assert!(size_of::<ArchivedWireProof>() == 240);

pub(super) fn encode_proof(proof: &Proof) -> Body {
    let &Proof { mac, key_id, identity, public_key, flags, signature, session_signature } = proof;
    let identity = wire_identity(&identity);
    let wire = WireProof { identity, key_id, flags, mac, public_key, signature, session_signature };
    Body::of(PROOF, &wire)
}

fn decode_proof(reader: &Reader<'_>) -> Result<Message, FrameError> {
    let wire = reader.archive::<ArchivedWireProof>()?;
    Ok(Message::Proof(Proof {
        mac: wire.mac,
        key_id: wire.key_id.to_native(),
        identity: reader.identity(&wire.identity)?,
        public_key: wire.public_key,
        flags: wire.flags,
        signature: wire.signature,
        session_signature: wire.session_signature,
    }))
}
