//! The contexts of a build: where each is on this machine, and what is in it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use gantry_dockerfile::{GitSource, IgnoreRules};
use gantry_model::build::{ContextEntry, MAIN_CONTEXT};
use gantry_model::spec::BuildSpec;
use gantry_model::{Class, Problem};

use super::digests::Known;
use super::dockerfile::Text;
use super::folder::{self, Files};
use super::repository;
use super::temporary::Temporary;
use crate::failure::file_problem;

/// Largest Dockerfile or archive from standard input that is held in memory.
const STDIN_BYTES_MAX: u64 = 4 << 30;

/// Contexts of the node and not of this machine.
const OF_THE_NODE: &[&str] = &["docker-image://", "service:"];

/// The contexts, with what was fetched for them as long as they live.
pub struct Contexts {
    /// None when a Dockerfile alone came through standard input.
    main: Option<PathBuf>,
    further: BTreeMap<String, PathBuf>,
    /// The Dockerfile that came through standard input.
    pub piped: Option<String>,
    fetched: Vec<Temporary>,
}

/// What is in all contexts.
pub struct Walked {
    /// Entries by the name of the context.
    pub entries: Vec<(String, Vec<ContextEntry>)>,
    /// Where contents are.
    pub files: Files,
}

impl Contexts {
    /// Finds them; gets repositories and archives.
    ///
    /// # Errors
    /// When one is missing or cannot be had.
    pub fn open(spec: &BuildSpec) -> Result<Self, Problem> {
        let mut contexts = Self {
            main: None,
            further: BTreeMap::new(),
            piped: None,
            fetched: Vec::new(),
        };
        let dockerfile_is_piped = spec.dockerfile.as_deref() == Some("-");
        if spec.context == "-" {
            if dockerfile_is_piped {
                let problem = Problem::new(
                    Class::Invalid,
                    "standard input",
                    "is both the context and the Dockerfile",
                );
                return Err(problem.remedy("name one of them"));
            }
            contexts.take_piped(&read_stdin()?, "standard input")?;
        } else if let Some(bytes) = downloaded(&spec.context)? {
            contexts.take_piped(&bytes, &spec.context)?;
        } else {
            contexts.main = Some(contexts.locate("context", &spec.context)?);
        }
        if dockerfile_is_piped {
            contexts.piped = Some(text_of(&read_stdin()?, "standard input")?);
        }
        for (name, value) in &spec.additional_contexts {
            if !OF_THE_NODE.iter().any(|scheme| value.starts_with(scheme)) {
                let path = contexts.locate(&format!("context {name}"), value)?;
                contexts.further.insert(name.clone(), path);
            }
        }
        Ok(contexts)
    }

    /// An archive is the context, anything else the Dockerfile of one without files.
    fn take_piped(&mut self, bytes: &[u8], whence: &str) -> Result<(), Problem> {
        if !repository::is_archive(bytes) {
            self.piped = Some(text_of(bytes, whence)?);
            return Ok(());
        }
        self.main = Some(self.unpacked(bytes, whence)?);
        Ok(())
    }

    fn unpacked(&mut self, bytes: &[u8], whence: &str) -> Result<PathBuf, Problem> {
        let place = Temporary::new()?;
        let path = repository::unpack(bytes, &place, whence)?;
        self.fetched.push(place);
        Ok(path)
    }

    /// A folder as it is; a repository as a folder.
    fn locate(&mut self, what: &str, value: &str) -> Result<PathBuf, Problem> {
        if let Some(source) = GitSource::parse_context(value).filter(|_| !Path::new(value).is_dir()) {
            let source = source.map_err(|reason| Problem::new(Class::Invalid, format!("{what} {value}"), reason))?;
            let place = Temporary::new()?;
            let path = repository::clone(&source, &place)?;
            self.fetched.push(place);
            return Ok(path);
        }
        if let Some(bytes) = downloaded(value)? {
            if repository::is_archive(&bytes) {
                return self.unpacked(&bytes, value);
            }
            let problem = Problem::new(Class::Invalid, format!("{what} {value}"), "is not an archive");
            return Err(problem.remedy("name a tar, plain or with gzip"));
        }
        if value.contains("://") {
            let problem = Problem::new(
                Class::Invalid,
                format!("{what} {value}"),
                "is neither a folder, a repository nor an archive",
            );
            return Err(problem.remedy("write a path, https://…/archive.tar.gz, a Git address or docker-image://NAME"));
        }
        let path = PathBuf::from(value);
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(path),
            Ok(_) => Err(
                Problem::new(Class::Invalid, format!("{what} {value}"), "is not a folder")
                    .remedy("name the folder that COPY takes from; the Dockerfile is named with --file"),
            ),
            Err(error) => Err(file_problem("be read", &path, &error)),
        }
    }

    /// The folder of the main context, if there is one.
    pub fn main(&self) -> Option<&Path> {
        self.main.as_deref()
    }

    /// Names of those whose entries this machine sends, besides the main one.
    pub fn further_names(&self) -> Vec<String> {
        self.further.keys().cloned().collect()
    }

    /// Digests of a folder's files that are known from earlier builds; what was fetched for this one alone has none.
    fn known(&self, folder: &Path) -> Known {
        let is_passing = self.fetched.iter().any(|place| folder.starts_with(place.path()));
        if is_passing {
            Known::default()
        } else {
            Known::of(folder)
        }
    }

    /// What is in them, as far as ignore files do not leave it out.
    ///
    /// # Errors
    /// When something cannot be read or be part of a context.
    pub fn walk(&self, text: &Text) -> Result<Walked, Problem> {
        let mut walked = Walked {
            entries: Vec::new(),
            files: Files::default(),
        };
        let main = match &self.main {
            Some(path) => folder::walk(path, &text.ignore, self.known(path), &mut walked.files)?,
            None => Vec::new(),
        };
        walked.entries.push((MAIN_CONTEXT.to_string(), main));
        for (name, path) in &self.further {
            let rules = ignore_of(path)?;
            let entries = folder::walk(path, &rules, self.known(path), &mut walked.files)?;
            walked.entries.push((name.clone(), entries));
        }
        Ok(walked)
    }
}

/// The rules of a folder's own ignore file.
///
/// # Errors
/// When it is there and cannot be read or understood.
pub fn ignore_of(folder: &Path) -> Result<IgnoreRules, Problem> {
    Ok(read_ignore(&folder.join(".dockerignore"))?.unwrap_or_default())
}

/// The rules in a file, if it exists.
///
/// # Errors
/// When it is there and cannot be read or understood.
pub fn read_ignore(path: &Path) -> Result<Option<IgnoreRules>, Problem> {
    match std::fs::read_to_string(path) {
        Ok(text) => match IgnoreRules::parse(&text) {
            Ok(rules) => Ok(Some(rules)),
            Err(error) => Err(
                Problem::new(Class::Invalid, path.display().to_string(), error.to_string()).remedy("correct the line"),
            ),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_problem("be read", path, &error)),
    }
}

fn read_stdin() -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(STDIN_BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(|error| file_problem("be read", Path::new("standard input"), &error))?;
    Ok(bytes)
}

fn text_of(bytes: &[u8], whence: &str) -> Result<String, Problem> {
    std::str::from_utf8(bytes)
        .map(ToString::to_string)
        .map_err(|_| Problem::new(Class::Invalid, whence, "is neither a tar nor a Dockerfile"))
}

/// What an address that is no repository has; none for anything else. On a thread of its own, since the caller's may be one that
/// must not block.
fn downloaded(value: &str) -> Result<Option<Vec<u8>>, Problem> {
    let is_web = value.starts_with("http://") || value.starts_with("https://");
    if !is_web || GitSource::parse_context(value).is_some() {
        return Ok(None);
    }
    let download = || gantry_build::download(value, STDIN_BYTES_MAX);
    let bytes = std::thread::scope(|scope| scope.spawn(download).join()).expect("a download does not panic");
    bytes.map(Some).map_err(|error| error.into_problem("context"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};

    /// A server that sends this to whoever asks, and its address.
    fn serve(body: Vec<u8>) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let _ = lines.take_while(|line| !line.is_empty()).count();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let answered = stream.write_all(head.as_bytes());
                answered.and_then(|()| stream.write_all(&body)).expect("answered");
            }
        });
        format!("http://{address}/context")
    }

    fn open(context: String, further: Option<String>) -> Result<Contexts, Problem> {
        let mut spec = BuildSpec {
            context,
            ..BuildSpec::default()
        };
        spec.additional_contexts = further.into_iter().map(|value| ("lib".to_string(), value)).collect();
        Contexts::open(&spec)
    }

    #[test]
    fn an_address_is_an_archive_or_a_dockerfile() {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        archive.append_data(&mut header, "a", &b"a"[..]).expect("packed");
        let archive = serve(archive.into_inner().expect("packed"));
        let text = serve(b"FROM scratch\n".to_vec());
        let contexts = open(archive.clone(), Some(archive.clone())).expect("fetched");
        assert!(contexts.main().is_some_and(|main| main.join("a").is_file()));
        assert!(contexts.further["lib"].join("a").is_file() && contexts.piped.is_none());
        let contexts = open(text.clone(), None).expect("fetched");
        assert_eq!(
            (contexts.main(), contexts.piped.as_deref()),
            (None, Some("FROM scratch\n"))
        );
        let refused = |result: Result<Contexts, Problem>| result.err().expect("refused").to_string();
        let said = refused(open(archive, Some(text)));
        assert!(said.contains("is not an archive"), "{said}");
        let said = refused(open("http://127.0.0.1:1/x.tar".to_string(), None));
        assert!(said.contains("127.0.0.1:1"), "{said}");
    }
}
