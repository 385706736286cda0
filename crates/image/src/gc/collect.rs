//! Making room by itself: from the high watermark of the disk down to the low one, least recently used first.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::UNIX_EPOCH;

use gantry_model::{ByteSize, Digest, DurationMs, Timestamp};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::{Removed, drop_unheld, family, is_used};
use crate::error::{ImageError, Result};
use crate::lease::Node;
use crate::store::Store;

/// When the collector begins and where it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcPolicy {
    /// Percent of the disk at which it begins; kubelet's default is 85.
    pub high_percent: u8,
    /// Percent of the disk at which it stops; kubelet's default is 80.
    pub low_percent: u8,
    /// What nothing needs stays for so long after it was written: somebody may be about to use it.
    pub age_min: DurationMs,
    /// Images with a name may go too. Only right where they can be pulled again.
    pub tagged: bool,
}

impl Default for GcPolicy {
    fn default() -> Self {
        Self {
            high_percent: 85,
            low_percent: 80,
            age_min: DurationMs::secs(3600),
            tagged: false,
        }
    }
}

/// How full the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes of the file system.
    pub total: ByteSize,
    /// Bytes of it that are taken.
    pub used: ByteSize,
}

impl DiskUse {
    /// Whether more than so many percent are taken.
    #[must_use]
    pub fn is_over(self, percent: u8) -> bool {
        self.excess(percent) > 0
    }

    /// Bytes to be freed before at most this much is taken.
    fn excess(self, percent: u8) -> u64 {
        let allowed = u128::from(self.total.0) * u128::from(percent) / 100;
        self.used.0.saturating_sub(u64::try_from(allowed).unwrap_or(u64::MAX))
    }
}

impl Store {
    /// How full the disk of the store is.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn disk_use(&self) -> Result<DiskUse> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(|error| ImageError::io("read", &self.dir)(error.into()))?;
        // Blocks only root may take count as taken, as `df` has it.
        let used = (stat.f_blocks - stat.f_bfree).saturating_mul(stat.f_frsize);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(DiskUse {
            total: ByteSize(used + free),
            used: ByteSize(used),
        })
    }

    /// Removes what nothing needs, and, from the high watermark on, images that nothing uses, the least recently used first,
    /// until the disk is below the low one. `usage` is [`Store::disk_use`] where the caller has nothing better.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn collect(&self, policy: &GcPolicy, usage: DiskUse, in_use: &BTreeSet<Digest>) -> Result<Removed> {
        self.settle()?;
        let before = self.everything()?;
        let now = self.env.now();
        let is_old = |node: &Node| self.written_at(*node).is_some_and(|at| at.after(policy.age_min) <= now);
        let old = before.into_iter().filter(is_old).collect();
        let mut removed = Removed {
            freed: self.drop_unused(&old)?,
            ..Removed::default()
        };
        if usage.excess(policy.high_percent) == 0 {
            return Ok(removed);
        }
        let mut images: Vec<_> = self.list();
        images.retain(|info| (policy.tagged || info.references.is_empty()) && !in_use.contains(&info.digest));
        images.sort_by_key(|info| self.last_used(info.digest));
        for info in images {
            if self.disk_excess(policy, usage, removed.freed)? == 0 {
                break;
            }
            let gone = self.evict(info.digest, policy.tagged, in_use)?;
            removed.untagged.extend(gone.untagged);
            removed.deleted.extend(gone.deleted);
            removed.freed += gone.freed;
        }
        Ok(removed)
    }

    /// What is still to be freed. Unpacked layers count for nothing in `freed`, so the disk is asked where it is the real one.
    fn disk_excess(&self, policy: &GcPolicy, usage: DiskUse, freed: ByteSize) -> Result<u64> {
        let counted = DiskUse {
            used: usage.used.saturating_sub(freed),
            ..usage
        };
        let real = self.disk_use()?;
        let excess = counted.excess(policy.low_percent);
        Ok(if real.total == usage.total {
            excess.min(real.excess(policy.low_percent))
        } else {
            excess
        })
    }

    fn evict(&self, image: Digest, tagged: bool, in_use: &BTreeSet<Digest>) -> Result<Removed> {
        let mut removed = Removed::default();
        let mut candidates = BTreeSet::new();
        self.update_state(|state| {
            let mut catalog = state.catalog.clone();
            let rooted = self.rooted(&catalog);
            let used = |digest: Digest| is_used(state, in_use, digest) || rooted.contains(&digest);
            if tagged && !used(image) {
                removed.untagged = catalog.references(image);
                for reference in &removed.untagged {
                    catalog.tags.remove(reference);
                }
            }
            let family = family(&catalog, image);
            candidates = drop_unheld(&mut catalog, &family, used, &mut removed.deleted);
            Ok(catalog)
        })?;
        removed.freed = self.drop_unused(&candidates)?;
        Ok(removed)
    }

    /// When an image was last unpacked or asked for.
    pub(crate) fn last_used(&self, manifest: Digest) -> Timestamp {
        self.written_at(Node::Blob(manifest)).unwrap_or(Timestamp(0))
    }

    /// Notes that an image is used now: the time of its manifest's file, which costs no write to the catalog.
    pub(crate) fn touch(&self, manifest: Digest) {
        let path = self.blobs.path(manifest);
        let now = self.env.now().0;
        let time = Timespec {
            tv_sec: i64::try_from(now / 1000).unwrap_or(i64::MAX),
            tv_nsec: (now % 1000 * 1_000_000) as _,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        if let Err(error) = utimensat(CWD, &path, &times, AtFlags::empty()) {
            tracing::debug!(%manifest, %error, "use of an image not noted");
        }
    }

    /// When a blob or layer came; none when it is gone.
    pub(crate) fn written_at(&self, node: Node) -> Option<Timestamp> {
        let path = match node {
            Node::Blob(digest) | Node::Manifest(digest) => self.blobs.path(digest),
            // The folder has the time that its layer says.
            Node::Layer(chain) => self.blobs.record_path(chain),
        };
        let modified = match fs::metadata(path).and_then(|metadata| metadata.modified()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A folder without a record: of an older version, or of a crash.
                return matches!(node, Node::Layer(_)).then_some(Timestamp(0));
            }
            result => result.ok()?,
        };
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
    }
}
