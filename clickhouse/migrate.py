"""Brings a database up to the migrations in ``clickhouse/migrations``: plain SQL files, applied in order, frozen.

The files are applied by clickhouse-migrations, which keeps the checksum of each in the table ``schema_versions``. All
statements say ``IF NOT EXISTS``: ClickHouse has no transactional DDL, so a run that was killed, or two runs at once,
are mended by running again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa
from clickhouse_migrations.connection import Connection  # type: ignore[import-untyped]
from clickhouse_migrations.exceptions import MigrationException  # type: ignore[import-untyped]
from clickhouse_migrations.migration import MigrationStorage  # type: ignore[import-untyped]
from clickhouse_migrations.migrator import (  # type: ignore[import-untyped]
    STATUS_APPLIED,
    STATUS_MD5_MISMATCH,
    STATUS_UNKNOWN,
    Migrator,
)

from clickhouse.client import Store
from schemas.errors import WrongUse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clickhouse.client import StoreAddress

MIGRATIONS: Final = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class StoreMigration:
    """What a run did: the files applied now, in order, and how many had been applied before."""

    applied: tuple[str, ...]
    already: int


class _StoreConnection(Connection):  # type: ignore[misc]
    """What clickhouse-migrations needs, over our client, so that its errors are ours."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def command(self, statement: str, log_statement: str | None = None) -> None:
        _ = log_statement
        self._store.command(statement)

    def query(self, statement: str) -> list[dict[str, Any]]:
        return self._store.rows(statement)

    def insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        self._store.insert(table.strip("`"), pa.Table.from_pylist(rows, schema=_VERSION_ROWS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()


_VERSION_ROWS: Final = pa.schema([("version", pa.uint32()), ("script", pa.string()), ("md5", pa.string())])


def migrate_store(store: Store, *, folder: Path = MIGRATIONS) -> StoreMigration:
    """Applies what is pending and hands back what it did. Twice changes nothing.

    Raises:
        WrongUse: a file was edited after it had been applied, or the database knows a newer one than this folder.
        StoreRefused, StoreUnavailable: as ClickHouse answered; what was applied before stays and is known.
    """
    files = MigrationStorage(folder)
    names = files.migration_filenames()
    migrator = Migrator(_StoreConnection(store))
    try:
        migrations = files.migrations()
        migrator.init_schema()
        status = migrator.migration_status(migrations)
        _refuse_other_history({row.version: row.state for row in status}, names, where=store.address.shown)
        applied = migrator.apply_migration(migrations, multi_statement=True)
    except MigrationException as error:
        raise WrongUse(f"The migrations of {store.address.shown} can't be applied: {error}") from error
    return StoreMigration(
        applied=tuple(names[migration.version] for migration in applied),
        already=sum(row.state == STATUS_APPLIED for row in status),
    )


def _refuse_other_history(states: Mapping[int, str], names: Mapping[int, str], *, where: str) -> None:
    for version, state in states.items():
        if state == STATUS_MD5_MISMATCH:
            raise WrongUse(
                f"The migration {names[version]} was edited after it had been applied to {where}: restore the file, "
                "and write the change as a new one."
            )
        if state == STATUS_UNKNOWN:
            raise WrongUse(
                f"The database {where} has migration {version}, which this version of tally does not know: use the "
                "version of tally that migrated it, or a newer one."
            )


def pending_migrations(store: Store, *, folder: Path = MIGRATIONS) -> tuple[str, ...]:
    """The files that `tally migrate` would apply, in order; reads only.

    Raises:
        StoreRefused: the database was never migrated.
    """
    files = MigrationStorage(folder)
    names = files.migration_filenames()
    status = Migrator(_StoreConnection(store)).migration_status(files.migrations())
    return tuple(names[row.version] for row in status if row.state not in (STATUS_APPLIED, STATUS_UNKNOWN))


def create_database(address: StoreAddress) -> bool:
    """Creates the database of the address when it is missing; True when it did.

    A user that may not create databases is fine as long as the database is there.
    """
    store = Store(address, database="default")
    try:
        known = store.rows("SELECT 1 FROM system.databases WHERE name = {name:String}", {"name": address.database})
        if known:
            return False
        quoted = address.database.replace("\\", "\\\\").replace("`", "\\`")
        store.command(f"CREATE DATABASE IF NOT EXISTS `{quoted}`")
        return True
    finally:
        store.close()


def installation(store: Store) -> dict[str, str]:
    """What must never change under this installation; empty before the first `tally migrate`.

    Raises:
        WrongUse: two runs recorded different values at once.
    """
    known = "SELECT 1 FROM system.tables WHERE database = currentDatabase() AND name = 'installation_rows'"
    if not store.rows(known):
        return {}
    rows = store.rows("SELECT DISTINCT name, value FROM installation_rows ORDER BY name, value")
    values: dict[str, str] = {}
    for row in rows:
        if values.setdefault(row["name"], row["value"]) != row["value"]:
            raise WrongUse(
                f"The database {store.address.shown} was migrated twice at once with different values of "
                f"{row['name']} ({values[row['name']]} and {row['value']}): migrate an empty database."
            )
    return values


def record_installation(store: Store, values: Mapping[str, str]) -> None:
    """Writes down what must never change; rows that are there already with the same value are not written again."""
    known = installation(store)
    new = [{"name": name, "value": value} for name, value in values.items() if known.get(name) != value]
    if new:
        store.insert("installation_rows", pa.Table.from_pylist(new))
