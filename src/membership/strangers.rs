//! Strangers: whose word is taken, and how many new members in what time.
//!
//! **Problem.** Any host can send what looks like a packet of a node. If that alone made a member,
//! one datagram would have every node of the cluster send and dial to an address that another host
//! chose, three thousand of them would be three thousand members, and each node could be declared
//! dead by a host that belongs to none of them.
//!
//! | a packet names as its sender | and comes | what this node does |
//! |---|---|---|
//! | a life that it knows | from its address | it believes what it says |
//! | a life that it knows | from another | it pings it: the answer shows its other addresses |
//! | another one | from its address | it [meets](MembershipAction::Meet) that node |
//! | another one | from another | nothing |
//!
//! To meet a node is to dial it, and to ask who it is.
//!
//! A life is known if its node has said who it is over a connection that this node opened to it, or
//! if a member told of it. The members that a packet tells of come in at a bounded pace; lists of
//! members over a connection bring the rest.
//!
//! Of a life that begins far in the future no member's word counts: its node must have said who it
//! is to this one. Otherwise a host that speaks as a member could name, of any node, the last life
//! that is possible, which that node cannot outlive. A node whose clock is years ahead comes in all
//! the same, as it speaks to each member.
//!
//! **Invariant.** Because of datagrams alone, an address from which no node has answered yet gets
//! at most one dial at a time, and no datagram but for an answer to a ping, which is shorter than
//! the ping. (A node that says HELLO can have its own address tried, over TCP and UDP.)
//!
//! A life may have returned up to [`MAX_RETURNS_AHEAD`] times since this node heard of it. A life
//! that is said to have returned more often is pinged under that identity, and must answer.
//! Otherwise one datagram could name the last return that is possible, and the node would have to
//! return tens of thousands of times to be later. A node that hears of a few more returns of its
//! own becomes later than these at once ([`outlive`](Membership::outlive)). It does not for many:
//! when its returns are used up it becomes another life, whose copies count nowhere.
//!
//! **Translated addresses.** The datagrams of a node behind a gateway come from another address
//! than the one at which it is reached. When it is pinged because of that, it sends the answer as
//! it sends all else. So the answer shows its other address.
//!
//! **Limits.** Who can forge the source of a datagram, stands on the way, or has the IP address of
//! a member, can still speak as that member.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use foca::{Header, Member, Message};

use super::Membership;
use super::codec::{self, DatagramError};
use super::drive::Timer;
use super::interface::MembershipAction;
use super::pace::Pace;
use super::swim::LAST_INCARNATIONS;
use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::{Boot, Identity, MAX_BOOT, MAX_MEMBERS};

/// How many lives are remembered that have said who they are, and may be no members yet.
const MAX_MET: usize = 1024;

/// How many addresses other than its own a member's packets may come from: a host may have several.
const MAX_OTHER_ADDRESSES: usize = 4;

/// How many members that are new to this node packets may bring in a second, and how many at once.
const NEWCOMERS_PER_SECOND: u32 = 64;
const NEWCOMERS_AT_ONCE: u32 = 256;

/// How many others are known at most: lists of members have this node as well, and the sender of a
/// packet comes in before those that the packet tells of.
const MAX_OTHERS: usize = MAX_MEMBERS - 2;

/// How far after the present a life may begin of which others tell, in milliseconds: a day, which
/// is above the errors of clocks that are kept at all.
const MAX_AHEAD_MS: u64 = 24 * 60 * 60 * 1000;

/// A node whose own life began before this, at the beginning of 2025, had no right clock when it
/// started. All other lives would be far from its own.
const CLOCKS_ARE_RIGHT_FROM: Boot = Boot(1_735_689_600_000);

/// How many returns ahead a known life is believed to be without an answer of its own.
const MAX_RETURNS_AHEAD: u128 = 8;

/// How rarely it is said that a limit was met.
const SAID_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Strangers {
    /// Who said who it is, and when.
    met: BTreeMap<Identity, Instant>,
    /// From where members speak, other than from their addresses.
    elsewhere: BTreeMap<Identity, Elsewhere>,
    /// When each life was believed to have returned last.
    returned_at: BTreeMap<Identity, Instant>,
    /// Under how many returns each life has answered a ping.
    answered: BTreeMap<Identity, u16>,
    newcomers: Pace,
    /// When this node began, by its two clocks.
    began: Option<(Instant, Boot)>,
    /// How many members there was no room for, or no time.
    left_out: u64,
    say_at: Instant,
}

#[derive(Debug, Default)]
struct Elsewhere {
    ips: Vec<IpAddr>,
    ask_at: Instant,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            met: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            returned_at: BTreeMap::new(),
            answered: BTreeMap::new(),
            newcomers: Pace::new(NEWCOMERS_PER_SECOND, NEWCOMERS_AT_ONCE),
            began: None,
            left_out: 0,
            say_at: Instant::default(),
        }
    }
}

impl Membership {
    /// Takes up that the node at this identity's address has said that it is this life.
    pub(crate) fn meet(&mut self, now: Instant, member: &Identity) {
        let met = &mut self.strangers.met;
        if met.len() >= MAX_MET
            && let Some(oldest) = met.iter().min_by_key(|(_, at)| **at).map(|(life, _)| *life)
        {
            met.remove(&oldest);
        }
        met.insert(member.life(), now);
    }

    /// Whether this node knows this life by more than its own datagrams.
    pub(super) fn knows(&self, member: &Identity) -> bool {
        self.roster.has_life(member) || self.strangers.met.contains_key(&member.life())
    }

    /// Notes when this node began, once.
    pub(super) fn note_beginning(&mut self, now: Instant) -> (Instant, Boot) {
        *self.strangers.began.get_or_insert((now, self.own.boot))
    }

    /// Returns the latest boot of which the word of others counts.
    fn latest_boot(&mut self, now: Instant) -> Boot {
        let (at, boot) = self.note_beginning(now);
        if boot < CLOCKS_ARE_RIGHT_FROM {
            return MAX_BOOT;
        }
        let passed = u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
        Boot(boot.0.saturating_add(passed).saturating_add(MAX_AHEAD_MS))
    }

    /// Whether no word of others counts about this life.
    pub(crate) fn is_too_far(&mut self, now: Instant, member: &Identity) -> bool {
        let latest = self.latest_boot(now);
        !self.roster.has_life(member) && is_far(member, latest, &self.strangers.met)
    }

    /// Whether this may be how often a known life has returned. If not, it is asked.
    fn admits_return(
        &mut self,
        now: Instant,
        member: &Identity,
        actions: &mut Vec<MembershipAction>,
    ) -> bool {
        let (life, period) = (member.life(), self.settings.probe_period.as_nanos());
        let Some(known) = self.roster.returns_of(&life) else { return true };
        let by = u128::from(member.returns.saturating_sub(known));
        let strangers = &mut self.strangers;
        let has_answered = strangers.answered.get(&life).is_some_and(|it| *it >= member.returns);
        if by == 0 || has_answered || !rule(ProtocolMutant::ReturnsBelieved, true) {
            return true;
        }
        let last = strangers.returned_at.get(&life);
        let periods = last.map_or(MAX_RETURNS_AHEAD, |at| now.since(*at).as_nanos() / period);
        if by <= MAX_RETURNS_AHEAD.min(1 + periods) {
            if strangers.returned_at.len() >= MAX_MEMBERS {
                strangers.returned_at.clear();
            }
            strangers.returned_at.insert(life, now);
            return true;
        }
        self.ask_once_in_a_period(now, *member, actions);
        false
    }

    /// Becomes later than a return of this life that another node has heard of, if it is near.
    pub(super) fn outlive(
        &mut self,
        now: Instant,
        named: &Identity,
        actions: &mut Vec<MembershipAction>,
    ) {
        let own = self.own;
        let by = u128::from(named.returns.saturating_sub(own.returns));
        let is_near = (1..=2 * MAX_RETURNS_AHEAD).contains(&by);
        if named.life() != own.life() || !is_near || self.has_just_returned(now) {
            return;
        }
        let renewed = foca::Identity::renew(named);
        if let Some(renewed) = renewed {
            self.drive(now, actions, |swim, wishes| swim.change_identity(renewed, wishes));
        }
    }

    pub(super) fn speaks_from(&self, member: &Identity, from: IpAddr) -> bool {
        let elsewhere = self.strangers.elsewhere.get(&member.life());
        is_same(member.addr.ip(), from)
            || elsewhere.is_some_and(|it| it.ips.iter().any(|ip| is_same(*ip, from)))
    }

    /// Whether a datagram comes from where some member is.
    pub(super) fn is_from_a_member(&self, from: SocketAddr) -> bool {
        let mut active = self.roster.iter().filter(|known| known.state.is_active());
        active.any(|known| is_same(known.identity.addr.ip(), from.ip()))
            || self.strangers.elsewhere.iter().any(|(life, it)| {
                it.ips.iter().any(|ip| is_same(*ip, from.ip())) && self.roster.has_active_life(life)
            })
    }

    /// Whether this node answers this one at its address: it knows it, dead or alive.
    pub(super) fn may_answer(&self, member: &Identity) -> bool {
        self.knows(member) || !rule(ProtocolMutant::StrangersBelieved, true)
    }

    /// Whether the sender of a packet is to be believed. If not, it may be asked who it is.
    pub(super) fn is_believed(
        &mut self,
        now: Instant,
        header: &Header<Identity>,
        from: SocketAddr,
        actions: &mut Vec<MembershipAction>,
    ) -> Result<(), DatagramError> {
        let source = header.src;
        if source.addr == self.own.addr {
            return Err(DatagramError::FromOurselves);
        }
        if !rule(ProtocolMutant::StrangersBelieved, true) {
            return Ok(());
        }
        let is_there = is_same(source.addr.ip(), from.ip());
        if !self.knows(&source) {
            if is_there && source.addr.port() == from.port() {
                actions.push(MembershipAction::Meet(source));
            }
            return Err(DatagramError::Stranger(source.addr));
        }
        if !self.speaks_from(&source, from.ip()) {
            self.ask_once_in_a_period(now, source, actions);
            return Err(DatagramError::FromElsewhere(source.addr));
        }
        if !self.admits_return(now, &source, actions) {
            return Err(DatagramError::Stranger(source.addr));
        }
        match header.message {
            // foca would send to the node that the packet names.
            Message::PingReq { target, .. } | Message::IndirectAck { target, .. }
                if target.addr != self.own.addr && !self.roster.has_active_life(&target) =>
            {
                Err(DatagramError::Stranger(target.addr))
            }
            _ => Ok(()),
        }
    }

    /// Pings a member of which this node is not sure.
    fn ask_once_in_a_period(
        &mut self,
        now: Instant,
        member: Identity,
        actions: &mut Vec<MembershipAction>,
    ) {
        let elsewhere = &mut self.strangers.elsewhere;
        if elsewhere.len() >= MAX_MEMBERS {
            elsewhere.clear();
        }
        let it = elsewhere.entry(member.life()).or_default();
        if it.ask_at <= now {
            it.ask_at = now + self.settings.probe_period;
            self.ping(now, member, actions);
        }
    }

    /// Notes that a member has answered a ping under this identity, and from where: who knows the
    /// number of the ping is on the way to its address.
    pub(super) fn note_answer(&mut self, member: &Identity, from: SocketAddr) {
        let answered = &mut self.strangers.answered;
        if answered.len() >= MAX_MEMBERS {
            answered.clear();
        }
        answered.insert(member.life(), member.returns);
        if let Some(it) = self.strangers.elsewhere.get_mut(&member.life())
            && !it.ips.contains(&from.ip())
        {
            if it.ips.len() >= MAX_OTHER_ADDRESSES {
                it.ips.remove(0);
            }
            it.ips.push(from.ip());
        }
    }

    /// Returns a packet without what is not to be taken from it, or `None` if that is nothing:
    /// members that are too many, and that this node is dead when it has just returned.
    pub(super) fn without_excess(
        &mut self,
        now: Instant,
        packet: &[u8],
        actions: &mut Vec<MembershipAction>,
    ) -> Option<Vec<u8>> {
        let (mut unknown, mut returned) = (0, Vec::new());
        codec::without_updates(packet, |update| {
            unknown += usize::from(!self.roster.has_address(update.id()));
            let known = self.roster.returns_of(&update.id().life());
            returned.extend(known.filter(|it| *it < update.id().returns).map(|_| *update.id()));
            false
        });
        let mut room = self.make_room(now, unknown, actions);
        returned.retain(|it| !self.admits_return(now, it, actions));
        let has_just_returned = self.has_just_returned(now);
        let latest = self.latest_boot(now);
        let mut left_out = 0;
        let (roster, denied) = (&self.roster, &self.denied);
        let Strangers { met, newcomers, .. } = &mut self.strangers;
        let left = codec::without_updates(packet, |update: &Member<Identity>| {
            let it = update.id();
            if it.addr == self.own.addr {
                let makes_return = match update.state() {
                    foca::State::Down => true,
                    foca::State::Suspect => update.incarnation() >= LAST_INCARNATIONS,
                    foca::State::Alive => false,
                };
                return makes_return && *it == self.own && has_just_returned;
            }
            if denied.has(it) && update.state() != foca::State::Down {
                return true;
            }
            if roster.has_life(it) || !rule(ProtocolMutant::StrangersBelieved, true) {
                return returned.contains(it);
            }
            if is_far(it, latest, met) {
                return true;
            }
            let takes_room = !roster.has_address(it);
            let is_admitted = (!takes_room || room > 0) && newcomers.admits(now);
            room -= usize::from(is_admitted && takes_room);
            left_out += u64::from(!is_admitted);
            !is_admitted
        });
        self.note_left_out(now, left_out, actions);
        left
    }

    /// Returns those of some members, out of a list, that are believed and that there is room for.
    pub(super) fn with_room(
        &mut self,
        now: Instant,
        mut members: Vec<Member<Identity>>,
        actions: &mut Vec<MembershipAction>,
    ) -> Vec<Member<Identity>> {
        let latest = self.latest_boot(now);
        members.retain(|it| !self.denied.has(it.id()));
        let (roster, met) = (&self.roster, &self.strangers.met);
        members.retain(|it| roster.has_life(it.id()) || !is_far(it.id(), latest, met));
        members.retain(|it| self.admits_return(now, it.id(), actions));
        let mut room = self.make_room(now, members.len(), actions);
        let before = members.len();
        let roster = &self.roster;
        members.retain(|member| {
            let takes_room = !roster.has_address(member.id());
            let is_taken = !takes_room || room > 0;
            room -= usize::from(is_taken && takes_room);
            is_taken
        });
        let left_out = before - members.len();
        self.note_left_out(now, left_out as u64, actions);
        members
    }

    /// Whether there is room for this member, if it is new.
    pub(super) fn has_room_for(
        &mut self,
        now: Instant,
        member: &Identity,
        actions: &mut Vec<MembershipAction>,
    ) -> bool {
        let has_room = self.roster.has_address(member) || self.make_room(now, 1, actions) > 0;
        self.note_left_out(now, u64::from(!has_room), actions);
        has_room
    }

    /// Forgets those that have been dead for longest if there is no room for this many more.
    /// Returns for how many there is.
    fn make_room(
        &mut self,
        now: Instant,
        count: usize,
        actions: &mut Vec<MembershipAction>,
    ) -> usize {
        let room = MAX_OTHERS.saturating_sub(self.roster.len());
        if room >= count {
            return room;
        }
        let is_removal = |timer: &Timer| matches!(timer, Timer::Swim(foca::Timer::RemoveDown(_)));
        let removals = self.timers.iter().filter(|(_, timer)| is_removal(timer));
        let due: Vec<_> = removals.map(|(key, _)| *key).take(count - room).collect();
        for key in due {
            if let Some(Timer::Swim(timer)) = self.timers.remove(&key) {
                self.drive(now, actions, |swim, wishes| swim.handle_timer(timer, wishes));
            }
        }
        MAX_OTHERS.saturating_sub(self.roster.len())
    }

    fn note_left_out(&mut self, now: Instant, count: u64, actions: &mut Vec<MembershipAction>) {
        let strangers = &mut self.strangers;
        strangers.left_out += count;
        if count > 0 && strangers.say_at <= now {
            strangers.say_at = now + SAID_EVERY;
            actions.push(MembershipAction::LeftOut(strangers.left_out));
        }
    }
}

/// Whether a life that is no member begins so late that it must have said itself who it is, and
/// has not.
fn is_far(member: &Identity, latest: Boot, met: &BTreeMap<Identity, Instant>) -> bool {
    member.boot > latest
        && !met.contains_key(&member.life())
        && rule(ProtocolMutant::FarLivesBelieved, true)
}

fn is_same(one: IpAddr, other: IpAddr) -> bool {
    one.to_canonical() == other.to_canonical()
}
