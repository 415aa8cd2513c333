//! The [`History`] of a [workload](super::workload): what clients asked for, and how it ended.

use std::fmt;
use std::time::Duration;

use super::What;
use crate::options::Quorum;

/// What clients asked for, and what they were told.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct History {
    /// All operations, in the order in which they began.
    pub operations: Vec<Operation>,
    /// All pauses: which node, from when, until when.
    pub pauses: Vec<(usize, Duration, Duration)>,
}

/// One call, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The node through which it was made.
    pub node: usize,
    /// The life of that node.
    pub life: u32,
    /// The key.
    pub key: usize,
    /// What it asks for.
    pub kind: Kind,
    /// How many replicas must answer.
    pub quorum: Quorum,
    /// When it began, since the start of the cluster.
    pub start: Duration,
    /// When it ended, if it did.
    pub end: Option<Duration>,
    /// How it ended. `None` while it is under way, and for ever if its node crashed.
    pub answer: Option<Answer>,
}

/// What an operation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes the value with this number, which no other operation writes.
    Set(u64),
    /// Writes the value with this number, to expire soon.
    SetFor(u64),
    /// Writes the value with this number, to expire long after the history, by a clock that is
    /// right.
    SetLasting(u64),
    /// Deletes the key.
    Delete,
    /// Reads the key.
    Get,
    /// Lets the key never expire.
    Persist,
    /// Lets the key expire soon.
    Shorten,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The write was acknowledged.
    Acknowledged,
    /// Nothing was applied, nothing was sent.
    NotApplied,
    /// The write might have happened, or might happen yet.
    Indeterminate,
    /// The read found the value with this number; [`UNKNOWN`] is one that was never written.
    Found(u64),
    /// The read found nothing.
    NotFound,
    /// The read failed.
    Failed,
    /// The change of expiry ended, which says nothing about the key's value.
    Touched,
}

/// The number of a value that the workload did not make.
pub const UNKNOWN: u64 = u64::MAX;

impl Kind {
    pub(super) fn what(self, value: &str) -> What<'_> {
        match self {
            Self::Set(_) => What::Set(value.as_bytes(), None),
            Self::SetFor(_) => What::Set(value.as_bytes(), Some(TIME_TO_LIVE)),
            Self::SetLasting(_) => What::Set(value.as_bytes(), Some(LASTING)),
            Self::Delete => What::Delete,
            Self::Get => What::Get,
            Self::Persist => What::Touch(None),
            Self::Shorten => What::Touch(Some(SHORTENED)),
        }
    }
}

impl Operation {
    /// Whether it writes or deletes, or lets the key expire.
    pub fn is_write(&self) -> bool {
        !matches!(self.kind, Kind::Get | Kind::Persist)
    }

    /// Whether it was a write that was acknowledged.
    pub fn is_acknowledged(&self) -> bool {
        self.answer == Some(Answer::Acknowledged)
    }

    /// Whether it is a write that has happened or might have.
    pub fn may_have_happened(&self) -> bool {
        self.is_write() && self.answer != Some(Answer::NotApplied)
    }

    /// Returns the number of the value that it writes.
    pub fn writes(&self) -> Option<u64> {
        match self.kind {
            Kind::Set(value) | Kind::SetFor(value) | Kind::SetLasting(value) => Some(value),
            Kind::Delete | Kind::Get | Kind::Persist | Kind::Shorten => None,
        }
    }

    /// Whether it was over, with certainty, when `other` began.
    pub fn is_before(&self, other: &Self) -> bool {
        let is_over = !self.is_write() || self.is_acknowledged();
        is_over && self.end.is_some_and(|end| end < other.start)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self
            .end
            .map_or("      …     ".to_owned(), |end| format!("{:12.6}", end.as_secs_f64()));
        write!(f, "{:12.6} – {end}  n{} key {} ", self.start.as_secs_f64(), self.node, self.key)?;
        match self.kind {
            Kind::Set(value) => write!(f, "set to {value}")?,
            Kind::SetFor(value) => write!(f, "set to {value}, to expire")?,
            Kind::SetLasting(value) => write!(f, "set to {value}, to expire late")?,
            Kind::Delete => write!(f, "delete")?,
            Kind::Get => write!(f, "get")?,
            Kind::Persist => write!(f, "persist")?,
            Kind::Shorten => write!(f, "let expire")?,
        }
        if self.quorum != Quorum::Configured {
            write!(f, " by {:?}", self.quorum)?;
        }
        match self.answer {
            Some(Answer::Acknowledged) => write!(f, ": acknowledged"),
            Some(Answer::NotApplied) => write!(f, ": not applied"),
            Some(Answer::Indeterminate) => write!(f, ": may have happened"),
            Some(Answer::Found(UNKNOWN)) => write!(f, ": found what nobody wrote"),
            Some(Answer::Found(value)) => write!(f, ": found {value}"),
            Some(Answer::NotFound) => write!(f, ": not found"),
            Some(Answer::Failed) => write!(f, ": failed"),
            Some(Answer::Touched) => write!(f, ": ended"),
            None => write!(f, ": no answer"),
        }
    }
}

impl History {
    /// Returns the operations on one key, in the order in which they began.
    pub fn of_key(&self, key: usize) -> Vec<&Operation> {
        self.operations.iter().filter(|operation| operation.key == key).collect()
    }
}

/// How long a value lives if it is set to expire.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(3);

/// How long a value lives if it is set to expire after the history.
const LASTING: Duration = Duration::from_secs(15 * 60);

/// How long it lives from then on if that is shortened.
pub const SHORTENED: Duration = Duration::from_secs(1);
