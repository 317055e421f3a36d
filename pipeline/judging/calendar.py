"""Judging calendar windows: one rule fires once per window and limit, at the event that carries the value over it.

    new facts by window → sums before (memory, or the store as of the block) → candidates by float → the exact walk

The floats only leave out windows that are far from their next limit; whoever comes near is walked through event by
event in whole units of 1e-12, so where blocks or batches were cut changes nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from pipeline.judging.measure import COST, FAILED, QUANTITY, REQUESTS, Judged, Sums, quantity_names, units_of
from pipeline.judging.new_facts import NEVER, firsts_of
from pipeline.judging.page import Page, org_of
from pipeline.judging.steps import AskAlerts, AskSums, windows_in_parts
from pipeline.judging.turns import Turn
from pipeline.judging.wide import approximately, exactly, taken, wide_of
from pipeline.judging.window_times import Grain, end_of
from schemas.rules import Scope

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.judging.memory import JudgeMemory, PageKey, RetractedKey
    from pipeline.judging.new_facts import Groups, NewFacts

    Flags = NDArray[np.bool_]

#: Floats may be off by a few parts in 1e16 per addition: nearer than this to a limit, exact numbers decide.
MARGIN: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the log, and what the questions of this run have in common."""

    partition: int
    before: int


@dataclass
class CalendarJudge:
    """Judges the calendar rules of one run. ``pages`` are those after it; ``memory`` keeps those before."""

    place: Place
    memory: JudgeMemory
    facts: NewFacts
    pages: dict[PageKey, Page]
    retracted: dict[RetractedKey, int]
    turns: list[Turn] = field(default_factory=list)
    _org_costs: dict[tuple[Grain, str, int], tuple[int, list[int], list[int]]] = field(default_factory=dict)
    _org_groups: dict[Grain, Groups] = field(default_factory=dict)

    def judge(self, rules: Sequence[Judged]) -> Generator[Any, Any, None]:
        """All rules; those of one scope and grain look at the same windows."""
        families: dict[tuple[Scope, Grain], list[Judged]] = {}
        for judged in rules:
            grain = Grain(judged.window.value)
            families.setdefault((judged.scope, grain), []).append(judged)
            if judged.is_share:
                families.setdefault((Scope.ORG, grain), [])
        for (scope, grain), own in sorted(families.items(), key=lambda item: item[0][0] is not Scope.ORG):
            shares = [judged for judged in rules if judged.is_share and Grain(judged.window.value) is grain]
            watched = [*own, *shares] if scope is Scope.ORG else own
            yield from self._family(scope, grain, own, watched=watched)

    def _family(
        self, scope: Scope, grain: Grain, rules: Sequence[Judged], *, watched: Sequence[Judged]
    ) -> Generator[Any, Any, None]:
        groups = self.facts.groups(scope, grain, among=orgs_watched(self.facts, watched))
        if scope is Scope.ORG:
            self._org_groups[grain] = groups
        if not len(groups):
            return
        columns = sorted({name for judged in watched for name in judged.columns})
        yield from self._load(scope, grain, groups, rules, columns=columns)
        sums = {name: groups.sums(name) for name in columns}
        for start, span in groups.spans():
            key = scope, grain, start
            page, places = self.pages[key].with_keys(groups.keys[span])
            added = {name: column[span] for name, column in sums.items()}
            after = page.plus(places, added)
            for judged in rules:
                fired = page.flat(_fired(judged), np.int16)
                near = self._near(judged, page, after, places, fired[places], added=added, start=start)
                if not near.any():
                    continue
                fired = fired.copy()
                for candidate in np.flatnonzero(near).tolist():
                    at = places[candidate]
                    rows = groups.rows_of(span.start + candidate)
                    fired[at] = self._walk(judged, page, at, rows, start=start, fired=int(fired[at]))
                after = after.with_column(_fired(judged), fired)
            self.pages[key] = after

    def _load(
        self, scope: Scope, grain: Grain, groups: Groups, rules: Sequence[Judged], *, columns: Sequence[str]
    ) -> Generator[Any, Any, None]:
        """Makes the pages complete for the orgs that are touched: from the store, unless there can be nothing."""
        wanted: list[tuple[str, int]] = []
        for start, span in groups.spans():
            page = self.pages.get((scope, grain, start), Page())
            touched = org_of(groups.keys[span])
            orgs = set(touched[firsts_of(touched)].tolist()) - page.orgs
            for org in orgs:
                text = self.facts.org_texts[org]
                if start <= self.memory.newest.get(text, NEVER):
                    wanted.append((text, start))
            self.pages[scope, grain, start] = page.with_orgs(orgs)
        wanted.sort()
        for windows in windows_in_parts(wanted):
            sums = yield AskSums(self.place.partition, self.place.before, scope, grain, windows, sums=tuple(columns))
            fired = yield from self._fired_before(rules, windows)
            self._put(scope, grain, sums, fired, rules, columns=columns)

    def _fired_before(self, rules: Sequence[Judged], windows: pl.DataFrame) -> Generator[Any, Any, pl.DataFrame | None]:
        if not rules:
            return None
        alerts: pl.DataFrame = yield AskAlerts(
            self.place.partition,
            self.place.before,
            tuple(judged.key for judged in rules),
            tuple(windows.get_column("org").unique().sort()),
            tuple(windows.get_column("start").unique().sort()),
        )
        return alerts

    def _put(  # noqa: PLR0913 -- the answers, and where they belong
        self,
        scope: Scope,
        grain: Grain,
        sums: pl.DataFrame,
        alerts: pl.DataFrame | None,
        rules: Sequence[Judged],
        *,
        columns: Sequence[str],
    ) -> None:
        for (start,), own in sums.group_by("start"):
            page = self.pages[scope, grain, start]
            page = put_sums(page, self.memory, own, columns=columns)
            for judged in rules:
                page = self._with_fired(page, judged, alerts, start=start)
            self.pages[scope, grain, start] = page

    def _with_fired(self, page: Page, judged: Judged, alerts: pl.DataFrame | None, *, start: int) -> Page:
        fired = page.flat(_fired(judged), np.int16)
        if alerts is None or not alerts.height:
            return page.with_column(_fired(judged), fired)
        own = alerts.filter(
            (pl.col("rule") == judged.rule.id)
            & (pl.col("rule_revision") == judged.rule.revision)
            & (pl.col("window_start").dt.epoch("us").fill_null(0) == start)
        )
        if not own.height:
            return page.with_column(_fired(judged), fired)
        self._note_retracted(judged, own, start=start)
        counted = own.filter(pl.col("transition") != "retracted").group_by("org", "scope_id").len()
        places = page.places(self.memory.keys.pairs(counted.get_column("org"), counted.get_column("scope_id")))
        fired = fired.copy()
        here = places >= 0
        fired[places[here]] = counted.get_column("len").to_numpy()[here]
        return page.with_column(_fired(judged), fired)

    def _note_retracted(self, judged: Judged, alerts: pl.DataFrame, *, start: int) -> None:
        """An alert that was retracted may fire again, and counts on."""
        for alert in alerts.filter(pl.col("transition") == "retracted").iter_rows(named=True):
            limit = judged.limits.index(units_of(alert["threshold"]))
            self.retracted[judged.key, alert["org"], alert["scope_id"], start, limit] = alert["sequence"]

    def _near(  # noqa: PLR0913 -- all that a value depends on
        self,
        judged: Judged,
        before: Page,
        after: Page,
        places: NDArray[np.int64],
        fired: NDArray[np.int16],
        *,
        added: Mapping[str, NDArray[np.int64]],
        start: int,
    ) -> Flags:
        """Which windows may have crossed their next limit at some event of this run."""
        limits = np.array(_in_order(judged), dtype=np.float64)
        is_left = fired < len(limits)
        if judged.min_requests:
            is_left &= approximately(taken(after.wide(REQUESTS), places)) >= judged.min_requests
        following = limits[np.minimum(fired, len(limits) - 1)]
        if judged.is_below:
            requests, failed = (approximately(taken(before.wide(name), places)) for name in (REQUESTS, FAILED))
            failed += approximately(added[FAILED])
            most = failed / np.maximum(requests + approximately(added[FAILED]), 1)
            return is_left & (1 - most < following / 1e12 + MARGIN)
        most = approximately(taken(after.wide(judged.amount), places))
        if judged.is_share:
            least = self._org_costs_before(judged, before, places, start)
            return is_left & (most >= following / 1e12 * least * (1 - MARGIN))
        if judged.is_projected:
            length = end_of(Grain(judged.window.value), start) - start
            orgs = org_of(before.keys[places]).tolist()
            newest = [self.memory.newest.get(self.facts.org_texts[org], NEVER) for org in orgs]
            elapsed = np.clip(np.array(newest, dtype=np.float64) - start, length / 10, length)
            most = most * (length / elapsed)
        return is_left & (most >= following * (1 - MARGIN))

    def _org_costs_before(
        self, judged: Judged, page: Page, places: NDArray[np.int64], start: int
    ) -> NDArray[np.float64]:
        """The org's cost before this run behind each of these places; infinite for orgs that the rule doesn't watch."""
        grain = Grain(judged.window.value)
        groups = self._org_groups[grain]
        own = np.flatnonzero(groups.starts == start)
        if not len(own):
            return np.full(len(places), np.inf)
        orgs = org_of(groups.keys[own])
        of_org = self.pages[Scope.ORG, grain, start]
        whole = approximately(of_org.wide(COST)[of_org.places(groups.keys[own])])
        costs = whole - approximately(groups.sums(COST)[own])
        is_watched = [judged.rule.watches_org(self.facts.org_texts[org]) for org in orgs.tolist()]
        # An org that is not watched may not be among the groups at all: no key of it is near anything.
        wanted = org_of(page.keys[places])
        at = np.minimum(np.searchsorted(orgs, wanted), len(orgs) - 1)
        return np.where((orgs[at] == wanted) & np.array(is_watched)[at], costs[at], np.inf)

    def _org_cost(self, grain: Grain, org: int, start: int) -> tuple[int, list[int], list[int]]:
        """The cost of an org in a window before this run, the rows that add to it, and the sums after each."""
        text = self.facts.org_texts[org]
        known = self._org_costs.get((grain, text, start))
        if known is not None:
            return known
        groups = self._org_groups[grain]
        group = int(np.flatnonzero((groups.starts == start) & (org_of(groups.keys) == org))[0])
        rows = groups.rows_of(group)
        costs = self.facts.numbers(COST, rows)
        page = self.pages[Scope.ORG, grain, start]
        whole = exactly(page.wide(COST), int(page.places(groups.keys[group : group + 1])[0]))
        before = whole - sum(costs)
        known = before, rows.tolist(), list(accumulate(costs, initial=before))[1:]
        self._org_costs[grain, text, start] = known
        return known

    def _org_cost_at(self, judged: Judged, org: int, start: int, row: int) -> int:
        if not judged.is_share:
            return 0
        before, rows, sums = self._org_cost(Grain(judged.window.value), org, start)
        at = bisect_right(rows, row)
        return sums[at - 1] if at else before

    def _walk(  # noqa: PLR0913 -- whose window it is, and where it stood
        self, judged: Judged, page: Page, at: int, rows: NDArray[np.int64], *, start: int, fired: int
    ) -> int:
        """Goes through the events of one window, and gives how many limits have fired after them."""
        facts, first = self.facts, int(rows[0])
        org, scope_id = facts.org_texts[int(facts.orgs[first])], facts.text(judged.scope.value, first)
        limits = _in_order(judged)
        if not judged.rule.matches(org=org, scope_id=scope_id):
            return len(limits)
        grain = Grain(judged.window.value)
        end = None if grain is Grain.TOTAL else end_of(grain, start)
        sums = sums_at(judged, page, at)
        org_code = int(facts.orgs[first])
        for row in rows.tolist():
            if fired == len(limits):
                break
            sums = sums.plus(facts.sums(row, judged))
            newest = int(facts.newest_after[row])
            length = 1 if end is None else end - start
            value = judged.value(
                sums,
                org_amount=self._org_cost_at(judged, org_code, start, row),
                elapsed_us=min(newest - start, length),
                length_us=length,
            )
            crossed = fired
            while crossed < len(limits) and judged.crosses(value, sums, limits[crossed]):
                crossed += 1
            if crossed == fired:
                continue
            places = [_place_of(judged, index) for index in range(fired, crossed)]
            self.turns += [
                Turn(
                    row=row,
                    is_of_others=False,
                    transition="fired",
                    sequence=1 + self.retracted.get((judged.key, org, scope_id, start, limit), 0),
                    judged=judged,
                    limit=limit,
                    org=org,
                    scope_id=scope_id,
                    start=None if end is None else start,
                    end=end,
                    value=judged.shown(value),
                    highest=limit == max(places),
                    grain=grain,
                    seen=(start,),
                    watermark=newest,
                    crossed=facts.crossing(row),
                )
                for limit in sorted(places)
            ]
            fired = crossed
        return fired


def orgs_watched(facts: NewFacts, rules: Iterable[Judged]) -> Flags | None:
    """The facts of orgs that one of the rules watches; None when that is all of them."""
    patterns = {judged.rule.org for judged in rules}
    if "*" in patterns:
        return None
    rules = list(rules)
    watched = [code for code, org in facts.org_texts.items() if any(judged.rule.watches_org(org) for judged in rules)]
    return np.isin(facts.orgs, np.array(watched, dtype=np.uint64))


def put_sums(page: Page, memory: JudgeMemory, sums: pl.DataFrame, *, columns: Sequence[str]) -> Page:
    """The page with an answer (WINDOW_SUMS of one start) added to it."""
    keys = memory.keys.pairs(sums.get_column("org"), sums.get_column("id"))
    order = np.argsort(keys)
    page, places = page.with_keys(keys[order])
    return page.plus(places, {name: answer_column(sums, name, columns)[order] for name in columns})


def answer_column(sums: pl.DataFrame, name: str, columns: Sequence[str]) -> NDArray[np.int64]:
    """One of the sums of an answer that was asked for with ``columns``."""
    if not name.startswith(QUANTITY):
        return wide_of(sums.get_column(name))
    place = quantity_names(columns).index(name.removeprefix(QUANTITY))
    return wide_of(sums.get_column("quantities").list.get(place))


def sums_at(judged: Judged, page: Page, at: int) -> Sums:
    """What stands at one place of a page, as far as the rule looks at it."""
    return Sums(*(_at(page, name, at) for name in (REQUESTS, FAILED, judged.amount)))


def _at(page: Page, name: str, at: int) -> int:
    return exactly(page.columns[name], at) if name in page.columns else 0


def _fired(judged: Judged) -> str:
    """The column that counts how many limits of a rule have fired."""
    return f"fired {judged.rule.id} {judged.rule.revision}"


def _in_order(judged: Judged) -> tuple[int, ...]:
    """The limits in the order in which they are crossed."""
    return judged.limits[::-1] if judged.is_below else judged.limits


def _place_of(judged: Judged, nth: int) -> int:
    """The place among all limits of the one that is crossed as the nth."""
    return len(judged.limits) - 1 - nth if judged.is_below else nth
