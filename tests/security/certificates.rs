//! Engines with certificates of a PKI: which hosts are kept out that have the cluster key, how a
//! running cluster comes to use certificates, how they are renewed, and how a node is put out.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gridkv::{Certificates, ClusterKey, Config, Engine, Event, Fingerprint, Names, Security};

use crate::authority::{Authority, Leaf};
use crate::support::engines::{address, alive, node, start};
use crate::support::{LATE, wait_until};

fn with_key() -> Security {
    let key = ClusterKey::from_bytes(std::array::from_fn(|at| 3 + 7 * at as u8)).unwrap();
    Security::cluster_key(key)
}

/// Returns a certificate by one CA, with the roots of others.
fn certificates(by: &Authority, leaf: &Leaf<'_>, roots: &[&Authority]) -> Certificates {
    let (chain, key) = by.issue(leaf);
    let roots: String = roots.iter().map(|root| root.pem()).collect();
    Certificates::from_pem(chain.as_bytes(), key.as_bytes(), roots.as_bytes()).unwrap()
}

/// Returns the security of a node with a certificate for its own id.
fn secured(id: &str, root: &Authority) -> Security {
    with_key().certificates(certificates(root, &Leaf::of(&[id]), &[root]))
}

/// Has one test at a time run a cluster, until the guard is dropped: each moves all partitions.
fn processors() -> MutexGuard<'static, ()> {
    static PROCESSORS: Mutex<()> = Mutex::new(());
    // A test that failed has left nothing behind.
    PROCESSORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until these are all the nodes that there are, and each has what it needs to serve.
fn wait_together(engines: &[Engine]) {
    wait_until("the nodes are together", || {
        engines.iter().all(|engine| {
            alive(engine) == engines.len() && engine.wait_ready(Duration::ZERO).is_ok()
        })
    });
}

/// Starts nodes `n0`, `n1`, … and waits until they serve.
fn cluster(nodes: usize, security: impl Fn(&str) -> Security) -> Vec<Engine> {
    let mut engines: Vec<Engine> = Vec::new();
    for number in 0..nodes {
        let id = format!("n{number}");
        let seeds: Vec<String> = engines.first().map(address).into_iter().collect();
        engines.push(start(node(&id).seeds(seeds).security(security(&id))));
    }
    wait_together(&engines);
    engines
}

/// Waits until each node takes a write which all nodes read, and checks that these are all the
/// members. A call can fail with a connection that ends by an update, within five seconds.
fn assert_serves(engines: &[Engine]) {
    for (number, engine) in engines.iter().enumerate() {
        let key = format!("serves-{number}");
        let start = Instant::now();
        while let Err(error) = engine.set(&key, "yes") {
            assert!(start.elapsed() < LATE, "{engine:?}: {error}");
        }
        for engine in engines {
            wait_until("a read succeeds", || {
                engine.get(&key).is_ok_and(|value| value.as_deref() == Some(b"yes"))
            });
        }
        assert_eq!(engine.members().len(), engines.len(), "{:#?}", engine.members());
        assert_eq!(engine.failure(), None);
    }
}

/// Whether all nodes have connections to all others in which certificates were presented, or not.
fn all_have(engines: &[Engine], has_certificate: bool) -> bool {
    engines.iter().all(|engine| {
        let members = engine.members();
        let mut others = members.iter().filter(|member| !member.is_self);
        others.all(|it| it.security.is_some_and(|it| it.has_certificate == has_certificate))
    })
}

/// Starts a node that the cluster keeps out, and returns what it learns.
fn refused(engines: &[Engine], config: Config) -> String {
    let intruder = start(config.seeds([address(&engines[0])]));
    let events = intruder.events();
    let reason = loop {
        match events.next_within(LATE).expect("it is refused") {
            Event::Refused { reason, .. } => break reason,
            _ => continue,
        }
    };
    assert_eq!(intruder.members().len(), 1, "{:#?}", intruder.members());
    intruder.abort();
    reason
}

#[test]
fn nodes_with_certificates_serve_and_all_others_are_kept_out() {
    let _alone = processors();
    let (root, other) = (Authority::new("root"), Authority::new("other"));
    let stolen = certificates(&root, &Leaf::of(&["x"]), &[&root]);
    let denied: Fingerprint = stolen.fingerprint();
    let engines = cluster(2, |id| secured(id, &root).deny([denied]));
    wait_until("all present certificates", || all_have(&engines, true));
    assert_serves(&engines);
    let of = |by: &Authority, leaf: &Leaf<'_>| {
        with_key().certificates(certificates(by, leaf, &[&root, &other]))
    };
    let of_years = |years| of(&root, &Leaf { years, ..Leaf::of(&["x"]) });
    let as_x = |names: &[&str]| {
        let any =
            certificates(&root, &Leaf::of(names), &[&root]).names(Names::any_of(names.to_vec()));
        with_key().certificates(any)
    };
    let another = ClusterKey::from_bytes(std::array::from_fn(|at| 5 + 3 * at as u8)).unwrap();
    let own = certificates(&root, &Leaf::of(&["x"]), &[&root]);
    let other_key = Security::cluster_key(another).certificates(own);
    for (what, security, text) in [
        ("no certificate", with_key(), "this node requires a certificate"),
        ("another CA", of(&other, &Leaf::of(&["x"])), "UnknownCA"),
        ("one that has expired", of_years((2001, 2002)), "CertificateExpired"),
        ("one of later", of_years((2900, 2990)), "CertificateExpired"),
        ("a member's name", as_x(&["n1"]), "is not valid for x"),
        ("a denied key", with_key().certificates(stolen), "is denied"),
        ("another cluster key", other_key, "cluster key has the id"),
    ] {
        let reason = refused(&engines, node("x").security(security));
        assert!(reason.contains(text), "{what}: {reason}");
        assert_serves(&engines);
    }
    // It is the names that keep this one out of another id, and a good one comes in.
    let good = start(node("x").seeds([address(&engines[0])]).security(secured("x", &root)));
    let engines = [engines, vec![good]].concat();
    wait_together(&engines);
    assert_serves(&engines);
}

#[test]
fn a_certificate_is_refused_by_nodes_that_have_none() {
    let _alone = processors();
    let root = Authority::new("root");
    let engines = cluster(2, |_| with_key());
    let reason = refused(&engines, node("x").security(secured("x", &root)));
    assert!(reason.contains("it presents a certificate and asks for one"), "{reason}");
    assert_serves(&engines);
    wait_until("all present raw keys", || all_have(&engines, false));
}

#[test]
fn nodes_of_any_id_share_the_name_of_a_service() {
    let _alone = processors();
    let root = Authority::new("root");
    let shared = |names: &[&str]| {
        let certificates = certificates(&root, &Leaf::of(names), &[&root]);
        with_key().certificates(certificates.names(Names::any_of(["gridkv.internal"])))
    };
    let engines = cluster(2, |_| shared(&["gridkv.internal", "more"]));
    let reason = {
        let other = certificates(&root, &Leaf::of(&["x"]), &[&root]);
        refused(&engines, node("x").security(with_key().certificates(other)))
    };
    assert!(reason.contains("is not valid for"), "{reason}");
    let spaced =
        start(node("id: 3").seeds([address(&engines[0])]).security(shared(&["gridkv.internal"])));
    let engines = [engines, vec![spaced]].concat();
    wait_together(&engines);
    assert_serves(&engines);
}

/// Writes and reads through all nodes until it is told to stop.
#[derive(Default)]
struct Writer {
    ends: AtomicBool,
    written: AtomicUsize,
    tried_again: AtomicUsize,
}

impl Writer {
    /// Writes one key after the other. A call that fails with a connection is made again.
    fn run(&self, engines: &[Engine]) {
        for number in 0.. {
            if self.ends.load(Ordering::Relaxed) {
                break;
            }
            let engine = &engines[number % engines.len()];
            wait_until("the call succeeds", || {
                let is_done = engine.set(format!("key-{number}"), format!("{number}")).is_ok();
                self.tried_again.fetch_add(usize::from(!is_done), Ordering::Relaxed);
                is_done
            });
            self.written.store(number + 1, Ordering::Relaxed);
        }
    }

    /// Waits until this many more calls have succeeded.
    fn wait_more(&self, calls: usize) {
        let written = || self.written.load(Ordering::Relaxed);
        let before = written();
        wait_until("calls succeed", || written() >= before + calls);
    }

    fn check(&self, engines: &[Engine]) {
        for number in 0..self.written.load(Ordering::Relaxed) {
            let (engine, key) = (&engines[(number + 1) % engines.len()], format!("key-{number}"));
            let mut value = None;
            wait_until("a read succeeds", || engine.get(&key).map(|read| value = read).is_ok());
            assert_eq!(value, Some(number.to_string().into_bytes()), "{key}");
        }
    }
}

/// Ends the writer also if the test has failed: its thread is waited for.
struct EndsWriter<'a>(&'a Writer);

impl Drop for EndsWriter<'_> {
    fn drop(&mut self) {
        self.0.ends.store(true, Ordering::Relaxed);
    }
}

fn update(engines: &[Engine], security: impl Fn(&str) -> Security) {
    for (number, engine) in engines.iter().enumerate() {
        engine.update_security(security(&format!("n{number}"))).unwrap();
    }
}

#[test]
fn a_running_cluster_comes_to_require_certificates_and_renews_them() {
    let _alone = processors();
    let root = Authority::new("root");
    let own = |id: &str| certificates(&root, &Leaf::of(&[id]), &[&root]);
    let engines = cluster(3, |_| with_key());
    let writer = Writer::default();
    thread::scope(|scope| {
        let _ends = EndsWriter(&writer);
        scope.spawn(|| writer.run(&engines));
        writer.wait_more(20);
        update(&engines, |id| with_key().certificates(own(id).accept_only()));
        writer.wait_more(20);
        wait_until("all present raw keys", || all_have(&engines, false));
        update(&engines, |id| with_key().certificates(own(id).prefer()));
        wait_until("all open with certificates", || all_have(&engines, true));
        writer.wait_more(20);
        update(&engines, |id| with_key().certificates(own(id)));
        writer.wait_more(20);
        // Renewal: other keys, the same root.
        update(&engines, |id| with_key().certificates(own(id)));
        writer.wait_more(20);
    });
    writer.check(&engines);
    // Each connection ended once, and each writer had one call under way.
    let tried_again = writer.tried_again.load(Ordering::Relaxed);
    assert!(tried_again <= 20, "{tried_again} calls were made again");
    assert_serves(&engines);
    let reason = refused(&engines, node("x").security(with_key()));
    assert!(reason.contains("this node requires a certificate"), "{reason}");
    let good = start(node("x").seeds([address(&engines[0])]).security(secured("x", &root)));
    let engines = [engines, vec![good]].concat();
    wait_together(&engines);
    assert_serves(&engines);
    wait_until("all present certificates", || all_have(&engines, true));
}

#[test]
fn new_roots_end_the_connections_of_a_node_that_has_no_certificate_under_them() {
    let _alone = processors();
    let (root, next) = (Authority::new("root"), Authority::new("next"));
    let engines = cluster(3, |id| secured(id, &root));
    assert_serves(&engines);
    // The next CA is trusted everywhere, and two nodes get certificates of it.
    update(&engines, |id| {
        with_key().certificates(certificates(&root, &Leaf::of(&[id]), &[&root, &next]))
    });
    update(&engines[..2], |id| {
        with_key().certificates(certificates(&next, &Leaf::of(&[id]), &[&root, &next]))
    });
    wait_until("all have connections", || all_have(&engines, true));
    assert_serves(&engines);
    // The CA before is trusted no more: the third node is put out.
    update(&engines[..2], |id| {
        with_key().certificates(certificates(&next, &Leaf::of(&[id]), &[&next]))
    });
    let is_out = |engine: &Engine| {
        let members = engine.members();
        members.iter().any(|it| it.id.as_str() == "n2" && it.security.is_none())
    };
    wait_until("it is put out", || engines[..2].iter().all(is_out));
    wait_until("the others serve", || {
        engines[0].set("without", "n2").is_ok() && engines[1].get("without").is_ok()
    });
    // With a new certificate it is back.
    let renewed = certificates(&next, &Leaf::of(&["n2"]), &[&next]);
    engines[2].update_security(with_key().certificates(renewed)).unwrap();
    wait_until("it is back", || all_have(&engines, true));
    wait_together(&engines);
    assert_serves(&engines);
}

#[test]
fn what_cannot_be_used_is_refused_before_anything_starts() {
    let _alone = processors();
    let root = Authority::new("root");
    let own = certificates(&root, &Leaf::of(&["n0"]), &[&root]);
    let with = |certificates: &Certificates| with_key().certificates(certificates.clone());
    let text = |config: Config| Engine::start(config).map(|_| ()).unwrap_err().to_string();
    let error = text(node("no name").security(with(&own)));
    assert!(error.contains("is no DNS name"), "{error}");
    let error = text(node("n1").security(with(&own)));
    assert!(error.contains("the node's certificate is not valid for n1"), "{error}");
    let error = text(node("n0").security(with(&own.clone().names(Names::any_of([""; 0])))));
    assert!(error.contains("Names::any_of has no name"), "{error}");
    let engine = start(node("n0").security(with(&own)));
    let other = certificates(&root, &Leaf::of(&["n1"]), &[&root]);
    let error = engine.update_security(with(&other)).unwrap_err().to_string();
    assert!(error.contains("is not valid for n0"), "{error}");
    assert_eq!((engine.members().len(), engine.failure()), (1, None));
}
