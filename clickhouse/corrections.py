"""Corrections in the store: what counting asks and writes (steps of ``pipeline/correct.py``), what repricing reads.

It decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from clickhouse.audit import NAMED_MAX, Check
from clickhouse.counting import framed, insert_rows
from clickhouse.query import query
from clickhouse.reports import EARLIEST, LATEST, invoice_sums
from schemas.counted import STATES
from schemas.errors import StoreUnavailable
from schemas.reports import InvoiceSum

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from clickhouse.audit import Slice
    from clickhouse.client import Store
    from schemas.reports import Period

#: Events that are repriced at once, and about as many lie between two cuts of the span that is read.
PAGE_EVENTS: Final = 50_000

#: How often an invoice is read again because a correction was counted meanwhile.
READ_AGAIN_MAX: Final = 20

_MICROSECOND: Final = timedelta(microseconds=1)


def states_before(  # noqa: PLR0913 -- the question's own five parts
    store: Store, *, partition: int, before: int, hashes: NDArray[np.uint64], orgs: pl.Series, times: pl.Series
) -> pl.DataFrame:
    """The facts with one of these hashes and their corrections, of blocks < ``before`` (STATES).

    Looked for at the orgs and times of the correction's events; hashes that nothing answers there, everywhere.
    """
    if not len(hashes):
        return pl.DataFrame(schema=STATES)
    place = {"block_partition": partition, "before": before}
    near = _states(
        store,
        "states_by_time",
        {
            **place,
            "orgs": orgs.unique().to_list(),
            "times_us": times.dt.epoch("us").unique().to_list(),
            "hashes": hashes.tolist(),
        },
    )
    missing = np.setdiff1d(hashes, near.get_column("identity_hash").to_numpy())
    if not len(missing):
        return near
    return pl.concat([near, _states(store, "states_by_hash", {**place, "hashes": missing.tolist()})])


def _states(store: Store, page: str, parameters: dict[str, int | list[str] | list[int]]) -> pl.DataFrame:
    return framed(store.arrow(query(page), parameters), STATES)


def insert_corrections(store: Store, corrections: pl.DataFrame) -> None:
    """Writes corrections (CORRECTIONS); the same ones again replace themselves."""
    insert_rows(store, "corrections_rows", corrections)


@dataclass(frozen=True, slots=True)
class OrgEvents:
    """How many events an org has in the hours that a span touches, and how many of them lack a price."""

    org: str
    events: int
    unpriced: int


def orgs_to_reprice(store: Store, *, org: str, period: Period) -> list[OrgEvents]:
    """The orgs with events in the period, or the one that is named."""
    start_us, end_us = _bounds(period)
    parameters = {"org": org, "start": start_us // 1_000_000, "end": -(-end_us // 1_000_000)}
    return [OrgEvents(**row) for row in store.rows(query("reprice_orgs"), parameters)]


def events_to_reprice(
    store: Store,
    *,
    org: str,
    period: Period,
    unpriced_only: bool,
    columns: Mapping[str, pl.DataType | type[pl.DataType]],
) -> Iterator[pl.DataFrame]:
    """The org's events as they cost now, in pages of ``columns``; memory holds one page at a time.

    The span is cut between hours, so that a page never has to look at all that is left of a long period.
    """
    start_us, end_us = _bounds(period)
    parameters = {"org": org, "start": start_us // 1_000_000, "end": -(-end_us // 1_000_000)}
    cuts, events = [start_us], 0
    for hour in store.rows(query("reprice_hours"), parameters):
        if events >= PAGE_EVENTS:
            cuts.append(hour["start"] * 1_000_000)
            events = 0
        events += hour["unpriced"] if unpriced_only else hour["events"]
    for part_start, part_end in pairwise([*cuts, end_us]):
        yield from _pages(
            store,
            {"org": org, "end_us": part_end, "unpriced_only": int(unpriced_only), "limit": PAGE_EVENTS},
            start_us=part_start,
            columns=columns,
        )


def _pages(
    store: Store,
    question: Mapping[str, str | int],
    *,
    start_us: int,
    columns: Mapping[str, pl.DataType | type[pl.DataType]],
) -> Iterator[pl.DataFrame]:
    after: dict[str, str | int] = {"us": start_us, "source": "", "id": "", "received_us": 0}
    while True:
        parameters = {**question, **{f"after_{name}": value for name, value in after.items()}}
        page = framed(store.arrow(query("reprice_facts"), parameters), columns)
        if page.height:
            yield page
        if page.height < PAGE_EVENTS:
            return
        last = page.tail(1).select(
            pl.col("time").dt.epoch("us").alias("us"),
            "source",
            "id",
            pl.col("received_at").dt.epoch("us").alias("received_us"),
        )
        after = last.row(0, named=True)


def _bounds(period: Period) -> tuple[int, int]:
    """The period in microseconds since 1970, within what the store can hold."""
    start = min(max(period.start or EARLIEST, EARLIEST), LATEST)
    end = min(max(period.end or LATEST, EARLIEST), LATEST)
    return (start - EARLIEST) // _MICROSECOND, (end - EARLIEST) // _MICROSECOND


# What the audit needs.


def check_corrections(store: Store, *, within: Sequence[Slice]) -> Check:
    """Every correction begins with the figures that stood before it: the fact's, or those of the correction before."""
    corrections, odd, names = 0, 0, list[str]()
    for one in within:
        (row,) = store.rows(query("audit_corrections"), one.parameters())
        corrections += row["corrections"]
        odd += row["odd_corrections"]
        names += row["examples"]
    return Check(
        check="corrections_follow",
        ok=not odd,
        expected=str(corrections),
        found=str(corrections - odd),
        detail=f"Corrections of other figures than stood there: {'; '.join(names[:NAMED_MAX])}." if odd else "",
    )


# What the invoice needs.


def invoice_with_corrections(store: Store, *, org: str, period: Period, max_age: timedelta) -> list[InvoiceSum]:
    """The sums of an invoice in which a month that has closed is final.

    A month closes ``max_age`` after its end. Corrections that entered the log later are taken back from the sums of the
    period of their events, and added to those of the period in which they entered the log, under the month that they
    correct. Both are read from two tables, so they are read again when a correction was counted in between.

    Raises:
        StoreUnavailable: corrections are being counted so fast that no two readings agree.
    """
    late = _late_corrections(store, org=org, period=period, max_age=max_age)
    for _ in range(READ_AGAIN_MAX):
        sums = invoice_sums(store, org=org, period=period)
        again = _late_corrections(store, org=org, period=period, max_age=max_age)
        if late == again:
            return [*sums, *late]
        late = again
    raise StoreUnavailable(
        f"Corrections of {org} are being counted at this moment: ask again when `tally drain` is done."
    )


def _late_corrections(store: Store, *, org: str, period: Period, max_age: timedelta) -> list[InvoiceSum]:
    start_us, end_us = _bounds(period)
    parameters = {
        "org": org,
        "start_us": start_us,
        "end_us": end_us,
        "max_age_us": max_age // _MICROSECOND,
        "by_totals": int(period.is_hour_aligned),
    }
    return [
        InvoiceSum(
            project=row["project"],
            operation=row["operation"],
            model=row["model"],
            name=row["name"],
            quantity=row["quantity"],
            cost=row["meter_cost"],
            events=0,
            unpriced=row["unpriced_events"],
            event_cost=row["event_cost"],
            newest_us=None,
            corrects=row["corrects"],
            is_taken_back=not row["corrects"],
        )
        for row in store.rows(query("late_corrections"), parameters)
    ]
