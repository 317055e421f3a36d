"""The planted bugs that are more than an ``if`` in a worker: in the stages, in the store, in what is written."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import pytest

from pipeline import correct as correct_module
from pipeline import count as count_module
from pipeline import memory_store as memory_store_module
from pipeline.dedupe import Decision, dedupe
from pipeline.judging import calendar as calendar_module
from pipeline.judging.calendar import CalendarJudge, sums_at
from pipeline.memory_store import ReplacingTable, summed
from schemas.counted import QUANTITY_LISTS, SUMS
from tests.simulator.bugs import Bug

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipeline.correct import Corrected
    from pipeline.judging.measure import Judged
    from pipeline.judging.page import Page
    from pipeline.lanes import Lanes
    from pipeline.memory_store import Row
    from schemas.correction import Correction

#: No partition of a world is that long.
ELSEWHERE: Final = 1_000_000

_WITHIN_LIMIT: Final = count_module._within_limit
_DECIDED: Final = correct_module._decided
_WALK: Final = CalendarJudge._walk


@contextmanager
def planted_in_stages(bug: Bug | None) -> Iterator[None]:
    """The bugs that sit in the stages themselves."""
    with pytest.MonkeyPatch.context() as patch:
        if bug is Bug.HASH_ALONE:
            patch.setattr(count_module, "dedupe", _dedupe_by_hash_alone)
        if bug is Bug.REPLAY_IS_DUPLICATE:
            patch.setattr(count_module, "dedupe", _dedupe_without_coordinates)
        if bug is Bug.ANSWER_CUT_SHORT:
            patch.setattr(count_module, "_cut_short", _never_cut_short)
        if bug is Bug.FORGOTTEN_IS_ZERO:
            patch.setattr(count_module, "_within_limit", _still_loaded)
        if bug is Bug.JUDGED_AT_THE_END:
            patch.setattr(CalendarJudge, "_walk", _walk_at_the_end)
        if bug is Bug.TOTALS_WITHOUT_CORRECTIONS:
            patch.setattr(memory_store_module, "summed", _summed_without_corrections)
        if bug is Bug.CORRECTED_AGAIN:
            patch.setattr(correct_module, "_decided", _decided_by_block)
        if bug is Bug.CORRECTED_BEFORE_COUNTED:
            patch.setattr(correct_module, "_decided", _decided_wherever_the_fact_stands)
        yield


def _dedupe_by_hash_alone(batch: Any, *, hashes: Any, suspects: Any, known: pl.DataFrame, horizon: Any) -> Decision:
    decision = dedupe(batch, hashes=hashes, suspects=suspects, known=known, horizon=horizon)
    is_known = np.isin(hashes[decision.new], known.get_column("identity_hash").to_numpy())
    return Decision(decision.new[~is_known], decision.repeats, decision.replays)


def _dedupe_without_coordinates(
    batch: Any, *, hashes: Any, suspects: Any, known: pl.DataFrame, horizon: Any
) -> Decision:
    elsewhere = known.with_columns(pl.col("offset") + ELSEWHERE)
    decision = dedupe(batch, hashes=hashes, suspects=suspects, known=elsewhere, horizon=horizon)
    back = decision.repeats.with_columns(pl.col("first_offset") % ELSEWHERE)
    return Decision(decision.new, back, decision.replays)


def _never_cut_short(_asked: Any, hashes: Any, _known: Any, *, since: Any) -> Any:
    _ = since
    return np.zeros(len(hashes), dtype=np.bool_)


def _still_loaded(totals: Lanes, loaded: pl.DataFrame, *, rows_max: int) -> tuple[Lanes, pl.DataFrame]:
    return _WITHIN_LIMIT(totals, loaded, rows_max=rows_max)[0], loaded


def _walk_at_the_end(
    self: CalendarJudge, judged: Judged, page: Page, at: int, rows: Any, *, start: int, fired: int
) -> int:
    sums = sums_at(judged, page, at)
    for row in rows[:-1].tolist():
        sums = sums.plus(self.facts.sums(row, judged))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calendar_module, "sums_at", lambda *_: sums)
        return _WALK(self, judged, page, at, rows[-1:], start=start, fired=fired)


def _summed_without_corrections(facts: Iterable[Row], _corrections: Any, *, block_partition: int) -> list[Row]:
    return summed(facts, (), block_partition=block_partition)


def _decided_by_block(before: pl.DataFrame, candidates: pl.DataFrame, *, runs: dict[int, Correction]) -> Corrected:
    apart = {block: run.model_copy(update={"run": f"{run.run} {block}"}) for block, run in runs.items()}
    decided = _DECIDED(before, candidates, runs=apart)
    return replace(decided, corrections=decided.corrections.with_columns(pl.col("run").str.split(" ").list.first()))


def _decided_wherever_the_fact_stands(
    before: pl.DataFrame, candidates: pl.DataFrame, *, runs: dict[int, Correction]
) -> Corrected:
    behind_all = candidates.with_columns(pl.col("block") + ELSEWHERE)
    decided = _DECIDED(before, behind_all, runs={block + ELSEWHERE: run for block, run in runs.items()})
    return replace(decided, corrections=decided.corrections.with_columns(pl.col("correction_block") - ELSEWHERE))


class LastWriteStays(ReplacingTable):
    """A table that does not compare versions."""

    def insert(self, rows: Iterable[Row]) -> None:
        """The last written row stays."""
        for row in rows:
            self._rows[self.key_of(row)] = row


def added(stored: Row, increment: Row) -> Row:
    """A total after an increment: right as long as every increment is written exactly once."""
    lines = {key: values for total in (stored, increment) for key, values in _lines(total).items()}
    both = [key for key in _lines(stored) if key in _lines(increment)]
    for key in both:
        lines[key] = tuple(map(_plus, _lines(stored)[key], _lines(increment)[key]))
    listed = sorted(lines.items())
    amounts = zip(*(values for _, values in listed), strict=True) if listed else ((), (), (), ())
    columns = ([meter for (meter, _), _ in listed], [name for (_, name), _ in listed], *map(list, amounts))
    return {
        **increment,
        **{name: stored[name] + increment[name] for name in SUMS},
        "newest_time": max(stored["newest_time"], increment["newest_time"]),
        **dict(zip(QUANTITY_LISTS, columns, strict=True)),
    }


def _lines(total: Row) -> dict[tuple[str, str], tuple[Any, ...]]:
    meters, names, *amounts = (total[name] for name in QUANTITY_LISTS)
    return dict(zip(zip(meters, names, strict=True), zip(*amounts, strict=True), strict=True))


def _plus(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else one + other
