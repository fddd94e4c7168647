//! The known word that a mistyped one was meant to be.

/// The nearest of the known words by edit distance, if it is near enough to be meant: at most a third of the
/// letters differ. Of two that are as near, the first.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = word.chars().count().div_ceil(3);
    known
        .into_iter()
        .map(|k| (distance(&word.to_lowercase(), k), k))
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i];
        for j in 1..=b.len() {
            let mut best = (row[j] + 1).min(next[j - 1] + 1).min(row[j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["exclude_all", "excludes", "debug", "timeout", "itimeout", "trash_days"];
        for (word, want) in [
            ("exclude", Some("excludes")),
            ("debgu", Some("debug")),
            ("Debug", Some("debug")),
            ("timout", Some("timeout")),
            ("trash-days", Some("trash_days")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), want, "{word:?}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, want) in [("", "", 0), ("", "ab", 2), ("ab", "ba", 1), ("kitten", "sitting", 3), ("é", "e", 1)] {
            assert_eq!(distance(a, b), want, "{a:?} {b:?}");
        }
    }
}
