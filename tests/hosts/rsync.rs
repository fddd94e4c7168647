//! Contents through the real rsync, started by both units in their sandboxes.

use std::fs;

use crate::support::until;
use crate::support::web::{arrives, both_ways, in_sync, number, status, web, write};

#[test]
fn contents_go_through_rsync_in_the_sandbox() {
    let Some(lab) = web("transfer = \"rsync\"") else { return };
    let (left, right) = (&lab.left, &lab.right);
    both_ways(&lab, "first");
    // A large file, of which then a little changes on the other side.
    let mut contents: Vec<u8> = (0..3 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (round, (from, to)) in [(left, right), (right, left)].into_iter().enumerate() {
        contents[1 << 20..(1 << 20) + 100].fill(round as u8);
        fs::write(from.path("/srv/web").join("large"), &contents).unwrap();
        until(&format!("the large file is on the {}", to.name), || {
            fs::read(to.path("/srv/web").join("large")).is_ok_and(|found| found == contents)
        });
        in_sync(&lab);
    }
    assert_eq!(number(&lab, "/problems_now"), 0, "{}", status(&lab));
    // It is rsync that does it: without it there is a problem that says so, and with it again no hand is needed.
    for (from, to) in [(left, right), (right, left)] {
        from.sh("mv /usr/bin/rsync /usr/bin/rsync.away");
        let name = format!("without rsync on the {}", from.name);
        write(from, &name, &name);
        until("a problem names rsync", || status(&lab)["problems"].to_string().contains("rsync is not installed"));
        assert!(!to.path("/srv/web").join(&name).exists());
        from.sh("mv /usr/bin/rsync.away /usr/bin/rsync");
        arrives(to, &name, &name);
        in_sync(&lab);
    }
}
