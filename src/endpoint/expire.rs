//! Expiry of a side's trash without a session: `psync trash PAIR expire` while the pair does not run.

use std::thread;
use std::time::Duration;

use crate::model::Millis;
use crate::replica::real::{ARCHIVE, OwnDir, Owned};

use super::open::{Opening, RealEndpoint, open};
use super::serve::clock;

/// Between two looks at what may still be written.
const PAUSE: Duration = Duration::from_millis(1_100);
/// When there is more to discard, the replica wants to come back within this time.
const SOON: Millis = 500;

/// Opens the root, discards what is old or too much, and closes it. Nothing is done where the pair has never run.
pub fn alone(opening: &Opening<'_>) -> Result<(), String> {
    match OwnDir::find_at(opening.root, opening.pair, Owned::Mine) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Ok(own) if !own.has(ARCHIVE) => return Ok(()),
        // What else is wrong with it is told by the opening.
        _ => {}
    }
    let (mut endpoint, watcher) = open(opening, clock(), |_| {})?;
    if let Some(why) = endpoint.damage() {
        return Err(why.to_owned());
    }
    let expired = expire(&mut endpoint, opening.shared.trash.seconds());
    drop(endpoint);
    watcher.stop();
    expired
}

fn expire(endpoint: &mut RealEndpoint, seconds: u64) -> Result<(), String> {
    let replica = &mut endpoint.replica;
    let mut now = clock();
    // What has not been looked at since it came would stay: the first call sets the hour of the look, the second looks.
    for _ in 0..2 {
        replica.look_for_late_writes(now).map_err(|e| e.to_string())?;
        if replica.next_look().is_none() {
            break;
        }
        thread::sleep(PAUSE);
        now = clock();
    }
    replica.expire_soon();
    loop {
        let next = replica.expire_trash(seconds, now).map_err(|e| e.to_string())?;
        if next > now + SOON {
            break;
        }
        now = next;
    }
    replica.commit().map_err(|e| e.to_string())
}
