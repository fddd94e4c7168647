//! Displace: taking an object out of its name. Users work on meanwhile, so two small protocols stand behind all that does.
//!
//! **Hold, act, ask**: a file's writers are kept waiting from before the act until it is proven. If one came all the same, the
//! act is undone. **Move out, look, go on or put back**: only what lies where users cannot reach its name can be looked at for
//! good. What is not the object that was meant gets its name back.

use std::io;

use crate::model::{Generation, Kind, Name, RelPath};

use super::super::Replica;
use super::super::archive::{Archive, Signature};
use super::super::disk::{Disk, Lease, Leased, Own, Stat};
use super::super::error::{At, ReplicaError};
use super::super::spot::Spot;
use super::action::Stop;
use super::beside::Version;
use super::same_version;

/// A hold on a file that is to make way: whoever wants to write it waits. It ends when it is dropped, since a lease ends with its
/// file; [`Hold::end`] is a step of its own, after which writers have gone on.
#[must_use]
pub(crate) struct Hold<File> {
    /// `None`: nobody can write the object, or leases do not work here. Then the look after the act stands alone.
    file: Option<File>,
}

impl<File> Hold<File> {
    /// A hold on what nobody writes.
    pub fn none() -> Self {
        Hold { file: None }
    }

    /// The file, if there is a lease on it.
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Whether a writer has come meanwhile.
    pub fn is_broken<D: Disk<File = File>>(&self, disk: &D) -> bool {
        self.file.as_ref().is_some_and(|file| !disk.lease_holds(file, Lease::Read))
    }

    /// Lets writers go on.
    pub fn end<D: Disk<File = File>>(self, disk: &D) {
        if let Some(file) = &self.file {
            disk.release(file);
        }
    }
}

/// A place in the stage for what is moved out of its name.
pub(crate) struct Aside<Dir> {
    pub dir: Dir,
    pub name: Name,
}

impl<Dir> Aside<Dir> {
    pub fn place(&self) -> (&Dir, &Name) {
        (&self.dir, &self.name)
    }
}

/// An object of psync's own, in the stage, that is to have a name of users'.
pub(super) struct Ours<'a, D: Disk> {
    /// The only descriptor of a file.
    pub file: Option<&'a D::File>,
    pub place: (&'a D::Dir, &'a Name),
    pub stat: &'a Stat,
}

impl<D: Disk, A: Archive> Replica<D, A> {
    /// Holds on to a file that is to make way.
    pub(crate) fn hold(&self, at: Spot<D::Dir>, victim: &Stat) -> Result<Hold<D::File>, Stop> {
        match victim.kind {
            Some(Kind::File) => self.hold_opened(at.path, self.disk.open_file(at.dir, at.name), victim),
            _ => Ok(Hold::none()),
        }
    }

    /// The same for an object that is pinned.
    pub(crate) fn hold_pinned(&self, path: &RelPath, pin: &D::Pin, victim: &Stat) -> Result<Hold<D::File>, Stop> {
        match victim.kind {
            Some(Kind::File) => self.hold_opened(path, self.disk.open_pinned(pin), victim),
            _ => Ok(Hold::none()),
        }
    }

    fn hold_opened(&self, path: &RelPath, opened: io::Result<D::File>, victim: &Stat) -> Result<Hold<D::File>, Stop> {
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Stop::Refused),
            // Without the right to read it a lease cannot be had; the look after the act stands alone.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Hold::none()),
            other => other.at(path, "open what is to be replaced")?,
        };
        let leased = self.disk.lease(&file, Lease::Read).at(path, "lease")?;
        if leased == Leased::Refused {
            return Err(Stop::Busy);
        }
        let stat = self.disk.stat_file(&file).at(path, "stat")?;
        if Signature::of(&stat) != Signature::of(victim) {
            self.disk.release(&file);
            return Err(Stop::Refused);
        }
        Ok(Hold { file: (leased == Leased::Granted).then_some(file) })
    }

    /// Whether somebody has the file open for writing. A lease is taken to know that, and held until the file is released.
    pub(in crate::replica) fn has_writer(&self, file: &D::File, path: &RelPath) -> Result<bool, ReplicaError> {
        Ok(self.disk.lease(file, Lease::Read).at(path, "lease")? == Leased::Refused)
    }

    /// A free place in the stage for what an action moves out of its name.
    pub(in crate::replica) fn aside(
        &mut self,
        generation: Generation,
        path: &RelPath,
    ) -> Result<Aside<D::Dir>, ReplicaError> {
        let dir = self.disk.own(Own::Stage).at(path, "open the stage")?;
        let name = self.stage_name(generation)?;
        Ok(Aside { dir, name })
    }

    /// Moves an object out of its name.
    pub(in crate::replica) fn move_out(&self, at: Spot<D::Dir>, aside: &Aside<D::Dir>) -> io::Result<()> {
        self.keeping(&[at.dir], || self.disk.rename(at.place(), aside.place()))
    }

    /// Looks at what was moved out of its name, from where on users cannot reach it. What `meant` does not know, and what
    /// somebody has written meanwhile, gets its name back; else the answer is how it lies there.
    pub(in crate::replica) fn look_at_moved(
        &mut self,
        at: Spot<D::Dir>,
        (aside, hold): (&Aside<D::Dir>, Hold<D::File>),
        was: &Stat,
        meant: impl FnOnce(&mut Self, &Stat) -> Result<(), Stop>,
    ) -> Result<Stat, Stop> {
        let broken = hold.is_broken(&self.disk);
        let out = self.disk.stat(&aside.dir, &aside.name).at(at.path, "stat what was removed");
        let looked = out.map_err(Stop::from).and_then(|out| match meant(self, &out) {
            Err(Stop::Failed(error)) => Err(Stop::Failed(error)),
            verdict => Ok((out, verdict)),
        });
        let (out, verdict) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                // Else it would pass for gone, and whatever users make there for the object.
                if self.put_back(aside.place(), at, was).is_ok() {
                    self.agenda.look_and_scan(at.path);
                }
                return Err(error);
            }
        };
        let verdict = if broken { Err(Stop::Busy) } else { verdict };
        if verdict.is_err() {
            self.put_back(aside.place(), at, &out)?;
        }
        hold.end(&self.disk);
        verdict.map(|()| out)
    }

    /// Gives an object its name back; if that is taken meanwhile, a name beside it.
    pub(in crate::replica) fn put_back(
        &mut self,
        object: (&D::Dir, &Name),
        at: Spot<D::Dir>,
        stat: &Stat,
    ) -> Result<(), ReplicaError> {
        match self.keeping(&[at.dir], || self.disk.rename(object, at.place())) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.keep_beside(object, at.path, Version::of(stat, "deleted")).map(drop)
            }
            other => other.at(at.path, "put back"),
        }
    }

    /// Exchanges an object of psync's own with the victim, and back if what came out is not the victim as it was.
    pub(super) fn swap(&mut self, at: Spot<D::Dir>, ours: &Ours<D>, victim: &Stat) -> Result<(), Stop> {
        let hold = self.hold(at, victim)?;
        let victim = &self.bare(at, victim).ok_or(Stop::Refused)?;
        let exchanged = self.keeping(&[at.dir], || match ours.file {
            Some(file) => self.disk.exchange_open(file, ours.place, at.place()),
            None => self.disk.exchange(ours.place, at.place()),
        });
        match exchanged {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Stop::Refused),
            other => other.at(at.path, "exchange")?,
        }
        self.stage.kept.show(ours.stat.mtime);
        let broken = hold.is_broken(&self.disk);
        let out = self.disk.stat(ours.place.0, ours.place.1).at(at.path, "stat the displaced object");
        if !broken && out.as_ref().is_ok_and(|out| same_version(victim, out)) {
            hold.end(&self.disk);
            return Ok(());
        }
        // What cannot be verified is taken back as well.
        self.keeping(&[at.dir], || self.disk.exchange(ours.place, at.place())).at(at.path, "exchange back")?;
        hold.end(&self.disk);
        self.keep_stranger(at.path, ours)?;
        out?;
        Err(if broken { Stop::Busy } else { Stop::Refused })
    }

    /// The stat that an object will have once it is out of its name: a link that stood for a file is a link then. `None`: it
    /// is another object by now.
    pub(in crate::replica) fn bare(&self, at: Spot<D::Dir>, shown: &Stat) -> Option<Stat> {
        match self.disk.followed(at.dir, at.name) {
            None => Some(*shown),
            Some(link) => ((link.ino, link.btime) == (shown.ino, shown.btime)).then_some(link),
        }
    }

    /// After an exchange back the stage must hold our object again. If a user replaced it in between, his object is
    /// there now, and what he had replaced is back under the name: his goes beside it.
    fn keep_stranger(&mut self, path: &RelPath, ours: &Ours<D>) -> Result<(), ReplicaError> {
        let stat = self.disk.stat(ours.place.0, ours.place.1).at(path, "stat the staged object")?;
        if (stat.ino, stat.btime) == (ours.stat.ino, ours.stat.btime) {
            return Ok(());
        }
        self.keep_beside(ours.place, path, Version::of(&stat, "replaced")).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::filter::Filter;
    use crate::model::Time;
    use crate::replica::memory::MemoryArchive;
    use crate::replica::real::{NoCover, RealDisk};

    /// What a user does between two steps.
    type Deed = fn(&Path);

    const NOTHING: Deed = |_| {};
    const WRITES: Deed = |path| {
        let opened = fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path);
        assert_eq!(opened.map(drop).expect_err("held").kind(), io::ErrorKind::WouldBlock);
    };
    const MAKES: Deed = |path| fs::write(path, "another").expect("a file");

    #[test]
    fn what_is_moved_out_goes_on_or_gets_its_name_back() {
        // Before it is moved out; after that; whether it is the one that is meant; whether it goes on; what lies in the root then.
        let cases: [(Deed, Deed, bool, &str, &[&str]); 5] = [
            (NOTHING, NOTHING, true, "goes on", &[]),
            (NOTHING, NOTHING, false, "refused", &["file: mine"]),
            (WRITES, NOTHING, true, "busy", &["file: mine"]),
            (NOTHING, MAKES, true, "goes on", &["file: another"]),
            (NOTHING, MAKES, false, "refused", &["file.sync-conflict: mine", "file: another"]),
        ];
        for (before, after, meant, end, left) in cases {
            let top = tempfile::tempdir().expect("a directory");
            let disk = RealDisk::open(top.path(), "pair", Arc::new(NoCover)).expect("a disk");
            let archive = MemoryArchive::new([1; 16], (0, Time::default()));
            let filter = Filter::new(&Default::default()).expect("a filter");
            let mut replica = Replica::new(disk, archive, filter, Default::default());
            let file = top.path().join("file");
            fs::write(&file, "mine").expect("a file");
            let (path, name) = (RelPath::new(b"file").expect("a path"), Name::new(b"file").expect("a name"));
            let root = replica.disk.open_dir(&RelPath::root()).expect("the root");
            let at = Spot::new(&root, &name, &path);
            let stat = replica.disk.stat(at.dir, at.name).expect("a stat");

            let hold = replica.hold(at, &stat).expect("a hold");
            before(&file);
            let aside = replica.aside(7, &path).expect("a place");
            replica.move_out(at, &aside).expect("a rename");
            after(&file);
            let verdict = || if meant { Ok(()) } else { Err(Stop::Refused) };
            let looked = match replica.look_at_moved(at, (&aside, hold), &stat, |_, _| verdict()) {
                Ok(out) => (out.ino == stat.ino).then_some("goes on").expect("the file"),
                Err(Stop::Refused) => "refused",
                Err(Stop::Busy) => "busy",
                Err(other) => panic!("{other:?}"),
            };
            let staged = replica.disk.stat(&aside.dir, &aside.name).is_ok();
            let mut found: Vec<String> = Vec::new();
            for entry in fs::read_dir(top.path()).expect("a list").flatten().filter(|e| e.file_name() != ".psync") {
                let text = fs::read_to_string(entry.path()).expect("a file");
                let name = entry.file_name().into_string().expect("a name");
                found.push(format!("{}: {text}", if name == "file" { "file" } else { "file.sync-conflict" }));
            }
            found.sort();
            assert_eq!((looked, staged, found), (end, end == "goes on", left.iter().map(|s| s.to_string()).collect()));
        }
    }
}
