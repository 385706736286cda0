//! Patterns of `${NAME#…}`, `${NAME%…}` and `${NAME/…/…}`: `*` and `?`, no brackets.
//!
//! **Invariant:** matching takes at most [`WORK_MAX`] comparisons.

use crate::expand::ExpandError;
use crate::limits::VALUE_BYTES_MAX;

/// Comparisons of one substitution: about a tenth of a second.
const WORK_MAX: usize = 1 << 26;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Is(char),
    Any,
    Many,
}

/// A parsed pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Vec<Token>);

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, ExpandError> {
        let mut tokens = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let token = match character {
                '*' => Token::Many,
                '?' => Token::Any,
                '\\' => match characters.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Is(escaped),
                    Some(other) => return Err(ExpandError::BadPatternEscape(other)),
                    None => return Err(ExpandError::BadPatternEscape(' ')),
                },
                other => Token::Is(other),
            };
            if !(token == Token::Many && tokens.last() == Some(&Token::Many)) {
                tokens.push(token);
            }
        }
        Ok(Self(tokens))
    }

    /// The value without its shortest or longest beginning that matches.
    pub fn without_prefix(&self, value: &str, longest: bool) -> Result<String, ExpandError> {
        let characters: Vec<char> = value.chars().collect();
        let mut work = WORK_MAX;
        let end = find_end(&self.0, &characters, longest, &mut work)?;
        Ok(characters[end.unwrap_or(0)..].iter().collect())
    }

    /// The value without its shortest or longest end that matches.
    pub fn without_suffix(&self, value: &str, longest: bool) -> Result<String, ExpandError> {
        let characters: Vec<char> = value.chars().rev().collect();
        let tokens: Vec<Token> = self.0.iter().rev().copied().collect();
        let mut work = WORK_MAX;
        let end = find_end(&tokens, &characters, longest, &mut work)?;
        Ok(characters[end.unwrap_or(0)..].iter().rev().collect())
    }

    /// The value with the first or all longest matches replaced.
    pub fn replaced(&self, value: &str, replacement: &str, all: bool) -> Result<String, ExpandError> {
        let characters: Vec<char> = value.chars().collect();
        let mut work = WORK_MAX;
        let mut result = String::new();
        let mut position = 0;
        // An empty match just after a match does not count.
        let mut last_end = None;
        while position <= characters.len() {
            match find_end(&self.0, &characters[position..], true, &mut work)? {
                Some(length) if length > 0 || last_end != Some(position) => {
                    result.push_str(replacement);
                    position += length;
                    last_end = Some(position);
                    if !all {
                        break;
                    }
                    if length == 0 {
                        result.extend(characters.get(position));
                        position += 1;
                    }
                }
                Some(_) | None => {
                    result.extend(characters.get(position));
                    position += 1;
                }
            }
            if result.len() > VALUE_BYTES_MAX {
                return Err(ExpandError::TooLong);
            }
        }
        result.extend(characters.get(position..).unwrap_or_default());
        Ok(result)
    }
}

/// Length of the shortest or longest beginning that matches all tokens.
fn find_end(tokens: &[Token], text: &[char], longest: bool, work: &mut usize) -> Result<Option<usize>, ExpandError> {
    // Without a wildcard a match is as long as the pattern.
    let text = if tokens.contains(&Token::Many) {
        text
    } else {
        &text[..text.len().min(tokens.len())]
    };
    *work = work.checked_sub(text.len() + 1).ok_or(ExpandError::TooMuchWork)?;
    // reached[n]: the tokens so far match the first n characters.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut furthest = 0;
    for token in tokens {
        let span = if *token == Token::Many { text.len() } else { furthest };
        *work = work.checked_sub(span + 1).ok_or(ExpandError::TooMuchWork)?;
        match token {
            Token::Many => {
                let mut inside = false;
                for (index, place) in reached.iter_mut().enumerate() {
                    // As in BuildKit, a wildcard stays within a line.
                    inside = *place || (inside && text.get(index.wrapping_sub(1)) != Some(&'\n'));
                    *place = inside;
                }
                furthest = text.len();
            }
            Token::Any | Token::Is(_) => {
                for index in (0..=furthest.min(text.len())).rev() {
                    let matches = reached[index] && text.get(index).is_some_and(|next| accepts(*token, *next));
                    if let Some(place) = reached.get_mut(index + 1) {
                        *place = matches;
                    }
                }
                reached[0] = false;
                furthest += 1;
            }
        }
    }
    Ok(if longest {
        reached.iter().rposition(|reached| *reached)
    } else {
        reached.iter().position(|reached| *reached)
    })
}

fn accepts(token: Token, character: char) -> bool {
    match token {
        Token::Is(expected) => expected == character,
        Token::Any => character != '\n',
        Token::Many => true,
    }
}
