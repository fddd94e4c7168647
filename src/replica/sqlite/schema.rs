//! The tables, and the check that a file is an archive.
//!
//! `rows` is keyed by node, so that moving a directory changes one row; `rows_by_name` leads from (parent, name) to
//! it and alone suffices to walk a subtree. Names are blobs: they sort by bytes and need not be UTF-8. The few blobs in
//! postcard (`xattrs`, `achieved`, `intents.step`) hold `model::Xattrs`, `model::Attrs` and `archive::IntentStep`:
//! a change of these types needs a new [`VERSION`].

use rusqlite::Connection;

use crate::model::RelPath;
use crate::replica::archive::IntentStep;

/// "psyn", where `file(1)` and we look.
const APPLICATION_ID: i64 = 0x7073_796e;
/// The schema that this psync writes, and the highest that it reads.
pub const VERSION: i64 = 6;

const TABLES: &str = r#"
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    archive BLOB NOT NULL,
    peer BLOB NOT NULL,
    generation INTEGER NOT NULL,
    confirmed INTEGER NOT NULL,
    boot BLOB NOT NULL,
    root_ino INTEGER NOT NULL,
    root_btime INTEGER NOT NULL,
    root_btime_ns INTEGER NOT NULL,
    filters BLOB NOT NULL,
    side INTEGER NOT NULL DEFAULT 0,
    proven BLOB NOT NULL DEFAULT x'00000000000000000000000000000000',
    met INTEGER NOT NULL DEFAULT 0 -- milliseconds since 1970
);

CREATE TABLE rows (
    node INTEGER PRIMARY KEY,
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    generation INTEGER NOT NULL,
    kind TEXT NOT NULL,             -- f, d, l, p as in find -type
    size INTEGER,                   -- files only
    hash BLOB,                      -- BLAKE3; files only; NULL: not known
    target BLOB,                    -- links only
    mode INTEGER NOT NULL,
    user NOT NULL,                  -- a name, or a number
    "group" NOT NULL,
    mtime INTEGER NOT NULL,         -- seconds since 1970
    mtime_ns INTEGER NOT NULL,
    xattrs BLOB,
    achieved BLOB,
    ino INTEGER,                    -- the object's own stat when it was recorded; NULL: not yet looked at
    btime INTEGER,
    btime_ns INTEGER,
    seen_size INTEGER,
    seen_mtime INTEGER,
    seen_mtime_ns INTEGER,
    seen_ctime INTEGER,
    seen_ctime_ns INTEGER,
    seen_mode INTEGER,
    seen_uid INTEGER,
    seen_gid INTEGER,
    since INTEGER NOT NULL DEFAULT 0, -- seconds since 1970: made here then; below 0: came from the other side; 0: always here
    dir_mtime INTEGER,              -- directories only: the time that both sides agreed on; NULL: on none yet
    dir_mtime_ns INTEGER
);
CREATE UNIQUE INDEX rows_by_name ON rows (parent, name);
CREATE INDEX rows_by_generation ON rows (generation);
CREATE INDEX rows_by_object ON rows (ino, btime, btime_ns) WHERE ino IS NOT NULL;
CREATE INDEX rows_unproven ON rows (node)
    WHERE size > 0 AND ino IS NOT NULL AND (hash IS NULL OR seen_ctime = 0 AND seen_ctime_ns = 0);

CREATE TABLE tombstones (
    node INTEGER PRIMARY KEY,
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    generation INTEGER NOT NULL
);
CREATE INDEX tombstones_by_generation ON tombstones (generation);

CREATE TABLE joint (                -- actions that had something to do on both sides: the last one of each node
    node INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL
);

CREATE TABLE intents (
    generation INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,
    path BLOB NOT NULL,
    parent INTEGER,                 -- NULL: the directory that the path leads to
    stage BLOB NOT NULL,
    what TEXT NOT NULL,             -- place, move, remove, attributes, pieces, stranded: for people
    step BLOB NOT NULL
);

CREATE TABLE trash (
    id BLOB PRIMARY KEY,
    path BLOB NOT NULL,
    since INTEGER NOT NULL,
    size INTEGER NOT NULL,
    reason TEXT NOT NULL,
    stamp INTEGER,                  -- seconds since 1970: what is later was written too late; NULL: not known
    stamp_ns INTEGER,
    look INTEGER NOT NULL DEFAULT 0 -- 1: it is still to be looked at for that
) WITHOUT ROWID;

-- For people: SELECT * FROM listing
CREATE VIEW listing AS
WITH RECURSIVE walk (node, path) AS (
    SELECT node, CAST(name AS TEXT) FROM rows WHERE parent = 1
    UNION ALL
    SELECT rows.node, walk.path || '/' || CAST(rows.name AS TEXT) FROM rows JOIN walk ON rows.parent = walk.node
)
SELECT path, kind, size, datetime(mtime, 'unixepoch') AS mtime, printf('%04o', mode) AS mode, user, "group",
       lower(hex(hash)) AS hash, CAST(target AS TEXT) AS target, generation, ino
FROM walk JOIN rows USING (node);
"#;

/// [`crate::replica::archive::Row::is_unproven`], word for word as the index has it: else SQLite reads all rows.
pub const UNPROVEN: &str = "size > 0 AND ino IS NOT NULL AND (hash IS NULL OR seen_ctime = 0 AND seen_ctime_ns = 0)";

/// Makes the index of [`UNPROVEN`] where an archive has none yet: it is asked for by its name.
pub fn ensure_index(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("CREATE INDEX IF NOT EXISTS rows_unproven ON rows (node) WHERE {UNPROVEN};"))
}

/// Keeps count of files and their bytes from now on, in a table that ends with the connection: whoever puts and drops rows need
/// not know what each of them was. Bytes are no integer: the sizes of rows that somebody teaches may have a sum that none holds.
pub fn count_files(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TEMP TABLE held (files INTEGER NOT NULL, bytes REAL NOT NULL);
         INSERT INTO held SELECT count(*), total(size) FROM main.rows WHERE kind = 'f';
         CREATE TEMP TRIGGER held_more AFTER INSERT ON main.rows WHEN NEW.kind = 'f' BEGIN
             UPDATE held SET files = files + 1, bytes = bytes + NEW.size;
         END;
         CREATE TEMP TRIGGER held_less AFTER DELETE ON main.rows WHEN OLD.kind = 'f' BEGIN
             UPDATE held SET files = files - 1, bytes = bytes - OLD.size;
         END;
         CREATE TEMP TRIGGER held_other AFTER UPDATE ON main.rows WHEN OLD.kind <> NEW.kind OR OLD.size IS NOT NEW.size BEGIN
             UPDATE held SET files = files + (NEW.kind = 'f') - (OLD.kind = 'f'),
                 bytes = bytes + coalesce(NEW.size, 0) - coalesce(OLD.size, 0);
         END;",
    )
}

/// What lies in the file that was opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Archive,
    /// Made by an older psync; the schema's version.
    Older(i64),
    /// Another program's database.
    Foreign,
    /// Made by a newer psync; the schema's version.
    Newer(i64),
}

/// Looks at the file without changing it.
pub fn inspect(connection: &Connection) -> rusqlite::Result<Found> {
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let objects: i64 = connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    Ok(match (application, version, objects) {
        (0, 0, 0) => Found::Nothing,
        (APPLICATION_ID, version, _) if version > VERSION => Found::Newer(version),
        (APPLICATION_ID, VERSION, 1..) => Found::Archive,
        (APPLICATION_ID, 1.., 1..) => Found::Older(version),
        _ => Found::Foreign,
    })
}

/// Brings an older archive's tables up to date; the caller holds the transaction.
pub fn upgrade(connection: &Connection, from: i64) -> rusqlite::Result<()> {
    if from < 2 {
        connection.execute_batch(
            "ALTER TABLE trash ADD COLUMN stamp INTEGER; ALTER TABLE trash ADD COLUMN stamp_ns INTEGER;
             ALTER TABLE trash ADD COLUMN look INTEGER NOT NULL DEFAULT 0;",
        )?;
    }
    if from < 3 {
        connection.execute_batch(FORGET_OWN)?;
        forget_own_intents(connection)?;
        connection.execute_batch(
            "ALTER TABLE meta ADD COLUMN proven BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
             UPDATE meta SET proven = boot;
             ALTER TABLE intents ADD COLUMN parent INTEGER;",
        )?;
    }
    if from < 4 {
        connection.execute_batch(
            "ALTER TABLE meta ADD COLUMN met INTEGER NOT NULL DEFAULT 0;
             ALTER TABLE rows ADD COLUMN since INTEGER NOT NULL DEFAULT 0;",
        )?;
    }
    if from < 5 {
        connection.execute_batch(
            "ALTER TABLE rows ADD COLUMN dir_mtime INTEGER; ALTER TABLE rows ADD COLUMN dir_mtime_ns INTEGER;",
        )?;
    }
    if from < 6 {
        connection.execute_batch("CREATE TABLE joint (node INTEGER PRIMARY KEY, generation INTEGER NOT NULL);")?;
    }
    connection.execute_batch(&format!("PRAGMA user_version = {VERSION};"))
}

/// Objects of psync's own name took part below the top; now they are left out, like those of an excluded name.
const FORGET_OWN: &str = "
    WITH RECURSIVE gone (node) AS (
        SELECT node FROM rows WHERE name = CAST('.psync' AS BLOB)
        UNION
        SELECT rows.node FROM rows JOIN gone ON rows.parent = gone.node
    )
    DELETE FROM rows WHERE node IN gone;
    DELETE FROM tombstones WHERE name = CAST('.psync' AS BLOB);
    UPDATE trash SET path = CAST('' AS BLOB)
        WHERE instr(CAST('/' AS BLOB) || path || CAST('/' AS BLOB), CAST('/.psync/' AS BLOB)) > 0;
";

/// What was about to happen to such an object can be read no more.
fn forget_own_intents(connection: &Connection) -> rusqlite::Result<()> {
    let mut all = connection.prepare("SELECT generation, path, step FROM intents")?;
    let found = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let found: Vec<(i64, Vec<u8>, Vec<u8>)> = found.collect::<Result<_, _>>()?;
    for (generation, path, step) in found {
        if RelPath::new(&path).is_err() || postcard::from_bytes::<IntentStep>(&step).is_err() {
            connection.execute("DELETE FROM intents WHERE generation = ?1", [generation])?;
        }
    }
    Ok(())
}

/// Makes the tables; the caller holds the transaction.
pub fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(TABLES)?;
    connection.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"))
}
