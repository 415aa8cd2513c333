//! A key's stored state, and [`merge`](Entry::wins_over): which of two states of a key is the newer.
//!
//! A delete is a state too, a *tombstone* with a version of its own: without one, a replica that missed
//! the delete would bring the key back. An expired value keeps its version for the same reason and gives
//! up its bytes; what is left is called a *husk*.

use std::cmp::Ordering;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::clock::{Version, WallTime};
use crate::types::KeyHash;

/// What one replica holds for one key. Immutable: a change is a new entry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) hash: KeyHash,
    pub(crate) version: Version,
    /// When the value stops being visible, in milliseconds of wall time. Absolute, so that replicas agree.
    pub(crate) expires_at_ms: Option<NonZeroU64>,
    pub(crate) key: Box<[u8]>,
    pub(crate) content: Content,
}

/// Value, delete, or what an expired value leaves.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Value(Arc<[u8]>),
    Tombstone,
    /// The hash of the value that expired: a husk and its value are one state, seen at two times.
    Husk(u32),
}

impl Entry {
    /// The value, when there is one and it has not expired.
    pub(crate) fn live_value(&self, wall: WallTime) -> Option<&Arc<[u8]>> {
        match &self.content {
            Content::Value(value) if !self.is_expired(wall) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn is_expired(&self, wall: WallTime) -> bool {
        self.expires_at_ms.is_some_and(|at| at.get() <= wall.millis())
    }

    /// The bytes of key and value.
    pub(crate) fn bytes(&self) -> usize {
        let value = match &self.content {
            Content::Value(value) => value.len(),
            Content::Tombstone | Content::Husk(_) => 0,
        };
        self.key.len() + value
    }

    /// A hash of the content, expiry left out. Equal for a value and its husk.
    pub(crate) fn content_hash(&self) -> u32 {
        match &self.content {
            Content::Value(value) => xxh3_64(value) as u32,
            Content::Tombstone => 0,
            Content::Husk(hash) => *hash,
        }
    }

    /// What is left once the value has expired.
    pub(crate) fn husk(&self) -> Self {
        Self { content: Content::Husk(self.content_hash()), ..self.clone() }
    }

    /// A number that is equal for equal states of a key and differs for different ones, so that sums of
    /// it compare whole partitions.
    pub(crate) fn digest(&self) -> u64 {
        let mut bytes = [0; 28];
        bytes[..8].copy_from_slice(&self.hash.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.version.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.content_hash().to_le_bytes());
        bytes[20..].copy_from_slice(&self.expires_at_ms.map_or(0, NonZeroU64::get).to_le_bytes());
        xxh3_64(&bytes)
    }

    /// Whether this state replaces `other`, a state of the same key. A total order up to equality, so
    /// replicas that merge the same states in any order, any number of times, end up the same: version,
    /// then tombstone over value, then content, then later expiry.
    pub(crate) fn wins_over(&self, other: &Self) -> bool {
        self.order(other) == Ordering::Greater
    }

    fn order(&self, other: &Self) -> Ordering {
        let is_tombstone = |entry: &Self| matches!(entry.content, Content::Tombstone);
        self.version
            .cmp(&other.version)
            .then_with(|| is_tombstone(self).cmp(&is_tombstone(other)))
            .then_with(|| self.content_hash().cmp(&other.content_hash()))
            .then_with(|| match (&self.content, &other.content) {
                (Content::Value(mine), Content::Value(theirs)) => mine.cmp(theirs),
                _ => Ordering::Equal,
            })
            .then_with(|| {
                let expiry = |entry: &Self| entry.expires_at_ms.map_or(u64::MAX, NonZeroU64::get);
                expiry(self).cmp(&expiry(other))
            })
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}@{:?}", self.key.escape_ascii(), self.content, self.version)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{} bytes", value.len()),
            Self::Tombstone => f.write_str("tombstone"),
            Self::Husk(_) => f.write_str("husk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let content = prop_oneof![
            Just(Content::Tombstone),
            prop::collection::vec(0u8..3, 0..3).prop_map(|value| Content::Value(value.into())),
        ];
        // Few versions and few contents, so that ties happen.
        (0u64..3, content, 0u64..3).prop_map(|(version, content, expiry)| Entry {
            hash: KeyHash(7),
            version: Version(version),
            expires_at_ms: NonZeroU64::new(expiry),
            key: b"key".as_slice().into(),
            content,
        })
    }

    fn merge(a: &Entry, b: &Entry) -> Entry {
        if b.wins_over(a) { b.clone() } else { a.clone() }
    }

    proptest! {
        #[test]
        fn merge_is_commutative_associative_and_idempotent(a in entry(), b in entry(), c in entry()) {
            prop_assert_eq!(merge(&a, &b), merge(&b, &a));
            prop_assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
            prop_assert_eq!(merge(&a, &a), a.clone());
            prop_assert_eq!(merge(&merge(&a, &b), &b), merge(&a, &b));
        }

        #[test]
        fn equal_states_have_equal_digests_and_different_ones_do_not(a in entry(), b in entry()) {
            prop_assert_eq!(a == b, a.digest() == b.digest());
            prop_assert_eq!(a.digest(), if matches!(a.content, Content::Value(_)) { a.husk().digest() } else { a.digest() });
        }

        #[test]
        fn a_value_and_its_husk_are_one_state(a in entry(), b in entry()) {
            if matches!(a.content, Content::Value(_)) {
                prop_assert!(!a.wins_over(&a.husk()) && !a.husk().wins_over(&a));
                if a != b {
                    prop_assert_eq!(a.wins_over(&b), a.husk().wins_over(&b));
                }
            }
        }
    }
}
