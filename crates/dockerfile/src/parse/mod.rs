//! Text to instructions.
//!
//! **Invariant:** all that is wrong is reported, not only the first: an instruction that cannot be read does not hide the next.

mod arguments;
mod copy;
mod directives;
mod flags;
mod heredoc;
mod instruction;
mod lines;
mod names;
mod words;

use crate::ast::{Dockerfile, Instruction, Kind, StageText, Word};
use crate::diagnostic::{Diagnostic, Span};
use crate::limits::{DIAGNOSTICS_MAX, STAGES_MAX, TEXT_BYTES_MAX};
use crate::lint::Lints;
use directives::DirectiveReader;
use lines::{Lines, Logical};

pub(crate) use heredoc::marker;

/// Reads a Dockerfile.
///
/// # Errors
/// Everything that is wrong with it, in the order of lines.
pub fn parse(text: &str) -> Result<Dockerfile, Vec<Diagnostic>> {
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("the Dockerfile is longer than {TEXT_BYTES_MAX} bytes");
        return Err(vec![Diagnostic::error(None, message)]);
    }
    let mut lines = Lines::new(text);
    let mut errors = Vec::new();
    let directives = DirectiveReader::read(&mut lines, &mut errors);
    let mut reader = Reader {
        lints: Lints::new(directives.check.clone()),
        escape: directives.escape,
        errors,
        instructions: Vec::new(),
    };
    reader.read_all(&mut lines);
    let Reader {
        mut lints,
        mut errors,
        instructions,
        ..
    } = reader;
    let mut dockerfile = grouped(instructions, &mut errors);
    errors.sort_by_key(|error| error.span);
    if !errors.is_empty() {
        return Err(errors);
    }
    names::check(&dockerfile, &mut lints);
    dockerfile.directives = directives;
    dockerfile.warnings = lints.into_sorted();
    Ok(dockerfile)
}

/// Reads one instruction that an image keeps for builds on top. All its places are `span`.
pub(crate) fn parse_trigger(expression: &str, escape: char, span: Span) -> Result<Instruction, Diagnostic> {
    let mut lines = Lines::new(expression);
    let joined = lines::join(&mut lines, escape);
    let Some(joined) = joined else {
        return Err(Diagnostic::error(span, "the base image has an empty ONBUILD trigger"));
    };
    let line = Logical::fixed(joined.line.text, span);
    let instruction = instruction::read(&line, &mut lines, escape)?;
    if lines.take().is_some_and(|(rest, _)| !rest.trim().is_empty()) {
        let message = format!("the base image's ONBUILD trigger '{expression}' is more than one instruction");
        return Err(Diagnostic::error(span, message));
    }
    Ok(instruction)
}

struct Reader {
    lints: Lints,
    escape: char,
    errors: Vec<Diagnostic>,
    instructions: Vec<Instruction>,
}

impl Reader {
    fn read_all(&mut self, lines: &mut Lines<'_>) {
        let mut comments: Vec<Word> = Vec::new();
        while let Some((physical, number)) = lines.peek() {
            let plain = lines::without_end(physical).trim();
            if plain.is_empty() {
                comments.clear();
                lines.take();
            } else if plain.starts_with('#') {
                lines.take();
                comment(&mut comments, lines::without_end(physical), number);
            } else {
                self.read_one(lines, std::mem::take(&mut comments));
            }
            if self.errors.len() >= DIAGNOSTICS_MAX {
                return;
            }
        }
    }

    fn read_one(&mut self, lines: &mut Lines<'_>, comments: Vec<Word>) {
        let Some(joined) = lines::join(lines, self.escape) else {
            return;
        };
        let options = self.lints.for_instruction(&comments);
        if let Some(line) = joined.empty_inside {
            let span = Span {
                line,
                column: 1,
                end_line: line,
                end_column: 1,
            };
            self.lints.add(
                &options,
                crate::Rule::NoEmptyContinuation,
                span,
                "empty continuation line",
            );
        }
        match instruction::read(&joined.line, lines, self.escape) {
            Ok(mut instruction) => {
                instruction.comments = comments;
                self.instructions.push(instruction);
            }
            Err(error) => self.errors.push(error),
        }
    }
}

/// An empty comment ends the comments before it.
fn comment(comments: &mut Vec<Word>, line: &str, number: u32) {
    let text = line.trim_start().trim_start_matches('#').trim();
    if text.is_empty() {
        comments.clear();
        return;
    }
    let width = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
    let start = line.find(text).unwrap_or(0);
    let column = width(&line[..start]).saturating_add(1);
    comments.push(Word {
        text: text.to_string(),
        span: Span {
            line: number,
            column,
            end_line: number,
            end_column: column.saturating_add(width(text)),
        },
    });
}

/// Arguments before the first `FROM`, then stages.
fn grouped(instructions: Vec<Instruction>, errors: &mut Vec<Diagnostic>) -> Dockerfile {
    let mut dockerfile = Dockerfile {
        directives: crate::ast::Directives::default(),
        arguments: Vec::new(),
        stages: Vec::new(),
        warnings: Vec::new(),
    };
    if instructions.is_empty() && errors.is_empty() {
        errors.push(
            Diagnostic::error(None, "the Dockerfile has no instructions").help("begin with FROM IMAGE".to_string()),
        );
        return dockerfile;
    }
    let mut misplaced = false;
    for instruction in instructions {
        let kind = instruction.kind.clone();
        match (kind, dockerfile.stages.last_mut()) {
            (Kind::From(base), _) => dockerfile.stages.push(StageText {
                from: instruction,
                base,
                instructions: Vec::new(),
            }),
            (_, Some(stage)) => stage.instructions.push(instruction),
            (Kind::Arg(_), None) => dockerfile.arguments.push(instruction),
            (_, None) if misplaced => {}
            (_, None) => {
                misplaced = true;
                let message = format!("{} stands before the first FROM", instruction.keyword.text);
                let help = "begin with FROM IMAGE; only ARG may come before it".to_string();
                errors.push(Diagnostic::error(instruction.span, message).help(help));
            }
        }
    }
    if dockerfile.stages.is_empty() && errors.is_empty() {
        let last = dockerfile.arguments.last().map(|argument| argument.span);
        errors.push(
            Diagnostic::error(last, "the Dockerfile has no FROM").help("begin a stage with FROM IMAGE".to_string()),
        );
    }
    if let Some(stage) = dockerfile.stages.get(STAGES_MAX) {
        errors.push(Diagnostic::error(
            stage.from.span,
            format!("more than {STAGES_MAX} stages"),
        ));
    }
    dockerfile
}
