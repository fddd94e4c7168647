//! A session: both sides say who they are; what one archive missed is told to it; or the pair halts.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Millis, NodeId, RelPath, Side, readable};
use crate::protocol::{AncestorRow, Hello, Request, Start, cut, sane::WINDOW};

use super::{Engine, News, Phase};

/// Generations and nodes below this are psync's own (the root is node 1).
const FIRST_GENERATION: u64 = 16;

/// Seconds by which the clocks may differ without a word.
const CLOCKS_APART: i64 = 60;

impl Engine {
    pub(super) fn start(&mut self, incarnation: u64, accept: bool, union: bool) {
        self.phase = Phase::Greeting;
        self.accept = accept;
        for side in Side::BOTH {
            let start = Start {
                pair: self.settings.pair.clone(),
                incarnation,
                accept,
                union,
                filters: self.settings.filters,
                dry_run: self.settings.dry_run,
                root: if side == Side::Right { self.settings.right_root.clone() } else { Vec::new() },
            };
            self.send(side, Request::Start(start));
        }
    }

    /// A side cannot serve for now.
    pub(super) fn halt_away(&mut self, side: Side, reason: &str) {
        self.halt_until(format!("{} side: {reason}", side.word()), String::new(), Some(side));
    }

    /// The right side serves another root for this pair: one of two files is wrong, and nobody but their writer knows which.
    pub(super) fn halt_elsewhere(&mut self, root: &[u8]) {
        let (pair, ours) = (&self.settings.pair, readable(&self.settings.right_root));
        let reason = format!("right side serves {} for pair {pair}, this file says {ours}", readable(root));
        let advice = format!("correct right.root in /etc/psync/{pair}.toml on one of them");
        self.halt_until(reason, advice, Some(Side::Right));
    }

    pub(super) fn hello(&mut self, side: Side, hello: Hello, now: Millis) {
        if self.phase != Phase::Greeting {
            return;
        }
        self.side(side).hello = Some(hello);
        self.side(side).greeted = now;
        let (Some(left), Some(right)) = self.sides.as_ref().map(|s| s.hello.clone()).split() else { return };
        if let Some((reason, advice)) = self.far_ahead(&left, &right).or_else(|| self.disaster(&left, &right)) {
            return self.halt(reason, advice);
        }
        self.compare(&left, &right);
        self.first = left.rows == 0 && right.rows == 0;
        let highest = [left.generation, right.generation, left.confirmed, right.confirmed].into_iter().max();
        self.next_generation = highest.unwrap_or(0).max(FIRST_GENERATION) + 1;
        // Both archives hold the same rows; the left's is the brain's own to count.
        let entries = if left.rows > 0 { left.rows } else { right.rows };
        self.guard.begin(entries, now);
        // What came to one side was made on the other.
        for (side, came) in [(Side::Left, right.came), (Side::Right, left.came)] {
            self.side(side).young.begin(came, now);
        }
        self.confirmed = left.confirmed.min(right.confirmed);
        self.phase = Phase::Exchanging;
        let above = if self.first { 0 } else { self.confirmed };
        for side in Side::BOTH {
            self.send(side, Request::Rows { above });
        }
    }

    /// What differs between the sides and should not, though the pair can work with it.
    fn compare(&mut self, left: &Hello, right: &Hello) {
        if left.filters != right.filters {
            let text = "the filters of the two sides differ: excludes, tempfiles, safesuffix and rsync_excludes must be the same on both, \
                        or names that one side leaves out become problems";
            self.tell(News::Warning { what: "filters", text: text.to_owned() });
        }
        for (side, _) in Side::BOTH.into_iter().zip([left, right]).filter(|(_, hello)| hello.rebooted) {
            let text = "the machine was booted since this side was last compared: what a power failure may have left is \
                        looked at more closely";
            self.tell(News::Note { side, text: text.to_owned() });
        }
        // One side may have answered long after the other.
        let (first, second) = self.sides.as_ref().map(|s| i64::try_from(s.greeted / 1000).unwrap_or(0)).split();
        let ahead = (right.clock - second) - (left.clock - first);
        if ahead.abs() > CLOCKS_APART {
            let (seconds, word) = (ahead.abs(), if ahead > 0 { "ahead" } else { "behind" });
            let text = format!(
                "the clock of the right side is {seconds} s {word}: of two versions the newer one wins, so set both clocks"
            );
            self.tell(News::Warning { what: "clocks", text });
        }
    }

    /// A side that counts where the other can never have been: its number would be given on, and no archive could take the
    /// next ones.
    fn far_ahead(&self, left: &Hello, right: &Hello) -> Option<(String, String)> {
        let [l, r] = [left, right].map(|hello| hello.generation.max(hello.confirmed));
        let far = |one: u64, other: u64| one > other.saturating_add(WINDOW);
        let side = match (far(l, r), far(r, l)) {
            (true, _) => Side::Left,
            (_, true) => Side::Right,
            _ => return None,
        };
        let reason = format!(
            "the {} side counts far ahead of the other one (generations {l} and {r}): its archive is damaged, or was misled",
            side.word()
        );
        let advice = format!(
            "nothing was changed. To unite both trees as if they had never met, with new archives: {}",
            self.settings.go_on("--accept --union")
        );
        Some((reason, advice))
    }

    /// What must not go on without a word of the administrator.
    fn disaster(&self, left: &Hello, right: &Hello) -> Option<(String, String)> {
        let [accept, union] = ["--accept", "--accept --union"].map(|options| self.settings.go_on(options));
        let advice =
            |what: &str| format!("{what}; nothing was changed. If both trees are as they should be, go on: {accept}");
        let unite =
            |what: &str| format!("{what}; nothing was changed. To unite both trees as if they had never met: {union}");
        // An archive that met its peer, but has no rows yet, knows as little as a fresh one.
        let blank = |hello: &Hello| hello.fresh || hello.rows == 0;
        if (left.fresh && !blank(right)) || (right.fresh && !blank(left)) {
            let (new, old) = if left.fresh { (Side::Left, Side::Right) } else { (Side::Right, Side::Left) };
            let reason = format!(
                "the {} side has no archive of this pair, the {} side has one: an unmounted, exchanged or emptied root?",
                new.word(),
                old.word()
            );
            let what = format!("mount or restore the {} root with its .psync", new.word());
            return Some((reason, unite(&what)));
        }
        for (side, own, other) in [(Side::Left, left, right), (Side::Right, right, left)] {
            let word = side.word();
            if own.fresh {
                continue;
            }
            if own.peer != other.archive && own.rows > 0 && !other.fresh {
                let reason = format!("the {word} archive belongs to another {} side", side.other().word());
                return Some((reason, unite("use the two roots that were paired, or another --pair name")));
            }
            if own.side.is_some_and(|s| s != side) {
                let reason = format!(
                    "the {word} root is the {} one of this pair: the roots have changed places",
                    side.other().word()
                );
                return Some((reason, unite("give them in the order of before")));
            }
            if own.exchanged && !self.accept {
                let reason =
                    format!("the {word} root is not the directory that was paired (exchanged, copied or restored)");
                return Some((reason, advice(&format!("put the {word} root back"))));
            }
            if own.generation < other.confirmed {
                let reason = format!(
                    "the {word} side was rolled back: its archive ends at generation {}, the other side saw it at {}",
                    own.generation, other.confirmed
                );
                return Some((reason, unite(&format!("restore the newest {word} root"))));
            }
            if own.rows > 0 && own.top_entries == 0 && !self.accept {
                let reason = format!("the {word} root has lost all its {} entries", own.rows);
                return Some((reason, advice(&format!("restore the {word} root"))));
            }
        }
        None
    }

    /// A side's archive can be used no more.
    pub(super) fn halt_damaged(&mut self, side: Side, detail: &str) {
        let (word, pair) = (side.word(), &self.settings.pair);
        let reason = format!("the {word} side cannot use its archive: {detail}");
        let advice = format!(
            "nothing of that side's tree is changed; restore the {word} root's .psync/{pair} from a backup. Or unite both trees as if \
             they had never met: {}. The damaged archive is kept aside then",
            self.settings.go_on("--accept --union")
        );
        self.halt(reason, advice);
    }

    pub(super) fn rows_end(&mut self, side: Side) {
        self.side(side).rows_done = true;
        if self.phase != Phase::Exchanging || !self.sides.values().all(|s| s.rows_done) {
            return;
        }
        let (left, right) = self.sides.as_mut().map(|s| std::mem::take(&mut s.rows)).split();
        let mut halves = self.teach(&left, &right, Side::Right);
        halves.extend(self.teach(&right, &left, Side::Left));
        self.phase = Phase::Running;
        // What a power failure takes back of a directory's time, and of the archive that knew of it, shows on the other side alone.
        let doubt = self.sides.values().filter_map(|side| side.hello.as_ref()).any(|hello| hello.rebooted);
        for side in Side::BOTH {
            let other = self.sides[side.other()].hello.as_ref();
            let peer = other.map_or([0; 16], |h| h.archive);
            let empty = other.is_some_and(|h| h.top_entries == 0);
            let whole = self.first && empty && !self.settings.dry_run && !self.settings.rsync;
            let scan = doubt || self.sides[side].hello.as_ref().is_none_or(|h| !h.watching);
            self.send(side, Request::Go { peer, scan, whole, doubt });
            self.side(side).cursor = scan.then(RelPath::root);
        }
        self.meet_halves(halves);
        if self.paused {
            self.hold(true);
        }
    }

    /// Tells one side the ancestors that only the other has. Those of them that are of joint actions.
    fn teach(&mut self, theirs: &[AncestorRow], own: &[AncestorRow], pupil: Side) -> Vec<AncestorRow> {
        let missing = lessons(theirs, own, pupil);
        let joint = missing.iter().filter(|row| row.joint && row.entry.is_some()).cloned().collect();
        for rows in cut(missing) {
            self.send(pupil, Request::Learn { rows });
        }
        joint
    }

    /// Asks both sides for what only one of them has recorded, though both had something to do: nobody knows whether the other
    /// has done it, and neither may have anything to tell by itself.
    fn meet_halves(&mut self, halves: Vec<AncestorRow>) {
        for row in halves {
            self.halves.insert(row.generation, row.node);
            if !self.settings.skip_initial {
                Side::BOTH.into_iter().for_each(|side| self.ask(side, row.path.clone(), false));
            }
        }
    }

    pub(super) fn stop(&mut self) {
        match self.phase {
            Phase::Running => self.phase = Phase::Stopping,
            Phase::Stopped | Phase::Stopping => {}
            _ => self.finish_stop(),
        }
    }

    pub(super) fn finish_stop(&mut self) {
        self.phase = Phase::Stopped;
        for side in Side::BOTH {
            self.send(side, Request::Stop);
        }
    }
}

/// Of one side's rows those that the other lacks. Where both have another object under one name, as after old snapshots came
/// back on both, the later row holds: neither may take the other's for it.
fn lessons(theirs: &[AncestorRow], own: &[AncestorRow], pupil: Side) -> Vec<AncestorRow> {
    let held: BTreeMap<NodeId, u64> = own.iter().map(|row| (row.node, row.generation)).collect();
    let live = own.iter().filter(|row| row.entry.is_some());
    let names: BTreeMap<&RelPath, (u64, NodeId)> = live.map(|row| (&row.path, (row.generation, row.node))).collect();
    let mut placed: Vec<&AncestorRow> = theirs.iter().filter(|row| row.entry.is_some()).collect();
    placed.sort_by_key(|row| &row.path);
    let mut outdated = BTreeSet::new();
    for row in placed.into_iter().filter(|row| !held.contains_key(&row.node)) {
        let later = names.get(&row.path).is_some_and(|(generation, _)| {
            *generation > row.generation || *generation == row.generation && pupil == Side::Left
        });
        if later || outdated.contains(&row.parent) {
            outdated.insert(row.node);
        }
    }
    let lacks = |row: &&AncestorRow| held.get(&row.node).is_none_or(|generation| *generation < row.generation);
    theirs.iter().filter(lacks).filter(|row| !outdated.contains(&row.node)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::guard::Limit;
    use crate::engine::{Effect, Input, Prefer, Settings};
    use crate::model::{Attrs, Content, Entry, Principal, Time, Xattrs};
    use crate::protocol::Reply;

    fn hello(archive: u8, filters: u8, clock: i64) -> Hello {
        Hello {
            archive: [archive; 16],
            peer: [0; 16],
            generation: 0,
            confirmed: 0,
            fresh: true,
            rebooted: false,
            rows: 0,
            came: 0,
            top_entries: 0,
            side: None,
            exchanged: false,
            filters: [filters; 32],
            clock,
            watching: false,
        }
    }

    /// The warnings of a session whose sides say these words at these times.
    fn warned(left: (Hello, Millis), right: (Hello, Millis)) -> Vec<(&'static str, String)> {
        let mut engine = Engine::new(Settings {
            pair: "p".into(),
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
        let mut effects = engine.handle(Input::Reply(Side::Left, Reply::Hello(left.0)), left.1);
        effects.extend(engine.handle(Input::Reply(Side::Right, Reply::Hello(right.0)), right.1));
        assert!(effects.iter().any(|e| matches!(e, Effect::Send(_, Request::Rows { .. }))), "the session goes on");
        let warning = |effect| match effect {
            Effect::Tell(News::Warning { what, text }) => Some((what, text)),
            _ => None,
        };
        effects.into_iter().filter_map(warning).collect()
    }

    fn row(node: u64, parent: u64, at: &str, generation: u64, entry: Option<Entry>) -> AncestorRow {
        AncestorRow {
            node,
            parent,
            path: RelPath::new(at.as_bytes()).expect("a path"),
            generation,
            entry,
            joint: false,
        }
    }

    #[test]
    fn of_two_objects_under_one_name_the_later_holds() {
        let owner = Principal::Id(0);
        let attrs =
            Attrs { mode: 0o755, user: owner.clone(), group: owner, mtime: Time::default(), xattrs: Xattrs::new() };
        let dir = Some(Entry { content: Content::Dir, attrs });
        let left = [row(17, 1, "a", 17, dir.clone()), row(18, 17, "a/x", 18, dir.clone()), row(5, 1, "d", 19, None)];
        let right = [row(23, 1, "a", 23, dir.clone()), row(24, 23, "a/e", 24, dir.clone()), row(5, 1, "d", 5, dir)];
        let nodes = |rows: Vec<AncestorRow>| rows.iter().map(|row| row.node).collect::<Vec<_>>();
        assert_eq!(nodes(lessons(&left, &right, Side::Right)), [5]);
        assert_eq!(nodes(lessons(&right, &left, Side::Left)), [23, 24]);
        // Of one age: the left's.
        let right = [AncestorRow { generation: 17, ..right[0].clone() }];
        assert_eq!(nodes(lessons(&left[..1], &right, Side::Right)), [17]);
        assert_eq!(nodes(lessons(&right, &left[..1], Side::Left)), [0; 0]);
    }

    #[test]
    fn filters_and_clocks_are_compared() {
        let what = |left, right| warned(left, right).into_iter().map(|(what, _)| what).collect::<Vec<_>>();
        let left = (hello(1, 7, 1_000_000), 5_000);
        assert!(what(left.clone(), (hello(2, 7, 1_000_060), 5_000)).is_empty());
        assert_eq!(what(left.clone(), (hello(2, 8, 1_000_000), 5_000)), ["filters"]);
        assert_eq!(what(left.clone(), (hello(2, 8, 999_000), 5_000)), ["filters", "clocks"]);
        // It answered a hundred seconds later.
        assert!(what(left.clone(), (hello(2, 7, 1_000_100), 105_000)).is_empty());
        assert_eq!(what(left.clone(), (hello(2, 7, 1_000_000), 105_000)), ["clocks"]);
        let text = &warned(left, (hello(2, 7, 1_000_090), 5_000))[0].1;
        assert!(text.starts_with("the clock of the right side is 90 s ahead"), "{text}");
    }
}
