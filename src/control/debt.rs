//! Whether any node may be stopped: only while no copy is missing anywhere.
//!
//! A node's cores know what it lacks or owes, so it asks them. Only the other members know what
//! they lack or owe, so it asks these too. It is safe when all members answered one round of
//! questions, each sees the same members, and none owes anything. No member is asked unless a
//! caller waits: until then this costs nothing. A member that this node does not reach is asked
//! through another one, which passes the question on, and the answer back.
//!
//! A node that leaves asks its own cores as well: it goes when nothing is left to give, and every
//! call that it took has its answer and is known to every replica.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use super::interface::{Actions, ControlAction, Link};
use super::state::{Control, DebtAsker, LinkState, PassedOn, Safety};
use crate::clock::Instant;
use crate::error::Risk;
use crate::mutants::{ProtocolMutant, rule};
use crate::shard::{Debt, Stage};
use crate::types::{Identity, NodeHash};
use crate::wire::message::{ControlMessage, NodeDebt};

/// How far apart rounds of questions are, and how far at least if a caller waits for a short time.
const ROUND_PERIOD: Duration = Duration::from_millis(100);
const MIN_ROUND_PERIOD: Duration = Duration::from_millis(10);

/// How long answers are waited for at most, before all are asked again. After each round to which
/// some member had no answer the time doubles, from [`ROUND_PERIOD`] up to this. On a busy host an
/// answer takes long, and one to an earlier round does not count.
const MAX_PATIENCE: Duration = Duration::from_millis(3200);

/// How many questions a node passes on at a time, for others. At the limit it forgets the oldest,
/// whose asker asks again in its next round.
const MAX_PASSED_ON: usize = 256;

impl Control {
    /// Lets an app wait until it is safe. What was asked before it came does not count.
    pub(super) fn watch_safety(
        &mut self,
        now: Instant,
        ticket: u64,
        until: Instant,
        actions: &mut Actions,
    ) {
        let until = self.safety.as_ref().map_or(until, |others| others.until.max(until));
        self.safety = Some(Safety {
            ticket,
            until,
            round: 0,
            ask_at: now,
            again_at: now,
            patience: ROUND_PERIOD,
            heard: BTreeMap::new(),
        });
        self.handle_safety_timer(now, actions);
    }

    pub(super) fn safety_deadline(&self) -> Option<Instant> {
        self.safety.as_ref().map(|safety| safety.ask_at)
    }

    /// Begins a round of questions, unless no caller waits any more.
    pub(super) fn handle_safety_timer(&mut self, now: Instant, actions: &mut Actions) {
        let Some(mut safety) = self.safety.take_if(|safety| safety.ask_at <= now) else { return };
        if safety.round > 0 {
            let risks = self.risks(&safety);
            safety.patience = match has_silent(&risks) {
                true if rule(ProtocolMutant::AnswersCutOff, true) => {
                    (safety.patience * 2).min(MAX_PATIENCE)
                }
                _ => ROUND_PERIOD,
            };
            actions.push(ControlAction::Risks(risks));
        }
        if safety.until <= now {
            return;
        }
        self.last_round += 1;
        let round = self.last_round;
        safety.round = round;
        safety.heard.clear();
        // However short a time a caller waits, the outcome of one round is known before.
        let at_most = safety.until.since(now) / 2;
        let after = |time: Duration| now + time.min(at_most).max(MIN_ROUND_PERIOD);
        (safety.again_at, safety.ask_at) = (after(ROUND_PERIOD), after(safety.patience));
        self.safety = Some(safety);
        let up = self.links.values().filter(|member| member.state == LinkState::Up);
        let up: Vec<Identity> = up.map(|member| member.identity).collect();
        for identity in &up {
            let message = ControlMessage::AskDebt { round, of: None };
            actions.push(ControlAction::Ask { link: Link::to(identity), message });
        }
        self.ask_through_others(round, &up, actions);
        self.ask_cores(DebtAsker::Safety { round }, actions);
    }

    /// Has all be asked once more soon, as the members have changed: what was heard of others does
    /// not count any more, and one that is gone does not answer.
    pub(super) fn ask_again_for_safety(&mut self) {
        if let Some(safety) = &mut self.safety {
            safety.patience = ROUND_PERIOD;
            safety.ask_at = safety.ask_at.min(safety.again_at);
        }
    }

    /// Asks for the members of this data center that this node does not reach: each time another of
    /// those that it reaches, as not all of them reach every member.
    fn ask_through_others(&mut self, round: u64, up: &[Identity], actions: &mut Actions) {
        if up.is_empty() || !rule(ProtocolMutant::FirstHandOnly, true) {
            return;
        }
        let me = self.identity().node;
        let is_up = |life: &Identity| up.iter().any(|it| it.life() == *life);
        let members = self.placement.members().iter().map(|member| member.identity);
        let silent = members.filter(|life| life.node != me && !is_up(life));
        for (at, life) in silent.enumerate() {
            // Not the number of the round: a node that passes on questions of others skips some.
            let helper = &up[(self.rounds_asked + at) % up.len()];
            let message = ControlMessage::AskDebt { round, of: Some(life) };
            actions.push(ControlAction::Ask { link: Link::to(helper), message });
        }
        self.rounds_asked = self.rounds_asked.wrapping_add(1);
    }

    /// Takes up what a member has said that it owes.
    pub(super) fn debt_told(
        &mut self,
        link: Link,
        (round, of): (u64, Option<Identity>),
        debt: NodeDebt,
        actions: &mut Actions,
    ) {
        let from = self.links.values().find(|member| Link::to(&member.identity) == link);
        let Some(from) = from.map(|member| member.identity) else { return };
        if let Some(of) = of {
            let member = self.placement.member(of.node);
            if member.is_some_and(|member| member.identity == of.life()) {
                self.debt_heard(of.node, round, debt, actions);
            }
            return;
        }
        let is_it = |it: &mut PassedOn| it.asked_as == round && it.of == from.life();
        for PassedOn { via, request_id, round, of, .. } in self.passed_on.extract_if(.., is_it) {
            let message = ControlMessage::Debt { round, of: Some(of), debt };
            actions.push(ControlAction::Answer { via, request_id, message });
        }
        self.debt_heard(from.node, round, debt, actions);
    }

    fn debt_heard(&mut self, node: NodeHash, round: u64, debt: NodeDebt, actions: &mut Actions) {
        let Some(safety) = self.safety.as_mut().filter(|safety| safety.round == round) else {
            return;
        };
        safety.heard.insert(node, debt);
        let ticket = safety.ticket;
        let Some(safety) = &self.safety else { return };
        let risks = self.risks(safety);
        if risks.is_empty() {
            self.safety = None;
            actions.push(ControlAction::Safe { ticket });
        } else if let Some(safety) = self.safety.as_mut().filter(|_| !has_silent(&risks)) {
            // All have answered, and are asked again.
            safety.ask_at = safety.again_at;
        }
    }

    /// Returns why no node may be stopped, as far as it is known in this round.
    fn risks(&self, safety: &Safety) -> Vec<Risk> {
        let mut risks = Vec::new();
        for member in self.placement.members() {
            let node = member.id.clone();
            match safety.heard.get(&member.identity.node) {
                None => risks.push(Risk::Silent { node }),
                Some(debt) if debt.members_digest != self.placement.digest() => {
                    risks.push(Risk::Disagrees { node });
                }
                Some(NodeDebt { copies: 0, writes: 0, .. }) => {}
                Some(debt) => {
                    let (copies, writes) = (debt.copies as usize, debt.writes as usize);
                    let missing_bytes = debt.missing_bytes;
                    risks.push(Risk::Owes { node, copies, writes, missing_bytes });
                }
            }
        }
        let is_certain = self.stage != Stage::Forming && self.placement.is_complete();
        if risks.is_empty() && !is_certain {
            risks.extend(self.placement.member(self.identity().node).map(|me| {
                // It does not know all of the members by name, or what they hold.
                Risk::Disagrees { node: me.id.clone() }
            }));
        }
        risks
    }

    /// Answers, once the cores have, a member that asks what this node owes. If it asks what
    /// another one owes, that one is asked.
    pub(super) fn debt_asked(
        &mut self,
        via: u64,
        request_id: u64,
        (round, of): (u64, Option<Identity>),
        actions: &mut Actions,
    ) {
        let Some(of) = of.map(|of| of.life()).filter(|of| *of != self.identity().life()) else {
            return self.ask_cores(DebtAsker::Peer { via, request_id, round }, actions);
        };
        let link = self.links.get(&of.node).filter(|link| link.identity.life() == of);
        let Some(link) = link.filter(|link| link.state == LinkState::Up) else { return };
        let link = Link::to(&link.identity);
        self.last_round += 1;
        let asked_as = self.last_round;
        let message = ControlMessage::AskDebt { round: asked_as, of: None };
        actions.push(ControlAction::Ask { link, message });
        if self.passed_on.len() >= MAX_PASSED_ON {
            self.passed_on.remove(0);
        }
        self.passed_on.push(PassedOn { via, request_id, round, of, asked_as });
    }

    pub(super) fn ask_cores(&mut self, asker: DebtAsker, actions: &mut Actions) {
        self.own_debt.next.push(asker);
        self.ask_cores_next(actions);
    }

    fn ask_cores_next(&mut self, actions: &mut Actions) {
        let own = &mut self.own_debt;
        if own.asking.is_empty() && !own.next.is_empty() {
            own.question += 1;
            own.answers.clear();
            own.asking = mem::take(&mut own.next);
            actions.push(ControlAction::AskDebt { question: own.question });
        }
    }

    /// Takes up what one of the cores has said that it owes.
    pub(super) fn core_owes(
        &mut self,
        now: Instant,
        core: usize,
        question: u64,
        debt: Debt,
        actions: &mut Actions,
    ) {
        let own = &mut self.own_debt;
        if question != own.question {
            return;
        }
        own.answers.insert(core, debt);
        if own.answers.len() < usize::from(self.config.local.cores) {
            return;
        }
        let mut total = Debt::default();
        own.answers.values().for_each(|debt| total.add(debt));
        let told = NodeDebt {
            // What they owe is what they owe under the placement that they go by.
            members_digest: self.published.0.digest(),
            copies: (total.copies + total.behind) as u32,
            writes: total.writes as u32,
            missing_bytes: total.missing_bytes as u64,
        };
        for asker in mem::take(&mut self.own_debt.asking) {
            match asker {
                DebtAsker::Peer { via, request_id, round } => {
                    let message = ControlMessage::Debt { round, of: None, debt: told };
                    actions.push(ControlAction::Answer { via, request_id, message });
                }
                DebtAsker::Safety { round } => {
                    self.debt_heard(self.identity().node, round, told, actions)
                }
                DebtAsker::Leave => self.drained(now, &total, actions),
            }
        }
        self.ask_cores_next(actions);
    }
}

fn has_silent(risks: &[Risk]) -> bool {
    risks.iter().any(|risk| matches!(risk, Risk::Silent { .. }))
}
