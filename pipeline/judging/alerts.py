"""Alerts in full: what stood behind a turn, as a row of ``alerts_rows`` and as a message of ``usage.alerts``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import polars as pl

from pipeline.judging.calendar import answer_column
from pipeline.judging.measure import COST, FAILED, Judged, decimal
from pipeline.judging.new_facts import NEVER
from pipeline.judging.steps import AskSums
from pipeline.judging.turns import AT_CONTROL, Turn
from pipeline.judging.wide import exactly
from pipeline.judging.window_times import Grain, instant, starts_of
from schemas.alerting import ALERTS
from schemas.catalog_values import plain_decimal
from schemas.published import Alert, AlertCompleteness, AlertLane, AlertScope, AlertWindow, CrossingEvent
from schemas.rules import MONEY_MEASURES, Scope, alert_id

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from pipeline.judging.calendar import Place

    Rows = NDArray[np.int64]
    #: Org and scope id.
    Pair = tuple[str, str]

#: By what a scope's value is split, to say who contributes most.
CONTRIBUTORS: Final = {
    Scope.ORG: Scope.PROJECT,
    Scope.PROJECT: Scope.API_KEY,
    Scope.API_KEY: Scope.MODEL,
    Scope.MODEL: Scope.API_KEY,
    Scope.USER: Scope.API_KEY,
    Scope.OPERATION: Scope.PROJECT,
}
TOP_LANES: Final = 5
#: More scopes than this are asked for in several questions.
IDS_PER_QUESTION: Final = 10_000
#: So many turns are written out at once.
TURNS_AT_ONCE: Final = 5_000


class Behind(Protocol):
    """What a run adds to windows, row by row in the order of the log: new facts, or corrections."""

    times: NDArray[np.int64]

    def texts(self, name: str, rows: NDArray[np.int64]) -> list[Any]:
        """What these rows have in a column."""

    def numbers(self, name: str, rows: NDArray[np.int64]) -> list[int]:
        """What these rows add to a sum, in units of 1e-12."""

    def unpriced(self, rows: NDArray[np.int64]) -> int:
        """What these rows add to the number of unpriced events."""

    def rows_of_scopes(self, scope: Scope, pairs: Collection[Pair]) -> dict[Pair, Rows]:
        """The rows of each of these orgs and scope ids, in their order; none for what has no row."""


#: (org, scope id, start) → (amount by lane, unpriced events).
Shares = dict[tuple[str, str, int], tuple[dict[str, int], int]]


def written_out(  # noqa: PLR0913 -- what a run knows
    turns: Sequence[Turn],
    *,
    place: Place,
    facts: Behind | None,
    newest: Mapping[str, int],
    currency: str,
    block: tuple[int, datetime] | None = None,
) -> Generator[Any, Any, pl.DataFrame]:
    """The turns as ALERTS, in their order. ``block`` is the control block's place and time, if it is one."""
    if not turns:
        return pl.DataFrame(schema=ALERTS)
    known = yield from _contributions(turns, place=place, newest=newest)
    rows_of = {} if facts is None else _rows_by_scope(turns, facts)
    return pl.concat(
        pl.DataFrame(
            [
                _row(turn, known=known, facts=facts, rows_of=rows_of, place=place, currency=currency, block=block)
                for turn in some
            ],
            schema=ALERTS,
        )
        for some in _in_parts(sorted(turns, key=lambda turn: turn.order))
    )


def _in_parts(turns: Sequence[Turn]) -> Iterator[Sequence[Turn]]:
    """As rows of dictionaries they are many times as large as in columns: never all of a flood at once."""
    for first in range(0, len(turns), TURNS_AT_ONCE):
        yield turns[first : first + TURNS_AT_ONCE]


def _rows_by_scope(turns: Iterable[Turn], facts: Behind) -> dict[Scope, dict[Pair, Rows]]:
    """The new rows of every scope that has a turn."""
    wanted: dict[Scope, set[Pair]] = {}
    for turn in turns:
        wanted.setdefault(turn.judged.scope, set()).add((turn.org, turn.scope_id))
    return {scope: facts.rows_of_scopes(scope, pairs) for scope, pairs in wanted.items()}


def _contributions(
    turns: Sequence[Turn], *, place: Place, newest: Mapping[str, int]
) -> Generator[Any, Any, dict[tuple[Scope, Grain, str], Shares]]:
    """What the store holds of the windows behind the turns, before the block, split by who contributes."""
    wanted: dict[tuple[Scope, Grain], list[Turn]] = {}
    for turn in turns:
        wanted.setdefault((turn.judged.scope, turn.grain), []).append(turn)
    known: dict[tuple[Scope, Grain, str], Shares] = {}
    for (scope, grain), own in wanted.items():
        amounts = tuple(dict.fromkeys(_split_amount(turn.judged) for turn in own))
        shares: list[Shares] = [known.setdefault((scope, grain, amount), {}) for amount in amounts]
        # A window that begins after everything its org had before holds only new facts.
        windows = {(turn.org, start) for turn in own for start in turn.seen if start <= newest.get(turn.org, NEVER)}
        ids = sorted({turn.scope_id for turn in own})
        if not windows:
            continue
        frame = pl.DataFrame(sorted(windows), schema={"org": pl.String, "start": pl.Int64}, orient="row")
        for first in range(0, len(ids), IDS_PER_QUESTION):
            some = tuple(ids[first : first + IDS_PER_QUESTION])
            # A question costs the store the same for one sum as for several: all rules of these windows share it.
            answer: pl.DataFrame = yield AskSums(
                place.partition, place.before, scope, grain, frame, sums=amounts, ids=some, by=CONTRIBUTORS[scope]
            )
            for amount, own_shares in zip(amounts, shares, strict=True):
                _take(answer, own_shares, amount, among=amounts)
    return known


def _take(answer: pl.DataFrame, shares: Shares, amount: str, *, among: Sequence[str]) -> None:
    amounts = answer_column(answer, amount, among)
    unpriced = answer.get_column("unpriced").to_list()
    for row, (org, scope_id, start, lane) in enumerate(answer.select("org", "id", "start", "lane").iter_rows()):
        lanes, events = shares.get((org, scope_id, start), ({}, 0))
        lanes[lane] = lanes.get(lane, 0) + exactly(amounts, row)
        shares[org, scope_id, start] = lanes, events + int(unpriced[row])


def _split_amount(judged: Judged) -> str:
    """What the contributors are ranked by: failures behind a success rate, cost behind a share or a projection."""
    return FAILED if judged.is_below else COST if judged.is_share else judged.amount


def _row(  # noqa: PLR0913 -- likewise
    turn: Turn,
    *,
    known: Mapping[tuple[Scope, Grain, str], Shares],
    facts: Behind | None,
    rows_of: Mapping[Scope, Mapping[Pair, Rows]],
    place: Place,
    currency: str,
    block: tuple[int, datetime] | None,
) -> dict[str, Any]:
    judged, rule = turn.judged, turn.judged.rule
    lanes, unpriced = _behind(turn, known=known, facts=facts, rows_of=rows_of)
    threshold, percent = judged.limit_of(turn.limit)
    start = None if turn.start is None else instant(turn.start)
    number, recorded_at = block or _block_of(facts, turn.row)
    source, event_id, time_us = turn.crossed
    return {
        "alert_id": alert_id(
            org=turn.org,
            rule=rule.id,
            rule_revision=rule.revision,
            scope=rule.scope,
            scope_id=turn.scope_id,
            window_start=start,
            threshold=threshold,
        ),
        "sequence": turn.sequence,
        "transition": turn.transition,
        "rule": rule.id,
        "rule_revision": rule.revision,
        "org": turn.org,
        "scope": rule.scope.value,
        "scope_id": turn.scope_id,
        "measure": rule.measure,
        "unit": currency if rule.measure in MONEY_MEASURES else "",
        "window": rule.window.value,
        "window_start": start,
        "window_end": None if turn.end is None else instant(turn.end),
        "threshold": threshold,
        "percent": percent,
        "budget": rule.budget,
        "value": decimal(turn.value),
        "highest": turn.highest,
        "crossed_source": source,
        "crossed_id": event_id,
        "crossed_time": instant(time_us),
        "top_kinds": [CONTRIBUTORS[rule.scope].value] * len(lanes),
        "top_ids": [lane for lane, _ in lanes],
        "top_values": [decimal(amount) for _, amount in lanes],
        "unpriced": unpriced,
        "watermark": instant(turn.watermark),
        "method": judged.method,
        "block_partition": place.partition,
        "block": number,
        "recorded_at": recorded_at,
    }


def _behind(
    turn: Turn,
    *,
    known: Mapping[tuple[Scope, Grain, str], Shares],
    facts: Behind | None,
    rows_of: Mapping[Scope, Mapping[Pair, Rows]],
) -> tuple[list[tuple[str, int]], int]:
    """The largest lanes of a turn's window with their amounts, and its unpriced events, up to the turn's event."""
    amount = _split_amount(turn.judged)
    shares = known[turn.judged.scope, turn.grain, amount]
    amounts: dict[str, int] = {}
    unpriced = 0
    for start in turn.seen:
        lanes, events = shares.get((turn.org, turn.scope_id, start), ({}, 0))
        unpriced += events
        for lane, units in lanes.items():
            amounts[lane] = amounts.get(lane, 0) + units
    if facts is not None and turn.row != AT_CONTROL:
        rows = _rows_behind(turn, facts, rows_of[turn.judged.scope][turn.org, turn.scope_id])
        unpriced += facts.unpriced(rows)
        lanes_of = facts.texts(CONTRIBUTORS[turn.judged.scope].value, rows)
        for lane, units in zip(lanes_of, facts.numbers(amount, rows), strict=True):
            amounts[lane] = amounts.get(lane, 0) + units
    top = sorted(
        ((lane, units) for lane, units in amounts.items() if lane and units), key=lambda one: (-one[1], one[0])
    )
    return top[:TOP_LANES], unpriced


def _rows_behind(turn: Turn, facts: Behind, rows: Rows) -> Rows:
    rows = rows[rows <= turn.row]
    starts = starts_of(turn.grain, facts.times[rows])
    is_seen = starts == turn.seen[0] if len(turn.seen) == 1 else np.isin(starts, np.array(turn.seen, dtype=np.int64))
    seen: Rows = rows[is_seen]
    return seen


def _block_of(facts: Behind | None, row: int) -> tuple[int, datetime]:
    assert facts is not None  # noqa: S101 -- a turn without a control block has an event
    return facts.texts("block", np.array([row]))[0], facts.texts("recorded_at", np.array([row]))[0]


def alert_messages(alerts: pl.DataFrame) -> list[tuple[str, bytes]]:
    """The messages of transitions (ALERTS): key and value, as readers of ``usage.alerts`` are promised them."""
    return [(row["alert_id"], _json(alert_of(row))) for row in alerts.iter_rows(named=True)]


def _json(alert: Alert) -> bytes:
    return alert.model_dump_json(by_alias=True, exclude={"method"} if alert.method is None else None).encode()


def alert_of(row: Mapping[str, Any]) -> Alert:
    """The alert of one row of ALERTS."""
    return Alert(
        alert_id=row["alert_id"],
        sequence=row["sequence"],
        transition=row["transition"],
        rule=row["rule"],
        rule_revision=row["rule_revision"],
        org=row["org"],
        scope=AlertScope(kind=row["scope"], id=row["scope_id"]),
        measure=row["measure"],
        unit=row["unit"] or None,
        window=AlertWindow(kind=row["window"], start=_text(row["window_start"]), end=_text(row["window_end"])),
        threshold=plain_decimal(row["threshold"]),
        percent=None if row["percent"] is None else int(row["percent"]),
        budget=None if row["budget"] is None else plain_decimal(row["budget"]),
        value=f"{row['value']:.12f}",
        highest=row["highest"],
        crossed_by=CrossingEvent(
            source=row["crossed_source"], id=row["crossed_id"], time=_micro_text(row["crossed_time"])
        ),
        top=[
            AlertLane(kind=kind, id=lane, value=f"{value:.12f}")
            for kind, lane, value in zip(row["top_kinds"], row["top_ids"], row["top_values"], strict=True)
        ],
        completeness=AlertCompleteness(unpriced=row["unpriced"], watermark=_micro_text(row["watermark"])),
        method=row["method"] or None,
    )


def latest_by_id(messages: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Of several transitions of one alert the last: what ``usage.alerts.state`` keeps."""
    return list(dict(messages).items())


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _micro_text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
