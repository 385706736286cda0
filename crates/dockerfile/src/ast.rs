//! A Dockerfile as it was written: instructions with their places, nothing replaced yet.
//!
//! **Invariant:** every instruction is complete and its flags are known; what depends on variables or on other stages is not
//! checked here but in [`plan`](crate::plan()).

use std::time::Duration;

use crate::diagnostic::{Diagnostic, Span};

/// A text and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// As written, quotes and variables included.
    pub text: String,
    /// Where.
    pub span: Span,
}

/// A parsed Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// What the first comments ask for.
    pub directives: Directives,
    /// `ARG` before the first `FROM`.
    pub arguments: Vec<Instruction>,
    /// At least one.
    pub stages: Vec<StageText>,
    /// Warnings that need no plan, in the order of lines. Skipped rules are not among them.
    pub warnings: Vec<Diagnostic>,
}

/// Parser directives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: the frontend that the author expects. Reported, never fetched: this crate is the frontend.
    pub syntax: Option<Word>,
    /// `` # escape=` ``.
    pub escape: char,
    /// `# check=`.
    pub check: CheckOptions,
}

/// Which rules run: `# check=skip=…;error=true;experimental=…`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// None at all.
    pub skip_all: bool,
    /// All but these.
    pub skip: Vec<crate::Rule>,
    /// A warning fails the build.
    pub error: bool,
    /// All experimental rules run too.
    pub experimental_all: bool,
    /// These experimental rules run too.
    pub experimental: Vec<crate::Rule>,
}

/// A stage: `FROM` and what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageText {
    /// The `FROM` instruction.
    pub from: Instruction,
    /// What it says.
    pub base: From,
    /// The others.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// From the keyword to the last character, here-documents included.
    pub span: Span,
    /// The keyword as written.
    pub keyword: Word,
    /// The whole as one line: continuations joined, here-documents left out, trimmed.
    pub text: String,
    /// Comments on the lines just above, without `#`.
    pub comments: Vec<Word>,
    /// Bodies of `<<WORD`, in order.
    pub heredocs: Vec<Heredoc>,
    /// What it says.
    pub kind: Kind,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `ADD`.
    Add(CopyText),
    /// `ARG`.
    Arg(Vec<Argument>),
    /// `CMD`.
    Cmd(CommandLine),
    /// `COPY`.
    Copy(CopyText),
    /// `ENTRYPOINT`.
    Entrypoint(CommandLine),
    /// `ENV`.
    Env(Vec<Pair>),
    /// `EXPOSE`.
    Expose(Vec<Word>),
    /// `FROM`.
    From(From),
    /// `HEALTHCHECK`.
    HealthCheck(HealthText),
    /// `LABEL`.
    Label(Vec<Pair>),
    /// `MAINTAINER`.
    Maintainer(Word),
    /// `ONBUILD`.
    OnBuild(Trigger),
    /// `RUN`.
    Run(RunText),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `STOPSIGNAL`.
    StopSignal(Word),
    /// `USER`.
    User(Word),
    /// `VOLUME`.
    Volume(Vec<Word>),
    /// `WORKDIR`.
    Workdir(Word),
}

/// `FROM [--platform=] BASE [AS NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Image, stage or `scratch`, with variables.
    pub base: Word,
    /// Name of the stage as written.
    pub name: Option<Word>,
    /// `AS` as written.
    pub as_keyword: Option<Word>,
    /// `--platform`, with variables.
    pub platform: Option<Word>,
}

/// A command in either form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// A line for the shell.
    Shell(Word),
    /// `["program", "argument"]`.
    Exec(Vec<String>),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunText {
    /// What to run.
    pub command: CommandLine,
    /// `--mount`, unexpanded.
    pub mounts: Vec<Word>,
    /// `--network`.
    pub network: Option<Word>,
    /// `--security`.
    pub security: Option<Word>,
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyText {
    /// Files, folders, patterns, URLs; `<<WORD` stands for its here-document.
    pub sources: Vec<Word>,
    /// Where to.
    pub destination: Word,
    /// `--from` (COPY).
    pub from: Option<Word>,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents` (COPY).
    pub parents: bool,
    /// `--exclude`, repeatable.
    pub exclude: Vec<Word>,
    /// `--checksum` (ADD).
    pub checksum: Option<Word>,
    /// `--keep-git-dir` (ADD).
    pub keep_git_dir: Option<bool>,
    /// `--unpack` (ADD).
    pub unpack: Option<bool>,
}

/// `NAME[=DEFAULT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The name.
    pub name: Word,
    /// The default, with variables and quotes.
    pub default: Option<Word>,
}

/// `KEY=VALUE`, or `KEY VALUE` as in old files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The key, with variables and quotes.
    pub key: Word,
    /// The value, with variables and quotes.
    pub value: Word,
    /// Written with a space in between.
    pub legacy: bool,
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthText {
    /// `NONE`: switches the base image's check off.
    None,
    /// `CMD`.
    Command {
        /// What to run.
        command: CommandLine,
        /// `--interval`.
        interval: Duration,
        /// `--timeout`.
        timeout: Duration,
        /// `--start-period`.
        start_period: Duration,
        /// `--start-interval`.
        start_interval: Duration,
        /// `--retries`; zero is the default.
        retries: u32,
    },
}

/// `ONBUILD INSTRUCTION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// The instruction as an image keeps it, here-documents included.
    pub expression: String,
    /// The same, parsed.
    pub instruction: Box<Instruction>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it; the name of the file for `COPY` and `ADD`.
    pub name: String,
    /// The lines, with their line ends; tabs still there.
    pub content: String,
    /// `<<-`: tabs at the beginning of lines do not count.
    pub chomp: bool,
    /// Variables in it are replaced (the word had no quotes).
    pub expand: bool,
    /// Where `<<WORD` stands.
    pub span: Span,
}

impl Heredoc {
    /// The content, without tabs at the beginning of lines where `<<-` asks for that.
    #[must_use]
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        let lines = self.content.split_inclusive('\n');
        lines.map(|line| line.trim_start_matches('\t')).collect()
    }
}
