//! What a stage does, with every variable replaced: the builder's orders.

use std::collections::BTreeMap;

use gantry_model::{ByteSize, Digest, ImageReference};

use crate::diagnostic::Span;
use crate::key::{Key, KeyBuilder};
use crate::plan::StageId;

/// One instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where it stands; for a trigger of the base image, where `FROM` does.
    pub span: Span,
    /// `[build 2/5] RUN make`, as progress shows it; instructions that only change the configuration have no number.
    pub title: String,
    /// It came from the base image's `ONBUILD`.
    pub on_build: bool,
    /// What to do.
    pub operation: Operation,
    /// What the image's history says of it.
    pub history: History,
}

/// An entry of an image's history, without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// As BuildKit writes it: `RUN /bin/sh -c make # buildkit`.
    pub created_by: String,
    /// No layer belongs to it.
    pub empty_layer: bool,
}

impl History {
    /// The `comment` of every entry.
    pub const COMMENT: &'static str = "buildkit.dockerfile.v0";
}

/// What to do for one instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// `RUN`.
    Run(Box<Run>),
    /// `COPY`.
    Copy(Copy),
    /// `ADD`.
    Add(Add),
    /// `WORKDIR`.
    MakeFolder(MakeFolder),
    /// Everything else: only the configuration changes, and [`ResolvedStage::config`](crate::ResolvedStage) has it already.
    Config,
}

/// Runs a command in the tree so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Program and arguments; shell and options come first for the shell form.
    pub args: Vec<String>,
    /// A here-document with its own interpreter; `args` runs it.
    pub script: Option<Script>,
    /// The image's variables and the arguments in scope, in order.
    pub env: Vec<(String, String)>,
    /// `HTTP_PROXY` and its like from `--build-arg`: for the process, but neither in the key nor in the history.
    pub proxy: BTreeMap<String, String>,
    /// Absolute.
    pub working_dir: String,
    /// `user[:group]`; empty is root.
    pub user: String,
    /// In the order given.
    pub mounts: Vec<Mount>,
    /// Which network it has.
    pub network: Network,
    /// What it may do.
    pub security: Security,
}

/// A here-document that is run as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Absolute path at which the command sees it (read-only, mode 0755): `/dev/pipes/EOF`.
    pub path: String,
    /// It begins with `#!`.
    pub content: String,
}

/// `RUN --network`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// What the build has.
    #[default]
    Default,
    /// Loopback alone.
    None,
    /// The machine's; the person must allow it.
    Host,
}

/// `RUN --security`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Security {
    /// As containers are.
    #[default]
    Sandbox,
    /// All capabilities; the person must allow it.
    Insecure,
}

/// `RUN --mount`. Targets are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// Part of a tree.
    Bind {
        /// Absolute path in the container.
        target: String,
        /// Which tree.
        from: Source,
        /// Absolute path in that tree.
        source: String,
        /// Writes fail; without it they are thrown away.
        read_only: bool,
    },
    /// A folder that stays between builds. Its content is no input: results must not depend on it.
    Cache {
        /// Absolute path in the container.
        target: String,
        /// Which one.
        id: String,
        /// Who else may use it at the same time.
        sharing: Sharing,
        /// What a new one begins with; nothing when absent.
        from: Option<Source>,
        /// Absolute path in that tree.
        source: String,
        /// Writes fail.
        read_only: bool,
        /// Mode of a new one; 0755 when absent.
        mode: Option<u32>,
        /// Owner of a new one.
        uid: u32,
        /// Group of a new one.
        gid: u32,
    },
    /// Memory.
    Tmpfs {
        /// Absolute path in the container.
        target: String,
        /// Its limit.
        size: Option<ByteSize>,
    },
    /// A secret, as a file, a variable or both.
    Secret {
        /// Which one.
        id: String,
        /// Absolute path of the file, if any.
        target: Option<String>,
        /// Variable that holds it, if any.
        variable: Option<String>,
        /// The build fails without it.
        required: bool,
        /// 0400 when absent.
        mode: Option<u32>,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A socket to the person's SSH agent; `SSH_AUTH_SOCK` names it.
    Ssh {
        /// Which one; `default`.
        id: String,
        /// Absolute path of the socket; `/run/buildkit/ssh_agent.N` (N counts from 0) when none was given.
        target: String,
        /// The build fails without it.
        required: bool,
        /// 0600 when absent.
        mode: Option<u32>,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// `sharing=` of a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sharing {
    /// All at once.
    #[default]
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

/// A tree to take files from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The build's context.
    Context,
    /// The tree of a stage when it is done.
    Stage(StageId),
    /// The tree of an image.
    Image(ImageReference),
    /// `--build-context NAME=`.
    Named(String),
    /// Nothing.
    Scratch,
}

/// Copies files into the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Which tree.
    pub from: Source,
    /// Paths and patterns (`*`, `?`, `[…]`, `**`) below the tree's root, without a leading `/`; `.` is all. With `parents`, a
    /// `./` in the middle is where the kept part begins.
    pub sources: Vec<String>,
    /// Here-documents.
    pub files: Vec<InlineFile>,
    /// Absolute; ends with `/` where the author wrote so: then it is a folder.
    pub destination: String,
    /// `user[:group]`, names or numbers; root when absent.
    pub chown: Option<String>,
    /// Mode of what is copied; kept when absent.
    pub chmod: Option<Chmod>,
    /// The layer stands on its own: it is made on an empty tree, whatever is below.
    pub link: bool,
    /// Folders above each source are made too.
    pub parents: bool,
    /// Patterns that are left out.
    pub exclude: Vec<String>,
}

/// A here-document that becomes a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// Its name.
    pub name: String,
    /// Variables replaced, tabs gone where asked.
    pub content: String,
}

/// Copies, downloads or unpacks into the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// In order.
    pub sources: Vec<AddSource>,
    /// Here-documents.
    pub files: Vec<InlineFile>,
    /// As in [`struct@Copy`].
    pub destination: String,
    /// As in [`struct@Copy`].
    pub chown: Option<String>,
    /// As in [`struct@Copy`].
    pub chmod: Option<Chmod>,
    /// As in [`struct@Copy`].
    pub link: bool,
    /// As in [`struct@Copy`].
    pub exclude: Vec<String>,
    /// Archives are unpacked: those of the context unless `--unpack=false`, downloads only with `--unpack`.
    pub unpack: Option<bool>,
}

/// What `ADD` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddSource {
    /// Of the context, as in [`Copy::sources`].
    Path(String),
    /// A download.
    Http {
        /// The address.
        url: String,
        /// Name of the file when the destination is a folder.
        file_name: String,
        /// What it must be.
        checksum: Option<Digest>,
    },
    /// A repository's files.
    Git(GitSource),
}

/// A commit of a Git repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSource {
    /// What `git fetch` takes.
    pub remote: String,
    /// Branch, tag or commit; the remote's default when absent.
    pub reference: Option<String>,
    /// Part of the tree; all when absent.
    pub folder: Option<String>,
    /// `.git` is kept.
    pub keep_git_dir: bool,
    /// The commit that it must be.
    pub checksum: Option<String>,
    /// Submodules are fetched too.
    pub submodules: bool,
}

/// Makes the folder of `WORKDIR` and those above it, where they are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MakeFolder {
    /// Absolute, not `/`.
    pub path: String,
    /// Owner of new folders: `user[:group]`, empty is root.
    pub user: String,
}

/// `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// `0755`.
    Octal(u32),
    /// `u=rwX,go=rX`; [`Chmod::apply`] says what comes of it.
    Symbolic(String),
}

/// Content that goes into an operation; the builder finds its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<'o> {
    /// Everything that a source names, with paths, modes and owners as far as they are kept, symbolic links followed on the
    /// way to it.
    Files {
        /// Which tree.
        from: &'o Source,
        /// As in [`Copy::sources`].
        pattern: &'o str,
        /// What is left out.
        exclude: &'o [String],
        /// The path is part of what is copied.
        parents: bool,
    },
    /// Part of a tree as a mount shows it.
    Tree {
        /// Which tree.
        from: &'o Source,
        /// Absolute path.
        path: &'o str,
    },
    /// A download: its content's digest.
    Http {
        /// The address.
        url: &'o str,
    },
    /// A repository: the commit that the reference names now.
    Git(&'o GitSource),
}

impl Operation {
    /// What must be digested before [`Operation::key`], in its order.
    #[must_use]
    pub fn inputs(&self) -> Vec<Input<'_>> {
        match self {
            Self::Run(run) => run.mounts.iter().filter_map(Mount::input).collect(),
            Self::Copy(copy) => copy.inputs().collect(),
            Self::Add(add) => add.inputs().collect(),
            Self::MakeFolder(_) | Self::Config => Vec::new(),
        }
    }

    /// The stages whose trees it takes from.
    #[must_use]
    pub fn stages(&self) -> Vec<StageId> {
        let stage = |source: &Source| match source {
            Source::Stage(id) => Some(*id),
            Source::Context | Source::Image(_) | Source::Named(_) | Source::Scratch => None,
        };
        match self {
            Self::Run(run) => run.mounts.iter().filter_map(Mount::from).filter_map(stage).collect(),
            Self::Copy(copy) => stage(&copy.from).into_iter().collect(),
            Self::Add(_) | Self::MakeFolder(_) | Self::Config => Vec::new(),
        }
    }

    /// The key of the layer that it makes on the tree of `parent`, from inputs with these digests. The tree afterwards is
    /// `parent.with_layer(key)`. `None` where it makes no layer.
    #[must_use]
    pub fn key(&self, parent: Key, inputs: &[Digest]) -> Option<Key> {
        let key = match self {
            Self::Run(run) => run.describe(KeyBuilder::new("run").key(parent)),
            Self::Copy(copy) => copy.describe(KeyBuilder::new("copy"), parent),
            Self::Add(add) => add.describe(KeyBuilder::new("add"), parent),
            Self::MakeFolder(folder) => KeyBuilder::new("folder")
                .key(parent)
                .text(&folder.path)
                .text(&folder.user),
            Self::Config => return None,
        };
        let digests: Vec<String> = inputs.iter().map(ToString::to_string).collect();
        Some(key.texts(digests.iter().map(String::as_str)).finish())
    }
}

impl Run {
    fn describe(&self, key: KeyBuilder) -> KeyBuilder {
        let env: Vec<String> = self.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let key = key
            .texts(self.args.iter().map(String::as_str))
            .texts(env.iter().map(String::as_str))
            .text(&self.working_dir)
            .text(&self.user)
            .text(&format!("{:?} {:?}", self.network, self.security))
            .option(self.script.as_ref().map(|script| script.path.as_str()))
            .option(self.script.as_ref().map(|script| script.content.as_str()));
        let mounts: Vec<String> = self.mounts.iter().map(Mount::describe).collect();
        key.texts(mounts.iter().map(String::as_str))
    }
}

impl Mount {
    /// The tree that it shows.
    #[must_use]
    pub const fn from(&self) -> Option<&Source> {
        match self {
            Self::Bind { from, .. } => Some(from),
            Self::Cache { from, .. } => from.as_ref(),
            Self::Tmpfs { .. } | Self::Secret { .. } | Self::Ssh { .. } => None,
        }
    }

    /// Absolute path in the container; a secret may have none.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Bind { target, .. }
            | Self::Cache { target, .. }
            | Self::Tmpfs { target, .. }
            | Self::Ssh { target, .. } => Some(target),
            Self::Secret { target, .. } => target.as_deref(),
        }
    }

    fn input(&self) -> Option<Input<'_>> {
        match self {
            Self::Bind { from, source, .. } => Some(Input::Tree { from, path: source }),
            Self::Cache { .. } | Self::Tmpfs { .. } | Self::Secret { .. } | Self::Ssh { .. } => None,
        }
    }

    /// Everything about it but where its tree comes from: that is an input by content.
    fn describe(&self) -> String {
        match self {
            Self::Bind { target, read_only, .. } => format!("bind {read_only} {target}"),
            Self::Cache { target, id, .. } => format!("cache {} {id} {target}", id.len()),
            Self::Tmpfs { target, size } => format!("tmpfs {size:?} {target}"),
            Self::Secret {
                id, target, variable, ..
            } => format!("secret {} {id} {target:?} {variable:?}", id.len()),
            Self::Ssh { id, target, .. } => format!("ssh {} {id} {target}", id.len()),
        }
    }
}

impl Copy {
    fn inputs(&self) -> impl Iterator<Item = Input<'_>> {
        self.sources.iter().map(|pattern| Input::Files {
            from: &self.from,
            pattern,
            exclude: &self.exclude,
            parents: self.parents,
        })
    }

    /// A linked layer is the same on every tree. The names of sources are in their digests where they matter; here they
    /// count only as far as they decide the name at the destination.
    fn describe(&self, key: KeyBuilder, parent: Key) -> KeyBuilder {
        let key = if self.link {
            key.flag(true)
        } else {
            key.flag(false).key(parent)
        };
        describe_placement(key.flag(self.parents), self)
    }
}

/// What `COPY` and `ADD` share about where files go and as whose.
fn describe_placement(key: KeyBuilder, copy: &Copy) -> KeyBuilder {
    let chmod = copy.chmod.as_ref().map(|chmod| format!("{chmod:?}"));
    let files = copy
        .files
        .iter()
        .flat_map(|file| [file.name.as_str(), file.content.as_str()]);
    let files: Vec<&str> = files.collect();
    key.texts(copy.sources.iter().map(String::as_str))
        .texts(files.into_iter())
        .text(&copy.destination)
        .option(copy.chown.as_deref())
        .option(chmod.as_deref())
        .texts(copy.exclude.iter().map(String::as_str))
}

impl Add {
    fn inputs(&self) -> impl Iterator<Item = Input<'_>> {
        self.sources.iter().map(|source| match source {
            AddSource::Path(pattern) => Input::Files {
                from: &Source::Context,
                pattern,
                exclude: &self.exclude,
                parents: false,
            },
            AddSource::Http { url, .. } => Input::Http { url },
            AddSource::Git(git) => Input::Git(git),
        })
    }

    fn describe(&self, key: KeyBuilder, parent: Key) -> KeyBuilder {
        let sources = self.sources.iter().map(|source| match source {
            AddSource::Path(path) => format!("path {path}"),
            AddSource::Http { file_name, .. } => format!("http {file_name}"),
            AddSource::Git(git) => format!("git {:?} {} {}", git.folder, git.keep_git_dir, git.submodules),
        });
        let placement = Copy {
            from: Source::Context,
            sources: sources.collect(),
            files: self.files.clone(),
            destination: self.destination.clone(),
            chown: self.chown.clone(),
            chmod: self.chmod.clone(),
            link: self.link,
            parents: false,
            exclude: self.exclude.clone(),
        };
        placement.describe(key.text(&format!("{:?}", self.unpack)), parent)
    }
}
