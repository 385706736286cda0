//! Physical lines to logical ones: continuations joined, comments and empty lines between left out, here-documents apart.
//!
//! **Invariant:** every byte of a logical line knows the line and column it came from.

use std::ops::Range;

use crate::ast::Word;
use crate::diagnostic::Span;

/// Physical lines, with the position of the next one.
#[derive(Debug, Clone)]
pub(crate) struct Lines<'t> {
    lines: Vec<&'t str>,
    next: usize,
}

impl<'t> Lines<'t> {
    /// A byte order mark at the beginning does not count.
    pub fn new(text: &'t str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self {
            lines: text.split_inclusive('\n').collect(),
            next: 0,
        }
    }

    /// The next line with its end, and its number from 1.
    pub fn take(&mut self) -> Option<(&'t str, u32)> {
        let line = self.lines.get(self.next)?;
        self.next += 1;
        Some((line, number(self.next)))
    }

    /// The same without going on.
    pub fn peek(&self) -> Option<(&'t str, u32)> {
        Some((self.lines.get(self.next)?, number(self.next + 1)))
    }

    /// Number of the line that was taken last.
    pub fn last_number(&self) -> u32 {
        number(self.next).max(1)
    }
}

/// Lines are counted in 32 bits; the limit on the text keeps them far below.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Without its end: `\n`, `\r\n`.
pub(crate) fn without_end(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

/// Whether it is a comment and nothing else.
pub(crate) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// A part of a logical line that comes from one physical line.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Where it begins in the logical line.
    offset: usize,
    line: u32,
    column: u32,
}

/// A logical line, or the text of a trigger.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logical {
    pub text: String,
    pieces: Vec<Piece>,
    /// Set where places mean nothing: everything stands there.
    fixed: Option<Span>,
}

impl Logical {
    /// A line that stands as a whole at one place.
    pub fn fixed(text: String, span: Span) -> Self {
        Self {
            text,
            pieces: Vec::new(),
            fixed: Some(span),
        }
    }

    fn push(&mut self, text: &str, line: u32, column: u32) {
        let offset = self.text.len();
        self.pieces.push(Piece { offset, line, column });
        self.text.push_str(text);
    }

    /// Where a part of the line was written.
    pub fn span(&self, range: Range<usize>) -> Span {
        if let Some(span) = self.fixed {
            return span;
        }
        let (line, column) = self.position(range.start);
        // The end belongs to the last character's line, not to the line after a continuation.
        let (end_line, end_column) = match self.text[range.clone()].char_indices().last() {
            Some((last, _)) => {
                let (line, column) = self.position(range.start + last);
                (line, column + 1)
            }
            None => (line, column),
        };
        Span {
            line,
            column,
            end_line,
            end_column,
        }
    }

    fn position(&self, offset: usize) -> (u32, u32) {
        let after = self.pieces.partition_point(|piece| piece.offset <= offset);
        let Some(piece) = after.checked_sub(1).and_then(|index| self.pieces.get(index)) else {
            return (1, 1);
        };
        let characters = self.text[piece.offset..offset].chars().count();
        (piece.line, piece.column.saturating_add(number(characters)))
    }

    /// A part of the line as a word.
    pub fn word(&self, range: Range<usize>) -> Word {
        Word {
            text: self.text[range.clone()].to_string(),
            span: self.span(range),
        }
    }
}

/// The next instruction's line, and where empty lines stood inside.
pub(crate) struct Joined {
    pub line: Logical,
    pub empty_inside: Option<u32>,
}

/// Joins an instruction's lines, the first of which is next. `None` when nothing but continuations is there.
pub(crate) fn join(lines: &mut Lines<'_>, escape: char) -> Option<Joined> {
    let mut line = Logical::default();
    let mut empty_inside = None;
    let mut first = true;
    while let Some((physical, number)) = lines.take() {
        let physical = without_end(physical);
        if !first && is_comment(physical) {
            continue;
        }
        if !first && physical.trim().is_empty() {
            empty_inside = Some(number);
            continue;
        }
        let shown = if first { physical.trim_start() } else { physical };
        let column = 1 + self::number(physical.chars().count() - shown.chars().count());
        let (content, continues) = match continuation(shown, escape) {
            Some(content) => (content, true),
            None => (shown, false),
        };
        line.push(content, number, column);
        first = false;
        if !continues {
            break;
        }
    }
    (!line.text.trim().is_empty()).then_some(Joined { line, empty_inside })
}

/// The line without its escape character, if it ends with a single one (blanks may follow).
fn continuation(line: &str, escape: char) -> Option<&str> {
    let content = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!content.ends_with(escape)).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(text: &str) -> (String, Option<u32>) {
        let joined = join(&mut Lines::new(text), '\\').expect("a line");
        (joined.line.text, joined.empty_inside)
    }

    #[test]
    fn continuations_are_joined() {
        for (text, expected, empty) in [
            ("RUN a\nRUN b\n", "RUN a", None),
            ("RUN a \\\n  b\n", "RUN a   b", None),
            ("RUN a \\  \r\n b \\\r\n c", "RUN a  b  c", None),
            ("RUN a \\\n# no\n   # no\n b", "RUN a  b", None),
            ("RUN a \\\n\n \n b", "RUN a  b", Some(3)),
            ("RUN a \\\\\n b", "RUN a \\\\", None),
            ("  RUN a \\", "RUN a ", None),
            ("RUN a\\\nb", "RUN ab", None),
        ] {
            assert_eq!(joined(text), (expected.to_string(), empty), "{text:?}");
        }
        assert!(join(&mut Lines::new("\\\n\\\n"), '\\').is_none());
    }

    #[test]
    fn places_survive_joining() {
        let joined = join(&mut Lines::new("\u{feff}  RUN é \\\n# c\n  béta\n"), '\\').expect("a line");
        let line = joined.line;
        let at = line.text.find("béta").expect("there");
        let span = line.span(at..at + "béta".len());
        assert_eq!((span.line, span.column, span.end_line, span.end_column), (3, 3, 3, 7));
        let keyword = line.span(0..3);
        assert_eq!((keyword.line, keyword.column, keyword.end_column), (1, 3, 6));
        let all = line.span(0..line.text.len());
        assert_eq!((all.line, all.end_line), (1, 3));
    }
}
