//! A command line split into words as a POSIX shell does, without expanding anything.

/// Why a text cannot be split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WordsError {
    #[error("the {0} quote is not closed")]
    Quote(&'static str),
    #[error("a backslash ends the line")]
    Backslash,
}

/// The words of a command line: blanks separate, quotes and backslashes keep together.
pub(crate) fn split(text: &str) -> Result<Vec<String>, WordsError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\'' => single_quoted(&mut characters, word.get_or_insert_default())?,
            '"' => double_quoted(&mut characters, word.get_or_insert_default())?,
            '\\' => match characters.next() {
                Some('\n') => {}
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => return Err(WordsError::Backslash),
            },
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

fn single_quoted(characters: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), WordsError> {
    for character in characters {
        if character == '\'' {
            return Ok(());
        }
        word.push(character);
    }
    Err(WordsError::Quote("single"))
}

/// Inside double quotes a backslash escapes only `$`, a backtick, `"`, itself and the end of the line.
fn double_quoted(characters: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), WordsError> {
    while let Some(character) = characters.next() {
        match character {
            '"' => return Ok(()),
            '\\' => match characters.next() {
                Some('\n') => {}
                Some(escaped @ ('$' | '`' | '"' | '\\')) => word.push(escaped),
                Some(other) => word.extend(['\\', other]),
                None => break,
            },
            other => word.push(other),
        }
    }
    Err(WordsError::Quote("double"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_in_a_shell() {
        for (text, expected) in [
            ("", vec![]),
            ("  a  b\tc\n", vec!["a", "b", "c"]),
            ("/bin/sh -c \"echo 'x y'\"", vec!["/bin/sh", "-c", "echo 'x y'"]),
            ("a'b c'd", vec!["ab cd"]),
            ("'' \"\"", vec!["", ""]),
            (r"a\ b \\ \'", vec!["a b", "\\", "'"]),
            (r#""a\nb\"c\$""#, vec!["a\\nb\"c$"]),
            ("a \\\n b", vec!["a", "b"]),
            ("a#b #c", vec!["a#b", "#c"]),
        ] {
            assert_eq!(
                split(text),
                Ok(expected.into_iter().map(String::from).collect()),
                "{text:?}"
            );
        }
        for text in ["'a", "\"a", "\"a\\", "a\\"] {
            assert!(split(text).is_err(), "{text:?}");
        }
    }
}
