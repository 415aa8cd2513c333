//! [`Engine::run_on`]: an app's own code on the core that owns a key.

use super::Engine;
use crate::error::{NotApplied, RunError};
use crate::runtime::reply::NoReply;
use crate::shard::{Call, LocalShard, Outcome, RunCall};

impl Engine {
    /// Runs a closure on the core thread that owns `key`, and returns its result when W replicas
    /// have acknowledged each of its writes.
    ///
    /// This is for services that keep their logic close to their data: inside the closure, reads
    /// and writes of that core's keys take no message.
    ///
    /// The closure holds up everything else on that core: other calls, the network, timers. So it
    /// must be short, some microseconds, and must not wait: no lock that is held for long, no input
    /// or output. If it makes a call on an engine that would wait, the call fails with
    /// [`NotApplied::WouldBlockCore`]. A closure that takes longer than a second makes the other
    /// nodes go on without this one until it ends
    /// ([`Event::CoreStuck`](crate::Event::CoreStuck)).
    ///
    /// ```
    /// # use gridkv::{Config, Engine};
    /// # let engine = Engine::start(Config::standalone("app-1")).unwrap();
    /// let visits = engine.run_on("visits", |shard| {
    ///     let visits = shard.get("visits").unwrap().map_or(0, |value| value[0]) + 1;
    ///     shard.set("visits", [visits]).unwrap();
    ///     visits
    /// });
    /// assert_eq!(visits, Ok(1));
    /// ```
    ///
    /// No other write that this node coordinates comes between a read and a write in the closure.
    /// But in a cluster, other nodes might write the key at the same time, and one of the writes is
    /// then lost.
    ///
    /// # Errors
    ///
    /// [`RunError`] says whether the closure may have run. A closure that panics fails its own
    /// call, and nothing else.
    pub fn run_on<T: Send + 'static>(
        &self,
        key: impl AsRef<[u8]>,
        run: impl FnOnce(&mut LocalShard<'_>) -> T + Send + 'static,
    ) -> Result<T, RunError> {
        let span = self.span(None);
        let (core, _) = self.route(key.as_ref());
        let call =
            RunCall { run: Box::new(move |shard| Box::new(run(shard))), deadline: span.deadline };
        let runtime = &self.inner.runtime;
        let reply =
            runtime.send(core, Call::Run(call), None, span.deadline).map_err(NotApplied::from)?;
        match self.wait(core, reply, span) {
            Ok(Outcome::Ran(Ok(value))) => Ok(value.take().expect("the closure's own type")),
            Ok(Outcome::Ran(Err(error))) => Err(*error),
            Err(NoReply::Gone) => Err(RunError::EngineFailed),
            _ => Err(RunError::Indeterminate),
        }
    }
}
