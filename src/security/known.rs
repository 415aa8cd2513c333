//! Which key each life of a node has, for the threads that do not find out themselves.

use std::collections::BTreeMap;

use super::identity::Fingerprint;
use super::settings::Proved;
use crate::types::Identity;

/// The keys that lives of nodes have proved to the control thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KnownKeys(BTreeMap<Identity, Fingerprint>);

impl KnownKeys {
    /// Returns the key of this life.
    pub(crate) fn of(&self, life: &Identity) -> Option<Fingerprint> {
        self.0.get(&life.life()).copied()
    }

    /// Returns the key of this life, if another one was proved in its name.
    pub(crate) fn other_than(&self, life: &Identity, proved: &Proved) -> Option<Fingerprint> {
        self.of(life).filter(|known| *known != proved.fingerprint)
    }
}

impl FromIterator<(Identity, Fingerprint)> for KnownKeys {
    fn from_iter<I: IntoIterator<Item = (Identity, Fingerprint)>>(keys: I) -> Self {
        Self(keys.into_iter().map(|(life, key)| (life.life(), key)).collect())
    }
}
