//! The simulator itself: it repeats itself, it finds what is put in, and what it once found stays mended.

use gantry_sim::{Plant, Script, run};

/// Every defect that is put in has to be found within so many seeds.
const SEEDS_PER_PLANT: u64 = 400;

#[test]
fn a_script_gives_the_same_run_twice() {
    for seed in 0..6 {
        let script = Script::of(seed);
        assert_eq!(script, Script::of(seed));
        let (one, two) = (run(&script, None, false), run(&script, None, false));
        assert_eq!(one, two, "seed {seed}");
        assert_ne!(one.hash, run(&Script::of(seed + 100), None, false).hash);
    }
}

#[test]
fn some_seeds_keep_all_promises() {
    for seed in 0..12 {
        let verdict = run(&Script::of(seed), None, false);
        assert_eq!(verdict.violation, None, "replay with gantry-sim --seed {seed} --trace");
    }
}

#[test]
fn what_was_found_once_stays_mended() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder of seeds")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a file that was just listed");
        let script: Script = serde_json::from_str(&text).expect("a script");
        assert_eq!(run(&script, None, false).violation, None, "{}", path.display());
    }
}

/// Each with the promise that it breaks, and where to begin to look for it.
#[test]
fn defects_that_are_put_in_are_found() {
    let expected = [
        (Plant::AckEarly, "drain", 0),
        (Plant::SkipDrain, "drain", 0),
        (Plant::Overbook, "placement", 0),
        (Plant::Diverge, "equal-states", 0),
        (Plant::Unsaved, "once", 0),
        (Plant::OldRoutes, "stale-route", 0),
        (Plant::EarlyAnswer, "linearizable", 0),
        (Plant::NoFence, "surge", 100),
        (Plant::StaleNode, "linearizable", 600),
    ];
    for (plant, promise, first) in expected {
        let breaks = |seed| {
            run(&Script::of(seed), Some(plant), false)
                .violation
                .is_some_and(|one| one.promise == promise)
        };
        assert!(
            (first..first + SEEDS_PER_PLANT).any(breaks),
            "{plant:?} was not found within {SEEDS_PER_PLANT} seeds"
        );
    }
}

/// No seed of the first thousands meets it: a node is removed while its agent's registration is on its way, and that agent stops.
#[test]
fn a_node_that_is_ready_without_a_session_holds_nothing_up() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds/ready-without-session.json");
    let text = std::fs::read_to_string(path).expect("a file of this crate");
    let script: Script = serde_json::from_str(&text).expect("a script");
    let promise = |plant| run(&script, plant, false).violation.map(|one| one.promise);
    assert_eq!(promise(Some(Plant::NoLease)), Some("convergence"));
    assert_eq!(promise(None), None);
}
