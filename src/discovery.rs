//! [`Discovery`]: where a node looks for others, beside addresses that it is given.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Says where nodes of the cluster may be: from a registry, an orchestrator's interface, a file.
///
/// Any `Fn() -> Result<Vec<SocketAddr>, …>` is one:
///
/// ```
/// use gridkv::Config;
///
/// let config = Config::new("app-1", "10.0.0.1:8001").discovery(|| {
///     let listed = std::fs::read_to_string("/etc/app/nodes")?;
///     Ok(listed.lines().map(str::parse).collect::<Result<_, _>>()?)
/// });
/// # let _ = config;
/// ```
pub trait Discovery: Send + Sync + 'static {
    /// Addresses at which nodes may listen now; this node's own among them is harmless.
    ///
    /// It is asked at the start, then again after 100 ms to 5 s for as long as this node sees no other, and every 30 s
    /// once it does. It may block: it runs on a thread of its own, named `gridkv-discovery`, and an engine that is stopped
    /// does not wait for it. Only the first 1000 addresses count.
    ///
    /// # Errors
    ///
    /// Whatever went wrong: it is logged and named by [`NotReady`](crate::NotReady), what was found before stays, and it is
    /// asked again.
    fn discover(&self) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>>;
}

impl<F> Discovery for F
where
    F: Fn() -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> + Send + Sync + 'static,
{
    fn discover(&self) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
        self()
    }
}

/// One that the app brought.
#[derive(Clone)]
pub(crate) struct Custom(pub(crate) Arc<dyn Discovery>);

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Custom")
    }
}

/// What an app's discovery and the names among its seeds came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Found {
    pub(crate) addresses: Vec<SocketAddr>,
    /// What did not work, for whoever is paged.
    pub(crate) failure: Option<String>,
}
