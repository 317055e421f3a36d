"""Alerts as rows: the view is exact, and `tally report alerts` says what went to usage.alerts."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from clickhouse import reports
from schemas.published import Alert
from schemas.reports import Period
from tests.reports.building import NOON, fact

if TYPE_CHECKING:
    from tests.commands.conftest import Answer, Tally
    from tests.reports.building import Counted

pytestmark = pytest.mark.servers

HOUR = timedelta(hours=1)


def _report(tally: Tally, *arguments: str, form: str = "json") -> Answer:
    return tally("report", "alerts", "--org", "acme", *arguments, "--format", form)


def test_a_transition_written_twice_is_one_row(counted: Counted) -> None:
    """At once, and in several inserts; the view is exact at any time."""
    for block in (7, 7, 9):
        counted.alert({"block": block}, {"block": block, "sequence": 2, "transition": "resolved"})

    rows = counted.store.rows("SELECT sequence, transition, block FROM alerts WHERE org = 'acme' ORDER BY sequence")

    assert rows == [
        {"sequence": 1, "transition": "fired", "block": 7},
        {"sequence": 2, "transition": "resolved", "block": 7},
    ]


def test_control_blocks_written_twice_are_one_row(counted: Counted) -> None:
    """Once merged; a reader before that asks with FINAL."""
    for _ in range(2):
        counted.store.command("INSERT INTO control_rows VALUES (0, 3, '{}', '2026-03-01 12:00:00')")

    assert counted.store.rows("SELECT count() AS rows FROM control_rows FINAL") == [{"rows": 1}]


def test_an_alert_is_told_as_it_was_published(counted: Counted, tally: Tally) -> None:
    """The document of the contract; it is valid for the published schema."""
    counted.count(fact())
    counted.alert({})

    answer = _report(tally, "--period", "2026-03").json

    assert answer["org"] == "acme"
    assert answer["period"] == {"start": "2026-03-01T00:00:00Z", "end": "2026-04-01T00:00:00Z"}
    assert answer["completeness"]["events"] == 1
    (alert,) = answer["alerts"]
    Alert.model_validate(alert)
    assert alert == {
        "schema": "tally.alert.v1",
        "alert_id": "a" * 32,
        "sequence": 1,
        "transition": "fired",
        "rule": "budget",
        "rule_revision": 1,
        "org": "acme",
        "scope": {"kind": "project", "id": "checkout"},
        "measure": "cost",
        "unit": "USD",
        "window": {"kind": "day", "start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"},
        "threshold": "50",
        "percent": None,
        "budget": None,
        "value": "50.000125000000",
        "highest": True,
        "crossed_by": {"source": "/gateway", "id": "id-0", "time": "2026-03-01T12:00:00.000000Z"},
        "top": [{"kind": "api_key", "id": "key_42", "value": "31.900000000000"}],
        "completeness": {"unpriced": 0, "watermark": "2026-03-01T12:00:00.000000Z"},
    }


def test_what_is_absent_is_null(counted: Counted, tally: Tally) -> None:
    """A window of all time, a count; a percentage and a formula stand where there is one."""
    counted.alert(
        {"window": "total", "window_start": None, "window_end": None, "measure": "requests", "unit": ""},
        {"sequence": 2, "percent": Decimal(80), "budget": Decimal("62.5"), "method": "cost * 2"},
    )

    budget, plain = _report(tally).json["alerts"]

    assert plain["window"] == {"kind": "total", "start": None, "end": None}
    assert (plain["unit"], plain["percent"], plain["budget"]) == (None, None, None)
    assert "method" not in plain
    assert (budget["percent"], budget["budget"], budget["method"]) == (80, "62.5", "cost * 2")


def test_an_alert_belongs_to_the_time_of_the_event_behind_it(counted: Counted, tally: Tally) -> None:
    """Newest first; the end of a period is excluded, other orgs are not seen, whenever it was recorded."""
    march_end = NOON.replace(month=4, day=1, hour=0)
    late: dict[str, Any] = {"recorded_at": NOON + 60 * 24 * HOUR}
    counted.alert(
        {"rule": "first", "alert_id": "1" * 32},
        {"rule": "second", "alert_id": "2" * 32, "crossed_time": NOON + HOUR, **late},
        {"rule": "april", "alert_id": "3" * 32, "crossed_time": march_end},
        {"rule": "other", "alert_id": "4" * 32, "org": "zen"},
    )

    assert [alert["rule"] for alert in _report(tally, "--period", "2026-03").json["alerts"]] == ["second", "first"]


def test_alerts_are_read_in_pages_newest_first(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row once, whatever the size of a page, also among transitions of one instant."""
    ids = [f"{number:032x}" for number in range(5)]
    counted.alert(*({"alert_id": name, "sequence": sequence} for name in ids for sequence in (1, 2)))
    period = Period(None, None)
    whole = list(reports.alerts(counted.store, org="acme", period=period, limit=None))

    monkeypatch.setattr(reports, "PAGE_ROWS", 3)

    assert list(reports.alerts(counted.store, org="acme", period=period, limit=None)) == whole
    assert [(row["alert_id"], row["sequence"]) for row in whole] == [
        (name, sequence) for name in reversed(ids) for sequence in (2, 1)
    ]


def test_a_person_sees_the_words_and_a_program_all_of_it(counted: Counted, tally: Tally) -> None:
    """A table of few columns; CSV with every field."""
    counted.alert({})

    table = _report(tally, form="table").stdout.splitlines()
    row = next(csv.DictReader(io.StringIO(_report(tally, form="csv").stdout)))

    assert table[0] == "Alerts of acme, all of time"
    words = ("2026-03-01T12:00:00.000000Z", "fired", "budget", "project checkout", "cost USD", "50.000125000000")
    assert [word for word in words if word not in table[3]] == []
    assert (row["alert_id"], row["scope"]) == ("a" * 32, '{"kind": "project", "id": "checkout"}')
