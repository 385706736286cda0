//! One stage's operations, with every variable replaced.
//!
//! **Invariant:** an instruction sees the variables as they are when it begins: `ENV A=1 B=$A` gives B the former A.

use std::collections::BTreeSet;

use super::arguments::{Values, proxies};
use super::mounts::{self, Surroundings};
use super::title::{Titles, counts, describe};
use super::{Base, Graph, Inherited, ResolvedStage, Stage, StageId};
use crate::ast::{CheckOptions, CommandLine, Instruction, Kind, RunText, Word};
use crate::config::{Config, PATH_DEFAULT};
use crate::diagnostic::{Diagnostic, Rule, Span};
use crate::expand::{Lexer, expand};
use crate::lint::Lints;
use crate::operation::{History, MakeFolder, Network, Operation, Run, Script, Security, Source, Step};
use crate::parse::{marker, parse_trigger};
use crate::paths::absolute;
use crate::suggest::nearest;

/// Where a here-document with an interpreter of its own is seen.
const SCRIPT_FOLDER: &str = "/dev/pipes";

/// Images keep triggers with this escape character, whatever their Dockerfile said.
const TRIGGER_ESCAPE: char = '\\';

/// Works through a stage.
pub(super) struct Resolver<'g> {
    pub graph: &'g Graph,
    pub stage: &'g Stage,
    pub config: Config,
    /// Variables that instructions see: the configuration's and the arguments in scope.
    pub variables: Values,
    /// Declared arguments in order, with their values.
    pub arguments: Vec<(String, Option<String>)>,
    pub lints: Lints,
    /// Rules for the instruction at hand.
    pub check: CheckOptions,
    pub has_workdir: bool,
    /// Where `CMD`, `ENTRYPOINT` and `HEALTHCHECK` stood in this stage.
    pub cmd_at: Option<Span>,
    pub entrypoint_at: Option<Span>,
    pub healthcheck_at: Option<Span>,
    is_unknown: bool,
    titles: Titles,
    steps: Vec<Step>,
    needs: BTreeSet<StageId>,
}

/// What an instruction comes to: what to do, and the text of the history (`None`: no entry).
pub(super) type Outcome = Result<(Operation, Option<String>), Diagnostic>;

impl Graph {
    /// The operations of a stage that starts from what `inherited` says.
    ///
    /// # Errors
    /// Everything that is wrong with the stage's instructions, in the order of lines.
    ///
    /// # Panics
    /// When the id is another graph's.
    pub fn resolve(&self, id: StageId, inherited: &Inherited) -> Result<ResolvedStage, Vec<Diagnostic>> {
        let stage = self.stage(id);
        let text = &self.shared.dockerfile.stages[id.0 as usize];
        let replaced = matches!(stage.base, Base::Context { replaces: true, .. });
        let mut config = inherited.config.clone();
        let triggers = std::mem::take(&mut config.on_build);
        let triggers = if replaced {
            Vec::new()
        } else {
            read_triggers(&triggers, stage.span)?
        };
        let own = if replaced { &[][..] } else { &text.instructions };
        let mut resolver = Resolver::new(self, stage, config, inherited);
        resolver.titles = self.titles(stage, triggers.iter().chain(own));
        let base_title = resolver.base_title();
        let mut errors = Vec::new();
        for (instruction, on_build) in triggers
            .iter()
            .map(|one| (one, true))
            .chain(own.iter().map(|one| (one, false)))
        {
            if let Err(error) = resolver.apply(instruction, on_build) {
                errors.push(error);
            }
        }
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.span);
            return Err(errors);
        }
        Ok(resolver.finish(base_title))
    }

    fn titles<'i>(&self, stage: &Stage, instructions: impl Iterator<Item = &'i Instruction>) -> Titles {
        let of_base = usize::from(!matches!(stage.base, Base::Scratch | Base::Stage(_)));
        let total = of_base + instructions.filter(|instruction| counts(&instruction.kind)).count();
        let name = (self.stages.len() > 1).then_some(stage.name.as_str());
        Titles::new(name, total)
    }
}

fn read_triggers(triggers: &[String], span: Span) -> Result<Vec<Instruction>, Vec<Diagnostic>> {
    let read = |text: &String| {
        parse_trigger(text, TRIGGER_ESCAPE, span).map_err(|mut error| {
            error.message = format!("the base image's ONBUILD trigger '{text}': {}", error.message);
            vec![error]
        })
    };
    triggers.iter().map(read).collect()
}

impl<'g> Resolver<'g> {
    fn new(graph: &'g Graph, stage: &'g Stage, mut config: Config, inherited: &Inherited) -> Self {
        if config.variable("PATH").is_none() {
            config.set_variable("PATH", PATH_DEFAULT);
        }
        let mut variables = Values::default();
        for (name, value) in &config.env {
            variables.set(name, value);
        }
        for (name, value) in &inherited.arguments {
            if let Some(value) = value {
                variables.set(name, value);
            }
        }
        let options = graph.shared.dockerfile.directives.check.clone();
        Self {
            graph,
            stage,
            config,
            variables,
            arguments: inherited.arguments.clone(),
            lints: Lints::new(options.clone()),
            check: options,
            has_workdir: inherited.has_workdir,
            cmd_at: None,
            entrypoint_at: None,
            healthcheck_at: None,
            is_unknown: inherited.is_unknown,
            titles: Titles::new(None, 0),
            steps: Vec::new(),
            needs: BTreeSet::new(),
        }
    }

    fn base_title(&mut self) -> Option<String> {
        let base = match &self.stage.base {
            Base::Scratch | Base::Stage(_) => return None,
            Base::Image(image) => image.to_string(),
            Base::Context { name, .. } => name.clone(),
        };
        Some(self.titles.numbered(&format!("FROM {base}")))
    }

    fn apply(&mut self, instruction: &Instruction, on_build: bool) -> Result<(), Diagnostic> {
        self.check = self.lints.for_instruction(&instruction.comments);
        let shown = describe(instruction, self.escape(), &self.variables);
        let (operation, history) = self.operation(instruction)?;
        self.needs.extend(operation.stages());
        let Some(created_by) = history else { return Ok(()) };
        let has_layer = operation != Operation::Config;
        let shown = if on_build { format!("ONBUILD {shown}") } else { shown };
        let title = if has_layer { self.titles.numbered(&shown) } else { shown };
        self.steps.push(Step {
            span: instruction.span,
            title,
            on_build,
            operation,
            history: History {
                created_by,
                empty_layer: !has_layer,
            },
        });
        Ok(())
    }

    fn operation(&mut self, instruction: &Instruction) -> Outcome {
        match &instruction.kind {
            Kind::Add(add) => self.add(instruction, add),
            Kind::Copy(copy) => self.copy(instruction, copy),
            Kind::Run(run) => self.run(instruction, run),
            Kind::Workdir(path) => self.workdir(path),
            Kind::From(_) => Ok((Operation::Config, None)),
            setting => self.setting(instruction, setting),
        }
    }

    fn run(&mut self, instruction: &Instruction, text: &RunText) -> Outcome {
        let mut script = None;
        let args = match &text.command {
            CommandLine::Exec(args) if args.is_empty() => {
                return Err(Diagnostic::error(instruction.span, "RUN [] runs nothing"));
            }
            CommandLine::Exec(args) => args.clone(),
            CommandLine::Shell(line) => {
                let (line, own) = with_documents(line, instruction);
                script = own;
                match &script {
                    // It names its own interpreter.
                    Some(script) => vec![script.path.clone()],
                    None => vec![line],
                }
            }
        };
        let is_shell = matches!(text.command, CommandLine::Shell(_));
        let args = if is_shell {
            self.with_shell(args.join(" "))
        } else {
            args
        };
        let history = format!("RUN {}{} # buildkit", self.arguments_for_history(), args.join(" "));
        let run = Run {
            args,
            script,
            env: self.variables.pairs().to_vec(),
            proxy: proxies(&self.graph.shared.options.build_args),
            working_dir: self.working_dir().to_string(),
            user: self.config.user.clone(),
            mounts: self.mounts(&text.mounts)?,
            network: network(text.network.as_ref())?,
            security: security(text.security.as_ref())?,
        };
        Ok((Operation::Run(Box::new(run)), Some(history)))
    }

    /// `|2 A=1 B=2 `, as BuildKit puts the arguments in scope before the command.
    fn arguments_for_history(&self) -> String {
        let mut shown = Values::default();
        for (name, value) in &self.arguments {
            let value = self.variables.get(name).or(value.as_deref()).unwrap_or_default();
            shown.set(name, value);
        }
        let pairs = shown.pairs();
        if pairs.is_empty() {
            return String::new();
        }
        let texts: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("|{} {} ", pairs.len(), texts.join(" "))
    }

    fn mounts(&mut self, words: &[Word]) -> Result<Vec<crate::Mount>, Diagnostic> {
        let mut found = Vec::new();
        for word in words {
            let ssh_count = found
                .iter()
                .filter(|mount| matches!(mount, crate::Mount::Ssh { .. }))
                .count();
            let working_dir = self.working_dir().to_string();
            let (graph, index) = (self.graph, self.stage.id.0 as usize);
            let source = |name: &str| graph.shared.source(name, index, &graph.stages);
            let mut expand = |text: &str| {
                let word = Word {
                    text: text.to_string(),
                    span: word.span,
                };
                self.expand(&word).map_err(|error| (error.message, error.help))
            };
            let mut around = Surroundings {
                working_dir: &working_dir,
                ssh_count,
                source: &source,
                expand: &mut expand,
            };
            let mount = mounts::parse(&word.text, &mut around);
            found.push(mount.map_err(|(message, help)| Diagnostic::error(word.span, message).help(help))?);
        }
        Ok(found)
    }

    fn workdir(&mut self, word: &Word) -> Outcome {
        let path = self.expand(word)?;
        if !self.has_workdir && !path.starts_with('/') {
            let message = format!("relative workdir \"{path}\" can have unexpected results if the base image changes");
            let check = self.check.clone();
            self.lints.add(&check, Rule::WorkdirRelativePath, word.span, message);
        }
        self.has_workdir = true;
        let path = absolute(&self.config.working_dir, &path);
        self.config.working_dir.clone_from(&path);
        let history = Some(format!("WORKDIR {path}"));
        if path == "/" {
            return Ok((Operation::Config, history));
        }
        let user = self.config.user.clone();
        Ok((Operation::MakeFolder(MakeFolder { path, user }), history))
    }

    /// A text with quotes and variables taken away; unknown variables are reported.
    pub fn expand(&mut self, word: &Word) -> Result<String, Diagnostic> {
        self.expand_with(Lexer::new(self.escape()), word)
            .map(|expansion| expansion.text)
    }

    pub fn expand_with(&mut self, lexer: Lexer, word: &Word) -> Result<crate::expand::Expansion, Diagnostic> {
        let expansion = expand(lexer, &word.text, &self.variables);
        let expansion = expansion.map_err(|error| Diagnostic::error(word.span, error.to_string()))?;
        for name in &expansion.unmatched {
            self.report_undefined(name, word.span);
        }
        Ok(expansion)
    }

    /// A base that was not looked up may define anything: then only what looks like a misspelling counts.
    fn report_undefined(&mut self, name: &str, span: Span) {
        if self.arguments.iter().any(|(argument, _)| argument == name) {
            return;
        }
        let arguments = self.arguments.iter().map(|(argument, _)| argument.as_str());
        let near = nearest(name, self.variables.names().chain(arguments));
        if self.is_unknown && near.is_none() {
            return;
        }
        let near = near.map(|near| format!(" (did you mean ${near}?)")).unwrap_or_default();
        let check = self.check.clone();
        let message = format!("usage of undefined variable '${name}'{near}");
        self.lints.add(&check, Rule::UndefinedVar, span, message);
    }

    /// The tree of a name, seen from this stage.
    pub fn source(&self, word: &Word) -> Result<Source, Diagnostic> {
        let source = self
            .graph
            .shared
            .source(&word.text, self.stage.id.0 as usize, &self.graph.stages);
        source.map_err(|(message, help)| Diagnostic::error(word.span, message).help(help))
    }

    pub fn escape(&self) -> char {
        self.graph.shared.dockerfile.directives.escape
    }

    pub fn working_dir(&self) -> &str {
        match self.config.working_dir.as_str() {
            "" => "/",
            path => path,
        }
    }

    pub fn with_shell(&self, line: String) -> Vec<String> {
        let mut args = self.config.shell_or_default();
        args.push(line);
        args
    }

    fn finish(mut self, base_title: Option<String>) -> ResolvedStage {
        let inherited = Inherited {
            config: self.config.clone(),
            arguments: self.arguments,
            has_workdir: self.has_workdir,
            is_unknown: self.is_unknown,
        };
        if self.stage.id == self.graph.target {
            let labels = &self.graph.shared.options.labels;
            self.config
                .labels
                .extend(labels.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        ResolvedStage {
            id: self.stage.id,
            base_title,
            steps: self.steps,
            config: self.config,
            needs: self.needs,
            inherited,
            warnings: self.lints.into_sorted(),
        }
    }
}

/// The line for the shell with its here-documents, or the script that stands for both.
fn with_documents(line: &Word, instruction: &Instruction) -> (String, Option<Script>) {
    let Some(first) = instruction.heredocs.first() else {
        return (line.text.clone(), None);
    };
    let is_alone = marker(&line.text).is_some_and(|marker| marker.name == first.name);
    if is_alone {
        let content = first.text();
        if content.starts_with("#!") {
            let path = format!("{SCRIPT_FOLDER}/{}", first.name);
            return (String::new(), Some(Script { path, content }));
        }
        return (content, None);
    }
    let documents = instruction.heredocs.iter();
    let documents: String = documents
        .map(|document| format!("\n{}{}", document.content, document.name))
        .collect();
    (format!("{}{documents}", line.text), None)
}

fn network(word: Option<&Word>) -> Result<Network, Diagnostic> {
    let Some(word) = word else { return Ok(Network::Default) };
    match word.text.as_str() {
        "default" | "" => Ok(Network::Default),
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        other => {
            let help = "write default, none or host".to_string();
            Err(Diagnostic::error(word.span, format!("'{other}' is no network of RUN")).help(help))
        }
    }
}

fn security(word: Option<&Word>) -> Result<Security, Diagnostic> {
    let Some(word) = word else { return Ok(Security::Sandbox) };
    match word.text.as_str() {
        "sandbox" | "" => Ok(Security::Sandbox),
        "insecure" => Ok(Security::Insecure),
        other => {
            let help = "write sandbox or insecure".to_string();
            Err(Diagnostic::error(word.span, format!("'{other}' is no security mode of RUN")).help(help))
        }
    }
}
