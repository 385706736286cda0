//! The number fields of tar headers: octal text, or base 256 where the first bit is set (GNU).

/// The value of a numeric field; an empty one is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let text = field[..end].trim_ascii();
    text.iter().try_fold(0i64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

/// Two's complement, big endian; the first bit is only a mark, the second one is the sign.
fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let start = if negative { -1i128 } else { 0 };
    let value = std::iter::once(first)
        .chain(field[1..].iter().copied())
        .try_fold(start, |value, byte| {
            value.checked_mul(256)?.checked_add(i128::from(byte))
        })?;
    i64::try_from(value).ok()
}

/// Whether the header's checksum holds. Some old tars sum signed bytes; both are accepted, as everywhere.
pub(super) fn checksum_holds(block: &[u8; 512], stored: &[u8]) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let bytes = || {
        block
            .iter()
            .enumerate()
            .map(|(index, byte)| if FIELD.contains(&index) { b' ' } else { *byte })
    };
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
    number(stored).is_some_and(|stored| stored == unsigned || stored == signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"12x\0"), None);
        assert_eq!(number(&[0xbf; 12]), None, "more than 63 bits");
    }
}
