//! Which key each life of a node has, for the threads that do not find out themselves.

use std::collections::BTreeMap;

use super::identity::Fingerprint;
use super::settings::Proved;
use crate::types::{Boot, Identity, NodeHash};

/// The keys that lives of nodes have proved to the control thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KnownKeys(BTreeMap<(NodeHash, Boot), Fingerprint>);

impl KnownKeys {
    /// Returns the key of this life.
    pub(crate) fn of(&self, life: &Identity) -> Option<Fingerprint> {
        self.0.get(&(life.node, life.boot)).copied()
    }

    /// Returns the key of this life, if another one was proved in its name.
    pub(crate) fn other_than(&self, life: &Identity, proved: &Proved) -> Option<Fingerprint> {
        self.of(life).filter(|known| *known != proved.fingerprint)
    }
}

impl FromIterator<(NodeHash, Boot, Fingerprint)> for KnownKeys {
    fn from_iter<I: IntoIterator<Item = (NodeHash, Boot, Fingerprint)>>(keys: I) -> Self {
        Self(keys.into_iter().map(|(node, boot, key)| ((node, boot), key)).collect())
    }
}
