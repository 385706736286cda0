//! One instruction: its keyword, its flags, its here-documents, and what it says.

use std::ops::Range;

use super::arguments::{self, Body};
use super::flags::Flags;
use super::heredoc;
use super::lines::{Lines, Logical};
use super::words;
use crate::ast::{Heredoc, Instruction};
use crate::diagnostic::{Diagnostic, Span};
use crate::suggest::did_you_mean;

/// All instructions.
pub(crate) const KEYWORDS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The parts of an instruction before it is understood.
struct Head {
    /// In upper case.
    keyword: &'static str,
    keyword_range: Range<usize>,
    flags: Flags,
    rest: Range<usize>,
}

/// Reads an instruction from its line; here-documents are taken from `lines`.
pub(crate) fn read(line: &Logical, lines: &mut Lines<'_>, escape: char) -> Result<Instruction, Diagnostic> {
    let within = words::trimmed(&line.text, 0..line.text.len());
    let head = head(line, within.clone())?;
    let markers = if takes_documents(line, &head)? {
        heredoc::markers(&line.text)
    } else {
        Vec::new()
    };
    let has_documents = !markers.is_empty();
    let heredocs = heredoc::read(markers, line, lines)?;
    let mut instruction = build(line, within, head, &heredocs, escape)?;
    if has_documents {
        let end = lines.last_number();
        instruction.span.end_line = instruction.span.end_line.max(end);
    }
    Ok(instruction)
}

/// Splits keyword, flags and rest.
fn head(line: &Logical, within: Range<usize>) -> Result<Head, Diagnostic> {
    let text = &line.text[within.clone()];
    let length = text.find(words::is_blank).unwrap_or(text.len());
    let keyword_range = within.start..within.start + length;
    let written = &line.text[keyword_range.clone()];
    let upper = written.to_ascii_uppercase();
    let Some(keyword) = KEYWORDS.iter().copied().find(|keyword| *keyword == upper) else {
        let shown: String = written.chars().take(40).collect();
        let error = Diagnostic::error(line.span(keyword_range), format!("'{shown}' is no instruction"));
        return Err(error.help(did_you_mean(written, KEYWORDS.iter().copied())));
    };
    let (flags, rest) = if keyword == "ONBUILD" {
        (Vec::new(), words::trimmed(&line.text, keyword_range.end..within.end))
    } else {
        words::flags(&line.text, keyword_range.end..within.end)
    };
    Ok(Head {
        keyword,
        keyword_range,
        flags: Flags::check(keyword, flags, line)?,
        rest,
    })
}

/// Whether `<<WORD` means a here-document: in RUN, COPY and ADD that are no JSON array, also as triggers.
fn takes_documents(line: &Logical, head: &Head) -> Result<bool, Diagnostic> {
    match head.keyword {
        "RUN" | "COPY" | "ADD" => {
            let json = arguments::json_array(&line.text[head.rest.clone()]);
            Ok(!matches!(json, arguments::Json::Strings(_)))
        }
        "ONBUILD" if !head.rest.is_empty() => {
            let inner = self::head(line, head.rest.clone())?;
            // A trigger of a trigger is refused later; following a chain of them would take the stack.
            Ok(inner.keyword != "ONBUILD" && takes_documents(line, &inner)?)
        }
        _ => Ok(false),
    }
}

fn build(
    line: &Logical,
    within: Range<usize>,
    head: Head,
    heredocs: &[Heredoc],
    escape: char,
) -> Result<Instruction, Diagnostic> {
    let span = line.span(within.clone());
    let kind = if head.keyword == "ONBUILD" {
        let inner = trigger_parts(line, &head, span)?;
        let instruction = build(line, head.rest.clone(), inner, heredocs, escape)?;
        arguments::trigger(line, head.rest, instruction)?
    } else {
        let body = Body {
            line,
            keyword: head.keyword,
            range: head.rest,
            span,
            flags: &head.flags,
            heredocs,
            escape,
        };
        arguments::kind(&body)?
    };
    Ok(Instruction {
        span,
        keyword: line.word(head.keyword_range),
        text: line.text[within].to_string(),
        comments: Vec::new(),
        heredocs: heredocs.to_vec(),
        kind,
    })
}

/// The instruction of a trigger.
fn trigger_parts(line: &Logical, head: &Head, span: Span) -> Result<Head, Diagnostic> {
    if head.rest.is_empty() {
        let help = "write ONBUILD RUN make".to_string();
        return Err(Diagnostic::error(span, "ONBUILD needs an instruction").help(help));
    }
    let inner = self::head(line, head.rest.clone())?;
    match inner.keyword {
        "ONBUILD" | "FROM" | "MAINTAINER" => {
            let message = format!("{} cannot be a trigger of ONBUILD", inner.keyword);
            Err(Diagnostic::error(line.span(inner.keyword_range), message))
        }
        _ => Ok(inner),
    }
}
