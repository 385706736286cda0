//! `gantry-sim`: runs seeds, replays one, makes a failure small.
//!
//! ```text
//! gantry-sim --seeds 0..2000 [--plant NAME] [--threads 2]
//! gantry-sim --seed N [--plant NAME] [--trace] [--shrink FILE]
//! gantry-sim --script FILE [--trace]
//! ```

use std::process::ExitCode;

use gantry_sim::{Plant, Script, run, run_all, shrink};

/// Runs tried while a failure is made small.
const SHRINK_RUNS: usize = 400;
/// Failures after which a campaign ends.
const FAILURES_MAX: usize = 20;

#[derive(Default)]
struct Options {
    seeds: Option<std::ops::Range<u64>>,
    script: Option<Script>,
    plant: Option<Plant>,
    threads: Option<usize>,
    aloud: bool,
    shrink: Option<String>,
}

fn main() -> ExitCode {
    match options(std::env::args().skip(1)) {
        Ok(options) => act(&options),
        Err(problem) => {
            eprintln!("gantry-sim: {problem}");
            ExitCode::from(2)
        }
    }
}

fn options(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--seeds" => options.seeds = Some(range(&value()?)?),
            "--seed" => options.script = Some(Script::of(number(&value()?)?)),
            "--script" => options.script = Some(read(&value()?)?),
            "--plant" => {
                let name = value()?;
                options.plant = Some(Plant::named(&name).ok_or(format!("there is no plant '{name}'"))?);
            }
            "--threads" => options.threads = usize::try_from(number(&value()?)?).ok(),
            "--trace" => options.aloud = true,
            "--shrink" => options.shrink = Some(value()?),
            other => return Err(format!("'{other}' is not an option")),
        }
    }
    Ok(options)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("'{text}' is not a number"))
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (from, to) = text
        .split_once("..")
        .ok_or(format!("'{text}' is not a range such as 0..2000"))?;
    Ok(number(from)?..number(to)?)
}

fn read(path: &str) -> Result<Script, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{path} is not a script: {error}"))
}

fn act(options: &Options) -> ExitCode {
    match (&options.script, &options.seeds) {
        (Some(script), _) => replay(script, options),
        (None, Some(seeds)) => campaign(seeds.clone(), options),
        (None, None) => campaign(0..200, options),
    }
}

fn replay(script: &Script, options: &Options) -> ExitCode {
    let verdict = run(script, options.plant, options.aloud);
    println!(
        "{} steps, {} entries, {} ms, trace {:016x}",
        script.steps.len(),
        verdict.entries,
        verdict.ended_at,
        verdict.hash
    );
    let Some(violation) = verdict.violation else {
        return ExitCode::SUCCESS;
    };
    println!(
        "broken at {} ms: {}: {}",
        violation.at, violation.promise, violation.message
    );
    if let Some(path) = &options.shrink {
        let small = shrink(script, options.plant, violation.promise, SHRINK_RUNS);
        let text = serde_json::to_string_pretty(&small).expect("a script is data");
        match std::fs::write(path, text) {
            Ok(()) => println!("{} of {} steps do it: {path}", small.steps.len(), script.steps.len()),
            Err(error) => eprintln!("gantry-sim: cannot write {path}: {error}"),
        }
    }
    ExitCode::FAILURE
}

fn campaign(seeds: std::ops::Range<u64>, options: &Options) -> ExitCode {
    let threads = options
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let failures = run_all(seeds.clone(), options.plant, threads, FAILURES_MAX);
    for (seed, violation) in &failures {
        let first = violation.message.lines().next().unwrap_or_default();
        println!("seed {seed}: {} at {} ms: {first}", violation.promise, violation.at);
        println!("  replay: cargo run --profile sim -p gantry-sim -- --seed {seed} --trace");
    }
    println!("seeds {}..{}: {} failed", seeds.start, seeds.end, failures.len());
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
