"""The database's format: tables, version, migration, and how a connection is set up.

`connect` opens for the writer, `connect_read_only` for everybody else. The format version is SQLite's user_version;
the application id tells our file from any other. An older format is migrated step by step in one transaction, a newer
one is refused untouched (wish 84).

message    one row a message: envelope and client record; `remaining` counts its rows in recipient
recipient  one row for each recipient that is still to be delivered; the index gives a destination's next ones in order,
           those never tried and those deferred apart (wish 47); `envelope_crc` by checksums.py
content    the bytes, apart from the rest so that listing never reads them; `file` names a content file instead
extent     in whose place it says where in a segment file the bytes are: `page` is the first, `size` in bytes
leftover   contents whose message an administrator has deleted; they go when the disk has time (leftovers.py)
meta       high_water: no id up to this one is ever handed out again; redo, redo_token: which records of the redo log count (redo.py)
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mailflow.errors import QueueError
from mailflow.store import checksums
from mailflow.store.failure import MENDING, malformed

FORMAT = 6
SEGMENTS_SINCE = 2
"""The first format with a table `extent`."""
LEFTOVERS_SINCE = 4
"""The first format with a table `leftover`."""
CHECKSUMS_SINCE = 5
"""The first format in which each recipient has the checksum of its envelope."""
APPLICATION_ID = 0x6D666C77
"""The bytes "mflw"."""
PAGE_SIZE_BYTES = 8192
"""Measured with 1, 10 and 100 KB messages: 4 to 16 KiB cost the same CPU; 16 KiB writes more for every deferral."""
BUSY_SECONDS = 10.0
"""Only recovery by a reader after a crash, and checkpoints, can make a writer wait."""

_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE message (
        id INTEGER PRIMARY KEY, arrived REAL NOT NULL, size INTEGER NOT NULL, remaining INTEGER NOT NULL,
        sender TEXT NOT NULL, peer TEXT NOT NULL, options TEXT NOT NULL)""",
    """CREATE TABLE recipient (
        message_id INTEGER NOT NULL, number INTEGER NOT NULL, due REAL NOT NULL, attempts INTEGER NOT NULL,
        destination TEXT NOT NULL, address TEXT NOT NULL, original TEXT NOT NULL, orcpt TEXT NOT NULL,
        notify TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (message_id, number)) WITHOUT ROWID""",
    "CREATE INDEX recipient_due ON recipient (destination, due, message_id, number)",
    "CREATE TABLE content (id INTEGER PRIMARY KEY, crc INTEGER NOT NULL, file INTEGER, data BLOB)",
)
_EXTENT = """TABLE extent (
        id INTEGER PRIMARY KEY, crc INTEGER NOT NULL, segment INTEGER NOT NULL, page INTEGER NOT NULL,
        size INTEGER NOT NULL)"""
_SEGMENTS = (
    f"CREATE {_EXTENT}",
    # So that the start finds the content files without reading all contents. It has an entry for these only.
    "CREATE INDEX content_file ON content (file) WHERE file IS NOT NULL",
)

_LANES = (
    "DROP INDEX recipient_due",
    "CREATE INDEX recipient_due ON recipient (destination, attempts > 0, due, message_id, number)",
)
"""New mail is found behind any number of deferred recipients, and the reverse."""

_LEFTOVER = "TABLE leftover (id INTEGER PRIMARY KEY)"

_CHECKSUMS = (
    "ALTER TABLE recipient ADD COLUMN envelope_crc INTEGER NOT NULL DEFAULT 0",
    "DROP INDEX recipient_due",
    "CREATE INDEX recipient_due ON recipient (destination, attempts > 0, due, message_id, number, attempts)",
)
"""With `attempts` itself the index has all that is asked of it alone: SQLite needs no row to tell `attempts > 0`."""
_SEAL = """
    UPDATE recipient SET envelope_crc = coalesce((
        SELECT seal(id, arrived, size, CAST(sender AS BLOB), CAST(peer AS BLOB), CAST(options AS BLOB), number,
            CAST(destination AS BLOB), CAST(address AS BLOB), CAST(original AS BLOB), CAST(orcpt AS BLOB),
            CAST(notify AS BLOB))
        FROM message WHERE id = message_id), 0)"""

_STEPS: dict[int, tuple[str, ...]] = {
    0: _TABLES,
    1: _SEGMENTS,
    2: _LANES,
    3: (f"CREATE {_LEFTOVER}",),
    4: _CHECKSUMS,
    5: ("INSERT OR REPLACE INTO meta (key, value) VALUES ('redo', 0), ('redo_token', random())",),
}
"""What leads from each older format to the next; 0 is an empty file. Contents that are in the database stay there."""


def database(spool: Path) -> Path:
    """Where the database of a spool is."""
    return spool / "queue.db"


def connect(spool: Path, *, cache_bytes: int, checkpoint_bytes: int) -> sqlite3.Connection:
    """The writer's connection: made, migrated and set up. Raises sqlite3.Error, OSError, or QueueError."""
    path = database(spool)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite would make it readable for all
    db = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=BUSY_SECONDS
    )
    db.text_factory = text
    try:
        db.execute(f"PRAGMA page_size = {PAGE_SIZE_BYTES}")  # only an empty file takes it
        # The same holds for this: so that free pages can be given back in steps (compact.py). Measured: 2 to 3 % more
        # bytes written, no difference in CPU time.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL").fetchone()
        db.execute("PRAGMA synchronous = FULL")  # an fsync of the log before every commit returns
        db.execute("PRAGMA secure_delete = OFF")  # Debian's default overwrites what is deleted: twice the writing
        db.execute("PRAGMA temp_store = MEMORY")  # no temporary files
        db.execute(f"PRAGMA cache_size = -{cache_bytes // 1024}")
        db.execute(f"PRAGMA wal_autocheckpoint = {checkpoint_bytes // PAGE_SIZE_BYTES}").fetchone()
        migrate(db, path)
    except UnicodeDecodeError as error:  # SQLite quotes what it cannot parse
        db.close()
        raise malformed("malformed database schema") from error
    except BaseException:
        db.close()
        raise
    return db


def connect_read_only(spool: Path) -> sqlite3.Connection:
    """A connection that cannot write. It works beside a server, without one, and after a crash.

    Raises QueueError when there is no queue or its format is another, sqlite3.Error when it cannot be read.
    """
    path = database(spool)
    if not path.exists():
        raise QueueError(f"{path}: there is no queue here")
    db = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_SECONDS,
    )
    db.text_factory = text
    try:
        version = check_format(db, path)
        if version < SEGMENTS_SINCE:  # no server has migrated it yet: an empty table in its place
            db.execute(f"CREATE TEMP {_EXTENT}")
        if version < LEFTOVERS_SINCE:
            db.execute(f"CREATE TEMP {_LEFTOVER}")
        if 0 < version < CHECKSUMS_SINCE:
            db.execute("CREATE TEMP VIEW recipient AS SELECT *, 0 AS envelope_crc FROM main.recipient")
        db.execute("SELECT 1 FROM sqlite_schema").fetchone()  # has it parsed, here
    except UnicodeDecodeError as error:  # SQLite quotes what it cannot parse
        db.close()
        raise malformed("malformed database schema") from error
    except BaseException:
        db.close()
        raise
    return db


def text(stored: bytes) -> str:
    """A stored text, also one whose bytes have changed so that they are no UTF-8: reading it must not stop anybody."""
    return stored.decode("utf-8", "backslashreplace")


def check_format(db: sqlite3.Connection, path: Path) -> int:
    """The format version of an open database; 0 when it is empty. Raises QueueError when we cannot read it."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    application = int(db.execute("PRAGMA application_id").fetchone()[0])
    if version > FORMAT and application == APPLICATION_ID:
        raise QueueError(
            f"{path}: the queue has format {version}, written by a newer mailflow; this one knows formats up to {FORMAT}"
        )
    if application not in (0, APPLICATION_ID) or (version and not application) or version < 0:
        raise QueueError(f"{path}: not a mailflow queue (application id {application:#x}, format {version}){MENDING}")
    return version


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Brings the database to the present format, all steps in one transaction."""
    if check_format(db, path) == FORMAT:
        return
    db.execute("BEGIN EXCLUSIVE")
    try:
        for version in range(check_format(db, path), FORMAT):
            for statement in _STEPS[version]:
                db.execute(statement)
            if version + 1 == CHECKSUMS_SINCE:
                seal(db)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {FORMAT}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def seal(db: sqlite3.Connection) -> None:
    """Gives recipients that were stored when there were no checksums the one of their envelope as it is; 0 where it makes
    no sense."""
    db.create_function("seal", 12, _envelope_crc, deterministic=True)
    db.execute(_SEAL)


def _envelope_crc(*columns: Any) -> int:
    try:
        values: list[Any] = [value.decode() if isinstance(value, bytes) else value for value in columns]
        return checksums.recipient(checksums.envelope(*values[:6]), *values[6:])
    except (TypeError, ValueError, OverflowError):
        return 0
