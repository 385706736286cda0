//! Parser directives: `# syntax=`, `# escape=`, `# check=`, before anything else.

use super::lines::{Lines, without_end};
use crate::ast::{CheckOptions, Directives, Word};
use crate::diagnostic::{Diagnostic, Span};

impl Default for Directives {
    fn default() -> Self {
        Self {
            syntax: None,
            escape: '\\',
            check: CheckOptions::default(),
        }
    }
}

/// Reads the directives off the beginning.
pub(crate) struct DirectiveReader {
    directives: Directives,
    seen: Vec<String>,
}

impl DirectiveReader {
    /// Stops at the first line that is none; that line is still to be taken.
    pub fn read(lines: &mut Lines<'_>, errors: &mut Vec<Diagnostic>) -> Directives {
        let mut reader = Self {
            directives: Directives::default(),
            seen: Vec::new(),
        };
        if lines.peek().is_some_and(|(line, _)| line.starts_with("#!")) {
            lines.take();
        }
        while let Some((line, number)) = lines.peek() {
            let Some((name, value)) = directive(without_end(line)) else {
                break;
            };
            lines.take();
            let place = place_of(without_end(line), value, number);
            if let Err(error) = reader.apply(&name, value, place) {
                errors.push(error);
            }
        }
        reader.directives
    }

    fn apply(&mut self, name: &str, value: &str, span: Span) -> Result<(), Diagnostic> {
        if self.seen.iter().any(|seen| seen == name) {
            return Err(Diagnostic::error(
                span,
                format!("the directive '{name}' is given twice"),
            ));
        }
        self.seen.push(name.to_string());
        match name {
            "escape" => {
                self.directives.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    other => {
                        let help = "write \\ or `".to_string();
                        return Err(Diagnostic::error(span, format!("'{other}' is no escape character")).help(help));
                    }
                };
            }
            "check" => {
                self.directives.check = CheckOptions::parse(value).map_err(|reason| Diagnostic::error(span, reason))?;
            }
            _ => {
                self.directives.syntax = Some(Word {
                    text: value.to_string(),
                    span,
                });
            }
        }
        Ok(())
    }
}

/// `# name = value` with a known name.
fn directive(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.trim_start().strip_prefix('#')?.trim_start().split_once('=')?;
    let name = name.trim_end().to_ascii_lowercase();
    let value = value.trim();
    let known = ["syntax", "escape", "check"].contains(&name.as_str());
    (known && !value.is_empty()).then_some((name, value))
}

fn place_of(line: &str, value: &str, number: u32) -> Span {
    let width = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
    let start = line.rfind(value).unwrap_or(0);
    let column = width(&line[..start]).saturating_add(1);
    Span {
        line: number,
        column,
        end_line: number,
        end_column: column.saturating_add(width(value)),
    }
}
