use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Instant;

use super::super::handshake::Role;
use super::super::proxy;
use super::*;
use crate::config::Compress;
use crate::protocol::{Data, Reply, Request};
use serde_bytes::ByteBuf;

const LONG: Duration = Duration::from_secs(30);

type Heard<I> = Receiver<Incoming<I>>;

fn pair(stream: UnixStream) -> (UnixStream, UnixStream) {
    (stream.try_clone().unwrap(), stream)
}

fn start<O, I>(
    pipes: (impl Read + AsFd + Send + 'static, impl Write + Send + 'static),
    role: Role,
    limits: Limits,
    room: usize,
) -> (Channel<O>, Heard<I>)
where
    O: Serialize + Lane,
    I: Arrives + Send + 'static,
{
    let (say, heard) = sync_channel(room);
    let channel = Channel::start(pipes, Hello::new(role, "web"), limits, move |incoming| say.send(incoming).is_ok());
    (channel.unwrap(), heard)
}

fn brain(stream: UnixStream, limits: Limits) -> (Channel<Request>, Heard<Reply>) {
    start(pair(stream), Role::Brain, limits, 4)
}

fn agent(stream: UnixStream, limits: Limits) -> (Channel<Reply>, Heard<Request>) {
    start(pair(stream), Role::Agent, limits, 4)
}

fn hear<I>(heard: &Heard<I>) -> Incoming<I> {
    heard.recv_timeout(LONG).unwrap()
}

fn chunk(n: u64, bytes: usize) -> Request {
    Request::Data { generation: 1, data: Data::Chunk { offset: n, bytes: ByteBuf::from(vec![7; bytes]) } }
}

#[test]
fn two_sides_talk_until_one_closes() {
    let (left, right) = UnixStream::pair().unwrap();
    let (brain, from_agent) = brain(left, Limits::default());
    let (agent, from_brain) = agent(right, Limits::default());
    assert!(matches!(hear(&from_agent), Incoming::Hello(Hello { role: Role::Agent, .. })));
    assert!(matches!(hear(&from_brain), Incoming::Hello(Hello { role: Role::Brain, .. })));
    for number in 0..1000 {
        brain.send(&Request::Ping { number }).unwrap();
        assert!(matches!(hear(&from_brain), Incoming::Message(Request::Ping { number: n }) if n == number));
        agent.send(&Reply::Pong { number }).unwrap();
        assert!(matches!(hear(&from_agent), Incoming::Message(Reply::Pong { number: n }) if n == number));
    }
    // What was queued before the close still arrives, on either side.
    brain.send(&Request::Stop).unwrap();
    brain.close();
    assert!(matches!(brain.send(&Request::Stop), Err(LinkError::Closed)));
    assert!(matches!(hear(&from_brain), Incoming::Message(Request::Stop)));
    agent.send(&Reply::Stopped).unwrap();
    agent.close();
    assert!(matches!(hear(&from_agent), Incoming::Message(Reply::Stopped)));
}

#[test]
fn a_dropped_side_is_an_end_for_the_other() {
    let (left, right) = UnixStream::pair().unwrap();
    let (brain, from_agent) = brain(left, Limits::default());
    let (agent, from_brain) = agent(right, Limits::default());
    assert!(matches!(hear(&from_agent), Incoming::Hello(_)));
    assert!(matches!(hear(&from_brain), Incoming::Hello(_)));
    drop(agent);
    assert!(matches!(hear(&from_brain), Incoming::Ended(LinkError::Closed)));
    assert!(matches!(hear(&from_agent), Incoming::Ended(LinkError::Ended)));
    assert!(matches!(brain.send(&Request::Scan { checksum: false }), Err(LinkError::Closed)));
    assert_eq!(from_agent.recv_timeout(LONG).unwrap_err(), RecvTimeoutError::Disconnected);
}

#[test]
fn a_slow_reader_holds_the_sender_and_messages_overtake_data() {
    let (left, right) = UnixStream::pair().unwrap();
    let limits = Limits { waiting: 1 << 20, ..Limits::default() };
    let (brain, _from_agent) = brain(left, limits);
    let (_agent, from_brain) = agent(right, limits);
    let start = Instant::now();
    let mut sent = 0;
    // Until both queues and both pipes are full; what fits is bounded.
    let mut refused = 0;
    while refused < 50 {
        assert!(start.elapsed() < LONG);
        if brain.try_send(&chunk(sent, 100_000)).unwrap() {
            (sent, refused) = (sent + 1, 0);
        } else {
            refused += 1;
            thread::sleep(Duration::from_millis(2));
        }
    }
    assert!(sent < 30, "{sent} chunks of 100 kB were taken");
    brain.send(&Request::Cancel { generation: 1 }).unwrap();
    assert!(matches!(hear(&from_brain), Incoming::Hello(_)));
    let (mut chunks, mut after) = (0, 0);
    let mut cancelled = false;
    while chunks < sent {
        match hear(&from_brain) {
            Incoming::Message(Request::Data { data: Data::Chunk { offset, .. }, .. }) => {
                assert_eq!(offset, chunks, "data stay in their order");
                chunks += 1;
                after += u64::from(cancelled);
            }
            Incoming::Message(Request::Cancel { .. }) => cancelled = true,
            other => panic!("{other:?}"),
        }
    }
    assert!(cancelled && after >= 8, "{after} chunks came after the message");
}

#[test]
fn silence_is_an_end_and_pings_are_no_silence() {
    let (ping_every, silence) = (Duration::from_millis(20), Duration::from_secs(1));
    let quick = Limits { ping_every, silence, waiting: 1000, ..Limits::default() };
    let (left, right) = UnixStream::pair().unwrap();
    let (_brain, from_agent) = brain(left, quick);
    let (_agent, from_brain) = agent(right, quick);
    assert!(matches!(hear(&from_agent), Incoming::Hello(_)));
    assert!(matches!(hear(&from_brain), Incoming::Hello(_)));
    // Two silences long, nothing but pings.
    assert_eq!(from_agent.recv_timeout(quick.silence * 2).unwrap_err(), RecvTimeoutError::Timeout);
    // A peer that lives but says nothing at all.
    let (left, _right) = UnixStream::pair().unwrap();
    let (_brain, from_agent) = brain(left, quick);
    let Incoming::Ended(why) = hear(&from_agent) else { panic!("no end") };
    assert!(matches!(why, LinkError::Silent(silence) if silence == quick.silence), "{why}");
}

#[test]
fn a_command_that_is_no_agent_is_quoted() {
    let cases = [
        ("echo hello", "the other side is no psync; it said \"hello\"", 0),
        ("exit 3", "the other side ended before it said a word", 3),
        ("exec cat", "the other side is a brain, as this one is", 0),
    ];
    for (command, expected, status) in cases {
        let (mut proxy, pipes) = proxy::spawn(command, drop).unwrap();
        let (channel, heard) = start::<Request, Reply>(pipes, Role::Brain, Limits::default(), 4);
        let Incoming::Ended(why) = hear(&heard) else { panic!("no end") };
        assert_eq!(why.to_string(), expected);
        drop(channel);
        assert_eq!(proxy.end(LONG).unwrap().code(), Some(status));
    }
}

#[test]
fn the_death_of_the_process_is_an_end() {
    // An agent that says its hello and dies at the first message.
    let mut hello = Vec::new();
    Hello::new(Role::Agent, "web").send(&mut hello).unwrap();
    let octal: String = hello.iter().map(|b| format!("\\{b:03o}")).collect();
    let command = format!("printf '{octal}'; head -c {} >/dev/null; echo died >&2; kill -9 $$", hello.len() + 1);
    let (mut proxy, pipes) = proxy::spawn(&command, drop).unwrap();
    let (channel, heard) = start::<Request, Reply>(pipes, Role::Brain, Limits::default(), 4);
    assert!(matches!(hear(&heard), Incoming::Hello(_)));
    channel.send(&Request::Scan { checksum: false }).unwrap();
    let Incoming::Ended(why) = hear(&heard) else { panic!("no end") };
    assert!(matches!(why, LinkError::Ended), "{why}");
    let status = proxy.end(LONG).unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[test]
fn garbage_after_the_hello_is_an_end() {
    let (left, mut right) = UnixStream::pair().unwrap();
    let (_brain, from_agent) = brain(left, Limits::default());
    Hello::new(Role::Agent, "web").send(&mut right).unwrap();
    right.write_all(b"Connection to host closed by remote host.\n").unwrap();
    assert!(matches!(hear(&from_agent), Incoming::Hello(_)));
    assert!(matches!(hear(&from_agent), Incoming::Ended(LinkError::TooLong(_))));
}

/// A thread that gets no processor for a while before it writes.
struct Late(UnixStream, Arc<AtomicU64>);

impl Write for Late {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        thread::sleep(Duration::from_millis(100));
        self.1.store(1, Ordering::Release);
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn who_cannot_be_understood_is_told_who_answers_before_the_end() {
    let (left, right) = UnixStream::pair().unwrap();
    (&left).write_all(b"hello, I am no psync\n").unwrap();
    let written = Arc::new(AtomicU64::new(0));
    let pipes = (right.try_clone().unwrap(), Late(right, written.clone()));
    let (_agent, heard): (Channel<Reply>, Heard<Request>) = start(pipes, Role::Agent, Limits::default(), 4);
    assert!(matches!(hear(&heard), Incoming::Ended(LinkError::NotPsync { .. })));
    assert_eq!(written.load(Ordering::Acquire), 1);
}

/// Passes frames on, with one bit of one byte changed in each that is chosen: of its payload, its number or its kind.
fn spoil(from: UnixStream, mut to: UnixStream, mut which: impl FnMut() -> Option<u64> + Send + 'static) {
    thread::spawn(move || {
        let (mut from, mut payload) = (BufReader::new(from), Vec::new());
        while let Ok(Some(head)) = frame::read(&mut from, &mut payload) {
            let mut frame = head.encode().unwrap().to_vec();
            frame.extend_from_slice(&payload);
            if let Some(chance) = which().filter(|_| head.kind != Kind::Hello) {
                let bit = 1 << (chance % 8);
                match (chance / 8) % 6 {
                    0 => frame[5 + (chance / 64) as usize % 4] ^= bit,
                    // A message that looks like a ping.
                    1 if head.kind == Kind::Message => frame[4] ^= 1,
                    _ if payload.is_empty() => {}
                    _ => frame[frame::HEADER + (chance / 64) as usize % payload.len()] ^= bit,
                }
            }
            if to.write_all(&frame).is_err() {
                return;
            }
        }
        drop(to.shutdown(std::net::Shutdown::Write));
    });
}

#[test]
fn what_a_line_breaks_comes_again_in_order_and_once() {
    for compress in [Compress::None, Compress::Zstd] {
        let [(left, near), (far, right)] = [UnixStream::pair().unwrap(), UnixStream::pair().unwrap()];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let roll = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11).is_multiple_of(15).then_some(state >> 20)
        };
        let back = roll;
        spoil(near.try_clone().unwrap(), far.try_clone().unwrap(), roll);
        spoil(far, near, back);
        // A question may wait for its answer for eight of these, on a busy machine too.
        let limits = Limits { compress, ping_every: Duration::from_millis(250), ..Limits::default() };
        // Nobody here takes what arrives while he waits for something else.
        let (brain, from_agent): (Channel<Request>, Heard<Reply>) = start(pair(left), Role::Brain, limits, 10_000);
        let (agent, from_brain): (Channel<Reply>, Heard<Request>) = start(pair(right), Role::Agent, limits, 10_000);
        assert!(matches!(hear(&from_agent), Incoming::Hello(_)));
        assert!(matches!(hear(&from_brain), Incoming::Hello(_)));
        const MANY: u64 = 1000;
        let sender = thread::spawn(move || {
            for number in 0..MANY {
                brain.send(&Request::Ping { number }).unwrap();
                brain.send(&chunk(number, 3000)).unwrap();
            }
            brain
        });
        let (mut pings, mut chunks, mut answers) = (0, 0, 0);
        while pings < MANY || chunks < MANY || answers < MANY {
            if pings < MANY || chunks < MANY {
                match hear(&from_brain) {
                    Incoming::Message(Request::Ping { number }) => {
                        assert_eq!(number, pings, "messages stay in their order, and come once");
                        pings += 1;
                        agent.send(&Reply::Pong { number }).unwrap();
                    }
                    Incoming::Message(Request::Data { data: Data::Chunk { offset, bytes }, .. }) => {
                        assert!(offset == chunks && bytes.iter().all(|byte| *byte == 7), "{offset}");
                        chunks += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            while answers < pings {
                match hear(&from_agent) {
                    Incoming::Message(Reply::Pong { number }) => assert_eq!(number, answers),
                    other => panic!("no answer: {other:?}; the agent: {:?}", from_brain.try_recv()),
                }
                answers += 1;
            }
        }
        drop(sender.join().unwrap());
    }
}

#[test]
fn a_line_that_breaks_everything_is_told() {
    let [(left, near), (far, right)] = [UnixStream::pair().unwrap(), UnixStream::pair().unwrap()];
    spoil(near.try_clone().unwrap(), far.try_clone().unwrap(), || Some(8 * 2));
    spoil(far, near, || None);
    let limits = Limits { ping_every: Duration::from_millis(30), ..Limits::default() };
    let (brain, from_agent) = brain(left, limits);
    let (_agent, from_brain) = agent(right, limits);
    assert!(matches!(hear(&from_agent), Incoming::Hello(_)));
    assert!(matches!(hear(&from_brain), Incoming::Hello(_)));
    brain.send(&Request::Stop).unwrap();
    let Incoming::Ended(why) = hear(&from_brain) else { panic!("it was taken") };
    assert!(why.to_string().contains("checksum"), "{why}");
}

#[test]
fn last_words_are_heard_when_the_other_side_reads_no_more() {
    let (left, mut right) = UnixStream::pair().unwrap();
    let limits = Limits { silence: Duration::from_secs(20), ..Limits::default() };
    let (brain, from_agent) = brain(left, limits);
    Hello::new(Role::Agent, "web").send(&mut right).unwrap();
    assert!(matches!(hear(&from_agent), Incoming::Hello(_)));
    right.shutdown(std::net::Shutdown::Read).unwrap();
    let start = Instant::now();
    while brain.send(&Request::Scan { checksum: false }).is_ok() {
        assert!(start.elapsed() < LONG);
    }
    right.write_all(&codec::encode(&Reply::Halt { reason: "disk gone".into() }).unwrap()).unwrap();
    assert!(matches!(hear(&from_agent), Incoming::Message(Reply::Halt { .. })));
    let Incoming::Ended(why) = hear(&from_agent) else { panic!("no end") };
    assert!(why.to_string().starts_with("write to the link: Broken pipe"), "{why}");
    assert!(start.elapsed() < limits.silence);
}

#[test]
fn threads_and_pipes_are_gone_after_the_end() {
    let (left, right) = UnixStream::pair().unwrap();
    let (brain, from_agent) = brain(left, Limits::default());
    drop((brain, right));
    while !matches!(from_agent.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected)) {}
    // A sink that wants no more ends the link as well; the other side sees it.
    let (left, right) = UnixStream::pair().unwrap();
    let (brain, from_agent) = start::<Request, Reply>(pair(left), Role::Brain, Limits::default(), 0);
    let (_agent, from_brain) = agent(right, Limits::default());
    drop(from_agent);
    assert!(matches!(hear(&from_brain), Incoming::Hello(_)));
    assert!(matches!(hear(&from_brain), Incoming::Ended(LinkError::Ended)));
    drop(brain);
}

/// A line that takes a piece of 16 KiB every ten milliseconds at most, and counts the bytes.
fn slow_line(mut from: UnixStream, mut to: UnixStream) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    thread::spawn(move || {
        // So slow that what sockets hold lasts while a busy machine gives the writer no time.
        let mut piece = [0; 8 << 10];
        while let Ok(n) = from.read(&mut piece) {
            // Before they arrive: whoever has them may ask.
            counted.fetch_add(n as u64, Ordering::SeqCst);
            if n == 0 || to.write_all(&piece[..n]).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        drop(to.shutdown(std::net::Shutdown::Both));
    });
    count
}

/// Sends chunks of text over a slow line until the bytes on it, of how many, are as they should be, or long enough: how fast
/// it finds out is the machine's affair.
fn bytes_on_a_slow_line(compress: Compress, good: fn(u64, u64) -> bool) -> (u64, u64) {
    const FEW: u64 = 10;
    const MANY: u64 = 300;
    let ((left, left_far), (right_far, right)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    let count = slow_line(left_far.try_clone().unwrap(), right_far.try_clone().unwrap());
    slow_line(right_far, left_far);
    let (brain, _from_agent) = brain(left, Limits { compress, ..Limits::default() });
    let (_agent, from_brain) = agent(right, Limits::default());
    assert!(matches!(hear(&from_brain), Incoming::Hello(_)));
    let text: Vec<u8> = (0..100_000_u32).flat_map(|n| format!("{n} ").into_bytes()).take(100_000).collect();
    let over = Arc::new(AtomicBool::new(false));
    let (sender, stop) = (text.clone(), over.clone());
    thread::spawn(move || {
        for offset in 0..MANY {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let bytes = ByteBuf::from(sender.clone());
            if brain.send(&Request::Data { generation: 1, data: Data::Chunk { offset, bytes } }).is_err() {
                break;
            }
        }
        brain.close();
        // Until all is written.
        thread::sleep(LONG);
    });
    let mut found = (0, 0);
    for number in 0..MANY {
        match hear(&from_brain) {
            Incoming::Message(Request::Data { data: Data::Chunk { offset, bytes }, .. }) => {
                assert_eq!(offset, number);
                assert!(*bytes == text, "chunk {number}");
            }
            other => panic!("{other:?}"),
        }
        found = (count.load(Ordering::SeqCst), (number + 1) * text.len() as u64);
        if number >= FEW && good(found.0, found.1) {
            break;
        }
    }
    over.store(true, Ordering::SeqCst);
    found
}

#[test]
fn a_slow_line_is_found_out_and_spared() {
    let small = |on_the_line: u64, plain: u64| on_the_line < plain * 6 / 10;
    // The first half a megabyte or half a second goes as it is.
    let (on_the_line, plain) = bytes_on_a_slow_line(Compress::Auto, small);
    assert!(small(on_the_line, plain), "{on_the_line} bytes of {plain}");
    let smaller = |on_the_line: u64, plain: u64| on_the_line < plain * 4 / 10;
    let (on_the_line, plain) = bytes_on_a_slow_line(Compress::Zstd, smaller);
    assert!(smaller(on_the_line, plain), "{on_the_line} bytes of {plain}");
    let (on_the_line, plain) = bytes_on_a_slow_line(Compress::None, |_, _| true);
    assert!(on_the_line > plain, "{on_the_line} bytes of {plain}");
}

#[test]
fn a_bandwidth_limit_is_kept_in_its_direction() {
    let (left, right) = UnixStream::pair().unwrap();
    let limits = Limits { bandwidth: 400_000, compress: Compress::None, ..Limits::default() };
    let (brain, from_agent) = brain(left, limits);
    let (agent, from_brain) = agent(right, Limits::default());
    assert!(matches!(hear(&from_brain), Incoming::Hello(_)));
    assert!(matches!(hear(&from_agent), Incoming::Hello(_)));
    let start = Instant::now();
    (0..4).for_each(|n| brain.send(&chunk(n, 100_000)).unwrap());
    for _ in 0..4 {
        assert!(matches!(hear(&from_brain), Incoming::Message(Request::Data { .. })));
        agent.send(&Reply::Pong { number: 0 }).unwrap();
    }
    // But for the last slice, 400,000 bytes at 400,000 a second.
    assert!(start.elapsed() >= Duration::from_millis(850), "{:?}", start.elapsed());
}

#[test]
fn who_is_turned_away_hears_why_before_all_that_waits() {
    let (left, right) = UnixStream::pair().unwrap();
    let (_brain, from_agent) = brain(left, Limits::default());
    let (agent, _from_brain) = agent(right, Limits::default());
    assert!(matches!(hear(&from_agent), Incoming::Hello(_)));
    agent.turn_away("somebody else is here");
    assert!(matches!(agent.send(&Reply::Stopped), Err(LinkError::Closed)));
    let Incoming::Ended(why) = hear(&from_agent) else { panic!("no end") };
    assert!(matches!(&why, LinkError::TurnedAway(words) if words == "somebody else is here"), "{why}");
}
