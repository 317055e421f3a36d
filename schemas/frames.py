"""What a batch of events looks like between the stages: columns, not objects.

A batch is three flat frames that belong together. ``events`` has one row per event; ``usage`` (before pricing) and
``lines`` (after it) have one row per named quantity of an event and point to it by ``row``, its zero-based place in
``events``. ``kinds`` is the small dictionary that ``lines.kind`` points into, so that no string is repeated per line.

Times are UTC microseconds; money and quantities are ``Decimal(38, 12)``, never floats. An absent optional id is ``""``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

DECIMAL: Final = pl.Decimal(38, 12)
INSTANT: Final = pl.Datetime("us", "UTC")

#: Raw coordinates: where in the raw topic the event stood. ``of`` is how many events its record held; a record that
#: is one event has index 0 of 1. (partition, offset, index) is unique for ever in one topic.
COORDINATES: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "partition": pl.Int32,
    "offset": pl.Int64,
    "index": pl.Int32,
    "of": pl.Int32,
    "received_at": INSTANT,  # the broker's time of the raw record (LogAppendTime)
}

IDENTITY: Final = ("org", "source", "id")

#: A validated event, one row each, ascending by (partition, offset, index).
EVENTS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **COORDINATES,
    "org": pl.String,
    "source": pl.String,
    "id": pl.String,
    "time": INSTANT,
    "operation": pl.String,
    "project": pl.String,
    "api_key": pl.String,
    "environment": pl.String,
    "user": pl.String,
    "provider": pl.String,
    "model": pl.String,
    "variant": pl.String,  # compact JSON object with sorted keys, "" when there is none: see schemas.variants
    "status": pl.String,  # "ok" or "error"
    "tags": pl.String,  # compact JSON object with sorted keys, "" when there are none
}

#: The named quantities of the events as given, in the order of the events; names of one event are distinct.
#: The implied ``requests`` = 1 is not in it.
USAGE: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "row": pl.UInt32,
    "meter": pl.String,
    "quantity": DECIMAL,
}

#: What pricing adds to EVENTS. ``cost`` is the sum of the meters that have a price, null when none has.
PRICED_EVENTS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **EVENTS,
    "cost": DECIMAL,
    "pricing": pl.String,  # "priced", "free" or "unpriced"
}

#: One row per quantity of an event, and one for ``requests`` when ``requests`` has a price. ``cost`` is null when the
#: meter has no price at the event's time.
LINES: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "row": pl.UInt32,
    "kind": pl.UInt32,
    "quantity": DECIMAL,
    "cost": DECIMAL,
}

#: The dictionary of ``lines.kind``: few rows per batch.
KINDS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "kind": pl.UInt32,
    "meter": pl.String,
    "name": pl.String,  # the price's name on the invoice, "" without a price
    "price_id": pl.String,  # "BOOK@REVISION:ROW", then "*BOOK@REVISION:xROW" of each adjustment; "" without a price
    "state": pl.String,  # one of LINE_STATES
}

#: ``billed``: has a price and is billed. ``not_billed``: has a price with ``bill: success`` and the event failed, so
#: its cost is 0. ``unpriced``: has no price and should have one. ``memo``: informational, needs none
#: (reasoning_tokens). ``ignored``: listed under ``ignore`` of a book; or a quantity of zero without a price, since
#: there is nothing to bill.
LINE_STATES: Final = ("billed", "not_billed", "unpriced", "memo", "ignored")

#: Quantities that repeat a part of another quantity and so need no price of their own (contract, tokens are disjoint).
MEMO_METERS: Final = frozenset({"reasoning_tokens"})

#: The quantity that every event has, with the value 1.
REQUESTS: Final = "requests"


@dataclass(frozen=True, slots=True)
class PricedBatch:
    """Validated, priced events: what a block of ``usage.priced`` holds, and what counting works on."""

    events: pl.DataFrame  # PRICED_EVENTS
    lines: pl.DataFrame  # LINES, ascending by row
    kinds: pl.DataFrame  # KINDS

    def line_offsets(self) -> NDArray[np.int32]:
        """Where each event's lines begin, and behind the last one: Arrow's list offsets, events.height + 1 of them."""
        rows = self.lines.get_column("row").to_numpy()
        return np.searchsorted(rows, np.arange(self.events.height + 1)).astype(np.int32)
