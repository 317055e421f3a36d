"""The questions of judging, answered from plain rows: what ``memory_store.py`` holds, one dictionary per row."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.judging.steps import AlertQuestion, AskAlerts, AskInForce, AskLastFacts, AskNewest, AskSums
from pipeline.judging.window_times import Grain, micros
from schemas.alerting import ALERTS, LAST_FACTS, NEWEST, WINDOW_SUMS, InForce
from schemas.frames import MEMO_METERS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

Row = Mapping[str, Any]


def alert_answer(
    question: AlertQuestion, *, facts: Sequence[Row], alerts: Collection[Row], controls: Collection[Row]
) -> Any:  # noqa: ANN401 -- by the question
    """The answer; ``facts`` are those of the question's partition and blocks before its own, as corrected by then."""
    match question:
        case AskInForce():
            before = _before(controls, question.partition, question.before)
            newest = max(before, key=lambda row: row["block"], default=None)
            return InForce() if newest is None else InForce.from_json(newest["body"])
        case AskNewest():
            return _newest(question, facts)
        case AskSums():
            return _sums(question, facts)
        case AskAlerts():
            return _latest(question, _before(alerts, question.partition, question.before))
        case AskLastFacts():
            return _last(question, facts)


def _before(rows: Collection[Row], partition: int, before: int) -> list[Row]:
    return [row for row in rows if row["block_partition"] == partition and row["block"] < before]


def _newest(question: AskNewest, facts: Sequence[Row]) -> pl.DataFrame:
    newest: dict[str, int] = {}
    for fact in facts:
        if question.orgs is None or fact["org"] in question.orgs:
            newest[fact["org"]] = max(micros(fact["time"]), newest.get(fact["org"], -(1 << 62)))
    return pl.DataFrame(sorted(newest.items()), schema=NEWEST, orient="row")


def _sums(question: AskSums, facts: Sequence[Row]) -> pl.DataFrame:
    wanted = set(question.windows.select("org", "start").iter_rows())
    own: dict[tuple[str, str, int, str], list[Row]] = {}
    for fact in facts:
        start = grain_start(question.grain, fact["time"])
        scope_id = fact[question.scope.value]
        if (fact["org"], start) in wanted and scope_id and (question.ids is None or scope_id in question.ids):
            lane = "" if question.by is None else fact[question.by.value]
            own.setdefault((fact["org"], scope_id, start, lane), []).append(fact)
    rows = [
        (
            *key,
            Decimal(len(group)),
            Decimal(sum(fact["status"] != "ok" for fact in group)),
            Decimal(sum(fact["pricing"] == "unpriced" for fact in group)),
            _added(fact["cost"] for fact in group if fact["cost"] is not None),
            _added(
                quantity
                for fact in group
                for meter, name, quantity in _lines(fact)
                if question.with_tokens and _is_token(meter, name)
            ),
            [
                _added(q for fact in group for meter, _, q in _lines(fact) if meter == wanted)
                for wanted in question.names
            ],
        )
        for key, group in sorted(own.items())
    ]
    return pl.DataFrame(rows, schema=WINDOW_SUMS, orient="row")


def _latest(question: AskAlerts, alerts: Sequence[Row]) -> pl.DataFrame:
    latest: dict[str, Row] = {}
    for alert in sorted(alerts, key=lambda row: row["sequence"]):
        is_asked = (alert["rule"], alert["rule_revision"]) in question.rules
        if is_asked and (question.orgs is None or alert["org"] in question.orgs):
            latest[alert["alert_id"]] = alert
    rows = [
        {name: alert[name] for name in ALERTS} for _, alert in sorted(latest.items()) if _is_wanted(question, alert)
    ]
    return pl.DataFrame(rows, schema=ALERTS)


def _is_wanted(question: AskAlerts, alert: Row) -> bool:
    start = 0 if alert["window_start"] is None else micros(alert["window_start"])
    if question.starts is not None:
        return start in question.starts
    return alert["transition"] == "fired" or start >= question.since


def _last(question: AskLastFacts, facts: Sequence[Row]) -> pl.DataFrame:
    spans = {(org, scope_id): (start, end) for org, scope_id, start, end in question.spans.iter_rows()}
    last: dict[tuple[str, str], Row] = {}
    for fact in sorted(facts, key=lambda row: (row["block"], row["partition"], row["offset"], row["index"])):
        key = fact["org"], fact[question.scope.value]
        start, end = spans.get(key, (0, 0))
        if start <= micros(fact["time"]) < end:
            last[key] = fact
    rows = [(*key, fact["source"], fact["id"], micros(fact["time"])) for key, fact in sorted(last.items())]
    return pl.DataFrame(rows, schema=LAST_FACTS, orient="row")


def grain_start(grain: Grain, time: datetime) -> int:
    """The first microsecond of the grain that holds an instant, by the calendar of Python's datetime."""
    midnight = time.replace(hour=0, minute=0, second=0, microsecond=0)
    match grain:
        case Grain.MINUTE:
            return micros(time.replace(second=0, microsecond=0))
        case Grain.HOUR:
            return micros(time.replace(minute=0, second=0, microsecond=0))
        case Grain.DAY:
            return micros(midnight)
        case Grain.WEEK:
            return micros(midnight - timedelta(days=midnight.weekday()))
        case Grain.MONTH:
            return micros(midnight.replace(day=1))
        case Grain.TOTAL:
            return 0


def _lines(fact: Row) -> list[tuple[str, str, Decimal]]:
    return list(zip(fact["meters"], fact["names"], fact["quantities"], strict=True))


def _is_token(meter: str, name: str) -> bool:
    return meter.endswith("_tokens") and not (meter in MEMO_METERS and not name)


def _added(amounts: Any) -> Decimal:  # noqa: ANN401 -- any iterable of decimals
    with localcontext(prec=76):
        return sum(amounts, Decimal(0))
