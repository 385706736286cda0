//! Instructions that only change the configuration.

use super::ports;
use super::resolve::{Outcome, Resolver};
use crate::ast::{Argument, CommandLine, HealthText, Instruction, Kind, Pair, Word};
use crate::config::HealthCheck;
use crate::diagnostic::{Diagnostic, Rule, Span};
use crate::expand::Lexer;
use crate::history;
use crate::operation::Operation;
use crate::signals;

/// Words that mark a name as a secret's, and those that say it is none after all.
const SECRET_WORDS: &[&str] = &[
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];
const HARMLESS_WORDS: &[&str] = &["public", "file", "version"];

impl Resolver<'_> {
    pub(super) fn setting(&mut self, instruction: &Instruction, kind: &Kind) -> Outcome {
        let history = match kind {
            Kind::Arg(arguments) => self.arg(arguments)?,
            Kind::Cmd(command) => self.cmd(instruction, command),
            Kind::Entrypoint(command) => self.entrypoint(instruction, command),
            Kind::Env(pairs) => self.env(instruction, pairs)?,
            Kind::Expose(ports) => self.expose(ports)?,
            Kind::HealthCheck(check) => self.healthcheck(instruction, check),
            Kind::Label(pairs) => self.label(instruction, pairs)?,
            Kind::Maintainer(name) => {
                self.config.author.clone_from(&name.text);
                format!("MAINTAINER {}", name.text)
            }
            Kind::OnBuild(trigger) => {
                self.config.on_build.push(trigger.expression.clone());
                return Ok((Operation::Config, None));
            }
            Kind::Shell(shell) => {
                self.config.shell.clone_from(shell);
                format!("SHELL {}", history::plain_list(shell))
            }
            Kind::StopSignal(word) => self.stop_signal(word)?,
            Kind::User(word) => {
                self.config.user = self.expand(word)?;
                format!("USER {}", self.config.user)
            }
            Kind::Volume(words) => self.volume(words)?,
            Kind::Add(_) | Kind::Copy(_) | Kind::From(_) | Kind::Run(_) | Kind::Workdir(_) => {
                return Ok((Operation::Config, None));
            }
        };
        Ok((Operation::Config, Some(history)))
    }

    /// `--build-arg` first, then the file's default, then the argument of this name before the first `FROM`. As in BuildKit
    /// it also takes the place of an `ENV` of the same name that came before it.
    fn arg(&mut self, arguments: &[Argument]) -> Result<String, Diagnostic> {
        let mut shown = "ARG".to_string();
        for argument in arguments {
            let name = argument.name.text.as_str();
            self.check_secret("ARG", name, argument.name.span);
            let shared = &self.graph.shared;
            let value = match (shared.options.build_args.get(name), &argument.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.expand(default)?),
                (None, None) => shared.globals.values.get(name).map(ToString::to_string),
            };
            shown.push_str(&format!(" {name}"));
            if let Some(value) = &value {
                self.variables.set(name, value);
                shown.push_str(&format!("={value}"));
            }
            self.arguments.push((name.to_string(), value));
        }
        Ok(shown)
    }

    fn env(&mut self, instruction: &Instruction, pairs: &[Pair]) -> Result<String, Diagnostic> {
        let mut shown = "ENV".to_string();
        for (name, value) in self.pairs(instruction, pairs)? {
            self.check_secret("ENV", &name, instruction.span);
            shown.push_str(&format!(" {name}={value}"));
            self.variables.set(&name, &value);
            self.config.set_variable(&name, &value);
        }
        Ok(shown)
    }

    fn label(&mut self, instruction: &Instruction, pairs: &[Pair]) -> Result<String, Diagnostic> {
        let mut shown = "LABEL".to_string();
        for (name, value) in self.pairs(instruction, pairs)? {
            shown.push_str(&format!(" {name}={value}"));
            self.config.labels.insert(name, value);
        }
        Ok(shown)
    }

    /// All with the variables as they were before the instruction.
    fn pairs(&mut self, instruction: &Instruction, pairs: &[Pair]) -> Result<Vec<(String, String)>, Diagnostic> {
        let mut expanded = Vec::new();
        for pair in pairs {
            if pair.legacy {
                let name = &instruction.keyword.text;
                let message =
                    format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
                let check = self.check.clone();
                self.lints
                    .add(&check, Rule::LegacyKeyValueFormat, instruction.span, message);
            }
            let (key, value) = (self.expand(&pair.key)?, self.expand(&pair.value)?);
            if key.is_empty() {
                return Err(Diagnostic::error(
                    pair.key.span,
                    format!("the name '{}' is empty", pair.key.text),
                ));
            }
            expanded.push((key, value));
        }
        Ok(expanded)
    }

    fn cmd(&mut self, instruction: &Instruction, command: &CommandLine) -> String {
        let former = self.cmd_at.replace(instruction.span);
        self.report_repeated(instruction, former);
        let args = self.command(instruction, command);
        let history = format!("CMD {}", history::quoted_list(&args));
        self.config.cmd = Some(args).filter(|args| !args.is_empty());
        history
    }

    /// The base's `CMD` was meant for the base's entrypoint.
    fn entrypoint(&mut self, instruction: &Instruction, command: &CommandLine) -> String {
        let former = self.entrypoint_at.replace(instruction.span);
        self.report_repeated(instruction, former);
        let args = self.command(instruction, command);
        let history = format!("ENTRYPOINT {}", history::quoted_list(&args));
        self.config.entrypoint = Some(args).filter(|args| !args.is_empty());
        if self.cmd_at.is_none() {
            self.config.cmd = None;
        }
        history
    }

    fn command(&mut self, instruction: &Instruction, command: &CommandLine) -> Vec<String> {
        let line = match command {
            CommandLine::Exec(args) => return args.clone(),
            CommandLine::Shell(line) => line,
        };
        if self.config.shell.is_empty() {
            let name = &instruction.keyword.text;
            let message =
                format!("JSON arguments recommended for {name} to prevent unintended behavior related to OS signals");
            let looks_like_json = line.text.starts_with('[');
            let help = looks_like_json.then(|| {
                "it looks like a JSON array but is none, so a shell gets it: use double quotes and commas".to_string()
            });
            let warning = Diagnostic::warning(Rule::JSONArgsRecommended, instruction.span, message).help(help);
            let check = self.check.clone();
            self.lints.add_with_help(&check, warning);
        }
        self.with_shell(line.text.clone())
    }

    fn expose(&mut self, words: &[Word]) -> Result<String, Diagnostic> {
        let mut all = Vec::new();
        for word in words {
            for text in self.expand_with(Lexer::new(self.escape()), word)?.words {
                let found = ports::parse(&text).map_err(|reason| {
                    let help = "write EXPOSE 8080, EXPOSE 53/udp or EXPOSE 8000-8010".to_string();
                    Diagnostic::error(word.span, reason).help(help)
                })?;
                let check = self.check.clone();
                if found.odd_casing {
                    let message = format!("defined protocol '{text}' in EXPOSE instruction should be lowercase");
                    self.lints.add(&check, Rule::ExposeProtoCasing, word.span, message);
                }
                if found.has_host {
                    let message = format!(
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'"
                    );
                    self.lints.add(&check, Rule::ExposeInvalidFormat, word.span, message);
                }
                all.extend(found.ports);
            }
        }
        self.config.exposed_ports.extend(all.iter().cloned());
        Ok(format!("EXPOSE {}", history::plain_list(&all)))
    }

    fn healthcheck(&mut self, instruction: &Instruction, text: &HealthText) -> String {
        let former = self.healthcheck_at.replace(instruction.span);
        self.report_repeated(instruction, former);
        let check = match text {
            HealthText::None => HealthCheck {
                test: vec!["NONE".to_string()],
                ..HealthCheck::default()
            },
            HealthText::Command {
                command,
                interval,
                timeout,
                start_period,
                start_interval,
                retries,
            } => HealthCheck {
                test: match command {
                    CommandLine::Exec(args) => [&["CMD".to_string()], args.as_slice()].concat(),
                    CommandLine::Shell(line) => vec!["CMD-SHELL".to_string(), line.text.clone()],
                },
                interval: *interval,
                timeout: *timeout,
                start_period: *start_period,
                start_interval: *start_interval,
                retries: *retries,
            },
        };
        let history = format!("HEALTHCHECK {}", history::health(&check));
        self.config.healthcheck = Some(check);
        history
    }

    fn stop_signal(&mut self, word: &Word) -> Result<String, Diagnostic> {
        let signal = self.expand(word)?;
        if !signals::is_signal(&signal) {
            let help = signals::suggestion(&signal);
            return Err(Diagnostic::error(word.span, format!("'{signal}' is no signal")).help(help));
        }
        let history = format!("STOPSIGNAL {signal}");
        self.config.stop_signal = signal;
        Ok(history)
    }

    fn volume(&mut self, words: &[Word]) -> Result<String, Diagnostic> {
        let mut volumes = Vec::new();
        for word in words {
            let path = self.expand(word)?;
            if path.is_empty() {
                return Err(Diagnostic::error(word.span, "a volume's path is empty"));
            }
            volumes.push(path);
        }
        let history = format!("VOLUME {}", history::plain_list(&volumes));
        self.config.volumes.extend(volumes);
        Ok(history)
    }

    /// The earlier one is what has no effect.
    fn report_repeated(&mut self, instruction: &Instruction, former: Option<Span>) {
        let Some(span) = former else { return };
        let message = format!(
            "multiple {} instructions should not be used in the same stage because only the last one will be used",
            instruction.keyword.text
        );
        let check = self.check.clone();
        self.lints
            .add(&check, Rule::MultipleInstructionsDisallowed, span, message);
    }

    fn check_secret(&mut self, keyword: &str, name: &str, span: Span) {
        let lower = name.to_lowercase();
        let has = |words: &[&str]| lower.split('_').any(|word| words.contains(&word));
        if has(SECRET_WORDS) && !has(HARMLESS_WORDS) {
            let message = format!("do not use ARG or ENV instructions for sensitive data ({keyword} \"{name}\")");
            let check = self.check.clone();
            self.lints.add(&check, Rule::SecretsUsedInArgOrEnv, span, message);
        }
    }
}
