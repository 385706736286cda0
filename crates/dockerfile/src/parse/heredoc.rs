//! Here-documents: finding `<<WORD` in a line, and the lines that belong to it.

use super::lines::{Lines, Logical, without_end};
use crate::ast::Heredoc;
use crate::diagnostic::Diagnostic;
use crate::expand::{Lexer, NoVariables, expand};

/// A `<<WORD` in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marker {
    pub name: String,
    pub chomp: bool,
    pub expand: bool,
    /// The word of the line, as the lexer gives it.
    pub word: String,
}

/// The markers of a line, in order. A line whose quotes do not close has none.
pub(crate) fn markers(line: &str) -> Vec<Marker> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let lexer = Lexer {
        raw_quotes: true,
        raw_escapes: true,
        keep_unset: true,
        ..Lexer::new('\\')
    };
    let words = expand(lexer, line, &NoVariables)
        .map(|expansion| expansion.words)
        .unwrap_or_default();
    words.iter().filter_map(|word| marker(word)).collect()
}

/// `[N]<<[-]WORD`, where WORD is one word and has no `<`.
pub(crate) fn marker(word: &str) -> Option<Marker> {
    let rest = word
        .trim_start_matches(|digit: char| digit.is_ascii_digit())
        .strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let name = rest.trim_start();
    if name.is_empty() || name.contains('<') {
        return None;
    }
    let lexer = Lexer {
        keep_unset: true,
        ..Lexer::new('\\')
    };
    let plain = expand(lexer, name, &NoVariables).ok()?.words;
    let raw_lexer = Lexer {
        raw_quotes: true,
        ..lexer
    };
    let raw = expand(raw_lexer, name, &NoVariables).ok()?.words;
    let ([plain], [raw]) = (plain.as_slice(), raw.as_slice()) else {
        return None;
    };
    let quotes = |text: &str| text.chars().filter(|character| "'\"".contains(*character)).count();
    Some(Marker {
        name: plain.clone(),
        chomp,
        expand: quotes(plain) == quotes(raw),
        word: word.to_string(),
    })
}

/// Takes the lines of each marker.
pub(crate) fn read(markers: Vec<Marker>, line: &Logical, lines: &mut Lines<'_>) -> Result<Vec<Heredoc>, Diagnostic> {
    let mut documents = Vec::new();
    let mut searched = 0;
    for marker in markers {
        let at = line.text[searched..].find("<<").map_or(searched, |at| searched + at);
        let end = line.text[at..]
            .find(marker.name.as_str())
            .map_or(at + 2, |name| at + name + marker.name.len());
        searched = end;
        let span = line.span(at..end);
        let mut content = String::new();
        loop {
            let Some((physical, _)) = lines.take() else {
                let message = format!("the here-document is not ended by a line '{}'", marker.name);
                let help = format!("write a line that holds {} and nothing else", marker.name);
                return Err(Diagnostic::error(span, message).help(help));
            };
            let plain = without_end(physical);
            let end = if marker.chomp {
                plain.trim_start_matches('\t')
            } else {
                plain
            };
            if end == marker.name {
                break;
            }
            content.push_str(physical);
        }
        documents.push(Heredoc {
            name: marker.name,
            content,
            chomp: marker.chomp,
            expand: marker.expand,
            span,
        });
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_words_of_their_own() {
        let names = |line: &str| -> Vec<(String, bool, bool)> {
            let found = markers(line).into_iter();
            found.map(|marker| (marker.name, marker.chomp, marker.expand)).collect()
        };
        let one = |name: &str, chomp, expand| vec![(name.to_string(), chomp, expand)];
        assert_eq!(names("RUN <<EOF"), one("EOF", false, true));
        assert_eq!(names("RUN << EOF cat"), one("EOF", false, true));
        assert_eq!(names("RUN <<-'EOF' cat"), one("EOF", true, false));
        assert_eq!(names("RUN python3 <<\"E OF\""), one("E OF", false, false));
        assert_eq!(names("RUN 3<<E 0<&3 cat"), one("E", false, true));
        assert_eq!(names("COPY <<a <<b /").len(), 2);
        assert_eq!(names("RUN echo '<<EOF'"), []);
        assert_eq!(names("RUN cat <<<text"), []);
        assert_eq!(names("RUN x=$((1<<2))"), []);
        assert_eq!(names("RUN <<$EOF"), one("$EOF", false, true));
    }
}
