//! Diagnostics for people: the line of the manifest with the culprit underlined.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};

use crate::Source;
use crate::diagnostic::{Diagnostic, Severity, Span};

/// Lines longer than this many bytes are named but not shown.
const LINE_BYTES_SHOWN_MAX: usize = 400;

/// All diagnostics as text; with `color`, ANSI colours for a terminal.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], sources: &[Source], color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.decor_style(if color { DecorStyle::Unicode } else { DecorStyle::Ascii });
    let mut text = String::new();
    for diagnostic in diagnostics {
        let source = sources.iter().find(|source| source.name == diagnostic.source);
        text.push_str(&renderer.render(&[group(diagnostic, source)]));
        text.push_str("\n\n");
    }
    text.truncate(text.trim_end().len());
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn group<'d>(diagnostic: &'d Diagnostic, source: Option<&'d Source>) -> Group<'d> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(normalize_untrusted_str(&diagnostic.message));
    let mut group = match (source, diagnostic.span) {
        (Some(source), Some(span)) => match snippet(source, span, &diagnostic.path) {
            Some(snippet) => title.element(snippet),
            None => title.element(
                Origin::path(source.name.as_str())
                    .line(span.line as usize)
                    .char_column(span.column as usize),
            ),
        },
        (Some(_) | None, _) => Group::with_title(title),
    };
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
    }
    group
}

/// The line of the span with its part underlined; only that line is handed over, so that a long file costs nothing.
fn snippet<'d>(source: &'d Source, span: Span, path: &str) -> Option<Snippet<'d, annotate_snippets::Annotation<'d>>> {
    let line = lines(&source.text).nth(span.line.checked_sub(1)? as usize)?;
    if line.len() > LINE_BYTES_SHOWN_MAX {
        return None;
    }
    let start = byte_of_column(line, span.column);
    let end = if span.end_line > span.line {
        line.trim_end().len()
    } else {
        byte_of_column(line, span.end_column)
    };
    let mut annotation = AnnotationKind::Primary.span(start..end.max(start));
    if !path.is_empty() {
        annotation = annotation.label(normalize_untrusted_str(path));
    }
    Some(
        Snippet::source(line)
            .path(source.name.as_str())
            .line_start(span.line as usize)
            .annotation(annotation),
    )
}

/// Lines as YAML counts them: `\n`, `\r\n` and a lone `\r` end one.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let Some(end) = current.find(['\n', '\r']) else {
            rest = None;
            return Some(current);
        };
        let width = if current[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&current[end + width..]);
        Some(&current[..end])
    })
}

fn byte_of_column(line: &str, column: u32) -> usize {
    let characters = column.saturating_sub(1) as usize;
    line.char_indices().nth(characters).map_or(line.len(), |(byte, _)| byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnostic(span: Option<Span>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            source: "compose.yaml".to_string(),
            span,
            path: "services.wéb".to_string(),
            message: "unknown key 'imgae'".to_string(),
            help: Some("did you mean 'image'?".to_string()),
        }
    }

    #[test]
    fn the_culprit_is_underlined() {
        let source = Source {
            name: "compose.yaml".to_string(),
            text: "services:\r\n  wéb: {imgae: x}\r\n".to_string(),
        };
        let span = Span {
            line: 2,
            column: 9,
            end_line: 2,
            end_column: 14,
        };
        let text = render(&[diagnostic(Some(span))], &[source], false);
        assert_eq!(
            text,
            "error: unknown key 'imgae'\n --> compose.yaml:2:9\n  |\n2 |   wéb: {imgae: x}\n  |         ^^^^^ services.wéb\n  |\n  = help: did you mean 'image'?\n"
        );
    }

    #[test]
    fn a_span_outside_of_the_text_is_no_panic() {
        let source = Source {
            name: "compose.yaml".to_string(),
            text: "a: é".to_string(),
        };
        for (line, column, end) in [(0, 0, 0), (1, 900, 901), (7, 1, 2), (1, 3, 1)] {
            let span = Span {
                line,
                column,
                end_line: line,
                end_column: end,
            };
            let text = render(&[diagnostic(Some(span))], std::slice::from_ref(&source), true);
            assert!(text.contains("imgae"));
        }
        assert!(render(&[diagnostic(None)], &[], false).contains("did you mean"));
    }
}
