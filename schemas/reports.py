"""What a report is made from: a span of time, and sums as the store gives them.

Money and quantities are exact decimals; instants are microseconds since 1970 (UTC), None when there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

#: What lanes can be made of (``--by``). Nothing else ever becomes a column name in a query.
LANES_BY: Final = ("project", "api_key", "model", "operation", "user")


@dataclass(frozen=True, slots=True)
class Period:
    """A span of event time in UTC that includes ``start`` and excludes ``end``; both are None for all of time."""

    start: datetime | None
    end: datetime | None

    @property
    def is_hour_aligned(self) -> bool:
        """Whether it consists of whole hours, so that hourly totals answer for it exactly."""
        return all(
            instant is None or (instant.minute, instant.second, instant.microsecond) == (0, 0, 0)
            for instant in (self.start, self.end)
        )


class Figures(NamedTuple):
    """What facts sum up to. ``cost`` is the sum of what has a price; ``unpriced`` counts events that lack one."""

    requests: int
    ok: int
    failed: int
    unpriced: int
    cost: Decimal
    failed_cost: Decimal
    newest_us: int | None


class LaneSum(NamedTuple):
    """One lane of a report; "" is the lane of the events without the value."""

    lane: str
    figures: Figures


class WindowSum(NamedTuple):
    """One window of the summary, with the tokens that went in and out."""

    figures: Figures
    input_tokens: Decimal
    output_tokens: Decimal


class ScopeWindow(NamedTuple):
    """One window of one scope value; ``start`` is None for all of time, the id "" stands for events without a value."""

    id: str
    start: datetime | None
    figures: Figures
    tokens: Decimal


class InvoiceSum(NamedTuple):
    """What one invoice name sums up to within a project, an operation and a model.

    ``name`` is "" where no meter has a price. An event with several names adds to ``quantity`` and ``cost`` of each,
    and to ``events``, ``unpriced`` and ``event_cost`` of one of them, so that all these sums over all rows are right.

    With ``corrects`` (a month, ``YYYY-MM``) it is what corrections of that month, made after it had closed, add to this
    invoice. A row ``is_taken_back`` holds what they must not add to the figures of the month itself.
    """

    project: str
    operation: str
    model: str
    name: str
    quantity: Decimal
    cost: Decimal
    events: int
    unpriced: int
    event_cost: Decimal
    newest_us: int | None
    corrects: str = ""
    is_taken_back: bool = False


class BridgeSum(NamedTuple):
    """What one meter under one invoice name sums up to within a lane, an operation, a provider and a model.

    ``used`` is what a price applied to (``billed``) or lacked; ``quantity`` all that was given. ``meter`` is "" for the
    events without any. ``events`` and ``unpriced`` of an event are those of one of its meters.
    """

    lane: str
    operation: str
    provider: str
    model: str
    meter: str
    name: str
    used: Decimal
    quantity: Decimal
    billed: Decimal
    cost: Decimal
    events: int
    unpriced: int
    newest_us: int | None


class UnpricedSum(NamedTuple):
    """Events whose ``meter`` had no price; ``meter`` is "" for the events of the lane that lack nothing.

    An event that lacks several prices adds to ``events`` of each meter, and to ``facts`` and ``unpriced`` once.
    """

    operation: str
    provider: str
    model: str
    meter: str
    events: int
    quantity: Decimal
    since_us: int | None
    facts: int
    unpriced: int
    newest_us: int | None


class Refusals(NamedTuple):
    """How many events of a span were not counted: refused (conflicts not among them), or repeats of counted ones."""

    rejected: int
    duplicates: int
    conflicts: int
