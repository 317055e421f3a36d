"""A turn: the moment at which an alert fires, is resolved, or ends, before it is written out in full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.judging.measure import Judged
    from pipeline.judging.window_times import Grain

#: The place of a turn that no new event causes: a control block stands before them.
AT_CONTROL = -1


@dataclass(frozen=True, slots=True)
class Turn:
    """``row`` is the place of the event that causes it among the new facts.

    ``start`` and ``end`` name the alert's window (None: total). ``seen`` are the starts of the windows or steps of
    ``grain`` whose sums make up the value: those of the window at this moment.
    """

    row: int
    is_of_others: bool  # an event of another scope moved the window on
    transition: str
    sequence: int
    judged: Judged
    limit: int
    org: str
    scope_id: str
    start: int | None
    end: int | None
    value: int
    highest: bool
    grain: Grain
    seen: tuple[int, ...]
    watermark: int
    crossed: tuple[str, str, int]
    is_of_correction: bool = False

    @property
    def order(self) -> tuple[object, ...]:
        """Turns are told in the order of the log; at one place what ends first, then by rule, scope and limit.

        Corrections may turn several windows of a scope at one place; those of one are told together.
        """
        window = (self.start or 0) if self.is_of_correction else 0
        told = (self.judged.key, self.org, self.scope_id, window, self.limit)
        return self.row, self.transition != "superseded", not self.is_of_others, *told
