//! One node's control, told by hand what other nodes say.

#[cfg(feature = "security")]
mod keys;

use std::collections::BTreeMap;
use std::time::Duration;

use super::details::KEPT_FOR;
use super::*;
use crate::membership::{Record, State};
#[cfg(feature = "sim")]
use crate::mutants::{ProtocolMutant, set_for_this_thread};
use crate::options::OnPartition;
use crate::placement::Site;
use crate::quorums::{Count, Quorums};
use crate::shard::Debt;
use crate::types::{Boot, ClusterHash, MAX_MEMBERS, NodeHash, Retention};
use crate::wire::handshake::Local;
use crate::wire::message::{
    Channel, ControlMessage, Hello, MemberDetails, NodeDebt, Reached, Status,
};
use crate::wire::timing::OPEN_TIMEOUT;

const NOW: Instant = Instant::from_nanos(1_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn local(id: &str, data_center: &str) -> Local {
    Local {
        cluster: "shop".into(),
        node_id: id.into(),
        cores: 2,
        quorums: Quorums::exactly(3, 2, 1),
        on_partition: OnPartition::Serve,
        site: Site { data_center: data_center.into(), ..Site::default() },
    }
}

fn life(id: &str, boot: u64) -> Identity {
    let port = id.bytes().fold(1, |port, byte| 100 * port + u16::from(byte - b'0'));
    Identity {
        node: NodeHash::of(ClusterHash::of("shop"), id),
        boot: Boot(boot),
        returns: 0,
        addr: ([127, 0, 0, 1], port).into(),
    }
}

fn control() -> Control {
    control_that_expects(0)
}

fn control_that_expects(expect: u16) -> Control {
    started(config(expect))
}

fn started(config: ControlConfig) -> Control {
    let mut control = Control::new(config);
    control.start(NOW, &mut Vec::new());
    control
}

fn config(expect: u16) -> ControlConfig {
    ControlConfig {
        cluster: ClusterHash::of("shop"),
        identity: life("a", 1),
        local: local("a", "here"),
        expect,
        seeds: Vec::new(),
        discovers: false,
        probe_period: Duration::from_millis(200),
        retention: Retention { member: HOUR, data_center: HOUR },
        suspicion_timeout: Duration::from_millis(350),
        local_health: true,
        seed: 1,
    }
}

fn details(id: &str, boot: u64) -> MemberDetails {
    MemberDetails::of(&local(id, "there").hello(life(id, boot), Channel::Control, None))
}

/// Another node says that these live, and what it knows of them.
fn tell(
    control: &mut Control,
    lives: &[Identity],
    details: Vec<MemberDetails>,
) -> Vec<ControlAction> {
    let record =
        |identity: &Identity| Record { identity: *identity, state: State::Alive, leaving: false };
    let records = lives.iter().map(record).collect();
    let message =
        ControlMessage::Members { records, absent: Vec::new(), details, claims: Vec::new() };
    let link = Link { addr: ([127, 0, 0, 1], 9).into(), expects: None };
    let mut actions = Vec::new();
    control.handle(NOW, ControlEvent::Answer { link, message }, &mut actions);
    actions
}

fn greet(control: &mut Control, hello: Hello) {
    control.handle(NOW, ControlEvent::Greeted { via: 1, hello, proved: None }, &mut Vec::new());
}

/// The other members that partitions can be placed on, each with its data center.
fn placed(control: &Control) -> Vec<(String, String)> {
    let others = control.placed.iter().filter(|member| member.identity.node != life("a", 1).node);
    let pairs = others.map(|it| (it.id.as_str().to_string(), it.site.data_center.to_string()));
    pairs.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn pair(id: &str, data_center: &str) -> (String, String) {
    (id.to_string(), data_center.to_string())
}

#[test]
fn a_member_is_placed_by_the_word_of_another_until_it_speaks_itself() {
    let mut control = control();
    tell(&mut control, &[life("b", 5)], Vec::new());
    assert_eq!(placed(&control), []);
    assert!(!control.placement.is_complete() && control.missing_details.ask_at.is_some());
    tell(&mut control, &[life("b", 5)], vec![details("b", 5)]);
    assert_eq!(placed(&control), [pair("b", "there")]);
    assert!(control.placement.is_complete() && control.missing_details.ask_at.is_none());

    greet(&mut control, local("b", "yonder").hello(life("b", 5), Channel::Control, None));
    assert_eq!(placed(&control), [pair("b", "yonder")]);
    tell(&mut control, &[life("b", 5)], vec![details("b", 5)]);
    assert_eq!(placed(&control), [pair("b", "yonder")], "its own word counts");

    tell(&mut control, &[life("b", 6)], vec![details("b", 5)]);
    assert_eq!(placed(&control), [], "of a life before");
    tell(&mut control, &[life("b", 6)], vec![details("b", 6)]);
    assert_eq!(placed(&control), [pair("b", "there")]);
}

#[test]
fn a_member_that_would_be_refused_is_not_taken_by_the_word_of_another() {
    let there = details("b", 5).site;
    let at = |site| MemberDetails { site, ..details("b", 5) };
    let refused = [
        MemberDetails { protocol: (9, 9), ..details("b", 5) },
        MemberDetails { cores: 0, ..details("b", 5) },
        at(Site { weight: 0, ..there.clone() }),
        at(Site { zone: "x".repeat(300).into(), ..there.clone() }),
        MemberDetails {
            replicas: Count::Exactly(2),
            ..at(Site { data_center: "here".into(), ..there })
        },
    ];
    for details in refused {
        let mut control = control();
        tell(&mut control, &[life("b", 5)], vec![details.clone()]);
        assert_eq!(placed(&control), [], "{details:?}");
    }
    let mut control = control();
    let far = MemberDetails { replicas: Count::Exactly(2), ..details("b", 5) };
    tell(&mut control, &[life("b", 5)], vec![far]);
    assert_eq!(placed(&control).len(), 1, "another data center may have its own quorums");
}

/// A node that expects five is there with one other, which expects none and is born. What that one
/// has decided counts, or the node would hold nothing of the lists that name it.
#[test]
fn a_node_that_expects_more_follows_one_that_is_born_with_it() {
    let b = life("b", 5);
    for (expect, is_other_born, is_born) in
        [(5, false, false), (5, true, true), (3, false, true), (0, false, true)]
    {
        let mut control = control_that_expects(expect);
        let welcome = local("b", "here").hello(b, Channel::Control, None);
        tell(&mut control, &[b], vec![MemberDetails::of(&welcome)]);
        let link = Link::to(&b);
        control.handle(NOW, ControlEvent::LinkUp { link, welcome, proved: None }, &mut Vec::new());
        let members_digest = control.placement.digest();
        let born = Stage::Born { members_digest };
        let stage = if is_other_born { born } else { Stage::Forming };
        let status = Status { members_digest, stage };
        let message = ControlMessage::Status { status, asks: Vec::new(), heard: Vec::new() };
        control.handle(NOW, ControlEvent::Answer { link, message }, &mut Vec::new());
        assert_eq!(control.stage == born, is_born, "{expect} are expected");
        assert_eq!(control.readiness.needed_at_birth, if is_born { 0 } else { 3 });
    }
}

/// A node was started under an id that was taken, greeted this node, and was gone before it was a
/// member. What it had told took the place of what the living member had, which had no name from
/// then on: no partition was placed on it, and nothing was decided.
#[test]
fn a_later_life_that_does_not_become_a_member_takes_no_name_away() {
    let mut control = control();
    tell(&mut control, &[life("b", 5)], vec![details("b", 5)]);
    greet(&mut control, local("b", "yonder").hello(life("b", 6), Channel::Control, None));
    assert_eq!(placed(&control), [pair("b", "there")]);
    tell(&mut control, &[life("c", 5)], vec![details("c", 5)]);
    assert_eq!(placed(&control), [pair("b", "there"), pair("c", "there")]);
    assert!(control.placement.is_complete());

    tell(&mut control, &[life("b", 6)], Vec::new());
    assert_eq!(placed(&control), [pair("b", "yonder"), pair("c", "there")]);
    control.forget_members(NOW + 2 * KEPT_FOR);
    assert_eq!(control.details.len(), 2, "the life before is over");
}

/// Members of the own data center, with and without a link to them.
fn joined(control: &mut Control, up: &[&str], out_of_reach: &[&str]) {
    for id in up.iter().chain(out_of_reach) {
        let told = local(id, "here").hello(life(id, 5), Channel::Control, None);
        tell(control, &[life(id, 5)], vec![MemberDetails::of(&told)]);
        let link = Link::to(&life(id, 5));
        let event = if up.contains(id) {
            ControlEvent::LinkUp { link, welcome: told, proved: None }
        } else {
            ControlEvent::LinkDown { link, end: LinkEnd::Unreachable }
        };
        control.handle(NOW, event, &mut Vec::new());
    }
}

/// Two nodes wait until it is safe, and each passes questions on for the other. The number of a
/// round chose the helper, and a question that was passed on took a number, too: so a node asked
/// the same half of its helpers for ever, and none of these reached the member.
#[test]
fn each_round_asks_another_member_for_one_that_is_out_of_reach() {
    let mut control = control();
    joined(&mut control, &["b", "c"], &["d"]);
    let (until, mut actions) = (NOW + HOUR, Vec::new());
    control.handle(NOW, ControlEvent::WatchSafety { ticket: 1, until }, &mut actions);
    for round in 0..4 {
        let message = ControlMessage::AskDebt { round, of: Some(life("b", 5)) };
        let request =
            ControlEvent::Request { via: 1, peer: life("b", 1), request_id: round, message };
        control.handle(NOW, request, &mut actions);
        let at = control.safety_deadline().expect("it is not safe: no core has answered");
        control.handle_timers(at, &mut actions);
    }
    let asked = actions.iter().filter_map(|action| match action {
        ControlAction::Ask { link, message: ControlMessage::AskDebt { of: Some(of), .. } }
            if *of == life("d", 5) =>
        {
            Some(link.addr)
        }
        _ => None,
    });
    let asked: Vec<SocketAddr> = asked.collect();
    let turns = [life("b", 5).addr, life("c", 5).addr];
    assert!(asked.len() >= 4 && asked.windows(2).all(|pair| pair[0] != pair[1]), "{asked:?}");
    assert!(turns.iter().all(|addr| asked.contains(addr)));
}

/// After some rounds without an answer all members had three seconds to answer, a dead one too.
#[test]
fn a_member_that_dies_is_not_waited_for_before_it_is_safe() {
    let mut control = control();
    joined(&mut control, &["b", "c"], &[]);
    let (until, mut actions) = (NOW + HOUR, Vec::new());
    control.handle(NOW, ControlEvent::WatchSafety { ticket: 1, until }, &mut actions);
    let mut now = NOW;
    for _ in 0..8 {
        now = control.safety_deadline().unwrap();
        control.handle_safety_timer(now, &mut actions);
    }
    assert!(control.safety_deadline().unwrap().since(now) > Duration::from_secs(3));
    now = now + Duration::from_millis(1);
    control.swim(now, &mut actions, |membership, todo| {
        membership.declare_dead(now, life("c", 5), todo);
    });
    control.finish_event(now, &mut actions);
    assert!(control.safety_deadline().unwrap().since(now) <= Duration::from_millis(100));
}

/// Whether a node finds out that it is safe if its own cores and the one other member take this
/// long to answer.
fn finds_out_that_it_is_safe(answers_after: Duration) -> bool {
    let mut control = control();
    joined(&mut control, &["b"], &[]);
    control.stage = Stage::Joined;
    let (until, mut actions) = (NOW + HOUR / 60, Vec::new());
    control.handle(NOW, ControlEvent::WatchSafety { ticket: 1, until }, &mut actions);
    let mut now = NOW;
    let mut answers: BTreeMap<Instant, Vec<ControlEvent>> = BTreeMap::new();
    while now < until {
        for action in std::mem::take(&mut actions) {
            let answer = match action {
                ControlAction::Safe { .. } => return true,
                ControlAction::AskDebt { question } => {
                    let debt = Debt::default();
                    answers.entry(now + answers_after).or_default().push(ControlEvent::CoreOwes {
                        core: 0,
                        question,
                        debt,
                    });
                    ControlEvent::CoreOwes { core: 1, question, debt }
                }
                ControlAction::Ask { link, message: ControlMessage::AskDebt { round, .. } } => {
                    let members_digest = control.placement.digest();
                    let (copies, writes, missing_bytes) = (0, 0, 0);
                    let debt = NodeDebt { members_digest, copies, writes, missing_bytes };
                    let message = ControlMessage::Debt { round, of: None, debt };
                    ControlEvent::Answer { link, message }
                }
                _ => continue,
            };
            answers.entry(now + answers_after).or_default().push(answer);
        }
        let next = answers.first_key_value().map(|(at, _)| *at);
        now = next.into_iter().chain(control.safety_deadline()).min().unwrap().max(now);
        let due: Vec<_> = answers.remove(&now).into_iter().flatten().collect();
        due.into_iter().for_each(|answer| control.handle(now, answer, &mut actions));
        control.handle_safety_timer(now, &mut actions);
    }
    false
}

/// On a busy machine answers took longer than a tenth of a second. Each came too late for its round
/// and was asked for again, and the wait failed for as long as the machine was busy.
#[test]
fn slow_answers_are_waited_for() {
    for millis in [1, 90, 150, 400, 2000] {
        let time = Duration::from_millis(millis);
        assert!(finds_out_that_it_is_safe(time), "{time:?}");
        #[cfg(feature = "sim")]
        {
            set_for_this_thread(Some(ProtocolMutant::AnswersCutOff), u16::MAX);
            let is_found_out = finds_out_that_it_is_safe(time);
            set_for_this_thread(None, u16::MAX);
            assert_eq!(is_found_out, millis < 100, "{time:?}, with the mutant");
        }
    }
}

/// A node did not reach a hundred members of its own data center. It asked others for the first 64,
/// again and again, and no cluster was born.
#[test]
fn the_status_of_every_member_out_of_reach_is_asked_for() {
    let mut control = control();
    let ids: Vec<String> = (0..100).map(|number| format!("{number:02}")).collect();
    joined(&mut control, &["b"], &ids.iter().map(String::as_str).collect::<Vec<_>>());
    let mut asked = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let mut actions = Vec::new();
        control.tell_status(NOW, &mut actions);
        for action in actions {
            if let ControlAction::Ask { message: ControlMessage::Status { asks, .. }, .. } = action
            {
                assert!(asks.len() <= 64);
                asked.extend(asks);
            }
        }
    }
    assert_eq!(asked.len(), 100);
}

/// Any host can say HELLO, under another name each time.
#[test]
fn greetings_do_not_fill_memory() {
    let mut control = control();
    tell(&mut control, &[life("b", 5)], vec![details("b", 5)]);
    for number in 0..3 * MAX_MEMBERS as u64 {
        let identity = Identity { node: NodeHash(number), ..life("d", number) };
        let mut hello = local("d", "here").hello(identity, Channel::Control, None);
        hello.node_id = format!("n{number}");
        hello.identity.node = NodeHash::of(ClusterHash::of("shop"), &hello.node_id);
        greet(&mut control, hello);
    }
    assert!(control.details.len() <= 2 * MAX_MEMBERS, "{}", control.details.len());
    assert!(control.details_of(&life("b", 5)).is_some(), "it is a member");
}

/// A node was asked to dial any address, and said whether a process listens there.
#[test]
fn a_node_dials_back_to_the_address_of_the_hello_alone() {
    let mut control = control();
    let (peer, elsewhere) = (life("b", 1), life("c", 1).addr);
    for identity in [Identity { addr: elsewhere, ..peer }, life("c", 1), peer] {
        let mut actions = Vec::new();
        let message = ControlMessage::DialBack { identity };
        let request = ControlEvent::Request { via: 1, peer, request_id: 7, message };
        control.handle(NOW, request, &mut actions);
        let opened = actions.iter().any(|it| matches!(it, ControlAction::Open(_)));
        assert_eq!(opened, identity == peer, "{identity:?}");
    }
}

/// A member that no node remembers any more leaves nothing behind.
#[test]
fn what_is_known_of_a_member_is_forgotten_with_it() {
    let mut control = control();
    tell(&mut control, &[life("b", 5)], vec![details("b", 5), details("c", 5)]);
    assert_eq!(control.details.len(), 1, "c is no member");
    greet(&mut control, local("d", "here").hello(life("d", 5), Channel::Control, None));
    assert_eq!(control.details.len(), 2, "it is about to become one");
    control.forget_members(NOW + 2 * KEPT_FOR);
    assert_eq!(control.details.len(), 1, "it became none");

    control.note_over(NOW, &Record { identity: life("e", 3), state: State::Dead, leaving: false });
    control.forget_members(NOW + HOUR / 2);
    assert!(control.gone.contains(&life("e", 3)));
    control.forget_members(NOW + 2 * HOUR);
    assert!(!control.gone.contains(&life("e", 3)) && control.gone_said_at.is_empty());
}

/// Another node took a member for dead, and it returned. All that this node hears of it is the
/// renewed identity: it reported a death, and dialled the member again.
#[test]
fn a_member_that_only_renewed_its_identity_did_not_die() {
    let mut control = control();
    let b = life("b", 5);
    tell(&mut control, &[b], vec![details("b", 5)]);
    let renewed = Identity { returns: 1, ..b };
    let actions = tell(&mut control, &[renewed], Vec::new());
    let is_end = |action: &&ControlAction| {
        matches!(
            action,
            ControlAction::Notify(Event::Died { .. })
                | ControlAction::Close(Link { expects: Some(_), .. })
                | ControlAction::Open(_)
        )
    };
    assert_eq!(actions.iter().filter(is_end).count(), 0, "{actions:?}");
    assert!(control.has_link(&renewed) && !control.has_link(&b));
    assert_eq!(placed(&control), [pair("b", "there")]);
}

/// Whether the member is taken for dead when connections to it are refused and pings are lost.
fn is_dead_when_refused(was_up: bool) -> bool {
    let mut control = control();
    let b = life("b", 5);
    tell(&mut control, &[b], vec![details("b", 5)]);
    let link = Link::to(&b);
    if was_up {
        let welcome = local("b", "there").hello(b, Channel::Control, None);
        control.handle(NOW, ControlEvent::LinkUp { link, welcome, proved: None }, &mut Vec::new());
    }
    let end = LinkEnd::ConnectRefused;
    control.handle(NOW, ControlEvent::LinkDown { link, end }, &mut Vec::new());
    let mut now = NOW;
    // Before SWIM takes it for dead.
    while now < NOW + Duration::from_millis(150) {
        now = control.deadline().unwrap().max(now);
        control.handle_timers(now, &mut Vec::new());
    }
    let records = control.membership.records();
    records.iter().any(|known| known.identity == b && !known.state.is_active())
}

/// The gateway between two sites refuses connections in place of the host behind it. That is no
/// death of the host.
#[test]
fn a_member_that_was_never_reached_is_not_taken_for_dead_when_it_is_refused() {
    assert!(is_dead_when_refused(true));
    assert!(!is_dead_when_refused(false));
}

/// A node at an address of its own asks to be reached, over the connection of this number.
fn asks_to_be_reached(control: &mut Control, via: u64) -> (Identity, Vec<ControlAction>) {
    let addr = ([127, 0, 1, via as u8 / 2], 1000 + via as u16).into();
    let identity = Identity { addr, node: NodeHash(via), ..life("b", 1) };
    let message = ControlMessage::DialBack { identity };
    let request = ControlEvent::Request { via, peer: identity, request_id: 7, message };
    let mut actions = Vec::new();
    control.handle(NOW, request, &mut actions);
    (identity, actions)
}

/// What those that asked are told.
fn told(actions: &[ControlAction]) -> Vec<(u64, Reached, bool)> {
    let told = actions.iter().filter_map(|action| match action {
        ControlAction::Answer {
            via,
            message: ControlMessage::DialedBack { tcp, udp },
            request_id: 7,
        } => Some((*via, *tcp, *udp)),
        _ => None,
    });
    told.collect()
}

/// A question that had no answer ended its link, as one that swallows what is sent.
#[test]
fn who_asks_to_be_reached_while_too_many_are_tried_is_told_to_ask_again() {
    let (mut control, mut actions) = (control(), Vec::new());
    for via in 0..300 {
        actions.extend(asks_to_be_reached(&mut control, via).1);
    }
    assert_eq!(
        told(&actions),
        (256..300).map(|via| (via, Reached::NotTried, false)).collect::<Vec<_>>()
    );
    actions.clear();
    for _ in 0..3 {
        let link = Link { addr: life("b", 1).addr, expects: None };
        let message = ControlMessage::DialedBack { tcp: Reached::NotTried, udp: false };
        control.handle(NOW, ControlEvent::Answer { link, message }, &mut actions);
    }
    assert!(actions.is_empty(), "it says nothing of this node: {actions:?}");
}

/// Tries for others took the places of this node's own links, and any address got pings.
#[test]
fn few_are_dialed_for_others_at_a_time_and_pinged_only_once_they_answer() {
    let (mut control, mut actions) = (control(), Vec::new());
    let asked: Vec<Identity> = (0..40)
        .map(|via| {
            let (identity, more) = asks_to_be_reached(&mut control, via);
            actions.extend(more);
            identity
        })
        .collect();
    let opened = |actions: &[ControlAction]| -> Vec<Link> {
        let opened = actions.iter().filter_map(|action| match action {
            ControlAction::Open(link) => Some(*link),
            _ => None,
        });
        opened.collect()
    };
    assert_eq!(opened(&actions), asked[..32].iter().map(Link::to).collect::<Vec<_>>());
    let is_sent = |action: &ControlAction| matches!(action, ControlAction::Datagram { .. });
    assert!(!actions.iter().any(is_sent), "{actions:?}");
    let end = |control: &mut Control, number: usize, end: LinkEnd| {
        let link = Link::to(&asked[number]);
        let mut actions = Vec::new();
        control.handle(NOW, ControlEvent::LinkDown { link, end }, &mut actions);
        assert!(!actions.iter().any(is_sent), "{actions:?}");
        (told(&actions), opened(&actions))
    };
    let next = |number: usize| vec![Link::to(&asked[number])];
    let refused = vec![(0, Reached::NobodyListens, false)];
    assert_eq!(end(&mut control, 0, LinkEnd::ConnectRefused), (refused, next(32)));
    let put_off = vec![(1, Reached::NotTried, false)];
    assert_eq!(end(&mut control, 1, LinkEnd::PutOff), (put_off, next(33)));

    let link = Link::to(&asked[2]);
    let welcome = local("b", "there").hello(asked[2], Channel::Control, None);
    let mut actions = Vec::new();
    control.handle(NOW, ControlEvent::LinkUp { link, welcome, proved: None }, &mut actions);
    assert_eq!(opened(&actions), next(34));
    control.handle_timers(NOW, &mut actions);
    let to = actions.iter().filter_map(|action| match action {
        ControlAction::Datagram { to, .. } => Some(*to),
        _ => None,
    });
    assert_eq!(to.collect::<Vec<_>>(), [asked[2].addr]);
    // A node that still waits was not tried. One that did not answer was.
    let mut actions = Vec::new();
    control.handle_timers(NOW + 2 * OPEN_TIMEOUT, &mut actions);
    let told = told(&actions);
    assert!(told.contains(&(2, Reached::Yes, false)), "{told:?}");
    assert!(told.contains(&(3, Reached::NoAnswer, false)), "{told:?}");
    assert!(told.contains(&(39, Reached::NotTried, false)), "{told:?}");
}

/// A link that finds all places taken is opened soon, and says nothing of the node.
#[test]
fn who_could_not_be_dialed_is_not_out_of_reach() {
    let mut control = control();
    let b = life("b", 5);
    tell(&mut control, &[b], vec![details("b", 5)]);
    let link = Link::to(&b);
    let mut now = NOW;
    for _ in 0..3 {
        let end = LinkEnd::PutOff;
        control.handle(now, ControlEvent::LinkDown { link, end }, &mut Vec::new());
        assert!(!control.links[&b.node].is_out_of_reach());
        now = now + Duration::from_millis(100);
        let mut actions = Vec::new();
        control.handle_timers(now, &mut actions);
        assert!(actions.iter().any(|it| matches!(it, ControlAction::Open(it) if *it == link)));
    }
}
