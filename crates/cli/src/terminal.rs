//! The person's terminal: its size, and raw mode that is always undone.

use gantry_api::v1::TerminalSize;
use rustix::stdio;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Whether a person types the input.
pub fn is_input() -> bool {
    isatty(stdio::stdin())
}

/// Whether a person reads the output.
pub fn is_output() -> bool {
    isatty(stdio::stdout())
}

/// Whether a person reads the progress.
pub fn is_progress() -> bool {
    isatty(stdio::stderr())
}

/// Rows and columns, if there is a terminal.
pub fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(stdio::stdout())
        .or_else(|_| tcgetwinsize(stdio::stdin()))
        .ok()?;
    Some(TerminalSize {
        rows: size.ws_row.into(),
        columns: size.ws_col.into(),
    })
}

/// The terminal in raw mode: every key goes through unseen. Dropping it brings the former mode back.
pub struct Raw {
    former: Termios,
}

impl Raw {
    /// Switches the terminal of standard input.
    ///
    /// # Errors
    /// When it is none.
    pub fn enter() -> std::io::Result<Self> {
        let former = tcgetattr(stdio::stdin())?;
        let mut raw = former.clone();
        raw.make_raw();
        tcsetattr(stdio::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { former })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone by now; then there is nothing to bring back.
        let _ = tcsetattr(stdio::stdin(), OptionalActions::Now, &self.former);
    }
}
