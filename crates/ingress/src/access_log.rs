//! One line of JSON per request, written by a thread of its own.
//!
//! **Invariant:** a disk that is slow or full delays no request: lines that do not fit are counted, not waited for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use serde::Serialize;

use crate::limits::{LOG_BYTES_MAX, LOG_WAITING};

/// What is noted of a request.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    pub(crate) time_ms: u64,
    pub(crate) client: std::net::IpAddr,
    pub(crate) method: &'a str,
    pub(crate) scheme: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) version: &'a str,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    /// Until the last byte was handed over.
    pub(crate) took_us: u64,
    /// Until the answer began.
    pub(crate) answered_us: u64,
    pub(crate) service: &'a str,
    pub(crate) replica: Option<String>,
    pub(crate) attempts: u32,
}

/// The end into which workers write.
#[derive(Debug)]
pub(crate) struct AccessLog {
    lines: SyncSender<Vec<u8>>,
    lost: AtomicU64,
}

impl AccessLog {
    /// Opens the file and starts its thread, which ends with the log.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let written = file.metadata()?.len();
        let (lines, waiting) = sync_channel(LOG_WAITING);
        let mut writer = Writer {
            path: path.to_path_buf(),
            file: BufWriter::new(file),
            written,
        };
        let run = move || writer.run(&waiting);
        std::thread::Builder::new().name("access-log".into()).spawn(run)?;
        Ok(Self {
            lines,
            lost: AtomicU64::new(0),
        })
    }

    pub(crate) fn write(&self, line: &Line<'_>) {
        let mut text = serde_json::to_vec(line).expect("a line has text keys and no failing serializers");
        text.push(b'\n');
        if self.lines.try_send(text).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
}

impl Writer {
    fn run(&mut self, lines: &Receiver<Vec<u8>>) {
        loop {
            let line = match lines.try_recv() {
                Ok(line) => Some(line),
                Err(TryRecvError::Empty) => {
                    self.check("written", |writer| writer.file.flush());
                    lines.recv().ok()
                }
                Err(TryRecvError::Disconnected) => None,
            };
            let Some(line) = line else { break };
            self.check("written", |writer| writer.file.write_all(&line));
            self.written += line.len() as u64;
            if self.written >= LOG_BYTES_MAX {
                self.check("set aside", Self::set_aside);
            }
        }
        self.check("written", |writer| writer.file.flush());
    }

    fn set_aside(&mut self) -> io::Result<()> {
        self.written = 0;
        self.file.flush()?;
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        fs::rename(&self.path, aside)?;
        self.file = BufWriter::new(open(&self.path)?);
        Ok(())
    }

    fn check(&mut self, what: &str, act: impl FnOnce(&mut Self) -> io::Result<()>) {
        if let Err(error) = act(self) {
            tracing::warn!(%error, path = %self.path.display(), "the access log cannot be {what}");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}
