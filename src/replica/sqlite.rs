//! The archive in SQLite.
//!
//! One connection holds the file exclusively (a second psync is refused; the write-ahead log needs no shared memory).
//! Changes run in a transaction that the first one opens and [`Archive::commit`] ends with one sync of the log.
//! While psync is stopped, `sqlite3 archive.db 'SELECT * FROM listing'` shows it to people.

mod aside;
mod codec;
mod directories;
mod schema;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Params, Row as Columns, params};

use crate::model::{Generation, Name, NodeId, Time};

use super::archive::{Archive, ArchiveError, Identity, Intent, IntentStep, Row, Tombstone, TrashItem, check_number};
use super::real::{ARCHIVE, OwnDir};
use super::trash_list::TrashList;
use codec::{Fault, bits, blob, int};
use directories::Directories;
use schema::Found;

/// Pages of the log that are carried over into the file at once, 4 KiB each: a large value spares syncs, a
/// small one disk space.
const CHECKPOINT_PAGES: u32 = 2048;
const CACHE_KIB: u32 = 6 * 1024;

/// The archive of one side in a file, held exclusively until it is dropped. What was not committed is then gone.
pub struct SqliteArchive {
    connection: Connection,
    /// The number of rows, once somebody asked.
    count: Cell<Option<u64>>,
    /// Whether files are counted, which begins when somebody asks.
    counts_files: Cell<bool>,
    directories: RefCell<Directories>,
    /// What lies in the trash, for others; `None` in memory. It holds the directory that the connection's path leads to,
    /// and so goes after it.
    list: Option<TrashList>,
    /// Where it lies; `None` in memory.
    home: Option<Home>,
    /// A transaction was begun and is not ended.
    changing: bool,
    /// Why the archive cannot be used any more.
    failed: Option<ArchiveError>,
}

/// Where an archive lies, and the root that one begun anew belongs to.
#[derive(Clone)]
struct Home {
    own: OwnDir,
    name: String,
    root: (u64, Time),
}

impl SqliteArchive {
    /// Opens the archive in a pair's own directory, or makes one there with a random id and this root (inode and birth time) if the
    /// file is missing or empty. The flag tells whether it was made just now; if not, `root` is not looked at.
    ///
    /// # Errors
    /// The file is in use, is no archive, was made by a newer psync, is corrupt, or cannot be read or written.
    /// Such a file is left as it is.
    pub fn open_in(own: &OwnDir, root: (u64, Time)) -> Result<(SqliteArchive, bool), ArchiveError> {
        open(own, ARCHIVE, root).map_err(|fault| told(&own.shown().join(ARCHIVE), &fault))
    }

    /// The same for any file: for tests and measurements.
    pub fn open(path: &Path, root: (u64, Time)) -> Result<(SqliteArchive, bool), ArchiveError> {
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(ARCHIVE);
        let own = OwnDir::alone(above).map_err(|error| told(path, &Fault::Other(error.to_string())))?;
        open(&own, name, root).map_err(|fault| told(path, &fault))
    }

    /// Stands for the damaged archive in a pair's own directory: it tells nothing but that, and can be begun anew.
    pub fn damaged(own: &OwnDir, root: (u64, Time), why: ArchiveError) -> Result<SqliteArchive, ArchiveError> {
        SqliteArchive::stand_in(Home { own: own.clone(), name: ARCHIVE.to_owned(), root }, why)
    }

    fn stand_in(home: Home, why: ArchiveError) -> Result<SqliteArchive, ArchiveError> {
        let mut archive = SqliteArchive::in_memory(home.root)?;
        archive.home = Some(home);
        archive.failed = Some(why);
        Ok(archive)
    }

    /// An archive that is gone with this value: for a dry run on a root that has none.
    pub fn in_memory(root: (u64, Time)) -> Result<SqliteArchive, ArchiveError> {
        let make = || {
            let connection = Connection::open_in_memory()?;
            create(&connection, root)?;
            Ok(SqliteArchive::on(connection))
        };
        make().map_err(|fault: Fault| ArchiveError::new("open", fault.to_string()))
    }

    fn on(connection: Connection) -> SqliteArchive {
        let (count, counts_files, directories) = (Cell::new(None), Cell::new(false), RefCell::default());
        SqliteArchive {
            connection,
            count,
            counts_files,
            directories,
            list: None,
            home: None,
            changing: false,
            failed: None,
        }
    }

    /// Runs a change within the transaction. After a failure SQLite may have kept a part of it: all is rolled back.
    fn change<T>(
        &mut self,
        operation: &'static str,
        change: impl FnOnce(&Connection, &Cell<Option<u64>>) -> Result<T, Fault>,
    ) -> Result<T, ArchiveError> {
        self.usable(operation)?;
        self.begin().and_then(|()| change(&self.connection, &self.count)).map_err(|fault| self.fail(operation, &fault))
    }

    fn begin(&mut self) -> Result<(), Fault> {
        match (self.changing, self.connection.is_autocommit()) {
            (true, false) => Ok(()),
            (true, true) => Err(Fault::Other("the transaction was lost".into())),
            (false, _) => {
                self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
                self.changing = true;
                Ok(())
            }
        }
    }

    fn usable(&self, operation: &'static str) -> Result<(), ArchiveError> {
        match &self.failed {
            None => Ok(()),
            Some(why) if why.damaged => Err(ArchiveError { operation, ..why.clone() }),
            Some(why) => {
                Err(ArchiveError::new(operation, format!("it failed before: {}: {}", why.operation, why.detail)))
            }
        }
    }

    fn fail(&mut self, operation: &'static str, fault: &Fault) -> ArchiveError {
        let error = ArchiveError { operation, detail: fault.to_string(), damaged: fault.is_damage() };
        if !self.connection.is_autocommit() {
            // If this fails as well, closing the connection or the next opening rolls back.
            _ = self.connection.execute_batch("ROLLBACK");
        }
        self.failed = Some(error.clone());
        error
    }

    /// All rows of a query's answer.
    fn all<T>(
        &self,
        operation: &'static str,
        sql: &str,
        params: impl Params,
        read: impl Fn(&Columns<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, ArchiveError> {
        self.usable(operation)?;
        select(&self.connection, sql, params, read).map_err(|fault| ArchiveError {
            operation,
            detail: fault.to_string(),
            damaged: fault.is_damage(),
        })
    }

    /// A row that is kept, or else read, and kept from then on.
    fn kept(
        &self,
        operation: &'static str,
        kept: impl FnOnce(&Directories) -> Option<Row>,
        read: impl FnOnce() -> Result<Option<Row>, ArchiveError>,
    ) -> Result<Option<Row>, ArchiveError> {
        self.usable(operation)?;
        if let Some(row) = kept(&self.directories.borrow()) {
            return Ok(Some(row));
        }
        let row = read()?;
        if let Some(row) = &row {
            self.directories.borrow_mut().keep(row);
        }
        Ok(row)
    }

    /// The first row of a query's answer.
    fn one<T>(
        &self,
        operation: &'static str,
        sql: &str,
        params: impl Params,
        read: impl Fn(&Columns<'_>) -> Result<T, Fault>,
    ) -> Result<Option<T>, ArchiveError> {
        Ok(self.all(operation, sql, params, read)?.into_iter().next())
    }
}

fn told(path: &Path, fault: &Fault) -> ArchiveError {
    let what = match fault {
        Fault::Sql(error) => reading(error),
        _ => "",
    };
    let detail = format!("{}: {what}{fault}", path.display());
    ArchiveError { operation: "open", detail, damaged: fault.is_damage() }
}

/// What the errors that users meet at the opening mean.
fn reading(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "in use by another psync (or open in sqlite3): ",
        Some(ErrorCode::NotADatabase) => "this is no archive of psync: ",
        Some(ErrorCode::DatabaseCorrupt) => "the archive is damaged: ",
        _ => "",
    }
}

fn open(own: &OwnDir, name: &str, root: (u64, Time)) -> Result<(SqliteArchive, bool), Fault> {
    let other = |error: std::io::Error| Fault::Other(error.to_string());
    crate::sys::sqlite::keep_descriptors().map_err(other)?;
    // SQLite opens these by their paths.
    for suffix in ["", "-wal", "-journal", "-shm"] {
        own.require_own_or_none(&format!("{name}{suffix}")).map_err(other)?;
    }
    let path = &own.path_of(name);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::ZERO)?;
    // Until we know that it is ours, closing it must not carry a log over into the file.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Before anything is read, so that the log never needs shared memory.
    connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA trusted_schema = OFF;")?;
    let found = schema::inspect(&connection)?;
    let fresh = match found {
        Found::Archive | Found::Older(_) => false,
        // SQLite takes a file of one byte for an empty one. (An interrupted creation was rolled back to no bytes.)
        Found::Nothing if std::fs::metadata(path).is_ok_and(|data| data.len() > 0) => {
            return Err(Fault::Corrupt("this is no archive of psync".into()));
        }
        Found::Nothing => true,
        Found::Foreign => return Err(Fault::Corrupt("this is another program's database, no archive of psync".into())),
        Found::Newer(version) => {
            let known = schema::VERSION;
            return Err(Fault::Other(format!(
                "the archive was made by a newer psync (schema {version}, this one knows {known})"
            )));
        }
    };
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    connection.execute_batch("PRAGMA synchronous = FULL;")?;
    if fresh {
        create(&connection, root)?;
    }
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::Other(format!("the file system allows no write-ahead log (journal mode {mode})")));
    }
    connection.execute_batch(&format!(
        "PRAGMA cache_size = -{CACHE_KIB}; PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};
         PRAGMA journal_size_limit = 67108864;"
    ))?;
    connection.set_prepared_statement_cache_capacity(64);
    if let Found::Older(version) = found {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        schema::upgrade(&connection, version)?;
        connection.execute_batch("COMMIT")?;
    }
    schema::ensure_index(&connection)?;
    // Take the lock now, and see that the identity is whole.
    connection.execute_batch("BEGIN IMMEDIATE; COMMIT;")?;
    let mut archive = SqliteArchive::on(connection);
    let fault = |error: ArchiveError| match error.damaged {
        true => Fault::Corrupt(error.detail),
        false => Fault::Other(error.detail),
    };
    archive.identity().map_err(fault)?;
    let trash = archive.trash().map_err(fault)?;
    // Whether the other tables are there.
    archive.intents().map_err(fault)?;
    archive.one("rows", "SELECT node FROM rows LIMIT 1", [], |_| Ok(())).map_err(fault)?;
    archive.one("tombstones", "SELECT node FROM tombstones LIMIT 1", [], |_| Ok(())).map_err(fault)?;
    archive.list = Some(TrashList::beside(own.clone(), &trash));
    archive.home = Some(Home { own: own.clone(), name: name.to_owned(), root });
    Ok((archive, fresh))
}

/// Makes the tables and the identity in one transaction of the rollback journal, which also puts the file's name on disk.
fn create(connection: &Connection, root: (u64, Time)) -> Result<(), Fault> {
    let mut id = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut id))
        .map_err(|e| Fault::Other(format!("/dev/urandom: {e}")))?;
    connection.execute_batch("BEGIN EXCLUSIVE")?;
    schema::create(connection)?;
    let (ino, btime) = root;
    connection.execute(
        "INSERT INTO meta (id, archive, peer, generation, confirmed, boot, root_ino, root_btime, root_btime_ns, filters)
         VALUES (1, ?1, zeroblob(16), 0, 0, zeroblob(16), ?2, ?3, ?4, zeroblob(32))",
        params![&id[..], bits(ino), btime.secs, btime.nanos],
    )?;
    Ok(connection.execute_batch("COMMIT")?)
}

fn select<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    read: impl Fn(&Columns<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(columns) = rows.next()? {
        found.push(read(columns)?);
    }
    Ok(found)
}

fn run(connection: &Connection, sql: &str, params: impl Params) -> Result<u64, Fault> {
    Ok(connection.prepare_cached(sql)?.execute(params)? as u64)
}

/// Removes the row of a node and all below it; returns how many.
fn drop_below(connection: &Connection, node: NodeId) -> Result<u64, Fault> {
    // UNION, not UNION ALL: rows in a circle end as well.
    const SQL: &str = "DELETE FROM rows WHERE node IN (
        WITH RECURSIVE below (node) AS (
            VALUES (?1) UNION SELECT rows.node FROM rows JOIN below ON rows.parent = below.node
        ) SELECT node FROM below)";
    run(connection, SQL, [int(node)])
}

/// What storing a row did.
struct Stored {
    /// The node that had the name before.
    victim: Option<NodeId>,
    /// Rows that went with it.
    dropped: u64,
    /// There is one row more.
    added: bool,
}

fn put(connection: &Connection, row: &Row) -> Result<Stored, Fault> {
    const VICTIM: &str = "SELECT node FROM rows WHERE parent = ?1 AND name = ?2 AND node <> ?3";
    let key = params![int(row.parent), row.name.as_bytes(), int(row.node)];
    let victims = select(connection, VICTIM, key, |columns| Ok(columns.get::<_, i64>(0)?))?;
    let victim = victims.first().map(|victim| victim.cast_unsigned());
    let mut dropped = 0;
    let mut dir_time = None;
    if let Some(victim) = victim {
        dir_time = dir_time_of(connection, row.node)?;
        dropped += run(connection, "DELETE FROM rows WHERE node = ?1", [int(row.node)])?;
        dropped += drop_below(connection, victim)?;
    }
    // A node has the number of its first action, so that one is likely new; any other is likely there.
    let likely_new = dropped > 0 || row.node == row.generation;
    let mut added = likely_new && store(connection, &statements::INSERT, row)?;
    if !added && !store(connection, &statements::UPDATE, row)? {
        added = store(connection, &statements::INSERT, row)?;
    }
    if dir_time.is_some() {
        store_dir_time(connection, row.node, dir_time)?;
    }
    Ok(Stored { victim, dropped, added })
}

fn dir_time_of(connection: &Connection, node: NodeId) -> Result<Option<Time>, Fault> {
    const SQL: &str = "SELECT dir_mtime, dir_mtime_ns FROM rows WHERE node = ?1 AND dir_mtime IS NOT NULL";
    Ok(select(connection, SQL, [int(node)], |columns| codec::time(columns, 0))?.pop())
}

fn store_dir_time(connection: &Connection, node: NodeId, time: Option<Time>) -> Result<(), Fault> {
    const SQL: &str = "UPDATE rows SET dir_mtime = ?2, dir_mtime_ns = ?3 WHERE node = ?1";
    run(connection, SQL, params![int(node), time.map(|time| time.secs), time.map(|time| time.nanos)]).map(drop)
}

/// Whether the statement had an effect.
fn store(connection: &Connection, sql: &str, row: &Row) -> Result<bool, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    codec::bind_row(&mut statement, row)?;
    Ok(statement.raw_execute()? > 0)
}

/// The statements on whole rows, built once.
mod statements {
    use super::codec::ROW;
    use std::sync::LazyLock;

    fn select(rest: &str) -> String {
        format!("SELECT {ROW} FROM rows WHERE {rest}")
    }

    /// By its own index: SQLite takes others for better.
    fn unproven() -> String {
        format!("FROM rows INDEXED BY rows_unproven WHERE {}", super::schema::UNPROVEN)
    }

    fn parameters() -> String {
        (1..=ROW.split(',').count()).map(|at| format!("?{at}")).collect::<Vec<_>>().join(", ")
    }

    pub static INSERT: LazyLock<String> =
        LazyLock::new(|| format!("INSERT INTO rows ({ROW}) VALUES ({}) ON CONFLICT (node) DO NOTHING", parameters()));
    // Not the key itself: SQLite would take every update for a move of the whole row.
    pub static UPDATE: LazyLock<String> = LazyLock::new(|| {
        let set = ROW.split(',').enumerate().skip(1).map(|(at, column)| format!("{} = ?{}", column.trim(), at + 1));
        format!("UPDATE rows SET {} WHERE node = ?1", set.collect::<Vec<_>>().join(", "))
    });
    pub static CHILD: LazyLock<String> = LazyLock::new(|| select("parent = ?1 AND name = ?2"));
    pub static NODE: LazyLock<String> = LazyLock::new(|| select("node = ?1"));
    pub static CHILDREN: LazyLock<String> = LazyLock::new(|| select("parent = ?1 ORDER BY name"));
    pub static OBJECT: LazyLock<String> =
        LazyLock::new(|| select("ino = ?1 AND btime = ?2 AND btime_ns = ?3 ORDER BY node"));
    pub static UNPROVEN: LazyLock<String> =
        LazyLock::new(|| format!("SELECT {ROW} {} AND node > ?1 ORDER BY node LIMIT 1", unproven()));
    pub static COUNT_UNPROVEN: LazyLock<String> = LazyLock::new(|| format!("SELECT count(*) {}", unproven()));
    pub static ABOVE: LazyLock<String> = LazyLock::new(|| select("generation > ?1 ORDER BY generation, node"));
}

impl Archive for SqliteArchive {
    fn identity(&self) -> Result<Identity, ArchiveError> {
        const SQL: &str = "SELECT archive, peer, generation, confirmed, boot, root_ino, root_btime, root_btime_ns,
            filters, side, proven, met FROM meta";
        self.one("identity", SQL, [], codec::read_identity)?.ok_or_else(|| ArchiveError {
            operation: "identity",
            detail: "there is none".into(),
            damaged: true,
        })
    }

    fn set_identity(&mut self, identity: &Identity) -> Result<(), ArchiveError> {
        const SQL: &str = "UPDATE meta SET archive = ?1, peer = ?2, generation = ?3, confirmed = ?4, boot = ?5,
            root_ino = ?6, root_btime = ?7, root_btime_ns = ?8, filters = ?9, side = ?10, proven = ?11, met = ?12";
        check_number(identity.generation.max(identity.confirmed))?;
        let Identity { archive, peer, generation, confirmed, boot, proven, root, side, filters, met } = identity;
        let (ino, btime) = root;
        let (generation, confirmed, ino) = (int(*generation), int(*confirmed), bits(*ino));
        self.change("set identity", |connection, _| {
            let values = params![
                &archive[..],
                &peer[..],
                generation,
                confirmed,
                &boot[..],
                ino,
                btime.secs,
                btime.nanos,
                &filters[..],
                codec::side_number(*side),
                &proven[..],
                met
            ];
            run(connection, SQL, values).map(drop)
        })
    }

    fn child(&self, parent: NodeId, name: &Name) -> Result<Option<Row>, ArchiveError> {
        self.kept(
            "child",
            |kept| kept.child(parent, name),
            || self.one("child", &statements::CHILD, params![int(parent), name.as_bytes()], codec::read_row),
        )
    }

    fn child_node(&self, parent: NodeId, name: &Name) -> Result<Option<NodeId>, ArchiveError> {
        self.usable("child")?;
        let kept = self.directories.borrow().child_node(parent, name);
        match kept {
            Some(node) => Ok(Some(node)),
            None => Ok(self.child(parent, name)?.map(|row| row.node)),
        }
    }

    fn node(&self, node: NodeId) -> Result<Option<Row>, ArchiveError> {
        self.kept("node", |kept| kept.node(node), || self.one("node", &statements::NODE, [int(node)], codec::read_row))
    }

    fn children(&self, parent: NodeId) -> Result<Vec<Row>, ArchiveError> {
        self.all("children", &statements::CHILDREN, [int(parent)], codec::read_row)
    }

    fn by_object(&self, ino: u64, btime: Time) -> Result<Vec<Row>, ArchiveError> {
        self.all("object", &statements::OBJECT, params![bits(ino), btime.secs, btime.nanos], codec::read_row)
    }

    fn unproven(&self, above: NodeId) -> Result<Option<Row>, ArchiveError> {
        self.one("unproven", &statements::UNPROVEN, [int(above)], codec::read_row)
    }

    fn count_unproven(&self) -> Result<u64, ArchiveError> {
        let count = self.one("unproven", &statements::COUNT_UNPROVEN, [], |columns| Ok(columns.get::<_, i64>(0)?))?;
        Ok(count.unwrap_or(0).cast_unsigned())
    }

    fn count_came(&self, when: i64, most: u64) -> Result<u64, ArchiveError> {
        let newest = "SELECT since FROM rows ORDER BY node DESC LIMIT ?";
        let text = format!("SELECT count(*) FROM ({newest}) WHERE since < 0 AND since <= ?");
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let count = self.one("count", &text, params![most, -when], |columns| Ok(columns.get::<_, i64>(0)?))?;
        Ok(count.unwrap_or(0).cast_unsigned())
    }

    fn count(&self) -> Result<u64, ArchiveError> {
        if let Some(count) = self.count.get() {
            self.usable("count")?;
            return Ok(count);
        }
        let count = self.one("count", "SELECT count(*) FROM rows", [], |columns| Ok(columns.get::<_, i64>(0)?))?;
        let count = count.unwrap_or(0).cast_unsigned();
        self.count.set(Some(count));
        Ok(count)
    }

    fn files(&self) -> Result<(u64, u64), ArchiveError> {
        const SQL: &str = "SELECT files, bytes FROM held";
        self.usable("files")?;
        if !self.counts_files.replace(true) {
            schema::count_files(&self.connection).map_err(|error| ArchiveError::new("files", error.to_string()))?;
        }
        let held = self.one("files", SQL, [], |columns| Ok((columns.get::<_, i64>(0)?, columns.get::<_, f64>(1)?)))?;
        let (files, bytes) = held.unwrap_or_default();
        Ok((files.cast_unsigned(), bytes.max(0.0) as u64))
    }

    fn put(&mut self, row: &Row) -> Result<Option<NodeId>, ArchiveError> {
        row.check()?;
        let Stored { victim, dropped, added } = self.change("put", |connection, _| put(connection, row))?;
        self.count.set(self.count.get().map(|count| (count + u64::from(added)).saturating_sub(dropped)));
        let kept = self.directories.get_mut();
        if victim.is_some() {
            // And all that was below it.
            kept.clear();
        }
        kept.keep(row);
        Ok(victim)
    }

    fn drop_tree(&mut self, node: NodeId) -> Result<(), ArchiveError> {
        self.directories.get_mut().clear();
        self.change("drop", |connection, count| {
            let dropped = drop_below(connection, node)?;
            count.set(count.get().map(|count| count.saturating_sub(dropped)));
            Ok(())
        })
    }

    fn bury(&mut self, tombstone: &Tombstone) -> Result<(), ArchiveError> {
        const SQL: &str = "INSERT OR REPLACE INTO tombstones (node, parent, name, generation) VALUES (?1, ?2, ?3, ?4)";
        let Tombstone { node, parent, name, generation } = tombstone;
        check_number(*node.max(parent).max(generation))?;
        self.change("bury", |connection, _| {
            run(connection, SQL, params![int(*node), int(*parent), name.as_bytes(), int(*generation)]).map(drop)
        })
    }

    fn dir_time(&self, node: NodeId) -> Result<Option<Time>, ArchiveError> {
        const SQL: &str = "SELECT dir_mtime, dir_mtime_ns FROM rows WHERE node = ?1 AND dir_mtime IS NOT NULL";
        self.one("time of a directory", SQL, [int(node)], |columns| codec::time(columns, 0))
    }

    fn set_dir_time(&mut self, node: NodeId, time: Option<Time>) -> Result<(), ArchiveError> {
        self.change("time of a directory", |connection, _| store_dir_time(connection, node, time))
    }

    fn rows_above(&self, generation: Generation) -> Result<Vec<Row>, ArchiveError> {
        self.all("rows above", &statements::ABOVE, [int(generation)], codec::read_row)
    }

    fn tombstones_above(&self, generation: Generation) -> Result<Vec<Tombstone>, ArchiveError> {
        const SQL: &str = "SELECT node, parent, name, generation FROM tombstones
            WHERE generation > ?1 ORDER BY generation, node";
        self.all("tombstones above", SQL, [int(generation)], codec::read_tombstone)
    }

    fn forget_tombstones(&mut self, upto: Generation) -> Result<(), ArchiveError> {
        const TOMBSTONES: &str = "DELETE FROM tombstones WHERE generation <= ?1";
        const JOINT: &str = "DELETE FROM joint WHERE generation <= ?1";
        self.change("forget tombstones", |connection, _| {
            run(connection, TOMBSTONES, [int(upto)])?;
            run(connection, JOINT, [int(upto)]).map(drop)
        })
    }

    fn note_joint(&mut self, node: NodeId, generation: Generation) -> Result<(), ArchiveError> {
        const SQL: &str = "INSERT OR REPLACE INTO joint (node, generation) VALUES (?1, ?2)";
        check_number(node.max(generation))?;
        self.change("note what is joint", |connection, _| {
            run(connection, SQL, params![int(node), int(generation)]).map(drop)
        })
    }

    fn joint(&self, node: NodeId) -> Result<Option<Generation>, ArchiveError> {
        const SQL: &str = "SELECT generation FROM joint WHERE node = ?1";
        self.one("what is joint", SQL, [int(node)], |columns| codec::number(columns, 0))
    }

    fn intend(&mut self, intent: &Intent) -> Result<(), ArchiveError> {
        const SQL: &str = "INSERT OR REPLACE INTO intents (generation, node, path, parent, stage, what, step)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let Intent { generation, node, path, parent, stage, step } = intent;
        check_number(*generation.max(node).max(&parent.unwrap_or(0)))?;
        let what = match step {
            IntentStep::Place { .. } => "place",
            IntentStep::Move { .. } | IntentStep::ClosedMove { .. } | IntentStep::Exchange { .. } => "move",
            IntentStep::Remove { .. } => "remove",
            IntentStep::Attributes { .. } => "attributes",
            IntentStep::Pieces { .. } => "pieces",
            IntentStep::Stranded => "stranded",
        };
        self.change("intend", |connection, _| {
            let (generation, node, parent, step) = (int(*generation), int(*node), parent.map(int), blob(step)?);
            let (path, stage) = (path.as_bytes(), stage.as_bytes());
            run(connection, SQL, params![generation, node, path, parent, stage, what, step]).map(drop)
        })
    }

    fn settle(&mut self, generation: Generation) -> Result<(), ArchiveError> {
        const SQL: &str = "DELETE FROM intents WHERE generation = ?1";
        self.change("settle", |connection, _| run(connection, SQL, [int(generation)]).map(drop))
    }

    fn intents(&self) -> Result<Vec<Intent>, ArchiveError> {
        const SQL: &str = "SELECT generation, node, path, stage, step, parent FROM intents ORDER BY generation";
        self.all("intents", SQL, [], codec::read_intent)
    }

    fn trash_add(&mut self, item: &TrashItem) -> Result<(), ArchiveError> {
        const SQL: &str = "INSERT OR REPLACE INTO trash (id, path, since, size, reason, stamp, stamp_ns, look) \
                           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let TrashItem { id, path, since, size, reason, stamp, look } = item;
        check_number(*size)?;
        let (secs, nanos) = (stamp.map(|stamp| stamp.secs), stamp.map(|stamp| stamp.nanos));
        self.change("add to the trash", |connection, _| {
            let (id, path) = (id.as_bytes(), path.as_bytes());
            run(connection, SQL, params![id, path, since, int(*size), reason, secs, nanos, look]).map(drop)
        })?;
        if let Some(list) = &mut self.list {
            list.add(item);
        }
        Ok(())
    }

    fn trash_remove(&mut self, id: &Name) -> Result<(), ArchiveError> {
        const SQL: &str = "DELETE FROM trash WHERE id = ?1";
        self.change("remove from the trash", |connection, _| run(connection, SQL, [id.as_bytes()]).map(drop))
    }

    fn trash(&self) -> Result<Vec<TrashItem>, ArchiveError> {
        const SQL: &str = "SELECT id, path, since, size, reason, stamp, stamp_ns, look FROM trash ORDER BY since, id";
        self.all("trash", SQL, [], codec::read_trash)
    }

    fn begin_anew(&mut self) -> Result<(), ArchiveError> {
        let Some(home) = self.home.clone() else {
            return Err(ArchiveError::new("begin anew", "it has no file"));
        };
        // Nothing of the old one may be open, or written, from here on.
        *self = SqliteArchive::stand_in(home.clone(), ArchiveError::new("begin anew", "it is being replaced"))?;
        aside::keep(&home.own.path_of(&home.name))
            .map_err(|error| ArchiveError::new("keep the damaged archive aside", error.to_string()))?;
        *self =
            open(&home.own, &home.name, home.root).map_err(|fault| told(&home.own.shown().join(&home.name), &fault))?.0;
        Ok(())
    }

    fn save_room(&mut self) {
        if !self.changing && self.failed.is_none() {
            // From its beginning on the log takes no new room. If it cannot be done now, it is tried again.
            let _ = self.connection.execute_batch("PRAGMA wal_checkpoint(RESTART);");
        }
    }

    fn commit(&mut self) -> Result<(), ArchiveError> {
        self.usable("commit")?;
        if !self.changing {
            return Ok(());
        }
        let ended = self.begin().and_then(|()| run(&self.connection, "COMMIT", []));
        ended.map_err(|fault| self.fail("commit", &fault))?;
        self.changing = false;
        if let Some(mut list) = self.list.take() {
            list.flush(|| self.trash().unwrap_or_default());
            self.list = Some(list);
        }
        Ok(())
    }
}
