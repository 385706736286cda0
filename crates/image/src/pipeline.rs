//! Reading on one thread while another one works on what came, with a bounded amount between them.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes of a chunk.
pub(crate) const CHUNK_BYTES: usize = 128 << 10;
/// Chunks between two threads: enough to even out small files against large ones; 2 MiB.
pub(crate) const CHUNKS_MAX: usize = 16;

pub(crate) type Chunk = io::Result<Vec<u8>>;

/// A channel whose end is a reader.
pub(crate) fn channel() -> (SyncSender<Chunk>, ChunkReader) {
    let (sender, receiver) = sync_channel(CHUNKS_MAX);
    let reader = ChunkReader {
        receiver,
        chunk: Vec::new(),
        position: 0,
    };
    (sender, reader)
}

/// Sends everything `source` gives; ends early when nobody listens.
pub(crate) fn pump(mut source: impl Read, sender: &SyncSender<Chunk>) {
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut filled = 0;
        let outcome = loop {
            match source.read(&mut chunk[filled..]) {
                Ok(0) => break None,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
            if filled == chunk.len() {
                break None;
            }
        };
        let is_end = filled < chunk.len();
        chunk.truncate(filled);
        if filled > 0 && sender.send(Ok(chunk)).is_err() {
            return;
        }
        if let Some(error) = outcome {
            // The listener may have had enough already.
            let _ = sender.send(Err(error));
            return;
        }
        if is_end {
            return;
        }
    }
}

/// Reads what the other thread sends; its end is the sender's.
pub(crate) struct ChunkReader {
    receiver: Receiver<Chunk>,
    chunk: Vec<u8>,
    position: usize,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.chunk.len() {
            match self.receiver.recv() {
                Ok(chunk) => {
                    self.chunk = chunk?;
                    self.position = 0;
                }
                Err(_) => return Ok(0),
            }
        }
        let rest = &self.chunk[self.position..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_and_errors_do_too() {
        let data: Vec<u8> = (0..CHUNK_BYTES * 3 + 5).map(|number| number as u8).collect();
        let (sender, mut reader) = channel();
        let source = data.clone();
        let thread = std::thread::spawn(move || pump(source.as_slice(), &sender));
        let mut back = Vec::new();
        reader.read_to_end(&mut back).expect("all of it");
        assert!(back == data);
        thread.join().expect("it ends");
        let (sender, mut reader) = channel();
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        pump([1u8].as_slice().chain(Broken), &sender);
        drop(sender);
        let mut back = Vec::new();
        assert!(reader.read_to_end(&mut back).is_err());
        assert_eq!(back, [1]);
    }

    #[test]
    fn a_pump_ends_when_nobody_listens() {
        let (sender, reader) = channel();
        let thread = std::thread::spawn(move || pump(io::repeat(1), &sender));
        drop(reader);
        thread.join().expect("it ends");
    }
}
