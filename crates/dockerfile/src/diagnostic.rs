//! What is wrong with a Dockerfile, and where.

use std::fmt;

use gantry_model::{Class, Problem};
use serde::{Deserialize, Serialize};

/// Whether the Dockerfile can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but something in it is likely not what its author wants.
    Warning,
}

/// A piece of the file; lines and columns start at 1, columns count characters, the end is exclusive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First line.
    pub line: u32,
    /// First column.
    pub column: u32,
    /// Line of the end.
    pub end_line: u32,
    /// Column just after the last character.
    pub end_column: u32,
}

impl Span {
    /// From the beginning of this to the end of `other`.
    #[must_use]
    pub const fn to(self, other: Self) -> Self {
        Self {
            line: self.line,
            column: self.column,
            end_line: other.end_line,
            end_column: other.end_column,
        }
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $description:literal,)*) => {
        /// A check that `docker build --check` makes too, by the same name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name, as `# check=skip=` takes it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// What the rule asks for.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$name => $description,)*
                }
            }
        }
    };
}

rules! {
    /// `FROM x AS Build`.
    StageNameCasing = "stage names should be lowercase",
    /// `FROM x as build`.
    FromAsCasing = "the 'as' keyword should match the case of the 'from' keyword",
    /// A continued instruction with an empty line inside.
    NoEmptyContinuation = "empty continuation lines will become errors in a future release",
    /// `RUN` here, `copy` there.
    ConsistentInstructionCasing = "all instructions of a Dockerfile should use the same casing",
    /// Two stages of one name.
    DuplicateStageName = "stage names should be unique",
    /// A stage named `scratch` or `context`.
    ReservedStageName = "reserved words should not be used as stage names",
    /// `CMD make serve`.
    JSONArgsRecommended = "JSON arguments pass signals on to the program; a shell in between does not",
    /// `MAINTAINER someone`.
    MaintainerDeprecated = "MAINTAINER is deprecated, use a label",
    /// `FROM $BASE` without `ARG BASE`.
    UndefinedArgInFrom = "FROM must use declared arguments",
    /// `WORKDIR app` as the first of its stage.
    WorkdirRelativePath = "a relative WORKDIR depends on the base image",
    /// `$NAME` without `ARG` or `ENV`.
    UndefinedVar = "variables should be defined before their use",
    /// Two `CMD` in one stage.
    MultipleInstructionsDisallowed = "only the last of several CMD, ENTRYPOINT or HEALTHCHECK counts",
    /// `ENV name value`.
    LegacyKeyValueFormat = "the key/value format with a space should not be used",
    /// The base image is for another platform.
    InvalidBaseImagePlatform = "the base image's platform is not the one asked for",
    /// `FROM --platform=$TARGETPLATFORM`.
    RedundantTargetPlatform = "$TARGETPLATFORM is the default already",
    /// `ARG PASSWORD`.
    SecretsUsedInArgOrEnv = "ARG and ENV stay in the image; use a secret mount",
    /// `ARG TAG` and `FROM image:$TAG`.
    InvalidDefaultArgInFrom = "without build arguments the base image's name is empty or invalid",
    /// `FROM --platform=linux/amd64`.
    FromPlatformFlagConstDisallowed = "FROM --platform should not be constant",
    /// `COPY` of what `.dockerignore` leaves out.
    CopyIgnoredFile = "the file is left out by .dockerignore",
    /// A comment just above `FROM` or `ARG` that does not begin with the name.
    InvalidDefinitionDescription = "a comment above a stage or argument should begin with its name",
    /// `EXPOSE 80/TCP`.
    ExposeProtoCasing = "the protocol of EXPOSE should be lowercase",
    /// `EXPOSE 127.0.0.1:80:80`.
    ExposeInvalidFormat = "EXPOSE takes no addresses and no ports of the host",
}

impl Rule {
    /// The rule of this name, whatever its casing.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|rule| rule.name().eq_ignore_ascii_case(name))
    }

    /// Runs only where `# check=experimental=` names it; BuildKit calls these experimental.
    #[must_use]
    pub const fn is_experimental(self) -> bool {
        matches!(self, Self::InvalidDefinitionDescription | Self::CopyIgnoredFile)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A message about one place of the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The check that found it; errors have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// Where; absent when it is about no line, such as an unknown target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// The next thing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            rule: None,
            span: span.into(),
            message: message.into(),
            help: None,
        }
    }

    /// A warning of a rule at a place.
    pub fn warning(rule: Rule, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            rule: Some(rule),
            span: Some(span),
            message: message.into(),
            help: None,
        }
    }

    /// Adds the next thing to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<Option<String>>) -> Self {
        self.help = help.into();
        self
    }

    /// The same for a person who does not see the file: `NAME:LINE` is the object.
    #[must_use]
    pub fn problem(&self, name: &str) -> Problem {
        let object = match self.span {
            Some(span) => format!("{name}:{}", span.line),
            None => name.to_string(),
        };
        Problem::new(Class::Invalid, object, self.message.clone()).remedy(self.help.clone().unwrap_or_default())
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(span) = self.span {
            write!(formatter, "line {}: ", span.line)?;
        }
        formatter.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(formatter, " ({help})"),
            None => Ok(()),
        }
    }
}
