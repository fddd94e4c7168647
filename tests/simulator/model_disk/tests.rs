use std::cell::RefCell;
use std::rc::Rc;

use psync::model::{Kind, Name, RelPath, Side};
use psync::replica::disk::{Disk, Lease, Leased, Own};
use psync::watch::{Event, Hint};

use super::state::{Body, Features};
use super::{ModelDisk, Opened};
use crate::choice::Choices;
use crate::world::{What, World};

fn path(s: &str) -> RelPath {
    RelPath::new(s.as_bytes()).unwrap()
}

fn name(s: &str) -> Name {
    Name::new(s.as_bytes()).unwrap()
}

fn disk(seed: u64) -> (ModelDisk, Rc<World>) {
    let world = World::new();
    let disk = ModelDisk::new(Side::Left, world.clone(), Features::default(), Choices::seeded(seed));
    (disk, world)
}

fn save(disk: &ModelDisk, at: &str, contents: &str) {
    let Opened::Now(fd) = disk.user_open(&path(at), true, true).unwrap() else { panic!("a lease") };
    disk.user_write(fd, 0, contents.as_bytes());
    disk.user_close(fd);
}

fn contents(disk: &ModelDisk, at: &str) -> Option<String> {
    match disk.user_body(&path(at))? {
        Body::File(bytes) => Some(String::from_utf8(bytes).unwrap()),
        other => Some(format!("{other:?}")),
    }
}

/// Stages a file as psync does.
fn stage(disk: &ModelDisk, stage_name: &str, contents: &[u8], sync: bool) {
    let stage = disk.own(Own::Stage).unwrap();
    let file = disk.create(&stage, &name(stage_name)).unwrap();
    disk.write_at(&file, 0, contents).unwrap();
    if sync {
        disk.sync_files(&[&file]).unwrap();
    }
}

#[test]
fn inode_numbers_come_back_with_another_birth() {
    let (disk, _) = disk(1);
    let root = disk.open_dir(&RelPath::root()).unwrap();
    save(&disk, "a", "1");
    let old = disk.stat(&root, &name("a")).unwrap();
    disk.user_unlink(&path("a")).unwrap();
    save(&disk, "b", "2");
    let new = disk.stat(&root, &name("b")).unwrap();
    assert_eq!(old.ino, new.ino);
    assert_ne!(old.btime, new.btime);
}

#[test]
fn a_handle_goes_on_naming_a_renamed_directory() {
    let (disk, _) = disk(1);
    disk.user_mkdir(&path("d")).unwrap();
    let dir = disk.open_dir(&path("d")).unwrap();
    disk.user_rename(&path("d"), &path("e")).unwrap();
    save(&disk, "e/f", "1");
    assert_eq!(disk.list(&dir).unwrap().len(), 1);
    disk.user_unlink(&path("e/f")).unwrap();
    disk.user_rmdir(&path("e")).unwrap();
    assert!(disk.stat_dir(&dir).is_err());
}

#[test]
fn a_writer_keeps_its_file_through_an_exchange() {
    let (disk, world) = disk(1);
    save(&disk, "a", "old");
    let Opened::Now(fd) = disk.user_open(&path("a"), false, false).unwrap() else { panic!("a lease") };
    world.allow(b"new");
    stage(&disk, "s", b"new", true);
    let (root, own) = (disk.open_dir(&RelPath::root()).unwrap(), disk.own(Own::Stage).unwrap());
    disk.exchange((&own, &name("s")), (&root, &name("a"))).unwrap();
    disk.user_append(fd, b" late");
    disk.user_close(fd);
    assert_eq!(contents(&disk, "a").as_deref(), Some("new"));
    assert!(disk.state().all_contents().contains(&b"old late"[..]));
    assert!(world.violations().is_empty());
    assert!(world.facts().iter().any(|fact| fact.what == What::Finished(b"old late".to_vec())));
}

#[test]
fn leases_are_refused_granted_and_broken_as_the_kernel_does() {
    let (disk, _) = disk(1);
    save(&disk, "a", "1");
    let root = disk.open_dir(&RelPath::root()).unwrap();
    let Opened::Now(fd) = disk.user_open(&path("a"), false, false).unwrap() else { panic!("a lease") };
    let file = disk.open_file(&root, &name("a")).unwrap();
    assert_eq!(disk.lease(&file, Lease::Read).unwrap(), Leased::Refused);
    disk.user_close(fd);
    assert_eq!(disk.lease(&file, Lease::Read).unwrap(), Leased::Granted);
    let Opened::Waits(fd) = disk.user_open(&path("a"), false, true).unwrap() else { panic!("no lease") };
    assert!(!disk.lease_holds(&file, Lease::Read) && !disk.user_opened(fd));
    assert_eq!(contents(&disk, "a").as_deref(), Some("1"));
    disk.release(&file);
    assert_eq!(disk.lease(&file, Lease::Read).unwrap(), Leased::Refused, "the waiter comes first");
    assert!(disk.user_opened(fd));
    assert_eq!(contents(&disk, "a").as_deref(), Some(""));
}

#[test]
fn a_power_cut_keeps_what_was_saved_and_never_loses_a_renamed_file() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let (disk, world) = disk(seed);
        world.allow(b"new");
        save(&disk, "a", "old");
        disk.state_mut().write_back(0);
        stage(&disk, "s", b"new", true);
        let own = disk.own(Own::Stage).unwrap();
        disk.sync_dirs(&[&own]).unwrap();
        let root = disk.open_dir(&RelPath::root()).unwrap();
        disk.exchange((&own, &name("s")), (&root, &name("a"))).unwrap();
        save(&disk, "b", "unsaved");
        disk.user_rename(&path("a"), &path("c")).unwrap();
        disk.state_mut().power_cut();
        let now = disk.current();
        let all = now.state().all_contents();
        assert!(all.contains(&b"old"[..]) && all.contains(&b"new"[..]));
        assert!(disk.stat(&root, &name("a")).is_err(), "a handle of before the cut");
        seen.insert((contents(&now, "a"), contents(&now, "b"), contents(&now, "c")));
    }
    let some = |s: &str| Some(s.to_string());
    assert!(seen.contains(&(some("old"), None, None)));
    assert!(seen.contains(&(some("new"), some(""), None)));
    assert!(seen.contains(&(None, some("unsa"), some("new"))));
    assert!(seen.contains(&(None, None, some("new"))));
    assert!(seen.iter().all(|(a, _, c)| a.is_some() != c.is_some()));
}

#[test]
fn random_power_cuts_leave_a_tree() {
    for seed in 0..300 {
        let (disk, _) = disk(seed);
        let choices = Choices::seeded(seed);
        let names = ["a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "b/a/b"];
        for i in 0..60 {
            let at = path(choices.pick::<&str>(&names));
            let to = path(choices.pick::<&str>(&names));
            match choices.below(7) {
                0 | 1 => drop(disk.user_mkdir(&at)),
                2 => drop(disk.user_rename(&at, &to)),
                3 => drop(disk.user_unlink(&at)),
                4 => drop(disk.user_rmdir(&at)),
                5 if choices.one_in(4) => {
                    let dir = disk.open_dir(&at.parent().unwrap());
                    dir.iter().for_each(|dir| disk.sync_dirs(&[dir]).unwrap());
                }
                _ => {
                    if let Ok(Opened::Now(fd)) = disk.user_open(&at, true, true) {
                        disk.user_write(fd, 0, format!("{i}").as_bytes());
                        disk.user_close(fd);
                    }
                }
            }
        }
        disk.state_mut().power_cut();
        let state = disk.state();
        let mut inos: Vec<u64> = state.volume.inodes.values().map(|inode| inode.ino).collect();
        let count = inos.len();
        inos.sort_unstable();
        inos.dedup();
        assert_eq!(inos.len(), count, "seed {seed}: one number, one object");
        for (obj, inode) in &state.volume.inodes {
            assert!(*obj <= 3 || !inode.names.is_empty());
            assert!(!matches!(inode.body, Body::Dir(_)) || inode.names.len() <= 1, "seed {seed}");
        }
    }
}

#[test]
fn a_snapshot_brings_the_old_tree_back() {
    let (disk, _) = disk(1);
    save(&disk, "a", "1");
    let snapshot = disk.state().volume.clone();
    save(&disk, "a", "2");
    save(&disk, "b", "3");
    disk.state_mut().restore(&snapshot);
    assert_eq!((contents(&disk, "a").as_deref(), contents(&disk, "b")), (Some("1"), None));
}

#[test]
fn the_watcher_follows_directories_and_forgets_those_that_left() {
    let (disk, _) = disk(1);
    disk.user_mkdir(&path("d")).unwrap();
    disk.user_mkdir(&path("d/e")).unwrap();
    for at in ["", "d", "d/e"] {
        let dir = disk.open_dir(&path(at)).unwrap();
        disk.watch(&dir, &path(at)).unwrap();
    }
    disk.user_rename(&path("d"), &path("x")).unwrap();
    save(&disk, "x/e/f", "1");
    let events: Vec<Event> = disk.state_mut().events.drain(..).collect();
    let dirty = |at: &str, hint| Event::Dirty { path: path(at), hint };
    assert_eq!(events[..2], [dirty("d", Hint::Vanished), dirty("x", Hint::Appeared)]);
    assert!(events.contains(&dirty("x/e/f", Hint::Appeared)) && events.contains(&dirty("x/e/f", Hint::Closed)));
    let (root, own) = (disk.open_dir(&RelPath::root()).unwrap(), disk.own(Own::Trash).unwrap());
    disk.rename((&root, &name("x")), (&own, &name("t"))).unwrap();
    assert_eq!(disk.state().watches.len(), 1);
}

#[test]
fn a_torn_file_and_a_write_under_a_users_name_are_seen() {
    let (disk, world) = disk(1);
    let (root, own) = (disk.open_dir(&RelPath::root()).unwrap(), disk.own(Own::Stage).unwrap());
    let file = disk.create(&own, &name("s")).unwrap();
    disk.write_at(&file, 0, b"half").unwrap();
    disk.rename((&own, &name("s")), (&root, &name("a"))).unwrap();
    assert_eq!(world.violations().len(), 1);
    disk.write_at(&file, 4, b"whole").unwrap();
    assert_eq!(world.violations().len(), 2);
}

#[test]
fn sides_tell_what_they_could_not_set() {
    let world = World::new();
    let features =
        Features { no_chown: true, no_xattrs: true, drops_setgid: true, whole_seconds: true, ..Features::default() };
    let disk = ModelDisk::new(Side::Right, world, features, Choices::seeded(1));
    stage(&disk, "s", b"", true);
    let own = disk.own(Own::Stage).unwrap();
    let mut attrs = psync::model::Attrs {
        mode: 0o2755,
        user: psync::model::Principal::Name("bob".into()),
        group: psync::model::Principal::Name("alice".into()),
        mtime: psync::model::Time { secs: 5, nanos: 7 },
        xattrs: Default::default(),
    };
    attrs.xattrs.insert(b"user.tag"[..].into(), b"1"[..].into());
    let not_set = disk.set_attrs(&own, &name("s"), Kind::File, &attrs).unwrap();
    assert_eq!(not_set.what, ["owner", "xattr", "mode", "mtime"]);
    let stat = disk.stat(&own, &name("s")).unwrap();
    assert_eq!((stat.mode, stat.mtime.nanos), (0o755, 0));
}

#[test]
fn users_step_in_around_every_call() {
    let (disk, world) = disk(1);
    save(&disk, "a", "1");
    let (root, other) = (disk.open_dir(&RelPath::root()).unwrap(), disk.clone());
    let times = Rc::new(RefCell::new(0));
    let counter = times.clone();
    world.set_hook(Some(Rc::new(move |side| {
        assert_eq!(side, Some(Side::Left));
        *counter.borrow_mut() += 1;
        let _ = other.user_unlink(&path("a"));
    })));
    assert!(disk.stat(&root, &name("a")).is_err());
    assert_eq!(*times.borrow(), 2);
    world.set_hook(None);
}
