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

    /// Forgets which key of its own the node with this id has proved, so that it may come back with
    /// another one.
    ///
    /// For a node that was given a key to keep ([`Security::identity`]), and has lost it: others
    /// refuse any other key in its name until they forget it, some time after its death. Call it on
    /// every node. Nothing happens if no key of such a node is known, or if the node is connected
    /// with it.
    ///
    /// # Errors
    ///
    /// [`UpdateSecurityError`], as by [`update_security`](Self::update_security).
    pub fn forget_identity(&self, node: &str) -> Result<(), UpdateSecurityError> {
        let deadline = self.span(None).deadline;
        self.inner.runtime.forget_identity(node, deadline)
    }

    /// Returns the public name of this node's key, which other nodes show of it, or `None` if it
    /// has no [`Config::security`](crate::Config::security).
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.inner.runtime.fingerprint()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests are apps: they start threads, and wait")]
mod tests {
    use std::fmt::{Debug, Display};
    use std::thread;
    use std::time::{Duration, Instant as OsInstant};

    use super::*;
    use crate::config::Config;
    use crate::error::{ConfigError, StartError};
    use crate::events::{Event, Events};
    use crate::security::{ClusterKey, KeyringError, NodeIdentity};
    use crate::types::NodeId;

    const LATE: Duration = Duration::from_secs(60);

    const DIGITS: &str = "8f0c6be1a2d94735bb90e1f64a5c2d7e03fd1b6a9c48e5720d3fa16b7c92e854";

    /// A node's key in PKCS#8: what comes before the seed, and the seed.
    const PKCS8_PREFIX: &str = "302e020100300506032b657004220420";
    const SEED: &str = "d1e2f30415263748596a7b8c9daebfc0d0e1f2031425364758697a8b9cadbecf";

    fn bytes(hex: &str) -> Vec<u8> {
        let pair = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(pair).collect()
    }

    fn key(number: u8) -> ClusterKey {
        let mut bytes: [u8; 32] = bytes(DIGITS).try_into().unwrap();
        bytes[0] = bytes[0].wrapping_add(number);
        ClusterKey::from_bytes(bytes).unwrap()
    }

    fn identity() -> NodeIdentity {
        NodeIdentity::from_pkcs8(&bytes(&format!("{PKCS8_PREFIX}{SEED}"))).unwrap()
    }

    fn secured(id: &str, security: Security) -> Config {
        Config::new(id, "127.0.0.1:0").security(security)
    }

    fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
        let start = OsInstant::now();
        while !is_so() {
            assert!(start.elapsed() < LATE, "in vain: {what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the engine's threads use what they were given.
    fn used(events: &Events) -> String {
        loop {
            match events.next_within(LATE).expect("the update is told") {
                Event::SecurityUpdated { key } => return key.to_string(),
                _ => continue,
            }
        }
    }

    #[test]
    fn the_cluster_key_is_replaced_while_two_nodes_run() {
        let first = Engine::start(secured("a", Security::cluster_key(key(0)))).unwrap();
        let seed = first.address().unwrap().to_string();
        let config = secured("b", Security::cluster_key(key(0))).seeds([seed]);
        let engines = [first, Engine::start(config).unwrap()];
        let are_both = |engine: &Engine| engine.members().len() == 2;
        wait_until("two nodes", || engines.iter().all(are_both));
        engines.iter().for_each(|engine| engine.wait_ready(LATE).unwrap());
        let events = engines.each_ref().map(Engine::events);
        let mut names = Vec::new();
        for security in [
            Security::cluster_key(key(0)).also_accept(key(1)),
            Security::cluster_key(key(1)).also_accept(key(0)),
            Security::cluster_key(key(1)),
        ] {
            for (engine, events) in engines.iter().zip(&events) {
                let mut members = 0;
                wait_until("no member uses what is taken out", || {
                    match engine.update_security(security.clone()) {
                        Err(UpdateSecurityError::StillUsed { members: of, .. }) => {
                            members = of.len();
                            false
                        }
                        result => result.is_ok(),
                    }
                });
                assert!(members <= 1);
                names.push(used(events));
            }
            engines[0].set("k", "v").unwrap();
            assert_eq!(engines[1].get("k").unwrap().as_deref(), Some(&b"v"[..]));
        }
        names.dedup();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(engines.iter().all(|engine| engine.failure().is_none()));
    }

    #[test]
    fn a_key_that_a_member_uses_is_taken_out_by_force_alone() {
        let both = || Security::cluster_key(key(1)).also_accept(key(0));
        let first = Engine::start(secured("a", both())).unwrap();
        let seed = first.address().unwrap().to_string();
        let config = secured("b", Security::cluster_key(key(0)).also_accept(key(1)));
        let second = Engine::start(config.seeds([seed])).unwrap();
        let of_second = || {
            let members = first.members();
            members.into_iter().find(|it| !it.is_self && it.security.is_some())
        };
        let old = Security::cluster_key(key(0)).keyring("gridkv").unwrap().sealing().id();
        wait_until("it is known what b uses", || {
            of_second().is_some_and(|it| it.cluster_key == Some(old))
        });
        assert_eq!(
            of_second().and_then(|it| it.security).map(|it| it.fingerprint),
            second.fingerprint()
        );
        let events = first.events();
        let new = Security::cluster_key(key(1));
        let error = first.update_security(new.clone()).unwrap_err();
        let members = vec![NodeId::new("b")];
        assert_eq!(error, UpdateSecurityError::StillUsed { key: old, members });
        let text = error.to_string();
        assert!(text.starts_with(&format!("b still uses the cluster key {old}")), "{text}");
        first.update_security(new.force()).unwrap();
        used(&events);
        assert!(second.failure().is_none());
    }

    #[test]
    fn a_node_keeps_its_own_key_as_long_as_it_runs() {
        let standalone = Engine::start(Config::standalone("a")).unwrap();
        assert_eq!(standalone.fingerprint(), None);
        let with = |key| Security::cluster_key(key).identity(identity());
        let engine = Engine::start(secured("a", with(key(0)))).unwrap();
        let running = identity().fingerprint();
        assert_eq!(engine.fingerprint(), Some(running));
        let events = engine.events();
        engine.update_security(Security::cluster_key(key(0))).unwrap();
        used(&events);
        engine.update_security(with(key(0)).optional()).unwrap();
        used(&events);
        let drawn = Engine::start(secured("b", Security::cluster_key(key(0)))).unwrap();
        let given = identity().fingerprint();
        let running = drawn.fingerprint().unwrap();
        assert_ne!(running, given);
        let error = drawn.update_security(with(key(0))).unwrap_err();
        assert_eq!(error, UpdateSecurityError::OtherIdentity { running, given });
        assert_eq!(drawn.fingerprint(), Some(running));
    }

    #[test]
    fn what_cannot_be_used_changes_nothing() {
        let security = || Security::cluster_key(key(0));
        let standalone = Engine::start(Config::standalone("a")).unwrap();
        let error = standalone.update_security(security()).unwrap_err();
        assert_eq!(error, UpdateSecurityError::Standalone);
        let plain = Engine::start(Config::new("a", "127.0.0.1:0")).unwrap();
        let error = plain.update_security(security()).unwrap_err();
        assert_eq!(error, UpdateSecurityError::StartedWithout);
        assert!(error.to_string().contains("optional()"), "{error}");
        let engine = Engine::start(secured("a", security())).unwrap();
        let error = engine.update_security(security().also_accept(key(0))).unwrap_err();
        let is_twice =
            matches!(error, UpdateSecurityError::ClusterKeys(KeyringError::SameKeyTwice { .. }));
        assert!(is_twice, "{error}");
        let error = engine.run_on("k", {
            let engine = engine.clone();
            move |_| engine.update_security(Security::cluster_key(key(0)))
        });
        assert_eq!(error, Ok(Err(UpdateSecurityError::WouldBlockCore)));
        engine.abort();
        let error = engine.update_security(security()).unwrap_err();
        assert_eq!(error, UpdateSecurityError::ShutDown);
    }

    /// What might be printed, each in both ways if it has both.
    #[derive(Default)]
    struct Texts(Vec<String>);

    impl Texts {
        fn debug(&mut self, value: &dyn Debug) {
            self.0.extend([format!("{value:?}"), format!("{value:#?}")]);
        }

        fn error<E: Debug + Display>(&mut self, error: E) {
            self.debug(&error);
            self.0.push(error.to_string());
        }
    }

    #[test]
    fn no_text_has_a_part_of_a_secret() {
        let security = Security::cluster_key(key(0)).also_accept(key(1)).identity(identity());
        let config = secured("a", security.clone());
        let mut texts = Texts::default();
        texts.debug(&security);
        texts.debug(&key(0));
        texts.debug(&identity());
        texts.debug(&config);
        texts.debug(&config.check().unwrap());
        texts.debug(&security.of_node("gridkv", &[5; 32].into()).unwrap());
        let wrong = secured("a", security.clone().also_accept(key(0)));
        texts.error(wrong.check().unwrap_err());
        texts.error(Config::standalone("a").security(security.clone()).check().unwrap_err());
        texts.error(StartError::from(ConfigError::StandaloneSecurity));
        texts.error(ClusterKey::from_hex(&DIGITS[1..]).unwrap_err());
        texts.error(ClusterKey::from_hex(&format!("{}x", &DIGITS[1..])).unwrap_err());
        texts.error(NodeIdentity::from_pkcs8(&bytes(SEED)).unwrap_err());

        let engine = Engine::start(config).unwrap();
        let events = engine.events();
        texts.debug(&engine);
        engine.update_security(security.clone()).unwrap();
        texts.error(engine.update_security(security.also_accept(key(0))).unwrap_err());
        used(&events);
        let other = Engine::start(secured("b", Security::cluster_key(key(0)))).unwrap();
        let given = Security::cluster_key(key(0)).identity(identity());
        texts.error(other.update_security(given).unwrap_err());
        engine.update_security(Security::cluster_key(key(0))).unwrap();
        let told = std::iter::from_fn(|| events.next_within(Duration::from_millis(200)));
        told.for_each(|event| texts.debug(&event));

        for secret in [DIGITS, SEED] {
            // Five bytes, one more than the name of a key has.
            for start in (0..secret.len() - 10).step_by(2) {
                let part = &secret[start..start + 10];
                let list: Vec<String> = bytes(part).iter().map(u8::to_string).collect();
                let [one, lines] = [list.join(", "), list.join(",\n")];
                for text in &texts.0 {
                    let lower = text.to_lowercase().replace("    ", "");
                    let is_there = [part, &one, &lines].iter().any(|it| lower.contains(*it));
                    assert!(!is_there, "{text}");
                }
            }
        }
        let all = texts.0.concat();
        assert!(all.contains(&identity().fingerprint().to_string()), "{all}");
    }
}
