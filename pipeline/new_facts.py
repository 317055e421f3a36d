"""The new facts of a run as plain columns, computed when they are asked for: what judging looks at, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from pipeline.measure import COST, FAILED, QUANTITY, REQUESTS, TOKENS, Sums
from pipeline.wide import counts, exactly, group_sums, wide_of, zeros
from pipeline.window_times import starts_of
from schemas.frames import MEMO_METERS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.measure import Judged
    from pipeline.page import Ids, Keys
    from pipeline.window_times import Grain
    from schemas.frames import PricedBatch
    from schemas.rules import Scope

    Rows = NDArray[np.int64]
    Wide = NDArray[np.int64]

#: Before every instant: an org without events has this as its newest.
NEVER: Final = -(1 << 62)

_UNPRICED: Final = "unpriced"


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows that belong together: those of group g are ``rows[firsts[g]:firsts[g + 1]]``, in the order of the log.

    Groups ascend by (start, key).
    """

    rows: Rows
    firsts: Rows
    starts: Rows
    keys: Ids

    def __len__(self) -> int:
        return len(self.firsts)

    def rows_of(self, group: int) -> Rows:
        """The rows of one group."""
        end = self.firsts[group + 1] if group + 1 < len(self.firsts) else len(self.rows)
        return self.rows[self.firsts[group] : end]

    def sums(self, column: Wide) -> Wide:
        """The sums of a column of all facts, by group."""
        return group_sums(column[self.rows], self.firsts)

    def spans(self) -> list[tuple[int, slice]]:
        """The groups of each start, as a slice."""
        starts, firsts = np.unique(self.starts, return_index=True)
        edges = [*firsts.tolist(), len(self.starts)]
        return [(start, slice(*edge)) for start, edge in zip(starts.tolist(), pairwise(edges), strict=True)]


class NewFacts:
    """The new facts of a run. ``newest`` is the time of each org's newest event before them."""

    def __init__(self, facts: PricedBatch, *, keys: Keys, newest: Mapping[str, int]) -> None:
        self.facts = facts
        self.height = facts.events.height
        self._keys = keys
        events = facts.events
        self.times: Rows = events.get_column("time").dt.epoch("us").to_numpy()
        self.orgs = keys.of(events.get_column("org"))
        self.newest_before, self.newest_after = self._newest(newest)
        self._columns: dict[str, Wide] = {}
        self._scope_keys: dict[Scope, tuple[Ids, NDArray[np.bool_]]] = {}
        self._order: dict[Scope, Rows] = {}
        self._scope_rows: dict[Scope, tuple[Rows, Ids, Rows]] = {}
        self._texts: dict[str, list[Any]] = {}
        self._numbers: dict[str, list[int]] = {}
        orgs = events.get_column("org").unique()
        self.org_texts: dict[int, str] = dict(zip(keys.of(orgs).tolist(), orgs.to_list(), strict=True))

    def _newest(self, newest: Mapping[str, int]) -> tuple[Rows, Rows]:
        """Per row the newest time of its org right before and right after it."""
        events = self.facts.events.select("org", pl.Series("time_us", self.times))
        orgs = events.get_column("org").unique()
        base = pl.DataFrame(
            {"org": orgs, "base": [newest.get(org, NEVER) for org in orgs]}, schema_overrides={"base": pl.Int64}
        )
        after = (
            events.join(base, on="org", how="left", maintain_order="left")
            .select(pl.max_horizontal(pl.col("time_us").cum_max().over("org"), "base").alias("after"), "org", "base")
            .select("after", pl.col("after").shift(1).over("org").fill_null(pl.col("base")).alias("before"))
        )
        return after.get_column("before").to_numpy(), after.get_column("after").to_numpy()

    def newest(self) -> dict[str, int]:
        """The newest time of each org that has new facts, after all of them."""
        frame = self.facts.events.select("org", pl.Series("after", self.newest_after))
        return dict(frame.group_by("org").agg(pl.col("after").max()).iter_rows())

    def texts(self, name: str) -> list[Any]:
        """A column of the events as a list."""
        if name not in self._texts:
            self._texts[name] = self.facts.events.get_column(name).to_list()
        return self._texts[name]

    def numbers(self, name: str) -> list[int]:
        """A column of sums as exact numbers, in units of 1e-12."""
        if name not in self._numbers:
            low, high = self.column(name).T.tolist() if self.height else ([], [])
            self._numbers[name] = [(h << 64) + (x & 0xFFFF_FFFF_FFFF_FFFF) for x, h in zip(low, high, strict=True)]
        return self._numbers[name]

    def keys_of(self, scope: Scope) -> tuple[Ids, NDArray[np.bool_]]:
        """The key of every row, and whether the row has a value for the scope at all."""
        if scope not in self._scope_keys:
            ids = self.facts.events.get_column(scope.value)
            keys = (self.orgs << np.uint64(32)) | self._keys.of(ids)
            self._scope_keys[scope] = keys, (ids != "").to_numpy()
        return self._scope_keys[scope]

    def _by_key(self, scope: Scope) -> Rows:
        """All rows in the order of their keys, those of one key in the order of the log."""
        if scope not in self._order:
            self._order[scope] = np.argsort(self.keys_of(scope)[0], kind="stable")
        return self._order[scope]

    def groups(self, scope: Scope, grain: Grain, *, among: NDArray[np.bool_] | None = None) -> Groups:
        """The rows by window of this grain and scope; ``among`` limits them."""
        rows, keys, firsts = self._of_scope(scope)
        if among is not None and not among.all():
            rows = rows[among[rows]]
            keys = self.keys_of(scope)[0][rows]
            firsts = _firsts(keys)
        if not len(rows):
            return Groups(rows, firsts, rows, keys)
        # What is new mostly lies in one window: then groups are those of the scope, and nothing is sorted again.
        first, last = starts_of(grain, np.array([self.times.min(), self.times.max()])).tolist()
        if first == last:
            return Groups(rows, firsts, np.full(len(firsts), first, dtype=np.int64), keys[firsts])
        starts = starts_of(grain, self.times[rows])
        order = np.argsort(starts, kind="stable")
        rows, keys, starts = rows[order], keys[order], starts[order]
        firsts = _firsts(keys, starts)
        return Groups(rows, firsts, starts[firsts], keys[firsts])

    def _of_scope(self, scope: Scope) -> tuple[Rows, Ids, Rows]:
        """The rows that have a value for the scope, by key; their keys; and where a key begins."""
        if scope not in self._scope_rows:
            keys, is_there = self.keys_of(scope)
            rows = self._by_key(scope)
            rows = rows[is_there[rows]]
            self._scope_rows[scope] = rows, keys[rows], _firsts(keys[rows])
        return self._scope_rows[scope]

    def column(self, name: str) -> Wide:
        """One of the sums that rules are made of, per row."""
        if name not in self._columns:
            self._columns[name] = self._made(name)
        return self._columns[name]

    def _made(self, name: str) -> Wide:
        events = self.facts.events
        if name == REQUESTS:
            return counts(np.ones(self.height, dtype=np.bool_))
        if name == FAILED:
            return counts((events.get_column("status") != "ok").to_numpy())
        if name == _UNPRICED:
            return counts((events.get_column("pricing") == "unpriced").to_numpy())
        if name == COST:
            return wide_of(events.get_column("cost"))
        if name == TOKENS:
            return self._quantities(_is_token())
        return self._quantities(pl.col("meter") == name.removeprefix(QUANTITY))

    def _quantities(self, wanted: pl.Expr) -> Wide:
        facts = self.facts
        kinds = facts.kinds.filter(wanted).get_column("kind")
        lines = facts.lines.filter(pl.col("kind").is_in(kinds.implode()))
        rows = lines.get_column("row").to_numpy().astype(np.int64)
        column = zeros(self.height)
        if len(rows):
            is_first = np.ones(len(rows), dtype=np.bool_)
            is_first[1:] = rows[1:] != rows[:-1]
            firsts = np.flatnonzero(is_first)
            column[rows[firsts]] = group_sums(wide_of(lines.get_column("quantity")), firsts)
        return column

    def sums(self, row: int, judged: Judged) -> Sums:
        """What one event adds."""
        return Sums(
            exactly(self.column(REQUESTS), row), exactly(self.column(FAILED), row), self.numbers(judged.amount)[row]
        )

    def rows_of_scopes(self, scope: Scope, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], Rows]:
        """The rows of each of these orgs and scope ids, in the order of the log; none for what has no event here."""
        rows, keys, _ = self._of_scope(scope)
        orgs, ids = zip(*pairs, strict=True) if pairs else ((), ())
        wanted = self._keys.pairs(pl.Series(orgs, dtype=pl.String), pl.Series(ids, dtype=pl.String))
        firsts, ends = (np.searchsorted(keys, wanted, side=side).tolist() for side in ("left", "right"))
        return {pair: rows[first:end] for pair, first, end in zip(pairs, firsts, ends, strict=True)}

    def unpriced(self, rows: Rows) -> int:
        """How many of these events are unpriced."""
        return int(self.column(_UNPRICED)[rows, 0].sum() // counts(np.ones(1, dtype=np.bool_))[0, 0])

    def crossing(self, row: int) -> tuple[str, str, int]:
        """Source, id and time of an event."""
        return self.texts("source")[row], self.texts("id")[row], int(self.times[row])


def _firsts(*columns: NDArray[Any]) -> Rows:
    """Where a value of sorted columns is another than that before it."""
    is_first = np.ones(len(columns[0]), dtype=np.bool_)
    is_first[1:] = False
    for column in columns:
        is_first[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(is_first)


def _is_token() -> pl.Expr:
    """All quantities named ``*_tokens`` that are no memo: a memo repeats a part of another one and has no price."""
    is_memo = pl.col("meter").is_in(sorted(MEMO_METERS)) & (pl.col("name") == "")
    return pl.col("meter").str.ends_with("_tokens") & ~is_memo
