//! A control group for each host. Two systemds in one group would take each other's units for their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The groups of one host, one in each hierarchy of the machine.
pub struct Groups(Vec<PathBuf>);

impl Groups {
    pub fn make(name: &str) -> Groups {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let ours = fs::read_to_string("/proc/self/cgroup").unwrap();
        let groups = ours.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let mount = mounts.lines().find_map(|mount| {
                let words: Vec<&str> = mount.split(' ').collect();
                let ours = match words[2] {
                    "cgroup2" => controllers.is_empty(),
                    "cgroup" => {
                        !controllers.is_empty() && controllers.split(',').all(|c| words[3].split(',').any(|o| o == c))
                    }
                    _ => false,
                };
                ours.then(|| PathBuf::from(words[1]))
            })?;
            let group = mount.join(path.trim_start_matches('/')).join(name);
            fs::create_dir_all(&group).ok()?;
            Some(group)
        });
        Groups(groups.collect())
    }

    /// The files that take the process that is to become the host. Not all hierarchies take one.
    pub fn entrances(&self) -> String {
        let files: Vec<String> = self.0.iter().map(|group| group.join("cgroup.procs").display().to_string()).collect();
        files.join(" ")
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            remove(group);
        }
    }
}

fn remove(group: &Path) {
    // From below; what systemd has made in it is empty when the host is gone.
    let _ = Command::new("find").arg(group).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]).output();
}
