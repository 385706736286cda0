//! How a build goes, as a person or a program wants to see it.
//!
//! **Invariant:** everything here goes to standard error; nothing is decided from it.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;

use clap::ValueEnum;
use gantry_model::build::BuildEvent;
use gantry_model::{ByteSize, DurationMs, Timestamp};

use super::screen::{Screen, plain};
use crate::output::style;
use crate::terminal;

/// Lines of a running command that a terminal shows.
const LIVE_LINES: usize = 6;

/// Lines of a command that are kept to be shown when it fails.
const KEPT_LINES: usize = 60;

/// Transfers say how far they are this often where nothing is drawn anew.
const TRANSFER_INTERVAL: DurationMs = DurationMs(2000);

/// `--progress`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// tty on a terminal, else plain
    #[default]
    Auto,
    /// Every line as it comes
    Plain,
    /// What runs, drawn anew
    Tty,
    /// Events as JSON lines
    Rawjson,
    /// Nothing
    Quiet,
}

/// The step that a build failed at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedStep {
    /// `[build 2/5] RUN make`
    pub title: String,
    /// Line of the Dockerfile, from 1.
    pub line: Option<u32>,
    /// Why.
    pub reason: String,
}

#[derive(Debug, Default)]
struct Step {
    title: String,
    line: Option<u32>,
    /// By the node's clock.
    started_at: Option<Timestamp>,
    /// By ours.
    began: DurationMs,
    running: bool,
    shown: bool,
    /// The line that is not ended yet.
    partial: Vec<u8>,
    lines: VecDeque<String>,
    /// What is on its way, how far, of how much, and when that was said.
    transfers: BTreeMap<String, (u64, u64, DurationMs)>,
}

enum Style {
    Plain { last: Option<u32> },
    Live(Screen),
    Json,
    Quiet,
}

/// See the module.
pub struct Progress {
    style: Style,
    steps: BTreeMap<u32, Step>,
    done: usize,
    failed: Option<FailedStep>,
    warnings: Vec<(String, String, u32)>,
    /// Lines that scroll up at the next drawing.
    pending: Vec<String>,
    began: Option<DurationMs>,
}

impl Progress {
    /// In the asked way.
    pub fn new(mode: Mode) -> Self {
        let style = match mode {
            Mode::Auto if terminal::is_progress() => Style::Live(Screen::default()),
            Mode::Tty => Style::Live(Screen::default()),
            Mode::Auto | Mode::Plain => Style::Plain { last: None },
            Mode::Rawjson => Style::Json,
            Mode::Quiet => Style::Quiet,
        };
        Self {
            style,
            steps: BTreeMap::new(),
            done: 0,
            failed: None,
            warnings: Vec::new(),
            pending: Vec::new(),
            began: None,
        }
    }

    /// Whether it must be drawn anew while nothing happens.
    pub const fn is_live(&self) -> bool {
        matches!(self.style, Style::Live(_))
    }

    /// The step that failed, if one did.
    pub fn failed(&self) -> Option<FailedStep> {
        self.failed.clone()
    }

    /// Something happened.
    pub fn apply(&mut self, event: BuildEvent, now: DurationMs) {
        self.began.get_or_insert(now);
        if matches!(self.style, Style::Json) {
            let json = serde_json::to_string(&event).expect("events have text keys");
            say(&json);
        }
        match event {
            BuildEvent::Step { id, title, line } => {
                let step = self.steps.entry(id).or_default();
                (step.title, step.line) = (title, line);
            }
            BuildEvent::Started { id, at } => {
                let step = self.steps.entry(id).or_default();
                (step.started_at, step.began, step.running) = (Some(at), now, true);
                self.show_title(id);
            }
            BuildEvent::Progress {
                id,
                what,
                current,
                total,
            } => self.transfer(id, what, (current, total), now),
            BuildEvent::Log { id, data, .. } => self.log(id, &data.0, now),
            BuildEvent::Done { id, at, cached } => self.end(id, at, cached, now),
            BuildEvent::Failed { id, at, reason, .. } => self.fail(id, at, reason, now),
            BuildEvent::Warning { rule, message, line } => {
                let warning = (rule, message, line);
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
            }
        }
        if self.is_live() && !self.pending.is_empty() {
            self.redraw(now);
        }
    }

    fn show_title(&mut self, id: u32) {
        let Some(step) = self.steps.get_mut(&id) else { return };
        if std::mem::replace(&mut step.shown, true) {
            return;
        }
        let line = format!("#{} {}", id + 1, step.title);
        self.plain_line(id, &line);
    }

    fn transfer(&mut self, id: u32, what: String, (current, total): (u64, u64), now: DurationMs) {
        let Some(step) = self.steps.get_mut(&id) else { return };
        let said = step.transfers.get(&what).map(|(_, _, said)| *said);
        let is_due = said.is_none_or(|said| now.saturating_sub(said) >= TRANSFER_INTERVAL) || current == total;
        let said = if is_due { now } else { said.unwrap_or(now) };
        let line = format!("#{} {}", id + 1, transfer_line(&what, current, total));
        step.transfers.insert(what, (current, total, said));
        if is_due {
            self.plain_line(id, &line);
        }
    }

    fn log(&mut self, id: u32, data: &[u8], now: DurationMs) {
        let Some(step) = self.steps.get_mut(&id) else { return };
        step.partial.extend_from_slice(data);
        let mut lines = Vec::new();
        while let Some(end) = step.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = step.partial.drain(..=end).collect();
            lines.push(plain(&line[..end]));
        }
        let since = now.saturating_sub(step.began);
        for line in lines {
            self.keep_line(id, line, since);
        }
    }

    fn keep_line(&mut self, id: u32, line: String, since: DurationMs) {
        let shown = format!("#{} {} {line}", id + 1, seconds(since, 3));
        if let Some(step) = self.steps.get_mut(&id) {
            step.lines.push_back(line);
            if step.lines.len() > KEPT_LINES {
                step.lines.pop_front();
            }
        }
        self.plain_line(id, &shown);
    }

    /// The last line of a command may have no end.
    fn flush(&mut self, id: u32, now: DurationMs) {
        let Some(step) = self.steps.get_mut(&id) else { return };
        let rest = std::mem::take(&mut step.partial);
        let since = now.saturating_sub(step.began);
        if !rest.is_empty() {
            self.keep_line(id, plain(&rest), since);
        }
    }

    fn end(&mut self, id: u32, at: Timestamp, cached: bool, now: DurationMs) {
        self.flush(id, now);
        self.show_title(id);
        self.done += 1;
        let Some(step) = self.steps.get_mut(&id) else { return };
        step.running = false;
        let took = step.started_at.map_or(DurationMs::ZERO, |started| at.since(started));
        let title = step.title.clone();
        let (word, mark) = if cached {
            ("CACHED".to_string(), "CACHED ")
        } else {
            (format!("DONE {}", seconds(took, 1)), "")
        };
        self.plain_line(id, &format!("#{} {word}", id + 1));
        self.live_line(format!(" => {mark}{title}"), took);
    }

    fn fail(&mut self, id: u32, at: Timestamp, reason: String, now: DurationMs) {
        self.flush(id, now);
        self.show_title(id);
        let Some(step) = self.steps.get_mut(&id) else { return };
        step.running = false;
        let took = step.started_at.map_or(DurationMs::ZERO, |started| at.since(started));
        let failed = FailedStep {
            title: step.title.clone(),
            line: step.line,
            reason: reason.clone(),
        };
        self.plain_line(id, &format!("#{} ERROR: {reason}", id + 1));
        self.live_line(format!(" => ERROR {}", failed.title), took);
        // Others that end because of the first say nothing new.
        self.failed.get_or_insert(failed);
    }

    fn plain_line(&mut self, id: u32, line: &str) {
        if let Style::Plain { last } = &mut self.style {
            if last.is_some_and(|last| last != id) {
                say("");
            }
            *last = Some(id);
            say(line);
        }
    }

    fn live_line(&mut self, line: String, took: DurationMs) {
        if self.is_live() {
            self.pending.push(format!("{line}  {}", seconds(took, 1)));
        }
    }

    /// Draws the live part anew.
    pub fn redraw(&mut self, now: DurationMs) {
        let live = self.live_lines(now);
        let done = std::mem::take(&mut self.pending);
        if let Style::Live(screen) = &mut self.style {
            screen.draw(&done, &live);
        }
    }

    fn live_lines(&self, now: DurationMs) -> Vec<String> {
        let running: Vec<&Step> = self.steps.values().filter(|step| step.running).collect();
        let since = self.began.map_or(DurationMs::ZERO, |began| now.saturating_sub(began));
        let mut lines = vec![format!(
            "building {}/{}  {}",
            self.done,
            self.steps.len(),
            seconds(since, 1)
        )];
        for step in running {
            lines.push(format!(
                " => {}  {}",
                step.title,
                seconds(now.saturating_sub(step.began), 1)
            ));
            let open = step
                .transfers
                .iter()
                .filter(|(_, (current, total, _))| current < total || *total == 0);
            lines.extend(
                open.map(|(what, (current, total, _))| format!(" => => {}", transfer_line(what, *current, *total))),
            );
            let skipped = step.lines.len().saturating_sub(LIVE_LINES);
            lines.extend(step.lines.iter().skip(skipped).map(|line| format!(" => => # {line}")));
        }
        lines
    }

    /// Nothing more happens: the live part goes away, the last lines of what failed stay, and the warnings.
    pub fn finish(mut self) {
        let done = std::mem::take(&mut self.pending);
        if let Style::Live(screen) = &mut self.style {
            screen.draw(&done, &[]);
        }
        if let Some(failed) = &self.failed
            && !matches!(self.style, Style::Json | Style::Plain { .. })
            && let Some(step) = self.steps.values().find(|step| step.title == failed.title)
            && !step.lines.is_empty()
        {
            say(&format!("------\n > {}:", failed.title));
            step.lines.iter().for_each(|line| say(line));
            say("------");
        }
        if matches!(self.style, Style::Json | Style::Quiet) {
            return;
        }
        let word = style::warning("warning:", style::on_stderr());
        self.warnings.sort_by_key(|(_, _, line)| *line);
        for (rule, message, line) in &self.warnings {
            let place = if *line == 0 {
                String::new()
            } else {
                format!(" (line {line})")
            };
            say(&format!("{word} {rule}: {message}{place}"));
        }
    }
}

/// Whoever closed standard error does not want to see it.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn seconds(duration: DurationMs, places: usize) -> String {
    let unit = if places == 1 { "s" } else { "" };
    format!("{:.places$}{unit}", duration.0 as f64 / 1000.0)
}

fn transfer_line(what: &str, current: u64, total: u64) -> String {
    let what: String = what.chars().take(32).collect();
    match total {
        0 => format!("{what} {}", ByteSize(current)),
        total => format!("{what} {} / {}", ByteSize(current), ByteSize(total)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::Bytes64;

    fn step(id: u32, title: &str) -> BuildEvent {
        BuildEvent::Step {
            id,
            title: title.to_string(),
            line: Some(7),
        }
    }

    fn log(id: u32, text: &str) -> BuildEvent {
        BuildEvent::Log {
            id,
            stream: 1,
            data: Bytes64(text.as_bytes().to_vec()),
        }
    }

    fn progress(mode: Mode, events: Vec<BuildEvent>) -> Progress {
        let mut progress = Progress::new(mode);
        for (index, event) in events.into_iter().enumerate() {
            progress.apply(event, DurationMs(index as u64 * 1000));
        }
        progress
    }

    #[test]
    fn a_running_step_shows_its_last_lines() {
        let text: String = (0..10).map(|number| format!("line {number}\n")).collect();
        let mut shown = progress(
            Mode::Quiet,
            vec![
                step(0, "[1/2] FROM a"),
                step(1, "[2/2] RUN make"),
                BuildEvent::Started {
                    id: 1,
                    at: Timestamp(5),
                },
                log(1, &text),
                log(1, "half"),
                BuildEvent::Progress {
                    id: 1,
                    what: "layer".to_string(),
                    current: 1 << 20,
                    total: 2 << 20,
                },
            ],
        );
        let lines = shown.live_lines(DurationMs(7000));
        assert_eq!(lines[..2], ["building 0/2  7.0s", " => [2/2] RUN make  5.0s"]);
        assert!(lines[2].contains("layer") && lines[2].contains('/'));
        assert_eq!(lines.len(), 3 + LIVE_LINES);
        assert_eq!(lines.last().map(String::as_str), Some(" => => # line 9"));
        shown.apply(
            BuildEvent::Done {
                id: 1,
                at: Timestamp(2005),
                cached: false,
            },
            DurationMs(8000),
        );
        assert_eq!(shown.live_lines(DurationMs(9000)), ["building 1/2  9.0s"]);
        assert_eq!(shown.steps[&1].lines.back().map(String::as_str), Some("half"));
    }

    #[test]
    fn the_first_failure_is_the_one_that_counts() {
        let fail = |id, reason: &str| BuildEvent::Failed {
            id,
            at: Timestamp(9),
            reason: reason.to_string(),
            exit_code: Some(2),
        };
        let shown = progress(
            Mode::Quiet,
            vec![
                step(0, "RUN a"),
                step(1, "RUN b"),
                fail(1, "exit status 2"),
                fail(0, "stopped"),
            ],
        );
        let failed = shown.failed().expect("a failure");
        assert_eq!(
            (failed.title.as_str(), failed.line, failed.reason.as_str()),
            ("RUN b", Some(7), "exit status 2")
        );
    }

    #[test]
    fn only_so_many_lines_are_kept() {
        let text: String = (0..1000).map(|number| format!("{number}\n")).collect();
        let shown = progress(Mode::Quiet, vec![step(0, "RUN x"), log(0, &text)]);
        assert_eq!(shown.steps[&0].lines.len(), KEPT_LINES);
    }
}
