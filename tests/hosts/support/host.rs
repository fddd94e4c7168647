//! One host: a tree above the base, and a systemd that runs in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cgroups::Groups;
use super::{PATIENCE, run, until};

pub struct Host {
    pub name: &'static str,
    /// Everything of this host on the machine.
    directory: PathBuf,
    namespace: String,
    groups: Groups,
    nspawn: Option<Child>,
    init: i32,
}

impl Host {
    /// A host that does not run yet. Its disk is a layer above the base; `/srv` is a directory of this machine, so
    /// that data lies on a real file system, and a driver outside works in it.
    pub fn new(name: &'static str, base: &Path, lab: &Path, namespace: &str) -> Host {
        let directory = lab.join(name);
        for part in ["disk", "upper", "work", "srv"] {
            fs::create_dir_all(directory.join(part)).unwrap();
        }
        let part = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let layers = format!("lowerdir={},upperdir={},workdir={}", base.display(), part("upper"), part("work"));
        run("mount", &["-t", "overlay", "psync-lab", "-o", &layers, &part("disk")]);
        let groups = Groups::make(namespace);
        let host = Host { name, directory, namespace: namespace.to_owned(), groups, nspawn: None, init: 0 };
        host.write("/etc/hostname", &format!("{name}\n"));
        host
    }

    /// Boots it, or boots it again.
    pub fn start(&mut self) {
        let console = File::options().create(true).append(true).open(self.directory.join("console")).unwrap();
        // The host is told to shut down when the thread that has started it ends, whatever becomes of that.
        let enter = "for group in $ENTRANCES; do echo $$ > $group; done 2> /dev/null; exec setpriv \"$@\"";
        let nspawn = Command::new("sh")
            .args(["-c", enter, "setpriv"])
            .env("ENTRANCES", self.groups.entrances())
            .args(["--pdeathsig", "TERM", "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"])
            .args(["--console=pipe", "--machine", self.name, "--directory"])
            .arg(self.directory.join("disk"))
            .arg(format!("--network-namespace-path=/run/netns/{}", self.namespace))
            .arg(format!("--bind={}:/srv", self.directory.join("srv").display()))
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap();
        self.nspawn = Some(nspawn);
    }

    pub fn wait_until_running(&mut self) {
        let state = self.wait_until_booted();
        assert_eq!(state, "running", "{}: {}", self.name, self.output("systemctl --failed").stdout);
    }

    /// Until it runs, even if some unit has failed; what systemd says of it.
    pub fn wait_until_booted(&mut self) -> String {
        let mut state = String::new();
        until(&format!("{} runs", self.name), || {
            let nspawn = self.nspawn.as_mut().expect("started");
            if let Some(status) = nspawn.try_wait().unwrap() {
                panic!("{} ended: {status}\n{}", self.name, self.last_words());
            }
            let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", nspawn.id())).unwrap_or_default();
            let Some(init) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) else { return false };
            self.init = init;
            state = self.output("systemctl is-system-running").stdout.trim().to_owned();
            state == "running" || state == "degraded"
        });
        state
    }

    /// Shuts it down in order, and boots it.
    pub fn reboot(&mut self) {
        self.shut_down();
        self.start();
        self.wait_until_running();
    }

    /// Shuts it down in order; it stays off.
    pub fn shut_down(&mut self) {
        self.output("systemctl poweroff");
        let mut nspawn = self.nspawn.take().expect("started");
        until(&format!("{} is off", self.name), || nspawn.try_wait().unwrap().is_some());
        self.init = 0;
    }

    /// Ends every process at once, and boots it.
    pub fn crash(&mut self) {
        self.stop();
        self.start();
        self.wait_until_running();
    }

    fn stop(&mut self) {
        let Some(mut nspawn) = self.nspawn.take() else { return };
        let init = format!("/proc/{}", self.init);
        if self.init != 0 {
            // All processes of its namespace go with it.
            let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
        }
        let end = Instant::now() + PATIENCE;
        while self.init != 0 && Path::new(&init).exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = nspawn.kill();
        let _ = nspawn.wait();
        self.init = 0;
    }

    /// Lets the host change the machine's kernel parameters, as one that is a machine of its own can.
    pub fn allow_sysctl(&self) {
        run("nsenter", &["-t", &self.init.to_string(), "-m", "mount", "-o", "remount,rw,bind", "/proc/sys"]);
    }

    /// Where a path of the host lies on this machine. What is in `/srv` may be written to while the host runs.
    pub fn path(&self, inside: &str) -> PathBuf {
        match inside.strip_prefix("/srv") {
            Some(below) => self.directory.join("srv").join(below.trim_start_matches('/')),
            None => self.directory.join("disk").join(inside.trim_start_matches('/')),
        }
    }

    /// Writes a file of the host.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Runs a script of the shell on the host; it must succeed. What it printed, without the last line's end.
    pub fn sh(&self, script: &str) -> String {
        let done = self.output(script);
        assert!(done.good, "{}: {script}\n{}{}", self.name, done.stdout, done.stderr);
        done.stdout.trim_end().to_owned()
    }

    /// Runs a script of the shell on the host, whatever comes of it.
    pub fn output(&self, script: &str) -> Done {
        let output = Command::new("timeout")
            .args(["-k", "5", "120", "nsenter"])
            .args(["-t", &self.init.to_string(), "--all", "env", "-i", "HOME=/root", "LC_ALL=C.UTF-8"])
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", &format!("cd /\n{script}")])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Done::of(output)
    }

    pub fn install(&self, package: &Path) -> String {
        fs::copy(package, self.path("/root/new.deb")).unwrap();
        self.sh("DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends /root/new.deb 2>&1")
    }

    /// The journal of a unit, oldest first.
    pub fn journal(&self, unit: &str) -> String {
        self.output(&format!("journalctl --sync; journalctl --no-pager -o short-precise -u '{unit}'")).stdout
    }

    /// A property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.sh(&format!("systemctl show --value --property={property} '{unit}'"))
    }

    /// The process id of a unit, as this machine knows it.
    pub fn pid_of(&self, unit: &str) -> i32 {
        let inside = self.show(unit, "MainPID");
        assert_ne!(inside, "0", "{unit} does not run");
        self.on_this_machine(&inside)
    }

    /// The id on this machine of a process that the host knows by that id.
    fn on_this_machine(&self, inside: &str) -> i32 {
        // The line of a process with the ids in all namespaces, the innermost last.
        let found = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let same = fs::read_link(entry.path().join("ns/pid")).ok()?;
            let ours = fs::read_link(format!("/proc/{}/ns/pid", self.init)).ok()?;
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let ids = status.lines().find(|l| l.starts_with("NSpid:"))?;
            (same == ours && ids.split_whitespace().last() == Some(inside)).then_some(pid)
        });
        found.unwrap_or_else(|| panic!("{}: process {inside} is gone", self.name))
    }

    /// Kills the one process of the host that this script finds the id of.
    pub fn kill_found(&self, script: &str) {
        let inside = self.sh(script);
        assert!(inside.parse::<u32>().is_ok(), "{}: `{script}` found {inside:?}", self.name);
        kill(Pid::from_raw(self.on_this_machine(&inside)), Signal::SIGKILL).unwrap();
    }

    pub fn kill(&self, unit: &str, signal: Signal) {
        kill(Pid::from_raw(self.pid_of(unit)), signal).unwrap();
    }

    /// For the report of a failure.
    pub fn last_words(&self) -> String {
        let console = fs::read_to_string(self.directory.join("console")).unwrap_or_default();
        let journal = match self.init {
            0 => String::new(),
            _ => self.output("systemctl --no-pager --failed; journalctl --no-pager -n 60 -o short-precise").stdout,
        };
        let end: Vec<&str> = console.lines().rev().take(5).collect();
        format!("console (last first): {end:?}\n{journal}")
    }
}

/// What came of a command.
pub struct Done {
    pub good: bool,
    /// What it ended with; -1 if a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    fn of(output: Output) -> Done {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done {
            good: output.status.success(),
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}: {}", self.name, self.last_words());
        }
        self.stop();
        let _ = Command::new("umount").arg(self.directory.join("disk")).status();
    }
}
