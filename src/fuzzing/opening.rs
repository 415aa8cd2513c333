//! OPENING and OPENED: what proves the cluster key before TLS.

use std::sync::LazyLock;

use super::alter::alter_array;
use super::input::Input;
use super::nodes::keyring;
use crate::security::identity::CertificateHash;
use crate::security::keys::Keyring;
use crate::security::opening::{OPENING_BYTES, Offer, Opening, OpeningError, OpeningFlags};

/// Those of the acceptor: it uses one key, and accepts another.
static ACCEPTOR: LazyLock<Keyring> = LazyLock::new(|| keyring(1, &[2]));
/// Those of openers: with a key that the acceptor uses, accepts, and does not know.
static OPENERS: LazyLock<[Keyring; 3]> =
    LazyLock::new(|| [keyring(1, &[2]), keyring(2, &[]), keyring(3, &[1, 2])]);

/// Hands altered and foreign messages to an acceptor, and to an opener.
///
/// Only what is as it was made, with a key that is accepted, for this side and this connection,
/// passes. The rest is refused by one line.
pub fn opening(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let what = input.below(4);
    let ring = &OPENERS[usize::from(input.below(3))];
    let offer = offer(&mut input);
    let opening = Opening::new(ring.sealing(), [input.byte(); 24], offer);
    let other_ring = &OPENERS[usize::from(input.below(3))];
    let other = Opening::new(other_ring.sealing(), [input.byte(); 24], offer);
    match what {
        0 => at_the_acceptor(&[(opening, ring), (other, other_ring)], &mut input),
        1 => at_the_opener(&opening, &other, ring, &mut input),
        2 => {
            let altered = alter_array(&[0; OPENING_BYTES], opening.bytes(), &mut input);
            accepts(&altered, &[(opening, ring)]);
        }
        // What an acceptor says is no OPENING, neither as it is nor altered.
        _ => {
            if let Ok(answer) = opening.answer(&ACCEPTOR, offer) {
                let altered = alter_array(&answer, opening.bytes(), &mut input);
                accepts(&altered, &[(opening, ring)]);
            }
        }
    }
}

fn offer(input: &mut Input<'_>) -> Offer {
    let flags = OpeningFlags(input.u16());
    Offer { flags, certificate: CertificateHash([input.byte(); 32]) }
}

/// An OPENING, and with whose keys it was made.
type Made<'a> = (Opening, &'a Keyring);

fn at_the_acceptor(made: &[Made<'_>; 2], input: &mut Input<'_>) {
    let altered = alter_array(made[0].0.bytes(), made[1].0.bytes(), input);
    accepts(&altered, made);
}

/// Hands bytes to the acceptor, which takes them if they are one of those that were made.
fn accepts(bytes: &[u8; OPENING_BYTES], made: &[Made<'_>]) {
    let result = Opening::accept(&ACCEPTOR, bytes);
    let original = made.iter().find(|(opening, _)| opening.bytes() == bytes);
    let Some((opening, ring)) = original else {
        return is_told(result.expect_err("no node made it"));
    };
    let id = ring.sealing().id();
    if ACCEPTOR.by_id(id).is_none() {
        return assert_eq!(result, Err(OpeningError::NoSuchKey(id)));
    }
    let accepted = result.expect("it is as it was made");
    assert_eq!((accepted.key(), accepted.offer()), (id, opening.offer()));
    let answer = accepted.answer(&ACCEPTOR, opening.offer()).expect("its key is accepted");
    assert_eq!(opening.check_answer(ring, &answer), Ok(opening.offer()));
}

/// Hands an altered OPENED to the opener.
fn at_the_opener(opening: &Opening, other: &Opening, ring: &Keyring, input: &mut Input<'_>) {
    let own = offer(input);
    let answers = [opening, other].map(|it| it.answer(&ACCEPTOR, own));
    let [Ok(answer), Ok(to_other)] = answers else { return };
    let altered = alter_array(&answer, &to_other, input);
    let result = opening.check_answer(ring, &altered);
    if altered == answer {
        assert_eq!(result, Ok(own));
    } else {
        is_told(result.expect_err("the acceptor has not made it"));
    }
}

fn is_told(error: OpeningError) {
    let text = error.to_string();
    assert!(text.len() <= 200 && !text.chars().any(char::is_control), "{text:?}");
}
