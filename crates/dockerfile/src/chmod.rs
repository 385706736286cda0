//! `--chmod`: octal and symbolic modes.

use crate::operation::Chmod;

/// Largest mode: permissions with set-id and sticky bits.
const MODE_MAX: u32 = 0o7777;

impl Chmod {
    /// `0755`, `u=rwX,go=rX`, `+x`. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if !text.is_empty() && text.chars().all(|digit| digit.is_digit(8)) {
            let mode = u32::from_str_radix(text, 8).ok()?;
            return (mode <= MODE_MAX).then_some(Self::Octal(mode));
        }
        let known = !text.is_empty() && text.split(',').all(|clause| apply(clause, 0, false).is_some());
        known.then(|| Self::Symbolic(text.to_string()))
    }

    /// The mode of a file that had `mode`; `X` means something for folders and for what anybody may run.
    #[must_use]
    pub fn apply(&self, mode: u32, is_folder: bool) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(text) => {
                let mode = mode & MODE_MAX;
                text.split(',')
                    .fold(mode, |mode, clause| apply(clause, mode, is_folder).unwrap_or(mode))
            }
        }
    }
}

/// One clause: `ug+rwX-t`.
fn apply(clause: &str, mut mode: u32, is_folder: bool) -> Option<u32> {
    let who_end = clause.find(['+', '-', '='])?;
    let (who, mut rest) = clause.split_at(who_end);
    let mut mask = 0;
    for letter in who.chars() {
        mask |= match letter {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    let mask = if who.is_empty() { MODE_MAX } else { mask };
    while !rest.is_empty() {
        let operator = rest.chars().next()?;
        let letters_end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |end| end + 1);
        let bits = permissions(&rest[1..letters_end], mode, is_folder)? & (mask | sticky(who));
        match operator {
            '+' => mode |= bits,
            '-' => mode &= !bits,
            _ => mode = mode & !(mask & 0o777) | bits,
        }
        rest = &rest[letters_end..];
    }
    Some(mode)
}

/// `t` belongs to everybody.
fn sticky(who: &str) -> u32 {
    if who.is_empty() || who.contains('a') { 0o1000 } else { 0 }
}

fn permissions(letters: &str, mode: u32, is_folder: bool) -> Option<u32> {
    let mut bits = 0;
    for letter in letters.chars() {
        bits |= match letter {
            'r' => 0o444,
            'w' => 0o222,
            'x' => 0o111,
            'X' if is_folder || mode & 0o111 != 0 => 0o111,
            'X' => 0,
            's' => 0o6000,
            't' => 0o1000,
            'u' => spread(mode >> 6),
            'g' => spread(mode >> 3),
            'o' => spread(mode),
            _ => return None,
        };
    }
    Some(bits)
}

/// One class's permissions for all classes.
const fn spread(class: u32) -> u32 {
    let class = class & 0o7;
    class << 6 | class << 3 | class
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_does_it() {
        for (text, mode, is_folder, expected) in [
            ("755", 0o644, false, 0o755),
            ("0400", 0o777, true, 0o400),
            ("4755", 0, false, 0o4755),
            ("+x", 0o644, false, 0o755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("go=", 0o777, false, 0o700),
            ("g=u", 0o640, false, 0o660),
            ("u+s", 0o755, false, 0o4755),
            ("+t", 0o777, true, 0o1777),
            ("ug+rw-x", 0o511, false, 0o661),
        ] {
            let chmod = Chmod::parse(text).expect(text);
            assert_eq!(chmod.apply(mode, is_folder), expected, "{text} on {mode:o}");
        }
        for text in ["", "8", "10000", "rwx", "u", "z+x", "u+q", "u+x,"] {
            assert_eq!(Chmod::parse(text), None, "{text}");
        }
    }
}
