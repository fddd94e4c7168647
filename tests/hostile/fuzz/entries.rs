//! What bytes of strangers reach, one function for each decoder: it must refuse or understand, and what it understood must
//! hold what the rest of psync relies on. Shared with the targets in `fuzz/`.

use std::ffi::OsStr;
use std::io::BufReader;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::LazyLock;

use psync::brain::control;
use psync::config::{self, Settings, SharedSettings};
use psync::filter::{Filter, Filters};
use psync::link::codec::{self, Lane};
use psync::link::frame::{self, MAX_PAYLOAD};
use psync::link::handshake::{Hello, Role};
use psync::link::pack::Unpacker;
use psync::link::{LinkError, failure, relay};
use psync::model::{Name, RelPath, Time, conflict, readable};
use psync::protocol::survey::{Answer, Ask};
use psync::protocol::{Reply, Request, Sums};
use psync::replica::archive::{Archive, Identity, Row, Signature, Since};
use psync::replica::metadata::acl::Acl;
use psync::replica::metadata::owners::Owners;
use psync::replica::sqlite::SqliteArchive;
use psync::replica::trash_list;
use psync::service::events;
use psync::transfer::Blocks;
use psync::transfer::rsync::server_arguments;
use serde_bytes::ByteBuf;

/// A decoder and its name.
pub type Entry = (&'static str, fn(&[u8]));

/// All of them.
pub const ENTRIES: &[Entry] = &[
    ("frames", frames),
    ("handshake", handshake),
    ("packed", packed),
    ("request", request),
    ("reply", reply),
    ("ask", ask),
    ("answer", answer),
    ("path", path),
    ("acl_portable", acl_portable),
    ("acl_kernel", acl_kernel),
    ("conflict_name", conflict_name),
    ("trash_list", trash_list),
    ("events", events),
    ("archive_file", archive_file),
    ("archive_cell", archive_cell),
    ("rsync_arguments", rsync_arguments),
    ("rsync_patterns", rsync_patterns),
    ("filters", filters),
    ("config_toml", config_toml),
    ("config_import", config_import),
    ("agent_settings", agent_settings),
    ("control_request", control_request),
    ("control_reply", control_reply),
    ("blocks", blocks),
    ("relay_words", relay_words),
    ("ssh_words", ssh_words),
    ("pair_name", pair_name),
];

/// The function of one target.
pub fn entry(name: &str) -> fn(&[u8]) {
    ENTRIES.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no entry {name}")).1
}

fn frames(bytes: &[u8]) {
    let (mut input, mut payload) = (bytes, Vec::new());
    while let Ok(Some(head)) = frame::read(&mut input, &mut payload) {
        assert!(head.length == payload.len() && payload.len() <= MAX_PAYLOAD);
    }
}

fn handshake(bytes: &[u8]) {
    for role in [Role::Brain, Role::Agent, Role::Surveyor] {
        let ours = Hello::new(role, "web");
        if let Ok(theirs) = ours.receive(&mut BufReader::new(bytes)) {
            assert!((theirs.role == Role::Agent) != (role == Role::Agent));
            assert!(theirs.pair.is_empty() || theirs.pair == "web");
            assert!(is_printable(&theirs.name) && is_printable(&theirs.program));
        }
    }
}

fn packed(bytes: &[u8]) {
    let mut unpacker = Unpacker::default();
    for _ in 0..2 {
        if let Ok(plain) = unpacker.unpack(bytes) {
            assert!(plain.len() <= MAX_PAYLOAD);
        }
    }
}

fn message<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug + Lane>(bytes: &[u8]) {
    // No noise has a checksum: the decoder behind it is given one that fits.
    let _ = codec::decode::<T>(bytes);
    let mut payload = [&[0; codec::SUM], bytes].concat();
    codec::seal(&mut payload);
    let Ok(message) = codec::decode::<T>(&payload) else { return };
    let _ = message.is_data();
    match codec::encode(&message) {
        Ok(again) => assert_eq!(codec::decode::<T>(&again[frame::HEADER..]).expect("what was encoded"), message),
        Err(LinkError::TooLong(_)) => {}
        Err(error) => panic!("{error}"),
    }
    // Whoever logs it.
    let _ = format!("{message:?}").len();
}

fn request(bytes: &[u8]) {
    message::<Request>(bytes);
}

fn reply(bytes: &[u8]) {
    message::<Reply>(bytes);
}

fn ask(bytes: &[u8]) {
    message::<Ask>(bytes);
}

fn answer(bytes: &[u8]) {
    message::<Answer>(bytes);
}

fn path(bytes: &[u8]) {
    let Ok(path) = RelPath::new(bytes) else { return };
    assert!(path.as_bytes() == bytes && bytes.len() <= 4095);
    let names: Vec<Name> = path.names().collect();
    let inside = |name: &Name| {
        let name = name.as_bytes();
        !matches!(name, b"" | b"." | b"..") && name.len() <= 255 && !name.iter().any(|byte| matches!(byte, b'/' | 0))
    };
    assert!(names.iter().all(inside));
    let again = names.iter().try_fold(RelPath::root(), |path, name| path.join(name));
    assert_eq!(again, Ok(path.clone()));
    assert!(path.ancestors().all(|above| path.is_below(&above) && above < path));
    assert!(is_printable(&path.to_string()));
    if let Some((parent, _)) = path.split() {
        assert_eq!(path.rebase(&parent, &RelPath::root()).map(|path| path.names().count()), Some(1));
    }
}

/// What goes to a terminal or a log as a line.
fn is_printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

static OWNERS: LazyLock<Owners> = LazyLock::new(|| Owners::new(config::Owner::Numeric));

fn acl_portable(bytes: &[u8]) {
    let Ok(acl) = Acl::from_portable(bytes) else { return };
    let portable = acl.to_portable().expect("it was one");
    assert_eq!(Acl::from_portable(&portable), Ok(acl.clone()));
    assert!(acl.group_bits() <= 7);
    let kernel = acl.to_kernel(&OWNERS);
    if kernel.whole {
        assert!(Acl::from_kernel(&kernel.bytes, &OWNERS).is_ok());
    }
}

fn acl_kernel(bytes: &[u8]) {
    let Ok(acl) = Acl::from_kernel(bytes, &OWNERS) else { return };
    let portable = acl.to_portable().expect("it was one");
    assert_eq!(Acl::from_portable(&portable), Ok(acl));
}

fn conflict_name(bytes: &[u8]) {
    let Ok(name) = Name::new(bytes) else { return };
    let _ = conflict::is_copy_name(&name);
    let time = bytes.iter().fold(0_i64, |time, byte| time.wrapping_mul(131).wrapping_add(i64::from(*byte)));
    for (side, digits) in [("left", None), ("right", Some("0123"))] {
        let copy = conflict::copy_name(&name, side, time, digits);
        assert!(copy.as_bytes().len() <= 255 && Name::new(copy.as_bytes()).is_ok());
    }
}

fn trash_list(bytes: &[u8]) {
    for (id, listed) in trash_list::read(bytes) {
        assert!(!id.as_bytes().contains(&b'/') && RelPath::new(listed.path.as_bytes()).is_ok());
    }
}

/// A file of this process's own, on which a decoder that reads files is tried.
fn on_file(what: &str, bytes: &[u8], run: impl FnOnce(&Path)) {
    let dir = if Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
    let thread = format!("{:?}", std::thread::current().id());
    let file = dir.join(format!("psync-fuzz-{what}-{}-{thread}", std::process::id()));
    std::fs::write(&file, bytes).expect("room in memory");
    run(&file);
    let _ = std::fs::remove_file(&file);
}

fn events(bytes: &[u8]) {
    on_file("events", bytes, |file| {
        let root = file.with_extension("root");
        let kept = events::events_of(&root, "web");
        let dir = kept.parent().expect("below the root");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).expect("room in memory");
        std::fs::rename(file, &kept).expect("one file system");
        let (events, mut reader) = events::Reader::open(&root, "web").expect("it can be read");
        let _ = events::double_edits(&events, 60).len();
        assert!(reader.more().expect("it can be read").is_empty());
        let _ = std::fs::remove_dir_all(&root);
    });
}

/// An archive with some rows in it, as a file.
pub static ARCHIVE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut made = Vec::new();
    on_file("made", b"", |file| {
        let (mut archive, _) = SqliteArchive::open(file, (2, Time::default())).expect("an archive");
        for (node, name) in (2..).zip(["a", "b", "c"]) {
            archive.put(&row(node, name)).expect("a row");
        }
        archive.commit().expect("room");
        drop(archive);
        made = std::fs::read(file).expect("the file");
    });
    made
});

fn row(node: u64, name: &str) -> Row {
    use psync::model::{Attrs, Content, Hash, Principal};
    let xattrs = [(Box::from(&b"user.x"[..]), Box::from(&b"value"[..]))].into_iter().collect();
    let user = Principal::Name("root".into());
    let attrs = Attrs { mode: 0o644, user, group: Principal::Id(7), mtime: Time { secs: 5, nanos: 6 }, xattrs };
    let content = Content::File { size: 9, hash: Some(Hash([node as u8; 32])) };
    let stat = Time { secs: 1, nanos: 2 };
    let signature =
        Signature { ino: node, btime: stat, size: 9, mtime: stat, ctime: stat, mode: 0o100_644, uid: 0, gid: 0 };
    Row {
        node,
        parent: 1,
        name: Name::new(name.as_bytes()).expect("a name"),
        generation: node,
        entry: psync::model::Entry { content, attrs: attrs.clone() },
        achieved: Some(attrs),
        signature: Some(signature),
        since: Since::Came(1_700_000_000),
    }
}

fn read_all(file: &Path) {
    let Ok((archive, _)) = SqliteArchive::open(file, (2, Time::default())) else { return };
    let _: Result<Identity, _> = archive.identity();
    for row in archive.rows_above(0).unwrap_or_default() {
        let _ = psync::replica::archive::path_of(&archive, row.node);
        let _ = archive.children(row.node);
    }
    let _ = archive.children(1);
    let _ = archive.tombstones_above(0);
    let _ = archive.intents();
    let _ = archive.trash();
    let _ = archive.count();
}

fn archive_file(bytes: &[u8]) {
    on_file("archive", bytes, read_all);
}

/// One cell of a sound archive holds something else: `TABLE COLUMN KIND VALUE...`.
fn archive_cell(bytes: &[u8]) {
    let Some(([table, column, kind], value)) = bytes.split_first_chunk::<3>() else { return };
    on_file("cell", &ARCHIVE, |file| {
        let connection = rusqlite::Connection::open(file).expect("an archive");
        let tables = ["rows", "meta", "tombstones", "intents", "trash"];
        let table = tables[usize::from(*table) % tables.len()];
        let columns = connection.prepare(&format!("SELECT * FROM {table}")).expect("a table");
        let names: Vec<String> = columns.column_names().into_iter().map(str::to_owned).collect();
        drop(columns);
        let number = value.iter().fold(0_i64, |number, byte| number.wrapping_mul(256).wrapping_add(i64::from(*byte)));
        let value = match kind % 5 {
            0 => rusqlite::types::Value::Null,
            1 => rusqlite::types::Value::Integer(number),
            2 => rusqlite::types::Value::Real(f64::from_bits(number.cast_unsigned())),
            3 => rusqlite::types::Value::Text(String::from_utf8_lossy(value).into_owned()),
            _ => rusqlite::types::Value::Blob(value.to_vec()),
        };
        let column = &names[usize::from(*column) % names.len()];
        // What the table itself forbids is no state of it.
        let _ = connection.execute(&format!("UPDATE {table} SET \"{column}\" = ?1"), [value]);
        drop(connection);
        read_all(file);
    });
}

fn rsync_arguments(bytes: &[u8]) {
    let words: Vec<ByteBuf> = bytes.split(|byte| *byte == 0).map(|word| ByteBuf::from(word.to_vec())).collect();
    let name = Name::new(b"-n a").expect("a name");
    let Ok(arguments) = server_arguments(&words, Some(OsStr::new("/basis")), &name) else { return };
    let text: Vec<&[u8]> = arguments.iter().map(|word| word.as_encoded_bytes()).collect();
    let [first, options @ .., basis, dot, to] = &text[..] else { panic!("too few: {arguments:?}") };
    assert_eq!((*first, *basis, *dot, *to), (&b"--server"[..], &b"--copy-dest=/basis"[..], &b"."[..], &b"./-n a"[..]));
    // Options that name a file, run a program, send instead of receive or delete are none of them.
    let harmless = |word: &&[u8]| {
        let at = word.iter().position(|byte| *byte == b'=').unwrap_or(word.len());
        let option = &word[..at];
        let forbidden: [&[u8]; 12] = [
            b"--sender",
            b"--daemon",
            b"--config",
            b"--copy-dest",
            b"--link-dest",
            b"--compare-dest",
            b"--temp-dir",
            b"--partial-dir",
            b"--backup-dir",
            b"--log-file",
            b"--files-from",
            b"--write-devices",
        ];
        word.starts_with(b"-") && !forbidden.contains(&option) && !option.contains(&b'/') && !word.contains(&b' ')
    };
    assert!(options.iter().all(harmless), "{arguments:?}");
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn try_filter(filter: &Filter) {
    for path in ["", "a", "a/b.tmp", ".git/x", "d e/\u{e4}"] {
        let path = RelPath::new(path.as_bytes()).expect("a path");
        let _ = (filter.excluded(&path), filter.temporary(&path), filter.left_out(&path, true), filter.digest());
    }
}

fn rsync_patterns(bytes: &[u8]) {
    let rsync_excludes: Vec<String> = text(bytes).lines().take(50).map(str::to_owned).collect();
    let settings = Filters { rsync_excludes, ..Filters::default() };
    if let Ok(filter) = Filter::new(&settings) {
        try_filter(&filter);
    }
}

fn filters(bytes: &[u8]) {
    let text = text(bytes);
    let mut parts = text.splitn(3, '\n').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    let settings = Filters { excludes: part(), tempfiles: part(), safesuffix: part(), ..Filters::default() };
    if let Ok(filter) = Filter::new(&settings) {
        try_filter(&filter);
    }
}

fn settings(settings: &Settings) {
    if settings.check().is_ok() {
        let agent = &settings.shared;
        assert_eq!(agent.check(), Ok(()), "what a pair's file says is refused by its agent");
        let json = serde_json::to_string(agent).expect("plain data");
        assert_eq!(&SharedSettings::from_json(&json).expect("what was written"), agent);
    }
}

fn config_toml(bytes: &[u8]) {
    match config::parse(Path::new("/etc/psync/web.toml"), &text(bytes)) {
        Ok((parsed, _)) => settings(&parsed),
        Err(error) => assert!(error.to_string().starts_with("/etc/psync/web.toml")),
    }
}

fn config_import(bytes: &[u8]) {
    let imported = config::import("/etc/osync/conf.py", &text(bytes));
    if let Err(error) = config::parse(Path::new("imported"), &imported.toml) {
        // A value that the original took may be none that psync takes; but what is written is TOML.
        assert!(!matches!(error, config::LoadError::Syntax { .. }), "{error}\n{}", imported.toml);
    }
}

fn agent_settings(bytes: &[u8]) {
    if let Ok(settings) = SharedSettings::from_json(&text(bytes)) {
        let _ = settings.check();
    }
}

fn control_request(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<control::Request>(bytes) {
        let json = serde_json::to_string(&request).expect("plain data");
        assert_eq!(serde_json::from_str::<control::Request>(&json).expect("what was written"), request);
    }
}

fn control_reply(bytes: &[u8]) {
    if let Ok(reply) = serde_json::from_slice::<control::Reply>(bytes) {
        let _ = serde_json::to_string(&reply).expect("plain data").len();
    }
}

fn blocks(bytes: &[u8]) {
    let (mut blocks, mut rest) = (Blocks::new(), bytes);
    while let Ok((sums, more)) = postcard::take_from_bytes::<Sums>(rest) {
        rest = more;
        match blocks.hear(&sums) {
            None => return,
            Some(false) => {}
            Some(true) => break,
        }
    }
    let window = &rest[..rest.len().min(1 << 16)];
    if let Some((at, block)) = blocks.search(window) {
        assert!(at + blocks.size() as usize <= window.len());
        let _ = blocks.is(block, &window[at..at + blocks.size() as usize]);
    }
    if !blocks.is_empty() {
        for offset in [0, 64, u64::MAX] {
            let _ = blocks.expected(window, offset, Some(offset));
        }
    }
    let _ = blocks.tail();
}

fn relay_words(bytes: &[u8]) {
    if let Ok(Some(words)) = relay::receive_words(&mut &bytes[..]) {
        let borrowed: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let mut again = Vec::new();
        relay::send_words(&mut again, &borrowed).expect("a vector");
        assert!(bytes.starts_with(&again));
    }
}

fn ssh_words(bytes: &[u8]) {
    let said: Vec<String> = text(bytes).lines().map(str::to_owned).collect();
    for error in [LinkError::Ended, LinkError::NotPsync { said: readable(bytes) }] {
        let key = psync::config::host_key(&Settings::default());
        let _ = failure::explain(&error, &said, None, &key, Some("files2")).to_string().len();
    }
}

fn pair_name(bytes: &[u8]) {
    let text = text(bytes);
    if config::valid_pair(&text) {
        assert!(Name::new(text.as_bytes()).is_ok() && !text.starts_with('.') && text.len() <= 64);
    }
    let made = config::default_pair(Path::new(&*text), Some(&text), Path::new("/"));
    assert!(config::valid_pair(&made), "{made:?}");
}
