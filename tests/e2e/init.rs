//! `psync init`: what it makes, what it leaves alone, and that it says what the README says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::users::*;
use crate::support::{Once, Pair, once, tools};

fn init(file: &Path, more: &[&str]) -> Once {
    once(&[&["init", file.to_str().unwrap()], more].concat())
}

const WEB: &[&str] = &["-r", "files2", "/srv/web", "/srv/web"];

/// The lines of the README's commands for two servers.
fn readme() -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = text.split("\n## Two servers\n").nth(1).unwrap().split("\n## ").next().unwrap().to_owned();
    let blocks = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned());
    blocks.collect::<String>().lines().map(String::from).collect()
}

#[test]
fn it_makes_file_and_key_and_prints_the_commands_of_the_readme() {
    if !tools::has("ssh-keygen") {
        return;
    }
    let pair = Pair::new();
    let etc = pair.beside("etc/psync");
    let file = etc.join("web.toml");
    let once = init(&file, WEB);
    assert_eq!(once.code(), 0, "{}", once.stderr);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let key = etc.join("ssh/web");
    assert_eq!((mode(&file), mode(&key), mode(key.parent().unwrap())), (0o644, 0o600, 0o700));
    let public = read(etc.join("ssh/web.pub"));
    assert!(public.starts_with("ssh-ed25519 "), "{public}");

    // Word by word, but for where this test keeps its files.
    let here = etc.to_str().unwrap();
    let printed = once.stdout.replace(here, "/etc/psync");
    let printed: Vec<&str> = printed.lines().collect();
    let other_steps = ["# on ", "apt-get install ", "ssh-keygen -q ", "cat /etc/psync/ssh/web.pub"];
    for line in readme().iter().filter(|line| !other_steps.iter().any(|step| line.starts_with(step))) {
        let line = line.replace("PUBLIC-KEY", public.trim());
        assert!(printed.contains(&line.as_str()), "the README says {line:?}, and not\n{}", once.stdout);
    }
    // What it made is a pair's file, and what it prints makes the same one.
    let text = read(&file);
    assert!(once.stdout.contains(&format!("cat > {} <<'END'\n{text}END\n", file.display())), "{}", once.stdout);
    let shown = crate::support::once(&["config", "check", file.to_str().unwrap()]);
    assert_eq!(shown.code(), 0, "{}", shown.stdout);

    // Again: nothing is made anew.
    let before = [read(&file), read(&key), public.clone()];
    remove(etc.join("ssh/web.pub"));
    let again = init(&file, WEB);
    assert_eq!(again.code(), 0, "{}", again.stderr);
    assert!(again.stdout.contains("web.toml: is there, and stays as it is\n"), "{}", again.stdout);
    assert!(again.stdout.contains("ssh/web: is there, and is used\n"), "{}", again.stdout);
    assert_eq!([read(&file), read(&key)], before[..2]);
    let key_itself = public.split(' ').nth(1).unwrap();
    assert!(again.stdout.contains(key_itself), "the key's public half is made of it: {}", again.stdout);
}

#[test]
fn what_is_there_for_another_pair_is_never_overwritten() {
    if !tools::has("ssh-keygen") {
        return;
    }
    let pair = Pair::new();
    let file = pair.beside("web.toml");
    assert_eq!(init(&file, &["-r", "me@files2", "/srv/web", "/srv/web"]).code(), 0);
    assert!(read(&file).contains("user = \"me\"\n"));
    let text = read(&file);
    for (more, want) in [
        (WEB, "is there, and says right.user = \"me\": nothing was done"),
        (&["-r", "me@files3", "/srv/web", "/srv/web"], "is there, and says right.host = \"files2\": nothing was done"),
        (
            &["-r", "me@files2", "/srv/other", "/srv/web"],
            "is there, and says left.root = \"/srv/web\": nothing was done",
        ),
        (&["-r", "me@files2", "srv", "/srv/web"], "SRCROOT: srv is not absolute"),
        (&["-r=-oX", "/srv/web", "/srv/web"], "right.host: `-oX` begins with a dash"),
    ] {
        let once = init(&file, more);
        assert_eq!(once.code(), 1, "{more:?}: {}", once.stdout);
        assert!(once.stderr.trim_end().ends_with(want) && once.stdout.is_empty(), "{more:?}: {}", once.stderr);
        assert_eq!(read(&file), text);
    }
    // One that was made otherwise may not know the key.
    let (options, rest) = text.split_once('\n').unwrap();
    write(&file, rest);
    let once = init(&file, &["-r", "me@files2", "/srv/web", "/srv/web"]);
    assert_eq!(once.code(), 0, "{}", once.stderr);
    let look = format!(
        "web.toml: is there, and stays as it is; LOOK AT THIS: its ssh_options do not name the key: {options}\n"
    );
    assert!(once.stdout.contains(&look), "{}", once.stdout);
    write(&file, "nonsense = 1\n");
    let once = init(&file, WEB);
    assert!(once.code() == 1 && once.stderr.contains("unknown key `nonsense`"), "{}", once.stderr);
    assert_eq!(read(&file), "nonsense = 1\n");
}

/// What it prints for the right is understood by a shell, whatever the roots are called.
#[test]
fn roots_with_blanks_and_quotes_go_through_the_shell() {
    if !tools::has("ssh-keygen") {
        return;
    }
    let pair = Pair::new();
    let file = pair.beside("web.toml");
    let root = pair.beside("it's a \"root\" $HOME");
    let once = init(&file, &["-r", "files2", root.to_str().unwrap(), root.to_str().unwrap()]);
    assert_eq!(once.code(), 0, "{}", once.stderr);
    let right = once.stdout.split("# Then here").next().unwrap();
    let keys = pair.beside("authorized_keys");
    let script = right
        .replace("/var/lib/psync/.ssh/authorized_keys", keys.to_str().unwrap())
        .replace(file.to_str().unwrap(), pair.beside("copy.toml").to_str().unwrap());
    let script = script.replace("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub", ":");
    let script = format!("systemctl() {{ :; }}\n{script}");
    let out = std::process::Command::new("sh").args(["-eu", "-c", &script]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(root.is_dir());
    assert_eq!(read(pair.beside("copy.toml")), read(&file));
    let public = read(pair.beside("ssh/web.pub"));
    assert_eq!(read(&keys).trim(), format!("restrict,command=\"psync-agent connect web\" {}", public.trim()));
}

/// What is each host's own is no root.
#[test]
fn the_whole_system_is_no_root() {
    let pair = Pair::new();
    let file = pair.beside("web.toml");
    for (left, right) in
        [("/", "/"), ("/srv/web", "/"), ("/", "/srv/web"), ("/etc", "/srv/web"), ("/proc/1", "/srv/web")]
    {
        let once = init(&file, &["-r", "files2", left, right]);
        assert!(
            once.code() == 1 && once.stderr.contains("which belongs to one host"),
            "{left} {right}: {}",
            once.stderr
        );
        assert!(!Path::new(&file).exists(), "something was made");
    }
}
