//! Gzip on several processors, the same bytes whatever their number.
//!
//! The data is cut into chunks of a fixed size; each is compressed on its own and ends on a byte boundary (a sync flush, RFC 1951
//! section 3.2.4), so that all together are one gzip member with one checksum, which every reader takes.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// Plain bytes of a chunk. Smaller ones compress worse, since none knows those before it; larger ones cost memory.
const CHUNK_BYTES: usize = 1 << 20;
/// Threads at most: more would only wait for the tar to be read.
const THREADS_MAX: usize = 8;
/// Magic, deflate, no flags, no time, no extra flags, unknown system (RFC 1952).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

struct Job {
    plain: Vec<u8>,
    last: bool,
    done: SyncSender<Squeezed>,
}

struct Squeezed {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Compresses what is written to it.
pub(crate) struct GzipWriter<W> {
    sink: W,
    chunk: Vec<u8>,
    jobs: Option<SyncSender<Job>>,
    /// Chunks being compressed, the earliest first.
    waiting: VecDeque<Receiver<Squeezed>>,
    waiting_max: usize,
    workers: Vec<JoinHandle<()>>,
    crc: Crc,
}

impl<W: Write> GzipWriter<W> {
    pub(crate) fn new(mut sink: W, level: u32) -> io::Result<Self> {
        sink.write_all(&HEADER)?;
        let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = Arc::new(Mutex::new(queue));
        let mut workers = Vec::with_capacity(threads);
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            let worker = thread::Builder::new().name("gzip".to_string());
            workers.push(worker.spawn(move || work(&queue, level))?);
        }
        Ok(Self {
            sink,
            chunk: Vec::with_capacity(CHUNK_BYTES),
            jobs: Some(jobs),
            waiting: VecDeque::new(),
            waiting_max: threads * 2,
            workers,
            crc: Crc::new(),
        })
    }

    /// Writes the end and returns the sink.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.submit(true)?;
        while !self.waiting.is_empty() {
            self.collect()?;
        }
        let mut trailer = self.crc.sum().to_le_bytes().to_vec();
        trailer.extend_from_slice(&self.crc.amount().to_le_bytes());
        self.sink.write_all(&trailer)?;
        self.jobs = None;
        for worker in self.workers {
            worker.join().map_err(|_| gone())?;
        }
        Ok(self.sink)
    }

    fn submit(&mut self, last: bool) -> io::Result<()> {
        if self.waiting.len() >= self.waiting_max {
            self.collect()?;
        }
        let plain = std::mem::replace(&mut self.chunk, Vec::with_capacity(if last { 0 } else { CHUNK_BYTES }));
        let (done, result) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(Job { plain, last, done }).map_err(|_| gone())?;
        self.waiting.push_back(result);
        Ok(())
    }

    fn collect(&mut self) -> io::Result<()> {
        let Some(result) = self.waiting.pop_front() else {
            return Ok(());
        };
        let squeezed = result.recv().map_err(|_| gone())?;
        self.crc.combine(&squeezed.crc);
        self.sink.write_all(&squeezed.bytes)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..count]);
        if self.chunk.len() == CHUNK_BYTES {
            self.submit(false)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::other("a compressing thread has ended")
}

fn work(queue: &Mutex<Receiver<Job>>, level: u32) {
    let mut compress = Compress::new(Compression::new(level), false);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        // Nobody waits for more when the writer is gone.
        let Ok(job) = job else { return };
        let Some(squeezed) = squeeze(&mut compress, &job) else {
            return;
        };
        let _ = job.done.send(squeezed);
    }
}

fn squeeze(compress: &mut Compress, job: &Job) -> Option<Squeezed> {
    let mut crc = Crc::new();
    crc.update(&job.plain);
    compress.reset();
    let flush = if job.last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    let mut bytes = Vec::with_capacity(job.plain.len() / 2 + 1024);
    loop {
        let taken = compress.total_in() as usize;
        let status = compress.compress_vec(&job.plain[taken..], &mut bytes, flush).ok()?;
        let all_in = compress.total_in() as usize == job.plain.len();
        // A sync flush is complete once it leaves room in the output (zlib's manual, `deflate`).
        let done = if job.last {
            status == Status::StreamEnd
        } else {
            all_in && bytes.len() < bytes.capacity()
        };
        if done {
            return Some(Squeezed { bytes, crc });
        }
        bytes.reserve(bytes.capacity().max(1024));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn squeezed(plain: &[u8]) -> Vec<u8> {
        let mut writer = GzipWriter::new(Vec::new(), 6).expect("threads start");
        for part in plain.chunks(70_000) {
            writer.write_all(part).expect("memory");
        }
        writer.finish().expect("memory")
    }

    #[test]
    fn one_member_holds_everything() {
        let noise = (0u32..).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8);
        let text = b"a layer compresses well ".iter().copied().cycle();
        for size in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES + 7] {
            for plain in [
                noise.clone().take(size).collect::<Vec<u8>>(),
                text.clone().take(size).collect(),
            ] {
                let gzip = squeezed(&plain);
                let mut decoder = flate2::bufread::GzDecoder::new(gzip.as_slice());
                let mut back = Vec::new();
                decoder.read_to_end(&mut back).expect("a valid member");
                assert!(back == plain, "{size} bytes come back");
                assert!(decoder.into_inner().is_empty(), "nothing follows the member");
                assert_eq!(squeezed(&plain), gzip, "the same input makes the same bytes");
            }
        }
    }

    #[test]
    fn a_writer_that_is_dropped_leaves_no_thread_waiting() {
        let mut writer = GzipWriter::new(Vec::new(), 1).expect("threads start");
        writer.write_all(&vec![7; 3 * CHUNK_BYTES]).expect("memory");
        let workers = std::mem::take(&mut writer.workers);
        drop(writer);
        for worker in workers {
            worker.join().expect("it ends by itself");
        }
    }
}
