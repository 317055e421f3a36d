"""The store's tables in memory: what ReplacingMergeTree keeps, and the questions of counting as of a block.

It is not a fast store but a plain one: rows are dictionaries, sums are Python decimals, and nothing is shared with the
stages whose outcome it holds. The executable specification (``replay.py``) and the crash simulator run on it, and the
suite in ``tests/clickhouse`` holds that it behaves as the real store does.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from functools import reduce
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from pipeline.correct import AskStates, InsertCorrections
from pipeline.count import (
    AskIdentities,
    AskKnown,
    AskTotals,
    IdentitiesAnswer,
    InsertFacts,
    InsertRepeats,
    InsertTotals,
    PublishConflicts,
)
from pipeline.judging.steps import AlertQuestion, InsertAlerts, InsertControls, PublishAlerts
from pipeline.memory_alerts import alert_answer
from schemas.alerting import ALERTS
from schemas.counted import CORRECTIONS, COUNTED_EVENTS, FIGURES, KNOWN, LANE, REPEATS, STATES, TOTALS
from schemas.frames import DECIMAL

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable
    from datetime import datetime, timedelta

    from numpy.typing import NDArray

    from pipeline.count import Question, Step
    from schemas.frames import PricedBatch

Row = dict[str, Any]
Schema = Mapping[str, "pl.DataType | type[pl.DataType]"]
Key = tuple[Any, ...]

#: A fact as the store holds it: the event, its place in the log, and its quantities in lists of equal length.
FACTS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **COUNTED_EVENTS,
    "meters": pl.List(pl.String),
    "names": pl.List(pl.String),
    "price_ids": pl.List(pl.String),
    "states": pl.List(pl.String),
    "quantities": pl.List(DECIMAL),
    "costs": pl.List(DECIMAL),
    "identity_hash": pl.UInt64,
}

#: Sums of DECIMAL have more digits than Python's decimals keep by default.
_EXACT: Final = Context(prec=76)

_FACT_KEY: Final = ("org", "time", "source", "id", "received_at")
_ALERT_KEY: Final = ("org", "alert_id", "sequence")
_CONTROL_KEY: Final = ("block_partition", "block")
_CORRECTION_KEY: Final = (*_FACT_KEY, "correction_block")
_REPEAT_KEY: Final = ("org", "topic", "partition", "offset", "index")
_LINE_LISTS: Final = ("meters", "names", "price_ids", "states", "quantities", "costs")


Insert = InsertFacts | InsertRepeats | InsertCorrections | InsertTotals | InsertControls | InsertAlerts


class ReplacingTable:
    """Rows by key: of several with one key the highest version stays, and of equal versions the one written last."""

    def __init__(self, key: tuple[str, ...], *, version: str, lowest_stays: bool = False) -> None:
        self._key = key
        self._version = version
        self._sign = -1 if lowest_stays else 1
        self._rows: dict[Key, Row] = {}

    def insert(self, rows: Iterable[Row]) -> None:
        """Writes rows; a row that is older than what stands at its key changes nothing."""
        for row in rows:
            key = self.key_of(row)
            known = self._rows.get(key)
            if known is None or self._sign * row[self._version] >= self._sign * known[self._version]:
                self._rows[key] = row

    def key_of(self, row: Row) -> Key:
        """What a later row must share to replace this one."""
        return tuple(row[name] for name in self._key)

    def at(self, key: Key) -> Row | None:
        """What a reader sees at a key."""
        return self._rows.get(key)

    def rows(self) -> Collection[Row]:
        """What a reader sees: one row per key."""
        return self._rows.values()


class MemoryStore:
    """Facts, corrections, totals and repeats, written and asked in the terms of ``pipeline/count.py``."""

    def __init__(self) -> None:
        self.facts_rows = ReplacingTable(_FACT_KEY, version="block", lowest_stays=True)
        self.repeats_rows = ReplacingTable(_REPEAT_KEY, version="block", lowest_stays=True)
        self.corrections_rows = ReplacingTable(_CORRECTION_KEY, version="correction_block")
        self.totals_rows = ReplacingTable(LANE, version="version")
        self.alerts_rows = ReplacingTable(_ALERT_KEY, version="block", lowest_stays=True)
        self.control_rows = ReplacingTable(_CONTROL_KEY, version="block")

    def carry_out(self, step: Step) -> Any:  # noqa: ANN401 -- the answer, by the question
        """Answers a question, or does a write and gives None. Publishing is not the store's business."""
        if isinstance(step, AskIdentities | AskKnown | AskStates | AskTotals | AlertQuestion):
            return self.answer(step)
        if not isinstance(step, PublishConflicts | PublishAlerts):
            self.table_of(step).insert(self.rows_of(step))
        return None

    def table_of(self, write: Insert) -> ReplacingTable:
        """Where a write goes."""
        match write:
            case InsertFacts():
                return self.facts_rows
            case InsertRepeats():
                return self.repeats_rows
            case InsertCorrections():
                return self.corrections_rows
            case InsertTotals():
                return self.totals_rows
            case InsertControls():
                return self.control_rows
            case InsertAlerts():
                return self.alerts_rows

    def rows_of(self, write: Insert) -> list[Row]:
        """The rows of a write: of FACTS, REPEATS, CORRECTIONS, TOTALS, CONTROLS or ALERTS."""
        match write:
            case InsertFacts(facts, hashes):
                return fact_rows(facts, hashes)
            case (
                InsertRepeats(rows)
                | InsertCorrections(rows)
                | InsertTotals(rows)
                | InsertControls(rows)
                | InsertAlerts(rows)
            ):
                return rows.rows(named=True)

    def answer(self, question: Question) -> Any:  # noqa: ANN401 -- by the question
        """The answer to a question, as ``pipeline/count.py`` describes it."""
        match question:
            case AskIdentities(partition, before, horizon, limit):
                answer = self.identities_before(partition=partition, before=before, horizon=horizon, limit=limit)
                return IdentitiesAnswer(*answer)
            case AskKnown(partition, before, hashes, orgs, times, since):
                return self.known_facts(
                    partition=partition, before=before, hashes=hashes, orgs=orgs, times=times, settled_since=since
                )
            case AskStates(partition, before, hashes, orgs, times):
                return self.states_before(partition=partition, before=before, hashes=hashes, orgs=orgs, times=times)
            case AskTotals(partition, before, pairs):
                return self.totals_before(partition=partition, before=before, pairs=pairs)
            case _:
                return self.alert_answer(question)

    def alert_answer(self, question: AlertQuestion) -> Any:  # noqa: ANN401 -- by the question
        """The answer to a question of judging, as ``pipeline/judging/steps.py`` describes it."""
        return alert_answer(
            question,
            facts=self._facts_as_of(question.partition, question.before),
            alerts=self.alerts_rows.rows(),
            controls=self.control_rows.rows(),
        )

    def identities_before(
        self, *, partition: int, before: int, horizon: timedelta, limit: int
    ) -> tuple[NDArray[np.uint64], int, datetime | None]:
        """The hashes of the facts of blocks in [covered_from, before) received since, covered_from, and since.

        Since is the newest receipt minus the horizon, None when there is no fact. Newest blocks first, up to
        ``limit``; covered_from is 0 when nothing received since is left out.
        """
        facts = sorted(self._facts_before(partition, before), key=lambda fact: -fact["block"])
        if not facts:
            return np.empty(0, dtype=np.uint64), 0, None
        covered_from = 0
        if len(facts) > limit:
            covered_from = min((fact["block"] for fact in facts[:limit]), default=before - 1) + 1
        since = max(fact["received_at"] for fact in facts) - horizon
        hashes = [
            fact["identity_hash"] for fact in facts if fact["block"] >= covered_from and fact["received_at"] >= since
        ]
        return np.array(hashes, dtype=np.uint64), covered_from, since

    def known_facts(  # noqa: PLR0913 -- the question's own six parts
        self,
        *,
        partition: int,
        before: int,
        hashes: NDArray[np.uint64],
        orgs: pl.Series,
        times: pl.Series,
        settled_since: datetime | None,
    ) -> pl.DataFrame:
        """The facts (KNOWN) of blocks < ``before`` with one of these hashes.

        Like the real store it looks at the orgs and times of the events first, and everywhere only for hashes that
        no fact received at or after ``settled_since`` answers there.
        """
        asked = set(hashes.tolist())
        facts = [fact for fact in self._facts_before(partition, before) if fact["identity_hash"] in asked]
        near_orgs, near_times = set(orgs.to_list()), set(times.to_list())
        near = [fact for fact in facts if fact["org"] in near_orgs and fact["time"] in near_times]
        settled = {
            fact["identity_hash"] for fact in near if settled_since is None or fact["received_at"] >= settled_since
        }
        far = [fact for fact in facts if fact["identity_hash"] not in settled]
        answer = {id(fact): fact for fact in (*near, *far)}
        return self.frame(sorted(answer.values(), key=_in_log_order), KNOWN)

    def states_before(
        self, *, partition: int, before: int, hashes: NDArray[np.uint64], orgs: pl.Series, times: pl.Series
    ) -> pl.DataFrame:
        """The facts with one of these hashes and their corrections, of blocks < ``before`` (STATES), by revision.

        Like the real store it looks at the orgs and times of the events first, and elsewhere for what is not there.
        """
        asked = set(hashes.tolist())
        facts = [fact for fact in self._facts_before(partition, before) if fact["identity_hash"] in asked]
        near_orgs, near_times = set(orgs.to_list()), set(times.to_list())
        near = [fact for fact in facts if fact["org"] in near_orgs and fact["time"] in near_times]
        answered = {fact["identity_hash"] for fact in near}
        found = [*near, *(fact for fact in facts if fact["identity_hash"] not in answered)]
        keys = {self.facts_rows.key_of(fact) for fact in found}
        corrections = [
            row for row in self._corrections_before(partition, before) if self.facts_rows.key_of(row) in keys
        ]
        states = [*map(as_state, sorted(found, key=_in_log_order)), *sorted(corrections, key=_in_order_of_corrections)]
        return self.frame(states, STATES)

    def totals_before(self, *, partition: int, before: int, pairs: pl.DataFrame) -> pl.DataFrame:
        """The totals (TOTALS) of these (org, hour) pairs as they were before block ``before``.

        A pair with a row of a later version is summed up anew from the facts and corrections of the blocks before.
        """
        return self.totals_of(set(pairs.select("org", "hour").rows()), partition=partition, before=before)

    def totals_of(self, asked: Container[tuple[str, datetime]], *, partition: int, before: int) -> pl.DataFrame:
        """``totals_before`` for (org, hour) pairs that are no frame."""
        stood = [total for total in self.totals_rows.rows() if (total["org"], total["hour"]) in asked]
        ahead = {(total["org"], total["hour"]) for total in stood if total["version"] >= before}
        facts = [fact for fact in self._facts_before(partition, before) if (fact["org"], _hour(fact)) in ahead]
        corrections = [row for row in self._corrections_before(partition, before) if (row["org"], _hour(row)) in ahead]
        rebuilt = summed(facts, corrections, block_partition=partition)
        rows = [*(row for row in stood if (row["org"], row["hour"]) not in ahead), *rebuilt]
        return self.frame(sorted(rows, key=_lane), TOTALS)

    def newest_block(self, *, partition: int) -> int | None:
        """The highest block of a partition that left a fact; None when there is none."""
        blocks = [fact["block"] for fact in self.facts_rows.rows() if fact["block_partition"] == partition]
        return max(blocks, default=None)

    def insert_facts(self, facts: PricedBatch, hashes: NDArray[np.uint64]) -> None:
        """Writes new facts; the same facts again replace themselves."""
        self.carry_out(InsertFacts(facts, hashes))

    def insert_repeats(self, repeats: pl.DataFrame) -> None:
        """Writes repeats (REPEATS)."""
        self.carry_out(InsertRepeats(repeats))

    def insert_totals(self, totals: pl.DataFrame) -> None:
        """Writes absolute totals (TOTALS) at their version."""
        self.carry_out(InsertTotals(totals))

    def facts(self) -> pl.DataFrame:
        """All facts (FACTS) as their last corrections left them, by raw coordinates."""
        return self.frame(self.facts_now(), FACTS).sort("topic", "partition", "offset", "index")

    def facts_now(self) -> list[Row]:
        """All facts as rows of FACTS, as their last corrections left them."""
        return with_corrections(self.facts_rows.rows(), self.corrections_rows.rows())

    def repeats(self) -> pl.DataFrame:
        """All repeats (REPEATS), by raw coordinates."""
        return self.frame(self.repeats_rows.rows(), REPEATS).sort("topic", "partition", "offset", "index")

    def corrections(self) -> pl.DataFrame:
        """All corrections (CORRECTIONS), by raw coordinates and revision."""
        rows = self.frame(self.corrections_rows.rows(), CORRECTIONS)
        return rows.sort("topic", "partition", "offset", "index", "revision")

    def totals(self) -> pl.DataFrame:
        """All totals (TOTALS), by lane."""
        return self.frame(self.totals_rows.rows(), TOTALS).sort(LANE)

    def alerts(self) -> pl.DataFrame:
        """All transitions of alerts (ALERTS), by org, alert id and sequence."""
        return self.frame(self.alerts_rows.rows(), ALERTS).sort(_ALERT_KEY)

    def frame(self, rows: Iterable[Row], schema: Schema) -> pl.DataFrame:
        """Rows as a frame of these columns."""
        return pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=dict(schema))

    def _facts_before(self, partition: int, before: int) -> list[Row]:
        return [
            fact for fact in self.facts_rows.rows() if fact["block_partition"] == partition and fact["block"] < before
        ]

    def _facts_as_of(self, partition: int, before: int) -> list[Row]:
        return with_corrections(self._facts_before(partition, before), self._corrections_before(partition, before))

    def _corrections_before(self, partition: int, before: int) -> list[Row]:
        return [
            row
            for row in self.corrections_rows.rows()
            if row["block_partition"] == partition and row["correction_block"] < before
        ]


def as_state(fact: Row) -> Row:
    """A fact (FACTS) as one of STATES, uncorrected."""
    words = zip(*(fact[name] for name in ("meters", "names", "price_ids", "states")), strict=True)
    lines = "\n".join(map("\t".join, words))
    return {**{name: fact[name] for name in STATES if name in fact}, "lines": lines, "revision": 0, "run": ""}


def newest_corrections(corrections: Iterable[Row]) -> dict[Key, Row]:
    """The last correction of each corrected fact, by the fact's key."""
    return {
        tuple(correction[name] for name in _FACT_KEY): correction
        for correction in sorted(corrections, key=_in_order_of_corrections)
    }


def with_corrections(facts: Collection[Row], corrections: Collection[Row]) -> list[Row]:
    """The facts (FACTS) as the last of these corrections (CORRECTIONS) left them."""
    newest = newest_corrections(corrections)
    keys = [tuple(fact[name] for name in _FACT_KEY) for fact in facts]
    return [corrected(fact, newest[key]) if key in newest else fact for key, fact in zip(keys, facts, strict=True)]


def corrected(fact: Row, correction: Row) -> Row:
    """The fact (FACTS) with the figures of a correction (CORRECTIONS)."""
    return {**fact, **_with_lists({name: correction[name] for name in FIGURES})}


def _with_lists(figures: Row) -> Row:
    """FIGURES with the words of their lines in lists, as FACTS has them."""
    words = [line.split("\t") for line in figures["lines"].split("\n")] if figures["lines"] else []
    names = ("meters", "names", "price_ids", "states")
    return {
        **{name: figures[name] for name in ("cost", "pricing", "quantities", "costs")},
        **{name: [word[place] for word in words] for place, name in enumerate(names)},
    }


def fact_rows(facts: PricedBatch, hashes: NDArray[np.uint64]) -> list[Row]:
    """The facts as rows of FACTS."""
    kinds = {kind: words for kind, *words in facts.kinds.select("kind", "meter", "name", "price_id", "state").rows()}
    lists: list[dict[str, list[Any]]] = [{name: [] for name in _LINE_LISTS} for _ in range(facts.events.height)]
    for row, kind, quantity, cost in facts.lines.select("row", "kind", "quantity", "cost").rows():
        for name, value in zip(_LINE_LISTS, (*kinds[kind], quantity, cost), strict=True):
            lists[row][name].append(value)
    return [
        {**event, **line_lists, "identity_hash": identity_hash}
        for event, line_lists, identity_hash in zip(
            facts.events.iter_rows(named=True), lists, hashes.tolist(), strict=True
        )
    ]


def _in_log_order(fact: Row) -> Key:
    return fact["block"], fact["partition"], fact["offset"], fact["index"]


def _in_order_of_corrections(correction: Row) -> Key:
    return correction["correction_block"], *_in_log_order(correction)


def _lane(total: Row) -> Key:
    return tuple(total[name] for name in LANE)


def _hour(fact: Mapping[str, Any]) -> datetime:
    time: datetime = fact["time"]
    return time.replace(minute=0, second=0, microsecond=0)


def summed(facts: Iterable[Row], corrections: Iterable[Row], *, block_partition: int) -> list[Row]:
    """The totals of these facts as these corrections left them; a total's version is its newest row's block."""
    newest = newest_corrections(corrections)
    lanes: dict[Key, list[Row]] = {}
    versions: dict[Key, int] = {}
    for fact in facts:
        lane = tuple(_hour(fact) if name == "hour" else fact[name] for name in LANE)
        correction = newest.get(tuple(fact[name] for name in _FACT_KEY))
        lanes.setdefault(lane, []).append(corrected(fact, correction) if correction else fact)
        block = correction["correction_block"] if correction else fact["block"]
        versions[lane] = max(block, versions.get(lane, 0))
    return [
        {
            **dict(zip(LANE, lane, strict=True)),
            "requests": len(own),
            "ok": sum(fact["status"] == "ok" for fact in own),
            "failed": sum(fact["status"] != "ok" for fact in own),
            "unpriced": sum(fact["pricing"] == "unpriced" for fact in own),
            "cost": _sum(fact["cost"] for fact in own),
            "failed_cost": _sum(fact["cost"] for fact in own if fact["status"] != "ok"),
            "newest_time": max(fact["time"] for fact in own),
            **_quantity_lists(own),
            "block_partition": block_partition,
            "version": versions[lane],
        }
        for lane, own in lanes.items()
    ]


def _quantity_lists(facts: Iterable[Row]) -> dict[str, list[Any]]:
    lines: dict[tuple[str, str], list[tuple[str, Decimal, Decimal | None]]] = {}
    for fact in facts:
        for meter, name, _, state, quantity, cost in zip(*(fact[name] for name in _LINE_LISTS), strict=True):
            lines.setdefault((meter, name), []).append((state, quantity, cost))
    listed = sorted(lines.items())
    return {
        "meters": [meter for (meter, _), _ in listed],
        "names": [name for (_, name), _ in listed],
        "quantities": [_sum(quantity for _, quantity, _ in own) for _, own in listed],
        "billed_quantities": [_sum(quantity for state, quantity, _ in own if state == "billed") for _, own in listed],
        "costs": [
            _sum(cost for *_, cost in own) if any(cost is not None for *_, cost in own) else None for _, own in listed
        ],
        "unpriced_events": [sum(state == "unpriced" for state, *_ in own) for _, own in listed],
        "events": [len(own) for _, own in listed],
    }


def _sum(amounts: Iterable[Decimal | None]) -> Decimal:
    return reduce(_EXACT.add, (amount for amount in amounts if amount is not None), Decimal(0))
