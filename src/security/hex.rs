//! 32 bytes as 64 hexadecimal digits, as people hand over keys and fingerprints.

/// What is wrong with a text. It says where, and never what stands there: the text may be a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HexError {
    /// The character with this number, counted from 1, is no hexadecimal digit.
    NotHex { position: usize },
    /// This many digits, and not 64.
    WrongLength { length: usize },
}

/// Reads 64 digits, of either case, into `bytes`. After an error `bytes` may hold a part of them.
pub(super) fn decode(text: &str, bytes: &mut [u8; 32]) -> Result<(), HexError> {
    let mut length = 0;
    for char in text.chars() {
        let Some(digit) = char.to_digit(16) else {
            return Err(HexError::NotHex { position: length + 1 });
        };
        if let Some(byte) = bytes.get_mut(length / 2) {
            *byte = *byte << 4 | digit as u8;
        }
        length += 1;
    }
    if length == 64 { Ok(()) } else { Err(HexError::WrongLength { length }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_either_case_are_read() {
        let text = "00fF10".to_owned() + &"a".repeat(58);
        let mut bytes = [7; 32];
        assert_eq!(decode(&text, &mut bytes), Ok(()));
        assert_eq!(bytes[..3], [0x00, 0xff, 0x10]);
        assert_eq!(bytes[3..], [0xaa; 29]);
    }

    #[test]
    fn positions_count_characters_from_one() {
        let mut bytes = [0; 32];
        let mut error = |text: &str| decode(text, &mut bytes).unwrap_err();
        assert_eq!(error(""), HexError::WrongLength { length: 0 });
        assert_eq!(error(&"a".repeat(63)), HexError::WrongLength { length: 63 });
        assert_eq!(error(&"a".repeat(1000)), HexError::WrongLength { length: 1000 });
        assert_eq!(error("0x12"), HexError::NotHex { position: 2 });
        assert_eq!(error("12é4"), HexError::NotHex { position: 3 });
        assert_eq!(error("１２"), HexError::NotHex { position: 1 }, "digits of another script");
        assert_eq!(error(&("a".repeat(64) + "\n")), HexError::NotHex { position: 65 });
    }
}
