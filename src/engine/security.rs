//! Security at run time: new keys, and the name of this node's own key.

use super::Engine;
use crate::error::UpdateSecurityError;
use crate::security::{Fingerprint, Security};

impl Engine {
    /// Secures the traffic of this node by `security` from now on, without a restart: other cluster
    /// keys, other nodes that are kept out, security that is required and was optional.
    ///
    /// All of `security` counts, also what is the same as before. Only the node's own key stays: it
    /// cannot be changed while the node runs, so [`Security::identity`] names the same one or is
    /// left out. Calls that are under way may fail with the connections that are closed, as if
    /// their peer had gone for a moment.
    ///
    /// It returns when `security` was checked and handed to the engine's threads.
    /// [`Event::SecurityUpdated`](crate::Event::SecurityUpdated) tells when they use it, within
    /// milliseconds.
    ///
    /// ```no_run
    /// # use gridkv::{ClusterKey, Engine, Security};
    /// # fn replace(engine: &Engine, old: ClusterKey) -> Result<(), Box<dyn std::error::Error>> {
    /// // The second of three steps: all nodes accept the new key by now.
    /// let new = ClusterKey::from_file("/run/secrets/gridkv.new.key")?;
    /// engine.update_security(Security::cluster_key(new).also_accept(old))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`UpdateSecurityError`] says what to change. The node goes on with what it had.
    pub fn update_security(&self, security: Security) -> Result<(), UpdateSecurityError> {
        let deadline = self.span(None).deadline;
        self.inner.runtime.update_security(&security, deadline)
    }

    /// Returns the public name of this node's key, which other nodes show of it, or `None` if it
    /// has no [`Config::security`](crate::Config::security).
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.inner.runtime.fingerprint()
    }
}
