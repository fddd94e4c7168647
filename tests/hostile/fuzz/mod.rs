//! Every decoder against bytes that were real values once. No coverage guides it; what does, on a machine with the
//! tools, is `fuzz/`, with the same functions and the same beginnings (docs/testing.md).

mod corpus;
pub mod entries;
mod mutate;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use entries::ENTRIES;

use crate::roll::{Roll, bound, seed};

/// No input may take a decoder longer, on a machine that has other things to do as well.
const SLOW: Duration = Duration::from_secs(10);

/// Runs one decoder for so long; how often, and the slowest. Or what broke it.
fn run(name: &str, decoder: fn(&[u8]), mut roll: Roll, time: Duration) -> Result<(u64, Duration), String> {
    let corpus = corpus::of(name, &mut roll);
    assert!(!corpus.is_empty());
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    let mut count = 0;
    // The beginnings themselves first.
    while (count as usize) < corpus.len() || begun.elapsed() < time {
        let input = match corpus.get(count as usize) {
            Some(real) => real.clone(),
            None => mutate::mutate(&corpus, &mut roll),
        };
        count += 1;
        let start = Instant::now();
        let ran = catch_unwind(AssertUnwindSafe(|| decoder(&input)));
        let took = start.elapsed();
        slowest = slowest.max(took);
        if ran.is_err() || took > SLOW {
            let what = if ran.is_err() { "panicked".into() } else { format!("took {took:?}") };
            return Err(format!("{name} {what} at input {count}: {}", keep(name, &input)));
        }
    }
    Ok((count, slowest))
}

/// Puts an input that broke something where it can be looked at, and shows its beginning.
fn keep(name: &str, input: &[u8]) -> String {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
    let file = dir.join(format!("{name}-{}", &psync_hash(input)[..12]));
    let kept = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&file, input));
    let shown: String = input.iter().take(60).map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{} bytes, {shown}..., {}",
        input.len(),
        kept.map_or_else(|e| e.to_string(), |()| file.display().to_string())
    )
}

fn psync_hash(input: &[u8]) -> String {
    psync::model::Hash::of(input).0.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn decoders_bear_what_they_are_given() {
    let mut roll = Roll::new(seed("decoders"));
    let only = std::env::var("PSYNC_HOSTILE_ENTRY").unwrap_or_default();
    let chosen: Vec<_> =
        ENTRIES.iter().filter(|(name, _)| name.contains(&only)).map(|entry| (entry, roll.fork())).collect();
    let workers = 2;
    let time = Duration::from_millis(bound("PSYNC_HOSTILE_SECONDS", 25) * 1000 * workers / chosen.len() as u64);
    let (waiting, told) = (Mutex::new(chosen), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let work = || {
                loop {
                    let Some(((name, decoder), roll)) = waiting.lock().unwrap().pop() else { return };
                    let ran = run(name, *decoder, roll, time);
                    told.lock().unwrap().push((*name, ran));
                }
            };
            // As deep as a thread of psync's own may be.
            std::thread::Builder::new().spawn_scoped(scope, work).unwrap();
        }
    });
    let told = told.into_inner().unwrap();
    let (mut runs, mut broken) = (0, Vec::new());
    for (name, ran) in told {
        match ran {
            Ok((count, slowest)) => {
                runs += count;
                println!("{name}: {count} runs, the slowest {slowest:?}");
            }
            Err(why) => broken.push(why),
        }
    }
    println!("{runs} runs in all");
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Writes the beginnings where `cargo fuzz` looks for them, if it is told where; in any case each decoder has some, and
/// the lists of targets are the same.
#[test]
fn fuzz_targets_are_the_decoders() {
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/Cargo.toml")).unwrap();
    let mut targets: Vec<&str> =
        manifest.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).skip(1).collect();
    let mut names: Vec<&str> = ENTRIES.iter().map(|(name, _)| *name).collect();
    targets.sort_unstable();
    names.sort_unstable();
    assert_eq!(targets, names);
    let to = std::env::var_os("PSYNC_HOSTILE_CORPUS").map(std::path::PathBuf::from);
    for (n, name) in names.into_iter().enumerate() {
        let inputs = corpus::of(name, &mut Roll::new(n as u64));
        assert!(!inputs.is_empty(), "{name}");
        inputs.iter().for_each(|input| entries::entry(name)(input));
        for input in to.iter().flat_map(|to| inputs.iter().map(move |input| (to, input))) {
            let (to, input) = input;
            std::fs::create_dir_all(to.join(name)).unwrap();
            std::fs::write(to.join(name).join(psync_hash(input)), input).unwrap();
        }
    }
}
