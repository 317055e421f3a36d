"""What reports ask the store. Each answers from one scan of one table, so that its figures share a fence.

Spans of whole hours are answered by the hourly totals, others by the facts themselves.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from clickhouse.query import query
from schemas.frames import MEMO_METERS
from schemas.period_prices import PeriodPrice, with_ids
from schemas.reports import (
    LANES_BY,
    BridgeSum,
    Figures,
    InvoiceSum,
    LaneSum,
    Period,
    Refusals,
    ScopeWindow,
    UnpricedSum,
    WindowSum,
)
from schemas.rules import Scope, Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clickhouse.client import Store
    from schemas.period_prices import PeriodPriceRow

#: Rows that a list report asks for at a time; more would have to be held in memory at once.
PAGE_ROWS: Final = 50_000

#: The instants that ClickHouse's DateTime holds, in whole years: no event can be counted outside of them.
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2106, 1, 1, tzinfo=UTC)

EVERY_ORG: Final = ""

_PERIOD_PRICES: Final = TypeAdapter(list[PeriodPrice])
#: What comes before every row of a list: the instant, and what tells rows of one instant apart.
_BEFORE_ALL: Final = {"us": 2**62, "topic": "", "partition": 0, "offset": 0, "index": 0}
_BEFORE_ALL_ALERTS: Final = {"us": 2**62, "alert_id": "", "sequence": 0}


def windows(store: Store, *, org: str, periods: Sequence[Period]) -> list[WindowSum | None]:
    """The sums of several spans of whole hours at once, in their order; None for a span without events."""
    seconds = [_seconds(period) for period in periods]
    parameters = {"org": org, "starts": [at["start"] for at in seconds], "ends": [at["end"] for at in seconds]}
    found = {
        row["window"]: WindowSum(_figures(row), row["input_tokens"], row["output_tokens"])
        for row in store.rows(query("summary"), parameters)
    }
    return [found.get(place) for place in range(1, len(periods) + 1)]


def scope_windows(store: Store, *, org: str, scope: Scope, window: Window, period: Period) -> list[ScopeWindow]:
    """The windows of each value of a scope whose hours lie in the period; a rolling one is the period itself.

    A period that is not of whole hours is answered by the facts, as one window per value.
    """
    page, span = _source("windows", period)
    parameters = {"org": org, "by": Scope(scope).value, "memos": sorted(MEMO_METERS), **span}
    rows = store.rows(query(page), parameters | {"window": Window(window).value})
    return [
        ScopeWindow(row["id"], _window_start(row, window=window, period=period), _figures(row), row["tokens"])
        for row in rows
    ]


def _window_start(row: Mapping[str, Any], *, window: Window, period: Period) -> datetime | None:
    if window is Window.TOTAL or window.is_rolling:
        return period.start
    return EARLIEST + timedelta(seconds=row["start_seconds"])


def newest_time(store: Store, *, org: str, before: datetime) -> datetime | None:
    """When the newest event of the org before an instant happened; None when there is none."""
    span = _microseconds(Period(None, before))
    rows = store.rows(query("newest_time"), {"org": org, "before_us": span["end_us"]})
    return EARLIEST + timedelta(microseconds=rows[0]["newest_us"]) if rows else None


def lanes(store: Store, *, org: str, by: str, period: Period) -> list[LaneSum]:
    """The sums of each lane that has events; ``by`` is one of LANES_BY, ``EVERY_ORG`` sums over all orgs."""
    assert by in LANES_BY  # noqa: S101 -- names of columns come from this list only
    page, span = _source("lanes", period)
    return [LaneSum(row["lane"], _figures(row)) for row in store.rows(query(page), {"org": org, "by": by, **span})]


def invoice_sums(store: Store, *, org: str, period: Period) -> list[InvoiceSum]:
    """What was billed, by project, operation, model and invoice name."""
    page, span = _source("invoice", period)
    return [
        InvoiceSum(
            project=row["project"],
            operation=row["operation"],
            model=row["model"],
            name=row["name"],
            quantity=row["quantity"],
            cost=row["meter_cost"],
            events=row["events"],
            unpriced=row["unpriced_events"],
            event_cost=row["event_cost"],
            newest_us=row["newest_us"],
        )
        for row in store.rows(query(page), {"org": org, **span})
    ]


def bridge_sums(store: Store, *, org: str, by: str, period: Period) -> list[BridgeSum]:
    """What each lane used and cost, by operation, provider, model, meter and invoice name; ``by`` as in ``lanes``."""
    assert by in LANES_BY  # noqa: S101 -- names of columns come from this list only
    page, span = _source("bridge", period)
    return [
        BridgeSum(
            lane=row["lane"],
            operation=row["operation"],
            provider=row["provider"],
            model=row["model"],
            meter=row["meter"],
            name=row["name"],
            used=row["used"],
            quantity=row["quantity"],
            billed=row["billed"],
            cost=row["meter_cost"],
            events=row["events"],
            unpriced=row["unpriced_events"],
            newest_us=row["newest_us"],
        )
        for row in store.rows(query(page), {"org": org, "by": by, **span})
    ]


def period_prices(store: Store, *, period: Period) -> list[PeriodPriceRow]:
    """The period prices in force at the end of the span, by book and row; none of what was applied later."""
    return [
        row
        for book in store.rows(query("period_prices"), {"end_us": _microseconds(period)["end_us"]})
        for row in with_ids(book["name"], book["revision"], _PERIOD_PRICES.validate_json(book["period_prices"] or "[]"))
    ]


def unpriced_sums(store: Store, *, org: str, period: Period) -> list[UnpricedSum]:
    """What was used without a price, by meter; always from the facts, which alone know since when."""
    return [
        UnpricedSum(
            operation=row["operation"],
            provider=row["provider"],
            model=row["model"],
            meter=row["meter"],
            events=row["events"],
            quantity=row["quantity"],
            since_us=row["since_us"],
            facts=row["facts"],
            unpriced=row["unpriced_events"],
            newest_us=row["newest_us"],
        )
        for row in store.rows(query("unpriced"), {"org": org, **_microseconds(period)})
    ]


def refusals(store: Store, *, org: str, period: Period) -> Refusals:
    """How many events were refused or repeated."""
    (row,) = store.rows(query("refusals"), {"org": org, **_microseconds(period)})
    return Refusals(rejected=row["rejected"], duplicates=row["duplicates"], conflicts=row["conflicts"])


def currency(store: Store) -> str:
    """The currency of the price book that was applied last; USD when there is none."""
    rows = store.rows(query("currency"))
    return str(rows[0]["currency"]) if rows else "USD"


def rejected(store: Store, *, org: str, period: Period, limit: int | None) -> Iterator[dict[str, Any]]:
    """Refused events and conflicts by the time they were received, newest first; ``received_us`` is that time."""
    return _pages(store, "rejected", _BEFORE_ALL, org=org, period=period, limit=limit, instant="received_us")


def duplicates(store: Store, *, org: str, period: Period, limit: int | None) -> Iterator[dict[str, Any]]:
    """Repeats of counted events by the time of the event, newest first; ``time_us`` is that time."""
    return _pages(store, "duplicates", _BEFORE_ALL, org=org, period=period, limit=limit, instant="time_us")


def alerts(store: Store, *, org: str, period: Period, limit: int | None) -> Iterator[dict[str, Any]]:
    """Transitions of alerts by the time of the event behind each, newest first; ``happened_us`` is that time."""
    return _pages(store, "alerts", _BEFORE_ALL_ALERTS, org=org, period=period, limit=limit, instant="happened_us")


def _pages(  # noqa: PLR0913 -- the parts of one question
    store: Store,
    page: str,
    before_all: Mapping[str, Any],
    *,
    org: str,
    period: Period,
    limit: int | None,
    instant: str,
) -> Iterator[dict[str, Any]]:
    """The rows of a list, page by page: each begins after the last row of the one before."""
    after = before_all
    while limit is None or limit > 0:
        rows_max = PAGE_ROWS if limit is None else min(limit, PAGE_ROWS)
        parameters = {"org": org, **_microseconds(period), "limit": rows_max}
        rows = store.rows(query(page), parameters | {f"after_{name}": value for name, value in after.items()})
        yield from rows
        if len(rows) < rows_max:
            return
        after = {name: rows[-1][instant if name == "us" else name] for name in before_all}
        limit = None if limit is None else limit - rows_max


def _source(question: str, period: Period) -> tuple[str, dict[str, int]]:
    if period.is_hour_aligned:
        return f"{question}_of_hours", _seconds(period)
    return f"{question}_of_facts", _microseconds(period)


def _seconds(period: Period) -> dict[str, int]:
    return {name: us // 1_000_000 for name, us in zip(("start", "end"), _microseconds(period).values(), strict=True)}


def _microseconds(period: Period) -> dict[str, int]:
    start = min(max(period.start or EARLIEST, EARLIEST), LATEST)
    end = min(max(period.end or LATEST, EARLIEST), LATEST)
    microsecond = timedelta(microseconds=1)
    return {"start_us": (start - EARLIEST) // microsecond, "end_us": (end - EARLIEST) // microsecond}


def _figures(row: Mapping[str, Any]) -> Figures:
    return Figures(**{name: row[name] for name in Figures._fields})
