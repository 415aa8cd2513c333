//! What an app hands over as a key: text, the content of a file, DER.

use std::error::Error;

use super::input::Input;
use crate::runtime::key_file;
use crate::runtime::net::in_memory::is_taken_by_tls;
use crate::security::identity::Domain;
use crate::security::{
    ClusterKey, ClusterKeyError, Fingerprint, FingerprintError, NodeIdentity, NodeIdentityError,
};

/// More than a key and the blanks around it take.
const MAX_TEXT_BYTES: usize = 2 << 10;

/// A part of a key that is this long is a secret.
const SECRET_BYTES: usize = 8;

/// Reads a key of each kind, of which the first byte says one.
///
/// The error says which character is wrong, and its text depends on nothing else of the input. What
/// is read is the same when it is written and read again.
pub fn keys(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.below(4) {
        0 => cluster_key(&input.text(MAX_TEXT_BYTES)),
        1 => file(input.rest()),
        2 => fingerprint(&input.text(MAX_TEXT_BYTES)),
        _ => node_key(input.rest()),
    }
}

/// What a text of 64 digits is.
#[derive(PartialEq, Eq, Debug)]
enum Digits {
    Right,
    NotHex(usize),
    WrongLength(usize),
}

impl Digits {
    fn of(text: &str) -> Self {
        let wrong = text.chars().position(|char| !char.is_ascii_hexdigit());
        match (wrong, text.len()) {
            (Some(at), _) => Self::NotHex(at + 1),
            (None, 64) => Self::Right,
            (None, length) => Self::WrongLength(length),
        }
    }
}

fn cluster_key(text: &str) {
    judge_cluster_key(text, ClusterKey::from_hex(text));
}

fn file(content: &[u8]) {
    let read = key_file::of_content(content);
    // What is no text is a character that is no digit.
    judge_cluster_key(&String::from_utf8_lossy(content.trim_ascii()), read);
}

fn judge_cluster_key(text: &str, read: Result<ClusterKey, ClusterKeyError>) {
    let is_random = || {
        let mut pairs: Vec<String> =
            (0..32).map(|at| text[2 * at..2 * at + 2].to_lowercase()).collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs.len() >= 8
    };
    let (digits, expected) = (Digits::of(text), read.as_ref().err());
    match expected {
        None => assert!(digits == Digits::Right && is_random()),
        Some(ClusterKeyError::NotRandom) => assert!(digits == Digits::Right && !is_random()),
        Some(ClusterKeyError::NotHex { position }) => assert_eq!(digits, Digits::NotHex(*position)),
        Some(ClusterKeyError::WrongLength { length }) => {
            assert_eq!(digits, Digits::WrongLength(*length));
        }
        Some(ClusterKeyError::Unreadable { .. }) => panic!("no file was read"),
    }
    match read {
        Ok(key) => assert_eq!(format!("{key:?}"), "ClusterKey(..)"),
        Err(error) => {
            let zeros = "0".repeat(64);
            let refused = ["", "x", &zeros].map(ClusterKey::from_hex);
            let others = refused.map(|read| read.expect_err("it is no key"));
            tells_nothing(text.as_bytes(), &error, &others);
        }
    }
}

fn fingerprint(text: &str) {
    match (text.parse::<Fingerprint>(), Digits::of(text)) {
        (Ok(read), Digits::Right) => assert_eq!(read.to_string(), text.to_lowercase()),
        (Err(FingerprintError::NotHex { position }), Digits::NotHex(at)) => {
            assert_eq!(position, at);
        }
        (Err(FingerprintError::WrongLength { length }), Digits::WrongLength(count)) => {
            assert_eq!(length, count);
        }
        (read, digits) => panic!("{digits:?} is read as {read:?}"),
    }
}

fn node_key(der: &[u8]) {
    match NodeIdentity::from_pkcs8(der) {
        Ok(own) => {
            assert_eq!(own.pkcs8(), der);
            let signature = own.sign(Domain::Here, b"message");
            own.public_key().verify(Domain::Here, b"message", &signature).expect("it signed it");
            assert!(is_taken_by_tls(&own), "it signs, and has no TLS");
            let shown = format!("{own:?}");
            assert_eq!(shown, format!("NodeIdentity({})", own.fingerprint()));
        }
        Err(error) => {
            let refused = |der: &[u8]| NodeIdentity::from_pkcs8(der).unwrap_err();
            let others = [refused(b""), refused(b"-----BEGIN")];
            if let NodeIdentityError::NotEd25519 { reason } = &error {
                assert!(reason.len() <= 40 && reason.chars().all(char::is_alphabetic), "{reason}");
            }
            tells_nothing(der, &error, &others);
        }
    }
}

/// Whether an error has no part of what was read. What errors of `others` say as well is no secret,
/// and neither are numbers.
fn tells_nothing<E: Error>(input: &[u8], error: &E, others: &[E]) {
    let show = |error: &E| -> Vec<u8> {
        let text = format!("{error} {error:?}").into_bytes();
        text.into_iter().filter(|byte| !byte.is_ascii_digit()).collect()
    };
    let shown = show(error);
    assert!(shown.len() <= 500 && !shown.iter().any(u8::is_ascii_control), "{error:?}");
    let others: Vec<Vec<u8>> = others.iter().map(show).collect();
    if others.contains(&shown) {
        return;
    }
    for part in input.windows(SECRET_BYTES) {
        let is_known = others.iter().any(|other| contains(other, part));
        assert!(is_known || !contains(&shown, part), "{error:?} quotes the input");
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|here| here == part)
}
