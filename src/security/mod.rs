//! Who may speak in a cluster, and how it proves that: keys, seals, proofs and signatures.
//!
//! All nodes of a cluster share the *cluster key*. Each node also has an Ed25519 key of its own.
//! The first says that a host belongs to the cluster, the second which node it is.
//!
//! **A connection** is TLS 1.3, with raw public keys or certificates. The cluster key proves itself
//! twice: before TLS, and over the session.
//!
//! ```text
//! opener                                               acceptor
//!   ── OPENING ‖ ClientHello ────────────────────────▶   one HMAC; wrong: it says so and closes
//!   ◀─────────── OPENED ‖ ServerHello … Finished ─────   now the first costly work
//!   checks OPENED, TLS, and that TLS proves
//!   the certificate which OPENED names
//!   ── Certificate … Finished ‖ PROOF ‖ HELLO ───────▶   checks TLS, that TLS proves the
//!                                                        certificate which OPENING names,
//!                                                        PROOF and HELLO
//!   ◀─────────────────────────── PROOF ‖ WELCOME ─────
//!   checks PROOF, WELCOME
//! ```
//!
//! | a host has | and gets as far as |
//! |---|---|
//! | neither key | OPENING: it learns nothing |
//! | a recording of an OPENING | the server's flight, never PROOF |
//! | a node's key | OPENING |
//! | the cluster key | WELCOME, by a name that is free; TLS, if certificates are required |
//! | the cluster key and a certificate | WELCOME, as a node for which the certificate is |
//! | both sides' traffic, and speaks TLS with each | OPENED, which names another certificate |
//!
//! **Datagrams** are sealed under keys that each start of a node derives from the cluster key
//! ([`seal`]). A receiver opens each once.
//!
//! | file | has |
//! |---|---|
//! | [`keys`] | [`ClusterKey`], and what is derived from it |
//! | [`suite`], [`seal`] | how datagrams are sealed and opened |
//! | [`window`], [`senders`] | which datagrams came before |
//! | [`identity`] | [`NodeIdentity`], what it signs, its [`Fingerprint`] |
//! | [`certificates`] | [`Certificates`], which a node may have on top of that |
//! | [`opening`] | OPENING and OPENED |
//! | [`proof`] | PROOF, introductions, signed claims |
//! | [`known`] | which key each life of a node has |
//! | [`settings`] | [`Security`], what an app chooses, and what a node makes of it |
//! | `hex` | keys and fingerprints as text |
//!
//! **What bytes may do here.** All that comes from another host is of a fixed length or checked
//! against it, and is refused by a typed error that leaves no trace. Nothing is allocated by a
//! number from the wire. Secrets are compared by `ring` alone, in constant time, and no text or
//! `Debug` has any.
//!
//! Pure: time, nonces, salts and seeds come in as arguments.

#![forbid(unsafe_code)]

#[cfg(test)]
pub(crate) mod authority;
pub(crate) mod certificates;
mod hex;
pub(crate) mod identity;
pub(crate) mod keys;
pub(crate) mod known;
pub(crate) mod opening;
pub(crate) mod proof;
pub(crate) mod seal;
pub(crate) mod senders;
mod settings;
pub(crate) mod suite;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod window;

pub use self::certificates::{Certificates, CertificatesError, Names};
pub use self::identity::{Fingerprint, FingerprintError, NodeIdentity, NodeIdentityError};
pub use self::keys::{ClusterKey, ClusterKeyError, KeyId, KeyringError};
pub use self::settings::Security;
pub(crate) use self::settings::{NodeSecurity, Proved, Sealing};
