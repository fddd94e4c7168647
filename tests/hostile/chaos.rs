//! Every kind of message, in no order and with no sense, from a brain, from an agent, and from a man in the middle.

use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use psync::link::handshake::Role;
use psync::protocol::survey::Ask;
use psync::protocol::{Reply, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::roll::{Roll, bound, seed};
use crate::samples::{Maker, answer, ask, asks, replies, reply, request, requests};
use crate::scene::{HostileAgent, HostileBrain, HostileSurveyor, MEMORY_MAX, Scene, honest_hello};
use crate::support::service::{AGENT, Service};
use crate::support::{NAME, PATIENCE, poll};
use crate::talk::{Ears, Heard, Mouth, Talk, WriteEnd};

fn time() -> Duration {
    Duration::from_secs(bound("PSYNC_HOSTILE_SECONDS", 6))
}

/// Sessions until the time is over, each with other words. `say` has one session with a maker of its own.
fn sessions(what: &str, mut session: impl FnMut(Maker)) {
    let mut roll = Roll::new(seed(what));
    let end = Instant::now() + time();
    let mut count = 0;
    while Instant::now() < end {
        session(Maker::new(roll.fork(), NAME));
        count += 1;
    }
    println!("{what}: {count} sessions");
}

#[test]
fn every_kind_of_request_by_itself_and_all_in_a_row() {
    let roll = Roll::new(seed("requests"));
    let mut scene = Scene::new();
    let mut maker = Maker::new(roll, NAME);
    for request in requests(&mut maker).into_iter().map(Some).chain([None]) {
        let mut brain = HostileBrain::new(&scene);
        let hello = brain.open();
        (maker.peer, maker.archive) = (hello.peer, hello.archive);
        match &request {
            Some(one) => {
                brain.talk.say(one);
            }
            None => {
                requests(&mut maker).iter().all(|one| brain.talk.say(one));
            }
        }
        let peak = brain.end().unwrap_or_else(|why| panic!("{request:?}: {why}"));
        assert!(peak < MEMORY_MAX, "{request:?}: {peak} KiB");
        scene.victims.assert_untouched(&format!("{request:?}"));
    }
    scene.assert_honest_again("requests");
}

#[test]
fn every_kind_of_question_by_itself_and_all_in_a_row() {
    let mut scene = Scene::new();
    let mut maker = Maker::new(Roll::new(seed("asks")), NAME);
    for ask in asks(&mut maker).into_iter().map(Some).chain([None]) {
        let mut surveyor = HostileSurveyor::new(&scene);
        match &ask {
            Some(one) => {
                surveyor.talk.say(one);
            }
            None => {
                asks(&mut maker).iter().all(|one| surveyor.talk.say(one));
            }
        }
        let peak = surveyor.end().unwrap_or_else(|why| panic!("{ask:?}: {why}"));
        assert!(peak < MEMORY_MAX, "{ask:?}: {peak} KiB");
        scene.victims.assert_untouched(&format!("{ask:?}"));
    }
    scene.assert_honest_again("asks");
}

#[test]
fn a_brain_that_makes_no_sense() {
    let mut scene = Scene::new();
    sessions("brain", |mut maker| {
        let mut brain = HostileBrain::new(&scene);
        // One of four does not even begin.
        if !maker.roll.once_in(4) {
            let hello = brain.open();
            (maker.peer, maker.archive) = (hello.peer, hello.archive);
            maker.numbers.push(hello.generation);
            maker.modest = maker.roll.once_in(2);
        }
        let words = 1 + maker.roll.below(2000);
        for _ in 0..words {
            if !brain.talk.say(&request(&mut maker)) {
                break;
            }
            brain.talk.ears.drain();
        }
        let peak = brain.end().unwrap_or_else(|why| panic!("{why}"));
        assert!(peak < MEMORY_MAX, "{peak} KiB");
        scene.victims.assert_untouched("a brain that makes no sense");
    });
    scene.assert_honest_again("a brain that makes no sense");
}

#[test]
fn an_agent_that_makes_no_sense() {
    let mut scene = Scene::new();
    let hello = honest_hello(&scene);
    sessions("agent", |mut maker| {
        let mut agent = HostileAgent::new(&scene, &[]);
        (maker.peer, maker.archive) = (hello.peer, hello.archive);
        maker.modest = maker.roll.once_in(2);
        let all = maker.roll.once_in(8);
        let met = match maker.roll.below(3) {
            0 => agent.meet(&hello),
            1 => {
                let strange = maker.hello();
                agent.meet(&strange)
            }
            _ => agent.meet_and_go(&hello),
        };
        if let Some(mut talk) = met {
            let words = 1 + maker.roll.below(2000);
            for _ in 0..words {
                let said = match all {
                    true => replies(&mut maker).iter().all(|one| talk.say(one)),
                    false => talk.say(&reply(&mut maker)),
                };
                if !said {
                    break;
                }
                talk.ears.drain();
            }
        }
        let peak = agent.end().unwrap_or_else(|why| panic!("{why}"));
        assert!(peak < MEMORY_MAX, "{peak} KiB");
        scene.victims.assert_untouched("an agent that makes no sense");
    });
    scene.assert_honest_again("an agent that makes no sense");
}

#[test]
fn a_surveyor_that_makes_no_sense() {
    let mut scene = Scene::new();
    sessions("surveyor", |mut maker| {
        let mut surveyor = HostileSurveyor::new(&scene);
        for _ in 0..1 + maker.roll.below(200) {
            if !surveyor.talk.say(&ask(&mut maker)) {
                break;
            }
            surveyor.talk.ears.drain();
        }
        let peak = surveyor.end().unwrap_or_else(|why| panic!("{why}"));
        assert!(peak < MEMORY_MAX, "{peak} KiB");
        scene.victims.assert_untouched("a surveyor that makes no sense");
    });
    scene.assert_honest_again("a surveyor that makes no sense");
}

#[test]
fn an_agent_that_makes_no_sense_to_a_check() {
    let mut scene = Scene::new();
    sessions("answers", |mut maker| {
        let mut agent = HostileAgent::of_a_check(&scene);
        let call = agent.accept().unwrap_or_else(|| panic!("no call: {}", agent.brain.said()));
        let mut talk: Talk<Ask> = Talk::begin(call.try_clone().unwrap(), WriteEnd(call), Role::Agent, NAME);
        for _ in 0..1 + maker.roll.below(500) {
            if !talk.say(&answer(&mut maker)) {
                break;
            }
            talk.ears.drain();
        }
        talk.hang_up();
        let ended = agent.brain.wait_end(PATIENCE);
        ended.unwrap_or_else(|why| panic!("the check: {why}"));
        assert!(agent.brain.peak() < MEMORY_MAX, "{} KiB", agent.brain.peak());
        scene.victims.assert_untouched("an agent that makes no sense to a check");
    });
    scene.assert_honest_again("an agent that makes no sense to a check");
}

#[test]
fn a_service_goes_on_after_every_brain() {
    let mut scene = Scene::new();
    let mut service = Service::start(&scene.pair, "");
    let socket = service.run.join(format!("agent-{NAME}.sock"));
    sessions("service", |mut maker| {
        let call = UnixStream::connect(&socket).unwrap();
        let mut talk: Talk<Reply> = Talk::begin(call.try_clone().unwrap(), WriteEnd(call), Role::Brain, NAME);
        let open = !maker.roll.once_in(4);
        if open && let Some(hello) = crate::scene::open(&mut talk, crate::scene::start()) {
            (maker.peer, maker.archive) = (hello.peer, hello.archive);
            talk.say(&Request::Go { peer: hello.peer, scan: false, whole: false, doubt: false });
        }
        let words = 1 + maker.roll.below(500);
        for _ in 0..words {
            let one = request(&mut maker);
            if !talk.say(&one) {
                break;
            }
            talk.ears.drain();
        }
        talk.hang_up();
        assert!(talk.wait_end(PATIENCE), "the service does not let go of a brain that has hung up");
        scene.victims.assert_untouched("a service");
        let peak = crate::scene::peak(service.pid() as u32);
        assert!(peak > 0 && peak < MEMORY_MAX, "{peak} KiB, or it is gone:\n{}", service.log());
    });
    service.stop();
    assert!(!service.log().contains("panicked"), "{}", service.log());
    scene.assert_honest_again("a service");
}

/// Carries messages from one side to the other: some twice, some late, some not at all, and now and then one of its own.
fn meddle<T: Serialize + DeserializeOwned + Send + 'static>(
    from: &Ears<T>,
    to: &Mutex<Mouth>,
    mut maker: Maker,
    own: impl Fn(&mut Maker) -> T,
    stop: &AtomicBool,
    meddled: &AtomicU64,
) {
    let mut kept: Option<T> = None;
    let say = |message: &T| to.lock().unwrap().say(message);
    while !stop.load(Ordering::Relaxed) {
        let message = match from.next(Duration::from_millis(50)) {
            Some(Heard::Message(message)) => message,
            Some(Heard::Hello) | None => continue,
            Some(Heard::Refused | Heard::End) => return,
        };
        let what = maker.roll.below(40);
        if what < 5 {
            meddled.fetch_add(1, Ordering::Relaxed);
        }
        let said = match what {
            0 => continue,
            1 => say(&message) && say(&message),
            2 => {
                kept = Some(message);
                continue;
            }
            3 => say(&own(&mut maker)) && say(&message),
            4 => say(&own(&mut maker)),
            _ => say(&message) && kept.take().is_none_or(|late| say(&late)),
        };
        if !said {
            return;
        }
    }
}

/// How long a brain that goes on may take until it calls again.
const CALL: Duration = Duration::from_secs(4);
/// Fewer messages show nothing.
const ENOUGH: u64 = 10;

#[test]
fn a_man_in_the_middle_of_a_pair_that_works() {
    let mut scene = Scene::new();
    let mut roll = Roll::new(seed("middle"));
    let mut agent = HostileAgent::new(&scene, &[]);
    let end = Instant::now() + time();
    let meddled = Arc::new(AtomicU64::new(0));
    let mut calls = 0;
    let worker = Arc::new(AtomicBool::new(false));
    let users = {
        let (stop, left, right) = (worker.clone(), scene.pair.left.clone(), scene.pair.right.clone());
        thread::spawn(move || {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                // What the attacker does to these names is his right.
                for side in [&left, &right] {
                    let _ = std::fs::write(side.join(format!("work {}", n % 20)), format!("{n}\n").repeat(n % 3000));
                    let _ =
                        std::fs::rename(side.join(format!("work {}", n % 7)), side.join(format!("moved {}", n % 5)));
                    let _ = std::fs::remove_file(side.join(format!("moved {}", n % 3)));
                }
                n += 1;
                thread::sleep(Duration::from_millis(5));
            }
        })
    };
    let mut peak = 0;
    let mut over = |agent: HostileAgent| {
        peak = peak.max(agent.brain.peak());
        agent.end().unwrap_or_else(|why| panic!("the brain: {why}"));
    };
    // On a machine that is busy he does little in the time.
    let latest = end + PATIENCE;
    let did = || meddled.load(Ordering::Relaxed);
    while Instant::now() < end || (did() <= ENOUGH && Instant::now() < latest) {
        let Some(call) = agent.accept_within(CALL) else {
            // What was said to it made it end, or halt.
            over(std::mem::replace(&mut agent, HostileAgent::new(&scene, &["--accept"])));
            continue;
        };
        calls += 1;
        let mut command = Command::new(AGENT);
        command.args(["--stdio", "--pair", NAME, "--root"]).arg(&scene.pair.right);
        let mut real = crate::scene::Attacked::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let (stdout, stdin) = real.pipes();
        let Talk { mouth: to_agent, ears: from_agent } = Talk::<Reply>::begin(stdout, stdin, Role::Brain, NAME);
        let brain = Talk::<Request>::begin(call.try_clone().unwrap(), call.try_clone().unwrap(), Role::Agent, NAME);
        let Talk { mouth: to_brain, ears: from_brain } = brain;
        let stop = AtomicBool::new(false);
        let (to_agent, to_brain) = (Mutex::new(to_agent), Mutex::new(to_brain));
        let makers = [Maker::new(roll.fork(), NAME), Maker::new(roll.fork(), NAME)];
        let [forth, back] = makers;
        thread::scope(|scope| {
            let one = scope.spawn(|| meddle(&{ from_brain }, &to_agent, forth, request, &stop, &meddled));
            let two = scope.spawn(|| meddle(&{ from_agent }, &to_brain, back, reply, &stop, &meddled));
            let rest = end.max(Instant::now() + CALL).saturating_duration_since(Instant::now());
            poll(rest, || one.is_finished() || two.is_finished());
            stop.store(true, Ordering::Relaxed);
            drop((one.join(), two.join()));
        });
        drop((to_agent, to_brain));
        let _ = call.shutdown(std::net::Shutdown::Both);
        real.wait_end(PATIENCE).unwrap_or_else(|why| panic!("the agent: {why}"));
        assert!(real.peak() < MEMORY_MAX);
    }
    worker.store(true, Ordering::Relaxed);
    users.join().unwrap();
    over(agent);
    assert!(peak > 0 && peak < MEMORY_MAX, "{peak} KiB");
    println!("middle: {calls} calls, {} messages meddled with", did());
    assert!(did() > ENOUGH, "he did next to nothing");
    scene.assert_honest_again("a man in the middle");
}
