//! The part of a terminal that is drawn anew: what is done scrolls up, what runs stays at the bottom.

use std::io::Write;

/// Rows of a terminal that says nothing about itself.
const ROWS_DEFAULT: usize = 24;
/// Columns likewise.
const COLUMNS_DEFAULT: usize = 80;

/// See the module.
#[derive(Debug, Default)]
pub struct Screen {
    drawn: usize,
}

impl Screen {
    /// Puts lines for good above the live ones, and those anew.
    pub fn draw(&mut self, done: &[String], live: &[String]) {
        let (rows, columns) = size();
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A\r\x1b[J", self.drawn));
        }
        for line in done {
            text.push_str(&fitting(line, columns));
            text.push('\n');
        }
        let shown = &live[..live.len().min(rows.saturating_sub(1))];
        for line in shown {
            text.push_str(&fitting(line, columns));
            text.push('\n');
        }
        self.drawn = shown.len();
        // Whoever closed standard error does not want to see it.
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}

fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stderr());
    let (rows, columns) = size.map_or((0, 0), |size| (size.ws_row.into(), size.ws_col.into()));
    let or = |value: usize, default: usize| if value == 0 { default } else { value };
    (or(rows, ROWS_DEFAULT), or(columns, COLUMNS_DEFAULT))
}

/// A line that takes one row.
fn fitting(line: &str, columns: usize) -> String {
    if line.chars().count() < columns {
        return line.to_string();
    }
    let mut cut: String = line.chars().take(columns.saturating_sub(2)).collect();
    cut.push('…');
    cut
}

/// Text of a command without what moves a cursor or rings a bell.
pub fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    // A carriage return begins the line anew, as progress bars do it.
    let text = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' if characters.peek() == Some(&'[') => {
                // A control sequence ends with a letter or the like (ECMA-48).
                characters.next();
                for next in characters.by_ref() {
                    if ('\x40'..='\x7e').contains(&next) {
                        break;
                    }
                }
            }
            '\t' => shown.push_str("    "),
            other if other.is_control() => {}
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_commands_moves_no_cursor() {
        for (bytes, expected) in [
            (&b"plain"[..], "plain"),
            (b"\x1b[31mred\x1b[0m \x1b[2Kx", "red x"),
            (b"10%\r20%\r30%", "30%"),
            (b"end\r", "end"),
            (b"a\tb\x07", "a    b"),
            (b"\xff", "\u{fffd}"),
            (b"\x1b[", ""),
        ] {
            assert_eq!(plain(bytes), expected);
        }
    }

    #[test]
    fn long_lines_are_cut() {
        assert_eq!(fitting("abcdef", 5), "abc…");
        assert_eq!(fitting("abc", 5), "abc");
    }
}
