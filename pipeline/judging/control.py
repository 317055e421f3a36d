"""Judging a control block: rules that changed are judged at once, at their place in the log.

Alerts of a rule that was removed or changed end as ``superseded`` while their window lives. A new or changed rule is
judged against the live windows, those that hold the newest event of their org: what is over a limit already fires
there, carried over it by the last event of its window. The block is counted by itself, so everything is as the store
had it before the block.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from pipeline.judging.calendar import answer_column
from pipeline.judging.measure import FAILED, NOTHING, REQUESTS, Judged, Sums, units_of
from pipeline.judging.steps import AskAlerts, AskLastFacts, AskNewest, AskSums, windows_in_parts
from pipeline.judging.turns import AT_CONTROL, Turn
from pipeline.judging.wide import exactly
from pipeline.judging.window_times import Grain, end_of, grain_of, micros, rolling_start, start_of, step_us
from schemas.rules import Rule, Scope, Window

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from pipeline.judging.calendar import Place
    from schemas.alerting import InForce

    #: (org, scope id) → its sums in the live window.
    Live = dict[tuple[str, str], Sums]

#: All times that the store can hold (DateTime64: 1900 to 2299), in microseconds since 1970.
_BEGINNING_US: Final = -2_208_988_800_000_000
_END_US: Final = 10_413_791_999_000_000
#: Only alerts that still fire are of interest, whenever their window began.
_NO_TIME_US: Final = _END_US


@dataclass
class ControlJudge:
    """Judges one control block. ``newest`` is filled in as far as it was needed."""

    place: Place
    newest: dict[str, int] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    _live: dict[tuple[Scope, Window, str, str], Live] = field(default_factory=dict)

    def judge(self, before: InForce, after: InForce) -> Generator[Any, Any, None]:
        """What the block changes."""
        old = {(rule.id, rule.revision): rule for rule in before.rules}
        new = {(rule.id, rule.revision): rule for rule in after.rules}
        ended = [Judged(rule) for key, rule in old.items() if key not in new]
        begun = [Judged(rule) for key, rule in new.items() if key not in old]
        if not ended and not begun:
            return
        newest: pl.DataFrame = yield AskNewest(self.place.partition, self.place.before, None)
        self.newest = dict(newest.select("org", "newest").iter_rows())
        if ended:
            yield from self._supersede(ended)
        for judged in begun:
            yield from self._begin(judged)

    def _supersede(self, ended: Sequence[Judged]) -> Generator[Any, Any, None]:
        alerts: pl.DataFrame = yield AskAlerts(
            self.place.partition,
            self.place.before,
            tuple(judged.key for judged in ended),
            None,
            None,
            since=_NO_TIME_US,
        )
        rules = {judged.key: judged for judged in ended}
        for alert in alerts.filter(pl.col("transition") == "fired").iter_rows(named=True):
            judged = rules[alert["rule"], alert["rule_revision"]]
            org, scope_id = alert["org"], alert["scope_id"]
            limit = judged.limits.index(units_of(alert["threshold"]))
            start = None if alert["window_start"] is None else micros(alert["window_start"])
            if not self._is_live(judged, org, start):
                continue
            live = yield from self._live_of(judged)
            value = yield from self._value(judged, org, live.get((org, scope_id), NOTHING))
            self.turns.append(
                Turn(
                    row=AT_CONTROL,
                    is_of_others=False,
                    transition="superseded",
                    sequence=alert["sequence"] + 1,
                    judged=judged,
                    limit=limit,
                    org=org,
                    scope_id=scope_id,
                    start=start,
                    end=None if alert["window_end"] is None else micros(alert["window_end"]),
                    value=judged.shown(value),
                    highest=False,
                    grain=grain_of(judged.window),
                    seen=self._seen(judged, org),
                    watermark=self.newest[org],
                    crossed=(alert["crossed_source"], alert["crossed_id"], micros(alert["crossed_time"])),
                )
            )

    def _begin(self, judged: Judged) -> Generator[Any, Any, None]:
        live = yield from self._live_of(judged)
        crossed: list[tuple[str, str, int, list[int]]] = []
        for (org, scope_id), sums in sorted(live.items()):
            if not judged.rule.matches(org=org, scope_id=scope_id):
                continue
            value = yield from self._value(judged, org, sums)
            over = [index for index, limit in enumerate(judged.limits) if judged.crosses(value, sums, limit)]
            if over:
                crossed.append((org, scope_id, judged.shown(value), over))
        if not crossed:
            return
        spans = pl.DataFrame(
            [(org, scope_id, *self._span(judged, org)) for org, scope_id, _, _ in crossed],
            schema={"org": pl.String, "id": pl.String, "start": pl.Int64, "end": pl.Int64},
            orient="row",
        )
        last: pl.DataFrame = yield AskLastFacts(self.place.partition, self.place.before, judged.scope, spans)
        events = {(org, scope_id): event for org, scope_id, *event in last.iter_rows()}
        for org, scope_id, value, over in crossed:
            source, event_id, time = events[org, scope_id]
            start, end = self._named_window(judged, org)
            self.turns += [
                Turn(
                    row=AT_CONTROL,
                    is_of_others=False,
                    transition="fired",
                    sequence=1,
                    judged=judged,
                    limit=limit,
                    org=org,
                    scope_id=scope_id,
                    start=start,
                    end=end,
                    value=value,
                    highest=limit == over[-1],
                    grain=grain_of(judged.window),
                    seen=self._seen(judged, org),
                    watermark=self.newest[org],
                    crossed=(source, event_id, time),
                )
                for limit in over
            ]

    def _value(self, judged: Judged, org: str, sums: Sums) -> Generator[Any, Any, Any]:
        org_amount = 0
        if judged.is_share:
            of_org = yield from self._live_of(Judged(_of_org(judged.rule)))
            org_amount = of_org.get((org, org), NOTHING).amount
        start, end = self._span(judged, org)
        elapsed = min(self.newest[org] - start, end - start) if judged.is_projected else 1
        length = end - start if judged.is_projected else 1
        return judged.value(sums, org_amount=org_amount, elapsed_us=elapsed, length_us=length)

    def _live_of(self, judged: Judged) -> Generator[Any, Any, Live]:
        """The sums of every scope in the live windows of the orgs that the rule watches."""
        key = judged.scope, judged.window, judged.rule.org, judged.amount
        if key not in self._live:
            grain = grain_of(judged.window)
            wanted = [
                (org, start)
                for org in sorted(self.newest)
                if judged.rule.watches_org(org)
                for start in self._seen(judged, org)
            ]
            answers: list[pl.DataFrame] = []
            for windows in windows_in_parts(wanted):
                answer: pl.DataFrame = yield AskSums(
                    self.place.partition, self.place.before, judged.scope, grain, windows, sums=(judged.amount,)
                )
                answers.append(answer)
            self._live[key] = _summed(answers, judged)
        return self._live[key]

    def _is_live(self, judged: Judged, org: str, start: int | None) -> bool:
        """Whether an alert's window holds the newest event of its org; a firing rolling alert always lives."""
        if judged.window.is_rolling or start is None:
            return True
        return start == self._seen(judged, org)[0]

    def _seen(self, judged: Judged, org: str) -> tuple[int, ...]:
        grain = grain_of(judged.window)
        last = start_of(grain, self.newest[org])
        if not judged.window.is_rolling:
            return (last,)
        return tuple(range(rolling_start(judged.window, last), last + 1, step_us(judged.window)))

    def _span(self, judged: Judged, org: str) -> tuple[int, int]:
        """The first microsecond of the live window and the first one after it, for all times if it is ``total``."""
        start, end = self._named_window(judged, org)
        return (_BEGINNING_US if start is None else start), (_END_US if end is None else end)

    def _named_window(self, judged: Judged, org: str) -> tuple[int | None, int | None]:
        seen = self._seen(judged, org)
        grain = grain_of(judged.window)
        if grain is Grain.TOTAL:
            return None, None
        return seen[0], end_of(grain, seen[-1])


def _summed(answers: Iterable[pl.DataFrame], judged: Judged) -> Live:
    """The steps of each scope added up."""
    live: Live = {}
    for answer in answers:
        columns = [answer_column(answer, name, (judged.amount,)) for name in (REQUESTS, FAILED, judged.amount)]
        for row, key in enumerate(answer.select("org", "id").iter_rows()):
            added = Sums(*(exactly(column, row) for column in columns))
            live[key] = live.get(key, NOTHING).plus(added)
    return live


def _of_org(rule: Rule) -> Rule:
    """The rule that would watch the org's own cost."""
    return rule.model_copy(update={"scope": Scope.ORG, "measure": "cost"})
