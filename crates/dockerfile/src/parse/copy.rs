//! `COPY` and `ADD`.

use super::arguments::Body;
use super::heredoc::{marker, markers};
use crate::ast::{CopyText, Word};
use crate::diagnostic::Diagnostic;
use crate::expand::{Lexer, NoVariables, expand};

pub(crate) fn read(body: &Body<'_>) -> Result<CopyText, Diagnostic> {
    let mut words = if body.heredocs.is_empty() {
        body.list()?
    } else {
        with_documents(body)
    };
    let (keyword, example) = (body.keyword, format!("write {} SOURCE DESTINATION", body.keyword));
    let destination = match words.pop() {
        Some(destination) if !words.is_empty() => destination,
        Some(only) => {
            let message = format!("{keyword} {} has no destination", only.text);
            return Err(Diagnostic::error(body.span, message).help(example));
        }
        None => return Err(body.error(format!("{keyword} needs a source and a destination"), &example)),
    };
    if marker(&destination.text).is_some() {
        let help = "put the destination after the here-document's word".to_string();
        return Err(Diagnostic::error(destination.span, "a here-document cannot be the destination").help(help));
    }
    let flags = body.flags;
    Ok(CopyText {
        sources: words,
        destination,
        from: flags.text("from").filter(|from| !from.text.is_empty()),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.truth("link").unwrap_or(false),
        parents: flags.truth("parents").unwrap_or(false),
        exclude: flags.texts("exclude"),
        checksum: flags.text("checksum"),
        keep_git_dir: flags.truth("keep-git-dir"),
        unpack: flags.truth("unpack"),
    })
}

/// With a here-document, blanks between `<<` and its word do not separate.
fn with_documents(body: &Body<'_>) -> Vec<Word> {
    if markers(body.text())
        .iter()
        .all(|marker| !marker.word.contains([' ', '\t']))
    {
        return body.list().unwrap_or_default();
    }
    let lexer = Lexer {
        raw_quotes: true,
        raw_escapes: true,
        keep_unset: true,
        ..Lexer::new(body.escape)
    };
    let words = expand(lexer, body.text(), &NoVariables).map(|expansion| expansion.words);
    let span = body.line.span(body.range.clone());
    words
        .unwrap_or_default()
        .into_iter()
        .map(|text| Word { text, span })
        .collect()
}
