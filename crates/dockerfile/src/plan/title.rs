//! What progress shows of each step: `[build 2/5] RUN make`.

use crate::ast::{Instruction, Kind};
use crate::expand::{Lexer, Variables, expand};

/// Counts the steps of a stage that take time.
#[derive(Debug)]
pub(crate) struct Titles {
    /// Name of the stage and a blank; nothing where there is only one stage.
    stage: String,
    total: usize,
    next: usize,
}

impl Titles {
    pub fn new(stage: Option<&str>, total: usize) -> Self {
        Self {
            stage: stage.map(|stage| format!("{stage} ")).unwrap_or_default(),
            total,
            next: 0,
        }
    }

    /// The next number before the text.
    pub fn numbered(&mut self, text: &str) -> String {
        self.next += 1;
        let width = self.total.to_string().len();
        format!("[{}{:>width$}/{}] {text}", self.stage, self.next, self.total)
    }
}

/// Whether it takes time, and so has a number.
pub(crate) const fn counts(kind: &Kind) -> bool {
    matches!(kind, Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_))
}

/// The instruction on one line, with variables replaced where that works.
pub(crate) fn describe(instruction: &Instruction, escape: char, variables: &dyn Variables) -> String {
    let is_run = matches!(instruction.kind, Kind::Run(_));
    let lexer = Lexer {
        raw_quotes: is_run,
        keep_unset: is_run,
        ..Lexer::new(escape)
    };
    let mut text = instruction.text.clone();
    if is_run && let [document] = instruction.heredocs.as_slice() {
        let mut lines = document.content.trim().lines();
        let more = if document.content.trim().lines().count() > 1 {
            "..."
        } else {
            ""
        };
        text.push_str(&format!(" ({}{more})", lines.next().unwrap_or_default()));
    }
    let text = expand(lexer, &text, variables).map_or(text, |expansion| expansion.text);
    match text.split_once([' ', '\t']) {
        Some((keyword, rest)) => format!("{} {}", keyword.to_uppercase(), rest.trim_start()),
        None => text.to_uppercase(),
    }
}
