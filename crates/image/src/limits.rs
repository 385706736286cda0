//! What an image may demand of a node. A hostile or broken image hits one of these and fails with a clear error, instead of
//! filling the disk or the memory.

/// Bytes of a layer once decompressed, tar headers included. The largest public images (machine learning) have layers of
/// about 20 GiB; too low refuses honest images, too high lets a decompression bomb fill a disk.
pub const LAYER_BYTES_MAX: u64 = 64 << 30;
/// How many times its stored bytes a layer may have once decompressed, beyond [`LAYER_BYTES_FREE`]. Gzip cannot exceed 1,032;
/// honest layers stay below 20, and below 100 where they are mostly zeros; zstd's bombs reach 30,000.
pub const LAYER_RATIO_MAX: u64 = 200;
/// Decompressed bytes that a layer may have however small it is: below what any node has free, and enough for the large empty log
/// files (`lastlog`) that some builders leave.
pub const LAYER_BYTES_FREE: u64 = 1 << 30;
/// Members of one layer, extension headers included. Large monorepo layers hold about half a million files; each member
/// costs an inode.
pub const LAYER_ENTRIES_MAX: u64 = 4_000_000;
/// Bytes of an archive given to `load`, once decompressed: all layers of all its images.
pub const ARCHIVE_BYTES_MAX: u64 = 256 << 30;
/// Members of an archive given to `load`; `docker save` of 100 images stays below 20,000.
pub const ARCHIVE_ENTRIES_MAX: u64 = 1_000_000;
/// Bytes of a manifest, an index or any other document of an archive that is held in memory. Registries must accept 4 MiB
/// (OCI distribution specification).
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Layers of an image. The kernel's overlayfs takes 500 lower layers (`OVL_MAX_STACK`).
pub const IMAGE_LAYERS_MAX: usize = 500;
/// Indexes within indexes; honest images have one or two.
pub const INDEX_DEPTH_MAX: usize = 4;
/// Bytes of one extension header of a tar (a long name, a long link, the pax records with extended attributes).
pub const TAR_EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a path: `PATH_MAX`, less the terminating zero.
pub const PATH_BYTES_MAX: usize = 4095;
/// Data segments of a sparse file.
pub const SPARSE_SEGMENTS_MAX: usize = 65_536;
/// Bytes of a tar block (POSIX ustar).
pub(crate) const TAR_BLOCK_BYTES: usize = 512;

const _: () = assert!(
    TAR_EXTENSION_BYTES_MAX > PATH_BYTES_MAX as u64,
    "a long path must fit an extension header"
);
const _: () = assert!(
    LAYER_BYTES_FREE < LAYER_BYTES_MAX,
    "the ratio must bound layers before the absolute limit does"
);
const _: () = assert!(
    ARCHIVE_BYTES_MAX > LAYER_BYTES_MAX,
    "an archive must be able to hold its largest layer"
);

/// How much one tar may demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes, decompressed.
    pub bytes: u64,
    /// Members, extension headers included.
    pub entries: u64,
}

impl Limits {
    /// For one layer: [`LAYER_BYTES_MAX`] and [`LAYER_ENTRIES_MAX`].
    pub const LAYER: Self = Self {
        bytes: LAYER_BYTES_MAX,
        entries: LAYER_ENTRIES_MAX,
    };
    /// For a layer of so many stored bytes: [`Limits::LAYER`], and no more than [`LAYER_RATIO_MAX`] times that.
    #[must_use]
    pub fn layer(stored: Option<u64>) -> Self {
        let by_ratio = stored.map_or(LAYER_BYTES_MAX, |stored| stored.saturating_mul(LAYER_RATIO_MAX));
        Self {
            bytes: by_ratio.clamp(LAYER_BYTES_FREE, LAYER_BYTES_MAX),
            ..Self::LAYER
        }
    }

    /// For an archive of images: [`ARCHIVE_BYTES_MAX`] and [`ARCHIVE_ENTRIES_MAX`].
    pub const ARCHIVE: Self = Self {
        bytes: ARCHIVE_BYTES_MAX,
        entries: ARCHIVE_ENTRIES_MAX,
    };
}
