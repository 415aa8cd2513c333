//! What a node makes of the keys that others prove. Nodes that are pinged are controls, too.

use std::sync::Arc;

use super::*;
use crate::clock::WallTime;
use crate::control::duplicates::PATIENCE;
use crate::control::state::LinkState;
use crate::security::known::KnownKeys;
use crate::security::suite::{Salt, Suite};
use crate::security::{ClusterKey, Fingerprint, KeyId, Proved, Sealing, Security};
use crate::types::NodeId;
use crate::wire::message::RefusalReason;

const MILLI: Duration = Duration::from_millis(1);

fn fingerprint(number: u8) -> Fingerprint {
    Fingerprint::of_spki(&[number])
}

/// What a node with the key of this number proves. It has a new one at every start.
fn new_key(number: u8) -> Option<Proved> {
    Some(Proved {
        fingerprint: fingerprint(number),
        keeps_key: false,
        key: KeyId(7),
        has_certificate: false,
    })
}

/// What a node with the key of this number proves. It has the same after a restart.
fn kept_key(number: u8) -> Option<Proved> {
    new_key(number).map(|proved| Proved { keeps_key: true, ..proved })
}

/// What becomes of a greeting.
#[derive(PartialEq, Debug)]
enum Outcome {
    LetIn,
    Refused(RefusalReason),
    Held,
}

fn outcome(actions: &[ControlAction]) -> Outcome {
    let outcomes = actions.iter().filter_map(|action| match action {
        ControlAction::Welcome { .. } => Some(Outcome::LetIn),
        ControlAction::Refuse { refusal, .. } => Some(Outcome::Refused(refusal.reason)),
        _ => None,
    });
    let mut outcomes: Vec<Outcome> = outcomes.collect();
    assert!(outcomes.len() <= 1, "{outcomes:?}");
    outcomes.pop().unwrap_or(Outcome::Held)
}

/// The text of the refusal, which the node that is refused and both apps are told. An app is told
/// once.
fn text(actions: &[ControlAction]) -> &str {
    let said = actions.iter().find_map(|action| match action {
        ControlAction::Notify(Event::Refused { reason, .. }) => Some(reason.as_str()),
        _ => None,
    });
    let sent = actions.iter().find_map(|action| match action {
        ControlAction::Refuse { refusal, .. } => Some(refusal.text.as_str()),
        _ => None,
    });
    assert!(sent.is_none() || said.is_none() || sent == said, "{sent:?}, {said:?}");
    sent.or(said).expect("a refusal")
}

/// The changes of keys that the app is told of.
fn changes(actions: &[ControlAction]) -> Vec<(String, Fingerprint, Fingerprint)> {
    let changes = actions.iter().filter_map(|action| match action {
        ControlAction::Notify(Event::IdentityChanged { node, before, now }) => {
            Some((node.to_string(), *before, *now))
        }
        _ => None,
    });
    changes.collect()
}

fn greets_at(
    control: &mut Control,
    now: Instant,
    life: Identity,
    proved: Option<Proved>,
) -> Vec<ControlAction> {
    let hello = local("b", "here").hello(life, Channel::Control, None);
    let mut actions = Vec::new();
    control.handle(now, ControlEvent::Greeted { via: 1, hello, proved }, &mut actions);
    actions
}

fn greets(control: &mut Control, life: Identity, proved: Option<Proved>) -> Vec<ControlAction> {
    greets_at(control, NOW, life, proved)
}

fn becomes_member(control: &mut Control, life: Identity) {
    let told = local("b", "here").hello(life, Channel::Control, None);
    tell(control, &[life], vec![MemberDetails::of(&told)]);
}

/// This node finds that life at its address, as it would a seed.
fn is_found(control: &mut Control, life: Identity, proved: Option<Proved>) -> Vec<ControlAction> {
    welcomed(control, Link { addr: life.addr, expects: None }, life, proved)
}

/// A node that has greeted this one with such a key, was found with it, and is a member.
fn with_member(proved: Option<Proved>) -> Control {
    let mut control = control();
    assert_eq!(outcome(&greets(&mut control, life("b", 5), proved)), Outcome::LetIn);
    is_found(&mut control, life("b", 5), proved);
    becomes_member(&mut control, life("b", 5));
    control
}

/// A node that such a member has told, and that has died.
fn with_dead_member(proved: Option<Proved>) -> Control {
    let mut control = with_member(proved);
    let mut actions = Vec::new();
    control.swim(NOW, &mut actions, |membership, todo| {
        membership.declare_dead(NOW, life("b", 5), todo);
    });
    control.finish_event(NOW, &mut actions);
    control
}

fn at(now: Instant) -> Now {
    Now { instant: now, wall: WallTime::from_micros(1_700_000_000_000_000) }
}

/// Brings the datagrams among these actions to the node that is at their address, and what it says
/// back. Returns what follows from that.
fn deliver(
    control: &mut Control,
    now: Instant,
    there: Identity,
    actions: Vec<ControlAction>,
) -> Vec<ControlAction> {
    let mut other =
        started(ControlConfig { identity: there, local: local("b", "here"), seed: 2, ..config(0) });
    let (mut answers, mut follows) = (Vec::new(), Vec::new());
    carry(control, &mut other, now, actions, &mut answers);
    carry(&mut other, control, now, answers, &mut follows);
    follows
}

fn carry(
    from: &mut Control,
    to: &mut Control,
    now: Instant,
    sent: Vec<ControlAction>,
    follows: &mut Vec<ControlAction>,
) {
    for action in sent {
        if let ControlAction::Datagram { to: addr, receiver, bytes } = action
            && addr == to.identity().addr
        {
            let mut bytes = from.close_datagram(receiver, bytes, at(now).wall).unwrap();
            let _ = to.handle_datagram(at(now), from.identity().addr, &mut bytes, follows);
        }
    }
}

#[test]
fn a_node_that_proves_its_key_again_is_let_in() {
    for proved in [new_key(1), kept_key(1)] {
        let mut control = with_member(proved);
        for boot in [5, 6, 4] {
            let actions = greets(&mut control, life("b", boot), proved);
            assert_eq!((outcome(&actions), changes(&actions)), (Outcome::LetIn, vec![]), "{boot}");
        }
    }
}

#[test]
fn one_life_has_one_key() {
    for (mut control, pinned) in [
        (with_member(new_key(1)), new_key(2)),
        (with_dead_member(new_key(1)), new_key(2)),
        (with_member(kept_key(1)), kept_key(2)),
    ] {
        let actions = greets(&mut control, life("b", 5), pinned);
        assert_eq!(outcome(&actions), Outcome::Refused(RefusalReason::DuplicateId));
        let text = text(&actions);
        for number in [1, 2] {
            assert!(text.contains(&fingerprint(number).to_string()), "{text}");
        }
    }
}

/// A node has a new key at every start, and its members have not noticed that it was gone.
#[test]
fn a_restart_at_its_address_waits_for_a_round_trip_alone() {
    let mut control = with_member(new_key(1));
    let again = life("b", 6);
    let actions = greets(&mut control, again, new_key(2));
    assert_eq!((outcome(&actions), changes(&actions)), (Outcome::Held, vec![]));
    let now = NOW + MILLI;
    let actions = deliver(&mut control, now, again, actions);
    assert_eq!(outcome(&actions), Outcome::LetIn);
    assert_eq!(changes(&actions), [("b".to_string(), fingerprint(1), fingerprint(2))]);
    assert!(control.held.is_empty());
    // Its cores greet next, before it is a member.
    let actions = greets_at(&mut control, now, again, new_key(2));
    assert_eq!((outcome(&actions), changes(&actions)), (Outcome::LetIn, vec![]));
}

/// The clock of its host was set back. It finds out that it must count as later.
#[test]
fn a_restart_that_counts_as_earlier_is_let_in_and_moves_no_pin() {
    let mut control = with_member(new_key(1));
    let again = life("b", 4);
    let actions = greets(&mut control, again, new_key(2));
    let actions = deliver(&mut control, NOW + MILLI, again, actions);
    assert_eq!((outcome(&actions), changes(&actions)), (Outcome::LetIn, vec![]));
    assert_eq!(control.pins.fingerprint(again.node), Some(&fingerprint(1)));
}

/// A host that has the cluster key gives the id and the address of a member.
#[test]
fn a_host_that_takes_the_id_of_a_living_member_is_refused() {
    for boot in [6, 4] {
        let mut control = with_member(new_key(1));
        let actions = greets(&mut control, life("b", boot), new_key(2));
        assert_eq!(outcome(&actions), Outcome::Held, "{boot}");
        let actions = deliver(&mut control, NOW + MILLI, life("b", 5), actions);
        assert_eq!(outcome(&actions), Outcome::Refused(RefusalReason::DuplicateId));
        let text = text(&actions);
        for number in [1, 2] {
            assert!(text.contains(&fingerprint(number).to_string()), "{text}");
        }
        let actions = greets(&mut control, life("b", 5), new_key(1));
        assert_eq!((outcome(&actions), changes(&actions)), (Outcome::LetIn, vec![]));
    }
}

/// The node does not compare keys, and lets that host in.
#[cfg(feature = "sim")]
#[test]
fn the_mutant_that_compares_no_keys_is_noticed() {
    set_for_this_thread(Some(ProtocolMutant::PinsIgnored), u16::MAX);
    let alive = outcome(&greets(&mut with_member(new_key(1)), life("b", 6), new_key(2)));
    let kept = outcome(&greets(&mut with_dead_member(kept_key(1)), life("b", 6), kept_key(2)));
    let plain = outcome(&greets(&mut with_dead_member(kept_key(1)), life("b", 6), None));
    set_for_this_thread(None, u16::MAX);
    assert_eq!([alive, kept, plain], [Outcome::LetIn, Outcome::LetIn, Outcome::LetIn]);
}

/// Datagrams of neither arrive.
#[test]
fn a_member_that_is_silent_makes_room_for_another_key() {
    let moved = Identity { addr: life("c", 1).addr, ..life("b", 6) };
    for newcomer in [life("b", 6), moved] {
        let mut control = with_member(new_key(1));
        assert_eq!(outcome(&greets(&mut control, newcomer, new_key(2))), Outcome::Held);
        let mut actions = Vec::new();
        control.handle_held_timers(NOW + (PATIENCE - MILLI), &mut actions);
        assert_eq!(outcome(&actions), Outcome::Held);
        control.handle_held_timers(NOW + PATIENCE, &mut actions);
        assert_eq!((outcome(&actions), changes(&actions)), (Outcome::LetIn, vec![]));
        let actions = is_found(&mut control, newcomer, new_key(2));
        assert_eq!(changes(&actions).len(), 1);
    }
}

#[test]
fn a_node_whose_life_before_is_over_or_unknown_is_let_in_with_another_key() {
    let mut unknown = control();
    is_found(&mut unknown, life("b", 5), new_key(1));
    for mut control in [with_dead_member(new_key(1)), unknown] {
        for now in [new_key(2), kept_key(3)] {
            let number = if now == new_key(2) { 2 } else { 3 };
            let again = life("b", 4 + u64::from(number));
            let actions = greets(&mut control, again, now);
            assert_eq!((outcome(&actions), changes(&actions)), (Outcome::LetIn, vec![]));
            let actions = is_found(&mut control, again, now);
            let expected = ("b".to_string(), fingerprint(number - 1), fingerprint(number));
            assert_eq!(changes(&actions), [expected]);
        }
    }
}

#[test]
fn a_node_that_keeps_its_key_is_refused_with_another_until_that_is_forgotten() {
    let refused = Outcome::Refused(RefusalReason::Other);
    for mut control in [with_member(kept_key(1)), with_dead_member(kept_key(1))] {
        for proved in [new_key(2), kept_key(2)] {
            for boot in [6, 4] {
                let actions = greets(&mut control, life("b", boot), proved);
                assert_eq!(outcome(&actions), refused);
                let text = text(&actions);
                let [pinned, now] = [1, 2].map(|number| fingerprint(number).to_string());
                let ways_out = ["Security::identity", "Engine::forget_identity", "3600s"];
                for part in [&pinned, &now].into_iter().map(String::as_str).chain(ways_out) {
                    assert!(text.contains(part), "{part}: {text}");
                }
            }
        }
        let actions = greets(&mut control, life("b", 6), kept_key(1));
        assert_eq!(outcome(&actions), Outcome::LetIn);
    }
    let mut forgotten = with_dead_member(kept_key(1));
    let event = ControlEvent::ForgetIdentity { node: life("b", 5).node };
    forgotten.handle(NOW, event, &mut Vec::new());
    let actions = greets(&mut forgotten, life("b", 6), kept_key(2));
    assert_eq!((outcome(&actions), changes(&actions)), (Outcome::LetIn, vec![]));

    let mut control = with_dead_member(kept_key(1));
    control.forget_members(NOW + (HOUR - MILLI));
    assert_eq!(outcome(&greets(&mut control, life("b", 6), kept_key(2))), refused);
    control.forget_members(NOW + HOUR);
    assert_eq!(outcome(&greets(&mut control, life("b", 6), kept_key(2))), Outcome::LetIn);
    // One that is a member is seen all the time.
    let mut control = with_member(kept_key(1));
    control.forget_members(NOW + HOUR);
    control.forget_members(NOW + HOUR + HOUR / 2);
    assert_eq!(outcome(&greets(&mut control, life("b", 6), kept_key(2))), refused);
}

#[test]
fn who_speaks_plainly_does_not_take_the_id_of_a_node_that_keeps_its_key() {
    for boot in [5, 6] {
        let mut control = with_member(kept_key(1));
        let actions = greets(&mut control, life("b", boot), None);
        assert_eq!(outcome(&actions), Outcome::Refused(RefusalReason::Security));
        let text = text(&actions);
        assert!(text.contains(&fingerprint(1).to_string()), "{text}");
        assert!(text.contains("Config::security"), "{text}");

        let mut control = with_member(new_key(1));
        assert_eq!(outcome(&greets(&mut control, life("b", boot), None)), Outcome::LetIn);
    }
}

/// A host with the cluster key greets a node that has just started in the name of another one,
/// before that one does.
fn after_a_greeting_in_the_name_of_another() -> [Outcome; 2] {
    [life("b", 5), life("b", 6)].map(|node| {
        let mut control = control();
        let taken = greets(&mut control, life("b", 5), kept_key(9));
        assert_eq!(outcome(&taken), Outcome::LetIn, "nothing is known of it");
        outcome(&greets(&mut control, node, new_key(1)))
    })
}

#[test]
fn a_greeting_alone_pins_no_key() {
    assert_eq!(after_a_greeting_in_the_name_of_another(), [Outcome::LetIn, Outcome::LetIn]);
}

#[cfg(feature = "sim")]
#[test]
fn the_mutant_that_pins_what_greets_is_noticed() {
    set_for_this_thread(Some(ProtocolMutant::GreetingsPinned), u16::MAX);
    let outcomes = after_a_greeting_in_the_name_of_another();
    set_for_this_thread(None, u16::MAX);
    let refused = [RefusalReason::DuplicateId, RefusalReason::Other].map(Outcome::Refused);
    assert_eq!(outcomes, refused);
}

/// Which keys of lives the other threads are told of.
fn told_keys(actions: &[ControlAction]) -> Vec<Arc<KnownKeys>> {
    let keys = actions.iter().filter_map(|action| match action {
        ControlAction::Keys(keys) => Some(keys.clone()),
        _ => None,
    });
    keys.collect()
}

#[test]
fn cores_are_told_of_a_key_before_the_node_is_placed_and_once() {
    let (mut control, b) = (control(), life("b", 5));
    assert!(told_keys(&greets(&mut control, b, new_key(1))).is_empty(), "it was not found yet");
    let actions = is_found(&mut control, b, new_key(1));
    let [keys] = &told_keys(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!(keys.of(&b), Some(fingerprint(1)));
    let at = |is_it: fn(&ControlAction) -> bool| actions.iter().position(is_it);
    let placed_at = at(|it| matches!(it, ControlAction::Publish { .. })).unwrap_or(usize::MAX);
    assert!(at(|it| matches!(it, ControlAction::Keys(_))).unwrap() < placed_at);
    assert!(told_keys(&is_found(&mut control, b, new_key(1))).is_empty(), "it is known");
    let keys = told_keys(&is_found(&mut control, life("b", 6), new_key(2)));
    assert_eq!(keys[0].of(&b), None);
    assert_eq!(keys[0].of(&life("b", 6)), Some(fingerprint(2)));
}

/// A member says in a list that others have left. Of one it is known who may say so.
#[test]
fn a_list_says_of_no_node_that_it_has_left_whose_key_is_known() {
    let mut control = control();
    is_found(&mut control, life("b", 5), new_key(1));
    let record = |life: Identity| Record { identity: life, state: State::Left, leaving: false };
    let (b, c) = (life("b", 5), life("c", 5));
    let message = ControlMessage::Members {
        records: vec![record(b), record(c)],
        absent: Vec::new(),
        details: Vec::new(),
        claims: Vec::new(),
    };
    let link = Link { addr: ([127, 0, 0, 1], 9).into(), expects: None };
    control.handle(NOW, ControlEvent::Answer { link, message }, &mut Vec::new());
    assert!(!control.gone.has_left(&b) && control.gone.has_left(&c));
}

/// Another one takes the start of a node, too, before this one has found the true one.
#[test]
fn the_start_of_a_node_at_another_address_is_another_life() {
    let (b, other) = (life("b", 5), Identity { addr: life("c", 1).addr, ..life("b", 5) });
    let mut control = control();
    is_found(&mut control, other, new_key(2));
    let keys = told_keys(&is_found(&mut control, b, new_key(1)));
    assert_eq!(keys[0].of(&b), Some(fingerprint(1)));
    assert_eq!(keys[0].of(&other), None);
}

/// A greeting of the life before was under way for longer than that of the life after.
#[test]
fn an_earlier_life_moves_no_pin_back() {
    let mut control = control();
    for (boot, key) in [(6, 2), (5, 1), (6, 2)] {
        let actions = is_found(&mut control, life("b", boot), new_key(key));
        assert_eq!(changes(&actions), vec![], "{boot}");
        let actions = greets(&mut control, life("b", boot), new_key(key));
        assert_eq!((outcome(&actions), changes(&actions)), (Outcome::LetIn, vec![]), "{boot}");
    }
    assert_eq!(control.pins.fingerprint(life("b", 6).node), Some(&fingerprint(2)));
}

/// This node opens a connection, and is welcomed.
fn welcomed(
    control: &mut Control,
    link: Link,
    life: Identity,
    proved: Option<Proved>,
) -> Vec<ControlAction> {
    let welcome = local("b", "here").hello(life, Channel::Control, None);
    let mut actions = Vec::new();
    control.handle(NOW, ControlEvent::LinkUp { link, welcome, proved }, &mut actions);
    actions
}

fn is_closed(actions: &[ControlAction], link: Link) -> bool {
    actions.iter().any(|it| matches!(it, ControlAction::Close(closed) if *closed == link))
}

/// A node is impersonated at the address that is dialled.
#[test]
fn a_welcome_is_judged_as_a_greeting_is() {
    let seed = Link { addr: life("b", 5).addr, expects: None };
    for (pinned, proved) in
        [(kept_key(1), kept_key(2)), (kept_key(1), new_key(2)), (kept_key(1), None)]
    {
        for link in [Link::to(&life("b", 5)), Link::to(&life("b", 6)), seed] {
            let mut control = with_member(pinned);
            let boot = link.expects.map_or(6, |(_, boot)| boot.0);
            let actions = welcomed(&mut control, link, life("b", boot), proved);
            assert!(is_closed(&actions, link), "{actions:?}");
            assert!(text(&actions).contains(&fingerprint(1).to_string()));
            assert!(control.links.values().all(|link| link.state != LinkState::Up));
            assert_eq!(control.pins.fingerprint(life("b", 5).node), Some(&fingerprint(1)));
        }
    }
}

/// What is at the address of the life before is not that life.
#[test]
fn a_node_that_is_reached_at_its_address_waits_for_no_ping() {
    for link in [Link::to(&life("b", 6)), Link { addr: life("b", 6).addr, expects: None }] {
        let mut control = with_member(new_key(1));
        let actions = welcomed(&mut control, link, life("b", 6), new_key(2));
        assert!(!is_closed(&actions, link), "{actions:?}");
        assert_eq!(changes(&actions).len(), 1);
        assert!(control.held.is_empty());
    }
}

#[test]
fn who_is_reached_at_another_address_waits_until_the_member_is_found() {
    let other_way = Link { addr: ([127, 0, 0, 1], 9).into(), expects: None };
    let moved = Identity { addr: life("c", 1).addr, ..life("b", 6) };
    for (link, newcomer) in [(other_way, life("b", 6)), (Link::to(&moved), moved)] {
        let mut control = with_member(new_key(1));
        let actions = welcomed(&mut control, link, newcomer, new_key(2));
        assert!(is_closed(&actions, link) && changes(&actions).is_empty(), "{actions:?}");
        assert_eq!(control.held.len(), 1);
        welcomed(&mut control, link, newcomer, new_key(2));
        assert_eq!(control.held.len(), 1, "it waits once");
        let mut with_answer = deliver(&mut control, NOW + MILLI, life("b", 5), actions);
        with_answer.retain(|action| matches!(action, ControlAction::Notify(_)));
        assert!(text(&with_answer).contains(&fingerprint(2).to_string()));

        let mut control = with_member(new_key(1));
        welcomed(&mut control, link, newcomer, new_key(2));
        control.handle_held_timers(NOW + PATIENCE, &mut Vec::new());
        assert!(control.held.is_empty());
        let actions = welcomed(&mut control, link, newcomer, new_key(2));
        let is_there = link.addr == newcomer.addr;
        assert_eq!(changes(&actions).len(), usize::from(is_there));
    }
}

/// What the app sees of the member b.
fn shown(control: &Control) -> Option<(Fingerprint, KeyId)> {
    let member = control.members.iter().find(|member| member.id == NodeId::new("b"));
    member.expect("a member").security.map(|it| (it.fingerprint, it.key_id))
}

#[test]
fn the_app_sees_what_is_proved_over_the_link_of_its_node() {
    let mut control = with_member(new_key(1));
    let link = Link::to(&life("b", 5));
    assert_eq!(shown(&control), None, "it has only greeted");
    for proved in [new_key(1), None, new_key(1)] {
        welcomed(&mut control, link, life("b", 5), proved);
        assert_eq!(shown(&control), proved.map(|it| (it.fingerprint, it.key)));
        let end = LinkEnd::Ended;
        control.handle(NOW, ControlEvent::LinkDown { link, end }, &mut Vec::new());
        assert_eq!(shown(&control), None);
    }
}

/// This node was connected to it before it was a member.
#[test]
fn the_app_sees_what_a_newcomer_has_proved() {
    let (mut control, b) = (control(), life("b", 5));
    control.dial_newcomer(NOW, b, &mut Vec::new());
    welcomed(&mut control, Link::to(&b), b, new_key(1));
    becomes_member(&mut control, b);
    assert_eq!(shown(&control), Some((fingerprint(1), KeyId(7))));
    control.handle_exchange_timer(NOW + HOUR, &mut Vec::new());
    assert_eq!(control.proved.len(), 1);
    control.close_link(&b, &mut Vec::new());
    control.newcomers.clear();
    control.handle_exchange_timer(NOW + 2 * HOUR, &mut Vec::new());
    assert!(control.proved.is_empty());
}

/// A host with the cluster key can answer under any number of ids.
#[test]
fn pins_do_not_fill_memory() {
    let mut control = with_member(kept_key(1));
    let is_found_as = |control: &mut Control, number: u64| {
        let id = format!("n{number}");
        let node = NodeHash::of(ClusterHash::of("shop"), &id);
        let identity = Identity { node, ..life("d", 1) };
        let mut hello = local("d", "here").hello(identity, Channel::Control, None);
        hello.node_id = id;
        let link = Link { addr: identity.addr, expects: None };
        let event = ControlEvent::LinkUp { link, welcome: hello, proved: new_key(9) };
        control.handle(NOW + MILLI * number as u32, event, &mut Vec::new());
        node
    };
    let nodes: Vec<NodeHash> =
        (0..MAX_MEMBERS as u64 + 10).map(|number| is_found_as(&mut control, number)).collect();
    let is_pinned = |node: &NodeHash| control.pins.fingerprint(*node).is_some();
    assert_eq!(nodes.iter().filter(|node| is_pinned(node)).count(), MAX_MEMBERS - 1);
    assert!(is_pinned(&life("b", 5).node), "it is a member");
    assert!(!is_pinned(&nodes[0]) && is_pinned(nodes.last().unwrap()));
}

#[test]
fn the_texts_of_the_longest_names_fit_a_refusal() {
    let id = "\u{7f}".repeat(255);
    let node = NodeHash::of(ClusterHash::of("shop"), &id);
    let mut hello = local("b", "here").hello(life("b", 5), Channel::Control, None);
    (hello.node_id, hello.identity.node) = (id, node);
    for (pinned, boot, proved) in
        [(kept_key(1), 6, new_key(2)), (new_key(1), 5, new_key(2)), (kept_key(1), 6, None)]
    {
        let mut control = control();
        let link = Link { addr: hello.identity.addr, expects: None };
        let first = ControlEvent::LinkUp { link, welcome: hello.clone(), proved: pinned };
        control.handle(NOW, first, &mut Vec::new());
        let mut hello = hello.clone();
        hello.identity.boot = Boot(boot);
        let mut actions = Vec::new();
        control.handle(NOW, ControlEvent::Greeted { via: 1, hello, proved }, &mut actions);
        let text = text(&actions);
        assert!(text.len() <= 2048, "{} bytes", text.len());
    }
}

/// A node that denies a key, and knows a member by another one or by none.
fn denies(of: u8, pinned: Option<Proved>) -> Control {
    let mut control = with_member(pinned);
    let bytes = std::array::from_fn(|at| at as u8);
    let security = Security::cluster_key(ClusterKey::from_bytes(bytes).unwrap());
    let security = security.deny([fingerprint(of)]);
    let node = security.of_node("shop", &zeroize::Zeroizing::new([7; 32])).unwrap();
    let (suite, salt) = (Suite::Aes128Gcm, Salt(1));
    control.seal(Sealing { security: Arc::new(node), suite, salt });
    control
}

fn is_alive(control: &Control, life: &Identity) -> bool {
    control.active_lives().any(|active| active == *life)
}

/// It stands on the way to a member once, and answers in its name.
#[test]
fn a_denied_node_ends_no_life_but_its_own() {
    let b = life("b", 5);
    let proves = |control: &mut Control, number: u8| {
        let (link, key) = (Link::to(&b), fingerprint(number));
        control.handle(NOW, ControlEvent::DeniedKey { link, key }, &mut Vec::new());
    };
    let mut control = denies(9, new_key(1));
    proves(&mut control, 9);
    assert!(is_alive(&control, &b), "its key is another one");
    let mut control = denies(1, new_key(1));
    proves(&mut control, 2);
    assert!(is_alive(&control, &b), "that is not denied");
    proves(&mut control, 1);
    assert!(!is_alive(&control, &b));
    let mut control = denies(9, None);
    proves(&mut control, 9);
    assert!(!is_alive(&control, &b), "nothing else is known of it");
    // That life proves another key: who answered before was another one.
    assert_eq!(control.denied.len(), 1);
    greets(&mut control, b, new_key(3));
    assert!(control.denied.is_empty());
    let mut control = denies(9, kept_key(1));
    let again = Link::to(&life("b", 6));
    let event = ControlEvent::DeniedKey { link: again, key: fingerprint(9) };
    control.handle(NOW, event, &mut Vec::new());
    assert!(control.denied.is_empty(), "the node keeps another key");
    // It is forgotten with its life.
    let mut control = denies(1, new_key(1));
    proves(&mut control, 1);
    assert_eq!(control.denied.len(), 1);
    control.forget_denied(|_| false);
    assert!(control.denied.is_empty());
}
