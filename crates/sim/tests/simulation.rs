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

/// Each with the promise that it breaks. `NoFence` and `EarlyAnswer` need rarer coincidences than these seeds hold.
#[test]
fn defects_that_are_put_in_are_found() {
    let expected = [
        (Plant::AckEarly, "drain"),
        (Plant::SkipDrain, "drain"),
        (Plant::Overbook, "placement"),
        (Plant::Diverge, "equal-states"),
        (Plant::Unsaved, "once"),
        (Plant::OldRoutes, "stale-route"),
    ];
    for (plant, promise) in expected {
        let breaks = |seed| {
            run(&Script::of(seed), Some(plant), false)
                .violation
                .is_some_and(|one| one.promise == promise)
        };
        assert!(
            (0..SEEDS_PER_PLANT).any(breaks),
            "{plant:?} was not found within {SEEDS_PER_PLANT} seeds"
        );
    }
}

/// The defect that once was: found by a node that came back, and a person who labelled it, while its former state was being
/// written.
#[test]
fn a_nodes_former_record_undoes_what_a_person_wrote() {
    let text = include_str!("../seeds/295.json");
    let script: Script = serde_json::from_str(text).expect("a script");
    let violation = run(&script, Some(Plant::StaleNode), false).violation;
    assert_eq!(violation.map(|one| one.promise), Some("linearizable"));
}
