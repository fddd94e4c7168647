//! Distrust: what is decided of a report that may be what a power failure left. Only what is proven to be older than the
//! agreed state, or a part of it, gives way; whatever else was found is kept, and told.

use std::collections::BTreeMap;

use crate::model::rights::{Rights, bare};
use crate::model::{Entry, Kind, RelPath, Sameness, Seq, Side, Sides};
use crate::protocol::{Change, Distrust, Known, Remains, Request, Weight, sane::Insane};

use super::reconcile::{Need, Prefer, Rules, Verdict, reconcile};
use super::{Engine, News};

/// Bytes of doubts of one side at a time, beside a kilobyte for each row of the left. They go with the reports, of which a
/// side has not so many open.
const MOST: usize = 64 << 20;

/// The reports of one side that are in doubt, by path.
#[derive(Debug, Default)]
pub(super) struct Distrusts {
    of: BTreeMap<RelPath, (Seq, Distrust)>,
    weight: usize,
}

fn weight(path: &RelPath, why: &Distrust) -> usize {
    128 + path.as_bytes().len() + why.weight()
}

impl Distrusts {
    /// Whether one more may be kept, where the left has so many rows.
    pub fn bears(&self, path: &RelPath, why: &Distrust, rows: usize) -> Result<(), Insane> {
        match self.weight + weight(path, why) <= MOST.saturating_add(rows.saturating_mul(1024)) {
            true => Ok(()),
            false => Err("more reports in doubt than it has reports"),
        }
    }

    pub fn note(&mut self, path: RelPath, seq: Seq, why: Distrust) {
        self.forget(&path);
        self.weight += weight(&path, &why);
        self.of.insert(path, (seq, why));
    }

    /// Why the report is in doubt that is pending at its path.
    pub fn of(&self, change: &Change) -> Option<&Distrust> {
        self.of.get(&change.path).filter(|(seq, _)| *seq == change.seq).map(|(_, why)| why)
    }

    /// The other side has compared: from now on it is known what this is.
    pub fn settle(&mut self, path: &RelPath, is_part: bool) {
        let Some(&(seq, _)) = self.of.get(path) else { return };
        self.note(path.clone(), seq, if is_part { Distrust::Older } else { Distrust::Unknown });
    }

    pub fn forget(&mut self, path: &RelPath) {
        if let Some((_, why)) = self.of.remove(path) {
            self.weight -= weight(path, &why);
        }
    }

    /// What was told of an earlier report than this counts no more.
    pub fn keep_newest(&mut self, path: &RelPath, seq: Seq) {
        if self.of.get(path).is_some_and(|(of, _)| *of < seq) {
            self.forget(path);
        }
    }
}

/// What comes of a report that is in doubt.
pub(super) enum Doubted {
    Decided(Verdict),
    /// The other side was asked.
    Asked,
    /// It is decided like any other.
    No,
}

impl Engine {
    /// Decides what one side found after its power failed.
    pub(super) fn doubt(&mut self, path: &RelPath, changes: &Sides<Option<Change>>) -> Doubted {
        let why = Sides::from_fn(|side| {
            let change = changes[side].as_ref();
            change.and_then(|change| self.sides[side].distrusts.of(change)).cloned()
        });
        let (side, why) = match why.split() {
            (Some(why), None) => (Side::Left, why),
            (None, Some(why)) => (Side::Right, why),
            // Where the power failed on both sides each has its own word, as if nothing had happened.
            _ => return Doubted::No,
        };
        let other = side.other();
        let there = changes[other].as_ref();
        let changed = there.is_some_and(|change| change.contents || change.after.is_none());
        let (left, right) = changes.as_ref().map(Option::as_ref).split();
        match why {
            Distrust::Older => {
                self.tell_older(side, changes[side].as_ref());
                Doubted::Decided(trusting(other, left, right))
            }
            Distrust::Remains(remains) if !changed => {
                self.ask_whether_part(other, path, remains);
                Doubted::Asked
            }
            Distrust::Remains(_) | Distrust::Unknown | Distrust::Emptied
                if there.is_none() && changes[side].as_ref().is_some_and(is_unread) =>
            {
                // What the other side has was never read: rights must not come to contents that nobody knows.
                self.side(other).asked.insert(path.clone());
                self.send(other, Request::Hash { path: path.clone() });
                Doubted::Asked
            }
            Distrust::Remains(_) | Distrust::Unknown => self.keep_both(side, changes, self.settings.prefer),
            Distrust::Emptied if changed => Doubted::No,
            // Who emptied it on purpose has the name empty, and what it held beside it.
            Distrust::Emptied => self.keep_both(side, changes, Prefer::of(side)),
        }
    }

    fn ask_whether_part(&mut self, side: Side, path: &RelPath, remains: Remains) {
        self.side(side).asked.insert(path.clone());
        self.send(side, Request::Holds { path: path.clone(), remains });
    }

    /// The answer: whether what the other side found is a part of what this one has.
    pub(super) fn compared(&mut self, side: Side, path: RelPath, is_part: bool) {
        if self.answered(side, &path) {
            self.side(side.other()).distrusts.settle(&path, is_part);
            self.ready.insert(path);
        }
    }

    /// Takes both for changed: one of them keeps the name, the other is kept beside it.
    fn keep_both(&self, side: Side, changes: &Sides<Option<Change>>, prefer: Prefer) -> Doubted {
        let Some(found) = &changes[side] else { return Doubted::No };
        let there = match &changes[side.other()] {
            Some(change) => Some(Change { contents: true, ..change.clone() }),
            None => found.known.as_ref().map(|known| as_changed(&found.path, known)),
        };
        let (left, right) = Sides::from_fn(|own| if own == side { Some(found) } else { there.as_ref() }).split();
        let rules = Rules { prefer, old: self.old(), numbers: &self.numbers };
        Doubted::Decided(reconcile(left, right, rules))
    }

    fn tell_older(&mut self, side: Side, change: Option<&Change>) {
        let Some(Change { path, contents: true, after: Some(_), .. }) = change else { return };
        let other = side.other().word();
        let text = format!(
            "{path}: a power failure left an older version, or a part of it; the {other} side's is put back, and this one \
             goes to the trash"
        );
        self.tell(News::Note { side, text });
    }
}

/// Whether the agreed file was taken for equal unread.
fn is_unread(change: &Change) -> bool {
    let agreed = change.known.as_ref().map(|known| &known.entry);
    agreed.is_some_and(|entry| entry.kind() == Kind::File && entry.hash().is_none() && entry.size() > 0)
}

/// The agreed state as a report that somebody made it of late.
fn as_changed(path: &RelPath, known: &Known) -> Change {
    Change {
        seq: 0,
        path: path.clone(),
        parent: None,
        known: Some(known.clone()),
        moved: None,
        after: Some(known.entry.clone()),
        contents: true,
        touched: false,
        read: false,
        inline: None,
        like: None,
        below: 0,
        young: 0,
    }
}

/// The decision when one side's object is known to be older than the agreed state, or damaged.
fn trusting(trusted: Side, left: Option<&Change>, right: Option<&Change>) -> Verdict {
    let (own, damaged) = if trusted == Side::Left { (left, right) } else { (right, left) };
    let entry = match own {
        Some(change) => change.after.clone(),
        None => damaged.and_then(|c| c.known.as_ref()).map(|k| k.entry.clone()),
    };
    let on = trusted.other();
    let there = damaged.and_then(|c| c.after.as_ref());
    match entry {
        None if there.is_some() => Verdict::Remove { on },
        None => Verdict::Forget,
        Some(entry) => {
            let kind = there.map(Entry::kind);
            if kind == Some(Kind::Dir) && entry.kind() != Kind::Dir {
                return Verdict::RemoveFirst { on };
            }
            let alike = there.is_some_and(|there| there.content.compare(&entry.content) == Sameness::Same);
            let mut needs = Sides::both(Need::Record);
            needs[on] = if alike { Need::Attributes } else { Need::Contents };
            let (entry, dropped) = proven(entry, own);
            Verdict::Settle { entry, from: trusted, needs, loser: None, dropped }
        }
    }
}

/// The entry with what may go with the trusted side's contents: as it reports them, or as they were agreed on if its own
/// file must have the hash of that.
fn proven(entry: Entry, own: Option<&Change>) -> (Entry, Rights) {
    if own.is_some_and(|change| change.contents || change.read) || entry.hash().is_some() || entry.size() == 0 {
        return (entry, Rights::default());
    }
    let (attrs, dropped) = bare(entry.kind(), &entry.attrs);
    (Entry { content: entry.content, attrs }, dropped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::guard::Limit;
    use crate::engine::{Effect, Input, Settings};
    use crate::model::{Attrs, Content, Hash, Principal, Time};
    use crate::protocol::{Apply, Displaced, Hello, Kept, Outcome, Reply, Step};

    fn path() -> RelPath {
        RelPath::new(b"letter").unwrap()
    }

    fn file(text: &[u8], secs: i64) -> Entry {
        let (user, group) = (Principal::Id(0), Principal::Id(0));
        let attrs = Attrs { mode: 0o644, user, group, mtime: Time { secs, nanos: 0 }, xattrs: Default::default() };
        Entry { content: Content::File { size: text.len() as u64, hash: Some(Hash::of(text)) }, attrs }
    }

    fn hello(side: Side) -> Hello {
        let ids = Sides::new([1; 16], [2; 16]);
        Hello {
            archive: ids[side],
            peer: ids[side.other()],
            generation: 1000,
            confirmed: 1000,
            fresh: false,
            rebooted: side == Side::Right,
            rows: 10,
            came: 0,
            top_entries: 9,
            side: Some(side),
            exchanged: false,
            filters: [0; 32],
            clock: 0,
            watching: false,
        }
    }

    fn session() -> Engine {
        let mut engine = Engine::new(Settings {
            pair: "pair".into(),
            prefer: Prefer::Newest,
            copies: true,
            force: false,
            skip_initial: false,
            max_delete: Limit::Off,
            delta_min: u64::MAX,
            rsync: false,
            dry_run: false,
            once: false,
            filters: [0; 32],
            right_root: Vec::new(),
            service: true,
        });
        engine.handle(Input::Start { incarnation: 1, accept: false, union: false }, 0);
        for side in Side::BOTH {
            engine.handle(Input::Reply(side, Reply::Hello(hello(side))), 0);
        }
        for side in Side::BOTH {
            engine.handle(Input::Reply(side, Reply::RowsEnd), 0);
        }
        for side in Side::BOTH {
            engine.handle(Input::Reply(side, Reply::ScanDone { files: 1, bytes: 1 }), 0);
        }
        engine
    }

    /// The right, whose power failed, found this where both had agreed on another; what is asked of the sides.
    fn found(engine: &mut Engine, why: Option<Distrust>, after: Option<Entry>) -> Vec<Effect> {
        let known = Some(Known { node: 19, generation: 19, entry: file(b"agreed on", 100) });
        let change = Change {
            seq: 7,
            after,
            known,
            ..as_changed(&path(), &Known { node: 0, generation: 0, entry: file(b"", 0) })
        };
        let change = Change { parent: Some(1), ..change };
        let mut out = Vec::new();
        if let Some(why) = why {
            out.extend(engine.handle(Input::Reply(Side::Right, Reply::Distrust { path: path(), seq: 7, why }), 0));
        }
        out.extend(engine.handle(Input::Reply(Side::Right, Reply::Report(change)), 0));
        out
    }

    /// Whose contents are placed where, and what becomes of what they replace.
    fn placed(effects: &[Effect]) -> Vec<(Side, bool)> {
        let puts = effects.iter().filter_map(|effect| match effect {
            Effect::Send(side, Request::Apply { apply: Apply { step: Step::Put { displaced, .. }, .. }, .. }) => {
                Some((*side, matches!(displaced, Displaced::Copy(_))))
            }
            _ => None,
        });
        puts.collect()
    }

    fn asked(effects: &[Effect]) -> bool {
        effects.iter().any(|effect| matches!(effect, Effect::Send(Side::Left, Request::Holds { .. })))
    }

    #[test]
    fn who_keeps_the_name_and_what_is_kept_beside_it() {
        let part = || Distrust::Remains(Remains { size: 4, hash: Hash::of(b"agre"), zeros: vec![] });
        let newer = || Some(file(b"newer", 200));
        // Nothing is in doubt: an edit, as ever.
        assert_eq!(placed(&found(&mut session(), None, newer())), [(Side::Left, false)]);
        // Older, or gone: the left's is put back, without a copy.
        assert_eq!(placed(&found(&mut session(), Some(Distrust::Older), newer())), [(Side::Right, false)]);
        assert_eq!(placed(&found(&mut session(), Some(Distrust::Older), None)), [(Side::Right, false)]);
        // Nobody knows: the newer keeps the name, the other is kept beside it.
        assert_eq!(placed(&found(&mut session(), Some(Distrust::Unknown), newer())), [(Side::Left, true)]);
        let old = Some(file(b"newer", 50));
        assert_eq!(placed(&found(&mut session(), Some(Distrust::Unknown), old)), [(Side::Right, true)]);
        // Emptied: whatever its time says, it keeps the name.
        let empty = Some(file(b"", 50));
        assert_eq!(placed(&found(&mut session(), Some(Distrust::Emptied), empty)), [(Side::Left, true)]);
        // Perhaps a part: the left is asked, and until then nothing happens.
        for (is_part, expected) in [(true, (Side::Right, false)), (false, (Side::Left, true))] {
            let mut engine = session();
            let first = found(&mut engine, Some(part()), newer());
            assert!(asked(&first) && placed(&first).is_empty(), "{first:?}");
            assert!(placed(&engine.handle(Input::Tick, 60_000)).is_empty());
            let then = engine.handle(Input::Reply(Side::Left, Reply::Holds { path: path(), is_part }), 0);
            assert_eq!(placed(&then), [expected], "{then:?}");
            // A conflict is told once the left says where it keeps its version; what is a part is told at once.
            let told = match then.iter().find_map(|effect| match effect {
                Effect::Send(Side::Left, Request::Apply { generation, .. }) => Some(*generation),
                _ => None,
            }) {
                Some(generation) => {
                    let outcome = Outcome::Done { entry: None, kept: Some(Kept::Trash) };
                    engine.handle(Input::Reply(Side::Left, Reply::Result { generation, outcome }), 0)
                }
                None => then,
            };
            let told =
                told.iter().any(|effect| matches!(effect, Effect::Tell(News::Note { .. } | News::Conflict { .. })));
            assert!(told, "nothing was told, {is_part}");
        }
    }

    #[test]
    fn the_end_of_an_action_settles_no_doubt_of_a_later_report() {
        let mut engine = session();
        let first = found(&mut engine, None, Some(file(b"newer", 200)));
        let generation = first.iter().find_map(|effect| match effect {
            Effect::Send(Side::Left, Request::Apply { generation, .. }) => Some(*generation),
            _ => None,
        });
        let generation = generation.expect("an edit is carried over");
        // What the power left is told while the edit is under way.
        let agreed = Known { node: 19, generation, entry: file(b"newer", 200) };
        let later = Change { seq: 8, parent: Some(1), after: Some(file(b"", 300)), ..as_changed(&path(), &agreed) };
        let doubt = Reply::Distrust { path: path(), seq: 8, why: Distrust::Older };
        let mut then = Vec::new();
        let done =
            Reply::Result { generation, outcome: Outcome::Done { entry: Some(agreed.entry.clone()), kept: None } };
        for (side, reply) in [
            (Side::Right, doubt),
            (Side::Right, Reply::Report(later)),
            (Side::Left, done),
            (Side::Right, Reply::Recorded { generation }),
        ] {
            then.extend(engine.handle(Input::Reply(side, reply), 0));
        }
        assert_eq!(placed(&then), [(Side::Right, false)], "{then:?}");
    }

    #[test]
    fn an_answer_that_nobody_asked_for_and_words_of_an_older_report_count_nothing() {
        let mut engine = session();
        engine.handle(Input::Reply(Side::Left, Reply::Holds { path: path(), is_part: true }), 0);
        let why = Distrust::Older;
        engine.handle(Input::Reply(Side::Right, Reply::Distrust { path: path(), seq: 6, why }), 0);
        assert_eq!(placed(&found(&mut engine, None, Some(file(b"newer", 200)))), [(Side::Left, false)]);
    }
}
