//! Reading tars that nobody vouches for, and writing tars that come out the same every time.
//!
//! The `tar` crate gives the layout of a header; the walk over the members is here, because it has to bound what a member may
//! make us hold in memory, take extended attributes with any byte in them, and know whether the tar was complete.
//! **Invariant:** nothing here touches the file system.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub(crate) use reader::{Kind, Member, TarReader};
pub(crate) use sparse::Segment;
pub(crate) use writer::{Entry, TarWriter};

/// A tar that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Its source failed, or its compression is damaged.
    #[error("cannot be read: {0}")]
    Read(std::io::Error),
    /// It ends before it is complete.
    #[error("cut off after {bytes} bytes (decompressed)")]
    Truncated {
        /// How much there was, decompressed.
        bytes: u64,
    },
    /// It is no tar, or a damaged one.
    #[error("not a valid tar at byte {position} (decompressed): {reason}")]
    Malformed {
        /// Where, decompressed.
        position: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// A member has a form that is not supported.
    #[error("member '{member}': {reason}")]
    Unsupported {
        /// Its path.
        member: String,
        /// What is not supported.
        reason: &'static str,
    },
    /// A member's path or link leads out of the root.
    #[error("member '{member}' is unsafe: {reason}")]
    Unsafe {
        /// Its path.
        member: String,
        /// Why.
        reason: &'static str,
    },
    /// It demands more than allowed.
    #[error("more than {limit} {unit}")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
}

impl TarError {
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Read(_) | Self::Truncated { .. } | Self::Malformed { .. } => "make or transfer the archive again",
            Self::Unsupported { .. } => "make the archive with GNU tar, bsdtar or docker",
            Self::Unsafe { .. } => "do not use this image: it tries to write outside its own root",
            Self::TooLarge { .. } => "split it into smaller layers",
        }
    }
}
