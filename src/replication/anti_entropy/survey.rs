//! Comparing copies key by key, because their digests say nothing.
//!
//! **Problem.** There are three reasons why a digest says nothing.
//!
//! - *Gaps.* A replica has evicted keys of the partition, or had no room for some. Merging would
//!   bring back what was evicted, or be declined again. Such a copy has an eviction watermark: the
//!   highest version that it evicted; zero if nothing was.
//! - *Writes under way.* A partition might have writes under way at every look: one busy key does
//!   it, if the replicas are far from each other. Then the digests always differ, by something else
//!   each time, and nothing tells whether there is a difference that stays.
//! - *Early husks.* Keys expired here before their time, because a clock was ahead. Their values
//!   win over what is left of them, but have the same digest.
//!
//! A [`Survey`] tells hash, version and digest of each entry in a range of hashes. The answer says
//! what differs there:
//!
//! | only one side has | what becomes of it |
//! |---|---|
//! | a newer state | the other side merges it |
//! | a value up to the other side's watermark | it is dropped, as if it had been evicted here too |
//! | a value above the other side's watermark | the other side merges it |
//! | a delete or an expired key | the other side merges it: it brings nothing back |
//!
//! **Invariant.** Nothing goes to and fro. What a replica dropped up to its watermark is never
//! offered to it again, and of what it is given it can evict each version once. In the end the
//! replicas agree on what is a miss, and no replica keeps a value whose successor the others have
//! evicted.
//!
//! The price: what one replica has no room for, the others forget too, at the next survey. Replicas
//! want equal memory.
//!
//! **What it costs.** The asker applies one half of the differences at once and gives the other
//! half to its peer; the answerer drops its part before it answers. So one question does for both.
//! What is given is merged as a handoff merges: no purge horizon refuses it, since a survey
//! compares what both hold now. A survey takes 24 bytes for each key that one of the two has, and
//! no digest saves that, so surveys are rare:
//!
//! | when | how often |
//! |---|---|
//! | gaps are found | if there was no survey for [`SURVEY_CYCLES`] cycles, which is an hour |
//! | every look finds another difference | once a cycle, or in [`BUSY_CYCLES`] if many are busy |
//! | a connection broke, a list changed, a merge ended: something might be missing | soon |
//! | keys expired before their time | soon |
//! | a copy has gaps | once in [`SURVEY_CYCLES`] cycles |
//!
//! A busy partition might lack something again right after a survey: a coordinator died with what
//! it had to send. So it is surveyed once a cycle, as long as all that are surveyed more often than
//! once in [`BUSY_CYCLES`] take [`BUSY_QUESTIONS`] questions a cycle, as computed 400 kB (keys and
//! values of 100 bytes). If more of them are busy, so is the way between the two data centers: then
//! the surveys of the others come later.
//!
//! When a survey is over, what it found no more counts as gaps of the pair: digests are compared
//! again, and tell whether one of the two copies has gaps.
//!
//! **Rejected:**
//!
//! - asking in turn, each side for what it lacks. It takes two questions of the same size;
//! - for busy partitions, digests of what is older than some seconds. They end the trouble with one
//!   key that is written all the time, and not with many keys that are overwritten all the time:
//!   of these, the states that are old differ as well, by something else at each look. A survey
//!   finds what is missing in either case, and what is under way costs it nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::copies::{Copies, Pair};
use crate::clock::Instant;
use crate::entry::Entry;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::KeyHash;
use crate::wire::message::{Seen, Survey};

/// In how many cycles every partition with gaps is surveyed once.
pub(super) const SURVEY_CYCLES: u64 = 60;

/// After how many cycles a pair that is busy at every look is surveyed again, no matter how many
/// are.
const BUSY_CYCLES: u64 = 10;

/// How many questions a core asks in a cycle to survey busy pairs sooner than that. Each is about
/// 256 KiB of keys and values, and names each key with 24 bytes.
pub(super) const BUSY_QUESTIONS: i64 = 16;

/// How many surveys run at a time.
const MAX_SURVEYS: usize = 4;

/// The surveys of a core, those that run and those that wait.
#[derive(Default)]
pub(super) struct Surveys {
    surveys: BTreeMap<Pair, Surveying>,
    /// The pairs of which one has gaps, as was found since they were surveyed last.
    gaps: BTreeSet<Pair>,
    /// In which cycle pairs were surveyed last, from the beginning to the end.
    surveyed_in: BTreeMap<Pair, u64>,
    /// How many of [`BUSY_QUESTIONS`] are left in this cycle. Below zero if surveys turned out to
    /// be larger: later cycles make up for that.
    busy_questions_left: i64,
}

#[derive(Clone, Copy, Default, Debug)]
struct Surveying {
    /// Up to which hash it is done.
    after: Option<KeyHash>,
    /// The question that has no answer yet.
    round: Option<u64>,
    /// Whether it begins again when it is over: something has happened since it began.
    again: bool,
    /// Whether its questions count among [`BUSY_QUESTIONS`].
    is_extra: bool,
    /// How often it was put off, and until when it is.
    tries: u8,
    not_before: Instant,
}

/// A question that is to be asked: about the part of the pair's partition behind `after`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Question {
    pub(super) round: u64,
    pub(super) pair: Pair,
    pub(super) after: Option<KeyHash>,
}

impl Surveys {
    pub(super) fn is_empty(&self) -> bool {
        self.surveys.is_empty()
    }

    /// Whether one of the two copies has gaps, as was found since they were surveyed last.
    pub(super) fn has_gaps(&self, pair: &Pair) -> bool {
        self.gaps.contains(pair)
    }

    /// Notes that one of the two copies has gaps. They are surveyed if that is new, and if they
    /// were not lately: a copy that evicts all the time has new gaps all the time.
    pub(super) fn found_gaps(&mut self, pair: Pair, cycle: u64) {
        if self.gaps.insert(pair) && self.was_long_ago(&pair, cycle, SURVEY_CYCLES) {
            self.survey_soon(pair);
        }
    }

    /// Notes that the two differ by something else at every look, because writes are under way all
    /// the time. They are surveyed if they were not lately, or if few such pairs are.
    pub(super) fn found_busy(&mut self, pair: Pair, cycle: u64) {
        if self.was_long_ago(&pair, cycle, BUSY_CYCLES) {
            return self.survey_soon(pair);
        }
        let is_one_of_few = self.busy_questions_left > 0 && self.was_long_ago(&pair, cycle, 1);
        if rule(ProtocolMutant::BusyOnceInTen, is_one_of_few) && !self.surveys.contains_key(&pair) {
            self.survey_soon(pair);
            self.count_question(&pair, true);
        }
    }

    /// Counts a question of a survey that a pair gets because few are busy, and from the first one
    /// on that it is one.
    fn count_question(&mut self, pair: &Pair, is_first: bool) {
        if let Some(survey) =
            self.surveys.get_mut(pair).filter(|survey| survey.is_extra || is_first)
        {
            survey.is_extra = true;
            self.busy_questions_left -= 1;
        }
    }

    /// Notes that a cycle begins.
    pub(super) fn begin_cycle(&mut self) {
        self.busy_questions_left = (self.busy_questions_left + BUSY_QUESTIONS).min(BUSY_QUESTIONS);
    }

    fn was_long_ago(&self, pair: &Pair, cycle: u64, cycles: u64) -> bool {
        self.surveyed_in.get(pair).is_none_or(|surveyed_in| surveyed_in + cycles <= cycle)
    }

    /// Notes that the peer has surveyed this pair to its end. The digests are compared again.
    pub(super) fn was_surveyed(&mut self, pair: &Pair) {
        self.gaps.remove(pair);
    }

    /// Forgets pairs that are none any more. `pairs` is sorted.
    pub(super) fn keep_only(&mut self, pairs: &[Pair]) {
        self.gaps.retain(|pair| pairs.binary_search(pair).is_ok());
        self.surveyed_in.retain(|pair, _| pairs.binary_search(pair).is_ok());
    }

    /// Has those of the pairs surveyed of which this node's copy has gaps. If only the peer's had
    /// any, the pair is surveyed when the peer says so again.
    pub(super) fn look_for_gaps<'a>(
        &mut self,
        pairs: impl Iterator<Item = &'a Pair>,
        copies: &impl Copies,
    ) {
        for pair in pairs {
            self.surveyed_in.remove(pair);
            if copies.held(&pair.peer, pair.partition).is_some_and(|held| held.has_gaps) {
                self.survey_soon(*pair);
            } else {
                self.gaps.remove(pair);
            }
        }
    }

    /// Has a pair surveyed, from its beginning: one of the two might have missed what the other one
    /// has.
    pub(super) fn survey_soon(&mut self, pair: Pair) {
        let survey = self.surveys.entry(pair).or_default();
        survey.again = survey.after.is_some() || survey.round.is_some();
        survey.tries = 0;
    }

    /// Returns what is to be asked now, as far as there is room. Each question gets the next
    /// number.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        next_round: &mut u64,
        copies: &impl Copies,
    ) -> Vec<Question> {
        let open = self.surveys.values().filter(|survey| survey.round.is_some()).count();
        let mut room = MAX_SURVEYS.saturating_sub(open);
        let mut questions = Vec::new();
        self.surveys.retain(|&pair, survey| {
            if room == 0 || survey.round.is_some() || survey.not_before > now {
                return true;
            }
            if copies.held(&pair.peer, pair.partition).is_none() {
                // The list changes, or the peer is gone. When a replica is synced again it has this
                // surveyed.
                return false;
            }
            room -= 1;
            *next_round += 1;
            survey.round = Some(*next_round);
            questions.push(Question { round: *next_round, pair, after: survey.after });
            true
        });
        questions
    }

    /// Notes that a question was answered, and that the survey goes on behind `next` if there is
    /// more. Returns the pair if the survey is over.
    pub(super) fn answered(
        &mut self,
        round: u64,
        next: Option<KeyHash>,
        cycle: u64,
    ) -> Option<Pair> {
        let found = self.surveys.iter_mut().find(|(_, survey)| survey.round == Some(round));
        let (&pair, survey) = found?;
        match next {
            // Only ever onward, even if the peer says otherwise.
            Some(next) if survey.after.is_none_or(|after| next > after) => {
                (survey.after, survey.round, survey.tries) = (Some(next), None, 0);
                self.count_question(&pair, false);
            }
            _ if survey.again => *survey = Surveying::default(),
            _ => {
                self.surveys.remove(&pair);
                self.gaps.remove(&pair);
                self.surveyed_in.insert(pair, cycle);
                return Some(pair);
            }
        }
        None
    }

    /// Notes that the peer does not compare this now. It is asked again from `again_at` on,
    /// `max_tries` times.
    pub(super) fn put_off(&mut self, round: u64, again_at: Instant, max_tries: u8) {
        self.surveys.retain(|_, survey| {
            if survey.round != Some(round) {
                return true;
            }
            (survey.round, survey.not_before) = (None, again_at);
            survey.tries += 1;
            survey.tries <= max_tries
        });
    }
}

/// How two replicas differ in a part of a partition.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Differences {
    /// The entries that the asker lacks, or has an older state of.
    pub(crate) give: Vec<Entry>,
    /// The values that the asker might have evicted, or a newer state than them.
    pub(crate) evict: Vec<(KeyHash, Entry)>,
    /// The keys that this replica lacks.
    pub(crate) missing: Vec<KeyHash>,
    /// The keys that this replica has an older state of.
    pub(crate) outdated: Vec<KeyHash>,
}

/// What each side has of the keys of one hash.
#[derive(Default)]
struct OfHash {
    theirs: Vec<Seen>,
    mine: Vec<Entry>,
}

/// Compares what a peer has of a part with `mine`, all that this node has of it, up to and with the
/// hash `end`.
pub(crate) fn survey(
    asked: &Survey,
    mine: Vec<(KeyHash, Entry)>,
    end: Option<KeyHash>,
) -> Differences {
    let is_within = |hash: KeyHash| {
        asked.after.is_none_or(|after| hash > after) && end.is_none_or(|end| hash <= end)
    };
    let mut keys: BTreeMap<KeyHash, OfHash> = BTreeMap::new();
    for seen in asked.seen.iter().filter(|seen| is_within(seen.hash)) {
        keys.entry(seen.hash).or_default().theirs.push(*seen);
    }
    for (hash, entry) in mine.into_iter().filter(|(hash, _)| is_within(*hash)) {
        keys.entry(hash).or_default().mine.push(entry);
    }
    let mut found = Differences::default();
    for (hash, of_hash) in keys {
        found.compare(asked, hash, of_hash);
    }
    found
}

impl Differences {
    /// Adds how the two sides differ in the keys of one hash.
    fn compare(&mut self, asked: &Survey, hash: KeyHash, OfHash { theirs, mine }: OfHash) {
        match (&theirs[..], &mine[..]) {
            (_, []) => self.missing.push(hash),
            ([], _) => {
                for entry in mine {
                    if entry.value().is_some() && entry.version() <= asked.eviction_watermark {
                        self.evict.push((hash, entry));
                    } else {
                        self.give.push(entry);
                    }
                }
            }
            ([seen], [entry]) => {
                let is_same =
                    seen.version == entry.version() && seen.digest == entry.exact_digest(hash);
                if !is_same && seen.version >= entry.version() {
                    self.outdated.push(hash);
                }
                if !is_same && seen.version <= entry.version() {
                    self.give.push(entry.clone());
                }
            }
            _ => {
                // Several keys of one hash. Nothing tells which is which: both sides merge all of
                // them.
                let theirs: BTreeSet<u64> = theirs.iter().map(|seen| seen.digest).collect();
                if theirs != mine.iter().map(|entry| entry.exact_digest(hash)).collect() {
                    self.outdated.push(hash);
                    self.give.extend(mine);
                }
            }
        }
    }
}
