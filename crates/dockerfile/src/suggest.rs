//! The nearest known word to a misspelt one.

/// Longest word compared; a longer one is no misspelling of anything here.
const WORD_LENGTH_MAX: usize = 64;

/// The candidate with the fewest edits, if they are few for the length of the word. Casing does not count.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > WORD_LENGTH_MAX {
        return None;
    }
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    let near = |candidate: &&str| candidate.len() <= WORD_LENGTH_MAX && !candidate.is_empty();
    let edits = candidates.into_iter().filter(near).map(|candidate| {
        let edits = distance(&word.to_ascii_lowercase(), &candidate.to_ascii_lowercase());
        (edits, candidate)
    });
    let few = edits.filter(|(edits, candidate)| *edits <= allowed && *edits < candidate.len());
    few.min_by_key(|(edits, _)| *edits).map(|(_, candidate)| candidate)
}

/// `did you mean 'X'?` for the nearest of the candidates.
pub(crate) fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    nearest(word, candidates).map(|candidate| format!("did you mean '{candidate}'?"))
}

/// Edits from one word to the other: insert, delete, replace, swap two neighbours (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let replace = last[j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_words_find_their_neighbour() {
        let known = ["RUN", "COPY", "WORKDIR", "ENTRYPOINT", "from"];
        for (word, expected) in [
            ("RNU", Some("RUN")),
            ("copi", Some("COPY")),
            ("WROKDIR", Some("WORKDIR")),
            ("Entripoint", Some("ENTRYPOINT")),
            ("form", Some("from")),
            ("kubectl", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
