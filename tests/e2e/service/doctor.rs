//! `psync doctor` beside a pair that runs as a service.

use super::house::{House, PAIR};
use crate::support::users::*;

#[test]
fn the_doctor_asks_the_brain_how_the_pair_is() {
    let mut house = House::new("");
    write(house.left.join("a"), "text\n");
    house.start(&[]);
    house.wait_in_sync();
    let file = house.config.to_str().unwrap().to_owned();
    let report = house.psync(&["doctor", &file]);
    assert_eq!(report.code(), 0, "{}{}", report.stdout, report.stderr);
    assert!(report.stdout.contains("ok     both   state: in sync: 1 files\n"), "{}", report.stdout);
    assert!(
        report.stdout.contains(&format!("ok     both   brain: runs, process {}\n", house.pid())),
        "{}",
        report.stdout
    );
    house.psync(&["pause", PAIR]);
    house.wait_for(|house| house.status()["state"] == "paused");
    let report = house.psync(&["doctor", &file]);
    assert_eq!(report.code(), 1, "{}", report.stdout);
    assert!(report.stdout.contains("WRONG  both   state: paused"), "{}", report.stdout);
    assert!(report.stdout.contains("       to mend it: psync resume web\n"), "{}", report.stdout);
    house.stop();
}
