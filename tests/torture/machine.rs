//! Two machines on one: a file system, a boot id and psync's processes for each side.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Depth, PSYNC, process, snapshot, tools};

pub const SIDES: [&str; 2] = ["left", "right"];
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Lab {
    at: Option<tempfile::TempDir>,
    kind: &'static str,
    options: &'static str,
    /// How often each side was booted.
    boots: [u32; 2],
    images: [PathBuf; 2],
    brain: Option<Child>,
}

impl Lab {
    pub fn new(kind: &'static str, make: &[&str], options: &'static str, mebibytes: u64) -> Option<Lab> {
        let program = format!("mkfs.{kind}");
        if !tools::has(&program) {
            tools::missing(&program);
            return None;
        }
        let at = tempfile::Builder::new().prefix("psync-torture-").tempdir().unwrap();
        let images = SIDES.map(|side| at.path().join(format!("{side}.0.img")));
        for image in &images {
            fs::File::create(image).unwrap().set_len(mebibytes << 20).unwrap();
            tools::run(Path::new("/"), &program, &[make, &[image.to_str().unwrap()]].concat());
        }
        let lab = Lab { at: Some(at), kind, options, boots: [1; 2], images, brain: None };
        for side in 0..2 {
            fs::create_dir(lab.root(side)).unwrap();
            lab.boot(side);
            if !lab.mount(side) {
                return None;
            }
            let _ = fs::remove_dir(lab.root(side).join("lost+found"));
        }
        lab.write_scripts();
        Some(lab)
    }

    fn dir(&self) -> &Path {
        self.at.as_ref().unwrap().path()
    }

    fn root(&self, side: usize) -> PathBuf {
        self.dir().join(SIDES[side])
    }

    pub fn roots(&self) -> [PathBuf; 2] {
        [self.root(0), self.root(1)]
    }

    fn boot(&self, side: usize) {
        let file = self.dir().join(format!("boot-{}", SIDES[side]));
        fs::write(&file, format!("{:08x}-0000-4000-8000-00000000000{side}\n", self.boots[side])).unwrap();
    }

    fn mount(&self, side: usize) -> bool {
        let (image, root) = (&self.images[side], self.root(side));
        let mounted =
            Command::new("mount").args(["-t", self.kind, "-o", self.options]).args([image, &root]).output().unwrap();
        if !mounted.status.success() {
            tools::missing(&format!("a mount of {} ({})", self.kind, String::from_utf8_lossy(&mounted.stderr).trim()));
        }
        mounted.status.success()
    }

    /// psync as each side's machine runs it: with that machine's boot id.
    fn write_scripts(&self) {
        for side in SIDES {
            let boot = self.dir().join(format!("boot-{side}"));
            let script = self.dir().join(format!("on-{side}"));
            let text = format!(
                "#!/bin/sh\nexec unshare -m sh -c 'mount --bind {} /proc/sys/kernel/random/boot_id; exec {PSYNC} \"$@\"' psync \"$@\"\n",
                boot.display()
            );
            fs::write(&script, text).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    pub fn start(&mut self) {
        assert!(self.brain.is_none(), "it runs");
        let [left, right] = self.roots().map(|root| root.display().to_string());
        let agent =
            format!("exec {} --agent-mode --stdio --root {right} --log stderr", self.dir().join("on-right").display());
        let log = fs::File::options().create(true).append(true).open(self.dir().join("log")).unwrap();
        let mut brain = Command::new(self.dir().join("on-left"));
        brain.args(["--pair", "torture", "-d", "1", "--log", "stderr", "-r", "there"]);
        brain.args(["--proxy-command", &agent, &left, &right]);
        brain.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.brain = Some(brain.spawn().unwrap());
    }

    /// The processes of each side, by what they run.
    fn processes(&self) -> [Vec<i32>; 2] {
        let Some(brain) = &self.brain else { return Default::default() };
        let brain = brain.id() as i32;
        [vec![brain], process::children(brain)]
    }

    /// Waits until both trees are equal, and stay so.
    pub fn settle(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        // A save that the power cut short leaves the name that it writes to, which is temporary and stays where it is.
        let temporary = |path: &[u8]| path.ends_with(b".tmp");
        let both = |lab: &Lab| lab.roots().map(|root| snapshot(&root, Depth::Contents).without(temporary));
        let mut equal_since: Option<Instant> = None;
        loop {
            if let Ok(Some(status)) = self.brain.as_mut().unwrap().try_wait() {
                return Err(format!("psync ended with {status}"));
            }
            let [left, right] = both(self);
            match (left == right, equal_since) {
                (true, Some(since)) if since.elapsed() > Duration::from_millis(2500) => return Ok(()),
                (true, Some(_)) => {}
                (true, None) => equal_since = Some(Instant::now()),
                (false, _) => equal_since = None,
            }
            if Instant::now() > end {
                return Err(format!(
                    "the trees are not equal after {PATIENCE:?}:\n{}",
                    left.differences(&right, ("left", "right"))
                ));
            }
            std::thread::sleep(Duration::from_millis(150));
        }
    }

    /// psync is killed on these sides. The brain goes with the left one; the agent with either.
    pub fn kill(&mut self, sides: [bool; 2]) {
        let [brain, agent] = self.processes();
        let family: Vec<i32> = agent.iter().chain(brain.iter().filter(|_| sides[0])).copied().collect();
        process::kill_and_wait(&family);
        if !sides[0] {
            // It would call again: the next start is a new one, of both.
            process::kill_and_wait(&brain);
        }
        self.reap();
    }

    fn reap(&mut self) {
        if let Some(mut brain) = self.brain.take() {
            let _ = brain.wait();
        }
    }

    /// The power fails on these sides, this very moment: what has reached their images is all that is left.
    pub fn cut(&mut self, sides: [bool; 2], stopped: &dyn Fn()) {
        let [brain, agent] = self.processes();
        let family: Vec<i32> = brain.iter().chain(&agent).copied().collect();
        family.iter().for_each(|pid| process::send(*pid, Signal::SIGSTOP));
        stopped();
        for side in (0..2).filter(|side| sides[*side]) {
            self.boots[side] += 1;
            let copy = self.dir().join(format!("{}.{}.img", SIDES[side], self.boots[side]));
            copy_at_once(&self.images[side], &copy);
            self.images[side] = copy;
        }
        process::kill_and_wait(&family);
        self.reap();
        for side in (0..2).filter(|side| sides[*side]) {
            tools::run(Path::new("/"), "umount", &[self.root(side).to_str().unwrap()]);
            let numbered = |boot: u32| self.dir().join(format!("{}.{boot}.img", SIDES[side]));
            let old = Some(numbered(self.boots[side] - 1)).filter(|old| old.exists()).unwrap_or_else(|| numbered(0));
            wait_until_let_go(&old);
            fs::remove_file(&old).unwrap();
            self.boot(side);
            assert!(self.mount(side), "the copy of the {} cannot be mounted", SIDES[side]);
        }
    }

    pub fn stop(&mut self) {
        let [brain, _] = self.processes();
        brain.iter().for_each(|pid| process::send(*pid, Signal::SIGTERM));
        self.reap();
    }

    /// Leaves everything as it is, for people to look at.
    pub fn keep(&mut self) -> PathBuf {
        let family = self.processes().concat();
        process::kill_and_wait(&family);
        self.reap();
        self.at.take().unwrap().keep()
    }
}

/// Waits until nobody has the image mounted. Another process's mount namespace may hold it for a while longer, and XFS and btrfs
/// do not mount a second file system with the same name.
fn wait_until_let_go(image: &Path) {
    let end = Instant::now() + Duration::from_secs(300);
    while !tools::run(Path::new("/"), "losetup", &["-j", image.to_str().unwrap()]).trim().is_empty() {
        assert!(Instant::now() < end, "{} is mounted somewhere, still", image.display());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Copies an image as it is at one moment. The kernel goes on writing while it is copied; a copy that equals the image a
/// moment later is what the image was in between, since whatever was written during the copying would show.
fn copy_at_once(image: &Path, copy: &Path) {
    for _ in 0..50 {
        tools::run(Path::new("/"), "cp", &["--sparse=always", image.to_str().unwrap(), copy.to_str().unwrap()]);
        if Command::new("cmp").arg("-s").args([image, copy]).status().unwrap().success() {
            return;
        }
    }
    panic!("{} is always written to", image.display());
}

impl Drop for Lab {
    fn drop(&mut self) {
        let family = self.processes().concat();
        process::kill_and_wait(&family);
        self.reap();
        if self.at.is_some() {
            for root in self.roots() {
                let _ = Command::new("umount").arg("-l").arg(root).output();
            }
        }
    }
}
