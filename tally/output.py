"""How answers are printed: a table for a person, one JSON document or CSV for a machine."""

from __future__ import annotations

import csv
import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence


class Format(StrEnum):
    """What ``--format`` takes."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def default_format() -> Format:
    """A table on a terminal, JSON when the output goes to a file or another program."""
    return Format.TABLE if sys.stdout.isatty() else Format.JSON


def print_json(document: Any) -> None:  # noqa: ANN401 -- any JSON value
    """One JSON document on one line of stdout."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")


def print_csv(rows: Sequence[dict[str, Any]], *, columns: Sequence[str]) -> None:
    """Rows as CSV with a header line, also when there are none. Nested values are written as JSON."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])


def print_table(rows: Sequence[dict[str, Any]], *, columns: Sequence[str], title: str = "") -> None:
    """Rows as an aligned table; columns whose values are all numbers stand to the right."""
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if _numeric(rows, column) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(file=sys.stdout).print(table)


def _cell(value: Any) -> str:  # noqa: ANN401 -- any JSON value
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _numeric(rows: Sequence[dict[str, Any]], column: str) -> bool:
    values = [row.get(column) for row in rows]
    return any(value is not None for value in values) and all(
        value is None or str(value).replace(".", "", 1).lstrip("-").isdigit() for value in values
    )
