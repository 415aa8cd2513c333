//! [`Engine::get_many`]: many reads at once.

use super::Engine;
use super::calls::{check_read_key, value};
use crate::error::ReadError;
use crate::options::ReadOptions;
use crate::shard::{Call, LocalAnswer, Outcome, read_local};
use crate::types::KeyHash;

/// How many keys are brought closer before the first of them is looked at: about twice as many as a
/// processor has outstanding misses for.
const TOGETHER: usize = 32;

impl Engine {
    /// Returns the values of `keys`, in their order, with one wait for all of them.
    ///
    /// What this node can answer itself is prefetched and read together. Each core is asked once
    /// for all other keys that it owns.
    ///
    /// # Errors
    ///
    /// The first [`ReadError`] of any key. A read can always be tried again.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        let mut values = vec![None; keys.len()];
        let mut others = Vec::new();
        for (at, (keys, values)) in
            keys.chunks(TOGETHER).zip(values.chunks_mut(TOGETHER)).enumerate()
        {
            let mut ask = |index| others.push(at * TOGETHER + index);
            self.look_at_many(keys, values, &mut ask)?;
        }
        if !others.is_empty() {
            self.ask_for_many(keys, &others, &mut values)?;
        }
        Ok(values)
    }

    /// Reads what this node can answer itself, and brings all of it closer before it looks at any.
    /// Passes the indices of the other keys to `ask`.
    fn look_at_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        values: &mut [Option<Vec<u8>>],
        ask: &mut impl FnMut(usize),
    ) -> Result<(), ReadError> {
        let runtime = &self.inner.runtime;
        let rules = self.inner.rules;
        let views = runtime.views()?;
        let mut hashes = [KeyHash(0); TOGETHER];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = KeyHash::of(runtime.cluster(), check_read_key(key.as_ref())?);
        }
        let Some(pinned) = views.pin() else {
            (0..keys.len()).for_each(ask);
            return Ok(());
        };
        let hashes = &hashes[..keys.len()];
        hashes.iter().for_each(|hash| pinned.prefetch_bucket(*hash));
        hashes.iter().for_each(|hash| pinned.prefetch_entry(*hash));
        for (index, ((key, hash), slot)) in keys.iter().zip(hashes).zip(values).enumerate() {
            match read_local(&pinned, rules, *hash, key.as_ref(), || runtime.clock().coarse_wall())
            {
                LocalAnswer::Value(entry) => *slot = Some(value(&entry).to_vec()),
                LocalAnswer::Nothing => {}
                LocalAnswer::AskOwner => ask(index),
            }
        }
        Ok(())
    }

    /// Asks the owners of some of the keys, each owner once for all of its keys.
    fn ask_for_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        which: &[usize],
        values: &mut [Option<Vec<u8>>],
    ) -> Result<(), ReadError> {
        let options = ReadOptions::new();
        let span = self.span(options.timeout);
        let mut groups: Vec<(Vec<usize>, Vec<Call>)> =
            self.cores().map(|_| Default::default()).collect();
        for &index in which {
            let (core, call) = self.read_call(keys[index].as_ref(), &options, span)?;
            let (indices, calls) = &mut groups[usize::from(core.0)];
            indices.push(index);
            calls.push(Call::Read(Box::new(call)));
        }
        let mut asked = Vec::new();
        for (core, (indices, calls)) in self.cores().zip(groups) {
            if !calls.is_empty() {
                let reply =
                    self.inner.runtime.send(core, Call::Many(calls), None, span.deadline)?;
                asked.push((core, indices, reply));
            }
        }
        for (core, indices, reply) in asked {
            let outcomes = match self.wait(core, reply, span) {
                Ok(Outcome::Many(outcomes)) => outcomes,
                other => return Err(self.no_read(other)),
            };
            for (index, outcome) in indices.into_iter().zip(outcomes) {
                let Outcome::Read(found) = outcome else { return Err(self.no_read(Ok(outcome))) };
                values[index] = found?.map(|entry| value(&entry).to_vec());
            }
        }
        Ok(())
    }
}
