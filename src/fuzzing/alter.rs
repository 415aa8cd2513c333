//! What a host on the way can do to a message that it has seen.

use super::input::Input;

/// The longest stretch of bytes that one edit brings.
const MAX_PIECE_BYTES: usize = 200;

/// Edits a message once, as the input says. `other` is one that the host has seen as well.
pub(super) fn alter(message: &mut Vec<u8>, other: &[u8], input: &mut Input<'_>) {
    let what = input.below(7);
    let at = usize::from(input.u16()) % (message.len() + 1);
    match what {
        0 | 1 => {
            let bit = 1 << input.below(8);
            message.get_mut(at).into_iter().for_each(|byte| *byte ^= bit);
        }
        2 => message.truncate(at),
        3 => {
            let piece = input.bytes(MAX_PIECE_BYTES);
            let end = message.len().min(at + piece.len());
            message[at..end].copy_from_slice(&piece[..end - at]);
        }
        4 => {
            message.splice(at..at, input.bytes(MAX_PIECE_BYTES).iter().copied());
        }
        5 => {
            let end = message.len().min(at + usize::from(input.byte()));
            message.drain(at..end);
        }
        // From here to there it is the other message.
        _ => {
            let end = message.len().min(other.len()).min(at + usize::from(input.byte()));
            if at < end {
                message[at..end].copy_from_slice(&other[at..end]);
            }
        }
    }
}

/// Edits a message of a fixed length until the input ends.
pub(super) fn alter_array<const N: usize>(
    message: &[u8; N],
    other: &[u8; N],
    input: &mut Input<'_>,
) -> [u8; N] {
    let mut altered = message.to_vec();
    while !input.is_empty() {
        alter(&mut altered, other, input);
    }
    altered.resize(N, 0);
    let mut array = [0; N];
    array.copy_from_slice(&altered);
    array
}
