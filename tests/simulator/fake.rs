//! A synchroniser that copies the left to the right without a thought: right for users on the left alone, and
//! the oracle must catch it otherwise.

use std::rc::Rc;

use psync::model::{Attrs, Kind, Name, RelPath, Side, Time};
use psync::replica::disk::{Disk, Own};

use crate::driver::{Pair, Turn};
use crate::oracle::{Tree, View, common, tree};
use crate::plan::Stage;

pub struct Mirror {
    stage: Rc<Stage>,
    traffic: u64,
}

impl Mirror {
    pub fn new(stage: Rc<Stage>) -> Mirror {
        Mirror { stage, traffic: 0 }
    }

    /// Removes what the left does not have and what is of another kind, the deepest first; then copies.
    fn mirror(&self, left: &Tree, right: &Tree) -> std::io::Result<bool> {
        for (path, old) in right.iter().rev() {
            if left.get(path).is_none_or(|new| new.kind != old.kind) {
                self.remove(path)?;
                return Ok(true);
            }
        }
        for (path, new) in left {
            if new.kind.is_some() && !right.get(path).is_some_and(|old| self.equal(new, old)) {
                self.copy(path, new)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn equal(&self, a: &View, b: &View) -> bool {
        let states = self.stage.disks.as_ref().map(|disk| disk.state());
        let features = states.as_ref().map(|state| &state.features);
        common(a, features) == common(b, features)
    }

    fn remove(&self, path: &RelPath) -> std::io::Result<()> {
        let disk = self.stage.disks[Side::Right].current();
        let (above, name) = path.split().expect("not the root");
        let (dir, own) = (disk.open_dir(&above)?, disk.own(Own::Stage)?);
        let staged = Name::new(b"s").expect("a name");
        disk.rename((&dir, &name), (&own, &staged))?;
        disk.discard(&own, &staged)
    }

    fn copy(&self, path: &RelPath, new: &View) -> std::io::Result<()> {
        let disk = self.stage.disks[Side::Right].current();
        let (above, name) = path.split().expect("not the root");
        let (dir, own) = (disk.open_dir(&above)?, disk.own(Own::Stage)?);
        let staged = Name::new(b"s").expect("a name");
        let kind = new.kind.expect("no FIFO");
        let attrs = Attrs {
            mode: new.mode,
            user: new.owner.0.clone(),
            group: new.owner.1.clone(),
            mtime: if kind == Kind::File { new.mtime } else { Time::default() },
            xattrs: new.xattrs.clone(),
        };
        let exists = disk.stat(&dir, &name).is_ok();
        if exists && kind == Kind::Dir {
            let pin = disk.pin(&dir, &name)?;
            disk.stat_pin(&pin)?;
            let held = disk.pinned_xattrs(&pin, kind)?;
            return disk.set_pinned_attrs(&pin, kind, &attrs, &held).map(drop);
        }
        match kind {
            Kind::File => disk.write_at(&disk.create(&own, &staged)?, 0, &new.contents)?,
            Kind::Dir => disk.make_dir(&own, &staged)?,
            Kind::Link => disk.make_link(&own, &staged, &new.contents)?,
            Kind::Fifo => disk.make_fifo(&own, &staged)?,
        }
        disk.set_attrs(&own, &staged, kind, &attrs)?;
        if !exists {
            return disk.rename((&own, &staged), (&dir, &name));
        }
        disk.exchange((&own, &staged), (&dir, &name))?;
        disk.discard(&own, &staged)
    }
}

impl Pair for Mirror {
    fn keeps_names(&self) -> bool {
        false
    }

    fn keeps_dir_times(&self) -> bool {
        false
    }

    fn turn(&mut self) -> Turn {
        let (left, right) = self.stage.disks.as_ref().map(tree).split();
        self.stage.disks.values().for_each(|disk| disk.state_mut().events.clear());
        match self.mirror(&left, &right) {
            Ok(false) => Turn::Idle(None),
            Ok(true) | Err(_) => {
                self.traffic += 1;
                let disk = self.stage.disks[Side::Right].current();
                if let Ok(own) = disk.own(Own::Stage) {
                    let _ = disk.discard(&own, &Name::new(b"s").expect("a name"));
                }
                Turn::Worked
            }
        }
    }

    fn traffic(&self) -> u64 {
        self.traffic
    }
}
