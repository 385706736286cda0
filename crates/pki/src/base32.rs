//! Crockford's base 32 for bytes, in lower case: no two characters look alike, and what people mistype is understood.

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Characters that hold so many bytes.
pub const fn text_length(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// The bytes as text.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(text_length(bytes.len()));
    let (mut group, mut bits) = (0u32, 0);
    for byte in bytes {
        group = group << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(group >> bits & 31) as usize]));
        }
        group &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(group << (5 - bits) & 31) as usize]));
    }
    text
}

/// The bytes of a text, or the first character that has no meaning. Upper case, and `o` for 0, `i` and `l` for 1, are accepted.
pub fn decode(text: &str) -> Result<Vec<u8>, char> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut group, mut bits) = (0u32, 0);
    for character in text.chars() {
        group = group << 5 | digit(character).ok_or(character)?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((group >> bits) as u8);
            group &= (1 << bits) - 1;
        }
    }
    Ok(bytes)
}

fn digit(character: char) -> Option<u32> {
    let plain = match character.to_ascii_lowercase() {
        'o' => '0',
        'i' | 'l' => '1',
        other => other,
    };
    ALPHABET
        .iter()
        .position(|candidate| char::from(*candidate) == plain)
        .and_then(|index| u32::try_from(index).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_round_trip(bytes: Vec<u8>) {
            let text = encode(&bytes);
            prop_assert_eq!(text.len(), text_length(bytes.len()));
            prop_assert_eq!(decode(&text.to_uppercase()), Ok(bytes));
        }
    }

    #[test]
    fn look_alikes_are_understood_and_others_named() {
        assert_eq!(decode("oil0"), decode("0110"));
        assert_eq!(decode("ab-c"), Err('-'));
        assert_eq!(decode("u"), Err('u'));
    }
}
