//! [`Discovery`]: how a node finds others besides the addresses that its configuration names.
//!
//! An [`AddressSource`] is what a configuration comes to: host names to look up, and the app's own
//! [`Discovery`]. Its lookups may block, so that only the discovery thread makes them.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::sync::Arc;

/// How many addresses of one lookup count: more nodes than a cluster has, and few enough to dial.
const MAX_FOUND: usize = 1000;

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
    /// Returns addresses at which nodes may listen now; this node's own address among them is
    /// harmless.
    ///
    /// The engine calls it at the start. While this node sees no other node it calls it again after
    /// 100 ms to 5 s, and after that every 30 s. It may block: it runs on a thread of its own,
    /// named `gridkv-discovery`, and an engine that is stopped does not wait for it. Only the first
    /// 1000 addresses count.
    ///
    /// # Errors
    ///
    /// Any error. The engine logs it, names it in [`NotReady`](crate::NotReady), keeps what was
    /// found before, and asks again.
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

/// The app's own [`Discovery`].
#[derive(Clone)]
pub(crate) struct Custom(pub(crate) Arc<dyn Discovery>);

// It is called on the engine's discovery thread alone, which catches its panics.
impl UnwindSafe for Custom {}
impl RefUnwindSafe for Custom {}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Custom")
    }
}

/// The result of one lookup.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FoundAddresses {
    pub(crate) addresses: Vec<SocketAddr>,
    /// What did not work, in words for the operator.
    pub(crate) failure: Option<String>,
}

/// Where addresses come from that the configuration does not name as numbers.
#[derive(Clone, Debug)]
pub(crate) struct AddressSource {
    /// Host names, each with a port.
    pub(crate) names: Vec<String>,
    pub(crate) custom: Option<Custom>,
}

impl AddressSource {
    /// Whether there is anything to look up.
    pub(crate) fn is_needed(&self) -> bool {
        !self.names.is_empty() || self.custom.is_some()
    }

    /// Looks up every name and asks the app's discovery. Might block for as long as these do.
    pub(crate) fn find(&self) -> FoundAddresses {
        let mut found = FoundAddresses::default();
        let mut failures = Vec::new();
        for name in &self.names {
            match name.to_socket_addrs() {
                Ok(addresses) => found.addresses.extend(addresses),
                Err(error) => failures.push(format!("the seed {name:?}: {error}")),
            }
        }
        if let Some(Custom(custom)) = &self.custom {
            match catch_unwind(AssertUnwindSafe(|| custom.discover())) {
                Ok(Ok(addresses)) => found.addresses.extend(addresses),
                Ok(Err(error)) => failures.push(format!("Config::discovery: {error}")),
                Err(_) => failures.push("Config::discovery panicked".to_owned()),
            }
        }
        let all = std::mem::take(&mut found.addresses);
        found.addresses = usable(&all);
        if let Some(address) = all.iter().find(|address| is_of_one_link(address))
            && found.addresses.is_empty()
        {
            failures.push(format!(
                "{address} is an address of one network link (fe80::…), which nodes do not use: \
                 give a global or unique local IPv6 address, or an IPv4 address"
            ));
        }
        found.failure = (!failures.is_empty()).then(|| failures.join("; "));
        found
    }
}

/// Whether the address means nothing without the zone of this host. Nodes tell each other addresses
/// without one.
fn is_of_one_link(addr: &SocketAddr) -> bool {
    matches!(addr, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() || v6.scope_id() != 0)
}

/// Returns the addresses that can be dialled, each once, in one spelling.
fn usable(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let canonical = |addr: &SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let is_reachable = |addr: &SocketAddr| addr.port() != 0 && !addr.ip().is_unspecified();
    let mut usable: Vec<SocketAddr> = addresses
        .iter()
        .filter(|addr| !is_of_one_link(addr))
        .map(canonical)
        .filter(is_reachable)
        .collect();
    usable.sort_unstable();
    usable.dedup();
    usable.truncate(MAX_FOUND);
    usable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(names: &[&str], custom: Option<Custom>) -> AddressSource {
        AddressSource { names: names.iter().map(|name| (*name).to_owned()).collect(), custom }
    }

    #[test]
    fn names_and_what_the_app_brought_are_looked_up_and_one_failure_is_not_the_end_of_the_other() {
        let custom = || {
            let mapped = "[::ffff:10.0.0.3]:8001".parse()?;
            Ok(vec![
                mapped,
                "10.0.0.2:8001".parse()?,
                "10.0.0.2:8001".parse()?,
                "0.0.0.0:1".parse()?,
            ])
        };
        let custom = Custom(Arc::new(custom));
        let found = source(&["127.0.0.1:8000", "no host:1"], Some(custom)).find();
        let expected = ["10.0.0.2:8001", "10.0.0.3:8001", "127.0.0.1:8000"];
        assert_eq!(found.addresses, expected.map(|addr| addr.parse::<SocketAddr>().unwrap()));
        assert!(found.failure.unwrap().starts_with("the seed \"no host:1\": "));
    }

    /// A name had an address of one link too, as names of mDNS have: without its zone, it was
    /// dialled for ever.
    #[test]
    fn addresses_of_one_link_are_left_out_and_named_if_there_is_no_other() {
        let find = |found: &'static [&'static str]| {
            let parse =
                move || Ok(found.iter().map(|addr| addr.parse()).collect::<Result<_, _>>()?);
            source(&[], Some(Custom(Arc::new(parse)))).find()
        };
        let both = find(&["[fe80::1%2]:8001", "[fd00::1]:8001"]);
        assert_eq!(both.addresses, ["[fd00::1]:8001".parse::<SocketAddr>().unwrap()]);
        assert_eq!(both.failure, None);
        let none = find(&["[fe80::1%2]:8001"]);
        assert!(none.addresses.is_empty());
        assert!(none.failure.unwrap().starts_with("[fe80::1%2]:8001 is an address of one network"));
    }

    #[test]
    fn a_panic_and_an_error_are_failures() {
        let panics = Custom(Arc::new(|| panic!("on purpose")));
        assert_eq!(
            source(&[], Some(panics)).find().failure.as_deref(),
            Some("Config::discovery panicked")
        );
        let fails = Custom(Arc::new(|| Err("no registry".into())));
        let failure = source(&[], Some(fails)).find().failure;
        assert_eq!(failure.as_deref(), Some("Config::discovery: no registry"));
    }
}
