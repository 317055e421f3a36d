"""Rows to frames: exactly the columns and types of ``schemas.frames``, also when there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from schemas.frames import DECIMAL, EVENTS, INSTANT, USAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.decoding.one import Decoded


def frames_of(events: Sequence[Decoded]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """EVENTS and USAGE of the events, in their order."""
    columns = {name: [getattr(event, _ATTRIBUTES.get(name, name)) for event in events] for name in EVENTS}
    frame = pl.DataFrame(
        {
            name: pl.Series(values, dtype=pl.Int64 if EVENTS[name] == INSTANT else EVENTS[name])
            for name, values in columns.items()
        }
    ).cast({"received_at": INSTANT, "time": INSTANT})
    rows = [row for row, event in enumerate(events) for _ in event.usage]
    meters = [meter for event in events for meter, _ in event.usage]
    quantities = [quantity for event in events for _, quantity in event.usage]
    usage = pl.DataFrame(
        {
            "row": pl.Series(rows, dtype=USAGE["row"]),
            "meter": pl.Series(meters, dtype=USAGE["meter"]),
            "quantity": pl.Series(quantities, dtype=DECIMAL),
        }
    )
    return frame, usage


_ATTRIBUTES = {"received_at": "received_us", "time": "time_us"}
