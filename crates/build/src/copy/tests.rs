//! Where files go.
