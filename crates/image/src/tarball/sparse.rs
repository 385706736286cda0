//! Sparse members: where in the file the data of a member belong. Old GNU headers and GNU's pax format 1.0.

use tar::{GnuExtSparseHeader, GnuHeader, GnuSparseHeader};

use super::header::number;
use crate::limits::SPARSE_SEGMENTS_MAX;

/// Data at a place in a file; all else is a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Collects segments and refuses what is out of order, overlapping or past the end.
#[derive(Debug, Default)]
pub(super) struct SegmentList {
    segments: Vec<Segment>,
    end: u64,
    data: u64,
}

impl SegmentList {
    pub(super) fn push(&mut self, offset: u64, length: u64) -> Result<(), &'static str> {
        if self.segments.len() >= SPARSE_SEGMENTS_MAX {
            return Err("sparse file with too many segments");
        }
        if offset < self.end {
            return Err("sparse segments overlap or are out of order");
        }
        self.end = offset.checked_add(length).ok_or("sparse segment past any end")?;
        self.data += length;
        self.segments.push(Segment { offset, length });
        Ok(())
    }

    /// The segments, if they fit a file of `real_size` bytes whose member holds `data` bytes.
    pub(super) fn finish(self, real_size: u64, data: u64) -> Result<Vec<Segment>, &'static str> {
        if i64::try_from(real_size).is_err() {
            return Err("sparse file larger than any file");
        }
        if self.end > real_size {
            return Err("sparse segment past the end of its file");
        }
        if self.data != data {
            return Err("sparse segments do not add up to the member's data");
        }
        Ok(self.segments)
    }

    pub(super) fn push_header(&mut self, header: &GnuHeader) -> Result<(), &'static str> {
        self.push_blocks(&header.sparse)
    }

    pub(super) fn push_extension(&mut self, header: &GnuExtSparseHeader) -> Result<(), &'static str> {
        self.push_blocks(&header.sparse)
    }

    fn push_blocks(&mut self, blocks: &[GnuSparseHeader]) -> Result<(), &'static str> {
        for block in blocks.iter().filter(|block| !block.is_empty()) {
            let field = |bytes| {
                number(bytes)
                    .and_then(|value| u64::try_from(value).ok())
                    .ok_or("sparse segment is not a number")
            };
            self.push(field(&block.offset)?, field(&block.numbytes)?)?;
        }
        Ok(())
    }
}

/// The map at the beginning of a member of pax format 1.0: decimal lines, first their count, then offset and length of each.
#[derive(Debug, Default)]
pub(super) struct MapParser {
    line: Vec<u8>,
    remaining: Option<u64>,
    offset: Option<u64>,
    pub(super) list: SegmentList,
}

/// Decimal digits of a `u64`.
const NUMBER_DIGITS_MAX: usize = 20;

impl MapParser {
    /// Takes one block; true when the map is complete.
    pub(super) fn feed(&mut self, block: &[u8]) -> Result<bool, &'static str> {
        for byte in block {
            if *byte != b'\n' {
                if self.line.len() >= NUMBER_DIGITS_MAX {
                    return Err("sparse map line is not a number");
                }
                self.line.push(*byte);
                continue;
            }
            let text = std::str::from_utf8(&self.line).ok();
            let value = text.and_then(|text| text.parse().ok());
            self.line.clear();
            if self.take(value.ok_or("sparse map line is not a number")?)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn take(&mut self, value: u64) -> Result<bool, &'static str> {
        let Some(remaining) = self.remaining else {
            self.remaining = Some(value);
            return Ok(value == 0);
        };
        let Some(offset) = self.offset.take() else {
            self.offset = Some(value);
            return Ok(false);
        };
        self.list.push(offset, value)?;
        self.remaining = Some(remaining - 1);
        Ok(remaining == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_across_blocks() {
        let mut parser = MapParser::default();
        assert_eq!(parser.feed(b"2\n0\n5\n10"), Ok(false));
        assert_eq!(parser.feed(b"24\n7\n\0\0"), Ok(true));
        let segments = parser.list.finish(2000, 12).expect("fits");
        assert_eq!(
            segments[1],
            Segment {
                offset: 1024,
                length: 7
            }
        );
    }

    #[test]
    fn wrong_maps_are_refused() {
        let mut list = SegmentList::default();
        list.push(0, 10).expect("the first");
        assert!(list.push(5, 1).is_err());
        assert!(list.push(u64::MAX, 1).is_err());
        assert!(list.finish(9, 10).is_err());
        assert!(MapParser::default().feed(b"x\n").is_err());
    }
}
