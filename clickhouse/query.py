"""The query pages of ``clickhouse/queries``: file name = query name, first line = the question in plain words."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def query(name: str) -> str:
    """The text of ``queries/NAME.sql``. Raises FileNotFoundError for a name that does not exist: a bug."""
    return resources.files("clickhouse").joinpath("queries", f"{name}.sql").read_text(encoding="utf-8")
