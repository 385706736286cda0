//! What stands after the keyword and the flags, by instruction.

use std::ops::Range;
use std::time::Duration;

use super::copy;
use super::flags::Flags;
use super::lines::Logical;
use super::words::{at_blanks, outside_quotes, trimmed};
use crate::ast::{Argument, CommandLine, From, HealthText, Heredoc, Instruction, Kind, Pair, RunText, Trigger, Word};
use crate::diagnostic::{Diagnostic, Span};
use crate::duration;

/// Shortest interval and timeout of a health check, as in Docker.
const HEALTH_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// An instruction without its keyword.
pub(crate) struct Body<'l> {
    pub line: &'l Logical,
    /// In upper case.
    pub keyword: &'static str,
    pub range: Range<usize>,
    /// Of the whole instruction.
    pub span: Span,
    pub flags: &'l Flags,
    pub heredocs: &'l [Heredoc],
    pub escape: char,
}

impl Body<'_> {
    pub fn text(&self) -> &str {
        &self.line.text[self.range.clone()]
    }

    pub fn word(&self) -> Word {
        self.line.word(self.range.clone())
    }

    pub fn error(&self, message: impl Into<String>, help: &str) -> Diagnostic {
        let help = (!help.is_empty()).then(|| help.to_string());
        Diagnostic::error(self.span, message).help(help)
    }

    /// A JSON array's strings, or the parts between blanks.
    pub fn list(&self) -> Result<Vec<Word>, Diagnostic> {
        let span = self.line.span(self.range.clone());
        match json_array(self.text()) {
            Json::Strings(texts) => Ok(texts.into_iter().map(|text| Word { text, span }).collect()),
            Json::OtherValues => Err(not_strings(span)),
            Json::None => Ok(self.blank_separated()),
        }
    }

    fn blank_separated(&self) -> Vec<Word> {
        let parts = at_blanks(&self.line.text, self.range.clone()).into_iter();
        parts.map(|part| self.line.word(part)).collect()
    }

    /// The rest as one argument.
    fn single(&self, example: &str) -> Result<Word, Diagnostic> {
        if self.range.is_empty() {
            return Err(self.error(
                format!("{} needs an argument", self.keyword),
                &format!("write {example}"),
            ));
        }
        Ok(self.word())
    }

    fn command(&self) -> Result<CommandLine, Diagnostic> {
        if self.range.is_empty() {
            let help = format!("write {0} [\"program\", \"argument\"] or {0} command", self.keyword);
            return Err(self.error(format!("{} needs a command", self.keyword), &help));
        }
        command_line(self.line, self.range.clone())
    }
}

/// Whether a text is a JSON array, and of what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Json {
    Strings(Vec<String>),
    OtherValues,
    None,
}

/// Anything that is no array is read in another way, as in Docker.
pub(crate) fn json_array(text: &str) -> Json {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Json::None;
    }
    match serde_json::from_str::<Vec<serde_json::Value>>(text) {
        Ok(values) => {
            let strings: Option<Vec<String>> = values
                .into_iter()
                .map(|value| match value {
                    serde_json::Value::String(text) => Some(text),
                    _ => None,
                })
                .collect();
            strings.map_or(Json::OtherValues, Json::Strings)
        }
        Err(_) => Json::None,
    }
}

fn not_strings(span: Span) -> Diagnostic {
    let help = "write every element in double quotes".to_string();
    Diagnostic::error(span, "a JSON array here must hold strings only").help(help)
}

fn command_line(line: &Logical, range: Range<usize>) -> Result<CommandLine, Diagnostic> {
    match json_array(&line.text[range.clone()]) {
        Json::Strings(words) => Ok(CommandLine::Exec(words)),
        Json::OtherValues => Err(not_strings(line.span(range))),
        Json::None => Ok(CommandLine::Shell(line.word(range))),
    }
}

/// Reads what an instruction says.
pub(crate) fn kind(body: &Body<'_>) -> Result<Kind, Diagnostic> {
    Ok(match body.keyword {
        "ADD" => Kind::Add(copy::read(body)?),
        "ARG" => Kind::Arg(arguments(body)?),
        "CMD" => Kind::Cmd(body.command()?),
        "COPY" => Kind::Copy(copy::read(body)?),
        "ENTRYPOINT" => Kind::Entrypoint(body.command()?),
        "ENV" => Kind::Env(pairs(body)?),
        "EXPOSE" => Kind::Expose(expose(body)?),
        "FROM" => Kind::From(from(body)?),
        "HEALTHCHECK" => Kind::HealthCheck(health(body)?),
        "LABEL" => Kind::Label(pairs(body)?),
        "MAINTAINER" => Kind::Maintainer(body.single("LABEL org.opencontainers.image.authors=NAME")?),
        "RUN" => Kind::Run(RunText {
            command: body.command()?,
            mounts: body.flags.texts("mount"),
            network: body.flags.text("network"),
            security: body.flags.text("security"),
        }),
        "SHELL" => Kind::Shell(shell(body)?),
        "STOPSIGNAL" => Kind::StopSignal(body.single("STOPSIGNAL SIGTERM")?),
        "USER" => Kind::User(body.single("USER name:group")?),
        "VOLUME" => Kind::Volume(volumes(body)?),
        "WORKDIR" => Kind::Workdir(body.single("WORKDIR /path")?),
        other => return Err(body.error(format!("'{other}' is no instruction"), "")),
    })
}

/// A trigger keeps its text and its here-documents.
pub(crate) fn trigger(line: &Logical, range: Range<usize>, instruction: Instruction) -> Result<Kind, Diagnostic> {
    let documents = instruction.heredocs.iter();
    let documents: String = documents
        .map(|document| format!("\n{}{}", document.content, document.name))
        .collect();
    Ok(Kind::OnBuild(Trigger {
        expression: format!("{}{documents}", &line.text[range]),
        instruction: Box::new(instruction),
    }))
}

fn from(body: &Body<'_>) -> Result<From, Diagnostic> {
    let words = body.blank_separated();
    let (base, as_keyword, name) = match words.as_slice() {
        [base] => (base, None, None),
        [base, word, name] if word.text.eq_ignore_ascii_case("as") => (base, Some(word), Some(name)),
        _ => {
            return Err(body.error(
                "FROM takes an image and a name",
                "write FROM IMAGE or FROM IMAGE AS NAME",
            ));
        }
    };
    if let Some(name) = name {
        let lower = name.text.to_lowercase();
        let begins = lower.starts_with(|first: char| first.is_ascii_lowercase());
        let rest = |next: char| next.is_ascii_lowercase() || next.is_ascii_digit() || "-_.".contains(next);
        if !begins || !lower.chars().all(rest) {
            let help = "begin with a letter, then use letters, digits, - _ and .".to_string();
            return Err(Diagnostic::error(name.span, format!("'{}' cannot name a stage", name.text)).help(help));
        }
    }
    Ok(From {
        base: base.clone(),
        name: name.cloned(),
        as_keyword: as_keyword.cloned(),
        platform: body.flags.text("platform"),
    })
}

fn arguments(body: &Body<'_>) -> Result<Vec<Argument>, Diagnostic> {
    let words = outside_quotes(&body.line.text, body.range.clone(), body.escape);
    if words.is_empty() {
        return Err(body.error("ARG needs a name", "write ARG NAME or ARG NAME=DEFAULT"));
    }
    let argument = |(range, text): (Range<usize>, String)| {
        let word = |text: &str| Word {
            text: text.to_string(),
            span: body.line.span(range.clone()),
        };
        let (name, default) = match text.split_once('=') {
            Some((name, default)) => (name, Some(word(default))),
            None => (text.as_str(), None),
        };
        if name.is_empty() {
            return Err(Diagnostic::error(
                body.line.span(range),
                "the name before '=' is missing",
            ));
        }
        Ok(Argument {
            name: word(name),
            default,
        })
    };
    words.into_iter().map(argument).collect()
}

fn pairs(body: &Body<'_>) -> Result<Vec<Pair>, Diagnostic> {
    let keyword = body.keyword;
    let words = outside_quotes(&body.line.text, body.range.clone(), body.escape);
    let Some((_, first)) = words.first() else {
        return Err(body.error(
            format!("{keyword} needs a name and a value"),
            &format!("write {keyword} NAME=VALUE"),
        ));
    };
    if !first.contains('=') {
        return legacy_pair(body);
    }
    let pair = |(range, text): (Range<usize>, String)| {
        let span = body.line.span(range);
        let Some((key, value)) = text.split_once('=') else {
            let message = format!("'{text}' has no '='");
            let help = format!("write {keyword} NAME=VALUE, in quotes if the value has blanks");
            return Err(Diagnostic::error(span, message).help(help));
        };
        if key.is_empty() {
            return Err(Diagnostic::error(span, "the name before '=' is missing"));
        }
        let word = |text: &str| Word {
            text: text.to_string(),
            span,
        };
        Ok(Pair {
            key: word(key),
            value: word(value),
            legacy: false,
        })
    };
    words.into_iter().map(pair).collect()
}

/// `ENV NAME the rest of the line`.
fn legacy_pair(body: &Body<'_>) -> Result<Vec<Pair>, Diagnostic> {
    let parts = at_blanks(&body.line.text, body.range.clone());
    let (Some(key), Some(second)) = (parts.first(), parts.get(1)) else {
        let (keyword, name) = (body.keyword, body.text());
        return Err(body.error(
            format!("{keyword} {name} has no value"),
            &format!("write {keyword} {name}=VALUE"),
        ));
    };
    Ok(vec![Pair {
        key: body.line.word(key.clone()),
        value: body.line.word(second.start..body.range.end),
        legacy: true,
    }])
}

fn expose(body: &Body<'_>) -> Result<Vec<Word>, Diagnostic> {
    let ports = body.blank_separated();
    if ports.is_empty() {
        return Err(body.error("EXPOSE needs a port", "write EXPOSE 8080 or EXPOSE 53/udp"));
    }
    Ok(ports)
}

fn volumes(body: &Body<'_>) -> Result<Vec<Word>, Diagnostic> {
    let volumes = body.list()?;
    if volumes.is_empty() {
        return Err(body.error("VOLUME needs a folder", "write VOLUME /path or VOLUME [\"/path\"]"));
    }
    Ok(volumes)
}

fn shell(body: &Body<'_>) -> Result<Vec<String>, Diagnostic> {
    match json_array(body.text()) {
        Json::Strings(words) if !words.is_empty() => Ok(words),
        Json::OtherValues => Err(not_strings(body.span)),
        Json::Strings(_) | Json::None => Err(body.error(
            "SHELL needs a JSON array of the shell and its options",
            "write SHELL [\"/bin/bash\", \"-c\"]",
        )),
    }
}

fn health(body: &Body<'_>) -> Result<HealthText, Diagnostic> {
    let parts = at_blanks(&body.line.text, body.range.clone());
    let usage = "write HEALTHCHECK CMD command, or HEALTHCHECK NONE";
    let Some(first) = parts.first() else {
        return Err(body.error("HEALTHCHECK needs a command", usage));
    };
    match body.line.text[first.clone()].to_ascii_uppercase().as_str() {
        "NONE" if parts.len() == 1 => Ok(HealthText::None),
        "NONE" => Err(body.error("HEALTHCHECK NONE takes no arguments", "")),
        "CMD" => {
            let range = trimmed(&body.line.text, first.end..body.range.end);
            if range.is_empty() {
                return Err(body.error("HEALTHCHECK CMD needs a command", usage));
            }
            let command = command_line(body.line, range)?;
            if command == CommandLine::Exec(Vec::new()) {
                return Err(body.error("HEALTHCHECK CMD needs a command", usage));
            }
            Ok(HealthText::Command {
                command,
                interval: interval(body, "interval")?,
                timeout: interval(body, "timeout")?,
                start_period: interval(body, "start-period")?,
                start_interval: interval(body, "start-interval")?,
                retries: retries(body)?,
            })
        }
        _ => Err(
            Diagnostic::error(body.line.span(first.clone()), "HEALTHCHECK takes CMD or NONE").help(usage.to_string()),
        ),
    }
}

fn interval(body: &Body<'_>, flag: &str) -> Result<Duration, Diagnostic> {
    let Some(word) = body.flags.text(flag).filter(|word| !word.text.is_empty()) else {
        return Ok(Duration::ZERO);
    };
    match duration::parse(&word.text) {
        Some(duration) if duration.is_zero() || duration >= HEALTH_INTERVAL_MIN => Ok(duration),
        Some(_) => Err(Diagnostic::error(
            word.span,
            format!("--{flag} cannot be less than 1ms"),
        )),
        None => {
            let help = "write a number and a unit, such as 30s, 1m30s or 500ms".to_string();
            Err(Diagnostic::error(word.span, format!("'{}' is no duration", word.text)).help(help))
        }
    }
}

fn retries(body: &Body<'_>) -> Result<u32, Diagnostic> {
    let Some(word) = body.flags.text("retries").filter(|word| !word.text.is_empty()) else {
        return Ok(0);
    };
    let number: Option<i32> = word.text.parse().ok();
    number.and_then(|number| u32::try_from(number).ok()).ok_or_else(|| {
        Diagnostic::error(
            word.span,
            format!("--retries={}: write a number, 0 for the default", word.text),
        )
    })
}
