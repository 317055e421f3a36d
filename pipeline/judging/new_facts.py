"""The new facts of a run as plain columns, computed when they are asked for: what judging looks at, row by row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl

from pipeline.judging.measure import COST, FAILED, QUANTITY, REQUESTS, TOKENS, Sums
from pipeline.judging.page import ORG_SHIFT
from pipeline.judging.wide import counts, exactly, group_sums, taken, wide_of, zeros
from pipeline.judging.window_times import DAY_US, LENGTH_US, starts_of
from schemas.frames import MEMO_METERS
from schemas.rules import Scope

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.judging.measure import Judged
    from pipeline.judging.page import Ids, Keys
    from pipeline.judging.window_times import Grain
    from schemas.frames import PricedBatch

    Rows = NDArray[np.int64]
    Wide = NDArray[np.int64]

#: Before every instant: an org without events has this as its newest.
NEVER: Final = -(1 << 62)

_UNPRICED: Final = "unpriced"


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows that belong together: those of group g are ``rows[firsts[g]:firsts[g + 1]]``, in the order of the log.

    Groups ascend by (start, key). ``known_sums`` are those that were asked for.
    """

    facts: NewFacts
    rows: Rows
    firsts: Rows
    starts: Rows
    keys: Ids
    known_sums: dict[str, Wide] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.firsts)

    def rows_of(self, group: int) -> Rows:
        """The rows of one group."""
        end = self.firsts[group + 1] if group + 1 < len(self.firsts) else len(self.rows)
        return self.rows[self.firsts[group] : end]

    def sums(self, name: str) -> Wide:
        """The sums of one of the facts' columns, by group."""
        if name not in self.known_sums:
            self.known_sums[name] = group_sums(taken(self.facts.column(name), self.rows), self.firsts)
        return self.known_sums[name]

    def spans(self) -> list[tuple[int, slice]]:
        """The groups of each start, as a slice."""
        firsts = firsts_of(self.starts)
        edges = [*firsts.tolist(), len(self.starts)]
        starts = self.starts[firsts].tolist()
        return [(start, slice(*edge)) for start, edge in zip(starts, pairwise(edges), strict=True)]


#: A look into a column of polars takes microseconds; a flood of alerts has many.
LOOKS_FOR_A_LIST: Final = 200


class NewFacts:
    """The new facts of a run. ``newest`` is the time of each org's newest event before them."""

    def __init__(self, facts: PricedBatch, *, keys: Keys, newest: Mapping[str, int]) -> None:
        self.facts = facts
        self.height = facts.events.height
        self._keys = keys
        events = facts.events
        self.times: Rows = events.get_column("time").dt.epoch("us").to_numpy()
        self.orgs = keys.of(events.get_column("org"))
        self._columns: dict[str, Wide] = {}
        self._of_scope: dict[Scope, _OfScope] = {}
        self._looks: Counter[str] = Counter()
        self._listed: dict[str, list[Any]] = {}
        of_org = self._rows_by_key(Scope.ORG)
        orgs = events.get_column("org")[of_org.rows[of_org.firsts]].to_list()
        self.org_texts: dict[int, str] = dict(zip(self.orgs[of_org.rows[of_org.firsts]].tolist(), orgs, strict=True))
        known = np.array([newest.get(org, NEVER) for org in orgs], dtype=np.int64)
        self.newest_before, self.newest_after = newest_around(self.times, known, rows=of_org.rows, firsts=of_org.firsts)
        self._span = (int(self.times.min()), int(self.times.max())) if self.height else (NEVER, NEVER)

    def newest(self) -> dict[str, int]:
        """The newest time of each org that has new facts, after all of them."""
        of_org = self._rows_by_key(Scope.ORG)
        last = of_org.rows[np.append(of_org.firsts[1:], len(of_org.rows)) - 1]
        return dict(zip(self.org_texts.values(), self.newest_after[last].tolist(), strict=True))

    def texts(self, name: str, rows: Rows) -> list[Any]:
        """What these events have in a column."""
        listed = self._often(name)
        return self.facts.events.get_column(name)[rows].to_list() if listed is None else [listed[at] for at in rows]

    def text(self, name: str, row: int) -> Any:  # noqa: ANN401 -- whatever the column holds
        """What one event has in a column."""
        listed = self._often(name)
        return self.facts.events.get_column(name)[row] if listed is None else listed[row]

    def _often(self, name: str) -> list[Any] | None:
        """The whole column as a list, once it was looked into so often that this costs less; before that, nothing."""
        self._looks[name] += 1
        if self._looks[name] == LOOKS_FOR_A_LIST:
            self._listed[name] = self.facts.events.get_column(name).to_list()
        return self._listed.get(name)

    def numbers(self, name: str, rows: Rows) -> list[int]:
        """What these events add to a sum, exactly, in units of 1e-12."""
        low, high = taken(self.column(name), rows).T.tolist()
        return [(h << 64) + (x & 0xFFFF_FFFF_FFFF_FFFF) for x, h in zip(low, high, strict=True)]

    def groups(self, scope: Scope, grain: Grain, *, among: NDArray[np.bool_] | None = None) -> Groups:
        """The rows by window of this grain and scope; ``among`` limits them."""
        own = self._rows_by_key(scope)
        rows, keys, firsts, sums = own.rows, own.keys, own.firsts, own.sums
        if among is not None and not among.all():
            is_among = among[rows]
            rows, keys = rows[is_among], keys[is_among]
            firsts, sums = firsts_of(keys), {}
        if not len(rows):
            return Groups(self, rows, firsts, rows, keys)
        # What is new mostly lies in one window: then groups are those of the scope, and nothing is sorted again.
        first, last = starts_of(grain, np.array(self._span)).tolist()
        if first == last:
            return Groups(self, rows, firsts, np.full(len(firsts), first, dtype=np.int64), keys[firsts], sums)
        starts = starts_of(grain, self.times[rows])
        order = stable_order(starts // LENGTH_US.get(grain, DAY_US))  # of the others, each begins with a day
        rows, keys, starts = rows[order], keys[order], starts[order]
        firsts = firsts_of(keys, starts)
        return Groups(self, rows, firsts, starts[firsts], keys[firsts])

    def _rows_by_key(self, scope: Scope) -> _OfScope:
        if scope not in self._of_scope:
            ids = self.orgs if scope is Scope.ORG else self._keys.of(self.facts.events.get_column(scope.value))
            # In as few bits as there are, so that there is less to sort; the order is that of the keys.
            bits = np.uint64(int(ids.max()).bit_length()) if len(ids) else np.uint64(0)
            rows = stable_order((self.orgs << bits) | ids)
            is_there = ids[rows] != self._keys.absent
            rows = rows if is_there.all() else rows[is_there]
            keys = (self.orgs[rows] << ORG_SHIFT) | ids[rows]
            self._of_scope[scope] = _OfScope(rows, keys, firsts_of(keys), {})
        return self._of_scope[scope]

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
            exactly(self.column(REQUESTS), row),
            exactly(self.column(FAILED), row),
            exactly(self.column(judged.amount), row),
        )

    def rows_of_scopes(self, scope: Scope, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], Rows]:
        """The rows of each of these orgs and scope ids, in the order of the log; none for what has no event here."""
        own = self._rows_by_key(scope)
        orgs, ids = zip(*pairs, strict=True) if pairs else ((), ())
        wanted = self._keys.pairs(pl.Series(orgs, dtype=pl.String), pl.Series(ids, dtype=pl.String))
        firsts, ends = (np.searchsorted(own.keys, wanted, side=side).tolist() for side in ("left", "right"))
        return {pair: own.rows[first:end] for pair, first, end in zip(pairs, firsts, ends, strict=True)}

    def unpriced(self, rows: Rows) -> int:
        """How many of these events are unpriced."""
        return int(self.column(_UNPRICED)[rows, 0].sum() // counts(np.ones(1, dtype=np.bool_))[0, 0])

    def crossing(self, row: int) -> tuple[str, str, int]:
        """Source, id and time of an event."""
        return self.text("source", row), self.text("id", row), int(self.times[row])


class _OfScope(NamedTuple):
    """The rows that have a value for a scope, by key and then in the order of the log; and where a key begins.

    ``sums`` are those by key that were asked for.
    """

    rows: Rows
    keys: Ids
    firsts: Rows
    sums: dict[str, Wide]


def newest_around(times: Rows, known: Rows, *, rows: Rows, firsts: Rows) -> tuple[Rows, Rows]:
    """Per row the newest time of its org right before and right after it.

    ``rows`` are by org, each of which begins at one of ``firsts`` and had the newest time ``known`` before.
    """
    before, after = np.empty_like(times), np.empty_like(times)
    if not len(rows):
        return before, after
    own = times[rows]
    own[firsts] = np.maximum(own[firsts], known)
    lowest = int(own.min())
    span = int(own.max()) - lowest + 1
    if span * len(firsts) < 1 << 62:
        # Lifted above the times of all orgs before it, so that one running maximum serves all.
        lift = np.repeat(np.arange(len(firsts)) * span, np.diff(firsts, append=len(rows)))
        newest = np.maximum.accumulate(own - lowest + lift) - lift + lowest
    else:
        newest = np.concatenate([np.maximum.accumulate(of_org) for of_org in np.split(own, firsts[1:])])
    after[rows] = newest
    before[rows[1:]] = newest[:-1]
    before[rows[firsts]] = known
    return before, after


def stable_order(numbers: NDArray[Any]) -> Rows:
    """The places of integers in ascending order, equal ones as they stand.

    Digit by digit, each of 16 bits: numpy sorts these by counting, several times as fast as it sorts longer numbers.
    """
    order = np.arange(len(numbers))
    if not len(numbers):
        return order
    rest = (numbers - numbers.min()).astype(np.uint64)
    for shift in range(0, int(rest.max()).bit_length(), 16):
        digits = (rest >> np.uint64(shift)).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
    return order


def firsts_of(*columns: NDArray[Any]) -> Rows:
    """Where a value of columns is another than that before it."""
    is_first = np.ones(len(columns[0]), dtype=np.bool_)
    is_first[1:] = False
    for column in columns:
        is_first[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(is_first)


def _is_token() -> pl.Expr:
    """All quantities named ``*_tokens`` that are no memo: a memo repeats a part of another one and has no price."""
    is_memo = pl.col("meter").is_in(sorted(MEMO_METERS)) & (pl.col("name") == "")
    return pl.col("meter").str.ends_with("_tokens") & ~is_memo
