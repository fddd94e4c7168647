//! A line that a test can cut, slow down, and count the bytes of: a socket in front of the agent's.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::{NAME, Pair};

/// Bytes that go on at once.
const PIECE: usize = 16 << 10;

pub struct Line {
    /// Where `RUNTIME_DIRECTORY` points for whoever goes over this line.
    pub run: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    agent: PathBuf,
    down: AtomicBool,
    /// Bytes per second in each direction; 0: as they come.
    rate: AtomicU64,
    /// Bytes from the brain to the agent, and back.
    carried: [AtomicU64; 2],
    open: Mutex<Vec<UnixStream>>,
}

impl Line {
    /// A line to the agent whose socket lies in `agent`.
    pub fn new(pair: &Pair, agent: &Path) -> Line {
        let run = pair.beside("line");
        fs::create_dir(&run).unwrap();
        let socket = format!("agent-{NAME}.sock");
        let listener = UnixListener::bind(run.join(&socket)).unwrap();
        let shared = Arc::new(Shared {
            agent: agent.join(socket),
            down: AtomicBool::new(false),
            rate: AtomicU64::new(0),
            carried: Default::default(),
            open: Mutex::default(),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                accepting.carry(near);
            }
        });
        Line { run, shared }
    }

    /// Ends what is under way; until [`Line::mend`] nobody gets through.
    pub fn cut(&self) {
        self.shared.down.store(true, Ordering::SeqCst);
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.shared.down.store(false, Ordering::SeqCst);
    }

    pub fn slow_down(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Bytes from the brain to the agent, and back, so far.
    pub fn carried(&self) -> [u64; 2] {
        self.shared.carried.each_ref().map(|count| count.load(Ordering::SeqCst))
    }
}

impl Shared {
    fn carry(self: &Arc<Shared>, near: UnixStream) {
        let mut open = self.open.lock().unwrap();
        if self.down.load(Ordering::SeqCst) {
            return;
        }
        let Ok(far) = UnixStream::connect(&self.agent) else { return };
        for (direction, from, to) in [(0, &near, &far), (1, &far, &near)] {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let shared = self.clone();
            thread::spawn(move || shared.copy(direction, from, to));
        }
        open.extend([near, far]);
    }

    fn copy(&self, direction: usize, mut from: UnixStream, mut to: UnixStream) {
        let mut piece = [0; PIECE];
        while let Ok(n) = from.read(&mut piece) {
            if n == 0 || to.write_all(&piece[..n]).is_err() {
                break;
            }
            self.carried[direction].fetch_add(n as u64, Ordering::SeqCst);
            let rate = self.rate.load(Ordering::SeqCst);
            if rate > 0 {
                thread::sleep(Duration::from_secs_f64(n as f64 / rate as f64));
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
