//! Two hosts with users of other numbers, as grown ones have: `owner` in its three ways, ACLs included.

use std::fs;

use crate::support::web::{AGENT, BRAIN, arrives, configure, in_sync, web, write};
use crate::support::{Host, Lab, until};

/// Of users (and groups of the same names) that are on both hosts, on the left or on the right only.
const ANNA: [u32; 2] = [3001, 4001];
const BERT: [u32; 2] = [3002, 3001];
const CARLA: u32 = 3003;
const DORA: u32 = 3004;
/// A number that is somebody on neither.
const NOBODY: u32 = 3999;

fn add_user(host: &Host, name: &str, number: u32) {
    host.sh(&format!("groupadd -g {number} {name}; useradd -M -u {number} -g {number} {name}"));
}

/// Owner and group of a file, by number.
fn owner(host: &Host, name: &str) -> String {
    host.output(&format!("stat -c '%u:%g' '/srv/web/{name}'")).stdout.trim().to_owned()
}

fn belongs(host: &Host, name: &str, number: u32) {
    let want = format!("{number}:{number}");
    until(&format!("{name} belongs to {want} on the {}, not to {}", host.name, owner(host, name)), || {
        owner(host, name) == want
    });
}

/// The users that a file's ACL names, by number, with what they may.
fn listed(host: &Host, name: &str) -> Vec<String> {
    let text = host.output(&format!("getfacl -n -p '/srv/web/{name}' | grep '^user:[0-9]'")).stdout;
    text.lines().map(str::to_owned).collect()
}

/// A file with its owner and contents, made at once.
fn make(host: &Host, name: &str, number: u32) {
    host.sh(&format!(
        "cd /srv/web; echo {name} > .{name}.tmp; chown {number}:{number} .{name}.tmp; mv .{name}.tmp {name}"
    ));
}

#[test]
fn hosts_with_other_numbers_of_users() {
    let Some(lab) = web("") else { return };
    for (side, host) in lab.hosts().into_iter().enumerate() {
        add_user(host, "anna", ANNA[side]);
        add_user(host, "bert", BERT[side]);
    }
    add_user(&lab.left, "carla", CARLA);
    // The left's number of dora is erik's on the right.
    add_user(&lab.left, "dora", DORA);
    add_user(&lab.right, "erik", DORA);
    by_name(&lab);
    acls_by_name(&lab);
    what_has_no_name_there_comes_back_unharmed(&lab);
    by_number(&lab);
    not_at_all(&lab);
}

fn by_name(lab: &Lab) {
    let (left, right) = (&lab.left, &lab.right);
    make(left, "annas", ANNA[0]);
    make(left, "berts", BERT[0]);
    make(left, "carlas", CARLA);
    make(left, "nobodys", NOBODY);
    belongs(right, "annas", ANNA[1]);
    // bert's number there is anna's here: by number the two would have changed places.
    belongs(right, "berts", BERT[1]);
    // A name that is unknown there has its number, which is nobody's there.
    belongs(right, "carlas", CARLA);
    belongs(right, "nobodys", NOBODY);
    make(left, "doras", DORA);
    arrives(right, "doras", "doras\n");
    in_sync(lab);
    assert_eq!(owner(right, "doras"), "0:0", "it was given to whoever has the number");
    assert_eq!(owner(left, "doras"), format!("{DORA}:{DORA}"));

    // The other way round.
    make(right, "annas-too", ANNA[1]);
    belongs(left, "annas-too", ANNA[0]);
    right.sh("chown bert /srv/web/annas-too; mkdir /srv/web/dir; chown anna:bert /srv/web/dir");
    until("a change of owner arrives", || owner(left, "annas-too") == format!("{}:{}", BERT[0], ANNA[0]));
    until("a directory's owner arrives", || owner(left, "dir") == format!("{}:{}", ANNA[0], BERT[0]));
}

fn acls_by_name(lab: &Lab) {
    let (left, right) = (&lab.left, &lab.right);
    left.sh("cd /srv/web; setfacl -m u:anna:rw,u:bert:r,u:carla:rwx annas");
    let want = |side: usize| {
        let mut lines = vec![
            (ANNA[side], format!("user:{}:rw-", ANNA[side])),
            (BERT[side], format!("user:{}:r--", BERT[side])),
            (CARLA, format!("user:{CARLA}:rwx")),
        ];
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>()
    };
    assert_eq!(listed(left, "annas"), want(0));
    until("the ACL arrives", || listed(right, "annas") == want(1));
    // A directory's default is for what is made in it, on either side.
    left.sh("mkdir /srv/web/shared; setfacl -d -m u:bert:rwx /srv/web/shared");
    until("the directory is there", || right.path("/srv/web/shared").exists());
    in_sync(lab);
    make_in(right, "shared/from-right");
    until("what is made on the right is bert's on both", || {
        let named = |side: usize, host: &Host| {
            listed(host, "shared/from-right").iter().any(|line| line.starts_with(&format!("user:{}:", BERT[side])))
        };
        named(0, left) && named(1, right)
    });
}

fn make_in(host: &Host, name: &str) {
    write(host, name, "x");
}

fn what_has_no_name_there_comes_back_unharmed(lab: &Lab) {
    let (left, right) = (&lab.left, &lab.right);
    for (name, number) in [("carlas", CARLA), ("doras", DORA), ("nobodys", NOBODY)] {
        right.sh(&format!("echo edited >> /srv/web/{name}"));
        arrives(left, name, &format!("{name}\nedited\n"));
        assert_eq!(owner(left, name), format!("{number}:{number}"), "{name}: an edit took its owner");
    }
    // Saved by way of another file, as editors do, it belongs to who has saved it.
    right.sh("cd /srv/web; echo saved > .s.tmp; chown anna:anna .s.tmp; mv .s.tmp carlas");
    arrives(left, "carlas", "saved\n");
    belongs(left, "carlas", ANNA[0]);
    // A restart and a full sync change no owner.
    let before = left.sh("cd /srv/web; stat -c '%n %u:%g' *");
    left.sh(&format!("systemctl restart {BRAIN}"));
    in_sync(lab);
    left.sh("psync fullsync web");
    assert_eq!(left.sh("cd /srv/web; stat -c '%n %u:%g' *"), before);
    assert_eq!(owner(right, "doras"), "0:0");
}

/// Both hosts have the file, and read it again.
fn set(lab: &Lab, how: &str) {
    for (host, unit) in [(&lab.right, AGENT), (&lab.left, BRAIN)] {
        configure(host, &format!("owner = \"{how}\""));
        host.sh(&format!("systemctl restart {unit}"));
    }
    in_sync(lab);
}

fn by_number(lab: &Lab) {
    let (left, right) = (&lab.left, &lab.right);
    // Not all: that would be a halt.
    left.sh("cd /srv/web; echo > keep; rm -r annas* berts carlas doras nobodys dir shared");
    in_sync(lab);
    set(lab, "numeric");
    make(left, "annas", ANNA[0]);
    make(left, "doras", DORA);
    belongs(right, "annas", ANNA[0]);
    belongs(right, "doras", DORA);
    make(right, "annas-too", ANNA[1]);
    belongs(left, "annas-too", ANNA[1]);
    left.sh(&format!("setfacl -m u:{}:rw /srv/web/annas", BERT[0]));
    until("the ACL arrives", || listed(right, "annas") == [format!("user:{}:rw-", BERT[0])]);
}

fn not_at_all(lab: &Lab) {
    let (left, right) = (&lab.left, &lab.right);
    set(lab, "ignore");
    right.sh("mkdir /srv/web/dir; chown erik:erik /srv/web/dir");
    until("the directory is there", || left.path("/srv/web/dir").exists());
    in_sync(lab);
    left.sh("chown anna:anna /srv/web/dir");
    // What is new belongs to whom its directory belongs, what is replaced to whom it belonged.
    left.sh("echo new > /srv/web/dir/new; chown bert:bert /srv/web/dir/new; echo more >> /srv/web/doras; chown root /srv/web/doras");
    arrives(right, "dir/new", "new\n");
    arrives(right, "doras", "doras\nmore\n");
    in_sync(lab);
    assert_eq!(owner(right, "dir/new"), format!("{DORA}:{DORA}"));
    assert_eq!(owner(right, "dir"), format!("{DORA}:{DORA}"));
    assert_eq!(owner(right, "doras"), format!("{DORA}:{DORA}"));
    assert_eq!(fs::read_to_string(left.path("/srv/web/dir/new")).unwrap(), "new\n");
}
