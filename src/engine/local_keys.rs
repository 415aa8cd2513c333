//! [`LocalKeys`]: a walk over a node's own keys, in bounded steps.
//!
//! The caller's thread reads one segment of a core's table after the other. If a segment has keys
//! that only the owning core can see, the core is asked for that stretch by message.

use std::ops::ControlFlow;

use super::Engine;
use crate::error::ReadError;
use crate::shard::{Call, KeysCall, Outcome};
use crate::store::{Keys, TablePosition};
use crate::types::CoreId;

/// A walk over this node's keys, as [`Engine::local_keys`] starts it.
///
/// It is an iterator. If a step fails, its last item is the error.
#[derive(Debug)]
pub struct LocalKeys {
    engine: Engine,
    prefix: Box<[u8]>,
    core: u16,
    /// The path at which the next segment of the core's table begins; `None` after the last.
    path: Option<u64>,
    /// A stretch that only the owning core can see: from a position to before a path.
    owner: Option<(TablePosition, Option<u64>)>,
    found: std::vec::IntoIter<Box<[u8]>>,
}

impl Engine {
    /// Returns the keys with this prefix of which this node holds a value, as an iterator.
    ///
    /// These are this node's own copies, current or not, and not all keys of the cluster. The walk
    /// takes bounded steps, so other calls are not held up. A key that is written or deleted during
    /// the walk might be missed or seen. Each other key is seen exactly once.
    pub fn local_keys(&self, prefix: impl AsRef<[u8]>) -> LocalKeys {
        LocalKeys::new(self.clone(), prefix.as_ref())
    }
}

impl LocalKeys {
    fn new(engine: Engine, prefix: &[u8]) -> Self {
        let found = Vec::new().into_iter();
        Self { engine, prefix: prefix.into(), core: 0, path: Some(0), owner: None, found }
    }

    /// Takes the next step, or moves on to the next core. Breaks after the last core.
    fn step(&mut self) -> Result<ControlFlow<()>, ReadError> {
        if let Some((from, end)) = self.owner.take() {
            let call = Call::Keys(Box::new(KeysCall { prefix: self.prefix.clone(), from, end }));
            if let Outcome::Keys(found) = self.engine.ask(CoreId(self.core), call)? {
                let Keys { keys, next } = *found;
                self.found = keys.into_iter();
                self.owner = next.map(|next| (next, end));
            }
        } else if let Some(path) = self.path {
            self.walk(path)?;
        } else {
            self.core += 1;
            if self.core >= self.engine.inner.settings.cores {
                return Ok(ControlFlow::Break(()));
            }
            self.path = Some(0);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Takes the keys of one segment of the table.
    fn walk(&mut self, path: u64) -> Result<(), ReadError> {
        let wall = self.engine.wall();
        let views = self.engine.inner.runtime.views()?;
        let Some(pinned) = views.pin() else {
            self.owner = Some((TablePosition::first(path), None));
            self.path = None;
            return Ok(());
        };
        let mut found: Vec<Box<[u8]>> = Vec::new();
        let (next, has_more) = pinned.walk(CoreId(self.core), path, |at, entry| {
            let is_wanted = at >= path && entry.key().starts_with(&self.prefix);
            if is_wanted && entry.live_value(wall).is_some() {
                found.push(entry.key().into());
            }
        });
        if has_more {
            self.owner = Some((TablePosition::first(path), next));
        } else {
            self.found = found.into_iter();
        }
        self.path = next;
        Ok(())
    }
}

impl Iterator for LocalKeys {
    /// A key, or why the walk ended early.
    type Item = Result<Vec<u8>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(key) = self.found.next() {
                return Some(Ok(key.into_vec()));
            }
            match self.step() {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return None,
                Err(error) => {
                    (self.path, self.owner) = (None, None);
                    self.core = self.engine.inner.settings.cores;
                    return Some(Err(error));
                }
            }
        }
    }
}
