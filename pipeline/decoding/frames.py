"""Rows to frames: exactly the columns and types of ``schemas.frames``, also when there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from schemas.event import BATCH_EVENTS_MAX
from schemas.frames import EVENTS, INSTANT, USAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from pipeline.decoding.one import Decoded

    Flags = npt.NDArray[np.bool_]
    Integers = npt.NDArray[np.int64]

_EVENT_ATTRIBUTES: Final = {"received_at": "received_us", "time": "time_us"}


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the events of a batch. ``place`` says where each belongs among all, see ``place_of``."""

    events: pl.DataFrame  # EVENTS
    usage: pl.DataFrame  # USAGE, ascending by row
    place: Integers  # one per event, ascending or not

    @property
    def position(self) -> Integers:
        """Of each event's record among the records."""
        return self.place // BATCH_EVENTS_MAX

    def only(self, wanted: Flags) -> Part:
        """The part without the events that are not wanted."""
        if wanted.all():
            return self
        return self.take(np.flatnonzero(wanted))

    def in_order(self) -> Part:
        """The same events, ascending by place."""
        if (np.diff(self.place) > 0).all():
            return self
        return self.take(np.argsort(self.place, kind="stable"))

    def take(self, rows: Integers) -> Part:
        """The events of these rows, in this order."""
        new_row = np.full(len(self.place), -1, np.int64)
        new_row[rows] = np.arange(len(rows))
        moved = new_row[self.usage["row"].to_numpy()]
        kept = np.flatnonzero(moved >= 0)
        order = kept[np.argsort(moved[kept], kind="stable")]
        usage = self.usage[order].with_columns(pl.Series("row", moved[order], dtype=USAGE["row"]))
        return Part(self.events[rows], usage, self.place[rows])


def place_of(position: Integers, index: Integers) -> Integers:
    """Where events belong in a batch: by their record's position among the records, then by their index in it."""
    return position * BATCH_EVENTS_MAX + index


def joined(one: Part, other: Part) -> Part:
    """The events of one part and then those of the other."""
    shifted = other.usage.with_columns((pl.col("row") + len(one.place)).cast(USAGE["row"]))
    place = np.concatenate([one.place, other.place])
    return Part(pl.concat([one.events, other.events]), pl.concat([one.usage, shifted]), place)


def part_of(events: Sequence[Decoded], place: Integers) -> Part:
    """The scalar path's events as frames."""
    columns = {name: [getattr(event, _EVENT_ATTRIBUTES.get(name, name)) for event in events] for name in EVENTS}
    frame = pl.DataFrame(
        [
            pl.Series(name, columns[name], dtype=pl.Int64 if kind == INSTANT else kind).cast(kind)
            for name, kind in EVENTS.items()
        ]
    )
    usage = pl.DataFrame(
        {
            "row": [row for row, event in enumerate(events) for _ in event.usage],
            "meter": [meter for event in events for meter, _ in event.usage],
            "quantity": [quantity for event in events for _, quantity in event.usage],
        },
        schema=USAGE,
    )
    return Part(frame, usage, place)
