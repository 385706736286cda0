//! `.dockerignore`: what the context leaves out.
//!
//! **Invariant:** rules count in their order, and the last one that matches a path or a folder above it decides. That is not
//! how `.gitignore` works: `!` brings a file back although its folder is left out.

use crate::limits::IGNORE_BYTES_MAX;

/// The rules of one ignore file, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoreRules {
    rules: Vec<Rule>,
}

/// Why an ignore file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// Longer than [`IGNORE_BYTES_MAX`].
    #[error("the ignore file is longer than {IGNORE_BYTES_MAX} bytes")]
    TooLong,
    /// A `!` alone, or brackets that do not close.
    #[error("line {line}: '{pattern}' is no pattern: {reason}")]
    BadPattern {
        /// Line, from 1.
        line: usize,
        /// As written.
        pattern: String,
        /// What is wrong.
        reason: &'static str,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// `!`: what matches comes back.
    is_exception: bool,
    /// One list of tokens for the whole path: `/` is a token like others.
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Is(char),
    /// `?`
    One,
    /// `*`
    Many,
    /// `**/`: any folders, also none.
    Folders,
    /// `**` at the end, and in `**.log`: everything.
    Rest,
    /// `[a-z]`
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
}

impl IgnoreRules {
    /// Reads an ignore file.
    ///
    /// # Errors
    /// When a line is no pattern.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        if text.len() > IGNORE_BYTES_MAX {
            return Err(IgnoreError::TooLong);
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let rule = Rule::parse(line.trim()).map_err(|reason| IgnoreError::BadPattern {
                line: index + 1,
                pattern: line.trim().to_string(),
                reason,
            })?;
            rules.push(rule);
        }
        Ok(Self { rules })
    }

    /// Patterns of `--exclude`, with the same meaning.
    ///
    /// # Errors
    /// When one is no pattern.
    pub fn from_patterns<'p>(patterns: impl IntoIterator<Item = &'p str>) -> Result<Self, IgnoreError> {
        let rule = |(index, pattern): (usize, &str)| {
            Rule::parse(pattern.trim()).map_err(|reason| IgnoreError::BadPattern {
                line: index + 1,
                pattern: pattern.to_string(),
                reason,
            })
        };
        let rules = patterns.into_iter().enumerate().map(rule).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    /// Whether nothing is left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a folder that is left out may hold something that is not: then it must be walked.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.is_exception)
    }

    /// Whether a path is left out. It is relative, with `/` between its parts; the context itself never is.
    #[must_use]
    pub fn is_ignored(&self, path: &str) -> bool {
        let path = path.trim_matches('/');
        if path.is_empty() || path == "." {
            return false;
        }
        let characters: Vec<char> = path.chars().collect();
        let mut ends: Vec<usize> = (0..characters.len())
            .filter(|index| characters[*index] == '/')
            .collect();
        ends.push(characters.len());
        let mut ignored = false;
        for rule in &self.rules {
            if rule.is_exception == ignored && rule.matches(&characters, &ends) {
                ignored = !rule.is_exception;
            }
        }
        ignored
    }

    /// Where the rules of a build are, relative to the Dockerfile's folder and to the context: the first that exists counts.
    #[must_use]
    pub fn file_names(dockerfile_name: &str) -> [String; 2] {
        [format!("{dockerfile_name}.dockerignore"), ".dockerignore".to_string()]
    }
}

impl Rule {
    fn parse(line: &str) -> Result<Self, &'static str> {
        let (is_exception, pattern) = match line.strip_prefix('!') {
            Some(pattern) => (true, pattern.trim()),
            None => (false, line),
        };
        if pattern.is_empty() {
            return Err("a pattern must follow '!'");
        }
        let cleaned = clean(pattern);
        Ok(Self {
            is_exception,
            tokens: tokens(&cleaned)?,
        })
    }

    /// Whether it matches the path or a folder above it: what ends at one of these places.
    fn matches(&self, path: &[char], ends: &[usize]) -> bool {
        if matches!(self.tokens.first(), Some(Token::Is(first)) if path.first() != Some(first)) {
            return false;
        }
        // reached[n]: the tokens so far match the first n characters.
        let mut reached = vec![false; path.len() + 1];
        reached[0] = true;
        for token in &self.tokens {
            reached = token.step(&reached, path);
            if !reached.contains(&true) {
                return false;
            }
        }
        ends.iter().any(|end| reached[*end])
    }
}

impl Token {
    fn step(&self, reached: &[bool], path: &[char]) -> Vec<bool> {
        let mut next = vec![false; reached.len()];
        match self {
            Self::Rest => {
                let first = reached.iter().position(|reached| *reached).unwrap_or(reached.len());
                next[first..].fill(true);
            }
            Self::Many => {
                let mut inside = false;
                for index in 0..reached.len() {
                    inside = reached[index] || (inside && path[index - 1] != '/');
                    next[index] = inside;
                }
            }
            Self::Folders => {
                let mut inside = false;
                for index in 0..reached.len() {
                    let after_slash = index > 0 && path[index - 1] == '/';
                    next[index] = reached[index] || (inside && after_slash);
                    inside |= reached[index];
                }
            }
            Self::Is(_) | Self::One | Self::Class { .. } => {
                for (index, character) in path.iter().enumerate() {
                    next[index + 1] = reached[index] && self.accepts(*character);
                }
            }
        }
        next
    }

    fn accepts(&self, character: char) -> bool {
        match self {
            Self::Is(expected) => *expected == character,
            Self::One => character != '/',
            Self::Class { ranges, negated } => {
                let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&character));
                inside != *negated
            }
            Self::Many | Self::Folders | Self::Rest => false,
        }
    }
}

/// Without `.`, `..` where it can be resolved, doubled, leading and trailing slashes.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        ".".to_string()
    } else {
        parts.join("/")
    }
}

fn tokens(pattern: &str) -> Result<Vec<Token>, &'static str> {
    let characters: Vec<char> = pattern.chars().collect();
    let mut tokens = Vec::new();
    let mut position = 0;
    // `**.log`: Docker takes what follows for the end of the path, as long as it has no wildcard of its own.
    if let Some(end) = pattern.strip_prefix("**")
        && !end.starts_with('/')
        && !end.contains(['*', '?', '[', ']', '\\'])
    {
        tokens.push(Token::Rest);
        position = 2;
    }
    while let Some(character) = characters.get(position).copied() {
        position += 1;
        match character {
            '*' if characters.get(position) == Some(&'*') => {
                position += 1;
                if characters.get(position) == Some(&'/') {
                    position += 1;
                }
                let at_end = position >= characters.len();
                tokens.push(if at_end { Token::Rest } else { Token::Folders });
            }
            '*' => tokens.push(Token::Many),
            '?' => tokens.push(Token::One),
            '[' => tokens.push(class(&characters, &mut position)?),
            '\\' => {
                let escaped = characters.get(position).ok_or("nothing follows the '\\'")?;
                tokens.push(Token::Is(*escaped));
                position += 1;
            }
            other => tokens.push(Token::Is(other)),
        }
    }
    Ok(tokens)
}

/// After `[`.
fn class(characters: &[char], position: &mut usize) -> Result<Token, &'static str> {
    let unclosed = "the '[' is not closed";
    let mut next = || {
        let character = characters.get(*position).copied().ok_or(unclosed);
        *position += 1;
        character
    };
    let mut first = next()?;
    let negated = first == '^';
    if negated {
        first = next()?;
    }
    let mut ranges = Vec::new();
    let mut low = first;
    loop {
        if low == ']' {
            return if ranges.is_empty() {
                Err("the brackets are empty")
            } else {
                Ok(Token::Class { ranges, negated })
            };
        }
        if low == '\\' {
            low = next()?;
        }
        let mut after = next()?;
        let mut high = low;
        if after == '-' {
            high = next()?;
            if high == '\\' {
                high = next()?;
            }
            if high == ']' || high < low {
                return Err("a range in brackets ends before it begins");
            }
            after = next()?;
        }
        ranges.push((low, high));
        low = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_matches_decides() {
        for (rules, path, expected) in [
            ("node_modules", "node_modules", true),
            ("node_modules", "node_modules/a/b", true),
            ("node_modules", "src/node_modules", false),
            ("/node_modules/", "node_modules/a", true),
            ("**/node_modules", "node_modules", true),
            ("**/node_modules", "a/b/node_modules/c", true),
            ("**/node_modules", "a/xnode_modules", false),
            ("*.log", "a.log", true),
            ("*.log", "dir/a.log", false),
            ("**/*.log", "dir/a.log", true),
            ("**/*.log", "a.log", true),
            ("*/*.log", "dir/a.log", true),
            ("*/*.log", "a.log", false),
            ("a/**", "a", false),
            ("a/**", "a/b/c", true),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/**/z", "a/b/cz", false),
            ("*\n!keep", "keep", false),
            ("*\n!keep", "other", true),
            ("*\n!keep", "keep/file", false),
            ("docs\n!docs/README.md", "docs/README.md", false),
            ("docs\n!docs/README.md", "docs/other", true),
            ("!a\na", "a", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            (r"\*", "*", true),
            (r"\*", "a", false),
            ("# comment\n\n  a  ", "a", true),
            ("#a", "#a", false),
            ("./a/../b", "b", true),
            (".", "anything", false),
            ("**", "anything/at/all", true),
            ("*", "a/b", true),
            (".git", ".gitignore", false),
            ("**.log", "dir/a.log", true),
            ("**.l?g", "dir/a.log", false),
            ("temp*", "temporary/x", true),
        ] {
            let parsed = IgnoreRules::parse(rules).expect(rules);
            assert_eq!(parsed.is_ignored(path), expected, "{rules:?} on {path}");
        }
        assert!(!IgnoreRules::parse("**").expect("valid").is_ignored("."));
    }

    #[test]
    fn broken_patterns_name_their_line() {
        for (text, line) in [("a\n!", 2), ("[a", 1), ("a\nb\n[]", 3), ("[c-a]", 1), ("a\\", 1)] {
            let error = IgnoreRules::parse(text).expect_err(text);
            assert!(error.to_string().starts_with(&format!("line {line}:")), "{error}");
        }
    }

    #[test]
    fn exceptions_are_known() {
        assert!(IgnoreRules::parse("a\n!b").expect("valid").has_exceptions());
        assert!(!IgnoreRules::parse("a").expect("valid").has_exceptions());
        assert!(IgnoreRules::parse("\n# x\n").expect("valid").is_empty());
    }
}
