"""Bridge: why one span cost more or less than another, in parts that sum to the difference exactly.

The price, quantity and mix variances of cost accounting (Horngren, Datar and Rajan, *Cost Accounting*, sales
variances), on cells: one meter of one operation, provider and model in one lane. What a cell cost in the earlier span
is carried to what it costs in the later one by changing one thing after the other, and each part is one such change:

    C₀                  what it cost
    C₀ · A₁ ÷ A₀        volume: the lane makes as many requests A as in the later span, all else as before
    C₀ · U₁ ÷ U₀        mix: these use as much of the meter (U): other models, longer prompts, fewer failures
    C₀ · Q₁ ÷ Q₀        unpriced: as much of what was used has a price (Q of U)
    C₁                  price: a unit costs what it costs now

A cell that was used in one span only is new or gone as a whole; where nothing of it had a price in one of the spans,
the whole of it is unpriced. Each value of the chain is rounded half-even once to 10⁻¹², so every part is exact to
that, and the parts of a cell sum to C₁ - C₀ whatever was rounded.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.period_price import Cell, costs_of_month
from pipeline.report import NOTHING, SCALE, money, rounded_half_even, whole
from schemas.frames import REQUESTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipeline.period_price import Pool
    from pipeline.report import Json
    from schemas.period_prices import PeriodPriceRow
    from schemas.reports import BridgeSum, Figures

VOLUME: Final = "volume"
MIX: Final = "mix"
PRICE: Final = "price"
NEW: Final = "new"
GONE: Final = "gone"
UNPRICED: Final = "unpriced"


class Key(NamedTuple):
    """What makes a cell."""

    lane: str
    operation: str
    provider: str
    model: str
    meter: str


@dataclass(slots=True)
class Use:
    """What a cell used and cost in one span, in 10⁻¹²: ``used``, of that with a price ``billed``, and ``cost``."""

    used: int = 0
    billed: int = 0
    cost: int = 0

    @property
    def is_there(self) -> bool:
        """Whether there is anything of the cell in this span."""
        return bool(self.used or self.cost)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two spans: its cells, and the requests of each lane."""

    cells: dict[Key, Use]
    requests: dict[str, int]

    @property
    def cost(self) -> int:
        """What the span costs, in 10⁻¹²."""
        return sum(use.cost for use in self.cells.values())


def side(sums: Sequence[BridgeSum], *, rows: Iterable[PeriodPriceRow], org: str, month: str | None) -> Side:
    """Gives one span's cells from its sums; with a ``month`` they cost what its invoice says, period prices and all.

    What a minimum owes without any use is a cell of the lane ``""``.
    """
    costs = [whole(row.cost) for row in sums]
    pools: list[Pool] = []
    if month is not None:
        cells = [
            Cell(row.operation, row.model, row.name, whole(row.billed), cost)
            for row, cost in zip(sums, costs, strict=True)
        ]
        costs, pools = costs_of_month(cells, rows=rows, org=org, month=month)
    uses: defaultdict[Key, Use] = defaultdict(Use)
    requests: defaultdict[str, int] = defaultdict(int)
    for row, cost in zip(sums, costs, strict=True):
        requests[row.lane] += row.events
        if row.meter:
            use = uses[Key(row.lane, row.operation, row.provider, row.model, row.meter)]
            use.used += whole(row.used)
            use.billed += whole(row.billed)
            use.cost += cost
    for key, unpriced in _requests_without_price(sums):
        uses[key].used += unpriced
    for pool in pools:
        if pool.rest:
            operation, model, name = pool.line_of_rest
            uses[Key("", operation, "", model, name)].cost += pool.rest
    return Side(dict(uses), dict(requests))


def _requests_without_price(sums: Iterable[BridgeSum]) -> Iterator[tuple[Key, int]]:
    """The requests that were unpriced: they are implied by events, so no line of any event names them."""
    events: defaultdict[Key, int] = defaultdict(int)
    unpriced: defaultdict[Key, int] = defaultdict(int)
    for row in sums:
        key = Key(row.lane, row.operation, row.provider, row.model, REQUESTS)
        events[key] += row.events * SCALE
        unpriced[key] += row.unpriced * SCALE
        if row.meter == REQUESTS:
            events[key] -= whole(row.quantity)
    yield from ((key, min(unpriced[key], events[key])) for key in events if min(unpriced[key], events[key]) > 0)


def bridge(before: Side, after: Side) -> Json:
    """Gives ``from``, ``to``, their difference and its parts, largest first; parts of 0 are left out."""
    amounts: defaultdict[tuple[str, str], int] = defaultdict(int)
    for key in before.cells.keys() | after.cells.keys():
        requests = (before.requests.get(key.lane, 0), after.requests.get(key.lane, 0))
        for part, amount in parts_of(before.cells.get(key, Use()), after.cells.get(key, Use()), requests=requests):
            amounts[part, key.lane] += amount
    ordered = sorted(amounts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "from": money(before.cost),
        "to": money(after.cost),
        "difference": money(after.cost - before.cost),
        "parts": [{"part": part, "lane": lane, "amount": money(amount)} for (part, lane), amount in ordered if amount],
    }


def parts_of(before: Use, after: Use, *, requests: tuple[int, int]) -> list[tuple[str, int]]:
    """Gives the parts of one cell, which sum to ``after.cost - before.cost``; ``requests`` are those of its lane."""
    if not before.is_there:
        return [(NEW, after.cost)]
    if not after.is_there:
        return [(GONE, -before.cost)]
    if not (before.billed and after.billed):
        # Without a quantity there is no unit: of two minimums only the amount differs.
        is_unpriced = (before.used and not before.billed) or (after.used and not after.billed)
        return [(UNPRICED if is_unpriced else PRICE, after.cost - before.cost)]
    chain = [
        before.cost,
        _scaled(before.cost, requests[1], requests[0]),
        _scaled(before.cost, after.used, before.used),
        _scaled(before.cost, after.billed, before.billed),
        after.cost,
    ]
    steps = [later - earlier for earlier, later in pairwise(chain)]
    return list(zip((VOLUME, MIX, UNPRICED, PRICE), steps, strict=True))


def _scaled(cost: int, numerator: int, denominator: int) -> int:
    return rounded_half_even(cost * numerator, denominator)


def figures_of_bridge(sums: Sequence[BridgeSum]) -> Figures:
    """What completeness needs of a bridge's sums; successes are not known here and stay 0."""
    return NOTHING._replace(
        requests=sum(row.events for row in sums),
        unpriced=sum(row.unpriced for row in sums),
        newest_us=max((row.newest_us for row in sums if row.newest_us is not None), default=None),
    )
