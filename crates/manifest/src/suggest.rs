//! The nearest known word to a misspelt one.

/// Longest word compared; a longer one is no misspelling of anything here.
const WORD_LENGTH_MAX: usize = 64;

/// The candidate with the fewest edits, if they are few for the length of the word.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > WORD_LENGTH_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase();
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    let distances = candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= WORD_LENGTH_MAX && candidate.len().abs_diff(word.len()) <= 4 * allowed)
        .map(|candidate| (distance(&word, candidate), candidate));
    distances
        .filter(|(edits, _)| *edits <= allowed)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Edits from one word to the other: insert, delete, replace, swap two neighbours (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut before_last = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let replace = last[j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(before_last_at(&before_last, j - 2) + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[right.len()]
}

fn before_last_at(row: &[usize], index: usize) -> usize {
    row.get(index).copied().unwrap_or(usize::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_words_find_their_neighbour() {
        let known = ["image", "ports", "environment", "deploy"];
        for (word, expected) in [
            ("imgae", Some("image")),
            ("port", Some("ports")),
            ("enviroment", Some("environment")),
            ("Deploy", Some("deploy")),
            ("volumes", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
