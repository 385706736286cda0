//! `blkio_config`: weights and limits of disk access, by device.

use std::collections::BTreeMap;

use gantry_model::ByteSize;
use gantry_model::spec::BlockIo;

use super::keys;
use super::scalar::{integer, parsed, some_text};
use crate::yaml::cursor::Cursor;

/// The range of weights (kernel, BFQ and Docker).
const WEIGHT_MIN: i64 = 10;
const WEIGHT_MAX: i64 = 1000;

/// All of it.
pub(crate) fn block_io(at: &Cursor<'_>) -> BlockIo {
    at.check_keys(keys::BLKIO);
    let bytes = |at: &Cursor<'_>| parsed::<ByteSize>(at).map(|size| size.0);
    let count = |at: &Cursor<'_>| integer(at, 1, i64::MAX).map(i64::unsigned_abs);
    BlockIo {
        weight: at.read("weight", weight),
        device_weight: by_device(at, "weight_device", "weight", weight),
        device_read_bps: by_device(at, "device_read_bps", "rate", bytes),
        device_write_bps: by_device(at, "device_write_bps", "rate", bytes),
        device_read_iops: by_device(at, "device_read_iops", "rate", count),
        device_write_iops: by_device(at, "device_write_iops", "rate", count),
    }
}

fn weight(at: &Cursor<'_>) -> Option<u16> {
    u16::try_from(integer(at, WEIGHT_MIN, WEIGHT_MAX)?).ok()
}

/// `- {path: …, rate: …}`.
fn by_device<T>(
    at: &Cursor<'_>,
    key: &str,
    value_key: &str,
    value: impl Fn(&Cursor<'_>) -> Option<T>,
) -> BTreeMap<String, T> {
    let Some(list) = at.get(key) else {
        return BTreeMap::new();
    };
    let entry = |item: &Cursor<'_>| {
        item.check_keys(keys::BLKIO_DEVICE);
        let (Some(path), Some(value_at)) = (item.get("path"), item.get(value_key)) else {
            item.error(format!("'path' and '{value_key}' are needed"));
            return None;
        };
        let device = some_text(&path)?;
        if !device.starts_with('/') {
            path.error_with(
                format!("'{device}' is not a device"),
                "write its path on the node, such as /dev/sda",
            );
        }
        Some((device, value(&value_at)?))
    };
    list.items().iter().filter_map(entry).collect()
}
