//! `COPY` and `ADD`, with every variable replaced.

use gantry_model::Digest;

use super::resolve::{Outcome, Resolver};
use crate::ast::{CopyText, Instruction, Word};
use crate::diagnostic::{Diagnostic, Rule};
use crate::expand::Lexer;
use crate::operation::{Add, AddSource, Chmod, Copy, GitSource, InlineFile, Operation, Source};
use crate::parse::marker;
use crate::paths::{absolute_keeping_slash, below_root, file_name};

/// Name of a download whose address has none.
const UNNAMED: &str = "__unnamed__";

/// What `COPY` and `ADD` have in common.
struct Expanded {
    sources: Vec<(Word, String)>,
    files: Vec<InlineFile>,
    /// As the history shows it.
    destination_text: String,
    destination: String,
    chown: Option<String>,
    chmod: Option<Chmod>,
    exclude: Vec<String>,
    keyword: &'static str,
    /// `--chown=…`, `--chmod=…`, as the history shows them.
    flags: Vec<String>,
}

/// Paths with their places, and here-documents as files.
#[derive(Default)]
struct Sources {
    paths: Vec<(Word, String)>,
    files: Vec<InlineFile>,
}

impl Resolver<'_> {
    pub(super) fn copy(&mut self, instruction: &Instruction, text: &CopyText) -> Outcome {
        let expanded = self.expanded(instruction, text, "COPY")?;
        let from = match &text.from {
            Some(from) => self.source(from)?,
            None => Source::Context,
        };
        let mut sources = Vec::new();
        for (word, source) in &expanded.sources {
            let what = match GitSource::parse(source) {
                Some(_) => Some("a repository"),
                None if is_http(source) => Some("a URL"),
                None => None,
            };
            if let Some(what) = what {
                let help = format!("use ADD {source}");
                return Err(Diagnostic::error(word.span, format!("COPY cannot take {what}")).help(help));
            }
            if from == Source::Context {
                self.check_ignored("copy", word, source);
            }
            sources.push(source_path(source, text.parents));
        }
        let history = expanded.history(text.parents);
        let copy = Copy {
            from,
            sources,
            files: expanded.files,
            destination: expanded.destination,
            chown: expanded.chown,
            chmod: expanded.chmod,
            link: text.link,
            parents: text.parents,
            exclude: expanded.exclude,
        };
        Ok((Operation::Copy(copy), Some(history)))
    }

    pub(super) fn add(&mut self, instruction: &Instruction, text: &CopyText) -> Outcome {
        let expanded = self.expanded(instruction, text, "ADD")?;
        let checksum = match &text.checksum {
            Some(word) => Some((word.clone(), self.expand(word)?)),
            None => None,
        };
        let mut sources = Vec::new();
        for (word, source) in &expanded.sources {
            sources.push(self.add_source(word, source, text, checksum.as_ref())?);
        }
        if let Some((word, _)) = &checksum {
            let remote = matches!(sources.as_slice(), [AddSource::Http { .. } | AddSource::Git(_)]);
            if !remote || !expanded.files.is_empty() {
                let message = "--checksum needs exactly one source, a URL or a repository";
                return Err(Diagnostic::error(word.span, message));
            }
        }
        let history = expanded.history(false);
        let add = Add {
            sources,
            files: expanded.files,
            destination: expanded.destination,
            chown: expanded.chown,
            chmod: expanded.chmod,
            link: text.link,
            exclude: expanded.exclude,
            unpack: text.unpack,
        };
        Ok((Operation::Add(add), Some(history)))
    }

    fn add_source(
        &mut self,
        word: &Word,
        source: &str,
        text: &CopyText,
        checksum: Option<&(Word, String)>,
    ) -> Result<AddSource, Diagnostic> {
        if let Some(git) = GitSource::parse(source) {
            let mut git = git.map_err(|reason| Diagnostic::error(word.span, reason))?;
            git.keep_git_dir = text.keep_git_dir.unwrap_or(git.keep_git_dir);
            if let Some((place, checksum)) = checksum {
                if git.checksum.as_ref().is_some_and(|own| own != checksum) {
                    return Err(Diagnostic::error(
                        place.span,
                        "--checksum differs from the one in the address",
                    ));
                }
                git.checksum = Some(checksum.clone());
            }
            return Ok(AddSource::Git(git));
        }
        if !is_http(source) {
            self.check_ignored("add", word, source);
            return Ok(AddSource::Path(below_root(source)));
        }
        let checksum = match checksum {
            Some((place, checksum)) => {
                let digest: Result<Digest, _> = checksum.parse();
                Some(digest.map_err(|error| Diagnostic::error(place.span, error.to_string()))?)
            }
            None => None,
        };
        let path = source.split(['?', '#']).next().unwrap_or_default();
        let path = path
            .split_once("://")
            .and_then(|(_, rest)| rest.split_once('/'))
            .map(|(_, path)| path);
        let name = path.map(file_name).filter(|name| !name.is_empty()).unwrap_or(UNNAMED);
        Ok(AddSource::Http {
            url: source.to_string(),
            file_name: name.to_string(),
            checksum,
        })
    }

    fn expanded(
        &mut self,
        instruction: &Instruction,
        text: &CopyText,
        keyword: &'static str,
    ) -> Result<Expanded, Diagnostic> {
        let chown = text
            .chown
            .as_ref()
            .map(|word| self.expand(word))
            .transpose()?
            .filter(|owner| !owner.is_empty());
        let chmod_text = text
            .chmod
            .as_ref()
            .map(|word| self.expand(word))
            .transpose()?
            .filter(|mode| !mode.is_empty());
        let chmod = match (&text.chmod, &chmod_text) {
            (Some(word), Some(mode)) => Some(Chmod::parse(mode).ok_or_else(|| {
                let help = "write an octal number up to 7777, or letters such as u=rwX,go=rX".to_string();
                Diagnostic::error(word.span, format!("'{mode}' is no mode")).help(help)
            })?),
            _ => None,
        };
        let flag = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("--{name}={value}"));
        let flags = [flag("chown", &chown), flag("chmod", &chmod_text)];
        let Sources { paths, files } = self.expanded_sources(instruction, text)?;
        let destination_text = self.expand(&text.destination)?;
        let exclude = text
            .exclude
            .iter()
            .map(|word| self.expand(word))
            .collect::<Result<_, _>>()?;
        Ok(Expanded {
            destination: absolute_keeping_slash(self.working_dir(), &destination_text),
            sources: paths,
            files,
            destination_text,
            chown,
            chmod,
            exclude,
            keyword,
            flags: flags.into_iter().flatten().collect(),
        })
    }

    fn expanded_sources(&mut self, instruction: &Instruction, text: &CopyText) -> Result<Sources, Diagnostic> {
        let mut sources = Sources::default();
        let mut documents = instruction.heredocs.iter();
        for word in &text.sources {
            let document = if marker(&word.text).is_some() {
                documents.next()
            } else {
                None
            };
            let Some(document) = document else {
                sources.paths.push((word.clone(), self.expand(word)?));
                continue;
            };
            let mut content = document.text();
            if document.expand {
                let whole = Word {
                    text: content,
                    span: document.span,
                };
                content = self.expand_with(Lexer::document(), &whole)?.text;
            }
            sources.files.push(InlineFile {
                name: document.name.clone(),
                content,
            });
        }
        if sources.paths.iter().any(|(_, source)| source.is_empty()) {
            return Err(Diagnostic::error(
                instruction.span,
                "a source is empty after variables are replaced",
            ));
        }
        let many = sources.paths.len() + sources.files.len() > 1;
        let destination = &text.destination;
        if many && !destination.text.contains('$') && !is_folder(&destination.text) {
            let message = format!(
                "several sources need a folder, and '{}' does not end with '/'",
                destination.text
            );
            return Err(Diagnostic::error(destination.span, message).help(format!("write {}/", destination.text)));
        }
        Ok(sources)
    }

    /// Rules with exceptions cannot be judged without the files.
    fn check_ignored(&mut self, act: &str, word: &Word, source: &str) {
        let Some(rules) = &self.graph.shared.options.ignore else {
            return;
        };
        if rules.has_exceptions() || !rules.is_ignored(&below_root(source)) {
            return;
        }
        let message = format!("attempting to {act} file \"{source}\" that is excluded by .dockerignore");
        let check = self.check.clone();
        self.lints.add(&check, Rule::CopyIgnoredFile, word.span, message);
    }
}

impl Expanded {
    fn history(&self, parents: bool) -> String {
        let mut text = self.keyword.to_string();
        let parents = parents.then(|| "--parents".to_string());
        let sources = self.sources.iter().map(|(_, source)| source.clone());
        let files = self.files.iter().map(|file| format!("<<{}", file.name));
        for part in parents
            .into_iter()
            .chain(self.flags.iter().cloned())
            .chain(sources)
            .chain(files)
        {
            text.push(' ');
            text.push_str(&part);
        }
        format!("{text} {} # buildkit", self.destination_text)
    }
}

fn is_http(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

fn is_folder(path: &str) -> bool {
    path.ends_with('/') || path == "." || path == ".." || path.ends_with("/.") || path.ends_with("/..")
}

/// With `--parents`, `/./` in the middle stays: what comes before it is not part of the destination.
fn source_path(source: &str, parents: bool) -> String {
    match source.split_once("/./") {
        Some((before, kept)) if parents => format!("{}/./{}", below_root(before), below_root(kept)),
        _ => below_root(source),
    }
}
