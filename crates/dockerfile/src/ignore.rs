//! `.dockerignore`: what the context leaves out.

/// The rules of one ignore file, in order; the last one that matches a path or a folder above it decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoreRules {
    rules: Vec<String>,
}
