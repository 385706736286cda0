//! Layers on their way, as a person sees them: one line each on a terminal, a line per step otherwise.

use std::collections::BTreeMap;
use std::io::Write;

use gantry_api::v1::TransferProgress;
use gantry_model::ByteSize;

use crate::terminal;

/// Characters of a digest that tell layers apart, as Docker shows them.
const SHORT: usize = 12;

/// Shows the progress of a pull or push on standard error.
pub struct Progress {
    quiet: bool,
    live: bool,
    order: Vec<String>,
    lines: BTreeMap<String, (String, String)>,
    drawn: usize,
}

impl Progress {
    /// Nothing is shown when quiet.
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            live: terminal::is_progress(),
            order: Vec::new(),
            lines: BTreeMap::new(),
            drawn: 0,
        }
    }

    /// Takes one step.
    pub fn show(&mut self, step: &TransferProgress) {
        if self.quiet || step.what.is_empty() {
            return;
        }
        let short = short(&step.what);
        let line = line(&short, step);
        let former = self.lines.insert(step.what.clone(), (step.phase.clone(), line.clone()));
        if former.is_none() {
            self.order.push(step.what.clone());
        }
        if self.live {
            self.draw();
        } else if former.is_none_or(|(phase, _)| phase != step.phase) {
            // Whoever closed standard error does not want to know.
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        }
    }

    fn draw(&mut self) {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for what in &self.order {
            text.push_str(&format!("\r\x1b[K{}\n", self.lines[what].1));
        }
        self.drawn = self.order.len();
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Nothing more comes.
    pub fn end(&mut self) {
        self.drawn = 0;
        self.order.clear();
        self.lines.clear();
    }
}

fn short(what: &str) -> String {
    match what.strip_prefix("sha256:") {
        Some(hex) => hex.chars().take(SHORT).collect(),
        None => what.to_string(),
    }
}

fn line(short: &str, step: &TransferProgress) -> String {
    let amount = match (step.current, step.total) {
        (_, 0) => String::new(),
        (current, total) if current >= total => format!(" {}", ByteSize(total)),
        (current, total) => format!(" {} of {}", ByteSize(current), ByteSize(total)),
    };
    let why = if step.message.is_empty() {
        String::new()
    } else {
        format!(": {}", step.message)
    };
    format!("{short:<SHORT$}  {}{amount}{why}", step.phase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_one_line() {
        let mut step = TransferProgress {
            what: format!("sha256:{}", "ab".repeat(32)),
            phase: "downloading".to_string(),
            current: 1 << 20,
            total: 4 << 20,
            ..TransferProgress::default()
        };
        let shown = short(&step.what);
        assert_eq!(shown, "abababababab");
        assert!(
            line(&shown, &step).starts_with("abababababab  downloading 1"),
            "{}",
            line(&shown, &step)
        );
        step.message = "429".to_string();
        assert!(line(&shown, &step).ends_with(": 429"));
    }
}
