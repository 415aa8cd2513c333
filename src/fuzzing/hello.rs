//! What a node says of itself when it opens a connection, and what the other one makes of it.

use super::input::Input;
use crate::options::OnPartition;
use crate::placement::Site;
use crate::quorums::{Count, Quorums};
use crate::types::{
    Boot, ClusterHash, CoreId, Identity, MAX_CORES, MAX_NAME_BYTES, NodeHash, PARTITIONS,
};
use crate::wire::codec::encode;
use crate::wire::frame::{HEADER_BYTES, MAX_HANDSHAKE_BYTES};
use crate::wire::handshake::{Local, duplicate_id};
use crate::wire::message::{Channel, Frame, Hello, MemberDetails, Message, Refusal};

const CLUSTER: &str = "shop";

/// The longest text of a refusal: it is told to the opener, in the log, and to the app.
const MAX_REFUSAL_BYTES: usize = MAX_HANDSHAKE_BYTES / 2;

/// How long a name in a HELLO can be: all of it is within [`MAX_HANDSHAKE_BYTES`].
const MAX_TEXT_BYTES: usize = MAX_HANDSHAKE_BYTES / 3;

/// Has a node judge a HELLO that differs from a good one as the input says: each of its parts is
/// the number of a field, and what is in that.
///
/// A refusal's text must fit its frame and one line of a log. What passes must be within the bounds
/// that an app's own configuration has.
pub fn hello(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (here, there) = (local("a"), local("b"));
    let (own, other) = (identity("a", 1), identity("b", 2));
    let mut hello = there.hello(other, Channel::Core(CoreId(1)), None);
    while !input.is_empty() {
        change(&mut hello, &mut input);
    }
    let frame = frame(Message::Hello(hello.clone()));
    if encode(&frame).len() - HEADER_BYTES > MAX_HANDSHAKE_BYTES {
        // No node reads that.
        return;
    }
    match here.judge_hello(own, &hello) {
        Ok(welcome) => {
            is_in_bounds(&hello);
            assert_eq!(welcome.identity, own);
        }
        Err(refusal) => can_be_told(refusal),
    }
    match here.judge_welcome(own, hello.expects, &hello) {
        Ok(()) => is_in_bounds(&hello),
        Err(refusal) => can_be_told(refusal),
    }
    can_be_told(duplicate_id(&hello.node_id, own.addr, other.addr));
    // What another node passes on of it leaves these two out.
    let told = Hello { cluster: CLUSTER.into(), partitions: PARTITIONS, ..hello };
    match here.judge_details(own, told.identity, &MemberDetails::of(&told)) {
        Ok(()) => is_in_bounds(&told),
        Err(refusal) => can_be_told(refusal),
    }
}

fn local(id: &str) -> Local {
    Local {
        cluster: CLUSTER.into(),
        node_id: id.into(),
        cores: 2,
        quorums: Quorums {
            replicas: Count::Exactly(3),
            write: Count::Exactly(2),
            read: Count::Exactly(1),
        },
        on_partition: OnPartition::Serve,
        site: Site::default(),
    }
}

fn identity(id: &str, port: u16) -> Identity {
    let node = NodeHash::of(ClusterHash::of(CLUSTER), id);
    Identity { node, boot: Boot(5), returns: 0, addr: ([127, 0, 0, 1], port).into() }
}

fn frame(message: Message) -> Frame {
    Frame { partition: Default::default(), request_id: 0, message }
}

/// Changes one field.
fn change(hello: &mut Hello, input: &mut Input<'_>) {
    match input.below(18) {
        0 => hello.protocol = (input.u16(), input.u16()),
        1 => hello.cluster = input.text(MAX_TEXT_BYTES),
        2 => hello.node_id = input.text(MAX_TEXT_BYTES),
        // A name, and the hash that belongs to it.
        3 => {
            hello.node_id = input.text(MAX_TEXT_BYTES);
            hello.identity.node = NodeHash::of(ClusterHash::of(&hello.cluster), &hello.node_id);
        }
        4 => hello.identity.node = NodeHash(input.u64()),
        5 => hello.identity = identity("a", input.u16()),
        6 => hello.identity.boot = Boot(input.u64()),
        7 => hello.cores = input.u16(),
        8 => hello.partitions = input.u16(),
        9 => hello.replicas = Count::from_code(input.byte()),
        10 => hello.write_quorum = Count::from_code(input.byte()),
        11 => hello.read_quorum = Count::from_code(input.byte()),
        12 => hello.on_partition = input.one_of(&[OnPartition::Serve, OnPartition::Majority]),
        13 => hello.data_center = input.text(MAX_TEXT_BYTES),
        14 => hello.zone = input.text(MAX_TEXT_BYTES),
        15 => hello.weight = input.u16(),
        16 => hello.channel = input.one_of(&[Channel::Control, Channel::Core(CoreId(2))]),
        _ => hello.expects = Some((identity("a", 1).node, Boot(u64::from(input.byte())))),
    }
}

/// Whether a node that was believed says what a configuration could say.
fn is_in_bounds(hello: &Hello) {
    assert_eq!((&*hello.cluster, hello.partitions), (CLUSTER, PARTITIONS));
    let node = NodeHash::of(ClusterHash::of(CLUSTER), &hello.node_id);
    assert_eq!(hello.identity.node, node, "a name of another node");
    assert!((1..=MAX_NAME_BYTES).contains(&hello.node_id.len()), "the name of a node");
    assert!(hello.data_center.len() <= MAX_NAME_BYTES && hello.zone.len() <= MAX_NAME_BYTES);
    assert!((1..=MAX_CORES).contains(&usize::from(hello.cores)) && hello.weight > 0);
}

fn can_be_told(refusal: Refusal) {
    let text = &refusal.text;
    assert!(text.len() <= MAX_REFUSAL_BYTES, "a refusal of {} bytes", text.len());
    assert!(!text.chars().any(char::is_control), "more than one line: {text:?}");
    let encoded = encode(&frame(Message::Refused(refusal)));
    assert!(encoded.len() - HEADER_BYTES <= MAX_HANDSHAKE_BYTES);
}
