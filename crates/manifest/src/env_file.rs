//! Env files: `.env` of the project and `env_file` of services, in the dialect of Compose.
//!
//! `KEY=value`, `KEY: value`, `export KEY=value`, `# comment`, `'literal'`, `"with \n and $VARIABLES"` over several lines, and
//! `KEY` alone, which takes the value of the environment.

use std::collections::BTreeMap;

use crate::limits::ENV_FILE_BYTES_MAX;
use crate::yaml::interpolate::expand;

/// Why a text is not an env file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct EnvFileError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// The variables of an env file; one without a value is absent from `environment` too. References are replaced from
/// `environment` first, then from earlier lines, as Compose does.
///
/// To build [`Options::environment`](crate::Options), read `.env` with the process environment and extend the result by the
/// process environment, which wins.
///
/// # Errors
/// When a line is no variable, a quote is not closed, a reference is malformed, or the text is larger than 1 MiB.
pub fn env_file(
    text: &str,
    environment: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Option<String>>, EnvFileError> {
    if text.len() > ENV_FILE_BYTES_MAX {
        return Err(EnvFileError {
            line: 1,
            reason: format!("the file has more than {ENV_FILE_BYTES_MAX} bytes"),
        });
    }
    let mut reader = Reader {
        rest: text.strip_prefix('\u{feff}').unwrap_or(text),
        line: 1,
        known: environment.clone(),
    };
    let mut variables = BTreeMap::new();
    while let Some((key, value)) = reader.next_variable()? {
        let value = value.or_else(|| environment.get(&key).cloned());
        if let Some(value) = &value {
            let value = environment.get(&key).unwrap_or(value).clone();
            reader.known.insert(key.clone(), value);
        }
        variables.insert(key, value);
    }
    Ok(variables)
}

/// The variables of an env file in `format: raw`: everything after `=` is the value, as in `docker run --env-file`.
pub(crate) fn raw_env_file(text: &str, environment: &BTreeMap<String, String>) -> BTreeMap<String, Option<String>> {
    let lines = text.lines().map(str::trim_start);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| match line.split_once('=') {
            Some((key, value)) => (key.to_string(), Some(value.to_string())),
            None => (line.to_string(), environment.get(line).cloned()),
        })
        .collect()
}

struct Reader<'t> {
    rest: &'t str,
    line: usize,
    known: BTreeMap<String, String>,
}

impl<'t> Reader<'t> {
    fn next_variable(&mut self) -> Result<Option<(String, Option<String>)>, EnvFileError> {
        loop {
            let line = self.rest.lines().next().unwrap_or_default();
            if self.rest.is_empty() {
                return Ok(None);
            }
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                self.skip_line();
                continue;
            }
            return self.variable(line).map(Some);
        }
    }

    fn variable(&mut self, line: &'t str) -> Result<(String, Option<String>), EnvFileError> {
        let declaration = line.trim_start();
        let declaration = declaration.strip_prefix("export ").map_or(declaration, str::trim_start);
        let key_end = declaration.find(['=', ':']).unwrap_or(declaration.len());
        let (key, tail) = declaration.split_at(key_end);
        let key = key.split('#').next().unwrap_or_default().trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(self.error("not a variable, write KEY=value".to_string()));
        }
        if tail.is_empty() {
            self.skip_line();
            return Ok((key.to_string(), None));
        }
        let value = tail[1..].trim_start_matches([' ', '\t']);
        let offset = line.len() - value.len();
        let key = key.to_string();
        let value = match value.bytes().next() {
            Some(quote @ (b'\'' | b'"')) => self.quoted(offset + 1, quote)?,
            Some(_) | None => {
                let value = uncommented(value).trim_end().to_string();
                let value = self.expanded(&value)?;
                self.skip_line();
                value
            }
        };
        Ok((key, Some(value)))
    }

    /// A value from `start` (just after the quote) to the closing quote, maybe lines later.
    fn quoted(&mut self, start: usize, quote: u8) -> Result<String, EnvFileError> {
        let body = &self.rest[start..];
        let end = closing_quote(body, quote).ok_or_else(|| self.error("the quote is not closed".to_string()))?;
        let inside = &body[..end];
        let value = if quote == b'"' {
            self.expanded(&unescaped(inside))?
        } else {
            inside.to_string()
        };
        let after = body[end + 1..].lines().next().unwrap_or_default().trim();
        if !after.is_empty() && !after.starts_with('#') {
            return Err(self.error("something follows the closing quote".to_string()));
        }
        self.line += inside.matches('\n').count();
        self.rest = &body[end + 1..];
        self.skip_line();
        Ok(value)
    }

    fn expanded(&self, text: &str) -> Result<String, EnvFileError> {
        let expanded = expand(text, &self.known).map_err(|error| self.error(error.to_string()))?;
        Ok(expanded.text)
    }

    fn skip_line(&mut self) {
        self.line += 1;
        self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end + 1..]);
    }

    fn error(&self, reason: String) -> EnvFileError {
        EnvFileError {
            line: self.line,
            reason,
        }
    }
}

/// A `#` after a blank starts a comment.
fn uncommented(value: &str) -> &str {
    let is_comment = |position: &usize| *position == 0 || value[..*position].ends_with([' ', '\t']);
    let comment = value.match_indices('#').map(|(position, _)| position).find(is_comment);
    comment.map_or(value, |position| &value[..position])
}

fn closing_quote(body: &str, quote: u8) -> Option<usize> {
    let mut escaped = false;
    for (position, byte) in body.bytes().enumerate() {
        if escaped {
            escaped = false;
        } else if byte == b'\\' && quote == b'"' {
            escaped = true;
        } else if byte == quote {
            return Some(position);
        }
    }
    None
}

/// Escapes of a double-quoted value; `\$` becomes `$$`, which the expansion turns into a dollar.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('$') => out.push_str("$$"),
            Some(other @ ('"' | '\\' | '\'')) => out.push(other),
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, Option<String>)>, EnvFileError> {
        let environment = BTreeMap::from([("HOME".to_string(), "/root".to_string())]);
        env_file(text, &environment).map(|variables| variables.into_iter().collect())
    }

    #[test]
    fn values_in_every_dress() {
        for (text, expected) in [
            ("A=1", "1"),
            ("A = 1 ", "1"),
            ("export A=1", "1"),
            ("A: 1", "1"),
            ("A=", ""),
            ("A=a b # comment", "a b"),
            ("A=a#b", "a#b"),
            ("A='$HOME # x'", "$HOME # x"),
            ("A=\"$HOME\\n\\$x\"", "/root\n$x"),
            ("A=${HOME}/x", "/root/x"),
            ("A=\"two\nlines\" # end", "two\nlines"),
            ("A=http://x:1/?a=b", "http://x:1/?a=b"),
            ("# c\n\n  A=1\r\n", "1"),
            ("\u{feff}A=1", "1"),
            ("A=\"say \\\"hi\\\"\"", "say \"hi\""),
        ] {
            assert_eq!(
                read(text),
                Ok(vec![("A".to_string(), Some(expected.to_string()))]),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_name_alone_takes_the_value_around() {
        assert_eq!(
            read("HOME\nUNSET\n"),
            Ok(vec![
                ("HOME".to_string(), Some("/root".to_string())),
                ("UNSET".to_string(), None)
            ])
        );
    }

    #[test]
    fn earlier_lines_are_variables_of_later_ones() {
        let variables = read("A=1\nB=${A}2\nC=\"$B\"3\n").map_err(|error| error.line);
        assert_eq!(variables, Err(3));
        assert_eq!(
            read("A=1\nB=${A}2").map(|variables| variables[1].1.clone()),
            Ok(Some("12".to_string()))
        );
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, line) in [
            ("A=1\nnot a variable", 2),
            ("A=\"open\nB=1", 1),
            ("\nA=${", 2),
            ("=x", 1),
        ] {
            assert_eq!(read(text).map_err(|error| error.line), Err(line), "{text:?}");
        }
    }

    #[test]
    fn raw_files_are_taken_as_they_are() {
        let variables = raw_env_file("A=\"$x\" # y\n#c\n\nB\n", &BTreeMap::new());
        assert_eq!(variables.get("A"), Some(&Some("\"$x\" # y".to_string())));
        assert_eq!(variables.get("B"), Some(&None));
    }
}
