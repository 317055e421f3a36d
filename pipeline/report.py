"""Report: what sums mean to a reader. Shares, rates, cents and completeness, decided from values alone.

All arithmetic is on whole numbers (10⁻¹² of a unit), so nothing is rounded on the way: shares, rates and ``hhi`` are
rounded half-even to 6 decimals once, the invoice's total half-even to cents once, and its lines by largest remainder,
so that they sum to the total.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from datetime import MAXYEAR, UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final

from pipeline.periods import month_of
from pipeline.pricing.nearest import NearRows, price_line
from schemas.reports import Figures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from schemas.price_book import PriceBook
    from schemas.reports import InvoiceSum, LaneSum, Period, Refusals, ScopeWindow, UnpricedSum, WindowSum

#: JSON as it is printed.
Json = dict[str, Any]

MONEY_DECIMALS: Final = 12
SCALE: Final = 10**MONEY_DECIMALS
CENT: Final = SCALE // 100
SHARE_DECIMALS: Final = 6
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

#: Sums of decimals are longer than the 28 digits that Python's decimals keep when nobody says otherwise.
_EXACT: Final = Context(prec=100)
#: The sum of no facts.
NOTHING: Final = Figures(0, 0, 0, 0, Decimal(0), Decimal(0), None)


def summary(windows: Mapping[str, WindowSum | None]) -> Json:
    """Each window's requests, successes, tokens and cost; None is a window without events."""
    return {"windows": {name: _window(window) for name, window in windows.items()}}


def _window(window: WindowSum | None) -> Json:
    figures = window.figures if window else NOTHING
    return {
        "requests": figures.requests,
        "ok": figures.ok,
        "failed": figures.failed,
        "success_rate": ratio(figures.ok, figures.requests),
        "input_tokens": quantity(window.input_tokens if window else Decimal(0)),
        "output_tokens": quantity(window.output_tokens if window else Decimal(0)),
        "cost": money(whole(figures.cost)),
        "unpriced": figures.unpriced,
    }


def concentration(lanes: Iterable[LaneSum]) -> Json:
    """Lanes by cost, largest first, with their shares; how few hold 80 % (0 of no cost); ``hhi`` is Σ share²."""
    costs = sorted(((whole(lane.figures.cost), lane) for lane in lanes), key=lambda pair: (-pair[0], pair[1].lane))
    total = sum(cost for cost, _ in costs)
    rows, running, lanes_to_80 = [], 0, 0
    for place, (cost, lane) in enumerate(costs, start=1):
        running += cost
        if not lanes_to_80 and total and running * 100 >= total * 80:
            lanes_to_80 = place
        rows.append(
            {
                "lane": lane.lane,
                "requests": lane.figures.requests,
                "cost": money(cost),
                "share": ratio(cost, total),
                "running_share": ratio(running, total),
            }
        )
    return {
        "total": money(total),
        "top_share": rows[0]["share"] if rows else None,
        "hhi": ratio(sum(cost * cost for cost, _ in costs), total * total),
        "lanes_to_80": lanes_to_80,
        "lanes": rows,
    }


def success(lanes: Iterable[LaneSum]) -> Json:
    """Each lane's success rate and what its failures cost, the dearest failures first."""
    ordered = sorted(lanes, key=lambda lane: (-lane.figures.failed_cost, lane.lane))
    return {
        "lanes": [
            {
                "lane": lane.lane,
                "requests": lane.figures.requests,
                "ok": lane.figures.ok,
                "failed": lane.figures.failed,
                "success_rate": ratio(lane.figures.ok, lane.figures.requests),
                "failed_cost": money(whole(lane.figures.failed_cost)),
            }
            for lane in ordered
        ]
    }


def invoice(sums: Sequence[InvoiceSum]) -> Json:
    """The invoice's lines and projects, in cents that sum to the total, and exact.

    Corrections of months that had closed are lines of their own, after the others (``kind``; ``corrects``, the month).
    """
    quantities: dict[str, int] = defaultdict(int)
    lines: dict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    projects: dict[str, int] = defaultdict(int)
    for row in sums:
        projects[row.project] += whole(row.event_cost)
        if row.name:
            billed = whole(row.quantity)
            quantities[row.name] += billed
            line = lines[row.corrects, row.operation, row.model, row.name]
            line[0] += billed
            line[1] += whole(row.cost)
    total = sum(projects.values())
    ordered_lines = sorted(lines.items(), key=lambda item: (bool(item[0][0]), -item[1][1], item[0]))
    ordered_projects = sorted(projects.items(), key=lambda item: (-item[1], item[0]))
    line_cents = cents_that_sum([cost for _, (_, cost) in ordered_lines])
    project_cents = cents_that_sum([cost for _, cost in ordered_projects])
    return {
        "quantities": {name: plain(quantities[name]) for name in sorted(quantities)},
        "lines": [
            {
                **({"kind": "correction", "corrects": corrects} if corrects else {}),
                "operation": operation,
                "model": model,
                "meter": name,
                "quantity": plain(billed),
                "cost": _cents(cents),
                "exact_cost": money(cost),
            }
            for ((corrects, operation, model, name), (billed, cost)), cents in zip(
                ordered_lines, line_cents, strict=True
            )
        ],
        "project_breakdown": [
            {"project": project, "cost": _cents(cents), "exact_cost": money(cost), "share": ratio(cost, total)}
            for (project, cost), cents in zip(ordered_projects, project_cents, strict=True)
        ],
        "total": _cents(rounded_half_even(total, CENT)),
        "exact_total": money(total),
    }


def settled(sums: Iterable[InvoiceSum]) -> tuple[list[InvoiceSum], list[InvoiceSum]]:
    """The sums of an invoice without what is taken back from them, and what corrections of closed months add to it.

    A name that only corrections brought to a closed month has nothing left, and is not on that month's invoice.
    """
    own: dict[tuple[str, str, str, str], InvoiceSum] = {}
    shown: list[InvoiceSum] = []
    rows = list(sums)
    taken_back = {row[:4] for row in rows if row.is_taken_back}
    for row in rows:
        if row.corrects:
            shown.append(row)
        else:
            own[row[:4]] = _plus(own.get(row[:4]), row)
    for key in taken_back:
        row = own[key]
        if row.name and not row.quantity and not row.cost:
            # Whatever of the events was counted under this name belongs to events of which nothing has a price.
            nameless = (*key[:3], "")
            own[nameless] = _plus(own.get(nameless), own.pop(key)._replace(name=""))
    return [row._replace(is_taken_back=False) for row in own.values()], shown


def _plus(sums: InvoiceSum | None, row: InvoiceSum) -> InvoiceSum:
    if sums is None:
        return row
    return sums._replace(
        quantity=_sum((sums.quantity, row.quantity)),
        cost=_sum((sums.cost, row.cost)),
        events=sums.events + row.events,
        unpriced=sums.unpriced + row.unpriced,
        event_cost=_sum((sums.event_cost, row.event_cost)),
        newest_us=max((us for us in (sums.newest_us, row.newest_us) if us is not None), default=None),
    )


def windows(sums: Iterable[ScopeWindow]) -> Json:
    """Windows by cost, largest first, then by id and start; events without a value are in no window."""
    ordered = sorted(
        (row for row in sums if row.id), key=lambda row: (-row.figures.cost, row.id, _bound(row.start) or "")
    )
    return {
        "windows": [
            {
                "id": row.id,
                "start": _bound(row.start),
                "requests": row.figures.requests,
                "ok": row.figures.ok,
                "failed": row.figures.failed,
                "tokens": quantity(row.tokens),
                "cost": money(whole(row.figures.cost)),
                "unpriced": row.figures.unpriced,
            }
            for row in ordered
        ]
    }


def alert(row: Mapping[str, Any]) -> Json:
    """A stored transition of an alert as ``usage.alerts`` has it (schemas/published.py)."""
    lanes = zip(row["top_kinds"], row["top_ids"], row["top_values"], strict=True)
    crossed_by = {"source": row["crossed_source"], "id": row["crossed_id"], "time": instant(row["crossed_us"])}
    published = {
        "schema": "tally.alert.v1",
        **{name: row[name] for name in ("alert_id", "sequence", "transition", "rule", "rule_revision", "org")},
        "scope": {"kind": row["scope"], "id": row["scope_id"]},
        "measure": row["measure"],
        "unit": row["unit"] or None,
        "window": {
            "kind": row["window"],
            "start": _second(row["window_start_us"]),
            "end": _second(row["window_end_us"]),
        },
        "threshold": quantity(row["threshold"]),
        "percent": None if row["percent"] is None else int(row["percent"]),
        "budget": None if row["budget"] is None else quantity(row["budget"]),
        "value": money(whole(row["value"])),
        "highest": row["highest"],
        "crossed_by": None if row["crossed_us"] is None else crossed_by,
        "top": [{"kind": kind, "id": lane, "value": money(whole(value))} for kind, lane, value in lanes],
        "completeness": {"unpriced": row["unpriced"], "watermark": instant(row["watermark_us"])},
    }
    return {**published, "method": row["method"]} if row["method"] else published


def unpriced(sums: Iterable[UnpricedSum], *, org: str, books: Sequence[PriceBook]) -> Json:
    """What was used without a price, most events first; nothing of it is in any cost.

    Each with the line of a book that would price it (``fix``), and the row of the books in force that nearly did.
    """
    near = NearRows(books, org=org)
    lacking = sorted(
        (row for row in sums if row.meter),
        key=lambda row: (-row.events, row.operation, row.provider, row.model, row.meter),
    )
    return {
        "unpriced": [
            {
                "operation": row.operation,
                "provider": row.provider,
                "model": row.model,
                "meter": row.meter,
                "events": row.events,
                "quantity": quantity(row.quantity),
                "since": instant(row.since_us),
                "fix": price_line(row),
                "nearest": None if (found := near.nearest(row)) is None else asdict(found),
            }
            for row in lacking
        ]
    }


def completeness(figures: Figures, *, refusals: Refusals, lag: int | None) -> Json:
    """How far the answer can be relied on: what it counts, what it does not, and what is still on its way.

    ``lag`` is in records, None when the broker could not be asked.
    """
    return {
        "events": figures.requests,
        "unpriced": figures.unpriced,
        "rejected": refusals.rejected,
        "duplicates": refusals.duplicates,
        "conflicts": refusals.conflicts,
        "watermark": instant(figures.newest_us),
        "lag": lag,
    }


def figures_of_lanes(lanes: Iterable[LaneSum | ScopeWindow]) -> Figures:
    """The figures of all lanes, or of all windows, together."""
    sums = [lane.figures for lane in lanes]
    return Figures(
        requests=sum(row.requests for row in sums),
        ok=sum(row.ok for row in sums),
        failed=sum(row.failed for row in sums),
        unpriced=sum(row.unpriced for row in sums),
        cost=_sum(row.cost for row in sums),
        failed_cost=_sum(row.failed_cost for row in sums),
        newest_us=max((row.newest_us for row in sums if row.newest_us is not None), default=None),
    )


def figures_of_invoice(sums: Sequence[InvoiceSum]) -> Figures:
    """What completeness needs of an invoice's sums; successes are not known here and stay 0."""
    return NOTHING._replace(
        requests=sum(row.events for row in sums),
        unpriced=sum(row.unpriced for row in sums),
        cost=_sum(row.event_cost for row in sums),
        newest_us=max((row.newest_us for row in sums if row.newest_us is not None), default=None),
    )


def figures_of_unpriced(sums: Sequence[UnpricedSum]) -> Figures:
    """What completeness needs of the unpriced sums; costs and successes are not known here and stay 0."""
    return NOTHING._replace(
        requests=sum(row.facts for row in sums),
        unpriced=sum(row.unpriced for row in sums),
        newest_us=max((row.newest_us for row in sums if row.newest_us is not None), default=None),
    )


def state(period: Period, *, now: datetime, max_age: timedelta) -> str:
    """``closed`` when the last month of the period is over and its newest events would be refused as too old.

    So the figures of a closed period are final: an event that happened in it can still be taken until ``max_age`` after
    its end, and its month be corrected until ``max_age`` after the month's. All of time is never closed.
    """
    if period.end is None or period.end.year == MAXYEAR:
        return "open"
    end = month_of(period.end - timedelta(microseconds=1)).end
    return "closed" if end is not None and now - end >= max_age else "open"


def span(period: Period) -> Json:
    """A period as JSON; start and end of all of time are null."""
    return {"start": _bound(period.start), "end": _bound(period.end)}


def _second(since_1970_us: int | None) -> str | None:
    """An instant that is a whole second, without a fraction."""
    return None if since_1970_us is None else _bound(EPOCH + timedelta(microseconds=since_1970_us))


def _bound(bound: datetime | None) -> str | None:
    return None if bound is None else bound.isoformat().replace("+00:00", "Z")


def instant(since_1970_us: int | None) -> str | None:
    """An instant as RFC 3339 in UTC, with microseconds."""
    if since_1970_us is None:
        return None
    moment = EPOCH + timedelta(microseconds=since_1970_us)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def whole(value: Decimal) -> int:
    """A decimal of at most 12 places as a whole number of 10⁻¹²."""
    return int(_EXACT.scaleb(value, MONEY_DECIMALS))


def decimal(units: int) -> Decimal:
    """Whole 10⁻¹² as the exact decimal; ``whole`` turns it back."""
    return _EXACT.scaleb(Decimal(units), -MONEY_DECIMALS)


def money(units: int) -> str:
    """Whole 10⁻¹² as a decimal with all its 12 places."""
    return _fixed(units, MONEY_DECIMALS)


def quantity(value: Decimal) -> str:
    """A quantity as a plain decimal without trailing zeros: "11284", "0.5"."""
    return plain(whole(value))


def plain(units: int) -> str:
    """Whole 10⁻¹² as a plain decimal without trailing zeros."""
    return _fixed(units, MONEY_DECIMALS).rstrip("0").rstrip(".")


def _cents(cents: int) -> str:
    return _fixed(cents, 2)


def _fixed(units: int, decimals: int) -> str:
    digits = str(abs(units)).rjust(decimals + 1, "0")
    return f"{'-' if units < 0 else ''}{digits[:-decimals]}.{digits[-decimals:]}"


def ratio(part: int, of: int) -> str | None:
    """``part`` ÷ ``of`` with 6 decimals, rounded half-even once; None when there is nothing to divide by."""
    if of < 0:
        part, of = -part, -of
    return _fixed(rounded_half_even(part * 10**SHARE_DECIMALS, of), SHARE_DECIMALS) if of else None


def rounded_half_even(value: int, unit: int) -> int:
    """How many ``unit`` make up ``value``, to the nearest whole number; a tie goes to the even one."""
    count, rest = divmod(value, unit)
    return count + (2 * rest > unit or (2 * rest == unit and count % 2 == 1))


def cents_that_sum(costs: Sequence[int]) -> list[int]:
    """Costs (10⁻¹²) in cents that sum to their total rounded half-even, by largest remainder.

    Each cost is cut to cents; the cents that are then missing go to those that lost most, among equals to the earlier.
    No cost is off by a cent or more.
    """
    cut = [cost // CENT for cost in costs]
    missing = rounded_half_even(sum(costs), CENT) - sum(cut)
    by_loss = sorted(range(len(costs)), key=lambda at: -(costs[at] % CENT))
    for at in by_loss[:missing]:
        cut[at] += 1
    return cut


def _sum(values: Iterable[Decimal]) -> Decimal:
    add: Callable[[Decimal, Decimal], Decimal] = _EXACT.add
    total = Decimal(0)
    for value in values:
        total = add(total, value)
    return total
