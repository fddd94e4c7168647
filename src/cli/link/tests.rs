use super::*;
use crate::link::aside::hear;
use crate::link::frame::{self, Kind};
use crate::link::handshake::{Hello, Role};
use std::net::Shutdown;
use std::time::Instant;

/// A line whose ssh is this script, with what calls it.
struct Stage {
    dir: tempfile::TempDir,
    served: Option<thread::JoinHandle<io::Result<()>>>,
}

impl Stage {
    fn of(line: Result<Line, String>) -> Stage {
        let dir = tempfile::tempdir().expect("dir");
        let listener = UnixListener::bind(dir.path().join("sock")).expect("listen");
        let served = thread::spawn(move || serve(&listener, Arc::new(line)));
        Stage { dir, served: Some(served) }
    }

    fn with(script: &str) -> Stage {
        Stage::of(Ok(Line::of(&settings(script), "web")))
    }

    fn call(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("sock")).expect("connect")
    }

    /// Says this, and hears all until the end.
    fn heard(&self, said: &[u8]) -> (Option<i32>, Vec<u8>, String) {
        let mut stream = self.call();
        stream.write_all(said).expect("write");
        stream.shutdown(Shutdown::Write).expect("shut down");
        let (mut line, mut beside) = (Vec::new(), Vec::new());
        let code = hear(&mut stream, &mut line, &mut beside).expect("understood");
        (code, line, String::from_utf8(beside).expect("text"))
    }

    /// It ends by itself once nobody calls.
    fn end(mut self) {
        self.served.take().expect("it runs").join().expect("no panic").expect("no error");
    }
}

fn settings(script: &str) -> Settings {
    let mut settings = Settings::default();
    settings.shared.transport.compress = crate::config::Compress::Zstd;
    settings.left.root = "/l".into();
    settings.right.root = "/r".into();
    settings.right.proxy_command = Some(script.to_owned());
    settings
}

fn hello() -> Vec<u8> {
    let mut wire = Vec::new();
    Hello::new(Role::Brain, "web").send(&mut wire).expect("hello");
    wire
}

#[test]
fn a_caller_gets_bytes_words_and_code_of_its_ssh() {
    let stage = Stage::with("cat > /dev/null; echo 'Permission denied (publickey).' >&2; exit 41");
    let (code, line, beside) = stage.heard(&hello());
    assert_eq!((code, line.len(), beside.as_str()), (Some(41), 0, "Permission denied (publickey).\n"));
    stage.end();
    let stage = Stage::with("echo Welcome; exit 3");
    let (code, line, _) = stage.heard(&hello());
    assert_eq!((code, line.as_slice()), (Some(3), b"Welcome\n".as_slice()));
    stage.end();
}

/// What goes over the line is packed, and plain again for whoever called.
#[test]
fn frames_are_packed_on_the_line_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let seen = dir.path().join("seen");
    let stage = Stage::with(&format!("tee {}", seen.display()));
    let mut said = hello();
    frame::write(&mut said, Kind::Message, 0, &[b'x'; 500_000]).expect("frame");
    let (code, line, beside) = stage.heard(&said);
    assert_eq!((code, beside.as_str()), (Some(0), ""));
    assert!(line == said, "{} of {} bytes came back", line.len(), said.len());
    assert!(fs::metadata(seen).expect("seen").len() < 5_000);
    stage.end();
}

#[test]
fn several_call_at_a_time_and_each_has_a_line_of_its_own() {
    let stage = Stage::with("exec cat");
    let mut first = stage.call();
    first.write_all(&hello()).expect("write");
    let (_, second, _) = stage.heard(&hello());
    assert_eq!(second, hello());
    // The process must not end while one is there.
    thread::sleep(Duration::from_millis(200));
    assert!(!stage.served.as_ref().expect("it runs").is_finished(), "it ended under a caller");
    first.shutdown(Shutdown::Write).expect("shut down");
    let mut line = Vec::new();
    assert_eq!(hear(&mut first, &mut line, &mut io::sink()).expect("understood"), Some(0));
    assert_eq!(line, hello());
    stage.end();
}

/// A brain that is killed leaves no ssh behind, nor one that hangs.
#[test]
fn an_ssh_that_does_not_end_is_ended() {
    let stage = Stage::with("exec 0<&-; exec sleep 1000");
    let start = Instant::now();
    drop(stage.call());
    stage.end();
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn what_the_other_side_may_not_say_ends_the_line_in_words() {
    let dir = tempfile::tempdir().expect("dir");
    let mut bad = hello();
    frame::write(&mut bad, Kind::Hello, 0, b"once more").expect("frame");
    fs::write(dir.path().join("bad"), &bad).expect("write");
    let stage = Stage::with(&format!("cat {}; exec sleep 1000", dir.path().join("bad").display()));
    let (_, line, beside) = stage.heard(&hello());
    assert_eq!(line, hello());
    assert!(beside.starts_with("psync-link: the other side: a frame that does not belong here"), "{beside}");
    stage.end();
}

#[test]
fn what_is_wrong_with_the_file_is_told_to_callers() {
    let stage = Stage::of(Err("/etc/psync/web.toml: there is no such file".into()));
    let (code, line, beside) = stage.heard(b"");
    assert_eq!((code, line.len()), (Some(255), 0));
    assert_eq!(beside, "psync-link: /etc/psync/web.toml: there is no such file\n");
    stage.end();
}

#[test]
fn copies_stand_for_files_that_cannot_be_read() {
    let dir = tempfile::tempdir().expect("dir");
    let pair = PairFile { name: "web".into(), path: "/etc/psync/web.toml".into() };
    let said = || match line(&pair, Some(dir.path())) {
        Ok(_) => "good".to_owned(),
        Err(why) => why,
    };
    fs::write(dir.path().join("conf"), "-").expect("write");
    assert_eq!(said(), "/etc/psync/web.toml: there is no such file");
    fs::write(dir.path().join("conf"), "[left]\nroot = 7\n").expect("write");
    assert!(said().starts_with("/etc/psync/web.toml:2: left.root: "), "{}", said());
    let text = "ssh_options = [\"-i\", \"/etc/psync/ssh/web\", \"-o\", \"UserKnownHostsFile=/var/lib/psync/none\"]\n\
                [left]\nroot = \"/l\"\n[right]\nroot = \"/r\"\nhost = \"files2\"\n";
    fs::write(dir.path().join("conf"), text).expect("write");
    fs::write(dir.path().join("key"), "-").expect("write");
    assert!(said().starts_with("/etc/psync/ssh/web: there is no such file"), "{}", said());
    fs::write(dir.path().join("key"), "a key").expect("write");
    let hosts = credential("web", "/var/lib/psync/none");
    assert!(said().starts_with("/var/lib/psync/none: there is no such file"), "{}", said());
    fs::write(dir.path().join(&hosts), "").expect("write");
    assert_eq!(said(), "good");
    let settings = config::load(&dir.path().join("conf")).expect("good").0;
    let settings = with_copies(&settings, "web", dir.path()).expect("good");
    let here = dir.path().display();
    assert_eq!(settings.program.ssh_options[1], format!("{here}/key"));
    assert_eq!(settings.program.ssh_options[3], format!("UserKnownHostsFile={here}/{hosts}"));
}
