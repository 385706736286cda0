//! Items of sets as they are sent, encoded once for all nodes that have them alike.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use gantry_api::v1::Document;
use gantry_model::assignment::{Item, ItemKey};

/// Encoded items kept. It is emptied when it is full: most of what it holds has been sent to everybody by then.
const KEPT_MAX: usize = 16_384;

/// See the module.
#[derive(Debug, Default)]
pub struct Encoded {
    kept: Mutex<HashMap<ItemKey, (Arc<Item>, Document)>>,
}

impl Encoded {
    /// The item as a document; the bytes of equal items are the same memory.
    pub fn document(&self, item: &Arc<Item>) -> Document {
        if !is_common(item) {
            return gantry_api::encode("item", item.as_ref());
        }
        let key = item.key();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, document)) = kept.get(&key)
            && Arc::ptr_eq(known, item)
        {
            return document.clone();
        }
        let document = gantry_api::encode("item", item.as_ref());
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, (item.clone(), document.clone()));
        document
    }
}

fn is_common(item: &Item) -> bool {
    match item {
        Item::Service(_) | Item::Peer(_) => true,
        // Secrets stay in as few places as possible.
        Item::Node(_) | Item::Replica(_) | Item::Data(_) => false,
    }
}
