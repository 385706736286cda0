//! What a transaction changed, for watchers and for views that are kept up to date.

use std::sync::Arc;

use crate::{Key, Object};

/// One object before and after a transaction.
#[derive(Debug, Clone)]
pub struct Change {
    /// The revision that made the change.
    pub revision: u64,
    /// The object.
    pub key: Key,
    /// Before; `None` when it was created.
    pub before: Option<Arc<Object>>,
    /// After; `None` when it was deleted.
    pub after: Option<Arc<Object>>,
}
