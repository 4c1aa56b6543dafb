"""What was bought of a model over a wire, and every answer it gave: an SQLite file that survives a crash of either side.

Rows are booked as sent *before* a request leaves, and as answered in the same transaction that keeps their answers, before anybody
uses them. So whatever dies whenever: what is kept is never bought again, and what may have been bought is never forgotten.
Several threads and processes may share a file.
"""

import sqlite3
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hauberk.errors import BudgetError, RunError

__all__ = ["Ledger", "Purchase"]

_IDENTITY, _VERSION = 0x48617562, 2  # "Haub"
_TABLES = """
CREATE TABLE IF NOT EXISTS purse (endpoint TEXT PRIMARY KEY, sent INTEGER NOT NULL, answered INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL, bought INTEGER NOT NULL) WITHOUT ROWID;
"""
_ASKED_AT_ONCE = 500  # keys in one question to SQLite


class Ledger:
    """The account of one endpoint.

    Args:
        path: of the file, made where there is none; None for one that ends with the process.
        endpoint: whose account it is; a file may hold several.
        keep: keep the answers too.

    Raises:
        RunError: the file is something else, or the disk refuses.
    """

    def __init__(self, path: Path | None, endpoint: str, *, keep: bool = True) -> None:
        self.path, self.endpoint, self.keep = path, endpoint, keep
        self._lock = threading.RLock()
        with self._speaking():
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            # "" is a private database that SQLite keeps in memory and, past its cache, in a temporary file
            self._base = sqlite3.connect(
                "" if path is None else path, timeout=60, isolation_level=None, check_same_thread=False
            )
            weakref.finalize(self, self._base.close)
            self._open()
        self.bought_before = self.bought

    def _open(self) -> None:
        with self._lock:
            identity = self._number("PRAGMA application_id")
            tables = self._number("SELECT count(*) FROM sqlite_master")
            if identity != _IDENTITY and (identity or tables):
                raise RunError(f"{self.path} is a database of something else; name another file as cache (--cache)")
            if tables and self._number("PRAGMA user_version") != _VERSION:
                raise RunError(
                    f"{self.path} is a cache of another version of hauberk; name another file as cache (--cache)"
                )
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL" if self.path is not None else "PRAGMA synchronous = OFF")
            self._base.execute(f"PRAGMA application_id = {_IDENTITY}")
            self._base.execute(f"PRAGMA user_version = {_VERSION}")
            self._base.executescript(_TABLES)
            self._base.execute("INSERT OR IGNORE INTO purse VALUES (?, 0, 0)", (self.endpoint,))

    @property
    def bought(self) -> int:
        """Rows sent and not refused, by every process that shares the file."""
        return self._purse()[0]

    @property
    def lost(self) -> int:
        """Of those, the rows that no usable answer is kept of: lost on the way, still on the way, or malformed."""
        sent, answered = self._purse()
        return sent - answered

    def _purse(self) -> tuple[int, int]:
        with self._speaking(), self._lock:
            return self._base.execute(
                "SELECT sent, answered FROM purse WHERE endpoint = ?", (self.endpoint,)
            ).fetchone()

    def send(self, rows: int, limit: int | None, what: str) -> None:
        """Book rows as sent, or refuse to.

        Raises:
            BudgetError: they would pass the limit.
        """
        with self._transaction():
            sent = self._number("SELECT sent FROM purse WHERE endpoint = ?", self.endpoint)
            if limit is not None and sent + rows > limit:
                raise BudgetError(
                    f"{what} may be asked {limit} queries in all, {sent} are spent and the next request costs {rows}; "
                    f"raise budget (--budget) and begin again{self.hint}"
                )
            self._base.execute("UPDATE purse SET sent = sent + ? WHERE endpoint = ?", (rows, self.endpoint))

    @property
    def hint(self) -> str:
        """What to say of answers that exist already; empty where they end with the process."""
        kept = self.keep and self.path is not None
        return f": what was answered is in {self.path} and is not bought again" if kept else ""

    def refund(self, rows: int) -> None:
        """Take back rows that the server has refused to answer."""
        with self._transaction():
            self._base.execute("UPDATE purse SET sent = sent - ? WHERE endpoint = ?", (rows, self.endpoint))

    def answer(self, rows: int, answers: Mapping[bytes, str]) -> None:
        """Book rows as answered and keep the answers, both or neither."""
        with self._transaction():
            self._base.execute("UPDATE purse SET answered = answered + ? WHERE endpoint = ?", (rows, self.endpoint))
            if self.keep:
                sent = self._number("SELECT sent FROM purse WHERE endpoint = ?", self.endpoint)
                kept = [(key, answer, sent) for key, answer in answers.items()]
                self._base.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", kept)

    def find(self, keys: Sequence[bytes]) -> dict[bytes, tuple[str, int]]:
        """The answers that are kept, each with `bought` as it was when the answer came."""
        found: dict[bytes, tuple[str, int]] = {}
        if not self.keep:
            return found
        with self._speaking(), self._lock:
            for start in range(0, len(keys), _ASKED_AT_ONCE):
                piece = keys[start : start + _ASKED_AT_ONCE]
                marks = ",".join("?" * len(piece))
                asked = f"SELECT key, answer, bought FROM answers WHERE key IN ({marks})"  # noqa: S608  # marks only
                found |= {key: (answer, bought) for key, answer, bought in self._base.execute(asked, piece)}
        return found

    def close(self) -> None:
        """Let go of the file."""
        with self._lock, suppress(sqlite3.Error):
            self._base.close()

    def _number(self, question: str, *values: str) -> int:
        return int(self._base.execute(question, values).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._speaking(), self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise RunError(
                f"the cache {self.path} cannot be used: {error}; name another file as cache (--cache)"
            ) from error
        except OSError as error:
            raise RunError(
                f"the cache {self.path} cannot be made: {error.strerror or error}; name another file as cache (--cache)"
            ) from error


class Purchase:
    """What one request costs.

    Args:
        ledger: where it is booked.
        rows: how many it asks about.
        limit: of all that is ever bought; None for none.
        what: is asked, for messages.
    """

    def __init__(self, ledger: Ledger, rows: int, limit: int | None, what: str) -> None:
        self._ledger, self._rows, self._limit, self._what = ledger, rows, limit, what

    def send(self) -> None:
        """Book the rows, before each try."""
        self._ledger.send(self._rows, self._limit, self._what)

    def refund(self) -> None:
        """Take the rows of the last try back."""
        self._ledger.refund(self._rows)
