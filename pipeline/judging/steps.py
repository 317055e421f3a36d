"""The steps of judging, yielded by ``pipeline/count.py``: what is asked of the store as of a block, what is written.

Every question names a partition and a block ``before``: rows of that block and of later ones do not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl

from pipeline.judging.measure import TOKENS, quantity_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.judging.window_times import Grain
    from schemas.rules import Scope


@dataclass(frozen=True, slots=True)
class AskInForce:
    """What was in force: the newest control block counted. Answer: an ``InForce``."""

    partition: int
    before: int


@dataclass(frozen=True, slots=True)
class AskNewest:
    """The time of the newest event of these orgs, or of all. Answer: NEWEST, without orgs that have no facts."""

    partition: int
    before: int
    orgs: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class AskSums:
    """The sums of windows by scope. Answer: WINDOW_SUMS, without rows for what has no events or an absent id.

    ``windows`` has the columns org and start: the windows of that grain that are asked for. ``ids`` limits the scopes,
    ``by`` splits each into lanes. ``sums`` are those that somebody wants, as ``measure.py`` calls them: tokens and
    quantities are expensive and only summed when they are named (tokens are 0 otherwise), the others always are.
    """

    partition: int
    before: int
    scope: Scope
    grain: Grain
    windows: pl.DataFrame
    sums: tuple[str, ...] = ()
    ids: tuple[str, ...] | None = None
    by: Scope | None = None

    @property
    def with_tokens(self) -> bool:
        """Whether tokens are wanted."""
        return TOKENS in self.sums

    @property
    def names(self) -> tuple[str, ...]:
        """The quantities that are wanted, in the order of the answer's."""
        return quantity_names(self.sums)


@dataclass(frozen=True, slots=True)
class AskAlerts:
    """The latest transition of alerts. Answer: ALERTS.

    Those of these rules (id and revision) and orgs (None: all) whose window starts at one of ``starts``; when that is
    None, those that are still firing, and those whose window starts at or after ``since``. Microseconds since 1970.
    """

    partition: int
    before: int
    rules: tuple[tuple[str, int], ...]
    orgs: tuple[str, ...] | None
    starts: tuple[int, ...] | None
    since: int = 0


@dataclass(frozen=True, slots=True)
class AskLastFacts:
    """The event of each scope in a span of time that comes last in the log. Answer: LAST_FACTS.

    ``spans`` has the columns org, id, start and end, one row per scope; an org's scopes share one span.
    """

    partition: int
    before: int
    scope: Scope
    spans: pl.DataFrame


@dataclass(frozen=True, slots=True)
class InsertControls:
    """A control block that was counted (CONTROLS), to be acknowledged by the store."""

    controls: pl.DataFrame


@dataclass(frozen=True, slots=True)
class InsertAlerts:
    """Transitions (ALERTS), to be acknowledged by the store."""

    alerts: pl.DataFrame


@dataclass(frozen=True, slots=True)
class PublishAlerts:
    """The same transitions for ``usage.alerts``, stored already."""

    alerts: pl.DataFrame


#: More windows than this are asked for in several questions.
WINDOWS_PER_QUESTION: Final = 100_000


def windows_in_parts(wanted: Sequence[tuple[str, int]]) -> Iterator[pl.DataFrame]:
    """Windows by org and start as ``AskSums`` takes them, a question's worth at a time."""
    for first in range(0, len(wanted), WINDOWS_PER_QUESTION):
        part = wanted[first : first + WINDOWS_PER_QUESTION]
        yield pl.DataFrame(part, schema={"org": pl.String, "start": pl.Int64}, orient="row")


AlertQuestion = AskInForce | AskNewest | AskSums | AskAlerts | AskLastFacts
