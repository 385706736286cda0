//! The build executor.
