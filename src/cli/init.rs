//! `psync init`: a pair's file and key on the left, and the commands for the right.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::UsageError;
use super::console::print;
use super::human::words;
use super::neighbours::{self, Which};
use super::pair::PairFile;
use crate::config::{self, KNOWN_HOSTS, Settings, quote};

/// What is each host's own: no root may hold it.
const NOT_SHARED: [&str; 9] =
    ["/etc/psync", "/var/lib/psync", "/usr", "/boot", "/root/.ssh", "/proc", "/sys", "/dev", "/run"];
/// What no root may lie in.
const KERNELS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Whom the right host lets in for the pair, if nobody else is named.
const USER: &str = "psync";

#[derive(Debug, clap::Args)]
pub struct InitOptions {
    /// The pair's name, or the path of the file to be made: the key then lies in ssh/ beside it
    pub pair: String,
    /// The right host, [user@]host; the user is psync if none is named
    #[arg(short, long, value_name = "HOST")]
    pub remote_host: String,
    /// The left root, on this host
    #[arg(value_name = "SRCROOT")]
    pub left: PathBuf,
    /// The right root, on the right host
    #[arg(value_name = "DSTROOT")]
    pub right: PathBuf,
}

/// Makes what is missing of the pair's file and its key, and prints what is to be run then.
pub fn main(options: &InitOptions) -> Result<u8, UsageError> {
    let pair = PairFile::of(&options.pair)?;
    let wanted = Wanted::of(options, &pair)?;
    wanted.check(&pair)?;
    let mut done = vec![wanted.write_file(&pair)?];
    done.push(make_key(&wanted.key)?);
    let public = public_key(&wanted.key)?;
    let file = fs::read_to_string(&pair.path).map_err(|e| cannot("read", &pair.path, &e))?;
    print(wanted.to_do(&pair, &done, &file, &public));
    Ok(0)
}

/// What the pair is to be.
struct Wanted {
    left: String,
    right: String,
    host: String,
    user: String,
    key: PathBuf,
}

impl Wanted {
    fn of(options: &InitOptions, pair: &PairFile) -> Result<Wanted, UsageError> {
        let text = |what: &str, path: &Path| match path.to_str() {
            Some(text) if path.is_absolute() => Ok(text.to_owned()),
            Some(_) => Err(UsageError(format!("{what}: {} is not absolute", path.display()))),
            None => Err(UsageError(format!("{what}: {} is not UTF-8, as the pair's file is", path.display()))),
        };
        let (user, host) = options.remote_host.rsplit_once('@').unwrap_or((USER, &options.remote_host));
        let directory = pair.path.parent().unwrap_or(Path::new("/"));
        Ok(Wanted {
            left: text("SRCROOT", &options.left)?,
            right: text("DSTROOT", &options.right)?,
            host: host.to_owned(),
            user: user.to_owned(),
            key: directory.join("ssh").join(&pair.name),
        })
    }

    /// The pair's file, the same on both hosts.
    fn file(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        format!(
            "{}\n\n[left]\nroot = {}\n\n[right]\nroot = {}\nhost = {}\nuser = {}\n",
            self.ssh_options(),
            quoted(&self.left),
            quoted(&self.right),
            quoted(&self.host),
            quoted(&self.user)
        )
    }

    fn ssh_options(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let key = quoted(&self.key.to_string_lossy());
        let known = quoted(&format!("UserKnownHostsFile={KNOWN_HOSTS}"));
        format!("ssh_options = [\"-i\", {key}, \"-o\", {known}, \"-o\", \"ConnectTimeout=10\"]")
    }

    /// Nothing is made for what could never run.
    fn check(&self, pair: &PairFile) -> Result<(), UsageError> {
        let (settings, _) = config::parse(&pair.path, &self.file()).map_err(|e| UsageError(e.to_string()))?;
        settings.check().map_err(|e| UsageError(e.to_string()))?;
        for (what, root) in [("SRCROOT", &self.left), ("DSTROOT", &self.right)] {
            let holds = |at: &&&str| Path::new(at).starts_with(root);
            let (mine, lies) =
                (NOT_SHARED.iter().find(holds), KERNELS.iter().find(|at| Path::new(root).starts_with(at)));
            if let Some(at) = mine.or(lies) {
                let why = format!(
                    "{what}: {root} holds or is in {at}, which belongs to one host: name a directory of users' files"
                );
                return Err(UsageError(why));
            }
        }
        neighbours::check(&neighbours::of_pair(&pair.name, &settings), Which::Configured)
    }

    /// Writes the file, or takes the one that is there if it is of this pair. A line on what was done.
    fn write_file(&self, pair: &PairFile) -> Result<String, UsageError> {
        let path = &pair.path;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| cannot("make", parent, &e))?;
        }
        match OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
            Ok(mut file) => {
                file.write_all(self.file().as_bytes()).map_err(|e| cannot("write", path, &e))?;
                Ok(format!("{}: made", path.display()))
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let (there, _) = config::load(path).map_err(|e| UsageError(e.to_string()))?;
                if let Some(what) = self.differs_from(&there) {
                    let path = path.display();
                    return Err(UsageError(format!("{path}: is there, and says {what}: nothing was done")));
                }
                let key = self.key.to_string_lossy();
                let named = there.right.proxy_command.is_some()
                    || there.program.ssh_options.iter().any(|word| word.contains(&*key));
                let missing = format!("; LOOK AT THIS: its ssh_options do not name the key: {}", self.ssh_options());
                let missing = if named { "" } else { &missing };
                Ok(format!("{}: is there, and stays as it is{missing}", path.display()))
            }
            Err(e) => Err(cannot("make", path, &e)),
        }
    }

    /// What another file says of the same.
    fn differs_from(&self, there: &Settings) -> Option<String> {
        let said = |key: &str, value: &str, wanted: &str| (value != wanted).then(|| format!("{key} = {value:?}"));
        said("left.root", &there.left.root.to_string_lossy(), &self.left)
            .or_else(|| said("right.root", &there.right.root.to_string_lossy(), &self.right))
            .or_else(|| said("right.host", there.right.host.as_deref().unwrap_or_default(), &self.host))
            .or_else(|| said("right.user", there.right.user.as_deref().unwrap_or_default(), &self.user))
    }

    /// Commands for a shell of root, on the right first, then here.
    fn to_do(&self, pair: &PairFile, done: &[String], file: &str, public: &str) -> String {
        let Wanted { left, right, host, .. } = self;
        let (name, path) = (&pair.name, pair.path.display());
        let word = |text: &str| String::from_utf8_lossy(&quote(text.as_bytes())).into_owned();
        let done: String = done.iter().map(|line| format!("# {line}\n")).collect();
        // A line of the file that ends the text would end it too early.
        let mut end = "END".to_owned();
        while file.lines().any(|line| line == end) {
            end.push('_');
        }
        let (left, right, host) = (word(left), word(right), word(host));
        let entry = word(&format!("restrict,command=\"psync-agent connect {name}\" {public}"));
        format!(
            "{done}\n\
             # On the right, as root, where psync is installed:\n\
             cat > {path} <<'{end}'\n{file}{end}\n\
             mkdir -p {right}\n\
             systemctl daemon-reload\n\
             echo {entry} >> /var/lib/psync/.ssh/authorized_keys\n\
             systemctl enable --now psync-agent@{name}.socket\n\
             ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\n\
             \n\
             # Then here, as root. The key that this fetches must be the one that the last command has shown there:\n\
             ssh-keyscan -t ed25519 {host} >> {KNOWN_HOSTS}\n\
             ssh-keygen -lf {KNOWN_HOSTS}\n\
             mkdir -p {left}\n\
             systemctl daemon-reload\n\
             systemctl enable --now psync-brain@{name}\n\
             psync status {name}\n"
        )
    }
}

/// Makes the key if it is not there. A line on what was done.
fn make_key(key: &Path) -> Result<String, UsageError> {
    if key.exists() {
        return Ok(format!("{}: is there, and is used", key.display()));
    }
    if let Some(directory) = key.parent()
        && !directory.exists()
    {
        DirBuilder::new().mode(0o700).create(directory).map_err(|e| cannot("make", directory, &e))?;
    }
    keygen(&["-q", "-t", "ed25519", "-N", "", "-f"], key)?;
    Ok(format!("{}: made, without a passphrase", key.display()))
}

/// One line: kind, key, comment.
fn public_key(key: &Path) -> Result<String, UsageError> {
    let beside = PathBuf::from(format!("{}.pub", key.display()));
    let text = match fs::read_to_string(&beside) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => keygen(&["-y", "-P", "", "-f"], key)?,
        Err(e) => return Err(cannot("read", &beside, &e)),
    };
    match text.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => Err(UsageError(format!("{}: holds no key", beside.display()))),
    }
}

fn keygen(arguments: &[&str], key: &Path) -> Result<String, UsageError> {
    let output = Command::new("ssh-keygen").args(arguments).arg(key).stdin(Stdio::null()).output();
    let output = output.map_err(|e| UsageError(format!("ssh-keygen: {} (install an ssh client)", words(&e))))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
        return Err(UsageError(format!("ssh-keygen {}: {said}", key.display())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> UsageError {
    let hint = if error.kind() == io::ErrorKind::PermissionDenied { " (run this as root)" } else { "" };
    UsageError(format!("{}: cannot {what}: {}{hint}", path.display(), words(error)))
}
