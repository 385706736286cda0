//! Reading a container's log: records of `<time> <stream> <F|P> <text>`, through rotated files, while it grows.
//!
//! A [`Reader`] gives what is there now and can be asked again later; it notices growth and rotation by itself. It never
//! blocks: how often to ask is its caller's business.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gantry_model::Timestamp;
use gantry_shim::{Rotation, stamp_of};

pub use gantry_shim::Stream;

/// Rotated files looked at; more than any sensible setting keeps.
const FILES_MAX: u32 = 1000;
/// Bytes read at once from the end of a file when only its last records are wanted.
const BLOCK_LENGTH: u64 = 64 * 1024;

/// One line of output, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// RFC 3339 with nanoseconds, UTC, always 30 characters: the order of the texts is the order in time.
    pub time: String,
    /// Where it was written.
    pub stream: Stream,
    /// The line goes on in the next record of this stream.
    pub is_partial: bool,
    /// The text without its line end; not always UTF-8.
    pub text: Vec<u8>,
}

impl Record {
    /// Reads one line of a log file, without its line end.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let (time, stream, tag, text) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(Self {
            time: std::str::from_utf8(time).ok()?.to_string(),
            stream: match stream {
                b"stdout" => Stream::Stdout,
                b"stderr" => Stream::Stderr,
                _ => return None,
            },
            is_partial: match tag {
                b"F" => false,
                b"P" => true,
                _ => return None,
            },
            text: text.to_vec(),
        })
    }
}

/// Where to start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Range {
    /// Only so many of the last records; all when absent.
    pub tail: Option<usize>,
    /// Only records from then on.
    pub since: Option<Timestamp>,
}

/// Gives records in order, from the oldest file to the newest.
#[derive(Debug)]
pub struct Reader {
    names: Rotation,
    path: PathBuf,
    /// The file being read, and the start of a record whose end is not written yet.
    current: Option<BufReader<File>>,
    rest: Vec<u8>,
    since: Option<String>,
    ready: VecDeque<Record>,
}

impl Reader {
    /// Opens the log at `path` with its rotated files; one that does not exist yet is an empty one.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn open(path: &Path, range: Range) -> io::Result<Self> {
        let since = range.since.map(|since| {
            let seconds = i64::try_from(since.0 / 1000).unwrap_or(i64::MAX / 1000);
            stamp_of(seconds, (since.0 % 1000) as u32 * 1_000_000)
        });
        let mut reader = Self {
            names: Rotation::of(path),
            path: path.to_path_buf(),
            current: None,
            rest: Vec::new(),
            since,
            ready: VecDeque::new(),
        };
        match range.tail {
            Some(count) => reader.start_with_tail(count)?,
            None => reader.current = reader.oldest()?.map(BufReader::new),
        }
        Ok(reader)
    }

    /// The next record; none when there is none now. Ask again later to follow.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn next_record(&mut self) -> io::Result<Option<Record>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Ok(Some(record));
            }
            let Some(file) = &mut self.current else {
                self.current = self.oldest()?.map(BufReader::new);
                if self.current.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let ends_early = file.read_until(b'\n', &mut self.rest)? == 0 || self.rest.last() != Some(&b'\n');
            if ends_early && !self.advance()? {
                return Ok(None);
            }
            if !ends_early {
                let line = std::mem::take(&mut self.rest);
                self.ready
                    .extend(self.wanted(line.strip_suffix(b"\n").unwrap_or(&line)));
            }
        }
    }

    fn wanted(&self, line: &[u8]) -> Option<Record> {
        let record = Record::parse(line)?;
        let is_late_enough = self.since.as_ref().is_none_or(|since| record.time >= *since);
        is_late_enough.then_some(record)
    }

    /// At the end of a file: goes to the one that follows it, if it was rotated away. True when there is more to read.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.current else {
            return Ok(false);
        };
        let here = file.get_ref().metadata()?;
        if file.stream_position()? > here.len() {
            // Emptied in place: a log that keeps one file only.
            file.seek(SeekFrom::Start(0))?;
            self.rest.clear();
            return Ok(true);
        }
        let key = (here.dev(), here.ino());
        let Some(age) = self.age_of(key)? else {
            // Rotated out of existence while it was being read.
            self.rest.clear();
            self.current = self.oldest()?.map(BufReader::new);
            return Ok(self.current.is_some());
        };
        if age == 0 {
            return Ok(false);
        }
        // What was written between reading to the end and the rotation comes first.
        if let Some(file) = &mut self.current {
            file.read_to_end(&mut self.rest)?;
        }
        let next = File::open(self.names.file(age - 1))?;
        let text = std::mem::take(&mut self.rest);
        for line in text.split(|byte| *byte == b'\n') {
            self.ready.extend(self.wanted(line));
        }
        self.current = Some(BufReader::new(next));
        Ok(true)
    }

    fn age_of(&self, key: (u64, u64)) -> io::Result<Option<u32>> {
        for age in 0..FILES_MAX {
            match std::fs::metadata(self.names.file(age)) {
                Ok(found) if (found.dev(), found.ino()) == key => return Ok(Some(age)),
                // The current file may be missing for a moment during a rotation.
                Err(error) if error.kind() == io::ErrorKind::NotFound && age > 0 => return Ok(None),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(None)
    }

    fn oldest(&self) -> io::Result<Option<File>> {
        Ok(self.all_files()?.pop())
    }

    /// From the newest to the oldest.
    fn all_files(&self) -> io::Result<Vec<File>> {
        let mut files = Vec::new();
        for age in 0..FILES_MAX {
            match File::open(self.names.file(age)) {
                Ok(file) => files.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound && age == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    /// Reads backwards until there are enough records, then stands at the end of the newest file.
    fn start_with_tail(&mut self, count: usize) -> io::Result<()> {
        let mut files = self.all_files()?.into_iter();
        let mut found: VecDeque<Record> = VecDeque::new();
        let mut newest = None;
        for mut file in files.by_ref() {
            let (text, end) = last_lines(&mut file, count - found.len())?;
            let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
            for line in lines.iter().rev() {
                if found.len() < count {
                    self.wanted(line)
                        .into_iter()
                        .for_each(|record| found.push_front(record));
                }
            }
            newest.get_or_insert((file, end));
            if found.len() >= count {
                break;
            }
        }
        if let Some((mut file, end)) = newest {
            file.seek(SeekFrom::Start(end))?;
            self.current = Some(BufReader::new(file));
        }
        self.ready = found;
        Ok(())
    }

    /// The log's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The last `count` whole lines of a file, and where they end.
fn last_lines(file: &mut File, count: usize) -> io::Result<(Vec<u8>, u64)> {
    let mut start = file.metadata()?.len();
    let mut text: Vec<u8> = Vec::new();
    loop {
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        if start == 0 || lines > count {
            break;
        }
        let length = start.min(BLOCK_LENGTH);
        start -= length;
        let mut block = vec![0; usize::try_from(length).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        block.append(&mut text);
        text = block;
    }
    // A record that is being written is left for later.
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    text.truncate(whole);
    let end = start + whole as u64;
    text.pop();
    Ok((text, end))
}

#[cfg(test)]
mod tests;
