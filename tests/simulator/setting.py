"""What schedules are run under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.simulator.bugs import Bug

#: Schedules of the count side that share a log, and schedules of the price side up to the one whose log it is.
COUNTS_PER_LOG: Final = 200
PRICINGS_PER_LOG: Final = 20


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Together with its seed it says everything about a schedule."""

    per_log: int = COUNTS_PER_LOG
    pricings_per_log: int = PRICINGS_PER_LOG
    bug: Bug | None = None
    zombies_may_commit: bool = False
    is_calm: bool = False  # no trouble at all, and one worker of each kind: what happens on a good day
    remembers: bool = True  # False counts everything anew instead of looking up what was counted before


PLAIN: Final = Setting()
