//! What users do, as lists of system calls, and how a list is carried out step by step.

use psync::model::{Name, RelPath, Side, Sides, Time};

use crate::choice::Choices;
use crate::model_disk::{Body, Fd, ModelDisk, Opened};
use crate::sight;

/// One system call of a user's process; a process has at most one file open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Mkdir(RelPath),
    Open {
        path: RelPath,
        create: bool,
        truncate: bool,
    },
    WriteAt {
        offset: usize,
        bytes: Text,
    },
    Append(Text),
    SetLen(usize),
    /// The time of change is what it was before the file was opened.
    PutTimeBack,
    Close,
    Rename(RelPath, RelPath),
    Unlink(RelPath),
    Rmdir(RelPath),
    /// One object after the other, the deepest first.
    RemoveAll(RelPath),
    Chmod(RelPath, u32),
    Chown(RelPath, &'static str),
    Utimes(RelPath, Time),
    /// Of this name; an empty value takes it away.
    SetXattr(RelPath, &'static str, Text),
    SetCapability(RelPath),
    Symlink(RelPath, Text),
    Link(RelPath, RelPath),
    Mkfifo(RelPath),
    /// Goes on with the process's work only after so many moments.
    Sleep(u64),
    /// Goes on once this file has these contents; not at all, if there is nothing else left to happen.
    Await(RelPath, Text),
    /// psync's process on this side is killed, this very moment.
    Kill,
}

/// Bytes that people can read in a trace.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = String::from_utf8_lossy(&self.0[..self.0.len().min(12)]).into_owned();
        write!(f, "{shown:?}")?;
        if self.0.len() > 12 { write!(f, "+{}", self.0.len() - 12) } else { Ok(()) }
    }
}

/// A user's process: its calls, one every `pace` moments.
#[derive(Debug, Clone)]
pub struct Task {
    pub side: Side,
    pub pace: u64,
    pub calls: Vec<Call>,
}

/// A task under way.
#[derive(Debug)]
pub struct Running {
    task: Task,
    next: usize,
    due: u64,
    fd: Option<Fd>,
}

impl Running {
    pub fn new(task: Task, moment: u64) -> Running {
        Running { task, next: 0, due: moment, fd: None }
    }

    pub fn is_done(&self) -> bool {
        self.next >= self.task.calls.len()
    }

    /// Whether nothing is open any more either.
    pub fn is_over(&self) -> bool {
        self.is_done() && self.fd.is_none()
    }

    pub fn side(&self) -> Side {
        self.task.side
    }

    /// Does what is due; `hurry` leaves out the waiting. Returns whether anything was done.
    pub fn advance(&mut self, disks: &Sides<ModelDisk>, moment: u64, hurry: bool, trace: &mut Vec<String>) -> bool {
        let disk = &disks[self.task.side];
        let mut worked = false;
        while !self.is_done() && (hurry || self.due <= moment) {
            if let Some(fd) = self.fd
                && disk.user_is_waiting(fd)
                && !disk.user_opened(fd)
            {
                return worked;
            }
            let call = self.task.calls[self.next].clone();
            if let Call::Await(path, contents) = &call {
                let there = matches!(disk.user_body(path), Some(Body::File(found)) if found == contents.0);
                match (there, hurry) {
                    (true, _) => self.next += 1,
                    (false, false) => return worked,
                    // It will never be there.
                    (false, true) => self.next = self.task.calls.len(),
                }
                continue;
            }
            sight::agree(disks);
            let (done, told) = self.carry_out(disk, &call);
            sight::learn(disks, &call);
            if told {
                trace.push(format!("    {} user {call:?}", self.task.side.word()));
            }
            worked = true;
            self.due = moment + self.task.pace;
            if let Call::Sleep(moments) = call {
                self.due += moments;
            }
            if done {
                self.next += 1;
            }
        }
        // A process that ends closes what it has open.
        if self.is_done()
            && let Some(fd) = self.fd.take()
        {
            if disk.user_is_waiting(fd) && !disk.user_opened(fd) {
                self.fd = Some(fd);
                return worked;
            }
            disk.user_close(fd);
        }
        worked
    }

    /// Whether the call is over, and whether it did anything.
    fn carry_out(&mut self, disk: &ModelDisk, call: &Call) -> (bool, bool) {
        let result = match call {
            Call::Open { path, create, truncate } => {
                let opened = disk.user_open(path, *create, *truncate);
                self.fd = opened.as_ref().ok().map(|opened| match opened {
                    Opened::Now(fd) | Opened::Waits(fd) => *fd,
                });
                opened.map(drop)
            }
            Call::RemoveAll(path) => return (!remove_one(disk, path), true),
            Call::Mkdir(path) => disk.user_mkdir(path),
            Call::Rename(from, to) => disk.user_rename(from, to),
            Call::Unlink(path) => disk.user_unlink(path),
            Call::Rmdir(path) => disk.user_rmdir(path),
            Call::Chmod(path, mode) => disk.user_chmod(path, *mode),
            Call::Chown(path, user) => disk.user_chown(path, user),
            Call::Utimes(path, time) => disk.user_utimes(path, *time),
            Call::SetXattr(path, name, value) => disk.user_setxattr(path, name, &value.0),
            Call::SetCapability(path) => disk.user_setcap(path),
            Call::Symlink(path, target) => disk.user_symlink(path, &target.0),
            Call::Link(from, to) => disk.user_link(from, to),
            Call::Mkfifo(path) => disk.user_mkfifo(path),
            Call::Sleep(_) | Call::Await(..) => return (true, false),
            Call::Kill => {
                disk.state_mut().kill();
                Ok(())
            }
            Call::WriteAt { .. } | Call::Append(_) | Call::SetLen(_) | Call::PutTimeBack | Call::Close => {
                let Some(fd) = self.fd else { return (true, false) };
                match call {
                    Call::WriteAt { offset, bytes } => disk.user_write(fd, *offset, &bytes.0),
                    Call::Append(bytes) => disk.user_append(fd, &bytes.0),
                    Call::SetLen(size) => disk.user_set_len(fd, *size),
                    Call::PutTimeBack => disk.user_put_time_back(fd),
                    _ => {
                        disk.user_close(fd);
                        self.fd = None;
                    }
                }
                Ok(())
            }
        };
        (true, result.is_ok())
    }
}

/// Removes the first leaf at or below `path`; false if there was nothing.
fn remove_one(disk: &ModelDisk, path: &RelPath) -> bool {
    match disk.user_body(path) {
        Some(Body::Dir(names)) => match names.keys().next() {
            Some(name) => path.join(name).is_ok_and(|child| remove_one(disk, &child)),
            None => disk.user_rmdir(path).is_ok(),
        },
        Some(_) => disk.user_unlink(path).is_ok(),
        None => false,
    }
}

/// A name that begins like this one.
fn beside(path: &RelPath, suffix: &str) -> RelPath {
    RelPath::new(&[path.as_bytes(), suffix.as_bytes()].concat()).expect("a short name")
}

/// Makes tasks from choices.
pub struct Maker<'a> {
    pub choices: &'a Choices,
    /// The number of the next value; each is written once.
    pub value: &'a mut u64,
    /// Sizes that no other value has: where two unsynced files must not pass for the same by size and time.
    pub unique_sizes: bool,
    /// Work in this directory only.
    pub home: Option<RelPath>,
}

/// The model's ACLs: their values are anything, and the mode has nothing to do with them.
pub const DEFAULT_ACL: &str = "system.posix_acl_default";

const NAMES: [&str; 5] = ["a", "b", "c", "d.txt", "e"];
/// More of them, where many changes are on their way at the same time.
const MORE: [&str; 9] = ["a", "b", "c", "d.txt", "e", "f", "g", "h", "i"];

impl Maker<'_> {
    pub fn path(&self) -> RelPath {
        if let Some(home) = &self.home {
            let depth = *self.choices.pick(&[1, 1, 1, 1, 1, 1, 1, 2]);
            let names = (0..depth).map(|_| Name::new(self.choices.pick(&MORE[..]).as_bytes()).expect("a name"));
            return names.fold(home.clone(), |path, name| path.join(&name).expect("short names"));
        }
        let depth = *self.choices.pick(&[1, 1, 1, 2, 2, 3]);
        let names: Vec<&str> = (0..depth).map(|_| *self.choices.pick(&NAMES[..])).collect();
        RelPath::new(names.join("/").as_bytes()).expect("short names")
    }

    /// A value that nobody else writes; most are of one size, so that only contents tell them apart.
    pub fn value(&mut self) -> Text {
        *self.value += 1;
        let mut bytes = format!("<{:05}>", *self.value).into_bytes();
        if self.unique_sizes {
            bytes.resize(7 + *self.value as usize, b'u');
            return Text(bytes);
        }
        match self.choices.below(10) {
            0 | 1 => bytes.resize(7 + self.choices.below(30) as usize, b'x'),
            2 => bytes.resize(64 + self.choices.below(600) as usize, b'y'),
            _ => {}
        }
        Text(bytes)
    }

    pub fn write_calls(&mut self, path: &RelPath, truncate: bool) -> Vec<Call> {
        let bytes = self.value();
        let mut calls = vec![Call::Open { path: path.clone(), create: true, truncate }];
        if self.choices.one_in(4) {
            let half = bytes.0.len() / 2;
            calls.push(Call::WriteAt { offset: 0, bytes: Text(bytes.0[..half].to_vec()) });
            calls.push(Call::WriteAt { offset: half, bytes: Text(bytes.0[half..].to_vec()) });
        } else {
            calls.push(Call::WriteAt { offset: 0, bytes });
        }
        if self.choices.one_in(8) {
            calls.push(Call::Sleep(self.choices.below(400)));
        }
        // No matter of choice: what follows in the stream stays what it was.
        if self.value.is_multiple_of(5) {
            calls.push(Call::PutTimeBack);
        }
        calls.push(Call::Close);
        calls
    }

    fn parents(&self, path: &RelPath) -> Vec<Call> {
        let mut above: Vec<RelPath> = path.ancestors().filter(|dir| !dir.is_root()).collect();
        above.reverse();
        above.into_iter().map(Call::Mkdir).collect()
    }

    /// A file of one side's user under a name that nothing else has: his task, and the version that he saves.
    pub fn save(&mut self, side: Side, path: &RelPath) -> (Task, Text) {
        let version = self.value();
        let mut calls = Vec::new();
        let at = match self.choices.one_in(2) {
            true => path.clone(),
            false => beside(path, ".tmp"),
        };
        calls.push(Call::Open { path: at.clone(), create: true, truncate: true });
        calls.extend([Call::WriteAt { offset: 0, bytes: version.clone() }, Call::Close]);
        if at != *path {
            calls.push(Call::Rename(at, path.clone()));
        }
        (Task { side, pace: 0, calls }, version)
    }

    /// What the user of the other side does with a version the moment that it is there; then psync is killed.
    pub fn react(&mut self, side: Side, path: &RelPath, version: Text) -> Task {
        let mut calls = vec![Call::Await(path.clone(), version)];
        if self.choices.one_in(2) {
            calls.push(Call::Sleep(self.choices.below(6)));
        }
        match self.choices.below(6) {
            0 | 1 => calls.push(Call::Unlink(path.clone())),
            2 => calls.push(Call::Rename(path.clone(), beside(path, "-moved"))),
            3 => calls.extend([Call::Unlink(path.clone()), Call::Mkdir(path.clone())]),
            _ => calls.extend(self.save(side, path).0.calls),
        }
        if !self.choices.one_in(4) {
            calls.extend([Call::Sleep(self.choices.below(6)), Call::Kill]);
        }
        Task { side, pace: 0, calls }
    }

    /// One task of a user on a side.
    pub fn task(&mut self, side: Side) -> Task {
        let (path, other) = (self.path(), self.path());
        let mut calls = Vec::new();
        if self.choices.one_in(2) {
            calls.extend(self.parents(&path));
        }
        let hidden = |suffix: &str| {
            let text = String::from_utf8_lossy(path.as_bytes()).into_owned();
            RelPath::new(format!("{text}{suffix}").as_bytes()).expect("short names")
        };
        // Apart from each other they mostly write, save, rename and remove.
        let plain = self.home.is_some() && !self.choices.one_in(4);
        match if plain { *self.choices.pick(&[0, 0, 9, 9, 12, 18, 18]) } else { self.choices.below(30) } {
            0..=5 => calls.extend(self.write_calls(&path, true)),
            6 => calls.extend(self.write_calls(&path, false)),
            7 => {
                let bytes = self.value();
                calls.push(Call::Open { path, create: false, truncate: false });
                calls.extend([Call::Append(bytes), Call::Close]);
            }
            8 => {
                calls.push(Call::Open { path, create: false, truncate: false });
                calls.extend([Call::SetLen(self.choices.below(6) as usize), Call::Close]);
            }
            9 | 10 => {
                let temporary = hidden(".tmp");
                calls.extend(self.write_calls(&temporary, true));
                calls.push(Call::Rename(temporary, path));
            }
            11 => {
                let (new, backup) = (hidden(".new"), hidden("~"));
                // As office programs do it, or as vim does.
                let beside = self.value.is_multiple_of(2);
                let away = Call::Rename(path.clone(), backup.clone());
                let written = self.write_calls(if beside { &new } else { &path }, true);
                if beside {
                    calls.extend(written);
                    calls.extend([away, Call::Rename(new, path)]);
                } else {
                    calls.push(away);
                    calls.extend(written);
                }
                if self.value.is_multiple_of(3) {
                    calls.push(Call::Unlink(backup));
                }
            }
            12..=14 => calls.push(Call::Unlink(path)),
            15 => calls.push(Call::RemoveAll(path)),
            16 => calls.push(Call::Mkdir(path)),
            17 => calls.push(Call::Rmdir(path)),
            18..=20 => {
                if self.choices.one_in(2) {
                    calls.extend(self.parents(&other));
                }
                calls.push(Call::Rename(path, other));
            }
            21 => {
                let spare = hidden(".swap");
                calls.push(Call::Rename(path.clone(), spare.clone()));
                calls.extend([Call::Rename(other.clone(), path), Call::Rename(spare, other)]);
            }
            22 => calls.push(Call::Chmod(path, *self.choices.pick(&[0o600, 0o640, 0o755, 0o2755, 0o4711]))),
            23 => calls.push(Call::Chown(path, self.choices.pick::<&str>(&["alice", "bob", "carol"]))),
            24 => {
                let time = Time { secs: 1_600_000_000 + self.choices.below(5) as i64, nanos: 500 };
                calls.push(Call::Utimes(path, time));
            }
            25 => {
                let value = if self.choices.one_in(4) { Text(Vec::new()) } else { self.value() };
                // No matter of choice: what follows in the stream stays what it was.
                let name = ["user.tag", "user.other", DEFAULT_ACL][*self.value as usize % 3];
                calls.push(Call::SetXattr(path, name, value));
            }
            26 => {
                if self.choices.one_in(2) {
                    calls.push(Call::RemoveAll(path.clone()));
                }
                let target = self.value();
                calls.push(Call::Symlink(path, target));
            }
            27 => calls.extend([Call::Unlink(path.clone()), Call::Mkdir(path)]),
            28 => {
                // A file held open, written late.
                let (first, last) = (self.value(), self.value());
                calls.push(Call::Open { path, create: self.choices.one_in(2), truncate: false });
                calls.push(Call::Sleep(self.choices.below(600)));
                calls.push(Call::WriteAt { offset: 0, bytes: first });
                calls.push(Call::Sleep(self.choices.below(600)));
                calls.extend([Call::Append(last), Call::Close]);
            }
            _ if self.choices.one_in(3) => calls.push(Call::Mkfifo(path)),
            _ => calls.push(Call::Link(path, other)),
        }
        let pace = *self.choices.pick(&[0, 0, 1, 1, 3, 10, 40]);
        Task { side, pace, calls }
    }
}
