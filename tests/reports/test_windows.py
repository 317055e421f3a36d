"""Windows: the view, `tally report windows`, and what both must have in common."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.periods import calendar_window
from schemas.frames import MEMO_METERS
from schemas.rules import Scope, Window
from tests.reports.building import NOON, Line, fact
from tests.reports.conftest import tally_on

if TYPE_CHECKING:
    from tests.commands.conftest import Tally
    from tests.reports.building import Counted

pytestmark = pytest.mark.servers

CALENDAR = [window for window in Window if not window.is_rolling]
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)

#: A Sunday, the Monday after it, and the last hour of the month; lines as events have them, a memo among them.
TOKENS = (
    Line("input_tokens", "1000", "0.5"),
    Line("output_tokens", "10.5", "0.25"),
    Line("reasoning_tokens", "7", None, state="memo"),
    Line("images", "3", None, state="ignored"),
)
PRICED_MEMO = Line("reasoning_tokens", "2", "1")
FACTS = (
    fact(*TOKENS),
    fact(*TOKENS, user="u1", status="error"),
    fact(*TOKENS, PRICED_MEMO._replace(meter="cache_read_tokens"), project="other", time=NOON + HOUR),
    fact(PRICED_MEMO, project="other", time=NOON + 24 * HOUR),
    fact(Line("images", "3", None), model="flux", time=datetime(2026, 3, 31, 23, 59, 59, 999_999, UTC)),
    fact(Line("requests", "1", "0.04", name="lookups"), operation="lookup", model="", time=NOON - 24 * HOUR),
    fact(*TOKENS, org="zen"),
)


@pytest.fixture(scope="module")
def counted_once(read_only: Counted) -> Counted:
    """FACTS, counted in two blocks that overlap in hours."""
    read_only.count(*FACTS[:2], *FACTS[4:])
    read_only.count(*FACTS[2:4])
    return read_only


@pytest.fixture(scope="module")
def tally(counted_once: Counted) -> Tally:
    """The command line on the same database."""
    return tally_on(counted_once.url)


def _expected(scope: Scope, window: Window, *, org: str = "acme") -> dict[tuple[str, datetime | None], dict[str, Any]]:
    """The windows of FACTS, summed one by one."""
    windows: dict[tuple[str, datetime | None], dict[str, Any]] = {}
    for row in FACTS:
        scope_id = row[scope.value]
        if row["org"] != org or not scope_id:
            continue
        start = calendar_window(window, holds=row["time"]).start
        nothing = {"requests": 0, "ok": 0, "failed": 0, "tokens": Decimal(0), "cost": Decimal(0), "unpriced": 0}
        own = windows.setdefault((scope_id, start), nothing)
        own["requests"] += 1
        own["ok" if row["status"] == "ok" else "failed"] += 1
        own["tokens"] += sum(
            Decimal(line.quantity)
            for line in row["lines"]
            if line.meter.endswith("_tokens") and line.kind()[3] != "memo"
        )
        own["cost"] += row["cost"] or 0
        own["unpriced"] += row["pricing"] == "unpriced"
    return windows


def _utc(instant: datetime | None) -> datetime | None:
    return None if instant is None else instant.replace(tzinfo=UTC)


@pytest.mark.parametrize(("scope", "window"), list(product(Scope, CALENDAR)))
def test_the_view_has_each_calendar_window_of_each_scope_value(
    counted_once: Counted, scope: Scope, window: Window
) -> None:
    """An absent value has none; a memo is no token unless it has a price."""
    rows = counted_once.store.rows(
        "SELECT * FROM windows WHERE org = 'acme' AND scope = {scope:String} AND window = {window:String}",
        {"scope": scope.value, "window": window.value},
    )

    found = {(row["scope_id"], _utc(row["start"])): row for row in rows}
    assert len(found) == len(rows)
    expected = _expected(scope, window)
    assert {key: {name: row[name] for name in expected[key]} for key, row in found.items()} == expected


def test_the_view_without_a_filter_is_all_of_them(counted_once: Counted) -> None:
    """Of all orgs, scopes and windows."""
    rows = counted_once.store.rows("SELECT count() AS windows, uniqExact(org) AS orgs FROM windows")

    expected = sum(len(_expected(*kind, org=org)) for kind in product(Scope, CALENDAR) for org in ("acme", "zen"))
    assert rows == [{"windows": expected, "orgs": 2}]


def test_the_view_takes_the_same_quantities_for_memos_as_pricing(counted_once: Counted) -> None:
    """Its text can't ask the code, so this does."""
    (row,) = counted_once.store.rows(
        "SELECT create_table_query AS text FROM system.tables WHERE database = currentDatabase() AND name = 'windows'"
    )

    assert [name for name in MEMO_METERS if f"'{name}'" not in row["text"]] == []


@pytest.mark.parametrize(
    "filtered", ["org = 'acme'", "scope = 'project'", "window = 'day'", "org = 'acme' AND window = 'day'"]
)
def test_a_filter_on_the_view_reaches_the_tables(counted_once: Counted, filtered: str) -> None:
    """A filter on org narrows what is read; one on scope or window what it is multiplied by."""
    plan = counted_once.store.rows(f"EXPLAIN indexes = 1 SELECT * FROM windows WHERE {filtered}")  # noqa: S608
    lines = [str(next(iter(row.values()))) for row in plan]

    join = next(place for place, line in enumerate(lines) if "Join" in line)
    filters = [line for line in lines[join:] if "Filter column" in line]
    for column, value in (part.split(" = ") for part in filtered.split(" AND ")):
        assert any(f"= {value}" in line and (column != "org" or "org" in line) for line in filters), column


@pytest.mark.parametrize(("scope", "window"), list(product(Scope, CALENDAR)))
def test_the_report_of_a_period_is_what_the_view_says(tally: Tally, scope: Scope, window: Window) -> None:
    """All windows that start in it, by cost."""
    period = () if window is Window.TOTAL else ("--period", "2026-02-01T00:00Z/2026-04-01T00:00Z")

    answer = tally(*_windows(scope, window), *period)

    assert answer.code == 0
    found = {(row["id"], row["start"]): row for row in answer.json["windows"]}
    expected = {
        (scope_id, None if start is None else start.isoformat().replace("+00:00", "Z")): sums
        for (scope_id, start), sums in _expected(scope, window).items()
    }
    assert set(found) == set(expected)
    for key, sums in expected.items():
        assert {name: Decimal(found[key][name]) for name in sums} == sums
    costs = [Decimal(row["cost"]) for row in answer.json["windows"]]
    assert costs == sorted(costs, reverse=True)


def _windows(scope: Scope, window: Window, *, now: datetime = NOON) -> tuple[str, ...]:
    named = ("--scope", scope.value, "--window", window.value)
    return ("report", "windows", "--org", "acme", *named, "--now", now.isoformat(), "--format", "json")


def test_without_a_period_the_report_has_the_windows_that_hold_now(tally: Tally) -> None:
    """The document of the contract, with completeness."""
    answer = tally(*_windows(Scope.PROJECT, Window.DAY, now=NOON + 24 * HOUR))

    assert answer.json == {
        "org": "acme",
        "scope": "project",
        "window": "day",
        "windows": [
            {
                "id": "other", "start": "2026-03-02T00:00:00Z", "requests": 1, "ok": 1, "failed": 0,
                "tokens": "2", "cost": "1.000000000000", "unpriced": 0,
            }
        ],
        "completeness": {
            "events": 1, "unpriced": 0, "rejected": 0, "duplicates": 0, "conflicts": 0,
            "watermark": "2026-03-02T12:00:00.000000Z", "lag": None,
        },
    }  # fmt: skip


def test_events_without_a_value_are_in_no_window_but_in_completeness(tally: Tally) -> None:
    """Nothing is hidden by asking for users."""
    answer = tally(*_windows(Scope.USER, Window.DAY)).json

    assert [(row["id"], row["requests"]) for row in answer["windows"]] == [("u1", 1)]
    assert answer["completeness"]["events"] == 3


def test_a_period_in_which_no_window_starts_has_none(tally: Tally) -> None:
    """No week starts on a Sunday; the one that holds it is not of this period."""
    answer = tally(*_windows(Scope.ORG, Window.WEEK), "--period", "2026-03-01")

    assert (answer.code, answer.json["windows"], answer.json["completeness"]["events"]) == (0, [], 0)


@pytest.mark.parametrize(
    ("window", "start", "requests"),
    [
        (Window.ROLLING_5M, "2026-03-01T12:56:00Z", 1),
        (Window.ROLLING_1H, "2026-03-01T12:01:00Z", 1),
        (Window.ROLLING_6H, "2026-03-01T08:00:00Z", 3),
        (Window.ROLLING_24H, "2026-02-28T14:00:00Z", 3),
        (Window.ROLLING_7D, "2026-02-22T14:00:00Z", 4),
    ],
)
def test_a_rolling_window_ends_with_the_newest_event(tally: Tally, window: Window, start: str, requests: int) -> None:
    """Seen from a later now it stays there, as it does for a rule; events after now are not looked for."""
    answer = tally(*_windows(Scope.ORG, window, now=NOON + 3 * HOUR)).json

    assert [(row["id"], row["start"], row["requests"]) for row in answer["windows"]] == [("acme", start, requests)]


def test_a_rolling_window_of_minutes_counts_tokens_as_the_hours_do(tally: Tally) -> None:
    """From facts, with the same rule for memos."""
    (five_minutes,) = tally(*_windows(Scope.PROJECT, Window.ROLLING_5M, now=NOON + 2 * HOUR)).json["windows"]
    (hour,) = tally(*_windows(Scope.PROJECT, Window.HOUR, now=NOON + HOUR)).json["windows"]

    assert {**five_minutes, "start": hour["start"]} == hour
    assert hour["tokens"] == "1012.5"


def test_an_org_without_events_has_no_windows(tally: Tally) -> None:
    """Exit 0, rolling ones too."""
    for window in (Window.DAY, Window.ROLLING_5M, Window.TOTAL):
        named = ("--org", "nobody", "--scope", "org", "--window", window.value)
        answer = tally("report", "windows", *named, "--format", "json")

        assert (answer.code, answer.json["windows"]) == (0, [])


def test_windows_are_printed_as_a_table_and_as_csv(tally: Tally) -> None:
    """With a title, and how complete they are."""
    arguments = _windows(Scope.PROJECT, Window.DAY)[:-1]

    table = tally(*arguments, "table").stdout.splitlines()
    csv = tally(*arguments, "csv").stdout.splitlines()

    assert table[0] == "Windows (day) of acme by project, 2026-03-01 to 2026-03-02"
    assert table[-1].startswith("3 events (0 unpriced) up to 2026-03-01T13:00:00.000000Z")
    assert csv[0] == "id,start,requests,ok,failed,tokens,cost,unpriced"
    assert csv[1] == "other,2026-03-01T00:00:00Z,1,1,0,1012.5,1.750000000000,0"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--scope", "project", "--window", "5m", "--period", "today"), "--period"),
        (("--scope", "project", "--window", "total", "--period", "today"), "--period"),
        (("--scope", "project", "--window", "year"), "--window"),
        (("--scope", "team", "--window", "day"), "--scope"),
        (("--scope", "project", "--window", "month", "--now", "9999-12-31T23:59:59Z"), "year 10000"),
        (("--scope", "project"), "--window"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_2(tally: Tally, arguments: tuple[str, ...], word: str) -> None:
    """It says which option to change."""
    answer = tally.given(kafka_bootstrap="127.0.0.1:9")("report", "windows", "--org", "acme", *arguments)

    assert (answer.code, answer.stdout) == (2, "")
    assert word in answer.stderr.splitlines()[-1]
