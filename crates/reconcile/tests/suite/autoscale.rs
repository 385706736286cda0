//! Counts that follow use and the clock.

use std::collections::BTreeMap;

use gantry_model::spec::{Autoscale, Mode, ScaleTarget, ScheduledBounds, Usage};
use gantry_model::{ByteSize, DurationMs, MilliCpu, ServiceId, Timestamp};
use gantry_reconcile::{SCALE_DOWN_WINDOW, ScaleHistory, ScaleMoment};

use crate::world::World;
use crate::world::people::replicated;

/// 2026-11-23, 12:00 in UTC, a Monday.
const NOON: Timestamp = Timestamp(1_795_435_200_000);

struct Stage {
    world: World,
    service: ServiceId,
    history: ScaleHistory,
    clock: u64,
}

impl Stage {
    fn new(replicas: u32, autoscale: Autoscale) -> Self {
        let (mut world, _) = World::with_nodes(3);
        let mut spec = replicated(replicas);
        spec.resources.cpu_reservation = MilliCpu(100);
        spec.resources.memory_reservation = ByteSize::mib(64);
        spec.autoscale = Some(autoscale);
        let service = world.apply_spec("web", spec);
        world.rounds(6);
        Self {
            world,
            service,
            history: ScaleHistory::default(),
            clock: 0,
        }
    }

    fn count(&self) -> u32 {
        match self.world.state.service(self.service).expect("the service").spec.mode {
            Mode::Replicated { replicas } => replicas,
            other => panic!("{other:?}"),
        }
    }

    /// So many seconds later, with so much processor time used by each replica that serves, of as many as `known` says.
    fn look(&mut self, later_s: u64, cpu: u64, known: usize) -> Option<(u32, String)> {
        self.clock += later_s * 1000;
        let usage = Usage {
            cpu: MilliCpu(cpu),
            memory: ByteSize::mib(32),
        };
        let serving = self.world.endpoints(self.service);
        let figures: BTreeMap<_, _> = serving.iter().take(known).map(|one| (one.id, usage)).collect();
        let moment = ScaleMoment {
            now: NOON,
            monotonic: DurationMs(self.clock),
        };
        let service = self.world.state.service(self.service).expect("the service").clone();
        let usage = |id| figures.get(&id).copied();
        let scaling = self.history.step(&self.world.state, &service, &usage, moment)?;
        self.world.scale(self.service, scaling.replicas);
        self.world.rounds(6);
        Some((scaling.replicas, scaling.reason))
    }
}

fn cpu(percent: u32) -> Autoscale {
    Autoscale {
        min: 1,
        max: 20,
        cpu: Some(ScaleTarget::Percent(percent)),
        memory: None,
        schedule: Vec::new(),
    }
}

/// Use in percent of a target of 50 milli, with ten replicas.
#[test]
fn the_count_follows_the_ratio_of_use_to_target() {
    for (used, count) in [
        (50, None),
        (55, None),      // 110 %, within the tolerance
        (45, None),      // 90 %
        (56, Some(12)),  // 112 %: 11.2 replicas, rounded up
        (100, Some(20)), // 200 %
        (500, Some(20)), // no more than max
    ] {
        let mut stage = Stage::new(10, cpu(50));
        let scaled = stage.look(0, used, 10);
        assert_eq!(scaled.as_ref().map(|one| one.0), count, "{used}: {scaled:?}");
    }
    let mut stage = Stage::new(10, cpu(50));
    let (_, reason) = stage.look(0, 100, 10).expect("it is scaled");
    assert_eq!(
        reason,
        "processor time is at 200 % of the target, 50 % of its reservation"
    );
}

#[test]
fn one_step_up_doubles_or_adds_four_and_the_next_waits() {
    let mut stage = Stage::new(2, cpu(50));
    assert_eq!(stage.look(0, 1000, 99).map(|one| one.0), Some(6));
    assert_eq!(stage.look(5, 1000, 99), None, "15 s between two steps");
    assert_eq!(stage.look(10, 1000, 99).map(|one| one.0), Some(12));
    assert_eq!(stage.look(15, 1000, 99).map(|one| one.0), Some(20));
}

#[test]
fn fewer_come_only_after_five_minutes_without_a_larger_wish() {
    let mut stage = Stage::new(10, cpu(50));
    let mut looks = 0u64;
    let mut first = None;
    while first.is_none() && looks < 100 {
        // A short burst at 100 s is remembered.
        let used = if looks == 20 { 40 } else { 10 };
        first = stage.look(5, used, 99);
        looks += 1;
    }
    assert_eq!(first.map(|one| one.0), Some(8), "the burst's wish is still remembered");
    assert_eq!(looks, SCALE_DOWN_WINDOW.0 / 5000 + 1);
    let mut then = None;
    while then.is_none() {
        then = stage.look(5, 10, 99);
        looks += 1;
    }
    assert_eq!(looks, 20 + SCALE_DOWN_WINDOW.0 / 5000 + 1);
    assert!(stage.count() < 8);
}

#[test]
fn what_is_not_known_never_scales() {
    let mut stage = Stage::new(10, cpu(50));
    assert_eq!(stage.look(0, 1000, 0), None, "no figures at all");
    // One of ten is known, at 400 %: the others may be idle.
    assert_eq!(stage.look(5, 200, 1), None);
    // Five of ten at 300 %: 15 if all others idle.
    assert_eq!(stage.look(15, 150, 5).map(|one| one.0), Some(15));
    // One of fifteen is known and idle: the others may be just right.
    for _ in 0..100 {
        assert_eq!(stage.look(5, 0, 1), None);
    }
    // Half of them idle: the others keep their places.
    let mut scaled = None;
    for _ in 0..100 {
        scaled = scaled.or(stage.look(5, 0, 8));
    }
    assert_eq!(scaled.map(|one| one.0), Some(7));
}

#[test]
fn the_largest_of_several_wishes_counts() {
    let both = Autoscale {
        memory: Some(ScaleTarget::Each(ByteSize::mib(16))),
        ..cpu(50)
    };
    let mut stage = Stage::new(5, both);
    let (count, reason) = stage.look(0, 10, 99).expect("memory is at 200 %");
    assert_eq!(count, 10);
    assert!(
        reason.starts_with("memory is at 200 % of the target, 16 MiB"),
        "{reason}"
    );
}

#[test]
fn bounds_follow_the_clock() {
    let from = |schedule: &str, min, max| ScheduledBounds {
        from: schedule.parse().expect("a schedule"),
        time_zone: "UTC".to_string(),
        min,
        max,
    };
    let scheduled = |schedule| Autoscale {
        min: 1,
        max: 2,
        cpu: None,
        memory: None,
        schedule,
    };
    let mut stage = Stage::new(
        1,
        scheduled(vec![from("0 8 * * mon-fri", 6, 9), from("0 20 * * *", 2, 3)]),
    );
    let (count, reason) = stage.look(0, 0, 0).expect("it is day");
    assert_eq!((count, reason.as_str()), (6, "at least 6 from '0 8 * * mon-fri' on"));
    let mut stage = Stage::new(6, scheduled(vec![from("0 8 * * *", 6, 9), from("30 11 * * *", 2, 3)]));
    assert_eq!(stage.look(0, 0, 0).map(|one| one.0), Some(2), "the later one holds");
    let mut stage = Stage::new(6, scheduled(Vec::new()));
    assert_eq!(stage.look(0, 0, 0).map(|one| one.0), Some(1));

    let mut measured = cpu(50);
    measured.schedule = vec![from("0 8 * * *", 1, 4)];
    let mut stage = Stage::new(10, measured);
    let (count, reason) = stage.look(0, 50, 99).expect("the most is less than there are");
    assert_eq!((count, reason.as_str()), (4, "at most 4 from '0 8 * * *' on"));
}

#[test]
fn a_count_at_its_upper_bound_still_says_what_drove_it_there() {
    let autoscale = Autoscale { max: 2, ..cpu(50) };
    let mut stage = Stage::new(1, autoscale);
    let (count, reason) = stage.look(0, 250, 1).expect("more are wished");
    let expected = "processor time is at 500 % of the target, 50 % of its reservation, at most 2";
    assert_eq!((count, reason.as_str()), (2, expected));
    assert_eq!(stage.look(15, 250, 2), None, "there it stays");
}
