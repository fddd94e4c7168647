//! What a side says is a claim: each reply passes here before the engine takes it in.
//!
//! It is judged by what the brain knows itself: the numbers that it gave, what it asked for, how much it lets a side keep
//! waiting. A side that keeps the protocol never fails; one that does is put out, and the pair halts. What may simply be too
//! much to tell (lines for the log) is left out and counted.

use std::collections::BTreeMap;

use crate::model::{Generation, Millis, PATH_MAX, RelPath, Side};
use crate::protocol::{
    Data, Kept, Outcome, Reply, Request, Sums, Tunnel, Weight,
    sane::{self, Insane},
};

use super::{Effect, Engine, News, Phase};

/// Rows that a side may tell beyond those that the left has, and their bytes in memory. What one archive can miss of the
/// other is what was in flight when a side died.
const ROWS_MAX: (usize, usize) = (128 * 1024, 32 << 20);
/// Bytes of the right's reports that wait, beside a kilobyte for each row of the left, which may be gone. An agent tells of
/// nothing new while half as many wait.
const PENDING_MAX: usize = 96 << 20;
/// Bytes of sums of one action: those of the largest basis.
const SUMS_MAX: u64 = 16 << 20;
/// Replies within a while that call for nothing but attention; no side has so much to tell.
const CHATTER_MAX: u32 = 500_000;
const CHATTER_WHILE: Millis = 10_000;
/// Bytes of lines that are told: so many at once, and a second's worth of them after that. Each is written to the log, and
/// may be said beside it.
const LINES_MAX: u64 = 4 << 20;
const LINES_A_SECOND: u64 = 32 << 10;
/// What a line has beside its words.
const LINE: u64 = 128;
/// Bytes of names of owners, which wait for the other side: more than any host has users.
const NAMES_MAX: usize = 24 << 20;

/// What one side has said in this session, as far as that must have bounds.
#[derive(Debug)]
pub(super) struct Claims {
    rows: (usize, usize),
    /// When the while began, and replies since.
    chatter: (Millis, u32),
    /// Bytes of lines that may be told now, and since when that is so.
    lines: (u64, Millis),
    left_out: u64,
    /// Bytes of names that it told.
    names: usize,
    /// Contents that this side sends or takes.
    flows: BTreeMap<Generation, Flow>,
}

impl Default for Claims {
    fn default() -> Claims {
        Claims { rows: (0, 0), chatter: (0, 0), lines: (LINES_MAX, 0), left_out: 0, names: 0, flows: BTreeMap::new() }
    }
}

/// Bytes of one action, by who said so.
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    sent: u64,
    /// Of what was sent to it, so much it has taken as it says.
    taken: u64,
    sums: u64,
}

impl Claims {
    /// One more reply that calls for nothing but attention.
    fn chat(&mut self, now: Millis) -> Result<(), Insane> {
        if now >= self.chatter.0 + CHATTER_WHILE {
            self.chatter = (now, 0);
        }
        self.chatter.1 += 1;
        if self.chatter.1 > CHATTER_MAX { Err("a flood of words") } else { Ok(()) }
    }

    /// Whether one more line may be told, of so many bytes.
    fn line(&mut self, bytes: u64, now: Millis) -> bool {
        let seconds = now.saturating_sub(self.lines.1) / 1000;
        if seconds > 0 {
            self.lines = ((self.lines.0 + seconds * LINES_A_SECOND).min(LINES_MAX), now);
        }
        let told = self.lines.0 >= bytes;
        self.lines.0 -= if told { bytes } else { 0 };
        self.left_out += u64::from(!told);
        told
    }
}

/// About as many bytes as a log takes for what is told of a reply; `None`: it is no line.
fn line_of(reply: &Reply) -> Option<u64> {
    // A path is told by itself and within the words; bytes that are no text take four characters.
    let path = |path: &RelPath| 4 * path.as_bytes().len() as u64;
    match reply {
        Reply::Note { text } => Some(LINE + text.len() as u64),
        Reply::Lost { scope, reason } => Some(LINE + path(scope) + reason.len() as u64),
        Reply::Problem { path: of, problem: Some(problem) } => Some(LINE + path(of) + problem.detail.len() as u64),
        _ => None,
    }
}

impl Engine {
    /// What a side says, if it can be so. Else the side is put out.
    pub(super) fn believe(&mut self, side: Side, reply: Reply, now: Millis) -> Option<Reply> {
        match self.judge(side, &reply, now) {
            Ok(()) => {}
            Err(why) => {
                self.put_out(side, why);
                return None;
            }
        }
        let Some(bytes) = line_of(&reply) else { return Some(reply) };
        let claims = &mut self.claims[side];
        if claims.line(bytes, now) {
            let left_out = std::mem::take(&mut claims.left_out);
            if left_out > 0 {
                self.tell(News::Note { side, text: format!("{left_out} lines before this one were left out") });
            }
            return Some(reply);
        }
        // What it changes for the engine holds, told or not.
        if let Reply::Problem { path, .. } = reply {
            self.sides[side].problems.insert(path);
        }
        None
    }

    /// A side said what cannot be: nothing more is taken from it.
    pub(super) fn put_out(&mut self, side: Side, why: &str) {
        let reason = format!("{} side: it said what cannot be: {why}", side.word());
        let advice = format!(
            "nothing of that was kept; both hosts must run the same version, and if they do, see whether that host is still \
             yours. To try again: {}",
            self.settings.go_on("")
        );
        self.halt(reason, advice);
        self.fx.push(Effect::HangUp(side));
    }

    fn judge(&mut self, side: Side, reply: &Reply, now: Millis) -> Result<(), Insane> {
        let next = self.next_generation;
        let known = self.rows_of_left();
        let claims = &mut self.claims[side];
        match reply {
            Reply::Rows { rows } => {
                if self.phase != Phase::Exchanging || self.sides[side].rows_done {
                    return if self.phase == Phase::Halted { Ok(()) } else { Err("rows that nobody asked for") };
                }
                for row in rows {
                    sane::row(row)?;
                    if row.generation >= next {
                        return Err("a row of a generation that nobody gave");
                    }
                }
                claims.rows.0 += rows.len();
                claims.rows.1 += rows.iter().map(Weight::weight).sum::<usize>();
                let (most, bytes) = ROWS_MAX;
                let fits = claims.rows.0 <= most.saturating_add(known)
                    && claims.rows.1 <= bytes.saturating_add(known.saturating_mul(256));
                if fits { Ok(()) } else { Err("more rows than one archive can miss of the other") }
            }
            Reply::Report(change) => {
                if self.phase != Phase::Running {
                    return claims.chat(now);
                }
                sane::change(change, next)?;
                let waiting = self.sides[side].weight + change.weight();
                let most = PENDING_MAX.saturating_add(known.saturating_mul(1024));
                // The left's endpoint is of this process.
                if side == Side::Left || waiting <= most { Ok(()) } else { Err("more changes than can wait") }
            }
            Reply::Result { outcome: Outcome::Done { entry, kept }, .. } => {
                if let Some(Kept::Beside(path)) = kept {
                    sane::object(path)?;
                }
                if let Some(entry) = entry { sane::entry(entry) } else { claims.chat(now) }
            }
            Reply::Names { numbers } => {
                claims.chat(now)?;
                claims.names += numbers.iter().map(|number| size_of_val(number) + number.name.len()).sum::<usize>();
                if claims.names > NAMES_MAX {
                    return Err("more names of owners than a host has");
                }
                sane::names(numbers)
            }
            Reply::Data { generation, data } => self.flows(side, *generation, data.cost(), 0, 0),
            Reply::Credit { generation, bytes } => self.flows(side, *generation, 0, *bytes, 0),
            Reply::Rsync { generation, piece } => match piece {
                Tunnel::Bytes(bytes) => self.flows(side, *generation, bytes.len() as u64, 0, 0),
                Tunnel::Taken(bytes) => self.flows(side, *generation, 0, *bytes, 0),
                Tunnel::Arguments(_) | Tunnel::End => claims.chat(now),
            },
            Reply::Sums { generation, sums } => {
                let bytes = if let Sums::Blocks { sums } = sums { sums.len() as u64 } else { 0 };
                self.flows(side, *generation, 0, 0, bytes + 64)
            }
            Reply::Clean { path } | Reply::Cursor { path, .. } | Reply::Problem { path, .. } => {
                claims.chat(now)?;
                sane::path(path)
            }
            Reply::Distrust { path, why, .. } => {
                if self.phase != Phase::Running {
                    return claims.chat(now);
                }
                sane::object(path)?;
                if !why.is_sound() {
                    return Err("ranges that no file has");
                }
                let state = &self.sides[side];
                if !state.hello.as_ref().is_some_and(|hello| hello.rebooted) {
                    return Err("a doubt of a side whose power did not fail");
                }
                // The left's endpoint is of this process.
                if side == Side::Left { Ok(()) } else { state.distrusts.bears(path, why, known) }
            }
            Reply::Holds { path, .. } => {
                claims.chat(now)?;
                sane::object(path)
            }
            Reply::DirTimes { times } if self.phase == Phase::Running => {
                claims.chat(now)?;
                self.may_tell_dir_times(side, times, next)
            }
            Reply::DirTimesSet { outcomes } if self.phase == Phase::Running => {
                claims.chat(now)?;
                self.may_have_set(side, outcomes)
            }
            Reply::DirTimes { .. }
            | Reply::DirTimesSet { .. }
            | Reply::Note { .. }
            | Reply::NotSet { .. }
            | Reply::Unproven { .. }
            | Reply::Special { .. }
            | Reply::Tally { .. }
            | Reply::Lost { .. }
            | Reply::HasRoom
            | Reply::ScanDone { .. } => claims.chat(now),
            Reply::OtherRoot { root } => {
                claims.chat(now)?;
                if root.len() > PATH_MAX || self.settings.right_root.is_empty() || side == Side::Left {
                    return Err("another root than none");
                }
                Ok(())
            }
            Reply::Hello(_)
            | Reply::Halt { .. }
            | Reply::Away { .. }
            | Reply::Damaged { .. }
            | Reply::RowsEnd
            | Reply::Result { .. }
            | Reply::Recorded { .. }
            | Reply::Pong { .. }
            | Reply::Stopped => claims.chat(now),
        }
    }

    /// The rows of the left's archive when the session began.
    fn rows_of_left(&self) -> usize {
        let rows = self.sides[Side::Left].hello.as_ref().map_or(0, |hello| hello.rows);
        usize::try_from(rows).unwrap_or(usize::MAX)
    }

    /// Contents pass in bounds: what a side sends was let in by the other, which takes no more than was sent to it.
    fn flows(&mut self, side: Side, generation: Generation, sent: u64, taken: u64, sums: u64) -> Result<(), Insane> {
        if !self.flights.contains_key(&generation) {
            // Late words of an action that has ended go no further.
            return Ok(());
        }
        let most = 2 * super::FLIGHTS_MAX;
        for claims in self.claims.values_mut() {
            if claims.flows.len() > most {
                claims.flows.retain(|generation, _| self.flights.contains_key(generation));
            }
        }
        let other = self.claims[side.other()].flows.get(&generation).copied().unwrap_or_default();
        let own = self.claims[side].flows.entry(generation).or_default();
        own.sent = own.sent.saturating_add(sent);
        own.taken = own.taken.saturating_add(taken);
        own.sums = own.sums.saturating_add(sums);
        if own.sent > Data::CREDIT.saturating_add(other.taken) {
            return Err("more contents than there was credit for");
        }
        if own.taken > other.sent {
            return Err("credit for what was never sent");
        }
        if own.sums > SUMS_MAX { Err("more sums than a file has") } else { Ok(()) }
    }

    /// Names with their numbers, from side to side. Whose they are decides which rights join (decision 0062).
    pub(super) fn pass_names(&mut self, side: Side, numbers: Vec<crate::model::OwnerNumber>) {
        self.numbers.learn(side, &numbers);
        self.send(side.other(), Request::Names { numbers });
    }
}
