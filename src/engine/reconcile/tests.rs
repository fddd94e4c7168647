//! Every cell of the table of docs/design.md, in both directions.

use super::*;
use crate::model::{Hash, Principal, RelPath, Time};

/// All files of the table were written before this.
const OLD: i64 = 1000;

/// What lies on one side, in a few letters: `-` nothing, `d` a directory, `l` a link, else a file with this text. A digit
/// behind `@` is the mtime, `+x` another mode, `?` leaves the hash out.
fn entry(text: &str) -> Option<Entry> {
    let (text, mode) = text.strip_suffix("+x").map_or((text, 0o644), |t| (t, 0o755));
    let (text, secs) = text.split_once('@').map_or((text, 1), |(t, s)| (t, s.parse().unwrap()));
    let content = match text {
        "-" => return None,
        "d" => Content::Dir,
        "l" => Content::Link { target: b"to"[..].into() },
        file => {
            let (file, hash) = file.strip_suffix('?').map_or((file, true), |f| (f, false));
            Content::File { size: file.len() as u64, hash: hash.then(|| Hash::of(file.as_bytes())) }
        }
    };
    let mtime = if matches!(content, Content::File { .. }) { Time { secs, nanos: 0 } } else { Time::default() };
    let (user, group) = (Principal::Id(0), Principal::Id(0));
    Some(Entry { content, attrs: Attrs { mode, user, group, mtime, xattrs: Default::default() } })
}

/// The report of a side, `=` for none.
fn report(ancestor: &str, now: &str) -> Option<Change> {
    if now == "=" {
        return None;
    }
    let known = entry(ancestor).map(|entry| Known { node: 7, generation: 9, entry });
    let after = entry(now);
    let contents = match (&known, &after) {
        (Some(k), Some(a)) => k.entry.content.compare(&a.content) != Sameness::Same,
        (k, a) => k.is_some() != a.is_some(),
    };
    let path = RelPath::new(b"p").unwrap();
    Some(Change {
        seq: 1,
        path,
        parent: Some(1),
        known,
        moved: None,
        after,
        contents,
        read: false,
        inline: None,
        like: None,
        below: 0,
    })
}

fn decided(left: &Option<Change>, right: &Option<Change>, prefer: Prefer, old: i64) -> Verdict {
    reconcile(left.as_ref(), right.as_ref(), Rules { prefer, old, numbers: &Numbers::default() })
}

/// The verdict in a few letters.
fn told(verdict: &Verdict) -> String {
    let side = |s: Side| if s == Side::Left { "L" } else { "R" };
    match verdict {
        Verdict::Nothing => "nothing".into(),
        Verdict::Forget => "forget".into(),
        Verdict::Compare => "compare".into(),
        Verdict::Prove => "prove".into(),
        Verdict::Remove { on } => format!("remove {}", side(*on)),
        Verdict::RemoveFirst { on } => format!("make way {}", side(*on)),
        Verdict::Settle { from, needs, loser, .. } => {
            let need = needs.map(|n| match n {
                Need::Record => "=",
                Need::Attributes => "a",
                Need::Contents => "c",
            });
            let loser = loser.map(|l| format!(" keep {}", side(l))).unwrap_or_default();
            format!("from {} {}{}{loser}", side(*from), need[0], need[1])
        }
    }
}

fn mirrored(text: &str) -> String {
    let mut words: Vec<String> = text.split(' ').map(String::from).collect();
    for (i, word) in words.iter_mut().enumerate() {
        *word = match word.as_str() {
            "L" => "R".into(),
            "R" => "L".into(),
            needs if i == 2 && text.starts_with("from") => needs.chars().rev().collect(),
            other => other.into(),
        };
    }
    words.join(" ")
}

#[test]
fn every_cell_in_both_directions() {
    for (ancestor, left, right, wanted) in [
        // ancestor, left, right ("=": not reported)
        ("a", "a", "=", "nothing"),
        ("a", "a", "a", "nothing"),
        ("-", "a", "=", "from L =c"),
        ("-", "d", "=", "from L =c"),
        ("-", "l", "=", "from L =c"),
        ("a", "bb", "=", "from L =c"),
        ("a", "a+x", "=", "from L =a"),
        ("a", "a@5", "=", "from L =a"),
        ("a", "-", "=", "remove R"),
        ("d", "-", "=", "remove R"),
        ("a", "-", "a", "remove R"),
        ("a", "-", "-", "forget"),
        // Both changed.
        ("a", "bb", "bb", "from L =="),
        ("a", "bb+x", "bb", "from L =a"),
        ("a", "bb", "a+x", "from L ac"),
        ("a", "bb@5", "cc@6", "from R c= keep L"),
        ("a", "bb@6", "cc@5", "from L =c keep R"),
        ("a", "bb", "-", "from L =c"),
        ("a", "a+x", "-", "from L =c"),
        ("a", "l", "=", "from L =c"),
        ("d", "a", "=", "make way R"),
        ("d", "l", "=", "make way R"),
        ("a", "d", "=", "from L =c"),
        ("a", "d", "bb", "from L =c keep R"),
        // Met for the first time.
        ("-", "d", "d", "from L =="),
        ("-", "d+x", "d", "from L =a"),
        ("-", "a", "a", "from L =="),
        ("-", "a?", "a?", "from L =="),
        ("-", "a?@5", "a?@6", "compare"),
        ("-", "a@5", "b@6", "from R c= keep L"),
        ("-", "d", "a", "from L =c keep R"),
        ("-", "d", "l", "from L =c keep R"),
        ("-", "a@5", "l", "from L =c keep R"),
    ] {
        let (l, r) = (report(ancestor, left), report(ancestor, right));
        let verdict = told(&decided(&l, &r, Prefer::Newest, OLD));
        assert_eq!(verdict, wanted, "{ancestor}: {left} | {right}");
        let back = told(&decided(&r, &l, Prefer::Newest, OLD));
        // Without contents on their way it does not matter whose they are called; attributes are the left's on a tie.
        let plain = |text: &str| match text.strip_prefix("from ") {
            Some(rest) if !rest.contains('c') => rest[2..].to_owned(),
            _ => text.to_owned(),
        };
        let tie = wanted == "from L =a" && right != "=";
        if !tie {
            assert_eq!(plain(&back), plain(&mirrored(wanted)), "mirror of {ancestor}: {left} | {right}");
        }
    }
}

#[test]
fn a_tie_goes_to_the_left_and_a_preference_to_its_side() {
    let (l, r) = (report("a", "bb@5"), report("a", "cc@5"));
    for (prefer, wanted) in
        [(Prefer::Newest, "from L =c keep R"), (Prefer::Left, "from L =c keep R"), (Prefer::Right, "from R c= keep L")]
    {
        assert_eq!(told(&decided(&l, &r, prefer, OLD)), wanted, "{prefer:?}");
    }
}

#[test]
fn contents_of_one_side_and_attributes_of_the_other_become_one_state() {
    let (l, r) = (report("a", "bb@5"), report("a", "a+x"));
    let Verdict::Settle { entry, .. } = decided(&l, &r, Prefer::Newest, OLD) else {
        panic!("not settled")
    };
    assert_eq!((entry.size(), entry.attrs.mode, entry.attrs.mtime.secs), (2, 0o755, 5));
}

#[test]
fn only_of_old_files_equal_times_pass_for_equal_contents() {
    let (l, r) = (report("-", "a?@5"), report("-", "a?@5"));
    for (old, wanted) in [(OLD, "from L =="), (6, "from L =="), (5, "compare"), (i64::MIN, "compare")] {
        assert_eq!(told(&decided(&l, &r, Prefer::Newest, old)), wanted, "{old}");
    }
    // One was read already: it is fresh.
    let (l, r) = (report("-", "a?"), report("-", "a"));
    assert_eq!(told(&decided(&l, &r, Prefer::Newest, OLD)), "compare");
}

#[test]
fn what_was_never_read_is_compared_before_one_side_wins() {
    // A scan with checksums has read it on one side; the other side, then asked, has read it too and is at its ancestor.
    for (ancestor, here, there, wanted) in [
        ("a?", "a", "=", "compare"),
        ("a?", "a", "a", "from L =="),
        ("a?", "a", "b", "from L =c keep R"),
        // Others than those that were taken for equal: an edit.
        ("a?", "bb", "=", "from L =c"),
        ("a?@5", "a@6", "=", "from L =c"),
        ("a", "b", "=", "from L =c"),
    ] {
        let (l, r) = (report(ancestor, here), report(there, there));
        assert_eq!(told(&decided(&l, &r, Prefer::Left, OLD)), wanted, "{here} | {there}");
        let back = told(&decided(&r, &l, Prefer::Right, OLD));
        let wanted = if wanted.contains('c') { mirrored(wanted) } else { wanted.to_owned() };
        assert!(back == wanted || wanted == "from L ==" && back == "from R ==", "{here} | {there}: {back}");
    }
}
