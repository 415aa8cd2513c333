//! How a model is run, and a shard to run it on.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::Instant;

use crate::clock::Version;
use crate::entry::{Content, Entry};
use crate::graveyard;
use crate::mutants::{ACTIVE, OrderingMutant};
use crate::options::Eviction;
use crate::store::{Deletes, Local, Pinned, Reader, Readers, Store, StoreConfig, Views};
use crate::types::{ClusterHash, CoreId, Cores, KeyHash};

/// One scenario, and the mutants that it must reject.
pub struct Model {
    pub(crate) scenario: fn(),
    /// How many times one execution may switch away from a thread that could have gone on.
    pub(crate) preemptions: Option<usize>,
    /// The mutants that it must reject, each with a part of what is said then.
    pub(crate) mutants: &'static [(OrderingMutant, &'static str)],
}

thread_local! {
    /// What panicked, if a panic is expected.
    static SAID: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

impl Model {
    /// # Panics
    ///
    /// When it does not hold.
    pub fn holds(&self) {
        let start = Instant::now();
        let executions = self.run();
        println!("{executions} executions in {:.1?}", start.elapsed());
    }

    /// # Panics
    ///
    /// When it holds with one of its mutants, or fails for another reason.
    pub fn rejects_its_mutants(&self) {
        listen();
        for (mutant, reason) in self.mutants {
            let start = Instant::now();
            ACTIVE.set(Some(*mutant));
            SAID.set(Some(Vec::new()));
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| self.run()));
            let said = SAID.take().unwrap_or_default();
            ACTIVE.set(None);
            graveyard::clear(false);
            assert!(outcome.is_err(), "{mutant:?} was not found");
            let is_expected = said.first().is_some_and(|said| said.contains(reason));
            assert!(is_expected, "{mutant:?} failed for another reason: {said:?}");
            println!("{mutant:?} rejected in {:.1?}: {}", start.elapsed(), said[0]);
        }
    }

    fn run(&self) -> u64 {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = self.preemptions;
        builder.max_branches = 20_000;
        let (scenario, executions) = (self.scenario, Arc::new(AtomicU64::new(0)));
        let count = executions.clone();
        builder.check(move || {
            count.fetch_add(1, Ordering::Relaxed);
            graveyard::clear(true);
            scenario();
        });
        graveyard::clear(false);
        executions.load(Ordering::Relaxed)
    }
}

/// Keeps panics that are expected from being printed.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            let is_expected = SAID.with_borrow_mut(|said| {
                // Threads of a model that are not needed any more end by a panic that says nothing.
                let message = panicked.payload_as_str().map(str::to_owned);
                said.as_mut().map(|said| said.extend(message)).is_some()
            });
            if !is_expected {
                print(panicked);
            }
        }));
    });
}

pub(crate) const CLUSTER: ClusterHash = ClusterHash(7);

/// A key's hash. With one core the hash is the path, so the highest bits, `path`, choose the
/// segment; there is one home bucket; `tag` is compared before the key is.
pub(crate) const fn hash(path: u64, tag: u64) -> KeyHash {
    KeyHash(path << 56 | tag << 7)
}

pub(crate) fn entry(hash: KeyHash, version: u64, expires_at_ms: u64) -> Entry {
    let content = value(hash, version);
    Entry::new(
        &hash.key(CLUSTER),
        Content::Value(&content),
        Version(version),
        expires_at_ms.try_into().ok(),
    )
}

/// A value that says which version of which key it is.
fn value(hash: KeyHash, version: u64) -> Vec<u8> {
    [hash.0, version].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The writer's side of a shard, and what readers have.
pub(crate) struct Shard {
    pub(crate) store: Store,
    pub(crate) readers: Arc<Readers>,
    pub(crate) views: Arc<Views>,
}

impl Shard {
    /// Makes a shard with the first version of some keys, for which it answers.
    pub(crate) fn new(keys: &[KeyHash]) -> Self {
        Self::with(Deletes::Forget, None, keys)
    }

    pub(crate) fn with(deletes: Deletes, memory: Option<usize>, keys: &[KeyHash]) -> Self {
        let readers = Arc::new(Readers::new(None));
        let config = StoreConfig {
            cluster: CLUSTER,
            core: CoreId(0),
            cores: Cores::new(1),
            deletes,
            memory,
            eviction: Eviction::Sieve,
        };
        let mut store = Store::new(config, readers.clone());
        store.serve(hash(0, 0).partition(), true);
        let views = Arc::new(Views::new([store.view().clone()], readers.clone()));
        let mut shard = Self { store, readers, views };
        keys.iter().for_each(|key| shard.put(*key, 1));
        shard
    }

    pub(crate) fn put(&mut self, hash: KeyHash, version: u64) {
        self.store.apply(hash, entry(hash, version, 0));
    }

    pub(crate) fn delete(&mut self, hash: KeyHash) {
        let version =
            self.store.get(hash, &hash.key(CLUSTER)).expect("it is there").version().next();
        self.store.apply(hash, Entry::new(&hash.key(CLUSTER), Content::Tombstone, version, None));
    }

    /// Starts a thread that reads, in a place that it was given before.
    pub(crate) fn read(
        &self,
        reads: impl FnOnce(&ReaderThread) + 'static,
    ) -> loom::thread::JoinHandle<()> {
        let thread = ReaderThread { reader: self.readers.register(), views: self.views.clone() };
        loom::thread::spawn(move || reads(&thread))
    }

    /// When all readers have ended: nothing is left that cannot be freed. That all is freed in the
    /// end is loom's to see.
    pub(crate) fn end(mut self, threads: impl IntoIterator<Item = loom::thread::JoinHandle<()>>) {
        threads.into_iter().for_each(|thread| thread.join().expect("it has not panicked"));
        self.store.collect();
        assert_eq!(self.store.retired_bytes(), 0, "nobody reads, and something is held");
    }
}

pub(crate) struct ReaderThread {
    pub(crate) reader: Reader,
    pub(crate) views: Arc<Views>,
}

impl ReaderThread {
    /// Pins and looks; returns the version that it found.
    pub(crate) fn get(&self, hash: KeyHash) -> Local<u64> {
        look(&self.views.pin_in(&self.reader), hash)
    }

    /// Returns a handle of what it finds, which lasts longer than the look.
    pub(crate) fn take(&self, hash: KeyHash) -> Option<Entry> {
        match self.views.pin_in(&self.reader).get(hash, &hash.key(CLUSTER)) {
            Local::Found(entry) => Some(entry.clone()),
            Local::Absent | Local::AskOwner => None,
        }
    }
}

/// Looks at a key; what is found is that key's, and whole.
pub(crate) fn look(pinned: &Pinned<'_>, hash: KeyHash) -> Local<u64> {
    let key = hash.key(CLUSTER);
    match pinned.get(hash, &key) {
        Local::Found(entry) => {
            assert_eq!(entry.key(), key, "another key was found");
            let version = entry.version().0;
            assert!(
                entry.value().is_none_or(|held| held == value(hash, version)),
                "a part was found"
            );
            Local::Found(version)
        }
        Local::Absent => Local::Absent,
        Local::AskOwner => Local::AskOwner,
    }
}
