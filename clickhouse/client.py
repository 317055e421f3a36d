"""One client for ClickHouse, embedded or server, and the one place where its errors become ours.

A client belongs to one thread at a time. Any error or timeout of an insert means *unknown*, not *failed*.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError
from urllib3.exceptions import HTTPError

from schemas.errors import StoreRefused, StoreUnavailable, WrongUse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pyarrow as pa

#: Sent with every insert, so that no server default decides: an acknowledged insert is a stored insert, and tables
#: that converge by identity need no insert deduplication, which can lose a block for ever when the server is killed.
#: optimize_on_insert merges the rows of the block itself before they are written; no block of ours holds two rows of
#: one key, and on the facts that work costs three times the insert (measured, 26.9). A backfill may touch more months
#: in one batch than the server lets an insert touch partitions by default.
INSERT_SETTINGS: Final = {
    "async_insert": 0,
    "insert_deduplicate": 0,
    "optimize_on_insert": 0,
    "max_partitions_per_insert_block": 0,
}

#: Errors of the server that pass by themselves or with an operator's help, as the server numbers them
#: (src/Common/ErrorCodes.cpp): timeouts, too many parts or queries, memory, disk, network, Keeper, read-only replicas.
PASSING_CODES: Final = frozenset(
    {3, 74, 75, 76, 101, 107, 159, 164, 198, 202, 203, 209, 210, 225, 236, 241, 242, 243, 252, 279, 285, 286, 319, 324}
    | {243, 369, 394, 416, 425, 439, 473, 499, 538, 594, 600, 613, 614, 619, 667, 692, 999, 1000, 1001, 1002}
)


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where the store is and how to log in."""

    host: str
    port: int
    database: str
    secure: bool
    user: str | None = None
    password: str | None = None
    cafile: Path | None = None

    @property
    def shown(self) -> str:
        """The address without secrets, for messages."""
        return f"{'https' if self.secure else 'http'}://{self.host}:{self.port}/{self.database}"


def parse_store_url(
    url: str, *, user: str | None = None, password: str | None = None, cafile: Path | None = None
) -> StoreAddress:
    """The address in ``http(s)://[user:password@]host:port/database``; the URL's own login wins over the arguments."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    try:
        port = parts.port or (8443 if secure else 8123)
    except ValueError as error:
        raise WrongUse("TALLY_STORE_URL has no usable port: it must look like http://127.0.0.1:8123/tally.") from error
    return StoreAddress(
        host=parts.hostname or "127.0.0.1",
        port=port,
        database=parts.path.strip("/") or "tally",
        secure=secure,
        user=unquote(parts.username) if parts.username else user,
        password=unquote(parts.password) if parts.password else password,
        cafile=cafile,
    )


class Store:
    """A connection to one database of ClickHouse. Not for two threads at once."""

    def __init__(self, address: StoreAddress, *, timeout_seconds: float = 60.0, database: str | None = None) -> None:
        self.address = address
        # clickhouse-connect logs every failed request with its text; ours is the one that is logged, once.
        logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
        try:
            self._client = clickhouse_connect.get_client(
                host=address.host,
                port=address.port,
                database=database or address.database,
                username=address.user,
                password=address.password or "",
                secure=address.secure,
                ca_cert=None if address.cafile is None else str(address.cafile),
                connect_timeout=5,
                send_receive_timeout=timeout_seconds,
                query_retries=0,
                autogenerate_session_id=False,
                compress=False,
                form_encode_query_params=True,  # lists of hashes are longer than a URL may be
            )
        except (ClickHouseError, HTTPError, OSError) as error:
            raise_ours(error, address=address)

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The answer as dictionaries; parameters are bound by the server (``{name:Type}``), never pasted."""
        try:
            result = self._client.query(sql, parameters=dict(parameters or {}))
            return list(result.named_results())
        except (ClickHouseError, HTTPError, OSError) as error:
            raise_ours(error, address=self.address)

    def arrow(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
        """The answer as an Arrow table (strings as strings); for large answers."""
        try:
            return self._client.query_arrow(sql, parameters=dict(parameters or {}), use_strings=True)
        except (ClickHouseError, HTTPError, OSError) as error:
            raise_ours(error, address=self.address)

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Runs a statement that has no answer."""
        try:
            self._client.command(sql, parameters=dict(parameters or {}))
        except (ClickHouseError, HTTPError, OSError) as error:
            raise_ours(error, address=self.address)

    def insert(self, table: str, rows: pa.Table) -> None:
        """Inserts and returns when ClickHouse has acknowledged. Raises StoreUnavailable when the outcome is unknown."""
        try:
            self._client.insert_arrow(table, rows, settings=INSERT_SETTINGS)
        except (ClickHouseError, HTTPError, OSError) as error:
            raise_ours(error, address=self.address)

    def close(self) -> None:
        """Closes the connection; safe to repeat."""
        self._client.close()


def raise_ours(error: Exception, *, address: StoreAddress) -> NoReturn:
    """Turns a driver's exception into StoreUnavailable (wait, repeat) or StoreRefused (do not repeat)."""
    if isinstance(error, DatabaseError) and not isinstance(error, OperationalError):
        code = getattr(error, "code", None)
        text = " ".join(str(error).split())[:400]
        if code in PASSING_CODES:
            raise StoreUnavailable(f"ClickHouse at {address.shown} can't do this now: {text}") from error
        if code == 60 or "UNKNOWN_TABLE" in text:
            raise StoreRefused(f"ClickHouse at {address.shown} has no tables of tally: run `tally migrate`.") from error
        if code == 81 or "UNKNOWN_DATABASE" in text:
            raise StoreRefused(
                f"ClickHouse at {address.shown} has no database {address.database}: run `tally migrate` first."
            ) from error
        if code in {192, 193, 194, 516}:
            raise StoreRefused(
                f"ClickHouse at {address.shown} refuses the login: check TALLY_STORE_USER and TALLY_STORE_PASSWORD."
            ) from error
        raise StoreRefused(f"ClickHouse at {address.shown} refuses: {text}") from error
    raise StoreUnavailable(
        f"ClickHouse at {address.shown} can't be reached: start it (`tally store`) or correct TALLY_STORE_URL."
    ) from error
