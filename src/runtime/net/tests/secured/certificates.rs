//! Nodes with certificates, without, and on the way from one to the other.

use super::*;
use crate::security::authority::{Authority, Leaf};
use crate::security::{Certificates, Names};

fn certificates(by: &Authority, roots: &Authority, names: &[&str]) -> Certificates {
    let (chain, key) = by.issue(&Leaf::of(names));
    let roots = roots.pem();
    Certificates::from_pem(chain.as_bytes(), key.as_bytes(), roots.as_bytes()).unwrap()
}

/// A node whose certificate is for its own id.
fn certified(id: &str, root: &Authority) -> Node {
    secured(id, &with_key(1).certificates(certificates(root, root, &[id])))
}

/// Has `a` open to `b`, and returns what both have proved, `b` first; or the refusal.
fn open(a: &mut Node, b: &mut Node) -> Result<[Proved; 2], String> {
    let target = b.target(Channel::Control);
    a.net.open(NOW, target);
    let outcome = until_both(a, b, |a, b| {
        if let Some(LossCause::Refused(Refusal { text, .. })) = a.lost() {
            return Some(Err(text));
        }
        b.take(|event| match event {
            NetEvent::Greeted { connection, hello, proved } => {
                Some(Ok((*connection, hello.clone(), proved.unwrap())))
            }
            _ => None,
        })
    });
    let (connection, hello, of_a) = outcome?;
    let welcome = b.verdict(&hello).unwrap();
    b.net.welcome(connection, welcome);
    let of_b = until_both(a, b, |a, _| {
        if let Some(LossCause::Refused(Refusal { text, .. })) = a.lost() {
            return Some(Err(text));
        }
        a.take(|event| match event {
            NetEvent::Opened { proved, .. } => Some(Ok(proved.unwrap())),
            _ => None,
        })
    })?;
    Ok([of_b, of_a])
}

/// The steps of a roll-out: before it, and the three of it.
fn step(number: usize, root: &Authority, id: &str) -> Security {
    step_with(number, certificates(root, root, &[id]))
}

fn step_with(number: usize, certificates: Certificates) -> Security {
    match number {
        0 => with_key(1),
        1 => with_key(1).certificates(certificates.accept_only()),
        2 => with_key(1).certificates(certificates.prefer()),
        _ => with_key(1).certificates(certificates),
    }
}

#[test]
fn nodes_one_step_apart_speak_and_others_say_why_not() {
    let root = Authority::new("root");
    for opens in 0..4 {
        for accepts in 0..4 {
            let mut a = secured("a", &step(opens, &root, "a"));
            let mut b = secured("b", &step(accepts, &root, "b"));
            let outcome = open(&mut a, &mut b);
            let expected = match (opens, accepts) {
                (0 | 1, 0..=2) => Ok(false),
                (2 | 3, 1..=3) => Ok(true),
                (0 | 1, _) => Err("it presents a raw key, and this node requires a certificate"),
                _ => Err("it presents a certificate and asks for one, and this node has none"),
            };
            match (outcome, expected) {
                (Ok(proved), Ok(has_certificate)) => {
                    assert_eq!(proved.map(|it| it.has_certificate), [has_certificate; 2]);
                }
                (Err(text), Err(expected)) => assert!(text.contains(expected), "{text}"),
                (outcome, _) => panic!("{opens} to {accepts}: {outcome:?}"),
            }
            assert!(opens.abs_diff(accepts) > 1 || expected.is_ok(), "one step apart");
        }
    }
}

#[test]
fn a_nodes_own_key_stays_its_name() {
    let root = Authority::new("root");
    let (mut a, mut b) = (node("a"), node("b"));
    let with = |id| with_key(1).certificates(certificates(&root, &root, &[id]));
    let of_a = secure(&mut a, &with("a"), &seed());
    let of_b = secure(&mut b, &with("b"), &seed());
    let proved = open(&mut a, &mut b).unwrap();
    assert_eq!(proved.map(|it| it.fingerprint), [of_b, of_a]);
    for denied in [of_a, of_b] {
        let (mut a, mut b) = (certified("a", &root), certified("b", &root));
        let (seed_a, seed_b) = (seed(), seed());
        let of_a = secure(&mut a, &with("a"), &seed_a);
        let of_b = secure(&mut b, &with("b").deny([denied, of_a]), &seed_b);
        let text = open(&mut a, &mut b).unwrap_err();
        assert!(text.contains(&format!("its key {of_a} is denied")), "{text}");
        secure(&mut a, &with("a").deny([of_b]), &seed_a);
        secure(&mut b, &with("b"), &seed_b);
        let text = open(&mut a, &mut b).unwrap_err();
        assert!(text.contains(&format!("its key {of_b} is denied")), "{text}");
    }
}

#[test]
fn a_certificate_is_denied_by_its_key_in_both_roles() {
    let root = Authority::new("root");
    let of_a = certificates(&root, &root, &["a"]);
    let denied = of_a.fingerprint();
    let mut a = secured("a", &with_key(1).certificates(of_a));
    let of_b = certificates(&root, &root, &["b"]);
    let mut b = secured("b", &with_key(1).certificates(of_b).deny([denied]));
    let text = format!("the key {denied} of its certificate is denied");
    assert!(open(&mut a, &mut b).unwrap_err().contains(&text));
    assert!(open(&mut b, &mut a).unwrap_err().contains(&text));
}

#[test]
fn a_certificate_for_another_id_is_refused_by_both_sides() {
    let root = Authority::new("root");
    let mut wrong = secured("a", &with_key(1).certificates(certificates(&root, &root, &["c"])));
    let mut b = certified("b", &root);
    for text in [open(&mut wrong, &mut b), open(&mut b, &mut wrong)].map(Result::unwrap_err) {
        assert!(text.contains("its certificate is not valid for a"), "{text}");
    }
    let mut spaced = secured("a b", &with_key(1).certificates(certificates(&root, &root, &["c"])));
    let text = open(&mut spaced, &mut b).unwrap_err();
    assert!(text.contains("its node id \"a b\" is no DNS name"), "{text}");
}

#[test]
fn a_certificate_of_a_shared_name_is_for_every_id() {
    let root = Authority::new("root");
    let shared = |names: &[&str]| {
        let names = certificates(&root, &root, names).names(Names::any_of(["old", "gridkv"]));
        with_key(1).certificates(names)
    };
    let mut a = secured("a b", &shared(&["gridkv"]));
    let mut b = secured("b", &shared(&["old"]));
    open(&mut a, &mut b).unwrap();
    let mut other = secured("c", &shared(&["c"]));
    for text in [open(&mut other, &mut b), open(&mut b, &mut other)].map(Result::unwrap_err) {
        assert!(text.contains("its certificate is not valid for old, gridkv"), "{text}");
    }
}

/// A member with a certificate of a name that all nodes share comes as another node: it repeats
/// what that one has signed about itself, which every node it spoke to has seen.
#[test]
fn an_introduction_is_not_repeated_by_another_member() {
    let root = Authority::new("root");
    let shared = || {
        let shared = certificates(&root, &root, &["gridkv"]).names(Names::any_of(["gridkv"]));
        with_key(1).certificates(shared)
    };
    for security in [&shared as &dyn Fn() -> Security, &|| with_key(1)] {
        let victim = secured("a", &security());
        let introduction = victim.net.securing.as_ref().unwrap().introduction;
        let mut other = secured("a", &security());
        other.net.set_identity(victim.identity);
        other.net.securing.as_mut().unwrap().introduction = introduction;
        let mut b = secured("b", &security());
        let as_opener = open(&mut other, &mut b).unwrap_err();
        b.net.open(NOW, other.target(Channel::Control));
        until_both(&mut other, &mut b, |other, _| {
            other.net.links.values().any(|link| link.connection.secured().is_some()).then_some(())
        });
        let as_acceptor = until_both(&mut other, &mut b, |_, b| b.lost());
        let LossCause::Refused(Refusal { text: as_acceptor, .. }) = as_acceptor else { panic!() };
        for text in [as_opener, as_acceptor] {
            let texts = [
                "its own key has not signed this connection",
                "its introduction is not signed by the key that TLS proves",
            ];
            assert!(texts.iter().any(|it| text.contains(it)), "{text}");
        }
        assert!(b.greeted().is_none() && b.opened().is_none());
        until_both(&mut other, &mut b, |_, b| b.net.links.is_empty().then_some(()));
    }
}

/// What each update ends, with a connection in each direction.
#[test]
fn a_roll_out_opens_connections_again_and_ends_none_of_nodes_that_have_moved() {
    let root = Authority::new("root");
    let seeds = [seed(), seed()];
    let (mut a, mut b) = (node("a"), node("b"));
    let own = ["a", "b"].map(|id| certificates(&root, &root, &[id]));
    secure(&mut a, &with_key(1), &seeds[0]);
    secure(&mut b, &with_key(1), &seeds[1]);
    connect(&mut a, &mut b);
    connect(&mut b, &mut a);
    for number in 1..4 {
        for (node, own, seed) in [(&mut a, &own[0], &seeds[0]), (&mut b, &own[1], &seeds[1])] {
            secure(node, &step_with(number, own.clone()), seed);
            let late = NOW + Duration::from_secs(10 * number as u64);
            node.net.handle_timers(late, &mut node.events);
        }
        let ends = number == 2;
        assert_eq!((a.lost().is_some(), b.lost().is_some()), (ends, ends), "step {number}");
        if ends {
            until_both(&mut a, &mut b, |_, b| b.closed());
            until_both(&mut a, &mut b, |a, _| a.closed());
            connect(&mut a, &mut b);
            connect(&mut b, &mut a);
        }
        assert_eq!((a.net.links.len(), b.net.links.len()), (2, 2), "step {number}");
    }
    // What was opened with a raw key ends at a node that requires certificates.
    let mut c = secured("c", &step(1, &root, "c"));
    secure(&mut b, &step(2, &root, "b"), &seeds[1]);
    connect(&mut c, &mut b);
    secure(&mut b, &step(3, &root, "b"), &seeds[1]);
    b.net.handle_timers(NOW + Duration::from_secs(50), &mut b.events);
    assert!(b.closed().is_some());
    until_both(&mut c, &mut b, |c, _| c.lost());
}

#[test]
fn connections_end_whose_certificates_are_not_taken_any_more() {
    let (root, next) = (Authority::new("root"), Authority::new("next"));
    let of_a = certificates(&root, &root, &["a"]);
    let denied = of_a.fingerprint();
    let seeds = [seed(), seed()];
    let both = || {
        let (chain, key) = root.issue(&Leaf::of(&["b"]));
        let roots = format!("{}{}", root.pem(), next.pem());
        Certificates::from_pem(chain.as_bytes(), key.as_bytes(), roots.as_bytes()).unwrap()
    };
    let renewed = || certificates(&root, &root, &["b"]);
    let name = || renewed().names(Names::any_of(["gridkv"]));
    let with = |certificates| with_key(1).certificates(certificates);
    // Own connections are opened again with another certificate: the one before runs out first.
    for (what, later, reopens, ends) in [
        ("the same", None, false, false),
        ("renewed", Some(with(renewed())), true, false),
        ("a root more", Some(with(both())), true, false),
        ("another root", Some(with(certificates(&next, &next, &["b"]))), true, true),
        ("denied", Some(with(renewed()).deny([denied])), true, true),
        ("other names", Some(with(name())), true, true),
        ("none", Some(with_key(1)), true, true),
    ] {
        let (mut a, mut b) = (node("a"), node("b"));
        secure(&mut a, &with(of_a.clone()), &seeds[0]);
        let before = with(renewed());
        secure(&mut b, &before, &seeds[1]);
        connect(&mut a, &mut b);
        connect(&mut b, &mut a);
        secure(&mut b, &later.unwrap_or(before), &seeds[1]);
        b.net.handle_timers(NOW + Duration::from_secs(10), &mut b.events);
        assert_eq!((b.lost().is_some(), b.closed().is_some()), (reopens, ends), "{what}");
        if reopens {
            until_both(&mut a, &mut b, |a, _| a.closed());
        }
        if ends {
            until_both(&mut a, &mut b, |a, _| a.lost());
        }
        let left = 2 - usize::from(reopens) - usize::from(ends);
        assert_eq!((a.net.links.len(), b.net.links.len()), (left, left), "{what}");
    }
}

/// The roots of a node change while a connection is being opened.
#[test]
fn a_connection_that_began_under_other_roots_is_judged_by_the_new_ones() {
    let (root, next) = (Authority::new("root"), Authority::new("next"));
    let seed = seed();
    let (mut a, mut b) = (certified("a", &root), node("b"));
    secure(&mut b, &with_key(1).certificates(certificates(&root, &root, &["b"])), &seed);
    a.net.open(NOW, b.target(Channel::Control));
    until_both(&mut a, &mut b, |_, b| {
        let past = |link: &NetLink| link.connection.secured().is_some_and(|it| !it.is_at_gate());
        b.net.links.values().any(past).then_some(())
    });
    secure(&mut b, &with_key(1).certificates(certificates(&next, &next, &["b"])), &seed);
    until_both(&mut a, &mut b, |a, _| a.lost());
    assert!(b.greeted().is_none() && a.opened().is_none());
}

#[test]
fn a_connection_with_a_certificate_moves_to_a_core_and_answers() {
    let root = Authority::new("root");
    let (mut a, mut control) = (certified("a", &root), certified("b", &root));
    let mut core = certified("b", &root);
    let target = control.target(Channel::Core(CoreId(1)));
    for number in 0..50 {
        assert!(a.net.send(NOW, target, &read(number)));
    }
    let (connection, hello) = until_both(&mut a, &mut control, |_, b| b.greeted());
    let welcome = control.verdict(&hello).unwrap();
    let handover = control.net.hand_over(connection, welcome).unwrap();
    let connection = core.net.adopt(NOW, handover, &mut core.events);
    for number in 0..50 {
        let request = until_both(&mut a, &mut core, |_, core| core.request());
        assert_eq!(request, (connection, read(number)));
        core.net.answer(connection, &found(number, 300));
        assert_eq!(until_both(&mut a, &mut core, |a, _| a.answered()), found(number, 300));
    }
}
