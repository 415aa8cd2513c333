//! [`Engine::get_or_insert_with`]: one loader at a time for each key.
//!
//! The first caller that misses a key loads it. Others on this node that miss the key wait for the
//! first one's value. If its loader fails or panics, the next of them loads.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::Engine;
use crate::error::{LoadError, ReadError, WriteError};
use crate::options::WriteOptions;

/// The keys that are being loaded on this node.
#[derive(Default)]
pub(super) struct Loads {
    loads: Mutex<BTreeMap<Box<[u8]>, Arc<Load>>>,
}

/// One loader at work.
struct Load {
    loader: ThreadId,
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    Loading,
    /// The value, and whether it was stored.
    Loaded(Arc<[u8]>, Result<(), WriteError>),
    /// The next caller may try.
    Failed,
}

/// What a caller that found no value does next.
enum LoadRole<'a> {
    Load(Loading<'a>),
    Wait(Arc<Load>),
}

/// The right to load a key. If it is dropped without a value, by a panic too, the next caller
/// loads.
struct Loading<'a> {
    loads: &'a Loads,
    key: &'a [u8],
    load: Arc<Load>,
}

impl Engine {
    /// Returns the value of `key`. If there is none, stores what `load` returns and returns that.
    ///
    /// `ttl` is the time to live of the loaded value; `None` is for ever. While one caller loads,
    /// other callers on this node that miss the same key wait for its value instead of loading it,
    /// too. They wait at most [`request_timeout`](crate::Config::request_timeout). If `load`
    /// panics, the next of them loads.
    ///
    /// The loaded value is stored like any other write: it replaces what was written or deleted
    /// during the load. If a change invalidates a cached value, let the loader see the change
    /// before you delete the key.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use gridkv::{Config, Engine};
    /// # let engine = Engine::start(Config::standalone("app-1")).unwrap();
    /// let minutes = Duration::from_secs(600);
    /// let user = engine.get_or_insert_with("user:7", minutes, || "Ada").unwrap();
    /// assert_eq!(user, b"Ada");
    /// assert_eq!(engine.get("user:7").unwrap(), Some(user));
    /// ```
    ///
    /// # Errors
    ///
    /// [`LoadError`]. If only storing failed, the error has the value. If it is not certain that
    /// the key has no value ([`ReadError::Unconfirmed`]), nothing is loaded.
    pub fn get_or_insert_with<V: Into<Vec<u8>>>(
        &self,
        key: impl AsRef<[u8]>,
        ttl: impl Into<Option<Duration>>,
        load: impl FnOnce() -> V,
    ) -> Result<Vec<u8>, LoadError<Infallible>> {
        self.get_or_try_insert_with(key, ttl, || Ok(load()))
    }

    /// Returns the value of `key`, or loads it like
    /// [`get_or_insert_with`](Self::get_or_insert_with) with a loader that can fail.
    ///
    /// The caller whose `load` failed gets its error, and the next caller that waits loads.
    ///
    /// # Errors
    ///
    /// [`LoadError`]. If only storing failed, the error has the value.
    pub fn get_or_try_insert_with<V: Into<Vec<u8>>, E>(
        &self,
        key: impl AsRef<[u8]>,
        ttl: impl Into<Option<Duration>>,
        load: impl FnOnce() -> Result<V, E>,
    ) -> Result<Vec<u8>, LoadError<E>> {
        let key = key.as_ref();
        let span = self.span(None);
        loop {
            if let Some(value) = self.get(key)? {
                return Ok(value);
            }
            // On a core's thread, storing would wait for that thread, and so might the caller that
            // loads the key already.
            self.inner.runtime.check_caller().map_err(ReadError::from)?;
            match self.inner.loads.enter(key) {
                LoadRole::Load(loading) => return self.load(loading, ttl.into(), load),
                LoadRole::Wait(other) => {
                    let left = span.deadline.since(self.inner.runtime.clock().instant());
                    if let Some(result) = other.wait(left, self.inner.settings.request_timeout) {
                        return result;
                    }
                }
            }
        }
    }

    fn load<V: Into<Vec<u8>>, E>(
        &self,
        loading: Loading<'_>,
        ttl: Option<Duration>,
        load: impl FnOnce() -> Result<V, E>,
    ) -> Result<Vec<u8>, LoadError<E>> {
        // Another may have loaded it between this caller's look and its turn.
        if let Some(value) = self.get(loading.key)? {
            loading.end(&value, Ok(()));
            return Ok(value);
        }
        let value: Vec<u8> = load().map_err(LoadError::Loader)?.into();
        let options = WriteOptions { ttl, ..WriteOptions::new() };
        let stored = self.set_with(loading.key, &value, &options);
        loading.end(&value, stored.clone());
        stored.map(|()| value.clone()).map_err(|error| LoadError::NotStored { value, error })
    }
}

impl Loads {
    /// Returns whether the caller loads this key, or waits for the caller that does.
    fn enter<'a>(&'a self, key: &'a [u8]) -> LoadRole<'a> {
        let mut loads = lock(&self.loads);
        if let Some(other) = loads.get(key) {
            return LoadRole::Wait(other.clone());
        }
        let load = Arc::new(Load {
            loader: thread::current().id(),
            state: Mutex::new(State::Loading),
            changed: Condvar::new(),
        });
        loads.insert(key.into(), load.clone());
        LoadRole::Load(Loading { loads: self, key, load })
    }
}

impl Load {
    /// Waits for what another caller loads. `None` means that the load has failed.
    fn wait<E>(&self, left: Duration, waited: Duration) -> Option<Result<Vec<u8>, LoadError<E>>> {
        if self.loader == thread::current().id() {
            return Some(Err(LoadError::Recursive));
        }
        let is_loading = |state: &mut State| matches!(state, State::Loading);
        let state = self.changed.wait_timeout_while(lock(&self.state), left, is_loading);
        let (state, _) = state.unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Loading => Some(Err(LoadError::TimedOut { waited })),
            State::Failed => None,
            State::Loaded(value, Ok(())) => Some(Ok(value.to_vec())),
            State::Loaded(value, Err(error)) => {
                Some(Err(LoadError::NotStored { value: value.to_vec(), error: error.clone() }))
            }
        }
    }
}

impl Loading<'_> {
    /// Gives the value to the callers that wait.
    fn end(&self, value: &[u8], stored: Result<(), WriteError>) {
        *lock(&self.load.state) = State::Loaded(value.into(), stored);
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        lock(&self.loads.loads).remove(self.key);
        let mut state = lock(&self.load.state);
        if matches!(*state, State::Loading) {
            *state = State::Failed;
        }
        self.load.changed.notify_all();
    }
}

/// Nothing is left half done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
