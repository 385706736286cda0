//! What a pull or push tells while it runs.

use std::sync::Mutex;

use gantry_env::Env;
use gantry_model::DurationMs;

use crate::transport::lock;

/// Steps of one layer are told at most this often while bytes flow; a terminal redraws about as often.
const INTERVAL: DurationMs = DurationMs(100);

/// Where a layer or document is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// For a slot.
    Waiting,
    /// Bytes come.
    Downloading,
    /// The digest of what came is checked, and it is put on disk for good.
    Verifying,
    /// Laid out as files.
    Extracting,
    /// Bytes go.
    Uploading,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was there already.
    Exists,
    /// Complete.
    Done,
    /// Something failed and is tried again; the message says what.
    Retrying,
}

impl Phase {
    /// As the wire and people have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Extracting => "extracting",
            Self::Uploading => "uploading",
            Self::Mounted => "mounted",
            Self::Exists => "exists",
            Self::Done => "done",
            Self::Retrying => "retrying",
        }
    }
}

/// One change of one layer or document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its digest, or `manifest`.
    pub what: String,
    /// Where it is.
    pub phase: Phase,
    /// Bytes so far.
    pub current: u64,
    /// Bytes in all; 0 when not known.
    pub total: u64,
    /// Why, with [`Phase::Retrying`].
    pub message: String,
}

/// Hears of every step. Called from several tasks at once; must not block.
pub trait Progress: Send + Sync {
    /// Something changed.
    fn step(&self, step: Step);
}

impl<F: Fn(Step) + Send + Sync> Progress for F {
    fn step(&self, step: Step) {
        self(step);
    }
}

/// The steps of one layer or document.
pub(crate) struct Track<'a> {
    progress: &'a dyn Progress,
    env: &'a dyn Env,
    what: String,
    total: u64,
    last: Mutex<Option<(Phase, DurationMs)>>,
}

impl<'a> Track<'a> {
    pub(crate) fn new(progress: &'a dyn Progress, env: &'a dyn Env, what: impl Into<String>, total: u64) -> Self {
        Self {
            progress,
            env,
            what: what.into(),
            total,
            last: Mutex::new(None),
        }
    }

    /// Tells a change of phase always, and bytes of the same phase now and then.
    pub(crate) fn at(&self, phase: Phase, current: u64) {
        let now = self.env.monotonic();
        {
            let mut last = lock(&self.last);
            let is_news = last.is_none_or(|(told, at)| told != phase || now >= at + INTERVAL);
            if !is_news {
                return;
            }
            *last = Some((phase, now));
        }
        self.tell(phase, current, String::new());
    }

    /// Finished, in whichever way.
    pub(crate) fn end(&self, phase: Phase) {
        self.tell(phase, self.total, String::new());
    }

    pub(crate) fn retrying(&self, current: u64, why: &dyn std::fmt::Display) {
        *lock(&self.last) = None;
        self.tell(Phase::Retrying, current, why.to_string());
    }

    fn tell(&self, phase: Phase, current: u64, message: String) {
        self.progress.step(Step {
            what: self.what.clone(),
            phase,
            current,
            total: self.total,
            message,
        });
    }
}
