//! An app's own code on the core that owns a key.

use super::Engine;
use crate::error::{NotApplied, RunError};
use crate::runtime::reply::NoReply;
use crate::shard::{Call, LocalShard, Outcome, RunCall};

impl Engine {
    /// Runs a closure on the core thread that owns `key`, and returns what it does once all of its writes are
    /// acknowledged by W replicas: for services that keep their logic beside their data. In there, reads and writes
    /// of that core's keys take no message.
    ///
    /// Everything else on that core waits meanwhile: other calls, the network, timers. So the closure must be short,
    /// some microseconds, and must not wait for anything: no lock that is held for long, no input or output. A call
    /// to an engine that would wait returns an error in there ([`NotApplied::WouldBlockCore`]).
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
    /// That no other write comes between such a read and write holds for the calls that this node coordinates. In a
    /// cluster, other nodes may write the key at the same time, and then one of the writes is lost.
    ///
    /// # Errors
    ///
    /// [`RunError`]. A closure that panics fails its own call, and nothing else.
    pub fn run_on<T: Send + 'static>(
        &self,
        key: impl AsRef<[u8]>,
        run: impl FnOnce(&mut LocalShard<'_>) -> T + Send + 'static,
    ) -> Result<T, RunError> {
        let span = self.span(None);
        let (core, _) = self.place(key.as_ref());
        let call = RunCall { run: Box::new(move |shard| Box::new(run(shard))), deadline: span.deadline };
        let runtime = &self.inner.runtime;
        let reply = runtime.send(core, Call::Run(call), None, span.deadline).map_err(NotApplied::from)?;
        match self.wait(core, reply, span) {
            Ok(Outcome::Ran(Ok(value))) => Ok(value.take().expect("the closure's own type")),
            Ok(Outcome::Ran(Err(error))) => Err(*error),
            Err(NoReply::Gone) => Err(RunError::EngineFailed),
            _ => Err(RunError::Indeterminate),
        }
    }
}
