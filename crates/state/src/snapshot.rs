//! The state as bytes: what a server saves, and sends to one that is behind.

use std::sync::Arc;

use gantry_model::explain::Event;
use serde::{Deserialize, Serialize};

use crate::{Key, Object, State, Stored};

/// Format of a snapshot; a newer one is refused, an older one is still read.
pub const SNAPSHOT_FORMAT: u32 = 1;

/// A snapshot that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Written by a later version.
    #[error("the snapshot has format {found}, this version reads up to {SNAPSHOT_FORMAT}: run a newer gantry")]
    Newer {
        /// The format it has.
        found: u32,
    },
}

/// The serde form of a [`State`]; indexes are rebuilt when it is loaded.
#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    revision: u64,
    events_recorded: u64,
    objects: Vec<(u64, Arc<Object>)>,
    events: Vec<Arc<Event>>,
}

impl Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Saved {
            format: SNAPSHOT_FORMAT,
            revision: self.revision,
            events_recorded: self.events_recorded,
            objects: self
                .objects
                .values()
                .map(|stored| (stored.modified, stored.object.clone()))
                .collect(),
            events: self.events.iter().cloned().collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let saved = Saved::deserialize(deserializer)?;
        if saved.format > SNAPSHOT_FORMAT {
            return Err(serde::de::Error::custom(SnapshotError::Newer { found: saved.format }));
        }
        let mut state = Self {
            revision: saved.revision,
            events_recorded: saved.events_recorded,
            events: saved.events.into_iter().collect(),
            ..Self::default()
        };
        for (modified, object) in saved.objects {
            state.indexes.insert(&object);
            state.objects.insert(object.key(), Stored { modified, object });
        }
        Ok(state)
    }
}

impl State {
    /// A number that is equal on servers with equal states: FNV-1a (Fowler, Noll, Vo) over keys and revisions.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        hash.add(self.revision);
        hash.add(self.events_recorded);
        for (key, stored) in &self.objects {
            hash.add_key(key);
            hash.add(stored.modified);
        }
        hash.0
    }
}

struct Fnv(u64);

impl Fnv {
    fn add(&mut self, value: u64) {
        for byte in value.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn add_key(&mut self, key: &Key) {
        for byte in key.to_string().bytes() {
            self.add(u64::from(byte));
        }
    }
}
