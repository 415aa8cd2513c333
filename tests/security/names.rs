//! Hosts that have the cluster key, and take the name of a member or come with a denied key.

use crate::attacker::{REFUSED, WELCOME};
use crate::datagrams::Name;
use crate::tls_attacker::{OwnKey, PROOF, ProofParts, Session, identity_of, welcomed};
use crate::victims::{KeyFile, Victims, hello_named, hello_of, hex, id, start_with};

/// Says this HELLO with a right PROOF, and returns the type of what comes behind the other PROOF.
fn greet(session: &mut Session, victims: &Victims, key: &OwnKey, hello: &[u8]) -> Option<u8> {
    let proof = ProofParts::right(&victims.keys(), key, session, hello).frame();
    session.send(&[&proof[..], hello].concat());
    let (first, _) = session.next_frame()?;
    assert_eq!(first, PROOF);
    session.next_frame().map(|frame| frame.0)
}

#[test]
fn a_host_with_the_key_gets_no_living_members_name() {
    let victims = Victims::start(2);
    let (target, keys) = (victims.target(), victims.keys());
    let (_, welcome) = welcomed(victims.nodes[1].address, &keys, &OwnKey::new(), &hello_of("x"));
    let (_, at) = Name::in_frame(&welcome);
    let mut same = hello_named(&id("b"));
    let another = same.clone();
    let (_, here) = Name::in_frame(&same);
    same[here..here + 40].copy_from_slice(&welcome[at..at + 40]);
    assert_eq!(identity_of(&same), identity_of(&welcome));
    for (what, hello) in [("its life", same), ("a later life", another)] {
        let key = OwnKey::new();
        let mut session =
            Session::open(target, &keys.opening(&key.hash), &key).expect("the key opens");
        let answer = greet(&mut session, &victims, &key, &hello);
        assert_ne!(answer, Some(WELCOME), "{what}");
    }
    victims.assert_again();
}

#[test]
fn a_denied_key_is_refused_with_the_cluster_key_too() {
    let (file, key) = (KeyFile::new(), OwnKey::new());
    let denied = hex(&key.hash);
    let node = start_with(&file, "a", &["--deny", &denied]);
    let keys = file.keys();
    let open = |key: &OwnKey| Session::open(node.address, &keys.opening(&key.hash), key);
    let mut session = open(&key).expect("the key of the cluster opens");
    let proof = ProofParts::right(&keys, &key, &session, &hello_of("x")).frame();
    session.send(&[&proof[..], &hello_of("x")].concat());
    assert_eq!(session.until_closed(), [REFUSED]);
    welcomed(node.address, &keys, &OwnKey::new(), &hello_of("x"));
    assert!(!node.stderr().contains("panicked"), "{}", node.stderr());
}
