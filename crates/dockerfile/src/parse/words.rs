//! Splitting a line: at blanks, at blanks outside of quotes, and the flags before the rest.
//!
//! **Invariant:** quotes and escapes of words stay as written (expansion takes them away); those of flags go away here.

use std::ops::Range;

/// The parts between blanks.
pub(crate) fn at_blanks(text: &str, within: Range<usize>) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = None;
    for (offset, character) in text[within.clone()].char_indices() {
        let position = within.start + offset;
        match (start, is_blank(character)) {
            (None, false) => start = Some(position),
            (Some(from), true) => {
                parts.push(from..position);
                start = None;
            }
            (None, true) | (Some(_), false) => {}
        }
    }
    parts.extend(start.map(|from| from..within.end));
    parts
}

/// What Docker's reader takes for a blank between words.
pub(crate) const fn is_blank(character: char) -> bool {
    matches!(character, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// The range without blanks at its ends.
pub(crate) fn trimmed(text: &str, within: Range<usize>) -> Range<usize> {
    let part = &text[within.clone()];
    let start = within.start + (part.len() - part.trim_start().len());
    let end = within.end - (part.len() - part.trim_end().len());
    start..end.max(start)
}

/// The parts between blanks that stand outside of quotes, with the text of each: an escape character at the very end is left out.
pub(crate) fn outside_quotes(text: &str, within: Range<usize>, escape: char) -> Vec<(Range<usize>, String)> {
    let mut words = Vec::new();
    let mut word: Option<(usize, String)> = None;
    let mut quote = None;
    let mut characters = text[within.clone()].char_indices().peekable();
    while let Some((offset, character)) = characters.next() {
        let position = within.start + offset;
        if quote.is_none() && character.is_whitespace() {
            words.extend(word.take().map(|(start, content)| (start..position, content)));
            continue;
        }
        let (_, content) = word.get_or_insert_with(|| (position, String::new()));
        if character == escape && quote != Some('\'') {
            let Some((_, escaped)) = characters.next() else { break };
            content.push(character);
            content.push(escaped);
            continue;
        }
        match quote {
            Some(open) if open == character => quote = None,
            None if character == '"' || character == '\'' => quote = Some(character),
            Some(_) | None => {}
        }
        content.push(character);
    }
    words.extend(word.map(|(start, content)| (start..within.end, content)));
    words.retain(|(_, content)| !content.is_empty());
    words
}

/// `--name[=value]` before the rest of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flag {
    pub name: String,
    pub value: Option<String>,
    pub range: Range<usize>,
}

/// Takes the flags off the beginning; gives what comes after them.
pub(crate) fn flags(text: &str, within: Range<usize>) -> (Vec<Flag>, Range<usize>) {
    let mut found = Vec::new();
    let mut rest = trimmed(text, within);
    while text[rest.clone()].starts_with("--") {
        let (end, content) = flag_word(text, rest.clone());
        let range = rest.start..end;
        rest = trimmed(text, end..rest.end);
        if content == "--" {
            break;
        }
        let (name, value) = match content.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (content.as_str(), None),
        };
        let name = name.trim_start_matches("--").to_string();
        found.push(Flag { name, value, range });
    }
    (found, rest)
}

/// One word with its quotes and escapes taken away, and where it ends.
fn flag_word(text: &str, within: Range<usize>) -> (usize, String) {
    let mut content = String::new();
    let mut quote = None;
    let mut characters = text[within.clone()].char_indices();
    while let Some((offset, character)) = characters.next() {
        match quote {
            None if character.is_whitespace() => return (within.start + offset, content),
            None if character == '\'' || character == '"' => quote = Some(character),
            Some(open) if open == character => quote = None,
            Some(_) | None => {
                let literal = if character == '\\' {
                    characters.next()
                } else {
                    Some((offset, character))
                };
                content.extend(literal.map(|(_, character)| character));
            }
        }
    }
    (within.end, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_words_together() {
        for (text, expected) in [
            (r#"a=1 b="x y" c='p q'"#, vec!["a=1", r#"b="x y""#, "c='p q'"]),
            (r"a\ b c", vec![r"a\ b", "c"]),
            (r#"k="a\"b c" d"#, vec![r#"k="a\"b c""#, "d"]),
            (r"'a\' b", vec![r"'a\'", "b"]),
            ("a \\", vec!["a"]),
            (r#""" x"#, vec![r#""""#, "x"]),
            ("\"open x", vec!["\"open x"]),
            ("", vec![]),
        ] {
            let words = outside_quotes(text, 0..text.len(), '\\');
            let words: Vec<&str> = words.iter().map(|(_, content)| content.as_str()).collect();
            assert_eq!(words, expected, "{text}");
        }
    }

    #[test]
    fn flags_end_where_the_rest_begins() {
        let text = r#" --from=a --link --x="p q"  src dst --late"#;
        let (found, rest) = flags(text, 0..text.len());
        let found: Vec<_> = found
            .iter()
            .map(|flag| (flag.name.as_str(), flag.value.as_deref()))
            .collect();
        assert_eq!(found, [("from", Some("a")), ("link", None), ("x", Some("p q"))]);
        assert_eq!(&text[rest], "src dst --late");
        let (found, rest) = flags("-- --a b", 0..8);
        assert!(found.is_empty());
        assert_eq!(&"-- --a b"[rest], "--a b");
    }
}
