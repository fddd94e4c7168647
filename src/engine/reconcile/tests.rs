//! Every cell of the table of docs/design.md, in both directions.

use super::*;
use crate::model::rights::{CAPABILITY, SYSTEM_BELOW};
use crate::model::{Hash, OwnerNumber, Principal, RelPath, Sides, Time};

/// All files of the table were written before this.
const OLD: i64 = 1000;

/// An ordinary user.
const ALICE: u32 = SYSTEM_BELOW + 1;

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
    let (user, group) = (Principal::Id(ALICE), Principal::Id(ALICE));
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
        touched: false,
        read: false,
        inline: None,
        like: None,
        below: 0,
        young: 0,
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
        Verdict::Read => "read".into(),
        Verdict::Remove { on } => format!("remove {}", side(*on)),
        Verdict::RemoveFirst { on } => format!("make way {}", side(*on)),
        Verdict::Settle { from, needs, loser, .. } => {
            let need = needs.map(|n| match n {
                Need::Record => "=",
                Need::Attributes => "a",
                Need::Contents => "c",
            });
            let loser = loser.map(|l| format!(" keep {}", side(l))).unwrap_or_default();
            format!("from {} {}{}{loser}", side(*from), need[Side::Left], need[Side::Right])
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
fn of_two_that_were_taken_for_equal_unread_the_one_that_was_touched_since_keeps_the_name() {
    // Both were read by now; nobody's time moved, and the left wins a tie.
    for (touched, wanted) in
        [(Sides::new(false, true), "from R c= keep L"), (Sides::new(true, false), "from L =c keep R")]
    {
        for written in Side::BOTH {
            let mut reports = Sides::from_fn(|side| report("a?", if side == written { "b" } else { "a" }));
            for (report, touched) in reports.values_mut().zip(touched.into_values()) {
                let report = report.as_mut().unwrap();
                (report.touched, report.contents, report.read) = (touched, touched, true);
            }
            assert_eq!(
                told(&decided(&reports[Side::Left], &reports[Side::Right], Prefer::Newest, OLD)),
                wanted,
                "{written:?}"
            );
        }
    }
}

#[test]
fn a_file_that_was_touched_is_read_before_others_contents_take_its_place() {
    for (other, read, wanted) in
        [("bb@5", false, "read"), ("bb@5", true, "from R ca"), ("l", false, "read"), ("l", true, "from R c=")]
    {
        let (mut left, right) = (report("a", "a+x"), report("a", other));
        let touched = left.as_mut().unwrap();
        (touched.touched, touched.read) = (true, read);
        assert_eq!(told(&decided(&left, &right, Prefer::Newest, OLD)), wanted, "{other}");
        assert_eq!(told(&decided(&right, &left, Prefer::Newest, OLD)), mirrored(wanted), "{other}, mirrored");
    }
    // Where nothing takes its place nobody has to read it.
    let mut left = report("a", "a+x");
    left.as_mut().unwrap().touched = true;
    for other in ["=", "-", "a@3"] {
        assert_ne!(told(&decided(&left, &report("a", other), Prefer::Newest, OLD)), "read", "{other}");
    }
}

#[test]
fn an_attribute_beside_an_edit_is_no_conflict_though_the_row_has_no_hash() {
    // The row of the side that got the contents in pieces has no hash; that of the other side has one.
    for (agreed, wanted) in [("a", "from R ca"), ("x", "from R c= keep L"), ("a?", "from R c= keep L")] {
        let left = report("a?", "a+x");
        let mut right = report("a", "bb@5");
        right.as_mut().unwrap().known.as_mut().unwrap().entry = entry(agreed).unwrap();
        assert_eq!(told(&decided(&left, &right, Prefer::Newest, OLD)), wanted, "{agreed}");
        assert_eq!(told(&decided(&right, &left, Prefer::Newest, OLD)), mirrored(wanted), "{agreed}, mirrored");
        // Written since, and its time with it.
        let left = report("a?", "a@3");
        assert_eq!(told(&decided(&left, &right, Prefer::Newest, OLD)), "from R c= keep L", "{agreed}, written");
    }
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
        // Neither lets in whom the other kept out.
        ("-", "d+x", "d", "from L aa"),
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
        let tie = ["from L =a", "from L aa"].contains(&wanted) && right != "=";
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
    let Verdict::Settle { entry, .. } = decided(&l, &r, Prefer::Newest, OLD) else { panic!("not settled") };
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

/// A file with attributes: its text (`?` leaves the hash out, `!` says that it was read for the report), its mode, its owner
/// with or without a group (`alice:root`; `alice` alone is both), perhaps a capability. `l` is a link.
fn held(text: &str) -> (Entry, bool) {
    let words: Vec<&str> = text.split(' ').collect();
    let (file, read) = words[0].strip_suffix('!').map_or((words[0], false), |file| (file, true));
    let mut entry = entry(file).unwrap();
    let (user, group) = words[2].split_once(':').unwrap_or((words[2], words[2]));
    let principal = |name: &str| if name == "root" { Principal::Id(0) } else { Principal::Name(name.into()) };
    (entry.attrs.user, entry.attrs.group) = (principal(user), principal(group));
    entry.attrs.mode = u32::from_str_radix(words[1], 8).unwrap();
    if let Some(value) = words.get(3) {
        entry.attrs.xattrs.insert(CAPABILITY.into(), value.as_bytes().into());
    }
    (entry, read)
}

/// The same in letters, contents left out.
fn shown(attrs: &Attrs) -> String {
    let name = |principal: &Principal| match principal {
        Principal::Id(0) => "root".to_owned(),
        Principal::Id(id) => id.to_string(),
        Principal::Name(name) => name.to_string(),
    };
    let (user, group) = (name(&attrs.user), name(&attrs.group));
    let owner = if user == group { user } else { format!("{user}:{group}") };
    let capability = attrs.xattrs.get(CAPABILITY).map(|v| format!(" {}", String::from_utf8_lossy(v)));
    format!("{:o} {owner}{}", attrs.mode, capability.unwrap_or_default())
}

/// Who the sides said there is: `www` is one of the system's on the left alone.
fn numbers() -> Numbers {
    let mut numbers = Numbers::default();
    for (side, name, id) in [
        (Side::Left, "alice", 1001),
        (Side::Right, "alice", 2001),
        (Side::Left, "bob", 1002),
        (Side::Left, "www", 33),
        (Side::Right, "www", 3000),
    ] {
        let tell = [false, true].map(|group| OwnerNumber { group, name: name.into(), id });
        numbers.learn(side, &tell);
    }
    numbers
}

/// A report of a file with attributes; `=` for none, `-` for nothing there.
fn told_of(ancestor: Option<&Entry>, now: &str) -> Option<Change> {
    if now == "=" {
        return None;
    }
    let mut change = report("a", "a").unwrap();
    change.known = ancestor.map(|entry| Known { node: 7, generation: 9, entry: entry.clone() });
    (change.after, change.read) = match now {
        "-" => (None, false),
        now => (Some(held(now).0), held(now).1),
    };
    let known = change.known.as_ref().map(|known| &known.entry.content);
    change.contents = match (known, change.after.as_ref().map(|after| &after.content)) {
        // A hash for what had none is no news of the contents.
        (Some(known), Some(after)) => known.compare(after) == Sameness::Differs,
        _ => true,
    };
    Some(change)
}

/// The verdict, the agreed attributes, and what was dropped.
fn judged(ancestor: &str, left: &str, right: &str) -> String {
    let ancestor = (ancestor != "-").then(|| held(ancestor).0);
    let (l, r) = (told_of(ancestor.as_ref(), left), told_of(ancestor.as_ref(), right));
    let verdict = reconcile(l.as_ref(), r.as_ref(), Rules { prefer: Prefer::Newest, old: OLD, numbers: &numbers() });
    match &verdict {
        Verdict::Settle { entry, dropped, .. } => {
            let dropped = dropped.dropped().map(|words| format!(", without {words}")).unwrap_or_default();
            format!("{}: {}{dropped}", told(&verdict), shown(&entry.attrs))
        }
        _ => told(&verdict),
    }
}

#[test]
fn rights_stay_with_the_contents_that_they_were_granted_to() {
    let mut wrong = Vec::new();
    for (ancestor, left, right, wanted) in [
        // Ordinary users: owner and mode of one side, contents of the other.
        ("a 755 alice", "a 700 bob", "bb 755 alice", "from R ca: 700 bob"),
        // Given to root, or to anybody of the system, and written on the other side: both are kept apart.
        ("a 755 alice", "a 755 root", "bb@9 755 alice", "from L =c keep R: 755 root"),
        ("a 755 alice", "a 4755 root", "bb@9 755 alice", "from L ac keep R: 755 root, without setuid"),
        ("a 755 alice", "a 2755 alice:root", "bb@9 755 alice", "from L ac keep R: 755 alice:root, without setgid"),
        ("a 755 alice", "a 755 root x", "bb@9 755 alice", "from L ac keep R: 755 root, without a capability"),
        ("a 755 alice", "a 755 www", "bb@9 755 alice", "from L =c keep R: 755 www"),
        ("a 755 alice", "a 755 stranger", "bb@9 755 alice", "from L =c keep R: 755 stranger"),
        // Her own bits do not help her.
        ("a 4755 alice", "a 755 root", "bb@9 4755 alice", "from L =c keep R: 755 root"),
        // Root's on both sides, or root wrote it himself: nothing is given.
        ("a 755 root", "a 700 root", "bb 755 root", "from R ca: 700 root"),
        ("a 755 alice", "a 700 alice", "bb 755 root", "from R ca: 700 root"),
        // Taken back from root by one side, while root wrote on the other.
        ("a 755 root", "a 755 alice", "bb 755 root", "from R ca: 755 alice"),
        // Setuid, setgid and capabilities are dropped from other contents, and told.
        ("a 755 alice", "a 4755 alice", "bb 755 alice", "from R c=: 755 alice, without setuid"),
        ("a 755 alice", "a 6711 alice", "bb 755 alice", "from R ca: 711 alice, without setuid, setgid"),
        ("a 755 alice", "a 755 alice x", "bb 755 alice", "from R c=: 755 alice, without a capability"),
        ("a 755 alice x", "a 700 alice x", "bb 755 alice", "from R ca: 700 alice"),
        ("a 755 alice x", "a 755 alice y", "bb 755 alice x", "from R ca: 755 alice, without a capability"),
        // The writer's file has them itself.
        ("a 4755 alice", "a 4711 alice", "bb 4755 alice", "from R ca: 4711 alice"),
        // But not under another owner.
        ("a 4755 alice", "a 755 bob", "bb 4755 alice", "from R ca: 755 bob"),
        ("a 755 alice", "a 755 bob", "bb 4755 alice", "from R ca: 755 bob, without setuid"),
        ("a 755 alice", "a 755 bob:alice", "bb 2755 alice", "from R ca: 2755 bob:alice"),
        // One side alone: its rights are of its own contents.
        ("a 755 alice", "bb 4755 root x", "=", "from L =c: 4755 root x"),
        ("-", "a 4755 root x", "=", "from L =c: 4755 root x"),
        // Attributes alone: the other side's file is read first, whatever the archives say of it.
        ("a 755 alice", "a 4755 root", "=", "prove"),
        ("a 755 alice", "a! 4755 root", "=", "prove"),
        ("a 755 alice", "a! 4755 root", "a 755 alice", "prove"),
        ("a 755 alice", "a 4755 root", "a! 755 alice", "prove"),
        ("a 755 alice", "a! 4755 root", "a! 755 alice", "from L =a: 4755 root"),
        ("a? 755 alice", "a? 4755 root", "=", "prove"),
        ("a? 755 alice", "a! 4755 root", "a! 755 alice", "from L =a: 4755 root"),
        ("a? 755 alice", "a! 755 alice x", "=", "prove"),
        ("a? 755 alice", "a? 755 www", "=", "prove"),
        // Nothing is granted: nothing is read.
        ("a? 755 alice", "a? 700 bob", "=", "from L =a: 700 bob"),
        ("a 4755 root", "a 755 alice", "=", "from L =a: 755 alice"),
        ("a 755 root", "a 700 root", "=", "from L =a: 700 root"),
        // Read, and another than it looked like: it was never the file that the rights were granted to.
        ("a? 755 alice", "a! 4755 root", "b@9! 755 alice", "from L ac keep R: 755 root, without setuid"),
        ("a? 755 alice", "a! 755 alice", "b@9! 4755 bob", "from R ca keep L: 755 bob, without setuid"),
        // One side's setuid and the other's owner: nobody gave that to anything.
        ("a 755 alice", "a! 4755 alice", "a! 755 root", "from L a=: 755 root, without setuid"),
        ("a 755 alice", "a! 755 bob", "a! 4755 alice", "from L =a: 755 bob, without setuid"),
        // Met for the first time.
        ("-", "a? 4755 root", "a? 755 alice", "prove"),
        ("-", "a? 755 root", "a? 755 alice", "prove"),
        ("-", "a? 755 root", "a? 755 root", "from L ==: 755 root"),
        ("-", "a? 700 bob", "a? 755 alice", "from L =a: 700 bob"),
        ("-", "a! 4755 root", "a! 755 alice", "from L =a: 4755 root"),
        ("-", "a! 4755 root", "b@9! 755 alice", "from R c= keep L: 755 alice"),
        // Changed here, deleted there: it comes back with what was agreed on only as the file that this was agreed on for.
        ("a 4755 root", "a 4711 root", "-", "prove"),
        ("a 4755 root", "a! 4711 root", "-", "from L =c: 4711 root"),
        ("a? 4755 root", "a! 4711 root", "-", "from L ac: 711 root, without setuid"),
        ("a 755 alice", "a 700 alice", "-", "from L =c: 700 alice"),
        // A link's target is its contents.
        ("l 0 alice", "l 0 root", "=", "from L =a: 0 root"),
    ] {
        let found = judged(ancestor, left, right);
        if found != wanted {
            wrong.push(format!("{ancestor}: {left} | {right}: {found}, not {wanted}"));
            continue;
        }
        if ancestor == "-" && right != "=" {
            // Of one age: the left's attributes count.
            continue;
        }
        let back = judged(ancestor, right, left);
        let (verdict, rest) = wanted.split_once(':').unwrap_or((wanted, ""));
        let mirror = |text: &str| match text.strip_prefix("from ") {
            // Whose contents they are called does not matter where both have them.
            Some(needs) if !needs.contains('c') => needs[2..].chars().rev().collect(),
            _ => mirrored(text),
        };
        let (told, found) = back.split_once(':').unwrap_or((&back, ""));
        let told = if verdict.contains('c') || !told.starts_with("from") { told } else { &told[7..] };
        if (told, found) != (mirror(verdict).as_str(), rest) {
            wrong.push(format!("mirror of {ancestor}: {left} | {right}: {back}, not {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn where_both_sides_changed_the_owner_the_lefts_counts() {
    assert_eq!(judged("a 755 alice", "a 755 root", "bb@9 700 bob"), "from L =c keep R: 755 root");
    assert_eq!(judged("a 755 alice", "bb@9 700 bob", "a 755 root"), "from L =c: 700 bob");
}
