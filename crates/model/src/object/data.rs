//! Configs and secrets, one record per version of the content.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec::DataKind;
use crate::{Bytes64, DataId, Name, Timestamp};

/// One version of a config or secret. Immutable: new content is a new record; the newest of a name is its current version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRecord {
    /// Its id.
    pub id: DataId,
    /// Config or secret.
    pub kind: DataKind,
    /// The owner.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
    /// Counts the contents under this name from 1.
    pub version: u32,
    /// The content.
    pub content: Bytes64,
    /// Labels of the user.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When it was stored.
    pub created_at: Timestamp,
}
