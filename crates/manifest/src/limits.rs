//! Every limit of the crate, so that a hostile manifest costs a clear error and not the machine's memory.
//!
//! All of them are far above what people write; the largest Compose files in public repositories have some 2,000 lines.

/// Largest manifest in bytes. Room for a dozen inline configs of the largest size; more is a file, not a manifest.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// Most values of all manifests together, counted after aliases, merge keys and `extends` are expanded: about 100 MB of memory.
/// Every [`VALUE_BYTES`] of a text count as one more, so that long texts cannot be multiplied either.
pub const VALUES_MAX: usize = 1_000_000;

/// Bytes of text that count as one value.
pub const VALUE_BYTES: usize = 100;

/// Most items of one list. Items are compared with each other, so this bounds the time.
pub const LIST_ITEMS_MAX: usize = 10_000;

/// Most services of an application; what a namespace holds besides is bounded by the cluster.
pub const SERVICES_MAX: usize = 10_000;

/// Deepest nesting. Compose needs 9; all recursion over a tree is bounded by this.
pub const DEPTH_MAX: usize = 64;

/// Deepest nesting of `${A:-${B:-…}}`.
pub const INTERPOLATION_DEPTH_MAX: usize = 16;

/// Most bytes that the values with variables of one manifest become together.
pub const INTERPOLATED_BYTES_MAX: usize = 4 * DOCUMENT_BYTES_MAX;

/// Longest chain of `extends`.
pub const EXTENDS_DEPTH_MAX: usize = 16;

/// Most ports an application may publish: more than there are port numbers, since addresses and protocols multiply them.
pub const PORTS_MAX: usize = 100_000;

/// Most ports one service may publish: a range of media ports such as 10000-20000 fits.
pub const PORTS_PER_SERVICE_MAX: usize = 16_384;

/// Diagnostics kept; a file with more is broken in one place, and the first ones say where.
pub const DIAGNOSTICS_MAX: usize = 100;

/// Largest seccomp profile in bytes; Docker's own has some 15,000. It is copied into the spec of each service that names it.
pub const SECCOMP_BYTES_MAX: usize = 1 << 18;

/// Deepest nesting of `include`.
pub const INCLUDE_DEPTH_MAX: usize = 16;

/// Most files that `include` and `extends` read, together.
pub const FILES_MAX: usize = 1000;

/// Largest env file in bytes.
pub const ENV_FILE_BYTES_MAX: usize = 1 << 20;

const _: () = assert!(
    gantry_model::spec::DataKind::Config.size_max() * 4 < DOCUMENT_BYTES_MAX,
    "several configs of the largest size must fit inline"
);
const _: () = assert!(
    DOCUMENT_BYTES_MAX / VALUE_BYTES < VALUES_MAX / 2,
    "a document of the largest size must not fail for its texts alone"
);
