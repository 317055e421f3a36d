"""The events of ``tally demo``: real requests, with what the trace lacks assigned by a fixed rule, and some trouble.

Nothing here is random: the same lines every time, and with them what must come out.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from schemas.rejects import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DATA: Final = Path(__file__).parent / "demo_data"
TRACE: Final = DATA / "azure_llm_inference_2023_code.csv"
PRICES: Final = DATA / "prices.yaml"

#: The instant from which the reports look back: the trace ends at 19:14 on that day.
NOW: Final = "2023-11-16T20:00:00Z"
PERIOD: Final = "2023-11"
SOURCE: Final = "/azure-llm-inference-trace-2023/code"

#: What is said on screen; ``event`` and ``lines`` do exactly this.
RULE: Final = (
    "org: by the row's number modulo 20, 0-11 northwind, 12-16 initech, 17-19 umbrella",
    "project: by the tokens read, up to 1,000 inline-completion, up to 4,000 chat-edit, more repo-review",
    "api key: the project's first, second or third, by the row's number modulo 3",
    "status: error for every 97th row; model: code-completion-preview, which has no price, for every 499th",
    "trouble: every 53rd row is sent twice, every 397th again with other content, and ten broken lines are mixed in",
)


@dataclass
class Expected:
    """What was sent, and so what must come out."""

    lines: int = 0
    facts: Counter[str] = field(default_factory=Counter)  # by org
    duplicates: int = 0
    conflicts: int = 0
    unpriced: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # by reason, conflicts included


@dataclass(frozen=True, slots=True)
class Row:
    """One request of the trace; ``number`` counts from 0."""

    number: int
    time: str
    tokens_read: int
    tokens_written: int


def trace() -> Iterator[Row]:
    """The requests in the order in which they came."""
    with TRACE.open(encoding="ascii", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            instant = row["TIMESTAMP"].replace(" ", "T") + "Z"
            yield Row(number, instant, int(row["ContextTokens"]), int(row["GeneratedTokens"]))


def event(row: Row) -> dict[str, Any]:
    """The CloudEvent of a request."""
    project = _project(row)
    return {
        "specversion": "1.0",
        "id": f"row-{row.number}",
        "source": SOURCE,
        "type": "llm.request",
        "subject": _org(row),
        "time": row.time,
        "data": {
            "project": project,
            "api_key": f"key-{project}-{row.number % 3 + 1}",
            "environment": "production",
            "provider": "azure",
            "model": "code-completion-preview" if row.number % 499 == 3 else "code-completion",
            "status": "error" if row.number % 97 == 96 else "ok",
            "usage": {"input_tokens": row.tokens_read, "output_tokens": row.tokens_written},
        },
    }


def _org(row: Row) -> str:
    place = row.number % 20
    return "northwind" if place < 12 else "initech" if place < 17 else "umbrella"


def _project(row: Row) -> str:
    if row.tokens_read <= 1_000:
        return "inline-completion"
    return "chat-edit" if row.tokens_read <= 4_000 else "repo-review"


def _data(**changed: Any) -> dict[str, Any]:  # noqa: ANN401 -- what a broken producer may write
    return {**event(Row(-1, "2023-11-16T18:30:00Z", 100, 10))["data"], **changed}


def _broken(name: str, **changed: Any) -> bytes:  # noqa: ANN401
    whole = {**event(Row(-1, "2023-11-16T18:30:00Z", 100, 10)), "id": f"broken-{name}", **changed}
    return json.dumps({key: value for key, value in whole.items() if value is not None}).encode()


def broken_lines() -> list[tuple[Reason, bytes]]:
    """Ten lines of producers that got it wrong, each with the reason for which it must be refused."""
    return [
        (Reason.NOT_JSON, b'{"specversion": "1.0", "id": "cut off in the mid'),
        (Reason.DUPLICATE_KEY, b'{"specversion": "1.0", "id": "one", "id": "two"}'),
        (Reason.NOT_CLOUDEVENT, b'{"event": "llm.request", "tokens": 100}'),
        (Reason.MISSING_FIELD, _broken("no-time", time=None)),
        (Reason.BAD_TYPE, _broken("bad-status", data=_data(status="maybe"))),
        (Reason.BAD_ID, _broken("bad-org", subject="north wind")),
        (Reason.RAW_SECRET, _broken("secret", data=_data(api_key="sk-" + "demo0secret" * 3))),
        (Reason.TIME_IN_FUTURE, _broken("future", time="2999-01-01T00:00:00Z")),
        (Reason.UNKNOWN_FIELD, _broken("unknown", data=_data(tokens=100))),
        (Reason.BAD_QUANTITY, _broken("negative", data=_data(usage={"input_tokens": -5}))),
    ]


def lines(rows: Iterable[Row], expected: Expected) -> Iterator[bytes]:
    """Every line to be sent, in order; ``expected`` is filled on the way."""
    trouble = iter(broken_lines())
    for row in rows:
        one = event(row)
        expected.facts[one["subject"]] += 1
        expected.unpriced += one["data"]["model"] == "code-completion-preview"
        yield _counted(one, expected)
        if row.number % 53 == 7:
            expected.duplicates += 1
            yield _counted(one, expected)
        if row.number % 397 == 11:
            expected.conflicts += 1
            expected.rejected[Reason.CONFLICT] += 1
            other = event(Row(row.number, row.time, row.tokens_read, row.tokens_written + 1))
            yield _counted(other, expected)
        if row.number % 797 == 13 and (broken := next(trouble, None)):
            expected.rejected[broken[0]] += 1
            expected.lines += 1
            yield broken[1]


def _counted(one: dict[str, Any], expected: Expected) -> bytes:
    expected.lines += 1
    return json.dumps(one).encode()


def write(path: Path) -> Expected:
    """Writes the file to be sent and hands back what must come out of it."""
    expected = Expected()
    with path.open("wb") as file:
        file.writelines(line + b"\n" for line in lines(trace(), expected))
    return expected
