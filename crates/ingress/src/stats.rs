//! What happened to the requests of each route: counts, classes of status, latencies.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use gantry_model::spec::{HostPattern, PathPattern};
use serde::{Deserialize, Serialize};

/// Each power of two is cut into so many buckets, so that a quantile is at most an eighth too high.
const CUTS: u64 = 8;
/// From a microsecond up to 2^27 of them, which is more than two minutes.
const BUCKETS: usize = 8 * 25;

/// Counters of one route, shared by all workers.
#[derive(Debug)]
pub(crate) struct RouteStats {
    by_class: [AtomicU64; 5],
    /// Sent again to another replica.
    pub(crate) retries: AtomicU64,
    /// Answered here, since no replica did.
    pub(crate) unserved: AtomicU64,
    /// Connections that became something else, such as WebSocket.
    pub(crate) upgrades: AtomicU64,
    total_us: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for RouteStats {
    fn default() -> Self {
        Self {
            by_class: [const { AtomicU64::new(0) }; 5],
            retries: AtomicU64::new(0),
            unserved: AtomicU64::new(0),
            upgrades: AtomicU64::new(0),
            total_us: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

/// The bucket of a latency.
fn bucket(us: u64) -> usize {
    let us = us.max(CUTS);
    let power = u64::from(us.ilog2());
    let cut = (us >> (power - 3)) & (CUTS - 1);
    usize::try_from((power - 3) * CUTS + cut).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// The upper end of a bucket in microseconds.
fn upper(bucket: usize) -> u64 {
    let (power, cut) = (bucket as u64 / CUTS, bucket as u64 % CUTS);
    (CUTS + cut + 1) << power
}

impl RouteStats {
    /// A request was answered after so long.
    pub(crate) fn answered(&self, status: u16, took_us: u64) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        if let Some(count) = self.by_class.get(class) {
            count.fetch_add(1, Relaxed);
        }
        self.total_us.fetch_add(took_us, Relaxed);
        if let Some(count) = self.buckets.get(bucket(took_us)) {
            count.fetch_add(1, Relaxed);
        }
    }

    fn quantile_us(counts: &[u64], total: u64, permille: u64) -> u64 {
        let wanted = (total * permille).div_ceil(1000);
        let mut seen = 0;
        for (index, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                return upper(index);
            }
        }
        0
    }

    /// What is shown of it.
    pub(crate) fn report(&self, service: &str, host: &HostPattern, path: &PathPattern, backends: usize) -> RouteReport {
        let counts: Vec<u64> = self.buckets.iter().map(|count| count.load(Relaxed)).collect();
        let requests: u64 = counts.iter().sum();
        let quantile = |permille| Self::quantile_us(&counts, requests, permille);
        RouteReport {
            service: service.to_string(),
            host: host.clone(),
            path: path.clone(),
            replicas: backends,
            requests,
            by_class: self.by_class.each_ref().map(|count| count.load(Relaxed)),
            retries: self.retries.load(Relaxed),
            unserved: self.unserved.load(Relaxed),
            upgrades: self.upgrades.load(Relaxed),
            mean_us: self.total_us.load(Relaxed).checked_div(requests).unwrap_or(0),
            p50_us: quantile(500),
            p99_us: quantile(990),
            p999_us: quantile(999),
        }
    }
}

/// What an ingress has done since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the node.
    #[serde(default)]
    pub node: String,
    /// Where it listens for HTTP; none without rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Where it listens for HTTPS; none without certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<String>,
    /// What keeps it from serving as it should.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Open connections of clients.
    pub connections: u64,
    /// Connections turned away by a limit.
    pub turned_away: u64,
    /// Requests that no route was for, or that were malformed beyond the parser.
    pub unrouted: u64,
    /// Lines that the access log lost.
    pub log_lines_lost: u64,
    /// Routes with traffic or replicas.
    pub routes: Vec<RouteReport>,
}

/// Of one route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteReport {
    /// `shop/web`.
    pub service: String,
    /// Of the rule.
    pub host: HostPattern,
    /// Of the rule.
    pub path: PathPattern,
    /// Replicas that get requests at present.
    pub replicas: usize,
    /// Requests answered.
    pub requests: u64,
    /// Of those, with a status from 100, 200, 300, 400, 500.
    pub by_class: [u64; 5],
    /// Sent again to another replica.
    pub retries: u64,
    /// Answered here, since no replica did.
    pub unserved: u64,
    /// Connections that became something else, such as WebSocket.
    pub upgrades: u64,
    /// Until the answer began, in microseconds.
    pub mean_us: u64,
    /// The middle one.
    pub p50_us: u64,
    /// One of 100 was slower.
    pub p99_us: u64,
    /// One of 1000 was slower.
    pub p999_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_hold_what_they_say() {
        let mut last = 0;
        for us in (0..1000).chain((1000..100_000).step_by(97)).chain([1 << 26, u64::MAX]) {
            let index = bucket(us);
            assert!(index >= last && index < BUCKETS, "{us}");
            if index < BUCKETS - 1 {
                assert!(us < upper(index), "{us} in {index}");
                assert!(upper(index) <= us.max(CUTS) * 9 / 8 + 1, "{us}: {}", upper(index));
            }
            last = index;
        }
    }

    #[test]
    fn quantiles_are_near() {
        let stats = RouteStats::default();
        for us in 1..=1000 {
            stats.answered(if us % 10 == 0 { 503 } else { 200 }, us);
        }
        let report = stats.report("shop/web", &HostPattern::Any, &PathPattern::all(), 3);
        assert_eq!((report.requests, report.by_class), (1000, [0, 900, 0, 0, 100]));
        assert!((500..=563).contains(&report.p50_us), "{report:?}");
        assert!((990..=1115).contains(&report.p99_us), "{report:?}");
        assert_eq!(report.mean_us, 500);
    }
}
