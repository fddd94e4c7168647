//! `psync trash` beside a pair that runs as a service.

use super::house::{House, PAIR};
use crate::support::users::*;
use crate::support::{PATIENCE, poll};

#[test]
fn a_running_pair_is_asked_to_look_through_its_trash() {
    let mut house = House::new("");
    write(house.left.join("a"), "text\n");
    house.start(&[]);
    house.wait_in_sync();
    let file = house.config.to_str().unwrap().to_owned();
    remove(house.left.join("a"));
    let listed = |house: &House| house.psync(&["trash", &file, "list"]).stdout;
    assert!(poll(PATIENCE, || listed(&house).ends_with("  a\n")), "{}", house.story());
    let once = house.psync(&["trash", &file, "expire"]);
    assert_eq!(
        (once.code(), once.stdout.as_str()),
        (0, "web: 0 versions discarded (0 B), 1 kept\n"),
        "{}",
        once.stderr
    );
    let once = house.psync(&["trash", &file, "restore", "a"]);
    assert_eq!(once.code(), 0, "{}", once.stderr);
    house.wait_for(|house| house.left.join("a").exists());
    house.psync(&["pause", PAIR]);
    assert_eq!(house.psync(&["trash", &file, "expire"]).code(), 0);
    house.stop();
}
