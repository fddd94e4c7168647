//! Rights in the model: which of them users gave to which contents, by name, and histories of a user who is after those of others.
//!
//! The oracle's rule: a file that users see never has a right that no user gave to its contents, on either side. The
//! kernel's part is in `model_disk/user.rs`: a write and a change of owner take setuid, setgid and capabilities away.

use psync::model::rights::CAPABILITY;
use psync::model::{RelPath, Side, Sides, Time};

use crate::choice::Choices;
use crate::history::{History, Profile};
use crate::model_disk::Obj;
use crate::model_disk::state::{Body, Features, ROOT, State, system_names};
use crate::plan::{Act, Fault, Item};
use crate::users::{Call, Maker, Task};

/// One seed of so many, the one with this rest, is such a history.
const EVERY: u64 = 16;
const REST: u64 = 11;
/// All files have this time: with contents of one size nothing but reading tells them apart.
const WHEN: Time = Time { secs: 1_600_000_000, nanos: 0 };

impl State {
    /// The rights of a file, in words that mean the same on both sides.
    fn rights(&self, obj: Obj) -> Vec<String> {
        let meta = &self.inode(obj).meta;
        let name = |id: u32| self.name_of(id).map_or_else(|| id.to_string(), str::to_owned);
        let system = |id: u32| id < 1000 || self.name_of(id).is_some_and(|name| system_names().contains(&name));
        let mut rights = Vec::new();
        if meta.mode & 0o4000 != 0 {
            rights.push(format!("setuid {}", name(meta.uid)));
        }
        if meta.mode & 0o2000 != 0 {
            rights.push(format!("setgid {}", name(meta.gid)));
        }
        if let Some(value) = meta.xattrs.get(CAPABILITY) {
            rights.push(format!("capability {}", String::from_utf8_lossy(value)));
        }
        rights.extend(system(meta.uid).then(|| format!("owner {}", name(meta.uid))));
        rights.extend(system(meta.gid).then(|| format!("group {}", name(meta.gid))));
        rights
    }

    /// A user made the file what it is now: these contents may have these rights.
    pub fn grant(&self, obj: Obj) {
        if let Body::File(contents) = &self.inode(obj).body {
            self.rights(obj).into_iter().for_each(|right| self.world.grant(contents, right));
        }
    }

    /// psync made the files at or below an object what they are now.
    pub fn check_rights(&self, obj: Obj) {
        if !self.world.hostile.get() || !self.is_within(obj, ROOT) {
            return;
        }
        let mut files = Vec::new();
        self.files_below(obj, &mut files);
        for (file, contents) in files.into_iter().filter(|(_, contents)| !contents.is_empty()) {
            let path = self.path_of(file).map(|path| path.to_string()).unwrap_or_default();
            for right in self.rights(file) {
                if !self.world.is_granted(&contents, &right) {
                    let text = String::from_utf8_lossy(&contents).into_owned();
                    let side = self.side.word();
                    self.world.violation(format!("unearned right: {side} {path}: {right} on {text:?}"));
                }
            }
        }
    }
}

/// Whether a seed's history is one of a hostile user.
pub fn is_hostile(seed: u64) -> bool {
    seed % EVERY == REST
}

/// A history of an administrator, who grants, and a user who puts other contents in the place of what was looked at.
pub fn history(seed: u64, choices: &Choices) -> History {
    let crashes = choices.one_in(3);
    let profile = Profile { hostile: true, crashes, events: choices.one_in(4), ..Profile::default() };
    let keeps_acls = choices.one_in(2);
    // By the seed, so that the choices stay the same: this side's disk holds no capabilities.
    let no_xattrs = (seed / EVERY) % 4 == 1;
    let right = Features { keeps_acls, no_xattrs, ..Features::default() };
    let left = Features { gives_acls: right.keeps_acls, ..Features::default() };
    let mut value = 0;
    let mut maker = Maker { choices, value: &mut value, unique_sizes: false, home: None };
    let mut before = Vec::new();
    for name in NAMES {
        let path = RelPath::new(name.as_bytes()).expect("a name");
        for side in Side::BOTH {
            if choices.one_in(3) {
                continue;
            }
            let mut calls = vec![];
            calls.extend(written(&mut maker, &path));
            if choices.one_in(4) {
                calls.extend(grant(choices, &path));
            }
            before.push(Task { side, pace: 0, calls });
        }
    }
    let phases = (0..1 + choices.below(3)).map(|_| phase(choices, profile, &mut maker)).collect();
    History { schedule: seed ^ 0x5eed, profile, features: Sides::new(left, right), before, phases }
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn phase(choices: &Choices, profile: Profile, maker: &mut Maker) -> Vec<Item> {
    let mut at = 0;
    (0..2 + choices.below(10))
        .map(|_| {
            at += *choices.pick(&[0, 1, 3, 20, 300, 1_000_000]);
            let side = if choices.one_in(2) { Side::Left } else { Side::Right };
            let act = match choices.below(10) {
                0 if profile.crashes => Act::Fault(Fault::Crash(side)),
                1 if profile.crashes => Act::Fault(Fault::LinkCut),
                2 if profile.events => Act::Fault(Fault::LoseEvents(side)),
                _ => Act::User(task(choices, side, maker)),
            };
            Item { at, act }
        })
        .collect()
}

fn task(choices: &Choices, side: Side, maker: &mut Maker) -> Task {
    let name = |suffix: &str| format!("{}{suffix}", choices.pick(&NAMES[..]));
    let path = |text: String| RelPath::new(text.as_bytes()).expect("a name");
    let (at, other) = (path(name("")), path(name("")));
    let mut calls = Vec::new();
    match choices.below(14) {
        0..=2 => calls.extend(written(maker, &at)),
        3 => {
            let new = path(format!("{at}.new"));
            calls.extend(written(maker, &new));
            calls.push(Call::Rename(new, at));
        }
        4 => {
            // A save that keeps the old one.
            calls.push(Call::Rename(at.clone(), path(format!("{at}~"))));
            calls.extend(written(maker, &at));
        }
        5 => calls.push(Call::Rename(at, other)),
        6 => {
            let spare = path(format!("{at}.swap"));
            calls.push(Call::Rename(at.clone(), spare.clone()));
            calls.extend([Call::Rename(other.clone(), at), Call::Rename(spare, other)]);
        }
        7 => calls.push(Call::Link(at, path(name("l")))),
        8 => calls.push(Call::Unlink(at)),
        9 => {
            // What had its time put back, and another name.
            calls.extend(written(maker, &at));
            calls.push(Call::Rename(at, other));
        }
        _ => calls.extend(grant(choices, &at)),
    }
    Task { side, pace: *choices.pick(&[0, 0, 1, 10]), calls }
}

/// New contents of the size and time that all have.
fn written(maker: &mut Maker, path: &RelPath) -> Vec<Call> {
    let mut bytes = maker.value();
    bytes.0.truncate(7);
    let open = Call::Open { path: path.clone(), create: true, truncate: false };
    vec![open, Call::WriteAt { offset: 0, bytes }, Call::Close, Call::Utimes(path.clone(), WHEN)]
}

/// What an administrator grants to a file, or takes back.
fn grant(choices: &Choices, path: &RelPath) -> Vec<Call> {
    let chown = |name| Call::Chown(path.clone(), name);
    let chmod = |mode| Call::Chmod(path.clone(), mode);
    match choices.below(9) {
        0 => vec![chown("root")],
        1 => vec![chown("root"), chmod(0o4755)],
        2 => vec![chown("daemon"), chmod(0o6755)],
        3 => vec![chown("bob"), chmod(0o4755)],
        4 => vec![chmod(0o6755)],
        5 => vec![chown("alice"), chmod(0o755)],
        6 => vec![chown("bob")],
        7 => vec![chmod(*choices.pick(&[0o600, 0o644, 0o755]))],
        _ => vec![Call::SetCapability(path.clone())],
    }
}
