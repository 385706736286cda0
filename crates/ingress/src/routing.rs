//! The table as one worker uses it: each route with its upstreams, and the choice among them.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use gantry_model::ReplicaId;
use gantry_model::spec::UpstreamProtocol;

use crate::stats::RouteStats;
use crate::table::{Route, Table};
use crate::upstream::Upstream;

/// What tells upstreams apart.
pub(crate) type UpstreamKey = (ReplicaId, SocketAddr, UpstreamProtocol);

/// A table with the counters of its routes, in the same order.
#[derive(Debug, Clone, Default)]
pub(crate) struct CountedTable {
    pub(crate) table: Arc<Table>,
    pub(crate) stats: Arc<Vec<Arc<RouteStats>>>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Routing {
    table: CountedTable,
    choices: Vec<Choice>,
}

/// A route in use.
pub(crate) struct Used<'a> {
    pub(crate) route: &'a Route,
    pub(crate) choice: &'a Choice,
    pub(crate) stats: &'a Arc<RouteStats>,
}

/// The upstreams of a route.
pub(crate) struct Choice {
    upstreams: Vec<(Rc<Upstream>, bool)>,
    canary_percent: Option<u32>,
    /// Where to look first next time.
    cursor: Cell<usize>,
    /// What canaries are owed, in percent of a request.
    owed: Cell<u32>,
}

/// Whom a request should go to.
#[derive(Default, Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// Whom the client was with before.
    pub(crate) sticky: Option<ReplicaId>,
    /// Who was tried already.
    pub(crate) tried: &'a [ReplicaId],
    pub(crate) now_us: u64,
}

impl Routing {
    /// Of a table, with the upstreams of the former one where they are the same. What is left in `upstreams` has retired.
    pub(crate) fn new(table: CountedTable, upstreams: &mut HashMap<UpstreamKey, Rc<Upstream>>) -> Self {
        let mut kept = HashMap::new();
        let choices = table.table.routes().iter().map(|route| {
            let of_route = route.backends.iter().map(|backend| {
                let key = (backend.replica, backend.address, route.rule.protocol);
                let upstream = kept.entry(key).or_insert_with(|| {
                    let fresh = || Rc::new(Upstream::new(*backend, route.rule.protocol));
                    upstreams.remove(&key).unwrap_or_else(fresh)
                });
                (Rc::clone(upstream), backend.is_canary)
            });
            Choice {
                upstreams: of_route.collect(),
                canary_percent: route.canary_percent,
                cursor: Cell::new(0),
                owed: Cell::new(0),
            }
        });
        let choices = choices.collect();
        upstreams.drain().for_each(|(_, upstream)| upstream.retire());
        *upstreams = kept;
        Self { table, choices }
    }

    /// The route for a host and path.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<Used<'_>> {
        let index = self.table.table.find(host, path)?;
        Some(Used {
            route: self.table.table.routes().get(index)?,
            choice: self.choices.get(index)?,
            stats: self.table.stats.get(index)?,
        })
    }
}

impl Choice {
    /// The client's own replica; else of the next two in turn the one with less to do. Those that were tried are left out, those
    /// that rest come last.
    pub(crate) fn pick(&self, wish: Wish<'_>) -> Option<Rc<Upstream>> {
        let untried = |upstream: &Upstream| !wish.tried.contains(&upstream.replica());
        if let Some(sticky) = wish.sticky {
            let own = self.upstreams.iter().find(|(one, _)| one.replica() == sticky);
            if let Some((own, _)) = own.filter(|(own, _)| untried(own) && !own.rests(wish.now_us)) {
                return Some(Rc::clone(own));
            }
        }
        let group = if wish.tried.is_empty() { self.group() } else { None };
        let first = self.cursor.get();
        self.cursor.set(first.wrapping_add(1));
        let mut best: Option<(bool, u32, &Rc<Upstream>)> = None;
        let mut awake = 0;
        for offset in 0..self.upstreams.len() {
            let index = first.wrapping_add(offset) % self.upstreams.len();
            let Some((upstream, is_canary)) = self.upstreams.get(index) else {
                break;
            };
            if group.is_some_and(|group| group != *is_canary) || !untried(upstream) {
                continue;
            }
            let rank = (upstream.rests(wish.now_us), upstream.in_flight());
            if best.is_none_or(|(rests, in_flight, _)| rank < (rests, in_flight)) {
                best = Some((rank.0, rank.1, upstream));
            }
            awake += u32::from(!rank.0);
            if awake == 2 {
                break;
            }
        }
        best.map(|(_, _, upstream)| Rc::clone(upstream))
    }

    /// Whether the next request is a canary's; none where all are alike.
    fn group(&self) -> Option<bool> {
        let percent = self.canary_percent?;
        let canaries = self.upstreams.iter().filter(|(_, is_canary)| *is_canary).count();
        if canaries == 0 || canaries == self.upstreams.len() {
            return None;
        }
        let owed = self.owed.get() + percent.min(100);
        self.owed.set(owed % 100);
        Some(owed >= 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Backend;

    fn choice(canary_percent: Option<u32>, backends: &[(u64, bool)]) -> Choice {
        let upstream = |(id, is_canary): &(u64, bool)| {
            let backend = Backend {
                replica: ReplicaId(*id),
                address: ([10, 0, 0, 1], 80).into(),
                is_canary: *is_canary,
            };
            (Rc::new(Upstream::new(backend, UpstreamProtocol::Http)), *is_canary)
        };
        Choice {
            upstreams: backends.iter().map(upstream).collect(),
            canary_percent,
            cursor: Cell::new(0),
            owed: Cell::new(0),
        }
    }

    fn picks(choice: &Choice, wish: Wish<'_>, times: usize) -> HashMap<u64, usize> {
        let mut counts = HashMap::new();
        for _ in 0..times {
            if let Some(upstream) = choice.pick(wish) {
                *counts.entry(upstream.replica().0).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn requests_are_spread_evenly() {
        let counts = picks(
            &choice(None, &[(1, false), (2, false), (3, false)]),
            Wish::default(),
            30,
        );
        assert_eq!(counts, HashMap::from([(1, 10), (2, 10), (3, 10)]));
    }

    #[test]
    fn a_canary_gets_its_share_of_requests_whatever_its_share_of_replicas() {
        let half = choice(Some(5), &[(1, false), (2, true)]);
        assert_eq!(picks(&half, Wish::default(), 200), HashMap::from([(1, 190), (2, 10)]));
        let alone = choice(Some(5), &[(2, true)]);
        assert_eq!(picks(&alone, Wish::default(), 10), HashMap::from([(2, 10)]));
        let none = choice(Some(5), &[(1, false)]);
        assert_eq!(picks(&none, Wish::default(), 10), HashMap::from([(1, 10)]));
    }

    #[test]
    fn a_client_stays_with_its_replica_while_it_is_there() {
        let three = choice(None, &[(1, false), (2, false), (3, false)]);
        let wish = Wish {
            sticky: Some(ReplicaId(2)),
            ..Wish::default()
        };
        assert_eq!(picks(&three, wish, 9), HashMap::from([(2, 9)]));
        let tried = [ReplicaId(2)];
        assert!(!picks(&three, Wish { tried: &tried, ..wish }, 9).contains_key(&2));
        let gone = Wish {
            sticky: Some(ReplicaId(9)),
            ..Wish::default()
        };
        assert_eq!(picks(&three, gone, 9).len(), 3);
    }

    #[test]
    fn those_that_rest_come_last_and_the_busy_after_the_idle() {
        let three = choice(None, &[(1, false), (2, false), (3, false)]);
        three.upstreams[0].0.rest_until(10);
        assert!(!picks(&three, Wish::default(), 9).contains_key(&1));
        for (upstream, _) in &three.upstreams {
            upstream.rest_until(10);
        }
        assert_eq!(
            picks(&three, Wish::default(), 9).values().sum::<usize>(),
            9,
            "better one of them than none"
        );
        let lease = crate::upstream::Lease::new(Rc::clone(&three.upstreams[1].0), Rc::new(|| 0), 1);
        let now = Wish {
            now_us: 10,
            ..Wish::default()
        };
        assert!(!picks(&three, now, 9).contains_key(&2));
        drop(lease);
        assert!(picks(&three, now, 9).contains_key(&2));
        let tried = [ReplicaId(1), ReplicaId(2), ReplicaId(3)];
        assert!(three.pick(Wish { tried: &tried, ..now }).is_none());
    }
}
