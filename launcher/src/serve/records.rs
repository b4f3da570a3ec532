//! The daemon's records: VMs and what happened to them, in an SQLite database. Each change is one
//! transaction with the events that say why, on disk before anyone is told: a daemon that is
//! killed, or a host that loses power, loses nothing that was answered.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::statvfs::statvfs;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::vm::{Doing, EventKind, NewEvent, Source, Vm};
use crate::state::VmName;

/// The version of the tables.
const SCHEMA: u32 = 1;
/// Bytes that must be free for records to count as kept: several transactions.
const LEAST_ROOM: u64 = 256 * 1024;
/// How many events are kept.
const MOST_EVENTS: u64 = 20_000;

const TABLES: &str = "
    CREATE TABLE vms (
        name TEXT PRIMARY KEY,
        release TEXT NOT NULL,
        plan TEXT NOT NULL,
        restart TEXT NOT NULL,
        source TEXT NOT NULL,
        source_sha256 TEXT,
        wanted INTEGER NOT NULL,
        doing TEXT NOT NULL,
        reason TEXT,
        hint TEXT,
        ends_in_a_row INTEGER NOT NULL,
        restarts INTEGER NOT NULL,
        next_at_ms INTEGER,
        since_ms INTEGER NOT NULL,
        state TEXT
    ) STRICT;
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL,
        vm TEXT,
        kind TEXT NOT NULL,
        text TEXT NOT NULL,
        stage INTEGER
    ) STRICT;
    CREATE INDEX events_of_vm ON events (vm, id);
    CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
";

/// Why records cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The database cannot be read or written.
    #[error("cannot use the records {}", path.display())]
    Database {
        /// Which.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The database is of another version of this program.
    #[error(
        "the records {} have version {found}, expected {SCHEMA}: they are of another version of \
         casemate; move them away to begin anew",
        path.display()
    )]
    Version {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Their disk is full.
    #[error(
        "the disk of the records {} has {free} KiB left, expected {} at least: free some",
        path.display(), LEAST_ROOM / 1024
    )]
    NoRoom {
        /// Which.
        path: PathBuf,
        /// KiB that are free.
        free: u64,
    },
    /// A record is not what this program writes.
    #[error("record of {what} in {} is malformed: {problem}", path.display())]
    Malformed {
        /// The database.
        path: PathBuf,
        /// Of what.
        what: String,
        /// Why.
        problem: String,
    },
}

impl RecordsError {
    /// What is wrong, without the path that [`std::fmt::Display`] names.
    pub(crate) fn without_path(&self) -> String {
        match self {
            Self::Database { source, .. } => match source.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DiskFull) => "the disk is full".to_owned(),
                Some(rusqlite::ErrorCode::ReadOnly) => "they are read-only".to_owned(),
                Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                    "another program has locked them".to_owned()
                }
                _ => "they cannot be read or written".to_owned(),
            },
            Self::NoRoom { free, .. } => format!("the disk is full ({free} KiB are left)"),
            Self::Version { found, .. } => format!("they have version {found}"),
            Self::Malformed { what, .. } => format!("the record of {what} is malformed"),
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Its number: later ones are greater.
    pub id: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// To which VM; to the daemon itself without.
    pub vm: Option<String>,
    /// What.
    pub kind: EventKind,
    /// In words.
    pub text: String,
    /// The stage code, where it is about one.
    pub stage: Option<u8>,
}

/// The database.
#[derive(Debug)]
pub(crate) struct Records {
    db: Connection,
    path: PathBuf,
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Records {
    /// Opens the database, or makes it.
    pub(crate) fn open(path: &Path) -> Result<Self, RecordsError> {
        match Self::connect(path, false) {
            // What programs share of an open database takes room. Alone, this one needs none.
            Err(RecordsError::Database { source, .. }) if wants_room(&source) => {
                Self::connect(path, true)
            }
            opened => opened,
        }
    }

    fn connect(path: &Path, alone: bool) -> Result<Self, RecordsError> {
        let fail = |source| RecordsError::Database { path: path.to_owned(), source };
        let mut db = Connection::open(path).map_err(fail)?;
        if alone {
            db.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(fail)?;
        }
        // A log that is written ahead and synced at each commit: nothing committed is ever lost.
        db.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
        db.pragma_update(None, "synchronous", "FULL").map_err(fail)?;
        db.pragma_update(None, "cache_size", -512).map_err(fail)?;
        db.busy_timeout(std::time::Duration::from_secs(2)).map_err(fail)?;
        let version =
            |db: &Connection| db.pragma_query_value(None, "user_version", |row| row.get(0));
        if version(&db).map_err(fail)? == 0_u32 {
            let tx = db.transaction().map_err(fail)?;
            tx.execute_batch(TABLES).map_err(fail)?;
            tx.pragma_update(None, "user_version", SCHEMA).map_err(fail)?;
            tx.commit().map_err(fail)?;
        }
        let found = version(&db).map_err(fail)?;
        if found != SCHEMA {
            return Err(RecordsError::Version { path: path.to_owned(), found });
        }
        Ok(Self { db, path: path.to_owned() })
    }

    /// Why the next record may not find room; `None` while there is enough, or where the system
    /// does not say.
    pub(crate) fn lacks_room(&self) -> Option<RecordsError> {
        let disk = statvfs(self.path.parent()?).ok()?;
        // What a file system reserves is root's.
        let root = nix::unistd::geteuid().is_root();
        let blocks = if root { disk.blocks_free() } else { disk.blocks_available() };
        let free = blocks.saturating_mul(disk.fragment_size());
        (free < LEAST_ROOM)
            .then(|| RecordsError::NoRoom { path: self.path.clone(), free: free / 1024 })
    }

    fn fail(&self) -> impl Fn(rusqlite::Error) -> RecordsError + use<> {
        let path = self.path.clone();
        move |source| RecordsError::Database { path: path.clone(), source }
    }

    /// Writes a VM and what happened to it; the events' last number.
    pub(crate) fn save(&mut self, vm: &Vm, events: &[NewEvent]) -> Result<u64, RecordsError> {
        let fail = self.fail();
        let malformed = |problem: serde_json::Error| RecordsError::Malformed {
            path: self.path.clone(),
            what: vm.name.to_string(),
            problem: problem.to_string(),
        };
        let plan = serde_json::to_string(&vm.plan).map_err(malformed)?;
        let restart = serde_json::to_string(&vm.restart).map_err(malformed)?;
        let state = vm.state.as_ref().map(serde_json::to_string).transpose().map_err(malformed)?;
        let tx = self.db.transaction().map_err(&fail)?;
        tx.prepare_cached(
            "INSERT OR REPLACE INTO vms VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, \
             ?12, ?13, ?14, ?15)",
        )
        .and_then(|mut insert| {
            insert.execute(params![
                vm.name.as_str(),
                vm.release.to_string_lossy(),
                plan,
                restart,
                vm.source.name(),
                vm.source_sha256,
                vm.wanted,
                vm.doing.name(),
                vm.reason,
                vm.hint,
                vm.row,
                vm.restarts,
                vm.next_at_ms.map(signed),
                signed(vm.since_ms),
                state
            ])
        })
        .map_err(&fail)?;
        let last = insert(&tx, Some(&vm.name), events).map_err(&fail)?;
        tx.commit().map_err(&fail)?;
        Ok(last)
    }

    /// Writes what happened to no known VM; its number.
    pub(crate) fn note(
        &mut self,
        vm: Option<&VmName>,
        event: &NewEvent,
    ) -> Result<u64, RecordsError> {
        let fail = self.fail();
        let tx = self.db.transaction().map_err(&fail)?;
        let last = insert(&tx, vm, std::slice::from_ref(event)).map_err(&fail)?;
        tx.commit().map_err(&fail)?;
        Ok(last)
    }

    /// Forgets a VM.
    pub(crate) fn remove(&mut self, name: &VmName) -> Result<u64, RecordsError> {
        let fail = self.fail();
        let tx = self.db.transaction().map_err(&fail)?;
        tx.execute("DELETE FROM vms WHERE name = ?1", [name.as_str()]).map_err(&fail)?;
        let event = NewEvent::new(EventKind::Forgotten, "its record was removed");
        let last = insert(&tx, Some(name), &[event]).map_err(&fail)?;
        tx.commit().map_err(&fail)?;
        Ok(last)
    }

    /// Every VM, by name. One whose record another version wrote is left out, and named.
    pub(crate) fn vms(&self) -> Result<(Vec<Vm>, Vec<RecordsError>), RecordsError> {
        let fail = self.fail();
        let mut select = self.db.prepare("SELECT * FROM vms ORDER BY name").map_err(&fail)?;
        let rows = select.query_map([], |row| Ok(self.vm(row))).map_err(&fail)?;
        let (mut vms, mut refused) = (Vec::new(), Vec::new());
        for row in rows {
            match row.map_err(&fail)? {
                Ok(vm) => vms.push(vm),
                Err(error) => refused.push(error),
            }
        }
        Ok((vms, refused))
    }

    fn vm(&self, row: &Row<'_>) -> Result<Vm, RecordsError> {
        let name: String = row.get(0).map_err(self.fail())?;
        let malformed = |problem: String| RecordsError::Malformed {
            path: self.path.clone(),
            what: name.clone(),
            problem,
        };
        let text = |at: usize| {
            row.get::<_, Option<String>>(at).map_err(|error| malformed(error.to_string()))
        };
        let needed = |at| text(at)?.ok_or_else(|| malformed("a value is missing".to_owned()));
        let number =
            |at: usize| row.get::<_, Option<i64>>(at).map_err(|error| malformed(error.to_string()));
        let small = |at| {
            let number = number(at)?.and_then(|n| u32::try_from(n).ok());
            number.ok_or_else(|| malformed("a number is out of bounds".to_owned()))
        };
        let json = |error: serde_json::Error| malformed(error.to_string());
        let unknown = |what: String| malformed(format!("{what:?} is unknown"));
        let (source, doing) = (needed(4)?, needed(7)?);
        Ok(Vm {
            name: name.parse().map_err(|_| unknown(name.clone()))?,
            release: needed(1)?.into(),
            plan: serde_json::from_str(&needed(2)?).map_err(json)?,
            restart: serde_json::from_str(&needed(3)?).map_err(json)?,
            source: Source::from_name(&source).ok_or_else(|| unknown(source))?,
            source_sha256: text(5)?,
            wanted: number(6)? == Some(1),
            doing: Doing::from_name(&doing).ok_or_else(|| unknown(doing))?,
            reason: text(8)?,
            hint: text(9)?,
            row: small(10)?,
            restarts: small(11)?,
            next_at_ms: number(12)?.map(i64::cast_unsigned),
            since_ms: number(13)?.map_or(0, i64::cast_unsigned),
            state: text(14)?.map(|state| serde_json::from_str(&state)).transpose().map_err(json)?,
        })
    }

    /// Events with numbers above `after`, oldest first; without it the last ones.
    pub(crate) fn events(
        &self,
        after: Option<u64>,
        vm: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Event>, RecordsError> {
        let fail = self.fail();
        let order = if after.is_some() { "ASC" } else { "DESC" };
        let sql = format!(
            "SELECT id, at_ms, vm, kind, text, stage FROM events WHERE id > ?1 AND (?2 IS NULL OR \
             vm = ?2) ORDER BY id {order} LIMIT ?3"
        );
        let mut select = self.db.prepare_cached(&sql).map_err(&fail)?;
        let rows = select.query_map(params![signed(after.unwrap_or(0)), vm, limit], |row| {
            let kind = serde_json::from_value(row.get::<_, String>(3)?.into());
            let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
            Ok(kind.ok().map(|kind| -> rusqlite::Result<Event> {
                let (id, at_ms, vm) = (number(0)?, number(1)?, row.get(2)?);
                Ok(Event { id, at_ms, vm, kind, text: row.get(4)?, stage: row.get(5)? })
            }))
        });
        let mut events = Vec::new();
        for event in rows.map_err(&fail)? {
            // One of a kind that another version wrote is left out.
            if let Some(event) = event.map_err(&fail)? {
                events.push(event.map_err(&fail)?);
            }
        }
        events.sort_by_key(|event| event.id);
        Ok(events)
    }

    /// A fact of this host that was kept.
    pub(crate) fn fact(&self, key: &str) -> Result<Option<String>, RecordsError> {
        let row =
            self.db.query_row("SELECT value FROM facts WHERE key = ?1", [key], |row| row.get(0));
        row.optional().map_err(self.fail())
    }

    /// Keeps a fact.
    pub(crate) fn keep_fact(&mut self, key: &str, value: &str) -> Result<(), RecordsError> {
        let kept =
            self.db.execute("INSERT OR REPLACE INTO facts VALUES (?1, ?2)", params![key, value]);
        kept.map(drop).map_err(self.fail())
    }
}

/// Whether a database could not be opened as on a disk that is full.
fn wants_room(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, DiskFull, SystemIoFailure};
    matches!(error.sqlite_error_code(), Some(CannotOpen | DiskFull | SystemIoFailure))
}

/// SQLite's integers are signed; no time and no event number reaches the sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn insert(tx: &Transaction<'_>, vm: Option<&VmName>, events: &[NewEvent]) -> rusqlite::Result<u64> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO events (at_ms, vm, kind, text, stage) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let mut last = 0;
    for event in events {
        let (at, vm) = (signed(now_ms()), vm.map(VmName::as_str));
        statement.execute(params![at, vm, event.kind.name(), event.text, event.stage])?;
        last = tx.last_insert_rowid().cast_unsigned();
    }
    let old = signed(last.saturating_sub(MOST_EVENTS));
    if last > 0 {
        tx.prepare_cached("DELETE FROM events WHERE id <= ?1")?.execute([old])?;
    }
    Ok(last)
}
