"""Restating on purpose, seen from outside: what changes, what stays readable, and that a kill changes none of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.system.installation import Installation, Worker, wait_until
from tests.system.views import rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.servers

ORGS: Final = ("acme", "zen", "beta", "gamma")
BOOK: Final = """
price_book: standard
currency: USD
prices:
  - {{operation: llm.request, meter: input_tokens, price: "{input_tokens}", per: 1000}}
{more}
"""
WITHOUT_IMAGES: Final = BOOK.format(input_tokens="0.5", more="")
WITH_IMAGES: Final = BOOK.format(
    input_tokens="0.5", more='  - {operation: llm.request, meter: images, name: pictures, price: "2", per: 1}'
)
DEARER: Final = BOOK.format(
    input_tokens="0.75", more='  - {operation: llm.request, meter: images, name: pictures, price: "2", per: 1}'
)
#: The month of all events; none of them is too old.
WHEN: Final = datetime.now(UTC).replace(minute=7, second=0, microsecond=0) - timedelta(hours=2)
PERIOD: Final = f"{WHEN:%Y-%m}"


@pytest.fixture
def installed(tmp_path: Path, broker: str, database: str, topic_prefix: str) -> Installation:
    """Topics, tables and the first book of one's own on the shared servers; small batches."""
    settings = {"TALLY_BATCH_EVENTS_MAX": "1000"}
    installation = Installation(tmp_path, broker, database, topic_prefix, topic_prefix.rstrip("."), settings)
    installation.set_up(catalog=WITHOUT_IMAGES)
    return installation


def test_a_restatement_moves_every_figure_by_the_difference_and_keeps_the_old_one(installed: Installation) -> None:
    """A gap is filled, then a price is restated; each run twice changes nothing the second time."""
    with Worker(installed, "worker") as worker:
        worker.wait_until_ready()
        _send(installed, [_event("a", images=0), _event("b", images=3), _event("c", images=1, org="zen")])
        _drain(installed)
        assert _cost(installed, "acme") == ("1.000000000000", 1)

        _apply(installed, WITH_IMAGES)
        planned = _reprice(installed, "--unpriced", "--dry-run")
        filled = _reprice(installed, "--unpriced", "--reason", "images had no price")
        _drain(installed)
        assert _cost(installed, "acme") == ("7.000000000000", 0)
        assert _cost(installed, "zen") == ("2.500000000000", 0)
        again = _reprice(installed, "--unpriced")

        _apply(installed, DEARER)
        restated = _reprice(installed, "--org", "acme", "--period", PERIOD, "--book", "standard@3")
        _drain(installed)
        assert _cost(installed, "acme") == ("7.500000000000", 0)
        assert _cost(installed, "zen") == ("2.500000000000", 0)
        back = _reprice(installed, "--org", "acme", "--period", PERIOD, "--book", "standard@3")
        _drain(installed)

    assert planned["lanes"] == filled["lanes"]
    assert filled["lanes"] == [
        _lane("acme", "images", events=1, old="0.000000000000", new="6.000000000000"),
        _lane("zen", "images", events=1, old="0.000000000000", new="2.000000000000"),
    ]
    assert (filled["unpriced_before"], filled["unpriced_after"], again["changed"]) == (2, 0, 0)
    assert restated["lanes"] == [_lane("acme", "input_tokens", events=2, old="1.000000000000", new="1.500000000000")]
    assert (back["events"], back["changed"]) == (2, 0)
    assert _asked(installed, "SELECT id, toString(cost), pricing, revision FROM facts ORDER BY id") == [
        ["a", "0.75", "priced", 1],
        ["b", "6.75", "priced", 2],
        ["c", "2.5", "priced", 1],
    ]
    assert _asked(installed, HISTORY) == [
        ["a", 1, "0.5", "0.75", "priced", ["standard@1:1"], ["standard@3:1"], ""],
        ["b", 1, "0.5", "6.5", "unpriced", ["standard@1:1", ""], ["standard@2:1", "standard@2:2"], filled["run"]],
        ["b", 2, "6.5", "6.75", "priced", ["standard@2:1", "standard@2:2"], ["standard@3:1", "standard@3:2"], ""],
        ["c", 1, "0.5", "2.5", "unpriced", ["standard@1:1", ""], ["standard@2:1", "standard@2:2"], filled["run"]],
    ]
    installed.done("audit")


HISTORY: Final = """
SELECT id, revision, toString(old_cost), toString(new_cost), old_pricing, old_price_ids, new_price_ids,
    if(reason = '', '', run)
FROM corrections ORDER BY id, revision
"""


def test_a_worker_killed_in_the_middle_of_corrections_changes_no_figure(installed: Installation) -> None:
    """Whatever was stored when it died is decided again, the same; every event is corrected once."""
    events = [_event(f"{org}-{number}", images=number % 3, org=org) for org in ORGS for number in range(3_000)]
    with Worker(installed, "counting") as worker:
        worker.wait_until_ready()
        _send(installed, events)
        _drain(installed)
        worker.server.stop()
    _apply(installed, DEARER)
    for org in ORGS:
        _reprice(installed, "--org", org, "--period", PERIOD, "--book", "standard@2")
    _reprice(installed, "--org", "acme", "--period", PERIOD, "--book", "standard@2")  # before any of it is counted
    for kill in range(3):
        before = _corrections(installed)
        with Worker(installed, f"killed-{kill}") as worker:
            wait_until(partial(_is_at_work, installed, before), what="corrections, or all of them")
            worker.server.kill()
    with Worker(installed, "last") as worker:
        worker.wait_until_ready()
        _drain(installed)

    assert _asked(installed, "SELECT toString(count()), toString(max(revision)) FROM corrections") == [["12000", "1"]]
    for org in ORGS:
        own = [event for event in events if event["subject"] == org]
        cost = sum(Decimal("0.75") + 2 * int(event["data"]["usage"].get("images", 0)) for event in own)
        assert _cost(installed, org) == (f"{cost:.12f}", 0)
    installed.done("audit")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--book", "standard@9"), "There is no revision 9 of standard"),
        (("--book", "nothing@1"), "There is no revision 1 of nothing"),
        (("--book", "standard"), "no NAME@REVISION"),
        (("--book", "standard@1", "--unpriced"), "not both"),
        (("--book", "standard@1"), "acme has no counted events in this period"),
    ],
)
def test_what_cannot_be_restated_is_refused_in_one_sentence(
    installed: Installation, options: Sequence[str], sentence: str
) -> None:
    """Exit 2; nothing was written."""
    answer = installed.tally("reprice", "--org", "acme", "--period", "2020-01", *options)

    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (2, "", 1)
    assert sentence in answer.stderr


def _event(name: str, *, images: int, org: str = "acme") -> dict[str, Any]:
    usage = {"input_tokens": 1000, **({"images": images} if images else {})}
    return {
        "specversion": "1.0",
        "id": name,
        "source": "/test",
        "type": "llm.request",
        "subject": org,
        "time": WHEN.isoformat(),
        "data": {"project": "p", "api_key": "k", "usage": usage},
    }


def _lane(org: str, meter: str, *, events: int, old: str, new: str) -> dict[str, Any]:
    difference = f"{Decimal(new) - Decimal(old):.12f}"
    lane = {"org": org, "project": "p", "operation": "llm.request", "model": "", "meter": meter, "events": events}
    return {**lane, "old_cost": old, "new_cost": new, "difference": difference}


def _send(installed: Installation, events: Sequence[dict[str, Any]]) -> None:
    path = installed.folder / "events.ndjson"
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events), encoding="utf-8")
    installed.done("send", str(path))


def _apply(installed: Installation, book: str) -> None:
    path = installed.folder / "catalog.yaml"
    path.write_text(book, encoding="utf-8")
    installed.done("catalog", "apply", str(path))


def _drain(installed: Installation) -> None:
    installed.done("drain", "--timeout", "120")


def _reprice(installed: Installation, *options: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(installed.done("reprice", *options, "--format", "json"))
    return answer


def _cost(installed: Installation, org: str) -> tuple[str, int]:
    """The cost of the month and how many events lack a price, by the totals."""
    report = installed.done("report", "concentration", "--org", org, "--period", PERIOD, "--format", "json")
    document = json.loads(report)
    return document["total"], document["completeness"]["unpriced"]


def _corrections(installed: Installation) -> int:
    return int(_asked(installed, "SELECT count() FROM corrections_rows")[0][0])


def _is_at_work(installed: Installation, before: int) -> bool:
    """Whether more corrections are stored than before, or there are no more to come."""
    return _corrections(installed) > before or installed.tally("drain", "--timeout", "0").returncode == 0


def _asked(installed: Installation, sql: str) -> list[list[Any]]:
    return list(rows(installed.store_url, sql))
