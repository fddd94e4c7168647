//! Both roots are served by Samba, and people save through it on both sides.

use std::fs;
use std::path::Path;
use std::thread;

use crate::support::web::{in_sync, web};
use crate::support::{Host, Lab, until};

/// With `kernel oplocks` smbd takes leases on the files that its clients have open, as psync does; without them it
/// gives leases of its own to them.
fn serve(host: &Host, kernel_oplocks: bool) {
    let yes = if kernel_oplocks { "yes" } else { "no" };
    host.write(
        "/etc/samba/smb.conf",
        &format!(
            "[global]\nmap to guest = Bad User\nguest account = root\nserver role = standalone server\n\
             load printers = no\ndisable spoolss = yes\n\
             [web]\npath = /srv/web\nguest ok = yes\nread only = no\nforce user = root\n\
             veto files = /.psync/\nkernel oplocks = {yes}\noplocks = yes\nlevel2 oplocks = yes\nsmb2 leases = yes\n"
        ),
    );
    host.sh("systemctl restart smbd");
    until("smbd answers", || host.output("smbclient -N //localhost/web -c ls").good);
}

const DOCUMENTS: u32 = 30;

/// What one user does on one side: saves new documents, saves them again, as programs save (in place, and by a new file that
/// takes the old one's name), renames some and deletes some; and again and again a document that the other side
/// saves as well.
fn work(host: &Host, round: u32) {
    let own = format!("{}{round}", host.name);
    let mut commands = vec![format!("mkdir {own}"), format!("cd {own}")];
    for n in 0..DOCUMENTS {
        commands.push(format!("put /root/{own}-first d{n}"));
        commands.push(format!("put /root/{own}-second d{n}"));
        match n % 3 {
            0 => commands.push(format!("rename d{n} moved{n}")),
            1 => commands.push(format!("del d{n}")),
            _ => commands.push(format!("put /root/{own}-third ~d{n}.tmp; del d{n}; rename ~d{n}.tmp d{n}")),
        }
        if n % 5 == 0 {
            commands.push(format!("put /root/{own}-shared ..\\shared{round}"));
        }
    }
    for version in ["first", "second", "third", "shared"] {
        // Longer than what fits into one message, and of different lengths.
        let text = format!("{own} {version}\n").repeat(if version == "second" { 9_000 } else { 300 });
        host.write(&format!("/root/{own}-{version}"), &text);
    }
    let done = host.output(&format!("smbclient -N //localhost/web -c '{}' 2>&1", commands.join("; ")));
    assert!(done.good && !done.stdout.contains("NT_STATUS"), "{}: {}", host.name, done.stdout);
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn check(lab: &Lab, round: u32) {
    in_sync(lab);
    let version = |host: &Host, which: &str| {
        fs::read_to_string(host.path(&format!("/root/{}{round}-{which}", host.name))).unwrap()
    };
    for owner in lab.hosts() {
        let mut want: Vec<String> = (0..DOCUMENTS)
            .filter(|n| n % 3 != 1)
            .map(|n| if n % 3 == 0 { format!("moved{n}") } else { format!("d{n}") })
            .collect();
        want.sort();
        let (second, third) = (version(owner, "second"), version(owner, "third"));
        for host in lab.hosts() {
            let directory = host.path(&format!("/srv/web/{}{round}", owner.name));
            until(&format!("{} of the {} is on the {}", directory.display(), owner.name, host.name), || {
                directory.exists() && names(&directory) == want
            });
            for name in &want {
                let text = fs::read_to_string(directory.join(name)).unwrap();
                assert!(text == if name.starts_with('m') { &*second } else { &*third }, "{name} on the {}", host.name);
            }
        }
    }
    // The one that both saved is the same on both sides, and each side's version is there: under its name, as a conflict
    // copy, or, if the other side had it before its user saved, in the trash.
    let shared = |host: &Host| -> Vec<(String, String)> {
        let root = host.path("/srv/web");
        let shared = names(&root).into_iter().filter(|name| name.starts_with(&format!("shared{round}")));
        shared.map(|name| (name.clone(), fs::read_to_string(root.join(name)).unwrap())).collect()
    };
    until("the shared document is the same on both sides", || shared(&lab.left) == shared(&lab.right));
    let kept = |host: &Host| -> Vec<String> {
        let trash = host.path("/srv/web/.psync/web/trash");
        names(&trash).into_iter().filter_map(|name| fs::read_to_string(trash.join(name)).ok()).collect()
    };
    let kept: Vec<String> = lab.hosts().into_iter().flat_map(kept).collect();
    for host in lab.hosts() {
        let (last, there) = (version(host, "shared"), shared(&lab.left));
        let found = there.iter().any(|(_, text)| *text == last) || kept.contains(&last);
        assert!(
            found,
            "the {}'s version is lost: {:?}",
            host.name,
            there.iter().map(|(name, _)| name).collect::<Vec<_>>()
        );
    }
}

#[test]
fn saves_through_samba_on_both_sides() {
    let Some(lab) = web("tempfiles = '\\.tmp$'") else { return };
    for (round, kernel_oplocks) in [false, true].into_iter().enumerate() {
        lab.hosts().into_iter().for_each(|host| serve(host, kernel_oplocks));
        thread::scope(|scope| {
            for host in lab.hosts() {
                scope.spawn(move || work(host, round as u32));
            }
        });
        check(&lab, round as u32);
    }
    // Nothing is left over: what psync makes on its way, or smbd.
    lab.left.sh("systemctl stop psync-brain@web");
    for host in lab.hosts() {
        let stage = host.path("/srv/web/.psync/web/stage");
        assert_eq!(names(&stage), [""; 0], "on the {}", host.name);
        let listed =
            host.sh("cd /srv/web; find . -name .psync -prune -o -type f -print | grep -v ' (conflict ' | sort");
        let odd: Vec<&str> = listed.lines().filter(|name| name.contains('~') || name.contains("psync")).collect();
        assert!(odd.is_empty(), "{odd:?}");
    }
}

/// A share that keeps DOS attributes, and streams where this Samba can.
fn serve_attributes(host: &Host) -> bool {
    let streams = host.output("ls /usr/lib/*/samba/vfs/streams_xattr.so").good;
    let objects = if streams { "vfs objects = streams_xattr\n" } else { "" };
    host.write(
        "/etc/samba/smb.conf",
        &format!(
            "[global]\nmap to guest = Bad User\nguest account = root\nserver role = standalone server\n\
             load printers = no\ndisable spoolss = yes\n\
             [web]\npath = /srv/web\nguest ok = yes\nread only = no\nforce user = root\nveto files = /.psync/\n\
             store dos attributes = yes\nmap archive = no\nmap hidden = no\nmap system = no\nmap readonly = no\n\
             ea support = yes\n{objects}"
        ),
    );
    host.sh("systemctl restart smbd");
    until("smbd answers", || host.output("smbclient -N //localhost/web -c ls").good);
    streams
}

fn smb(host: &Host, commands: &str) -> String {
    let done = host.output(&format!("cd /root; smbclient -N //localhost/web -c '{commands}' 2>&1"));
    assert!(done.good && !done.stdout.contains("NT_STATUS"), "{} {commands}: {}", host.name, done.stdout);
    done.stdout
}

/// What Samba says of a file: its attributes, when it was made, and its streams.
fn told(host: &Host, name: &str) -> Vec<String> {
    let done = host.output(&format!("smbclient -N //localhost/web -c 'allinfo {name}' 2>&1"));
    let keeps = |line: &&str| ["attributes:", "create_time:", "stream:"].iter().any(|word| line.starts_with(word));
    done.stdout.lines().filter(keeps).map(str::to_owned).collect()
}

#[test]
fn dos_attributes_and_streams_arrive_both_ways() {
    let Some(lab) = web("tempfiles = '\\.tmp$'") else { return };
    let streams = lab.hosts().map(serve_attributes) == [true; 2];
    for (from, to) in [(&lab.left, &lab.right), (&lab.right, &lab.left)] {
        for name in [format!("document-{}", from.name), format!("folder-{}", from.name)] {
            from.write("/root/document", "a document\n");
            from.write("/root/notes", "in a stream\n");
            match name.starts_with("folder") {
                true => smb(from, &format!("mkdir {name}; put document {name}\\inside")),
                false => smb(from, &format!("put document {name}")),
            };
            if streams && name.starts_with("document") {
                smb(from, &format!("put notes {name}:notes"));
            }
            smb(from, &format!("setmode {name} +hra"));
            let (flags, wanted) = (
                |told: &[String]| told.iter().find(|line| line.starts_with("attributes:")).cloned(),
                told(from, &name),
            );
            let letters = flags(&wanted).unwrap_or_default();
            assert!(letters.contains('H') && letters.contains('R') && letters.contains('A'), "{name}: {wanted:?}");
            until(&format!("{name} has its attributes on the {}: {wanted:?}", to.name), || told(to, &name) == wanted);
            // Changed where it came to.
            smb(to, &format!("setmode {name} -hr+s"));
            let wanted = told(to, &name);
            let letters = flags(&wanted).unwrap_or_default();
            assert!(letters.contains('S') && !letters.contains('H'), "{name}: {wanted:?}");
            until(&format!("{name} has them on the {}: {wanted:?}", from.name), || told(from, &name) == wanted);
            if streams && name.starts_with("document") {
                smb(to, &format!("get {name}:notes got"));
                assert_eq!(fs::read_to_string(to.path("/root/got")).unwrap(), "in a stream\n");
                to.write("/root/notes", "another text in the stream\n");
                smb(to, &format!("put notes {name}:notes"));
                until(&format!("the stream of {name} is on the {}", from.name), || {
                    smb(from, &format!("get {name}:notes got"));
                    fs::read_to_string(from.path("/root/got")).unwrap() == "another text in the stream\n"
                });
            }
        }
    }
    in_sync(&lab);
    // A day later nothing of that is a difference.
    let check = lab.left.output("psync check web -c --all");
    assert!(check.good, "{}", check.stdout);
    println!("streams: {streams}");
}
