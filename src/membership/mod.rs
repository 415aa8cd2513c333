//! Which nodes are in the cluster: SWIM, and the little that it lacks.
//!
//! SWIM (Das, Gupta, Motivala, "SWIM: Scalable Weakly-consistent Infection-style Process Group
//! Membership Protocol", DSN '02) finds a dead member in constant time and at a constant cost per
//! member, in a cluster of any size:
//!
//! 1. Every member probes one other member per period.
//! 2. If no ack comes in time, it asks a few others to probe the silent member indirectly.
//! 3. If still none comes, the member is *suspected*. Gossip, piggybacked on the probes, tells all
//!    members, and the suspect too, which refutes by raising its incarnation.
//! 4. A suspicion that is not refuted in time becomes a death. A death is final: a member that
//!    comes back has a new identity.
//!
//! ```text
//!  first heard of          no ack, direct or indirect         not refuted in time
//!       ──────────▶ Alive ─────────────────────────▶ Suspect ────────────────────▶ Dead
//!                     │  ◀─────────────────────────    │                            ▲ │
//!                     │     refuted: incarnation + 1   │      our own probe failed  │ │
//!                     ├────────────────────────────────┼────────────────────────────┘ │
//!                     │ "I have left"                  │ "I have left"                │ its last
//!                     └───────────────▶ Left ◀─────────┘                              │ word came
//!                                        ▲────────────────────────────────────────────┘ late
//!
//! A later life (boot + n, returns + n) at the same address replaces any of these, and starts as
//! Alive.
//! ```
//!
//! `foca` is that protocol without I/O. It decides which member to probe, what to gossip and when a
//! suspicion ends. [`Membership`] gives it time, datagrams and an identity, and adds what it lacks:
//!
//! - **Identity.** A node that is declared dead while it lives returns under a renewed identity
//!   (`returns + 1`) and says so; a restarted one has a newer `boot`. Both replace the old life at
//!   once.
//! - **Claims** ([`claims`]): "I am leaving" and "I have left", because a node that handed its data
//!   over need not be waited for, and a dead one may be.
//! - **Own pings** ([`pings`]): foca probes on its own schedule and does not say which probe an
//!   answer answers. A broken connection wants one member probed now. If its ping stays unanswered,
//!   the caller can [declare the member dead](Membership::declare_dead).
//! - **Accusations reach the accused** ([`accusations`]): a member that this node suspects is told
//!   so until that is over, and one that is dead for this node and not for others is told, too. If
//!   this node might not reach the member, it asks others to pass it on.
//! - **Rumours** ([`rumours`]): this node looks for itself before it believes a death by the word
//!   of another, which might hear none.
//! - **Strangers** ([`strangers`]): foca believes each that claims to be a node, and any number
//!   of them.
//! - **Denied lives** ([`denied`]): nodes that the app does not want to speak with.
//! - **Helpers** ([`helpers`]): foca has random members probe indirectly, of which most might not
//!   reach the silent member either.
//! - **Doubts** ([`health`]): a node in trouble accuses more slowly, and distant members get more
//!   time.
//! - **Changes** ([`roster`]): everything that happened, suspicions included, in one list.
//! - **An envelope** ([`envelope`]): version and cluster, or a seal, so that a stray datagram is
//!   dropped unread.
//!
//! Pure: time and datagrams come in as arguments, actions go out, chance comes from a seed. Feed
//! waiting datagrams before timers: after a pause of this process, the acks that lie in the socket
//! are what keeps its timers from accusing everybody.

mod accusations;
pub(crate) mod claims;
pub(crate) mod codec;
#[cfg_attr(not(feature = "security"), expect(dead_code, reason = "no node is denied"))]
mod denied;
#[cfg(feature = "security")]
mod departures;
#[cfg(not(feature = "security"))]
#[path = "unsigned.rs"]
mod departures;
mod drive;
pub(crate) mod envelope;
mod health;
mod helpers;
mod interface;
mod leaving;
#[cfg(feature = "security")]
mod openers;
mod pace;
mod pings;
mod roster;
mod rumours;
mod said;
#[cfg(feature = "security")]
mod sealed;
#[cfg(not(feature = "security"))]
#[path = "unsealed.rs"]
mod sealed;
mod strangers;
mod swim;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use foca::{Header, Member, Message};

use self::accusations::Accusations;
use self::claims::{Claim, ClaimKind, SharedClaims};
use self::codec::Datagram;
use self::denied::Denied;
use self::drive::Timer;
use self::health::Health;
use self::helpers::Helpers;
use self::pings::Pings;
use self::roster::Roster;
use self::rumours::Rumours;
use self::strangers::Strangers;
use self::swim::{Swim, new_swim};
use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::{Boot, Identity};

pub(crate) use self::codec::DatagramError;
pub(crate) use self::interface::{Change, MembershipAction, MembershipConfig, Record, State};

/// How soon a node that has joined asks a member once more for the members that it knows: the node
/// might have missed what came while it joined.
pub(crate) const EXCHANGE_SOON: Duration = Duration::from_secs(2);

/// Returns how often a node asks one of `members` members for all that it knows: so rarely that the
/// answers, with what the members told of themselves, take at most a few kilobytes a second.
pub(crate) fn exchange_period(members: usize) -> Duration {
    Duration::from_secs(10).max(Duration::from_millis(50) * members as u32)
}

/// One node's part in SWIM: what it knows of the others, and what it says of itself.
pub(crate) struct Membership {
    /// What the present foca was made of, and the next one will be.
    settings: MembershipConfig,
    swim: Swim,
    /// Our identity as last reported; foca renews its own.
    own: Identity,
    renewed_at: Option<Instant>,
    accusations: Accusations,
    rumours: Rumours,
    claims: SharedClaims,
    roster: Roster,
    health: Health,
    helpers: Helpers,
    pings: Pings,
    strangers: Strangers,
    denied: Denied,
    /// All timers, by time, then in the order in which they were set.
    timers: BTreeMap<(Instant, u64), Timer>,
    timers_set: u64,
    /// Whether we take part. If not, we answer pings and nothing else.
    is_member: bool,
    leaving: bool,
    /// How we ended, once we have. From then on nothing is believed or answered: foca would take
    /// the echo of its own death for a false accusation, and return.
    ended: Option<State>,
}

impl Membership {
    /// Makes a membership without other members. It has no deadline until it [learns](Self::learn)
    /// of a member, or hears from one.
    pub(crate) fn new(config: MembershipConfig) -> Self {
        // Scope and flow of an IPv6 address mean something on this node only, and do not travel.
        let addr = SocketAddr::new(config.identity.addr.ip(), config.identity.addr.port());
        let own = Identity { addr, ..config.identity };
        let claims = SharedClaims::default();
        Self {
            swim: new_swim(&config, own, claims.clone()),
            own,
            renewed_at: None,
            accusations: Accusations::default(),
            rumours: Rumours::default(),
            claims,
            roster: Roster::default(),
            health: Health::new(swim::probe_rtt(config.probe_period), config.local_health),
            // Not foca's stream of chance, and not a nonce that a former life used.
            pings: Pings::new(config.seed.rotate_left(32) ^ own.boot.0),
            helpers: Helpers::default(),
            strangers: Strangers::default(),
            denied: Denied::default(),
            timers: BTreeMap::new(),
            timers_set: 0,
            is_member: config.is_member,
            leaving: false,
            ended: None,
            settings: config,
        }
    }

    /// Returns our identity: as configured, with `returns` or `boot` raised by every
    /// [`Change::Returned`].
    pub(crate) fn identity(&self) -> Identity {
        self.own
    }

    /// Returns every other member ever heard of, by address, the dead ones for a day: its identity,
    /// its state, and whether it announced that it is leaving.
    #[cfg(test)]
    fn members(&self) -> impl Iterator<Item = (Identity, State, bool)> {
        self.roster.iter().map(|record| (record.identity, record.state, record.leaving))
    }

    /// Returns what a joiner is told: all known members, ourselves included, in the order of
    /// [`Identity::sort_key`].
    pub(crate) fn records(&self) -> Vec<Record> {
        let state = self.ended.unwrap_or(State::Alive);
        let own = Record { identity: self.own, state, leaving: self.leaving };
        let mut records: Vec<_> = self.roster.iter().copied().chain([own]).collect();
        records.sort_unstable_by_key(|record| record.identity.sort_key());
        records
    }

    /// Learns the members in a list that another member gave us over a connection.
    ///
    /// Only living and leaving members are believed: a death is spread by the nodes that found it.
    /// And nothing is believed about this life of ours, as the list might be older than our return,
    /// except that it is said to leave under the very identity that it has. We deny that.
    ///
    /// A life at our address that counts as later than this one is over, as we are here. So can be
    /// one of our id at another address: our clock was set back before we were started, or is
    /// behind that of the host of that life. We become later than it.
    pub(crate) fn learn(
        &mut self,
        now: Instant,
        records: &[Record],
        actions: &mut Vec<MembershipAction>,
    ) {
        let own = self.own;
        let is_own = |identity: &Identity| identity.node == own.node && identity.addr == own.addr;
        let others = records.iter().filter(|record| !is_own(&record.identity));
        let mut members = Vec::new();
        for Record { identity, state, leaving } in others.copied() {
            if state.is_active() && !self.denied.has(&identity) {
                self.note_seen_by_others(identity);
            }
            match state {
                State::Alive => members.push(Member::new(identity, 0, foca::State::Alive)),
                // Spread on, so that the suspect hears of it: the accuser might be gone by now.
                State::Suspect => members.push(Member::new(identity, 0, foca::State::Suspect)),
                State::Dead | State::Left => {}
            }
            let kind = if state == State::Left { ClaimKind::Left } else { ClaimKind::Leaving };
            if leaving || kind == ClaimKind::Left {
                self.claims.lock().note(Claim { identity, kind }.into());
            }
        }
        let is_later = |known: &&Record| {
            let it = known.identity;
            let is_over = it.node == own.node && it.addr != own.addr && !known.state.is_active();
            is_over && it.boot >= own.boot
                || it.addr == own.addr && (it.boot, it.node) > (own.boot, own.node)
        };
        let later = records.iter().filter(is_later).map(|record| record.identity);
        let latest = later.map(|identity| identity.boot).max();
        if let Some(boot) = latest.and_then(|boot| boot.0.checked_add(1)) {
            let later = Identity { boot: Boot(boot), ..self.own.life() };
            // No node would hear it any more if it were not possible.
            if later.is_possible() {
                self.drive(now, actions, |swim, wishes| swim.change_identity(later, wishes));
            }
        }
        let is_said_to_leave = |known: &Record| known.identity == self.own && known.leaving;
        if !self.leaving && records.iter().any(is_said_to_leave) {
            let claim = Claim { identity: self.own, kind: ClaimKind::Leaving };
            self.claims.lock().note(claim.into());
        }
        let members = self.with_room(now, members, actions);
        self.drive(now, actions, |swim, wishes| swim.apply_many(members.into_iter(), true, wishes));
        self.tell_accused(now, actions);
    }

    /// Takes part from here on.
    pub(crate) fn enter(&mut self) {
        self.is_member = true;
    }

    /// Whether this node takes part.
    pub(crate) fn is_member(&self) -> bool {
        self.is_member
    }

    /// Introduces us to `member`, which answers with some of the members that it knows.
    pub(crate) fn announce_to(
        &mut self,
        now: Instant,
        member: Identity,
        actions: &mut Vec<MembershipAction>,
    ) {
        self.drive(now, actions, |swim, wishes| swim.announce(member, wishes));
    }

    /// Acts on what arrived from `from`. No bytes make it panic. The error says what was wrong with
    /// them and whether anything changed.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &[u8],
        actions: &mut Vec<MembershipAction>,
    ) -> Result<(), DatagramError> {
        let datagram = Datagram::decode(self.settings.cluster, bytes)?;
        if self.ended.is_some() {
            return Ok(());
        }
        self.denied.check(&datagram)?;
        match datagram {
            // To answer would make us a member.
            Datagram::Swim(_) | Datagram::Accusation(_) | Datagram::PassOn(_)
                if !self.is_member => {}
            Datagram::Swim(packet) => return self.handle_packet(now, from, packet, actions),
            Datagram::Ping { nonce, target, from: asker } if target == self.own => {
                let pong = Datagram::Pong { nonce, from: self.own };
                // A known asker hears this node as it hears all that this node sends. Where
                // addresses are translated, an answer to where the ping seemed to come from would
                // take another way.
                let is_known = rule(ProtocolMutant::AnswersToSource, self.knows(&asker));
                let datagram = pong.encode(self.settings.cluster);
                actions.push(if is_known {
                    MembershipAction::Send { to: asker.addr, datagram }
                } else {
                    MembershipAction::Answer { to: from, asker: asker.addr, datagram }
                });
            }
            // The asker was told of a return of ours that never was.
            Datagram::Ping { target, from: asker, .. }
                if target.returns > self.own.returns
                    && target.life() == self.own.life()
                    && self.knows(&asker)
                    && self.speaks_from(&asker, from.ip()) =>
            {
                self.outlive(now, &target, actions);
                self.announce_to(now, asker, actions);
            }
            // We have renewed our identity, and the asker has not heard of it. It might be about to
            // believe that we are dead.
            Datagram::Ping { target, from: asker, .. }
                if self.own.is_later_than(&target)
                    && target.life() == self.own.life()
                    && self.may_answer(&asker) =>
            {
                self.announce_to(now, asker, actions);
            }
            // Meant for another life of ours, or for a node that had this address before.
            Datagram::Ping { .. } => {}
            // Another node than the accuser might have sent it.
            Datagram::Accusation(_) | Datagram::PassOn(_)
                if rule(ProtocolMutant::StrangersBelieved, !self.is_from_a_member(from)) =>
            {
                return Err(DatagramError::Stranger(from));
            }
            Datagram::Accusation(accusation) => self.accused(now, accusation, actions),
            Datagram::PassOn(accusation) => self.pass_on(now, accusation, actions),
            Datagram::Pong { nonce, from: identity } => {
                if let Some(number) = self.pings.finish(now, nonce, &identity) {
                    self.note_answer(&identity, from);
                    self.answered_rumour(&identity, number);
                    self.report_changes(actions);
                    actions.push(MembershipAction::Changed(Change::Probed(identity)));
                }
            }
        }
        Ok(())
    }

    fn handle_packet(
        &mut self,
        now: Instant,
        from: SocketAddr,
        packet: &[u8],
        actions: &mut Vec<MembershipAction>,
    ) -> Result<(), DatagramError> {
        // It might have lain in the socket while this node did not run.
        self.health.note_lateness(self.late_by(now));
        self.claims.lock().departures.note_time(now);
        let (mut ack, mut answered) = (None, None);
        let header = codec::header_of(packet);
        if let Some(header) = &header {
            self.is_believed(now, header, from, actions)?;
            self.outlive(now, &header.dst, actions);
            if !self.has_room_for(now, &header.src, actions) {
                return Ok(());
            }
        }
        if let Some(Header { src: source, dst, message, .. }) = header {
            self.rumours.heard_from(&source);
            match message {
                // If another identity holds our address with a better right, each return is
                // answered by the next "you are dead": at the pace of the network, unless it is
                // slowed down here.
                Message::TurnUndead if self.has_just_returned(now) => return Ok(()),
                Message::Ack(number) => {
                    let ends_probe = self.health.probe_answered(now, &source, number, true);
                    // foca believes no answer to an earlier identity.
                    answered = (ends_probe && dst == self.own).then_some(source);
                }
                Message::ForwardedAck { origin, probe_number } => {
                    self.health.probe_answered(now, &origin, probe_number, false);
                    if self.roster.has_active(&origin) && self.roster.has_active(&source) {
                        self.helpers.helped(origin, source);
                        ack = self.ack_through_helper(origin, probe_number, source);
                    }
                }
                _ => {}
            }
        }
        let left = self.without_excess(now, packet, actions);
        let packet = left.as_deref().unwrap_or(packet);
        let left = self.hold_rumours(now, packet, actions);
        let packet = left.as_deref().unwrap_or(packet);
        self.try_drive(now, actions, |swim, wishes| swim.handle_data(packet, wishes))
            .map_err(drive::datagram_error)?;
        if let Some(member) = answered.filter(|it| self.roster.has_active(it)) {
            self.put_off_indirect_probe(&member);
        }
        if let Some(ack) = ack {
            self.drive(now, actions, |swim, wishes| swim.handle_data(&ack, wishes));
        }
        Ok(())
    }

    fn has_just_returned(&self, now: Instant) -> bool {
        self.renewed_at.is_some_and(|at| now.since(at) < self.settings.probe_period)
    }

    /// Returns the ack that `member` would have sent us if it could: a helper of our own choice
    /// passed it on, on whose word foca does not wait.
    fn ack_through_helper(
        &mut self,
        member: Identity,
        number: u8,
        helper: Identity,
    ) -> Option<Vec<u8>> {
        self.helpers.take_answer(&member, number, &helper).then_some(())?;
        let known = self.swim.iter_members().find(|it| *it.id() == member)?;
        codec::packet_of(&Header {
            src: member,
            src_incarnation: known.incarnation(),
            dst: self.own,
            message: Message::Ack(number),
        })
    }

    /// Returns when [`handle_timers`](Self::handle_timers) next has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Does what is due. Early, late and repeated calls are harmless.
    pub(crate) fn handle_timers(&mut self, now: Instant, actions: &mut Vec<MembershipAction>) {
        self.note_beginning(now);
        self.put_off(now);
        let mut due_swim = Vec::new();
        let (mut repeat_leaving, mut tell_accused, mut ask_rumoured) = (false, false, false);
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Timer::Swim(timer) => due_swim.push(timer),
                Timer::RepeatLeaving => repeat_leaving = true,
                Timer::TellAccused => tell_accused = true,
                Timer::AskRumoured => ask_rumoured = true,
            }
        }
        // foca's order for timers that are late together; a stable sort keeps ours among equals.
        due_swim.sort();
        for timer in due_swim {
            if self.is_moot(&timer) {
                continue;
            }
            self.drive(now, actions, |swim, wishes| swim.handle_timer(timer, wishes));
        }
        if repeat_leaving {
            self.claim_leaving(now, actions);
        }
        if tell_accused {
            self.accusations.is_telling = false;
            self.tell_accused(now, actions);
        }
        if ask_rumoured {
            self.ask_rumoured(now, actions);
        }
    }

    /// Puts all of SWIM's timers off if they come late: this node did not run for that time.
    fn put_off(&mut self, now: Instant) {
        let later = self.health.came_late(self.late_by(now));
        if later > Duration::ZERO {
            let put_off = |((at, number), timer)| match timer {
                Timer::Swim(_) => ((at + later, number), timer),
                _ => ((at, number), timer),
            };
            self.timers = std::mem::take(&mut self.timers).into_iter().map(put_off).collect();
        }
    }

    /// Returns for how long a timer of SWIM is due.
    fn late_by(&self, now: Instant) -> Duration {
        let first = self.timers.iter().find(|(_, timer)| matches!(timer, Timer::Swim(_)));
        first.map_or(Duration::ZERO, |((at, _), _)| now.since(*at))
    }

    /// Whether the timer ends a suspicion that was refuted. foca 2.0 declares no member dead then,
    /// but still tells the member that it is dead, which that member has to believe.
    fn is_moot(&self, timer: &foca::Timer<Identity>) -> bool {
        let foca::Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer else {
            return false;
        };
        let suspicion = Member::new(*member_id, *incarnation, foca::State::Suspect);
        !self.swim.iter_members().any(|member| *member == suspicion)
    }

    /// Whether no member answers this node, though some are alive for it: it is cut off, or does
    /// not know yet that they are dead.
    pub(crate) fn is_unheard(&self) -> bool {
        self.health.is_unheard()
    }

    /// Returns how long nearly all round trips to `member` take at most; zero if none was measured.
    pub(crate) fn round_trip_at_most(&self, member: &Identity) -> Duration {
        self.health.longest_round_trip(member)
    }

    /// Returns the smoothed round trip to `member`, once one was measured.
    pub(crate) fn round_trip(&self, member: &Identity) -> Option<Duration> {
        self.health.round_trip(member)
    }

    /// Sends `member` a ping of our own; its answer is a [`Change::Probed`]. Only that very life
    /// answers.
    pub(crate) fn ping(
        &mut self,
        now: Instant,
        member: Identity,
        actions: &mut Vec<MembershipAction>,
    ) {
        self.ping_numbered(now, member, actions);
    }

    /// Does so, and returns the number of the ping.
    fn ping_numbered(
        &mut self,
        now: Instant,
        member: Identity,
        actions: &mut Vec<MembershipAction>,
    ) -> u64 {
        let number = self.pings.start(now, member);
        let nonce = self.pings.nonce(number);
        let ping = Datagram::Ping { nonce, target: member, from: self.own };
        actions.push(MembershipAction::Send {
            to: member.addr,
            datagram: ping.encode(self.settings.cluster),
        });
        number
    }

    /// Declares `member` dead and tells the others, after a probe of our own failed. If it lives,
    /// it returns.
    pub(crate) fn declare_dead(
        &mut self,
        now: Instant,
        member: Identity,
        actions: &mut Vec<MembershipAction>,
    ) {
        if member.addr != self.own.addr {
            let dead = [Member::down(member)].into_iter();
            self.drive(now, actions, |swim, wishes| swim.apply_many(dead, true, wishes));
        }
    }
}
