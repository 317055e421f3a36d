"""How answers are printed: a table for a person, one JSON document or CSV for a machine.

Rows are taken one by one, so that a long answer is printed as it is read.
"""

from __future__ import annotations

import csv
import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Format(StrEnum):
    """What ``--format`` takes."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


FormatOption = Annotated[
    Format | None, typer.Option("--format", help="table, json or csv; a table on a terminal, else json.")
]


def default_format() -> Format:
    """A table on a terminal, JSON when the output goes to a file or another program."""
    return Format.TABLE if sys.stdout.isatty() else Format.JSON


def print_json(document: Any) -> None:  # noqa: ANN401 -- any JSON value
    """One JSON document on one line of stdout."""
    sys.stdout.write(_json(document) + "\n")


def print_json_list(name: str, rows: Iterable[Any], *, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """One JSON document on one line, whose list ``name`` stands between two groups of members and may be long."""
    head = "".join(f"{_json(key)}: {_json(value)}, " for key, value in before.items())
    sys.stdout.write(f"{{{head}{_json(name)}: [")
    for place, row in enumerate(rows):
        sys.stdout.write(f"{', ' if place else ''}{_json(row)}")
    tail = "".join(f", {_json(key)}: {_json(value)}" for key, value in after.items())
    sys.stdout.write(f"]{tail}}}\n")


def print_csv(rows: Iterable[Mapping[str, Any]], *, columns: Sequence[str]) -> None:
    """Rows as CSV with a header line, also when there are none. Nested values are written as JSON."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])


def print_table(rows: Iterable[Mapping[str, Any]], *, columns: Sequence[str], title: str = "") -> None:
    """Rows as an aligned table; columns whose values are all numbers stand to the right.

    On a terminal long values are folded to its width; elsewhere a row is always one line. Control characters are
    shown by their code: what producers sent must not steer a terminal.
    """
    cells = [[_printable(_cell(row.get(column))) for column in columns] for row in rows]
    table = Table(title=None, box=SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    for place, column in enumerate(columns):
        numeric = _numeric([row[place] for row in cells])
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = 4 * len(columns) + sum(
            max(len(line) for line in [column, *(row[place] for row in cells)]) for place, column in enumerate(columns)
        )
    if title:
        print_line(title)
    console.print(table)


def print_line(text: str) -> None:
    """One line for a person, under or above a table."""
    sys.stdout.write(_printable(text) + "\n")


def counted(count: int, noun: str) -> str:
    """A number with its noun: ``1 record``, ``2 records``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def warn(sentence: str) -> None:
    """One sentence on stderr; the answer is given all the same."""
    sys.stderr.write(f"tally: {sentence}\n")


def _json(value: Any) -> str:  # noqa: ANN401 -- any JSON value
    return json.dumps(value, ensure_ascii=False)


def _cell(value: Any) -> str:  # noqa: ANN401 -- any JSON value
    if value is None:
        return ""
    if isinstance(value, (bool, dict, list)):
        return _json(value)
    return str(value)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _numeric(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(cell.replace(".", "", 1).lstrip("-").isdecimal() for cell in filled)
