"""Judging corrections: what a restated cost proves about alerts that fired, or should have.

A correction moves the cost of windows that may be long over. A calendar rule on cost is judged again after each
correction block, for the windows that it moved: an alert whose window is under its limit now is ``retracted``, and a
limit that the window reaches now fires, carried over it by the last corrected event of the window. Shares, projections
and rolling windows were right when they were judged; their next evaluation sees the corrected costs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl

from pipeline.judging.measure import units_of
from pipeline.judging.steps import AskAlerts, AskNewest, AskSums
from pipeline.judging.turns import Turn
from pipeline.judging.wide import exactly, wide_of
from pipeline.judging.window_times import Grain, end_of, micros, starts_of

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Sequence

    from numpy.typing import NDArray

    from pipeline.judging.calendar import Place
    from pipeline.judging.measure import Judged
    from schemas.rules import Scope

    Rows = NDArray[np.int64]
    #: Org, scope id, start of the window.
    Key = tuple[str, str, int]

MEASURE: Final = "cost"


class CorrectedRows:
    """The corrections (CORRECTIONS) of a run in log order, as what stands behind an alert: they add what they move."""

    def __init__(self, corrections: pl.DataFrame) -> None:
        self.corrections = corrections
        self._texts: dict[str, list[Any]] = {}
        self.times: Rows = corrections.get_column("time").dt.epoch("us").to_numpy()
        new, old = (wide_of(corrections.get_column(name)) for name in ("cost", "old_cost"))
        #: By how much each correction moves the cost, in units of 1e-12.
        self.moved = [exactly(new, row) - exactly(old, row) for row in range(corrections.height)]
        unpriced, was = (corrections.get_column(name) == "unpriced" for name in ("pricing", "old_pricing"))
        self._unpriced = unpriced.to_numpy().astype(np.int64) - was.to_numpy().astype(np.int64)

    def texts(self, name: str, rows: Rows) -> list[Any]:
        """What these rows have in a column; the block is the correction's, not the fact's."""
        column = self.listed({"block": "correction_block", "recorded_at": "corrected_at"}.get(name, name))
        return [column[row] for row in rows.tolist()]

    def listed(self, name: str) -> list[Any]:
        """A whole column as a list."""
        if name not in self._texts:
            self._texts[name] = self.corrections.get_column(name).to_list()
        return self._texts[name]

    def numbers(self, _: str, rows: Rows) -> list[int]:
        """By how much these corrections move the cost, in units of 1e-12."""
        return [self.moved[row] for row in rows.tolist()]

    def unpriced(self, rows: Rows) -> int:
        """By how much they move the number of unpriced events."""
        return int(self._unpriced[rows].sum())

    def rows_of_scopes(self, scope: Scope, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], Rows]:
        """The rows of each of these orgs and scope ids, in log order; none for what has no correction here."""
        rows: dict[tuple[str, str], list[int]] = {pair: [] for pair in pairs}
        for row, pair in enumerate(zip(self.listed("org"), self.listed(scope.value), strict=True)):
            if pair in rows:
                rows[pair].append(row)
        return {pair: np.array(own, dtype=np.int64) for pair, own in rows.items()}


class _Moved(NamedTuple):
    """A window that one block moved: the row of its last corrected event, and by how much in units of 1e-12.

    ``last`` is the last row of the block: it is judged as a whole.
    """

    block: int
    key: Key
    row: int
    last: int
    by: int


class _Said(NamedTuple):
    """What was said last of one alert."""

    sequence: int
    is_fired: bool
    crossed: tuple[str, str, int]


@dataclass
class CorrectionJudge:
    """Judges a run that has corrections and nothing else."""

    place: Place
    rows: CorrectedRows
    newest: dict[str, int] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)

    def judge(self, rules: Sequence[Judged]) -> Generator[Any, Any, None]:
        """All rules that are judged again."""
        again = [judged for judged in rules if judged.rule.measure == MEASURE and not judged.window.is_rolling]
        if not again or not self.rows.corrections.height:
            return
        orgs = tuple(sorted(self.rows.corrections.get_column("org").unique()))
        newest: pl.DataFrame = yield AskNewest(self.place.partition, self.place.before, orgs)
        self.newest = dict(newest.select("org", "newest").iter_rows())
        for judged in again:
            yield from self._judge(judged)

    def _judge(self, judged: Judged) -> Generator[Any, Any, None]:
        grain = Grain(judged.window.value)
        moved = [one for one in self._moved(judged.scope, grain) if _is_watched(judged, one.key)]
        if not moved:
            return
        windows = pl.DataFrame(
            sorted({(org, start) for org, _, start in (one.key for one in moved)}),
            schema={"org": pl.String, "start": pl.Int64},
            orient="row",
        )
        ids = tuple(sorted({one.key[1] for one in moved}))
        sums: pl.DataFrame = yield AskSums(
            self.place.partition, self.place.before, judged.scope, grain, windows, ids=ids
        )
        column = wide_of(sums.get_column("cost"))
        costs = {key: exactly(column, row) for row, key in enumerate(sums.select("org", "id", "start").iter_rows())}
        alerts: pl.DataFrame = yield AskAlerts(
            self.place.partition,
            self.place.before,
            (judged.key,),
            tuple(windows.get_column("org").unique().sort()),
            tuple(windows.get_column("start").unique().sort()),
        )
        said = _said(alerts)
        for one in moved:
            before = costs.get(one.key, 0)
            costs[one.key] = before + one.by
            self._turn(judged, one, before, said)

    def _moved(self, scope: Scope, grain: Grain) -> list[_Moved]:
        rows = self.rows
        starts = starts_of(grain, rows.times).tolist()
        columns = rows.corrections.select("correction_block", "org", pl.col(scope.value).alias("id"))
        blocks, orgs, ids = (column.to_list() for column in columns)
        keys = zip(blocks, orgs, ids, starts, strict=True)
        last = {block: row for row, block in enumerate(blocks)}
        moved: dict[tuple[int, Key], _Moved] = {}
        for row, (block, org, scope_id, start) in enumerate(keys):
            key = org, scope_id, start
            by = moved[block, key].by if (block, key) in moved else 0
            moved[block, key] = _Moved(block, key, row, last[block], by + rows.moved[row])
        return sorted(moved.values(), key=lambda one: (one.block, one.key))

    def _turn(self, judged: Judged, moved: _Moved, before: int, said: dict[tuple[Key, int], _Said]) -> None:
        org, scope_id, start = moved.key
        after = before + moved.by
        grain = Grain(judged.window.value)
        end = None if grain is Grain.TOTAL else end_of(grain, start)
        turned: list[tuple[int, str, _Said]] = []
        for index, limit in enumerate(judged.limits):
            known = said.get((moved.key, limit))
            sequence = 1 if known is None else known.sequence + 1
            if known is not None and known.is_fired:
                if after < limit:
                    turned.append((index, "retracted", _Said(sequence, is_fired=False, crossed=known.crossed)))
            elif before < limit <= after:
                turned.append((index, "fired", _Said(sequence, is_fired=True, crossed=self._event(moved.row))))
        highest = max((index for index, transition, _ in turned if transition == "fired"), default=-1)
        for index, transition, now in turned:
            said[moved.key, judged.limits[index]] = now
            self.turns.append(
                Turn(
                    row=moved.last,
                    is_of_others=False,
                    transition=transition,
                    sequence=now.sequence,
                    judged=judged,
                    limit=index,
                    org=org,
                    scope_id=scope_id,
                    start=None if end is None else start,
                    end=end,
                    value=after,
                    highest=index == highest,
                    grain=grain,
                    seen=(start,),
                    watermark=self.newest[org],
                    crossed=now.crossed,
                    is_of_correction=True,
                )
            )

    def _event(self, row: int) -> tuple[str, str, int]:
        return self.rows.listed("source")[row], self.rows.listed("id")[row], int(self.rows.times[row])


def _is_watched(judged: Judged, key: Key) -> bool:
    org, scope_id, _ = key
    return judged.rule.matches(org=org, scope_id=scope_id)


def _said(alerts: pl.DataFrame) -> dict[tuple[Key, int], _Said]:
    """The latest transition (ALERTS) by window and limit."""
    said: dict[tuple[Key, int], _Said] = {}
    for alert in alerts.iter_rows(named=True):
        start = 0 if alert["window_start"] is None else micros(alert["window_start"])
        crossed = alert["crossed_source"], alert["crossed_id"], micros(alert["crossed_time"])
        key = (alert["org"], alert["scope_id"], start), units_of(alert["threshold"])
        said[key] = _Said(alert["sequence"], is_fired=alert["transition"] == "fired", crossed=crossed)
    return said
