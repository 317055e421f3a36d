"""The embedded ClickHouse engine (chDB): opened once per process, one connection per request.

A connection costs 0.1 ms, and settings, database and temporary tables live and die with it, so that no request sees
what another one set. The engine runs queries of several connections at the same time and releases the GIL meanwhile.
It must be opened before the process starts threads of its own, and no child may be forked after that.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from xml.sax.saxutils import escape

from schemas.errors import WrongUse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

MIB: Final = 1024 * 1024
SETTING_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_]+")
SETTINGS_CLAUSE: Final = re.compile(rb"\sSETTINGS\s+\w+\s*=", re.IGNORECASE)
ERROR_CODE: Final = re.compile(r"Code: (\d+)\.")

#: What chDB raises when the engine says no; the second when the message quotes bytes that are no UTF-8.
ENGINE_ERRORS: Final = (RuntimeError, UnicodeDecodeError)


class EngineError(Exception):
    """What the engine says when it refuses or fails; ``code`` is ClickHouse's number, 1002 when it gives none."""

    def __init__(self, said: str) -> None:
        start = max(said.find("Code: "), 0)
        self.text = said[start:].strip()
        found = ERROR_CODE.match(self.text)
        self.code = int(found[1]) if found else 1002
        super().__init__(self.text)

    @property
    def is_fatal(self) -> bool:
        """Whether the engine has given itself up: every further statement will fail, only a new process helps."""
        return self.code == 236 and "shutting down due to a fatal error" in self.text


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine may take of the machine. The defaults leave a two-core laptop to the rest of the pipeline.

    chDB 4.4 ignores errors of write(2): on a full disk it would acknowledge a truncated part. So it must never meet
    one. Inserts and merges that would leave less than ``keep_free_bytes`` are refused by the engine; and if the disk
    has less than ``full_below_bytes`` after an insert, because somebody else filled it meanwhile, the insert is not
    acknowledged.
    """

    memory_bytes: int = 2048 * MIB
    queries_max: int = 8
    merge_threads: int = 1
    mark_cache_bytes: int = 256 * MIB
    keep_free_bytes: int = 512 * MIB
    full_below_bytes: int = 16 * MIB

    def config_xml(self) -> str:
        """The engine's configuration file."""
        values = {
            "max_server_memory_usage": self.memory_bytes,
            "background_pool_size": self.merge_threads,
            # Several merges take turns on the thread, short ones first, so that a long one lets no parts pile up.
            "background_merges_mutations_concurrency_ratio": 4,
            "background_merges_mutations_scheduling_policy": "shortest_task_first",
            "background_common_pool_size": 2,
            "background_schedule_pool_size": 2,
            "mark_cache_size": self.mark_cache_bytes,
            "uncompressed_cache_size": 0,
        }
        lines = "".join(f"  <{name}>{escape(str(value))}</{name}>\n" for name, value in values.items())
        disk = f"<default><keep_free_space_bytes>{self.keep_free_bytes}</keep_free_space_bytes></default>"
        disks = f"  <storage_configuration><disks>{disk}</disks></storage_configuration>\n"
        return f"<clickhouse>\n{lines}{disks}</clickhouse>\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. ``body`` is the engine's own memory, which it takes back as soon as ``owner`` is gone."""

    body: memoryview
    rows: int
    rows_written: int
    bytes_written: int
    owner: object = None


class Engine:
    """The engine on one folder. One process per folder: the caller sees to that.

    Raises:
        WrongUse: the folder can't be used.
    """

    def __init__(self, data: Path, limits: EngineLimits | None = None) -> None:
        limits = limits or EngineLimits()
        os.putenv("TZ", "UTC")  # the engine takes its time zone from here; the contract's times are UTC
        try:
            import chdb  # noqa: PLC0415 -- loads 555 MB and starts the engine's threads: only the store process pays
        except ImportError as error:
            raise WrongUse(
                "The embedded engine (the package chdb) is not installed here: use a ClickHouse server, or install it."
            ) from error
        self._connect = chdb.connect
        self._path = str(data.resolve() / "data")
        self._limits = limits
        self._slots = threading.BoundedSemaphore(limits.queries_max)
        self._slot_count = limits.queries_max
        try:
            data.mkdir(parents=True, exist_ok=True)
            config = _write_config(data, limits)
            self._keeper = self._connect(f"{self._path}?config-file={config}")
        except (RuntimeError, OSError) as error:
            said = " ".join(str(error).split())[:300]
            raise WrongUse(f"The store in {data} can't be opened ({said}): name another folder with --data.") from error
        with self.session() as session:
            self.version = bytes(session.ask("SELECT version()", "TabSeparated").body).decode().strip()

    @contextlib.contextmanager
    def session(self, *, database: str = "", settings: Mapping[str, str] | None = None) -> Iterator[Session]:
        """A connection of one's own; waits while as many as allowed are in use. For one thread at a time.

        Raises:
            EngineError: the database does not exist, or a setting is unknown or has no such value.
        """
        with self._slots:
            try:
                in_url = f"?database={database}" if PLAIN_NAME.fullmatch(database) else ""
                connection = self._connect(f"{self._path}{in_url}")
            except ENGINE_ERRORS as error:
                raise EngineError(_said(error)) from error
            session = Session(connection, self._check_disk)
            try:
                if database and not in_url:
                    session.ask(f"USE {quoted_name(database)}", "TabSeparated")
                if settings:
                    session.ask(set_statement(settings), "TabSeparated")
                yield session
            finally:
                session.end()

    def _check_disk(self) -> None:
        disk = os.statvfs(self._path)
        if disk.f_bavail * disk.f_frsize < self._limits.full_below_bytes:
            raise EngineError(
                "Code: 243. DB::Exception: The disk is full, what was just written may be incomplete: make room, then "
                "repeat it. (NOT_ENOUGH_SPACE)"
            )

    def close(self, *, wait_seconds: float) -> bool:
        """Closes the engine when the running queries have ended; False if they had not by then and it stays open."""
        deadline = time.monotonic() + wait_seconds
        for _ in range(self._slot_count):
            if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
                return False
        self._keeper.close()
        return True


class Session:
    """One connection to the engine."""

    def __init__(self, connection: Any, check_disk: Callable[[], None]) -> None:  # noqa: ANN401 -- chdb has no types
        self._connection = connection
        self._check_disk = check_disk
        self._blocks: Any = None

    def ask(self, sql: str | bytes, form: str, parameters: Mapping[str, str] | None = None) -> Answer:
        """Runs one statement to its end and hands back the whole answer in format ``form`` unless it names one.

        Parameters are texts as in ClickHouse's HTTP interface (``param_name``), values escaped as in TabSeparated.
        """
        try:
            result = self._connection.query(sql, form, params=dict(parameters or {}))
        except ENGINE_ERRORS as error:
            raise EngineError(_said(error)) from error
        if result.rows_written():
            self._check_disk()
        owner = result.get_memview()
        body = owner.view() if result.size() else memoryview(b"")
        return Answer(body, result.rows_read(), result.rows_written(), result.bytes_written(), owner)

    def stream(self, sql: str | bytes, form: str, parameters: Mapping[str, str] | None = None) -> Iterator[bytes]:
        """The answer block by block, for formats whose blocks can be strung together."""
        try:
            self._blocks = self._connection.send_query(sql, form, params=dict(parameters or {}))
            for block in self._blocks:
                yield block.bytes()
        except ENGINE_ERRORS as error:
            raise EngineError(_said(error)) from error

    def insert(self, statement: bytes, form: str) -> Insert:
        """Begins an insert; ``statement`` ends before its FORMAT, the data are given to ``Insert.append``."""
        return Insert(self, statement, form)

    def end(self) -> None:
        """Gives up what still runs and closes the connection, in this order: the engine dies of the other one."""
        if self._blocks is not None:
            with contextlib.suppress(*ENGINE_ERRORS):  # it has failed already
                self._blocks.cancel()
        self._connection.close()


class Insert:
    """An insert under way: the data wait in memory, nothing is stored until ``finish``.

    chDB's own streaming insert (``send_insert``) swallows every error that comes while a part is written, and reports
    the rows as written; a query does not. So the data are read by one, from a file that is in memory only.
    """

    def __init__(self, session: Session, statement: bytes, form: str) -> None:
        self._session = session
        self._statement = statement
        self._form = form
        self._data = os.fdopen(os.memfd_create("insert"), "wb", buffering=0)

    def append(self, data: bytes) -> None:
        """Takes the next bytes of the data, cut anywhere."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._data.write(rest) :]

    def finish(self) -> tuple[int, int]:
        """Stores what was given, and returns when it is stored: rows and bytes."""
        if not self._data.tell():
            return 0, 0
        before, settings = _parted(self._statement)
        source = f"FROM INFILE '/proc/self/fd/{self._data.fileno()}' COMPRESSION 'none'".encode()
        done = self._session.ask(b" ".join([before, source, settings, b"FORMAT", self._form.encode()]), "TabSeparated")
        return done.rows_written, done.bytes_written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets the data go; without ``finish`` the insert is given up."""
        self._data.close()


def _parted(statement: bytes) -> tuple[bytes, bytes]:
    """An insert's head before and from its SETTINGS on: the source of the data stands between them."""
    found = SETTINGS_CLAUSE.search(statement)
    return (statement, b"") if found is None else (statement[: found.start()], statement[found.start() :])


def _said(error: RuntimeError | UnicodeDecodeError) -> str:
    return error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else str(error)


def quoted_name(name: str) -> str:
    """An identifier as ClickHouse reads it back."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def quoted_text(text: str) -> str:
    """A string literal as ClickHouse reads it back."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def set_statement(settings: Mapping[str, str]) -> str:
    """All settings in one SET, so that ``readonly`` among them does not forbid the others.

    Raises:
        EngineError: a name that no setting can have.
    """
    for name in settings:
        if not SETTING_NAME.fullmatch(name):
            raise EngineError(f"Code: 115. DB::Exception: Unknown setting '{name}'. (UNKNOWN_SETTING)")
    return "SET " + ", ".join(f"{name} = {quoted_text(value)}" for name, value in settings.items())


def _write_config(data: Path, limits: EngineLimits) -> Path:
    """The configuration next to the data, replaced as a whole so that a kill leaves the old or the new one."""
    target = data.resolve() / "engine.xml"
    with tempfile.NamedTemporaryFile("w", dir=data, suffix=".xml", delete=False) as scratch:
        scratch.write(limits.config_xml())
    Path(scratch.name).replace(target)
    return target
