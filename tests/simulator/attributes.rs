//! Histories of users who give extended attributes to the same few objects on both sides, and edit them meanwhile.
//!
//! The rule: attributes are merged by their names. What one side's users set or took away, and the other's did not touch, is
//! on both sides; where both touched one, it is as one of them left it. ACLs the same; or, where they travel from left to
//! right only, the left has its users' own.

use psync::model::{RelPath, Side, Sides};

use crate::choice::Choices;
use crate::history::{History, Profile};
use crate::model_disk::state::Features;
use crate::oracle::tree;
use crate::plan::{Act, Fault, Item, Stage};
use crate::users::{Call, DEFAULT_ACL, Maker, Task, Text};

/// One seed of so many, the one with this rest, is such a history.
const EVERY: u64 = 19;
const REST: u64 = 6;

/// Two directories and a file whose attributes both sides' users set.
const SHARED: [&str; 3] = ["d", "d/e", "d/both"];
/// Files that the users of one side alone write and give attributes to: who meets another's contents meets a conflict, and
/// that has a rule of its own.
const FILES: Sides<&str> = Sides::new("d/left", "d/e/right");
const NAMES: [&str; 4] = ["user.one", "user.two", "user.three", DEFAULT_ACL];

pub fn is_attributed(seed: u64) -> bool {
    seed % EVERY == REST
}

pub fn history(seed: u64, choices: &Choices) -> History {
    let (crashes, events) = (choices.one_in(3), choices.one_in(4));
    let profile = Profile { attributed: true, crashes, events, ..Profile::default() };
    let acl_from_left_only = choices.one_in(2);
    let left = Features { gives_acls: acl_from_left_only, ..Features::default() };
    let right = Features { keeps_acls: acl_from_left_only, ..Features::default() };
    let mut maker = Maker { choices, value: &mut 0, unique_sizes: true, home: None };
    let mut calls: Vec<Call> = SHARED[..2].iter().map(|dir| Call::Mkdir(path(dir))).collect();
    FILES.into_values().chain([SHARED[2]]).for_each(|file| calls.extend(maker.write_calls(&path(file), true)));
    let before = vec![Task { side: Side::Left, pace: 0, calls }];
    maker.unique_sizes = false;
    // The first phase is the first meeting of all this with nothing.
    let phases = (0..2 + choices.below(3)).map(|n| if n == 0 { vec![] } else { phase(profile, &mut maker) }).collect();
    History { schedule: seed ^ 0x5eed, profile, features: Sides::new(left, right), before, phases }
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a short name")
}

fn phase(profile: Profile, maker: &mut Maker) -> Vec<Item> {
    let choices = maker.choices;
    let mut at = 0;
    (0..3 + choices.below(12))
        .map(|_| {
            at += *choices.pick(&[0, 0, 1, 3, 20, 60, 300, 1_000_000]);
            let side = if choices.one_in(2) { Side::Left } else { Side::Right };
            let act = match choices.below(14) {
                0 if profile.crashes => Act::Fault(Fault::Crash(side)),
                1 if profile.crashes => Act::Fault(Fault::LinkCut),
                2 if profile.events => Act::Fault(Fault::LoseEvents(side)),
                3 if profile.events => Act::Fault(Fault::Delay(choices.below(2_000))),
                _ => Act::User(Task { side, pace: *choices.pick(&[0, 0, 1, 10]), calls: calls(side, maker) }),
            };
            Item { at, act }
        })
        .collect()
}

fn calls(side: Side, maker: &mut Maker) -> Vec<Call> {
    let choices = maker.choices;
    let object = path(choices.pick::<&str>(&[SHARED[0], SHARED[1], SHARED[2], FILES[side]]));
    match choices.below(10) {
        0 | 1 => maker.write_calls(&path(FILES[side]), true),
        2 => vec![Call::Chmod(object, *choices.pick(&[0o700, 0o750, 0o755]))],
        // One after the other.
        3 => NAMES.into_iter().map(|name| Call::SetXattr(object.clone(), name, maker.value())).collect(),
        _ => {
            let name = *choices.pick(&NAMES);
            let value = if choices.one_in(4) { Text(Vec::new()) } else { maker.value() };
            vec![Call::SetXattr(object, name, value)]
        }
    }
}

/// What users set since the last check, when all has come to rest.
pub fn check(stage: &Stage) {
    let trees = stage.disks.as_ref().map(tree);
    let features = stage.disks.as_ref().map(|disk| disk.state().features.clone());
    for ((path, name), set) in stage.world.take_xattrs() {
        let own = name == DEFAULT_ACL && features[Side::Left].gives_acls;
        let (left, right) = set.as_ref().map(|values| last(values)).split();
        for side in Side::BOTH {
            let Some(view) = trees[side].get(&path) else { continue };
            let found = view.xattrs.get(name.as_bytes()).map(|value| value.to_vec()).unwrap_or_default();
            let fine = match own {
                // Of the right's users no word counts; what they set there is theirs until the next full sync.
                true if side == Side::Right => left.is_empty() || !right.is_empty() || left.contains(&found),
                true if left.is_empty() => !right.iter().any(|other| !other.is_empty() && found == *other),
                true => left.contains(&found),
                // An ACL belongs to the mode, and is set whatever it has become this very moment.
                false if name == DEFAULT_ACL => set.values().flatten().any(|value| *value == found),
                false => left.contains(&found) || right.contains(&found),
            };
            if !fine {
                let words = |value: &Vec<u8>| String::from_utf8_lossy(value).into_owned();
                let set = set.as_ref().map(|values| values.iter().map(words).collect::<Vec<_>>());
                stage.world.violation(format!(
                    "attribute lost: {name} of {path} is {:?} on the {}; users saw and set {set:?}",
                    words(&found),
                    side.word()
                ));
            }
        }
    }
}

/// The values with which users of one side may have left an attribute: the last one. But if that is what it was before they
/// set it, the other side may have got one from in between, and the last one looks as if nothing had changed.
fn last(values: &[Vec<u8>]) -> &[Vec<u8>] {
    match values {
        [first, .., last] if first == last => values,
        [.., last] => std::slice::from_ref(last),
        [] => &[],
    }
}
