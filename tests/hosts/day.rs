//! A day of a pair that was the original's before: set up from its `config.py`, started on two trees that differ, worked on
//! from both sides, checked, gone apart where nobody looked, and put right again.

use std::collections::BTreeMap;
use std::fs;

use crate::support::web::{AGENT, BRAIN, arrives, in_sync, number, vanishes, web_after, write};
use crate::support::{Host, Lab, until};

/// As the original's administrator left it.
const CONFIG_PY: &str = r#"
# psync settings
import os
safesuffix = ".psync.ignore"
debug = 1
event_interval = 1
force = 0
dryrun = False
first_sync_only = False
skip_initial_sync = False
banned = None
translate = ""
rsync_excludes = []
rsync_extra = []
inotify_extra = ["-E", "cache"]
tempfiles = "\.tmp$" + "|" + "\.~tmp~" + "|" + "/~\$"
excludes = r"/Thumbs\.db$"
separator = ":"
fullsync = [1, 13]
pending_lifetime = 60
pending_events = []
ssh_options = ["-i", "/etc/psync/ssh/web", "-o", "UserKnownHostsFile=/var/lib/psync/known_hosts"]
rsync_event_recurse = False
alert_threshold = 10
rsync_style = 2
acl_from_left_only = True
timeout = 60
itimeout = timeout*5
etimeout = timeout*0.75
maxtimeout = 900
"#;

#[test]
fn a_day_of_a_pair_that_was_the_originals() {
    let Some(lab) = web_after(|host| {
        the_originals_file_becomes_the_pairs(host);
        the_two_trees_differ(host);
    }) else {
        return;
    };
    the_first_sync_has_made_one_tree_of_two(&lab);
    people_work_on_both_sides(&lab);
    the_checks_find_nothing(&lab);
    a_check_tells_of_what_nobody_saw(&lab);
    a_full_sync_puts_it_right(&lab);
    what_looks_equal_and_is_not_is_found(&lab);
    the_evening(&lab);
}

fn the_originals_file_becomes_the_pairs(host: &Host) {
    host.write("/root/config.py", CONFIG_PY);
    // 0: there is no line that somebody has to look at.
    let told = host.sh("psync config import /root/config.py 2>&1 > /etc/psync/web.toml");
    assert!(told.contains("etimeout") && told.contains("pending_lifetime"), "{told}");
    // What the original got on its command line, and what it did not have.
    host.sh(r#"cd /etc/psync
        sed -i 's|^root = ""|root = "/srv/web"|; s|^# host = ""|host = "files2"\nuser = "psync"|' web.toml
        sed -i '1i alert_command = "cat >> /srv/alert"' web.toml
        psync config check web.toml
        systemctl daemon-reload"#);
    let hours = host.show("psync-fullsync@web.timer", "TimersCalendar");
    assert!(hours.contains("*-*-* 01:00:00") && hours.contains("*-*-* 13:00:00"), "{hours}");
}

fn the_two_trees_differ(host: &Host) {
    host.sh("mkdir -p /srv/web/shared /srv/web/cache /srv/web/archive; cd /srv/web; echo index > cache/index");
    host.sh("cd /srv/web; echo 'the same' > shared/same; touch -d '2020-02-02 02:02:02' shared/same cache/index");
    if host.name == "left" {
        host.sh("cd /srv/web; mkdir -p letters/2019; echo 'Dear Sir' > letters/2019/first; echo old > shared/report");
        host.sh("cd /srv/web; touch -d '2020-01-01' shared/report; printf 'what left has' > archive/alike");
    } else {
        host.sh("cd /srv/web; mkdir -p pictures/summer; echo sea > pictures/summer/sea; echo newer > shared/report");
        host.sh("cd /srv/web; touch -d '2020-01-02' shared/report; printf 'what is right' > archive/alike");
    }
    // Of one size and one time, as a copy that went wrong has them.
    host.sh("touch -d '2020-03-03 03:03:03' /srv/web/archive/alike");
}

/// Every file with its contents, but for what is left out.
fn files(host: &Host, but: &str) -> BTreeMap<String, String> {
    let listed = host.sh(&format!(
        "cd /srv/web && find . -path ./.psync -prune -o -path './{but}' -prune -o -type d -printf '%p/\\n' -o -type f -print"
    ));
    let contents = |name: &str| fs::read_to_string(host.path("/srv/web").join(name)).unwrap_or_default();
    listed.lines().map(|name| (name.to_owned(), contents(name))).collect()
}

fn equal(lab: &Lab, but: &str) {
    in_sync(lab);
    until("both trees are equal", || files(&lab.left, but) == files(&lab.right, but));
}

/// Whether these words lie in the trash of the pair.
fn in_trash(host: &Host, words: &str) -> bool {
    host.output(&format!("grep -rqF '{words}' /srv/web/.psync/web/trash")).good
}

fn the_first_sync_has_made_one_tree_of_two(lab: &Lab) {
    equal(lab, "archive");
    arrives(&lab.right, "letters/2019/first", "Dear Sir\n");
    arrives(&lab.left, "pictures/summer/sea", "sea\n");
    arrives(&lab.left, "shared/report", "newer\n");
    assert!(in_trash(&lab.left, "old"), "the older report is lost");
}

fn people_work_on_both_sides(lab: &Lab) {
    let (left, right) = (&lab.left, &lab.right);
    // The morning: each in files of their own.
    left.sh("cd /srv/web; echo 'and madam' >> letters/2019/first; mkdir -p plans/a/b; echo plan > plans/a/b/one");
    right.sh("cd /srv/web; echo 'and sand' >> pictures/summer/sea; mkdir drafts; echo idea > drafts/idea");
    arrives(right, "letters/2019/first", "Dear Sir\nand madam\n");
    arrives(left, "pictures/summer/sea", "sea\nand sand\n");
    arrives(left, "drafts/idea", "idea\n");
    // Noon: names change and things go, on both sides at once, in trees that the other side works in.
    left.sh("cd /srv/web; mv letters post; rm shared/same; echo 'from the left' > pictures/left");
    right.sh("cd /srv/web; mv pictures/summer pictures/2020; rm -r drafts; echo 'from the right' > post-it");
    arrives(right, "post/2019/first", "Dear Sir\nand madam\n");
    arrives(left, "pictures/2020/sea", "sea\nand sand\n");
    for (host, gone) in [(right, "letters"), (right, "shared/same"), (left, "pictures/summer"), (left, "drafts")] {
        vanishes(host, gone);
    }
    // The afternoon: a save by way of a temporary file, and one that was left lying about.
    right.sh("cd /srv/web; echo final > report.tmp; mv report.tmp shared/report; echo half > left-over.tmp");
    left.sh("cd /srv/web; cp -a post plans/post; mv plans/a/b/one plans/two");
    arrives(left, "shared/report", "final\n");
    arrives(right, "plans/post/2019/first", "Dear Sir\nand madam\n");
    arrives(right, "plans/two", "plan\n");
    vanishes(right, "plans/a/b/one");
    in_sync(lab);
    assert!(!left.path("/srv/web/left-over.tmp").exists());
    fs::remove_file(right.path("/srv/web/left-over.tmp")).unwrap();
    equal(lab, "archive");
    assert!(files(left, "archive").len() >= 15, "{:?}", files(left, "archive"));
    for (host, deleted) in [(right, "the same"), (left, "idea")] {
        assert!(in_trash(host, deleted), "{deleted} is lost");
    }
}

fn the_checks_find_nothing(lab: &Lab) {
    for options in ["-l", "", "-c", "--times"] {
        let done = lab.left.output(&format!("psync check web {options}"));
        assert_eq!(done.code, 0, "psync check {options}: {}{}", done.stdout, done.stderr);
    }
    lab.left.sh("systemctl start psync-check@web.service");
    assert!(!lab.left.path("/srv/alert").exists());
}

fn a_check_tells_of_what_nobody_saw(lab: &Lab) {
    // What was taken for equal is read once, watched or not; from then on only events tell.
    until("all is compared", || ["/left/unproven", "/right/unproven"].iter().all(|at| number(lab, at) == 0));
    // The administrator of the original had a directory left unwatched.
    write(&lab.right, "cache/index", "another index\n");
    lab.right.sh("mkdir /srv/web/cache/new; echo entry > /srv/web/cache/new/entry");
    write(&lab.right, "after it", "x");
    arrives(&lab.left, "after it", "x");
    in_sync(lab);
    let index = lab.left.path("/srv/web/cache/index");
    assert_eq!(fs::read_to_string(&index).unwrap(), "index\n", "it is watched");

    let done = lab.left.output("psync check web");
    assert_eq!(done.code, 2, "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("cache/index") && done.stdout.contains("cache/new"), "{}", done.stdout);
    // Told by the hour's check, to whoever alert_command reaches.
    assert!(!lab.left.output("systemctl start psync-check@web.service").good);
    assert_eq!(lab.left.show("psync-check@web.service", "ExecMainStatus"), "2");
    let alert = || fs::read_to_string(lab.left.path("/srv/alert")).unwrap_or_default();
    let words = "pair web: psync-check@web.service found that the two sides differ\n";
    until("the alert is delivered", || alert().starts_with(words));
    assert_eq!(fs::read_to_string(index).unwrap(), "index\n", "a check changed something");
}

fn a_full_sync_puts_it_right(lab: &Lab) {
    lab.left.sh("psync fullsync web");
    arrives(&lab.left, "cache/index", "another index\n");
    arrives(&lab.left, "cache/new/entry", "entry\n");
    equal(lab, "archive");
    lab.left.sh("psync check web -c");
    lab.left.sh("systemctl reset-failed psync-check@web.service; systemctl start psync-check@web.service");
}

fn what_looks_equal_and_is_not_is_found(lab: &Lab) {
    // Unread at the first sync, since size and time were equal: it is compared when nobody has work.
    equal(lab, "none");
    lab.left.sh("psync check web -c --all");
    let contents = |host: &Host| fs::read_to_string(host.path("/srv/web/archive/alike")).unwrap();
    let other = if contents(&lab.left) == "what left has" { "what is right" } else { "what left has" };
    let kept = || lab.hosts().iter().any(|host| in_trash(host, other) || beside(host, other));
    assert!(kept(), "{other:?} is lost");

    lab.left.sh("psync fullsync web --checksum");
    equal(lab, "none");
    assert!(kept(), "{other:?} is lost by a full sync");
}

/// Whether a file beside the one in the archive has these contents.
fn beside(host: &Host, words: &str) -> bool {
    files(host, "none").values().any(|text| text == words)
}

fn the_evening(lab: &Lab) {
    assert_eq!(number(lab, "/totals/links"), 1, "the line was lost");
    assert_eq!(lab.left.show(BRAIN, "NRestarts"), "0");
    for (host, unit) in [(&lab.left, BRAIN), (&lab.right, AGENT)] {
        host.sh(&format!("systemctl stop {unit}"));
        assert_eq!(host.show(unit, "Result"), "success");
        assert_eq!(host.sh("systemctl is-system-running"), "running");
    }
}
