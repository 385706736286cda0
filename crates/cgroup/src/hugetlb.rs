//! Huge pages, by size.

use std::collections::BTreeMap;

use crate::CgroupError;
use crate::error::{Setting, read_number_if_there, write, write_where_known};
use crate::group::At;

/// Huge pages of one size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HugePageStats {
    /// Bytes in use.
    pub usage: u64,
    /// The most that was ever in use; version 1 only.
    pub peak: Option<u64>,
    /// How often the limit was hit.
    pub limit_hits: u64,
}

fn is_size(text: &str) -> bool {
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    digits > 0 && matches!(&text[digits..], "KB" | "MB" | "GB")
}

pub(crate) fn apply(at: &At, limits: &BTreeMap<String, u64>) -> Result<(), CgroupError> {
    for (size, limit) in limits {
        if !is_size(size) {
            return Err(CgroupError::Invalid {
                controller: "hugetlb",
                setting: "page size",
                value: size.clone(),
                reason: "sizes are written as 2MB, 1GB".to_string(),
            });
        }
        let (limit_file, reserve_file) = match at {
            At::V2(_) => (format!("hugetlb.{size}.max"), format!("hugetlb.{size}.rsvd.max")),
            At::V1(_) => (
                format!("hugetlb.{size}.limit_in_bytes"),
                format!("hugetlb.{size}.rsvd.limit_in_bytes"),
            ),
        };
        let value = limit.to_string();
        let setting = Setting {
            controller: "hugetlb",
            value: &value,
            reason: "this machine has no huge pages of that size",
            remedy: "/sys/kernel/mm/hugepages lists those it has",
        };
        write_where_known(&at.path().join(limit_file), &setting)?;
        // Also what is only reserved counts, where the kernel can tell: otherwise a fault later on is a SIGBUS.
        let reserve = at.path().join(reserve_file);
        if reserve.exists() {
            write(&reserve, &value)?;
        }
    }
    Ok(())
}

/// By size, as the files of the group name them.
pub(crate) fn stats(at: &At) -> Result<BTreeMap<String, HugePageStats>, CgroupError> {
    let limit_suffix = match at {
        At::V2(_) => ".max",
        At::V1(_) => ".limit_in_bytes",
    };
    let mut found = BTreeMap::new();
    let entries = std::fs::read_dir(at.path()).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let size = name
            .to_str()
            .and_then(|name| name.strip_prefix("hugetlb.")?.strip_suffix(limit_suffix));
        let Some(size) = size.filter(|size| is_size(size)) else {
            continue;
        };
        found.insert(size.to_string(), of_size(at, size)?);
    }
    Ok(found)
}

fn of_size(at: &At, size: &str) -> Result<HugePageStats, CgroupError> {
    let number = |suffix: &str| read_number_if_there(&at.path().join(format!("hugetlb.{size}.{suffix}")));
    Ok(match at {
        At::V2(group) => {
            let events = crate::error::read_if_there(&group.join(format!("hugetlb.{size}.events")))?;
            HugePageStats {
                usage: number("current")?.unwrap_or(0),
                peak: None,
                limit_hits: crate::error::keyed(&events.unwrap_or_default(), "max"),
            }
        }
        At::V1(_) => HugePageStats {
            usage: number("usage_in_bytes")?.unwrap_or(0),
            peak: number("max_usage_in_bytes")?,
            limit_hits: number("failcnt")?.unwrap_or(0),
        },
    })
}
