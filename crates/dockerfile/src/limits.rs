//! What a Dockerfile may ask of its reader. Each limit bounds time or memory; none is near what people write.

/// Longest Dockerfile in bytes; BuildKit's own limit for a frontend input is 2 MiB.
pub const TEXT_BYTES_MAX: usize = 2 << 20;

/// Stages of one Dockerfile: resolving costs a configuration each.
pub const STAGES_MAX: usize = 1000;

/// Longest value after variables are replaced. Repeated self-reference (`ENV A=$A$A`) doubles a value each time.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Substitutions within substitutions (`${a:-${b:-…}}`); each costs a stack frame.
pub const NESTING_MAX: usize = 64;

/// Diagnostics kept; a file with more is no Dockerfile.
pub const DIAGNOSTICS_MAX: usize = 200;

/// Longest ignore file in bytes.
pub const IGNORE_BYTES_MAX: usize = 1 << 20;

const _: () = assert!(VALUE_BYTES_MAX <= TEXT_BYTES_MAX);
