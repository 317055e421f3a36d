"""Period price: what a month's totals cost where a book prices the month as a whole and not each event.

The lines of the invoice that one period price reaches are a *pool*: its quantity is what was billed of all of them in
all projects of the org, and its figure takes the place of what the events cost. The figure is shared out over the pool
by billed quantity, so everything that summed to the total before still does; with a minimum alone the events keep what
they cost, and what is missing is shared out.

The words are those of other billing systems. *Graduated*: each unit by the tier it falls into. *Volume*: all units by
the tier that the whole quantity falls into. *Package*: every package that was begun. ``up_to`` belongs to its tier, as
at Stripe, Lago and OpenMeter; ``flat`` is owed for each tier that is reached (graduated), or for the one that decides
(volume). At quantity 0 no tier is reached, as at Lago. A minimum fills up what is missing. Nothing is prorated.

All arithmetic is on whole numbers (10⁻¹² of a unit); each step is rounded half-even once, like the cost of an event.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from pipeline.report import SCALE, decimal, money, plain, rounded_half_even, whole
from schemas.catalog_values import plain_decimal
from schemas.reports import InvoiceSum

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from decimal import Decimal

    from pipeline.report import Json
    from schemas.period_prices import PeriodPrice, PeriodPriceRow


class Cell(NamedTuple):
    """A part of a line of the invoice. Quantity (billed) and cost (of its events) are in 10⁻¹²."""

    operation: str
    model: str
    name: str
    quantity: int
    cost: int

    @property
    def line(self) -> tuple[str, str, str]:
        """What makes a line of the invoice."""
        return (self.operation, self.model, self.name)


class Step(NamedTuple):
    """One step of the way to a pool's figure; the costs of all steps sum to it."""

    said: Json
    cost: int

    def shown(self) -> Json:
        """As JSON values."""
        return {**self.said, "exact_cost": money(self.cost)}


@dataclass(frozen=True, slots=True)
class Pool:
    """What one period price makes of a month. Quantity and costs are in 10⁻¹².

    ``rest`` is the part of ``cost`` that no cell can take, because nothing was billed: a minimum without any use.
    """

    row: PeriodPriceRow
    lines: frozenset[tuple[str, str, str]]
    quantity: int
    per_event_cost: int
    steps: tuple[Step, ...]
    rest: int

    @property
    def cost(self) -> int:
        """The figure that takes the place of ``per_event_cost``."""
        return sum(step.cost for step in self.steps)

    @property
    def line_of_rest(self) -> tuple[str, str, str]:
        """The line of the invoice that ``rest`` stands on; of several models its model is the row's ``gpt-4o*``."""
        price = self.row.price
        return (price.operation, price.model, price.meter)

    def shown(self) -> Json:
        """As JSON values."""
        price = self.row.price
        return {
            "id": self.row.id,
            "operation": price.operation,
            "model": price.model,
            "meter": price.meter,
            "kind": price.kind,
            "quantity": plain(self.quantity),
            "per_event_cost": money(self.per_event_cost),
            "exact_cost": money(self.cost),
            "steps": [step.shown() for step in self.steps],
        }


def price_month(
    sums: Sequence[InvoiceSum], *, rows: Iterable[PeriodPriceRow], org: str, month: str
) -> tuple[list[InvoiceSum], list[Pool]]:
    """Gives an invoice's sums with the figures of the period prices in them, and how these came about.

    ``sums`` are those of one org and one whole month ``YYYY-MM``, ``rows`` the period prices in force for it. What a
    minimum owes without any use is a sum of its own, of the project ``""``.
    """
    cells = [Cell(row.operation, row.model, row.name, whole(row.quantity), whole(row.cost)) for row in sums]
    costs, pools = costs_of_month(cells, rows=rows, org=org, month=month)
    priced = [
        row._replace(cost=decimal(cost), event_cost=decimal(whole(row.event_cost) + cost - cell.cost))
        for row, cell, cost in zip(sums, cells, costs, strict=True)
    ]
    return priced + [_sum_of_rest(pool) for pool in pools if pool.rest], pools


def _sum_of_rest(pool: Pool) -> InvoiceSum:
    operation, model, name = pool.line_of_rest
    cost = decimal(pool.rest)
    return InvoiceSum(
        project="",
        operation=operation,
        model=model,
        name=name,
        quantity=decimal(0),
        cost=cost,
        events=0,
        unpriced=0,
        event_cost=cost,
        newest_us=None,
    )


def costs_of_month(
    cells: Sequence[Cell], *, rows: Iterable[PeriodPriceRow], org: str, month: str
) -> tuple[list[int], list[Pool]]:
    """Gives the cost of each cell after the period prices, in 10⁻¹², and the pools in the order of the rows.

    A line belongs to the most specific row that reaches it; without one its cells keep what their events cost. Cells
    and the rests of the pools sum to the new total.
    """
    reaching = [row for row in rows if row.price.org in ("", org) and row.price.holds_in(month)]
    row_of_line = {line: _most_specific(reaching, line) for line in {cell.line for cell in cells}}
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, cell in enumerate(cells):
        if row := row_of_line[cell.line]:
            places[row.id].append(place)
    costs, pools = [cell.cost for cell in cells], []
    for row in reaching:
        mine = [cells[place] for place in places[row.id]]
        pool = _pool(row, mine)
        if pool is None:
            continue
        pools.append(pool)
        for place, share in zip(places[row.id], _shares(pool, mine), strict=True):
            costs[place] = share
    return costs, pools


def _most_specific(rows: Sequence[PeriodPriceRow], line: tuple[str, str, str]) -> PeriodPriceRow | None:
    operation, model, name = line
    matching = [row for row in rows if row.price.matches(operation=operation, model=model, name=name)]
    return max(matching, key=lambda row: row.price.specificity, default=None)


def _pool(row: PeriodPriceRow, cells: Sequence[Cell]) -> Pool | None:
    """None when the row has nothing to say: no line to price and no minimum that is owed all the same."""
    quantity, per_event_cost = sum(cell.quantity for cell in cells), sum(cell.cost for cell in cells)
    steps = steps_of(row.price, quantity=quantity, per_event_cost=per_event_cost)
    if not cells and not steps:
        return None
    pool = Pool(row, frozenset(cell.line for cell in cells), quantity, per_event_cost, tuple(steps), rest=0)
    rest = 0 if quantity else pool.cost - sum(_kept(pool, cells))
    return replace(pool, rest=rest, lines=pool.lines | {pool.line_of_rest}) if rest else pool


def steps_of(price: PeriodPrice, *, quantity: int, per_event_cost: int) -> list[Step]:
    """Gives the steps from a month's billed quantity to its figure; none where nothing is owed. All in 10⁻¹².

    A minimum is owed once something was billed, and by the org that a row names also without any use.
    """
    match price.kind:
        case "graduated":
            steps = _graduated(price, quantity)
        case "volume":
            steps = _volume(price, quantity)
        case "package":
            steps = _packages(price, quantity)
        case None:
            steps = [Step({"step": "events", "quantity": plain(quantity)}, per_event_cost)] if quantity else []
    missing = whole(price.minimum) - sum(step.cost for step in steps)
    if missing > 0 and (quantity or price.org):
        steps.append(Step({"step": "minimum"}, missing))
    return steps


def _graduated(price: PeriodPrice, quantity: int) -> list[Step]:
    steps: list[Step] = []
    above = 0
    for tier in price.tiers:
        if quantity <= above:
            break
        end = quantity if tier.up_to is None else whole(tier.up_to)
        steps.append(_tier(price, place=len(steps), above=above, quantity=min(quantity, end) - above))
        above = end
    return steps


def _volume(price: PeriodPrice, quantity: int) -> list[Step]:
    if not quantity:
        return []
    above = 0
    for place, tier in enumerate(price.tiers):
        if tier.up_to is None or quantity <= whole(tier.up_to):
            return [_tier(price, place=place, above=above, quantity=quantity)]
        above = whole(tier.up_to)
    raise AssertionError("the last tier has no end")


def _tier(price: PeriodPrice, *, place: int, above: int, quantity: int) -> Step:
    tier = price.tiers[place]
    said: Json = {
        "step": f"tier {place + 1}",
        "above": plain(above),
        "up_to": None if tier.up_to is None else plain_decimal(tier.up_to),
        "quantity": plain(quantity),
        "price": plain_decimal(tier.price),
        "per": price.per,
        "flat": plain_decimal(tier.flat),
    }
    return Step(said, _cost(quantity, tier.price, per=price.per) + whole(tier.flat))


def _packages(price: PeriodPrice, quantity: int) -> list[Step]:
    """Packages are counted on what is not included, and one that was begun is a whole one."""
    size, packages_price = _given(price.package), _given(price.price)
    included = min(quantity, whole(price.included))
    packages = -(-(quantity - included) // whole(size))
    steps = [Step({"step": "included", "quantity": plain(included)}, 0)] if included else []
    if packages:
        said: Json = {
            "step": "packages",
            "quantity": plain(quantity - included),
            "packages": packages,
            "price": plain_decimal(packages_price),
            "per": plain_decimal(size),
        }
        steps.append(Step(said, packages * whole(packages_price)))
    return steps


def _given(value: Decimal | None) -> Decimal:
    assert value is not None  # noqa: S101 -- the model refuses a row without it
    return value


def _cost(quantity: int, price: Decimal, *, per: int) -> int:
    return rounded_half_even(quantity * whole(price), per * SCALE)


def _kept(pool: Pool, cells: Sequence[Cell]) -> list[int]:
    """What cells cost before anything is shared out: without a kind their events, since only a minimum is added."""
    return [0 if pool.row.price.kind else cell.cost for cell in cells]


def _shares(pool: Pool, cells: Sequence[Cell]) -> list[int]:
    """What each cell costs: what is not kept goes by billed quantity, by largest remainder, of equals the earlier."""
    shares = _kept(pool, cells)
    if not pool.quantity:
        return shares
    shared = pool.cost - sum(shares)
    parts = [divmod(shared * cell.quantity, pool.quantity) for cell in cells]
    missing = shared - sum(part for part, _ in parts)
    by_remainder = sorted(range(len(parts)), key=lambda at: -parts[at][1])
    first = set(by_remainder[:missing])
    return [kept + part + (at in first) for at, (kept, (part, _)) in enumerate(zip(shares, parts, strict=True))]


def explained(invoice: Json, pools: Sequence[Pool]) -> Json:
    """The invoice with ``period_prices``, and with the id of its period price on each line that has one."""
    ids = {line: pool.row.id for pool in pools for line in pool.lines}
    lines = [{**line, **_period_price_of(line, ids)} for line in invoice["lines"]]
    return {**invoice, "lines": lines, "period_prices": [pool.shown() for pool in pools]}


def _period_price_of(line: Json, ids: Mapping[tuple[str, str, str], str]) -> Json:
    price_id = ids.get((line["operation"], line["model"], line["meter"]))
    return {} if price_id is None or "corrects" in line else {"period_price": price_id}
