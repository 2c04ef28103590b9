"""Keeps conversations in an SQLite file: each a tree of messages, since an answer may be asked for again.

Every call is a transaction of its own, on any thread. What a key wrote is only shown to the same key.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rowspan.errors import RowspanError, UsageError

Json = dict[str, Any]

SCHEMA = """
CREATE TABLE IF NOT EXISTS conversation (
  owner TEXT NOT NULL, id TEXT NOT NULL, title TEXT NOT NULL, pinned INTEGER NOT NULL, settings TEXT NOT NULL,
  leaf TEXT, created REAL NOT NULL, updated REAL NOT NULL, PRIMARY KEY (owner, id)
);
CREATE TABLE IF NOT EXISTS message (
  owner TEXT NOT NULL, conversation TEXT NOT NULL, id TEXT NOT NULL, parent TEXT, role TEXT NOT NULL,
  content TEXT NOT NULL, data TEXT NOT NULL, created REAL NOT NULL, PRIMARY KEY (owner, conversation, id),
  FOREIGN KEY (owner, conversation) REFERENCES conversation (owner, id) ON DELETE CASCADE
);
CREATE TABLE IF NOT EXISTS preference (
  owner TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (owner, name)
);
"""
FIELDS = ("title", "pinned", "settings", "leaf")
MOST_LISTED = 1000


class UnknownConversationError(RowspanError):
    http_status = 404
    code = "conversation_not_found"


class Conversations:
    """The conversations of all owners. An owner is a key's digest, or "" where no keys are used. The file is opened
    when it is first needed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None

    def listed(self, owner: str, search: str = "") -> list[Json]:
        """Conversations without their messages, pinned ones first, then the latest. search: only those with this text
        in their title or a message, with the place where it was found.
        """
        with self._transaction() as database:
            if not search:
                rows = database.execute(
                    "SELECT id, title, pinned, updated FROM conversation WHERE owner = ? "
                    "ORDER BY pinned DESC, updated DESC LIMIT ?",
                    (owner, MOST_LISTED),
                )
                return [dict(row) for row in rows]
            pattern = "%" + search.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"
            found = database.execute(
                r"""
                SELECT c.id, c.title, c.pinned, c.updated,
                  (SELECT content FROM message m WHERE m.owner = c.owner AND m.conversation = c.id
                   AND m.content LIKE ?1 ESCAPE '\' ORDER BY m.created LIMIT 1) AS found
                FROM conversation c WHERE c.owner = ?2 AND (c.title LIKE ?1 ESCAPE '\' OR found IS NOT NULL)
                ORDER BY c.pinned DESC, c.updated DESC LIMIT ?3
                """,
                (pattern, owner, MOST_LISTED),
            ).fetchall()
        return [{**dict(row), "found": _around(row["found"], search)} for row in found]

    def get(self, owner: str, conversation: str) -> Json:
        """A conversation with all its messages, oldest first. Raises UnknownConversationError."""
        with self._transaction() as database:
            row = _one(database, owner, conversation)
            messages = database.execute(
                "SELECT id, parent, role, content, data, created FROM message WHERE owner = ? AND conversation = ? "
                "ORDER BY created, rowid",
                (owner, conversation),
            ).fetchall()
        return {
            **{name: row[name] for name in ("id", "title", "pinned", "leaf", "created", "updated")},
            "settings": json.loads(row["settings"]),
            "messages": [{**dict(message), "data": json.loads(message["data"])} for message in messages],
        }

    def put(self, owner: str, conversation: str, fields: Mapping[str, Any]) -> None:
        """Make a conversation, or change some of `FIELDS`. Only a change of its messages makes it the latest."""
        values = {name: fields[name] for name in FIELDS if name in fields}
        if "settings" in values:
            values["settings"] = _dump(values["settings"])
        now = time.time()
        with self._transaction() as database:
            database.execute(
                "INSERT INTO conversation VALUES (?, ?, '', 0, '{}', NULL, ?, ?) ON CONFLICT DO NOTHING",
                (owner, conversation, now, now),
            )
            for name, value in values.items():
                database.execute(
                    f"UPDATE conversation SET {name} = ? WHERE owner = ? AND id = ?", (value, owner, conversation)
                )

    def put_message(self, owner: str, conversation: str, message: str, fields: Mapping[str, Any]) -> None:
        """Add a message, or replace what it says. It becomes the leaf that the conversation is shown to.

        Args:
            fields: parent (a message's id, or None), role, content, and data (plain JSON).

        Raises:
            UnknownConversationError: there is no such conversation.
        """
        with self._transaction() as database:
            _one(database, owner, conversation)
            _write(database, owner, conversation, {**fields, "id": message, "created": time.time()})
            database.execute(
                "UPDATE conversation SET leaf = ?, updated = ? WHERE owner = ? AND id = ?",
                (message, time.time(), owner, conversation),
            )

    def delete(self, owner: str, conversation: str) -> None:
        """Delete a conversation with its messages. Raises UnknownConversationError."""
        with self._transaction() as database:
            _one(database, owner, conversation)
            database.execute("DELETE FROM conversation WHERE owner = ? AND id = ?", (owner, conversation))

    def add(self, owner: str, conversations: Sequence[Json]) -> int:
        """Store whole conversations, as `get` returns them; those that are there already are replaced. Returns how
        many. All are stored, or none.
        """
        with self._transaction() as database:
            for one in conversations:
                database.execute("DELETE FROM conversation WHERE owner = ? AND id = ?", (owner, one["id"]))
                settings = _dump(one["settings"])
                stored = (one["title"], one["pinned"], settings, one["leaf"], one["created"], one["updated"])
                database.execute(
                    "INSERT INTO conversation VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (owner, one["id"], *stored)
                )
                for message in one["messages"]:
                    _write(database, owner, one["id"], message)
        return len(conversations)

    def preferences(self, owner: str) -> Json:
        """All preferences of an owner: what the console keeps beside conversations."""
        with self._transaction() as database:
            rows = database.execute("SELECT name, value FROM preference WHERE owner = ?", (owner,)).fetchall()
        return {row["name"]: json.loads(row["value"]) for row in rows}

    def prefer(self, owner: str, name: str, value: Any) -> None:
        """Set a preference."""
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO preference VALUES (?, ?, ?)", (owner, name, _dump(value)))

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                if self._opened is None:
                    self._opened = self._open()
                with self._opened:
                    yield self._opened
        except (sqlite3.Error, OSError) as error:
            raise RowspanError(
                f"The conversations in {self._path} cannot be used.",
                why=f"{error}.",
                fix="Set ROWSPAN_CONVERSATIONS to another file, or move this one away.",
            ) from error

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(0o600)  # before SQLite makes it readable to everyone
        database = sqlite3.connect(self._path, timeout=30, check_same_thread=False)
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(SCHEMA)
        return database


def _one(database: sqlite3.Connection, owner: str, conversation: str) -> sqlite3.Row:
    row = database.execute("SELECT * FROM conversation WHERE owner = ? AND id = ?", (owner, conversation)).fetchone()
    if row is None:
        raise UnknownConversationError("There is no such conversation.", fix="It may have been deleted meanwhile.")
    assert isinstance(row, sqlite3.Row)
    return row


def _write(database: sqlite3.Connection, owner: str, conversation: str, message: Mapping[str, Any]) -> None:
    database.execute(
        "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET content = excluded.content, data = excluded.data",
        (
            *(owner, conversation, message["id"], message["parent"], message["role"], message["content"]),
            *(_dump(message["data"]), message["created"]),
        ),
    )


def _dump(value: Any) -> str:
    """Raise UsageError for NaN and infinities, which Python reads and writes, but browsers do not."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        raise UsageError("A number is infinite, or none.", fix="Send JSON as its standard has it.") from None


def _around(text: str | None, search: str, before: int = 30, after: int = 60) -> str | None:
    """The line of a text in which something was found, cut on both sides."""
    if text is None:
        return None
    place = max(0, text.lower().find(search.lower()))
    start = max(0, place - before)
    return ("…" if start else "") + " ".join(text[start : place + after].split())
