//! What the fuzzers drive: one function for each target of `fuzz/`, from bytes to a judgement.
//!
//! A function here takes any bytes, feeds what they stand for to the code under test, and panics if
//! a promise is broken. No input may panic, hang, or take memory that it has not paid for.
//!
//! | target | the input | what holds, too |
//! |---|---|---|
//! | [`frames()`] | a stream of bytes, in pieces | the buffer stays small, bodies are aligned |
//! | [`messages()`] | a message: number and body | what is read is written and read again |
//! | [`datagrams()`] | one datagram, and from where | what a node does for it is bounded |
//! | [`hello()`] | changes to a HELLO | a refusal fits its frame, and what passes is in bounds |
//! | [`claims()`] | claims of members | one spelling each, and old ones are no news |
//! | [`config()`] | the options of an app | all are checked, and what passes is in bounds |
//! | [`sealed()`] | copies of sealed datagrams | unchanged ones open, once; a model says which |
//! | [`opening()`] | OPENING and OPENED, altered | the unchanged ones pass alone |
//! | [`introductions()`] | what nodes sign, altered | a signature holds for what was signed alone |
//! | [`keys()`] | keys as text, files and DER | an error says where, and quotes nothing |
//! | [`tls()`] | a host between two ends | no frame but PROOF, one session, little memory |
//! | [`swim()`] | datagrams to three nodes, and time | each is alive to the others in the end |
//!
//! `fuzz/corpus/` has inputs that together reach all that a fuzzer has reached so far. The test
//! `corpus` hands them to these same functions in every `cargo test`.
//!
//! Pure: no clock, no chance, no socket. So an input that fails fails again. Only TLS draws its
//! keys at random. These files may name what decodes, what judges and the secured connections of
//! `runtime::net::in_memory`, and no shard, store or thread.

mod alter;
mod claims;
mod config;
mod datagrams;
mod frames;
mod hello;
mod input;
mod introductions;
mod keys;
mod messages;
mod nodes;
mod opening;
mod sealed;
mod swim;
mod tls;

pub use self::claims::claims;
pub use self::config::config;
pub use self::datagrams::datagrams;
pub use self::frames::frames;
pub use self::hello::hello;
pub use self::introductions::introductions;
pub use self::keys::keys;
pub use self::messages::messages;
pub use self::opening::opening;
pub use self::sealed::sealed;
pub use self::swim::swim;
pub use self::tls::tls;

/// Writes real messages as inputs, from which a fuzzer starts.
#[cfg(test)]
pub(crate) mod seeds {
    use std::path::Path;

    /// Writes an input of a target into the folder of that name in `GRIDKV_CORPUS`.
    pub(crate) fn write(target: &str, number: usize, input: &[u8]) {
        let corpus = std::env::var_os("GRIDKV_CORPUS").expect("GRIDKV_CORPUS names a folder");
        let folder = Path::new(&corpus).join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("seed-{number}")), input).unwrap();
    }
}
