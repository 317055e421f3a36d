"""Each question of a report on the real engine, answered once by hours and once by facts where both can."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from clickhouse import reports
from schemas.reports import LANES_BY, Figures, InvoiceSum, LaneSum, Period, Refusals, UnpricedSum, WindowSum
from tests.reports.building import NOON, Line, fact

if TYPE_CHECKING:
    from tests.reports.building import Counted

MARCH = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
#: As March, but not of whole hours: answered by facts.
ODD_MARCH = Period(MARCH.start, datetime(2026, 4, 1, 0, 0, 0, 1, tzinfo=UTC))
HOUR = timedelta(hours=1)
NOON_US = int(NOON.timestamp()) * 10**6

pytestmark = pytest.mark.servers


def _figures(**said: Any) -> Figures:
    ordinary = {
        "requests": 0,
        "ok": 0,
        "failed": 0,
        "unpriced": 0,
        "cost": Decimal(0),
        "failed_cost": Decimal(0),
        "newest_us": None,
    }
    return Figures(**{**ordinary, **said})


@pytest.fixture
def march(counted: Counted) -> Counted:
    """Two projects, a failure, an unpriced event, one in April, one of another org; in blocks that overlap in lanes."""
    tokens = (Line("input_tokens", "1000", "0.5"), Line("output_tokens", "10.5", "0.25"))
    counted.count(
        fact(*tokens),
        fact(*tokens, status="error", time=NOON + HOUR),
        fact(*tokens, project="other", user="u1"),
    )
    counted.count(
        fact(*tokens, time=NOON + timedelta(microseconds=5)),
        fact(Line("requests", "1", "0", name="lookups", state="not_billed"), operation="lookup", status="error"),
        fact(Line("images", "3", None), Line("latency_ms", "7", None, state="ignored"), model="flux"),
        fact(*tokens, time=datetime(2026, 4, 1, tzinfo=UTC)),
        fact(*tokens, org="other"),
    )
    return counted


@pytest.mark.parametrize("period", [MARCH, ODD_MARCH], ids=["hours", "facts"])
def test_lanes_sum_up_what_happened_in_the_period(march: Counted, period: Period) -> None:
    """The same from hourly totals and from facts; the end is excluded, other orgs are not seen."""
    lanes = reports.lanes(march.store, org="acme", by="project", period=period)

    checkout = _figures(
        requests=5,
        ok=3,
        failed=2,
        unpriced=1,
        cost=Decimal("2.25"),
        failed_cost=Decimal("0.75"),
        newest_us=NOON_US + 3600 * 10**6,
    )
    april = _figures(requests=1, ok=1, cost=Decimal("0.75"), newest_us=int(ODD_MARCH.end.timestamp()) * 10**6)  # type: ignore[union-attr]
    assert lanes == [
        LaneSum("checkout", checkout if period == MARCH else _both(checkout, april)),
        LaneSum("other", _figures(requests=1, ok=1, cost=Decimal("0.75"), newest_us=NOON_US)),
    ]


def _both(one: Figures, other: Figures) -> Figures:
    return _figures(
        **{name: getattr(one, name) + getattr(other, name) for name in Figures._fields[:-1]},
        newest_us=other.newest_us,
    )


@pytest.mark.parametrize("by", LANES_BY)
def test_lanes_can_be_made_of_each_dimension(march: Counted, by: str) -> None:
    """Whatever the lanes are, they sum to the same; events without a value are the lane ""."""
    by_hours = reports.lanes(march.store, org="acme", by=by, period=MARCH)
    by_facts = reports.lanes(march.store, org="acme", by=by, period=ODD_MARCH)

    assert sum(lane.figures.requests for lane in by_hours) == 6
    assert sum(lane.figures.cost for lane in by_hours) == Decimal("3.00")
    assert [lane.lane for lane in by_hours] == [lane.lane for lane in by_facts]
    if by == "user":
        assert [lane.lane for lane in by_hours] == ["", "u1"]


def test_lanes_of_every_org_are_summed_when_none_is_named(march: Counted) -> None:
    """What `report rejected` without an org says about completeness."""
    (lane,) = reports.lanes(march.store, org=reports.EVERY_ORG, by="api_key", period=Period(None, None))

    assert lane.figures.requests == 8


@pytest.mark.parametrize("period", [MARCH, ODD_MARCH], ids=["hours", "facts"])
def test_an_invoice_is_summed_by_project_operation_model_and_name(march: Counted, period: Period) -> None:
    """An event with two meters is counted once; what is not billed has quantity 0; what has no price has no name."""
    sums = reports.invoice_sums(march.store, org="acme", period=period)

    april = period == ODD_MARCH
    newest = int(ODD_MARCH.end.timestamp()) * 10**6 if april else NOON_US + 3600 * 10**6  # type: ignore[union-attr]
    assert sums == [
        InvoiceSum("checkout", "llm.request", "flux", "", Decimal(0), Decimal(0), 1, 1, Decimal(0), NOON_US),
        InvoiceSum(
            *("checkout", "llm.request", "gpt-4o-mini", "input_tokens", Decimal(3000 + 1000 * april)),
            *(Decimal("1.5") + Decimal("0.5") * april, 3 + april, 0, Decimal("2.25") + Decimal("0.75") * april, newest),
        ),
        InvoiceSum(
            *("checkout", "llm.request", "gpt-4o-mini", "output_tokens", Decimal("31.5") + Decimal("10.5") * april),
            *(Decimal("0.75") + Decimal("0.25") * april, 0, 0, Decimal(0), newest),
        ),
        InvoiceSum("checkout", "lookup", "gpt-4o-mini", "lookups", Decimal(0), Decimal(0), 1, 0, Decimal(0), NOON_US),
        InvoiceSum(
            *("other", "llm.request", "gpt-4o-mini", "input_tokens", Decimal(1000), Decimal("0.5"), 1, 0),
            *(Decimal("0.75"), NOON_US),
        ),
        InvoiceSum(
            *("other", "llm.request", "gpt-4o-mini", "output_tokens", Decimal("10.5"), Decimal("0.25"), 0, 0),
            *(Decimal(0), NOON_US),
        ),
    ]


def test_windows_are_answered_together(march: Counted) -> None:
    """In the order of the question; a window without events is None; used tokens count, billed or not."""
    noon = Period(NOON, NOON + HOUR)
    empty = Period(NOON - HOUR, NOON)

    answer = reports.windows(march.store, org="acme", periods=[noon, empty, Period(None, None)])

    in_noon = _figures(
        requests=5,
        ok=4,
        failed=1,
        unpriced=1,
        cost=Decimal("2.25"),
        newest_us=NOON_US + 5,
    )
    assert answer[:2] == [WindowSum(in_noon, Decimal(3000), Decimal("31.5")), None]
    assert answer[2] is not None
    assert (answer[2].figures.requests, answer[2].input_tokens) == (7, Decimal(5000))


def test_unpriced_names_each_meter_without_a_price(march: Counted) -> None:
    """What is ignored or a memo is not named; an event of which nothing has a price lacks one for its requests."""
    march.count(
        fact(Line("images", "0.5", None), Line("pages", "1", None), model="flux", time=NOON + HOUR),
        fact(operation="odd", time=NOON + HOUR),
    )

    sums = reports.unpriced_sums(march.store, org="acme", period=MARCH)

    hour_us = NOON_US + 3600 * 10**6
    assert [row for row in sums if row.meter] == [
        UnpricedSum(
            *("llm.request", "openai", "flux", "images", 2, Decimal("3.5"), NOON_US, 2, 2, hour_us),
        ),
        UnpricedSum("llm.request", "openai", "flux", "pages", 1, Decimal(1), hour_us, 0, 0, hour_us),
        UnpricedSum("odd", "openai", "gpt-4o-mini", "requests", 1, Decimal(1), hour_us, 1, 1, hour_us),
    ]
    assert sum(row.facts for row in sums) == 8


def test_refusals_belong_to_their_arrival_and_repeats_to_their_event(counted: Counted) -> None:
    """Conflicts are counted as repeats, not as refusals; the end is excluded."""
    before = NOON - timedelta(days=60)
    counted.refuse(
        {"offset": 1},
        {"offset": 2, "org": ""},
        {"offset": 3, "reason": "conflict"},
        {"offset": 4, "received_at": before},
        {"offset": 5, "received_at": MARCH.end},
    )
    counted.repeat(
        {"offset": 6},
        {"offset": 7, "time": before},
        {"offset": 3, "kind": "conflict"},
        {"offset": 8, "org": "other"},
    )

    assert reports.refusals(counted.store, org="acme", period=MARCH) == Refusals(1, 1, 1)
    assert reports.refusals(counted.store, org=reports.EVERY_ORG, period=Period(None, None)) == Refusals(4, 3, 1)
    assert reports.refusals(counted.store, org="nobody", period=MARCH) == Refusals(0, 0, 0)


def test_lists_are_read_in_pages_newest_first(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row once, whatever the size of a page, also among rows of one instant."""
    monkeypatch.setattr(reports, "PAGE_ROWS", 3)
    counted.refuse(*({"offset": at, "received_at": NOON + timedelta(seconds=at // 4)} for at in range(10)))
    counted.repeat(*({"offset": at, "time": NOON + timedelta(seconds=at // 4)} for at in range(9)))

    rejected = reports.rejected(counted.store, org="acme", period=MARCH, limit=None)
    duplicates = reports.duplicates(counted.store, org="acme", period=MARCH, limit=7)

    assert [row["offset"] for row in rejected] == list(range(9, -1, -1))
    assert [row["offset"] for row in duplicates] == list(range(8, 1, -1))


def test_a_refusal_is_listed_with_all_its_fields(counted: Counted) -> None:
    """Without an org also what names none."""
    counted.refuse({"offset": 4, "org": "", "payload_prefix": '{"id": "\t\\\'é'})

    (row,) = reports.rejected(counted.store, org=reports.EVERY_ORG, period=MARCH, limit=None)

    assert row == {
        "reason": "bad_time",
        "detail": "The time is no instant.",
        "topic": "usage.events",
        "partition": 0,
        "offset": 4,
        "index": 0,
        "received_us": NOON_US,
        "org": "",
        "id": "",
        "payload_sha256": "0" * 64,
        "payload_prefix": '{"id": "\t\\\'é',
    }
    assert not list(reports.rejected(counted.store, org="acme", period=MARCH, limit=None))


def test_a_repeat_is_listed_with_the_coordinates_of_both_records(counted: Counted) -> None:
    """So that a producer can find both."""
    counted.repeat({"offset": 9, "kind": "conflict", "partition": 1, "first_offset": 2, "first_index": 3})

    (row,) = reports.duplicates(counted.store, org="acme", period=MARCH, limit=None)

    assert row == {
        "kind": "conflict",
        "org": "acme",
        "source": "/gateway",
        "id": "id-0",
        "time_us": NOON_US,
        "topic": "usage.events",
        "partition": 1,
        "offset": 9,
        "index": 0,
        "first_topic": "usage.events",
        "first_partition": 0,
        "first_offset": 2,
        "first_index": 3,
    }


def test_the_currency_is_that_of_the_book_applied_last(counted: Counted) -> None:
    """USD when there is none."""
    assert reports.currency(counted.store) == "USD"

    rows = [
        {"book": "old", "revision": 7, "row": 0, "currency": "USD", "applied_at": NOON},
        {"book": "new", "revision": 1, "row": 0, "currency": "EUR", "applied_at": NOON + HOUR},
    ]
    schema = pa.schema(
        [
            *(("book", pa.string()), ("revision", pa.uint32()), ("row", pa.uint32()), ("currency", pa.string())),
            ("applied_at", pa.timestamp("us", "UTC")),
        ]
    )
    counted.store.insert("price_rows", pa.Table.from_pylist(rows, schema=schema))

    assert reports.currency(counted.store) == "EUR"


def test_rows_written_again_or_late_change_no_answer(march: Counted) -> None:
    """A replayed block and an older total that arrives late are there twice, and count once."""
    before = reports.invoice_sums(march.store, org="acme", period=MARCH)
    march.store.command("SYSTEM STOP MERGES")
    march.store.command("INSERT INTO facts_rows SELECT * FROM facts_rows")
    march.store.command(
        "INSERT INTO totals_rows SELECT * REPLACE (requests + 1 AS requests, 0 AS version) FROM totals_rows "
        "WHERE version > 0"
    )

    after = [reports.invoice_sums(march.store, org="acme", period=period) for period in (MARCH, ODD_MARCH)]
    march.store.command("SYSTEM START MERGES")

    assert after[0] == before
    assert sum(row.events for row in after[1]) == 7


def test_a_total_of_nothing_is_no_lane(counted: Counted) -> None:
    """A total that turned out to have no facts is kept as zeros, and is not shown."""
    counted.count(fact(Line()))
    counted.store.command(
        "INSERT INTO totals_rows SELECT * REPLACE ('ghost' AS project, 0 AS requests, 0 AS ok) FROM totals_rows"
    )

    assert [lane.lane for lane in reports.lanes(counted.store, org="acme", by="project", period=MARCH)] == ["checkout"]
    assert counted.store.rows("SELECT project FROM totals_hourly") == [{"project": "checkout"}]


@pytest.mark.parametrize(
    "org", ["o'hara", 'a"b', "tab\there", "back\\slash", "line\nfeed", "ümläut", "{org:String}", "--"]
)
def test_a_name_is_a_value_whatever_it_holds(counted: Counted, org: str) -> None:
    """Parameters are bound by the server, never pasted into a statement."""
    counted.count(fact(Line(), org=org))

    assert [lane.figures.requests for lane in reports.lanes(counted.store, org=org, by="project", period=MARCH)] == [1]
    assert reports.lanes(counted.store, org=f"{org} ", by="project", period=MARCH) == []


@pytest.mark.parametrize(
    "period",
    [
        Period(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)),
        Period(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 0, 0, 0, 1, tzinfo=UTC)),
        Period(None, None),
    ],
)
def test_a_period_may_reach_beyond_what_the_store_can_hold(march: Counted, period: Period) -> None:
    """Instants outside of ClickHouse's range are cut, they do not wrap around."""
    assert (
        sum(lane.figures.requests for lane in reports.lanes(march.store, org="acme", by="project", period=period)) == 7
    )
    ancient = Period(datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 1, 1, tzinfo=UTC))
    assert reports.lanes(march.store, org="acme", by="project", period=ancient) == []
