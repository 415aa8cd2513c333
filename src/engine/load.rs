//! [`Engine::get_or_insert_with`]: one loader at a time for each key.

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
    /// Stored, or not.
    Loaded(Arc<[u8]>, Result<(), WriteError>),
    /// Somebody else may try.
    Failed,
}

/// What a caller that found nothing is to do.
enum Turn<'a> {
    Load(Loading<'a>),
    Wait(Arc<Load>),
}

/// The right to load a key. Dropped without a value, by a panic too, it lets the next one try.
struct Loading<'a> {
    loads: &'a Loads,
    key: &'a [u8],
    load: Arc<Load>,
}

impl Engine {
    /// The value of `key`, or where there is none what `load` returns, stored with this time to live (`None`: for
    /// ever). While one caller loads, others on this node that miss the same key wait for its value, at most for
    /// [`request_timeout`](crate::Config::request_timeout), instead of loading it too. When its `load` panics,
    /// the next of them loads.
    ///
    /// What `load` returns is stored like any other write: over what somebody else has written, or deleted, while it
    /// was loading. Where a change invalidates a cached value, let the loader see the change before it is made known.
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
    /// [`LoadError`]. Where only storing has failed, it has the value.
    pub fn get_or_insert_with<V: Into<Vec<u8>>>(
        &self,
        key: impl AsRef<[u8]>,
        ttl: impl Into<Option<Duration>>,
        load: impl FnOnce() -> V,
    ) -> Result<Vec<u8>, LoadError<Infallible>> {
        self.get_or_try_insert_with(key, ttl, || Ok(load()))
    }

    /// [`get_or_insert_with`](Self::get_or_insert_with), where loading may fail: the caller whose `load` did gets
    /// its error, and the next that waits loads.
    ///
    /// # Errors
    ///
    /// [`LoadError`]. Where only storing has failed, it has the value.
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
            // On a core, storing would wait for it; and so does whoever loads the key already, elsewhere.
            self.inner.runtime.check_caller().map_err(ReadError::from)?;
            match self.inner.loads.enter(key) {
                Turn::Load(loading) => return self.load(loading, ttl.into(), load),
                Turn::Wait(other) => {
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
    /// Whose turn it is to load this key.
    fn enter<'a>(&'a self, key: &'a [u8]) -> Turn<'a> {
        let mut loads = lock(&self.loads);
        if let Some(other) = loads.get(key) {
            return Turn::Wait(other.clone());
        }
        let load = Arc::new(Load {
            loader: thread::current().id(),
            state: Mutex::new(State::Loading),
            changed: Condvar::new(),
        });
        loads.insert(key.into(), load.clone());
        Turn::Load(Loading { loads: self, key, load })
    }
}

impl Load {
    /// Waits for what another caller loads. `None`: it has failed.
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
    /// Gives the value to those who wait.
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
