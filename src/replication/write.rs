//! A write: stamp it, send it to every replica of one list, acknowledge when W of them have applied it.
//!
//! With R = 1 the coordinator stamps at once. When a replica holds something newer, the write is stamped
//! above it, once; a second time it counts as done, since the newer write is then a concurrent one (and
//! stamping again and again would let two coordinators chase each other). With R ≥ 2 the coordinator
//! first asks enough replicas for the key's version that no acknowledged write escapes it, and stamps
//! above the highest: the write phase of the ABD register (Attiya, Bar-Noy & Dolev, 1995).
//!
//! The machine lives on after the acknowledgement until every replica has the entry or it is given up:
//! until then it is owed to the others, over lost connections and changes of the list. Then it is never
//! stamped anew: what is newer was written later.

use std::sync::Arc;

use super::{AskState, Asked, RETRY_AFTER};
use crate::clock::{Instant, Version};
use crate::entry::Entry;
use crate::placement::List;
use crate::types::Identity;
use crate::wire::message::{Answer, Found, Request, Want};

pub(crate) struct Write {
    /// Without a version until the first stamp.
    entry: Arc<Entry>,
    needed: usize,
    /// How many replicas must tell the key's version first; zero where R = 1.
    versions_needed: usize,
    list: Option<Arc<List>>,
    replicas: Vec<Asked<Acked>>,
    phase: Phase,
    restamped: bool,
    /// From then on a newer state of the key is a later write, which this one must not overtake.
    was_acknowledged: bool,
    may_have_happened: bool,
}

enum Phase {
    AskingVersions(Vec<Asked<Version>>),
    AwaitingStamp,
    Replicating,
}

/// A replica has the entry, or a newer one.
#[derive(Debug, PartialEq, Eq)]
struct Acked {
    /// It is synced: it counts.
    counts: bool,
}

#[derive(Debug, PartialEq)]
pub(crate) enum WriteAction {
    Ask {
        to: Identity,
        request: Request,
    },
    /// Needs a version above this one: call [`Write::stamped`].
    Stamp {
        above: Version,
    },
}

impl Write {
    pub(crate) fn new(entry: Entry, needed: usize, versions_needed: usize) -> Self {
        Self {
            entry: Arc::new(entry),
            needed,
            versions_needed,
            list: None,
            replicas: Vec::new(),
            phase: Phase::AwaitingStamp,
            restamped: false,
            was_acknowledged: false,
            may_have_happened: false,
        }
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Counts in `list` from now on. What another list's replicas acknowledged does not count in this one,
    /// so all of them are asked; merging makes that harmless.
    pub(crate) fn enter(
        &mut self,
        list: Arc<List>,
        alive: impl Fn(&Identity) -> bool,
        actions: &mut Vec<WriteAction>,
    ) {
        self.replicas = list.members().iter().map(|member| Asked::new(*member, alive(member))).collect();
        let asks_versions = self.versions_needed > 0 && self.entry.version == Version::ZERO;
        if asks_versions {
            let asked = list.members().iter().map(|member| Asked::new(*member, alive(member))).collect();
            self.phase = Phase::AskingVersions(asked);
        }
        self.list = Some(list);
        if asks_versions {
            self.ask_due(Instant::default(), actions);
        } else if self.entry.version == Version::ZERO {
            self.phase = Phase::AwaitingStamp;
            actions.push(WriteAction::Stamp { above: Version::ZERO });
        } else {
            self.phase = Phase::Replicating;
            self.ask_due(Instant::default(), actions);
        }
    }

    /// The version that was asked for.
    pub(crate) fn stamped(&mut self, version: Version, actions: &mut Vec<WriteAction>) {
        self.entry = Arc::new(Entry { version, ..(*self.entry).clone() });
        self.phase = Phase::Replicating;
        for asked in &mut self.replicas {
            if asked.state != AskState::Dead {
                asked.state = AskState::Idle;
            }
        }
        self.ask_due(Instant::default(), actions);
    }

    pub(crate) fn answered(
        &mut self,
        from: Identity,
        answer: Answer,
        now: Instant,
        actions: &mut Vec<WriteAction>,
    ) {
        match (&mut self.phase, answer) {
            (Phase::AskingVersions(asked), Answer::Found { found, synced }) => {
                let version = match found {
                    Found::Absent => Version::ZERO,
                    Found::Version(version) => version,
                    Found::Entry(entry) => entry.version,
                };
                settle(asked, from, if synced { Ok(version) } else { Err(now + RETRY_AFTER) });
                let answers: Vec<Version> = asked.iter().filter_map(Asked::answer).copied().collect();
                if answers.len() >= self.versions_needed {
                    let above = answers.into_iter().max().unwrap_or_default();
                    self.phase = Phase::AwaitingStamp;
                    actions.push(WriteAction::Stamp { above });
                }
            }
            (Phase::Replicating, Answer::Written { superseded_by, synced }) => {
                if let Some(newer) = superseded_by
                    && self.versions_needed == 0
                    && !self.restamped
                    && !self.was_acknowledged
                {
                    self.restamped = true;
                    self.phase = Phase::AwaitingStamp;
                    actions.push(WriteAction::Stamp { above: newer });
                } else {
                    settle(&mut self.replicas, from, Ok(Acked { counts: synced }));
                    self.was_acknowledged |= self.is_acknowledged();
                }
            }
            _ => {}
        }
    }

    /// `from` serves an older list than this write counts in: it is told the list and asked again.
    pub(crate) fn behind(&mut self, from: Identity, now: Instant, actions: &mut Vec<WriteAction>) {
        if let Some(list) = &self.list {
            actions.push(WriteAction::Ask { to: from, request: Request::Adopt { list: list.clone() } });
        }
        self.lost(from, now);
    }

    /// The connection to `from` failed, or it cannot take part yet.
    pub(crate) fn lost(&mut self, from: Identity, now: Instant) {
        if let Phase::AskingVersions(asked) = &mut self.phase {
            settle(asked, from, Err(now + RETRY_AFTER));
        } else {
            settle(&mut self.replicas, from, Err(now + RETRY_AFTER));
        }
    }

    /// Asks whoever was not asked yet, or is due to be asked again.
    pub(crate) fn ask_due(&mut self, now: Instant, actions: &mut Vec<WriteAction>) {
        let Some(list) = &self.list else { return };
        let list = list.reference();
        match &mut self.phase {
            Phase::AskingVersions(asked) => {
                for to in take_due(asked, now) {
                    let key = self.entry.key.clone();
                    let request = Request::Read { list, key, want: Want::Version };
                    actions.push(WriteAction::Ask { to, request });
                }
            }
            Phase::Replicating => {
                for to in take_due(&mut self.replicas, now) {
                    self.may_have_happened = true;
                    let request = Request::Write { list, entry: self.entry.clone() };
                    actions.push(WriteAction::Ask { to, request });
                }
            }
            Phase::AwaitingStamp => {}
        }
    }

    /// Members died: they are neither asked nor waited for.
    pub(crate) fn members_changed(&mut self, alive: impl Fn(&Identity) -> bool) {
        if let Phase::AskingVersions(asked) = &mut self.phase {
            bury(asked, &alive);
        }
        bury(&mut self.replicas, &alive);
    }

    pub(crate) fn next_retry(&self) -> Option<Instant> {
        match &self.phase {
            Phase::AskingVersions(asked) => asked.iter().filter_map(Asked::retry_at).min(),
            _ => self.replicas.iter().filter_map(Asked::retry_at).min(),
        }
    }

    /// How many replicas that count have it.
    pub(crate) fn acked(&self) -> usize {
        self.replicas.iter().filter_map(Asked::answer).filter(|acked| acked.counts).count()
    }

    pub(crate) fn needed(&self) -> usize {
        self.needed
    }

    pub(crate) fn is_acknowledged(&self) -> bool {
        self.acked() >= self.needed
    }

    /// Every living replica has it: nothing is owed to anybody.
    pub(crate) fn is_everywhere(&self) -> bool {
        matches!(self.phase, Phase::Replicating)
            && self.replicas.iter().all(|asked| matches!(asked.state, AskState::Answered(_) | AskState::Dead))
    }

    /// Whether any replica may have applied it.
    pub(crate) fn may_have_happened(&self) -> bool {
        self.may_have_happened
    }

    /// Whether `replica` is known to have it.
    pub(crate) fn is_held_by(&self, replica: &Identity) -> bool {
        self.replicas.iter().any(|asked| asked.replica == *replica && asked.answer().is_some())
    }
}

/// Notes an answer, or from when on to ask again.
fn settle<T>(asked: &mut [Asked<T>], from: Identity, outcome: Result<T, Instant>) {
    if let Some(asked) = asked.iter_mut().find(|asked| asked.replica == from)
        && asked.state_is_open()
    {
        asked.state = match outcome {
            Ok(answer) => AskState::Answered(answer),
            Err(at) => AskState::RetryAt(at),
        };
    }
}

impl<T> Asked<T> {
    fn state_is_open(&self) -> bool {
        matches!(self.state, AskState::Waiting | AskState::Idle | AskState::RetryAt(_))
    }
}

fn take_due<T>(asked: &mut [Asked<T>], now: Instant) -> Vec<Identity> {
    let due = asked.iter_mut().filter(|asked| matches!(asked.state, AskState::Idle) || asked.is_due(now));
    due.map(|asked| {
        asked.state = AskState::Waiting;
        asked.replica
    })
    .collect()
}

fn bury<T>(asked: &mut [Asked<T>], alive: impl Fn(&Identity) -> bool) {
    for asked in asked.iter_mut().filter(|asked| !alive(&asked.replica)) {
        if asked.state_is_open() {
            asked.state = AskState::Dead;
        }
    }
}
