//! Names for containers that were given none: a quality and somebody who built or moved things. Pure.

/// What somebody may be.
const QUALITIES: [&str; 48] = [
    "agile", "amber", "bold", "brave", "brisk", "bright", "calm", "candid", "careful", "cheerful", "clear", "clever",
    "crisp", "curious", "daring", "deft", "eager", "earnest", "even", "fair", "fleet", "frank", "gentle", "glad",
    "handy", "hardy", "keen", "kind", "lively", "loyal", "lucid", "merry", "neat", "nimble", "patient", "plucky",
    "polite", "prompt", "quick", "quiet", "ready", "serene", "sharp", "steady", "sturdy", "sunny", "swift", "wise",
];
/// Engineers, harbour builders, and people of computing.
const PEOPLE: [&str; 56] = [
    "ampere",
    "arup",
    "babbage",
    "bazalgette",
    "bell",
    "bessemer",
    "boole",
    "brunel",
    "carnot",
    "curie",
    "diesel",
    "dijkstra",
    "eads",
    "eiffel",
    "ellet",
    "faraday",
    "fulton",
    "gauss",
    "goethals",
    "hamilton",
    "hertz",
    "hollerith",
    "hopper",
    "hypatia",
    "johnson",
    "joule",
    "kelvin",
    "kilby",
    "lamarr",
    "lamport",
    "lesseps",
    "liskov",
    "lovelace",
    "maxwell",
    "mclean",
    "meitner",
    "moore",
    "naur",
    "newcomen",
    "noether",
    "ohm",
    "otis",
    "perronet",
    "rankine",
    "rennie",
    "roebling",
    "shannon",
    "smeaton",
    "stevin",
    "telford",
    "tesla",
    "turing",
    "vauban",
    "volta",
    "watt",
    "zuse",
];

/// A name that is not taken, from a random number: `brisk_hopper`, with a number behind it when so many are taken.
pub(super) fn made_up(random: u64, is_taken: impl Fn(&str) -> bool) -> String {
    let (qualities, people) = (QUALITIES.len() as u64, PEOPLE.len() as u64);
    let pairs = qualities * people;
    let start = random % pairs;
    for round in 0u64.. {
        for step in 0..pairs {
            let pair = (start + step) % pairs;
            let quality = QUALITIES[(pair / people) as usize];
            let person = PEOPLE[(pair % people) as usize];
            let name = match round {
                0 => format!("{quality}_{person}"),
                number => format!("{quality}_{person}{number}"),
            };
            if !is_taken(&name) {
                return name;
            }
        }
    }
    unreachable!("the rounds never end")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_never_run_out_and_never_repeat() {
        let mut taken = BTreeSet::new();
        for _ in 0..QUALITIES.len() * PEOPLE.len() + 10 {
            let name = made_up(12_345, |name| taken.contains(name));
            assert!(name.parse::<gantry_model::Name>().is_ok(), "{name}");
            assert!(taken.insert(name));
        }
    }
}
