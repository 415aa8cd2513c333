//! More app threads than processors make every kind of call with hardly any time, and start and end
//! all the while, for as many seconds as `GRIDKV_STRESS_SECONDS` says (two by default; a minute by
//! hand). Every call returns, every submitted one completes once, and nothing is left behind.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::stress::{check, stress_time, value};
use crate::support::engines::{cluster, start};
use crate::support::wait::wait_until;
use crate::{engine_threads, process};
use gridkv::{
    Batch, Completed, Completions, Config, Engine, LoadError, NotApplied, Quorum, ReadError,
    ReadOptions, RunError, SubmitError, Ticket, WriteError, WriteOptions,
};

/// How Linux names the thread that runs the test below: by the first 15 bytes of the test's name.
pub(crate) const STORM: &str = "storm::whatever";

/// Threads at a time.
const THREADS: usize = 12;
const KEYS: u64 = 2000;

#[derive(Default)]
struct CallCounts {
    threads: AtomicUsize,
    called: AtomicUsize,
    returned: AtomicUsize,
    succeeded: AtomicUsize,
    submitted: AtomicUsize,
    completed: AtomicUsize,
    /// Submitted by a thread that did not wait for their completions.
    forgotten: AtomicUsize,
}

impl CallCounts {
    fn get(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::SeqCst)
    }

    fn add(counter: &AtomicUsize, count: usize) {
        counter.fetch_add(count, Ordering::SeqCst);
    }

    fn describe(&self) -> String {
        let Self { threads, called, returned, succeeded, submitted, completed, forgotten } = self;
        format!(
            "{threads:?} threads made {called:?} calls, of which {returned:?} returned, \
             {succeeded:?} of them with success, and submitted {submitted:?}, of which \
             {completed:?} completed and {forgotten:?} were given up"
        )
    }
}

/// One short life of a thread.
struct ShortThread {
    dice: Dice,
    engines: Vec<Engine>,
    completions: Completions,
    /// The tickets of calls that have not completed, with their keys.
    tickets: BTreeMap<Ticket, u64>,
    counts: Arc<CallCounts>,
}

fn key(n: u64) -> String {
    format!("key {n}")
}

/// Asserts that a call was refused for want of room or time, and not because the engine has ended.
fn check_not_applied(error: &NotApplied) {
    let is_wrong = matches!(
        error,
        NotApplied::ShutDown
            | NotApplied::EngineFailed
            | NotApplied::WouldBlockCore
            | NotApplied::OtherCore
    );
    assert!(!is_wrong, "{error:?}");
}

fn check_write(result: &Result<(), WriteError>) -> bool {
    match result {
        Ok(()) => return true,
        Err(WriteError::NotApplied(error)) => check_not_applied(error),
        Err(WriteError::Indeterminate { .. }) => {}
        Err(error) => panic!("{error:?}"),
    }
    false
}

fn check_read(n: u64, result: &Result<Option<Vec<u8>>, ReadError>) -> bool {
    match result {
        Ok(found) => {
            if let Some(found) = found {
                check(n, found);
            }
            return true;
        }
        Err(
            ReadError::TimedOut { .. }
            | ReadError::Overloaded
            | ReadError::NotEnoughReplicas { .. }
            | ReadError::Unconfirmed { .. },
        ) => {}
        Err(error) => panic!("{error:?}"),
    }
    false
}

fn check_load(n: u64, result: Result<Vec<u8>, LoadError<()>>) -> bool {
    match result {
        Ok(found) => return check_read(n, &Ok(Some(found))),
        Err(LoadError::Read(error)) => return check_read(n, &Err(error)),
        Err(LoadError::NotStored { value, error }) => {
            check(n, &value);
            check_write(&Err(error));
        }
        Err(LoadError::Loader(()) | LoadError::TimedOut { .. }) => {}
        Err(error) => panic!("{error:?}"),
    }
    false
}

impl ShortThread {
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice.roll(sides)
    }

    /// From nothing to some milliseconds, short ones more often.
    fn timeout(&mut self) -> Duration {
        let most = 1 << self.roll(14);
        Duration::from_micros(self.roll(most))
    }

    fn writing(&mut self) -> WriteOptions {
        let mut options = WriteOptions::new();
        if self.roll(3) > 0 {
            options = options.timeout(self.timeout());
        }
        match self.roll(8) {
            0 => options.ttl(Duration::from_millis(1 + self.roll(50))),
            1 => options.quorum(Quorum::All),
            _ => options,
        }
    }

    fn reading(&mut self) -> ReadOptions {
        let mut options = ReadOptions::new();
        if self.roll(3) > 0 {
            options = options.timeout(self.timeout());
        }
        if self.roll(4) == 0 { options.quorum(Quorum::Majority) } else { options }
    }

    fn value(&mut self, n: u64) -> Vec<u8> {
        let length = match self.roll(200) {
            0 => 500_000 + self.roll(500_000),
            1..20 => 5000 + self.roll(20_000),
            _ => 24 + self.roll(200),
        };
        value(n, self.dice.roll(1 << 40), length as usize)
    }

    /// Makes some calls, and ends.
    fn live(mut self) {
        for _ in 0..self.roll(300) {
            CallCounts::add(&self.counts.called, 1);
            let has_succeeded = self.call();
            CallCounts::add(&self.counts.returned, 1);
            CallCounts::add(&self.counts.succeeded, usize::from(has_succeeded));
        }
        // Some do not take their completions; the others get one for each ticket.
        if self.roll(3) > 0 {
            while !self.tickets.is_empty() {
                self.complete(true);
            }
            assert!(self.completions.try_next().is_none());
            assert_eq!(self.completions.in_use(), 0);
        } else {
            CallCounts::add(&self.counts.forgotten, self.tickets.len());
        }
    }

    fn call(&mut self) -> bool {
        let at = self.roll(self.engines.len() as u64) as usize;
        let engine = self.engines[at].clone();
        let n = self.roll(KEYS);
        match self.roll(20) {
            0..3 => {
                let (value, options) = (self.value(n), self.writing());
                check_write(&engine.set_with(key(n), value, &options))
            }
            3..5 => check_write(&engine.delete_with(key(n), &self.writing())),
            5..8 => check_read(n, &engine.get_with(key(n), &self.reading())),
            8 => self.get_many(&engine),
            9..11 => self.apply(&engine),
            11..13 => self.run_on(&engine, n),
            13..15 => self.load(&engine, n),
            15 => {
                // Handles come and go; the engine has others.
                self.engines[at] = engine.clone();
                drop(engine);
                true
            }
            _ => self.submit(&engine, n),
        }
    }

    fn get_many(&mut self, engine: &Engine) -> bool {
        let some: Vec<u64> = (0..self.roll(100)).map(|_| self.roll(KEYS)).collect();
        let keys: Vec<String> = some.iter().copied().map(key).collect();
        match engine.get_many(&keys) {
            Ok(values) => some.into_iter().zip(values).all(|(n, value)| check_read(n, &Ok(value))),
            Err(error) => check_read(0, &Err(error)),
        }
    }

    fn apply(&mut self, engine: &Engine) -> bool {
        let most = if self.roll(50) == 0 { 5000 } else { 50 };
        let mut batch = Batch::new();
        for _ in 0..self.roll(most) {
            let n = self.roll(KEYS);
            batch = match self.roll(4) {
                0 => batch.delete(key(n)),
                1 => batch.set_with_ttl(
                    key(n),
                    self.value(n),
                    Duration::from_millis(1 + self.roll(50)),
                ),
                _ => batch.set(key(n), value(n, self.roll(1 << 40), 50)),
            };
        }
        let length = batch.len();
        let results = engine.apply_with(batch, &self.writing());
        assert_eq!(results.len(), length);
        results.iter().filter(|result| !check_write(result)).count() == 0
    }

    fn run_on(&mut self, engine: &Engine, n: u64) -> bool {
        let (value, kind) = (self.value(n), self.roll(10));
        let handle = engine.clone();
        let result = engine.run_on(key(n), move |shard| {
            let found = shard.get(key(n)).map(|found| found.map(<[u8]>::to_vec));
            if !matches!(found, Err(ReadError::NotLocal)) {
                check_read(n, &found);
            }
            match kind {
                0 => resume_unwind(Box::new("as planned")),
                1 => shard.delete(key(n)),
                2..6 => shard.set(key(n), value),
                6 => {
                    assert_eq!(handle.stats(), Err(ReadError::WouldBlockCore));
                    Ok(())
                }
                _ => Ok(()),
            }
        });
        match result {
            Ok(Ok(())) => return true,
            Ok(Err(error)) | Err(RunError::NotApplied(error)) => check_not_applied(&error),
            Err(RunError::Panicked { message }) => {
                assert_eq!((kind, message.as_str()), (0, "as planned"))
            }
            Err(RunError::Write { first, .. }) => return check_write(&Err(first)),
            Err(RunError::Indeterminate) => {}
            Err(error) => panic!("{error:?}"),
        }
        false
    }

    fn load(&mut self, engine: &Engine, n: u64) -> bool {
        let (value, kind) = (self.value(n), self.roll(10));
        let ttl = (self.roll(2) == 0).then(|| Duration::from_millis(1 + self.roll(20)));
        let load = || match kind {
            0 => resume_unwind(Box::new("as planned")),
            1 => Err(()),
            2 => {
                (0..20).for_each(|_| thread::yield_now());
                Ok(value)
            }
            _ => Ok(value),
        };
        match catch_unwind(AssertUnwindSafe(|| engine.get_or_try_insert_with(key(n), ttl, load))) {
            Ok(loaded) => check_load(n, loaded),
            Err(payload) => {
                assert_eq!((kind, payload.downcast_ref()), (0, Some(&"as planned")));
                false
            }
        }
    }

    fn submit(&mut self, engine: &Engine, n: u64) -> bool {
        let completions = self.completions.clone();
        let submitted = match self.roll(3) {
            0 => {
                let value = self.value(n);
                engine.submit_set(&completions, key(n), value, &self.writing())
            }
            1 => engine.submit_delete(&completions, key(n), &self.writing()),
            _ => engine.submit_get(&completions, key(n), &self.reading()),
        };
        match submitted {
            Ok(ticket) => {
                CallCounts::add(&self.counts.submitted, 1);
                assert_eq!(self.tickets.insert(ticket, n), None, "{ticket:?} twice");
                return true;
            }
            Err(SubmitError::Full { .. }) => {
                assert!(!self.tickets.is_empty());
                self.complete(true);
            }
            Err(SubmitError::NotApplied(error)) => check_not_applied(&error),
            Err(error) => panic!("{error:?}"),
        }
        self.complete(false);
        false
    }

    /// Takes a completion, if one is here or must come.
    fn complete(&mut self, must_come: bool) {
        let next = if must_come {
            Some(self.completions.next().unwrap())
        } else {
            self.completions.try_next()
        };
        let Some(completion) = next else { return };
        let n = self
            .tickets
            .remove(&completion.ticket())
            .expect("a ticket of this thread's, and only once");
        CallCounts::add(&self.counts.completed, 1);
        match completion.into_result() {
            Completed::Write(result) => check_write(&result),
            Completed::Read(result) => check_read(n, &result),
            other => panic!("{other:?}"),
        };
    }
}

fn storm(engines: Vec<Engine>) {
    let counts = Arc::new(CallCounts::default());
    let end = Instant::now() + stress_time() / 2;
    let ends: Vec<_> = (0..THREADS)
        .map(|number| {
            let (engines, counts) = (engines.clone(), counts.clone());
            thread::spawn(move || {
                for life in 0.. {
                    if Instant::now() >= end {
                        break;
                    }
                    let caller = ShortThread {
                        dice: Dice((number as u64) << 32 | life),
                        engines: engines.clone(),
                        completions: Completions::new(16),
                        tickets: BTreeMap::new(),
                        counts: counts.clone(),
                    };
                    CallCounts::add(&counts.threads, 1);
                    thread::spawn(|| caller.live())
                        .join()
                        .unwrap_or_else(|panic| resume_unwind(panic));
                }
            })
        })
        .collect();
    // Should a call never return, the test fails, and does not hang.
    while Instant::now() < end {
        assert!(engines.iter().all(|engine| engine.failure().is_none()));
        thread::sleep(Duration::from_millis(5));
    }
    wait_until("every call has returned", || ends.iter().all(|end| end.is_finished()));
    ends.into_iter().for_each(|end| end.join().unwrap_or_else(|panic| resume_unwind(panic)));
    println!("{}", counts.describe());
    assert_eq!(CallCounts::get(&counts.called), CallCounts::get(&counts.returned));
    let answered = CallCounts::get(&counts.completed) + CallCounts::get(&counts.forgotten);
    assert_eq!(CallCounts::get(&counts.submitted), answered);
    assert!(
        CallCounts::get(&counts.succeeded) > CallCounts::get(&counts.called) / 10,
        "{}",
        counts.describe()
    );
    for engine in &engines {
        wait_until("no call is under way", || engine.stats().unwrap().calls_in_flight == 0);
        wait_until("what readers held is free", || engine.stats().unwrap().held_bytes == 0);
        for n in 0..KEYS {
            assert!(check_read(n, &engine.get(key(n))), "{n}");
        }
        assert_eq!(engine.failure(), None);
    }
    drop(engines);
    wait_until("no engine's thread is left", || engine_threads().is_empty());
}

#[test]
fn whatever_is_called_by_however_many_with_however_little_time_every_call_returns() {
    let _process = process();
    let timeout = Duration::from_millis(500);
    let config = Config::standalone("solo").cores(2).max_memory(16 << 20).request_timeout(timeout);
    storm(vec![start(config)]);
    storm(cluster(3, |config| config.max_memory(32 << 20).request_timeout(Duration::from_secs(2))));
}
