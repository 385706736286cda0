//! Keys that leave a container running: `ctrl-p,ctrl-q`, or what `--detach-keys` says.

use gantry_model::{Class, Problem};

/// Docker's default.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Looks for a sequence of keys in what is typed.
#[derive(Debug, Clone)]
pub struct DetachKeys {
    sequence: Vec<u8>,
    matched: usize,
}

/// What was typed, without the keys that mean us.
#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    /// For the container.
    pub bytes: Vec<u8>,
    /// The sequence is complete.
    pub leave: bool,
}

impl DetachKeys {
    /// No sequence: everything goes through.
    pub const fn none() -> Self {
        Self {
            sequence: Vec::new(),
            matched: 0,
        }
    }

    /// Keys between commas: a letter, or `ctrl-` and one of a–z, `@`, `[`, `\`, `]`, `^`, `_`.
    ///
    /// # Errors
    /// When a key is neither.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let key = |word: &str| match word.as_bytes() {
            [byte] => Some(*byte),
            [b'c', b't', b'r', b'l', b'-', byte @ (b'a'..=b'z')] => Some(byte - b'a' + 1),
            [b'c', b't', b'r', b'l', b'-', byte @ (b'@' | b'['..=b'_')] => Some(byte - b'@'),
            _ => None,
        };
        let sequence: Option<Vec<u8>> = match text {
            "" => Some(Vec::new()),
            text => text.split(',').map(key).collect(),
        };
        let sequence = sequence.ok_or_else(|| {
            Problem::new(
                Class::Invalid,
                format!("--detach-keys {text}"),
                "is no sequence of keys",
            )
            .remedy("write keys with commas between them, such as ctrl-p,ctrl-q")
        })?;
        Ok(Self { sequence, matched: 0 })
    }

    /// Takes what was typed. Keys that begin the sequence are held back until the next one decides.
    pub fn filter(&mut self, typed: &[u8]) -> Typed {
        let mut bytes = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.sequence.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.sequence.len() {
                    self.matched = 0;
                    return Typed { bytes, leave: true };
                }
                continue;
            }
            bytes.extend_from_slice(&self.sequence[..self.matched]);
            self.matched = usize::from(self.sequence.first() == Some(byte));
            if self.matched == 0 {
                bytes.push(*byte);
            }
        }
        Typed { bytes, leave: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8], leave: bool) -> Typed {
        Typed {
            bytes: bytes.to_vec(),
            leave,
        }
    }

    #[test]
    fn the_sequence_leaves_and_everything_else_goes_through() {
        let mut keys = DetachKeys::parse(DEFAULT).expect("the default");
        assert_eq!(keys.filter(b"ls\n"), typed(b"ls\n", false));
        assert_eq!(keys.filter(b"a\x10"), typed(b"a", false));
        assert_eq!(keys.filter(b"b"), typed(b"\x10b", false));
        assert_eq!(keys.filter(b"\x10\x10"), typed(b"\x10", false));
        assert_eq!(keys.filter(b"\x11after"), typed(b"", true));
        assert_eq!(DetachKeys::none().filter(b"\x10\x11"), typed(b"\x10\x11", false));
        assert!(DetachKeys::parse("ctrl-P").is_err() && DetachKeys::parse("a,b,ctrl-[").is_ok());
    }
}
