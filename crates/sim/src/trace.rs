//! What happened, as a number that two runs of one script share, and as lines for people.

use std::fmt::Write as _;

use crate::world::Event;

/// See the module.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    /// Lines are printed as they come.
    pub aloud: bool,
    scratch: String,
}

impl Trace {
    /// A trace that prints what happens, or does not.
    #[must_use]
    pub fn new(aloud: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            aloud,
            scratch: String::new(),
        }
    }

    /// The number of everything so far: FNV-1a (Fowler, Noll, Vo).
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn number(&mut self, value: u64) {
        for byte in value.to_le_bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn event(&mut self, now: u64, event: &Event) {
        self.number(now);
        self.scratch.clear();
        match event {
            Event::Raft(from, to, _) => self.number((*from as u64) << 8 | *to as u64),
            Event::Synced(server, ..) => self.number(0x1_0000 | *server as u64),
            Event::Answered(id, _) => self.number(0x2_0000 | *id),
            other => {
                // Only small events are left, so that writing them out is cheap enough for every one.
                let _infallible = write!(self.scratch, "{other:?}");
                let text = std::mem::take(&mut self.scratch);
                text.bytes().for_each(|byte| self.number(u64::from(byte)));
                self.scratch = text;
            }
        }
    }

    pub(crate) fn note(&mut self, now: u64, line: impl FnOnce() -> String) {
        if self.aloud {
            println!("{:>8.3} {}", now as f64 / 1000.0, line());
        }
    }
}
