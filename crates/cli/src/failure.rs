//! How a command ends badly: the one place where problems become exit codes.

use std::io;

use gantry_model::{Class, Problem};

use crate::output::style;

/// Exit code of a command that failed; a wrong command line ends with 2, which clap sees to.
const EXIT_FAILED: u8 = 1;

/// What the shell reports of a process that a closed pipe ended: 128 and SIGPIPE's number.
const EXIT_BROKEN_PIPE: u8 = 141;

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// To be said to the person.
    Problem(Problem),
    /// Everything has been said; or the code is another process's.
    Exit(u8),
}

/// The end of a command.
pub type Outcome = Result<(), Failure>;

impl Failure {
    /// Failed, and already explained.
    pub const SAID: Self = Self::Exit(EXIT_FAILED);

    /// Says it on standard error, and gives the exit code.
    pub fn report(&self) -> u8 {
        match self {
            Self::Problem(problem) => {
                eprint!("{}", render(problem, style::on_stderr()));
                EXIT_FAILED
            }
            Self::Exit(code) => *code,
        }
    }
}

/// `error: OBJECT: reason` and `help: remedy`.
pub fn render(problem: &Problem, colored: bool) -> String {
    let Problem {
        object, reason, remedy, ..
    } = problem;
    let mut text = style::error("error:", colored);
    if !object.is_empty() {
        text.push_str(&format!(" {object}:"));
    }
    text.push_str(&format!(" {reason}\n"));
    if !remedy.is_empty() {
        text.push_str(&format!("{} {remedy}\n", style::help("help:", colored)));
    }
    text
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<io::Error> for Failure {
    /// Whoever read our output may stop reading; that ends the command without a word, as SIGPIPE would.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Exit(EXIT_BROKEN_PIPE);
        }
        Self::Problem(Problem::new(Class::Internal, "", error.to_string()))
    }
}

/// A file that could not be read or written.
pub fn file_problem(act: &str, path: &std::path::Path, error: &io::Error) -> Problem {
    let class = match error.kind() {
        io::ErrorKind::NotFound => Class::NotFound,
        io::ErrorKind::PermissionDenied => Class::Denied,
        _ => Class::Internal,
    };
    let text = error.to_string();
    let plain = text.split(" (os error").next().unwrap_or_default().to_lowercase();
    Problem::new(class, path.display().to_string(), format!("cannot {act}: {plain}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_read_as_two_lines() {
        let problem = Problem::new(Class::NotFound, "service web", "does not exist").remedy("look with `gantry ps`");
        assert_eq!(
            render(&problem, false),
            "error: service web: does not exist\nhelp: look with `gantry ps`\n"
        );
        assert_eq!(
            render(&Problem::new(Class::Internal, "", "broke"), false),
            "error: broke\n"
        );
        assert!(render(&problem, true).contains("\x1b["));
    }
}
