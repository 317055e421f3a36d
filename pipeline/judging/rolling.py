"""Judging rolling windows: a state per rule, scope and limit that fires, stays silent, and is resolved.

A window is the last N steps of event time and ends with the step of its org's newest event. Steps are kept apart, so
a window's value is a sum over pages. Who is certainly under all limits (an upper bound that only grows, set right
whenever it comes near) is not looked at, nor who fires and certainly goes on. Everyone else is walked through event by
event in exact numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from pipeline.judging.calendar import MARGIN, orgs_watched, put_sums, sums_at
from pipeline.judging.measure import COST, NOTHING, RESOLVED_UNDER_PERCENT, Judged, Sums, units_of
from pipeline.judging.memory import Rolling, RollingState
from pipeline.judging.new_facts import NEVER
from pipeline.judging.page import Page, org_of
from pipeline.judging.steps import AskAlerts, AskSums, windows_in_parts
from pipeline.judging.turns import Turn
from pipeline.judging.wide import approximately, exactly, taken
from pipeline.judging.window_times import (
    LENGTH_US,
    Grain,
    grain_of,
    micros,
    rolling_start,
    start_of,
    starts_of,
    step_us,
)
from schemas.rules import Scope

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.judging.calendar import Place
    from pipeline.judging.memory import JudgeMemory, RollingStates
    from pipeline.judging.new_facts import Groups, NewFacts
    from pipeline.judging.page import Ids, Places

Family = tuple[Scope, Grain]
#: Of one rule and scope, by the index of the limit.
States = dict[int, RollingState]
_UPPER: Final = "at most "
_NO_KEYS: Final = np.zeros(0, dtype=np.uint64)


@dataclass
class RunningWindow:
    """The sums of the last ``length`` steps, as steps are added to and the window moves on."""

    step_us: int
    length: int
    steps: dict[int, Sums] = field(default_factory=dict)
    _last: int = NEVER
    _sums: Sums = NOTHING

    def add(self, step: int, added: Sums) -> None:
        """One more event."""
        self.steps[step] = self.steps.get(step, NOTHING).plus(added)
        if self._last - (self.length - 1) * self.step_us <= step <= self._last:
            self._sums = self._sums.plus(added)

    def ending_with(self, last: int) -> Sums:
        """The sums of the window whose last step is ``last``."""
        if last != self._last:
            self._last = last
            first = last - (self.length - 1) * self.step_us
            self._sums = NOTHING
            for step, sums in self.steps.items():
                if first <= step <= last:
                    self._sums = self._sums.plus(sums)
        return self._sums


@dataclass
class RollingJudge:
    """Judges the rolling rules of one run. ``rolling`` is what is remembered after it, ``memory`` keeps what was."""

    place: Place
    memory: JudgeMemory
    facts: NewFacts
    rolling: dict[Family, Rolling]
    turns: list[Turn] = field(default_factory=list)
    _before: dict[Family, Rolling] = field(default_factory=dict)
    _rows_of_org: dict[str, list[int]] = field(default_factory=dict)

    def judge(self, rules: Sequence[Judged]) -> Generator[Any, Any, None]:
        """All rules; those of one scope and grain share their steps."""
        families: dict[Family, list[Judged]] = {}
        for judged in rules:
            families.setdefault((judged.scope, grain_of(judged.window)), []).append(judged)
        watched = {family: list(own) for family, own in families.items()}
        for judged in rules:
            if judged.is_share:
                watched.setdefault((Scope.ORG, grain_of(judged.window)), []).append(judged)
        for family in sorted(watched, key=lambda family: family[0] is not Scope.ORG):
            yield from self._family(family, families.get(family, []), watched=watched[family])

    def _family(
        self, family: Family, rules: Sequence[Judged], *, watched: Sequence[Judged]
    ) -> Generator[Any, Any, None]:
        scope, grain = family
        columns = sorted({name for judged in watched for name in judged.columns})
        length = max(judged.window.steps for judged in watched)
        among = orgs_watched(self.facts, watched)
        yield from self._load(family, rules, among=among, columns=columns, length=length)
        before = self._before[family]
        groups = self.facts.groups(scope, grain, among=self._within_reach(grain, length, among))
        steps = dict(before.steps)
        for step, span in groups.spans():
            page, places = steps.get(step, Page()).with_keys(groups.keys[span])
            steps[step] = page.plus(places, {name: groups.sums(name)[span] for name in columns})
        everyone = self.facts.groups(scope, Grain.TOTAL, among=among)
        keys = everyone.keys
        bounds, places_in = dict(before.bounds), {}
        for window, amount in dict.fromkeys((judged.window, judged.amount) for judged in rules):
            added = approximately(everyone.sums(amount))
            bounds[window], places_in[window] = _raised(bounds.get(window, Page()), keys, amount, added)
        # Every rule is judged by the raised bounds: what a walk sets them to is true at the end of the run only.
        raised = dict(bounds)
        states = dict(before.states)
        for judged in rules:
            column = raised[judged.window].columns[_UPPER + judged.amount]
            near = keys[column[places_in[judged.window]] >= self._least(judged, keys)]
            walked = self._walk_all(judged, family, groups, raised[judged.window], near)
            bounds[judged.window] = _set_right(bounds[judged.window], judged.amount, walked)
            states[judged.key] = walked.states
        self.rolling[family] = self._pruned(replace(before, steps=steps, bounds=bounds, states=states), grain, length)

    # What was there before.

    def _load(
        self,
        family: Family,
        rules: Sequence[Judged],
        *,
        among: NDArray[np.bool_] | None,
        columns: Sequence[str],
        length: int,
    ) -> Generator[Any, Any, None]:
        rolling = self.rolling.get(family, Rolling())
        texts = self.facts.org_texts
        codes = texts if among is None else self.facts.orgs[among].tolist()
        missing = sorted({texts[code] for code in codes} - rolling.orgs)
        known = [org for org in missing if org in self.memory.newest]
        rolling = yield from load_rolling(
            rolling, self.place, self.memory, family, known, rules=rules, columns=columns, length=length
        )
        self._before[family] = replace(rolling, orgs=rolling.orgs.union(missing))

    def _within_reach(self, grain: Grain, length: int, among: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """The facts that any window still to come may hold; None when that is all of them."""
        facts = self.facts
        if facts.times.min() >= start_of(grain, int(facts.newest_after.max())) - (length - 1) * LENGTH_US[grain]:
            return among
        oldest = starts_of(grain, facts.newest_after) - (length - 1) * LENGTH_US[grain]
        is_near: NDArray[np.bool_] = facts.times >= oldest
        return is_near if among is None else is_near & among

    # The walk.

    def _walk_all(self, judged: Judged, family: Family, groups: Groups, page: Page, near: Ids) -> _Walked:
        """Walks through the scopes that are near a limit, or fire; gives what they hold and all states after it."""
        before = self._before[family].states.get(judged.key, {})
        known = self._known(before)
        firing = sorted(scope for scope, own in known.items() if any(state.is_firing for state in own.values()))
        keys = self.memory.keys.pairs(*_columns(firing))
        is_calm = self._calm(judged, family, page, keys, [(org, known[org, scope_id]) for org, scope_id in firing])
        restless = [scope for scope, calm in zip(firing, is_calm.tolist(), strict=True) if not calm]
        wanted = np.union1d(np.setdiff1d(near, keys[is_calm]), keys[~is_calm])
        if not len(wanted):
            return _Walked(_NO_KEYS, np.zeros(0), before)
        rows_of: dict[tuple[str, str], list[int]] = {}
        for group in np.flatnonzero(np.isin(groups.keys, wanted)).tolist():
            rows = groups.rows_of(group).tolist()
            org, scope_id = self.facts.text("org", rows[0]), self.facts.text(judged.scope.value, rows[0])
            rows_of.setdefault((org, scope_id), []).extend(rows)
        scopes = sorted(
            scope for scope in {*rows_of, *restless} if judged.rule.matches(org=scope[0], scope_id=scope[1])
        )
        keys = self.memory.keys.pairs(*_columns(scopes))
        places = {step: held.places(keys).tolist() for step, held in self._before[family].steps.items()}
        states = {org: dict(of_org) for org, of_org in before.items()}
        amounts = np.zeros(len(scopes))
        for number, (org, scope_id) in enumerate(scopes):
            own = known.get((org, scope_id), {})
            running = self._running(judged, family, org, {step: at[number] for step, at in places.items()})
            rows = sorted(rows_of.get((org, scope_id), []))
            amount, after = self._walk(judged, family, running, org=org, scope_id=scope_id, own=rows, states=dict(own))
            amounts[number] = float(amount)
            of_org = states.setdefault(org, {})
            for index in own:
                del of_org[scope_id, index]
            of_org.update({(scope_id, index): state for index, state in after.items()})
        return _Walked(keys, amounts, {org: of_org for org, of_org in states.items() if of_org})

    def _known(self, states: RollingStates) -> dict[tuple[str, str], States]:
        """The states by scope, of orgs that have new facts."""
        known: dict[tuple[str, str], States] = {}
        for org in self.facts.org_texts.values():
            for (scope_id, index), state in states.get(org, {}).items():
                known.setdefault((org, scope_id), {})[index] = state
        return known

    def _calm(
        self,
        judged: Judged,
        family: Family,
        page: Page,
        keys: Ids,
        firing: Sequence[tuple[str, States]],
    ) -> NDArray[np.bool_]:
        """Which firing scopes (org and states, with these keys) surely stay as they are, whatever the run does to them.

        No window of the run holds less than the steps that all of them share, nor more than its bound; so nothing is
        resolved whose limit is under the one, and nothing fires whose limit is above the other.
        """
        if judged.is_below or judged.is_share or not firing:
            return np.zeros(len(firing), dtype=np.bool_)
        steps, size = self._before[family].steps, step_us(judged.window)
        least = np.zeros(len(firing))
        of_span: dict[tuple[int, int], list[int]] = {}
        for place, (org, _) in enumerate(firing):
            of_span.setdefault(self._shared_steps(judged, org), []).append(place)
        for (first, last), own in of_span.items():
            rows = np.array(own)
            for held in (steps[step] for step in range(first, last + 1, size) if step in steps):
                at = held.places(keys[rows])
                is_there = at >= 0
                least[rows[is_there]] += approximately(taken(held.wide(judged.amount), at[is_there]))
        at = page.places(keys)
        most = np.where(at >= 0, page.flat(_UPPER + judged.amount, np.float64)[np.maximum(at, 0)], np.inf)
        resolving, following = np.empty(len(firing)), np.empty(len(firing))
        for place, (_, states) in enumerate(firing):
            is_firing = [(index in states) and states[index].is_firing for index in range(len(judged.limits))]
            limits = list(zip(judged.limits, is_firing, strict=True))
            resolving[place] = max(limit for limit, fires in limits if fires) * RESOLVED_UNDER_PERCENT / 100
            following[place] = min((limit for limit, fires in limits if not fires), default=np.inf)
        return (least * (1 - MARGIN) >= resolving) & (most < following * (1 - MARGIN))

    def _shared_steps(self, judged: Judged, org: str) -> tuple[int, int]:
        """The first and the last step that all windows of an org in this run share; if none, the first is later."""
        rows = self._rows(org)
        grain = grain_of(judged.window)
        first = start_of(grain, max(self.memory.newest.get(org, NEVER), int(self.facts.newest_after[rows[0]])))
        last = start_of(grain, int(self.facts.newest_after[rows[-1]]))
        return rolling_start(judged.window, last), first

    def _least(self, judged: Judged, keys: NDArray[np.uint64]) -> float | NDArray[np.float64]:
        """The least amount that could cross a limit, a little less than exactly."""
        if judged.is_below:
            # So many of the fewest requests that count must have failed.
            least = (10**12 - judged.limits[-1]) / 1e12 * max(judged.min_requests, 10**12)
            return least * (1 - MARGIN)
        if judged.is_share:
            shares = {code: self._org_least(judged, text) for code, text in self.facts.org_texts.items()}
            floor = np.array([shares[org] for org in org_of(keys).tolist()])
            return judged.limits[0] / 1e12 * floor * (1 - MARGIN)
        return judged.limits[0] * (1 - MARGIN)

    def _org_least(self, judged: Judged, org: str) -> float:
        """The least cost that the org can have in a window of this run: that of the steps which all windows share."""
        first, last = self._shared_steps(judged, org)
        steps = self._before[Scope.ORG, grain_of(judged.window)].steps
        key = self.memory.keys.pairs(*_columns([(org, org)]))
        whole = 0
        for step in range(first, last + 1, step_us(judged.window)):
            page = steps.get(step)
            at = -1 if page is None else int(page.places(key)[0])
            if page is not None and at >= 0:
                whole += exactly(page.wide(COST), at)
        return float(whole)

    def _rows(self, org: str) -> list[int]:
        """All new facts of an org, in the order of the log."""
        if org not in self._rows_of_org:
            self._rows_of_org[org] = self.facts.rows_of_scopes(Scope.ORG, [(org, org)])[org, org].tolist()
        return self._rows_of_org[org]

    def _walk(  # noqa: PLR0913 -- whose window it is
        self,
        judged: Judged,
        family: Family,
        running: RunningWindow,
        *,
        org: str,
        scope_id: str,
        own: list[int],
        states: States,
    ) -> tuple[int, States]:
        """Goes through what happens to one scope; gives what its window holds at the end, and its states."""
        facts, window = self.facts, judged.window
        newest = self.memory.newest.get(org, NEVER)
        of_org = self._running_of_org(judged, org) if judged.is_share else None
        size = step_us(window)
        is_own = set(own)
        last = newest
        for row in self._rows(org) if of_org is not None else self._told(org, own, size):
            step = int(facts.times[row]) // size * size
            before, last = int(facts.newest_before[row]), int(facts.newest_after[row])
            if of_org is not None:
                of_org.add(step, facts.sums(row, judged))
            if row in is_own:
                running.add(step, facts.sums(row, judged))
            is_moved = before // size != last // size
            is_late = int(facts.times[row]) < before
            is_of_others = row not in is_own
            is_told = any(state.is_firing for state in states.values()) if is_of_others else not is_late
            if is_told and (is_moved or not is_of_others):
                self._evaluate(
                    judged, row, running, of_org, scope=(org, scope_id), states=states, is_of_others=is_of_others
                )
        if last == NEVER:
            return 0, states
        end = start_of(family[1], last)
        at_end = rolling_start(window, end)
        kept = {index: state for index, state in states.items() if state.is_firing or state.start >= at_end}
        return running.ending_with(end).amount, kept

    def _told(self, org: str, own: list[int], size: int) -> list[int]:
        """The rows that matter to a scope: its own, and those that move its org's window on."""
        facts = self.facts
        rows = self._rows(org)
        if len(rows) == len(own):
            return own
        at = np.array(rows)
        moved = at[facts.newest_before[at] // size != facts.newest_after[at] // size]
        return sorted({*own, *moved.tolist()})

    def _evaluate(  # noqa: PLR0913 -- the state of one scope
        self,
        judged: Judged,
        row: int,
        running: RunningWindow,
        of_org: RunningWindow | None,
        *,
        scope: tuple[str, str],
        states: States,
        is_of_others: bool,
    ) -> None:
        facts, window = self.facts, judged.window
        newest = int(facts.newest_after[row])
        grain = grain_of(window)
        end = start_of(grain, newest)
        start = rolling_start(window, end)
        sums = running.ending_with(end)
        org_amount = of_org.ending_with(end).amount if of_org is not None else 0
        value = judged.value(sums, org_amount=org_amount)
        turned: list[tuple[int, str, RollingState]] = []
        for index, limit in enumerate(judged.limits):
            state = states.get(index)
            if state is not None and state.is_firing:
                if judged.resolves(value, limit):
                    turned.append((index, "resolved", RollingState(state.start, state.sequence + 1, is_firing=False)))
            elif is_of_others or not judged.crosses(value, sums, limit):
                continue
            elif state is None or state.start != start:  # an alert id fires once: same start, same id
                turned.append((index, "fired", RollingState(start, 1, is_firing=True)))
        highest = max((index for index, transition, _ in turned if transition == "fired"), default=-1)
        for index, transition, state in turned:
            states[index] = state
            self.turns.append(
                rolling_turn(
                    judged,
                    state,
                    row=row,
                    is_of_others=is_of_others,
                    transition=transition,
                    limit=index,
                    org=scope[0],
                    scope_id=scope[1],
                    value=judged.shown(value),
                    highest=index == highest,
                    end=end,
                    watermark=newest,
                    crossed=facts.crossing(row),
                )
            )

    def _running_of_org(self, judged: Judged, org: str) -> RunningWindow:
        family = Scope.ORG, grain_of(judged.window)
        key = self.memory.keys.pairs(*_columns([(org, org)]))
        places = {step: int(page.places(key)[0]) for step, page in self._before[family].steps.items()}
        return self._running(judged, family, org, places)

    def _running(self, judged: Judged, family: Family, org: str, places: Mapping[int, int]) -> RunningWindow:
        """What a scope's steps held before this run; ``places`` are where it stands in their pages."""
        running = RunningWindow(step_us(judged.window), judged.window.steps)
        newest = self.memory.newest.get(org)
        if newest is None:
            return running
        last = start_of(family[1], newest)
        for step in range(rolling_start(judged.window, last), last + 1, running.step_us):
            if (at := places.get(step, -1)) >= 0:
                running.add(step, sums_at(judged, self._before[family].steps[step], at))
        return running

    def _pruned(self, rolling: Rolling, grain: Grain, length: int) -> Rolling:
        """Forgets steps that no window of the partition's newest events reaches, and the orgs that stopped before."""
        if not self.facts.height or not rolling.steps:
            return rolling
        size = LENGTH_US[grain]
        oldest = start_of(grain, int(self.facts.newest_after.max())) - 2 * length * size
        if min(rolling.steps) >= oldest:
            return rolling
        steps = {step: page for step, page in rolling.steps.items() if step >= oldest}
        newest = {**self.memory.newest, **self.facts.newest()}
        kept = frozenset(org for org in rolling.orgs if newest.get(org, NEVER) - length * size >= oldest)
        gone = rolling.orgs - kept
        states = {
            rule: {org: own for org, own in of_rule.items() if org not in gone}
            for rule, of_rule in rolling.states.items()
        }
        return replace(rolling, orgs=kept, steps=steps, states=states)


@dataclass(frozen=True, slots=True)
class _Walked:
    """What the windows of these scopes hold at the end of the run, and the states of all."""

    keys: Ids
    amounts: NDArray[np.float64]
    states: RollingStates


def load_rolling(  # noqa: PLR0913 -- whose steps, and how far back
    rolling: Rolling,
    place: Place,
    memory: JudgeMemory,
    family: Family,
    orgs: Sequence[str],
    *,
    rules: Sequence[Judged],
    columns: Sequence[str],
    length: int,
) -> Generator[Any, Any, Rolling]:
    """The steps and states of orgs as they were before the block."""
    scope, grain = family
    if not orgs:
        return rolling
    steps = dict(rolling.steps)
    size = LENGTH_US[grain]
    wanted = [
        (org, start_of(grain, memory.newest[org]) - back * size) for org in orgs for back in range(length - 1, -1, -1)
    ]
    for windows in windows_in_parts(wanted):
        sums: pl.DataFrame = yield AskSums(place.partition, place.before, scope, grain, windows, sums=tuple(columns))
        for (start,), own in sums.group_by("start"):
            page = _emptied(steps.get(start, Page()), memory, own)
            steps[start] = put_sums(page, memory, own, columns=columns)
    bounds = dict(rolling.bounds)
    for window, amount in dict.fromkeys((judged.window, judged.amount) for judged in rules):
        bounds[window] = _bounds_of(amount, bounds.get(window, Page()), steps.values())
    states = {rule: dict(own) for rule, own in rolling.states.items()}
    if rules:
        alerts = yield AskAlerts(
            place.partition,
            place.before,
            tuple(judged.key for judged in rules),
            tuple(orgs),
            None,
            since=min(start_of(grain, memory.newest[org]) for org in orgs) - (length - 1) * size,
        )
        for judged in rules:
            states.setdefault(judged.key, {}).update(_states_of(judged, alerts))
    return replace(rolling, orgs=rolling.orgs.union(orgs), steps=steps, bounds=bounds, states=states)


def _emptied(page: Page, memory: JudgeMemory, sums: pl.DataFrame) -> Page:
    """The page without what it may still hold of these scopes, whose org was forgotten."""
    places = page.places(memory.keys.pairs(sums.get_column("org"), sums.get_column("id")))
    places = places[places >= 0]
    if not len(places):
        return page
    columns = dict(page.columns)
    for name, column in columns.items():
        columns[name] = column.copy()
        columns[name][places] = 0
    return replace(page, columns=columns)


def _bounds_of(amount: str, page: Page, steps: Iterable[Page]) -> Page:
    """The bounds set to sums over all steps that are there: more than any window holds."""
    there = list(steps)
    keys, place_of = np.unique(np.concatenate([_NO_KEYS, *(step.keys for step in there)]), return_inverse=True)
    amounts = [np.zeros(0), *(approximately(step.wide(amount)) for step in there)]
    page, places = page.with_keys(keys)
    column = page.flat(_UPPER + amount, np.float64).copy()
    column[places] = np.bincount(place_of, np.concatenate(amounts), minlength=len(keys))
    return page.with_column(_UPPER + amount, column)


def _raised(page: Page, keys: Ids, amount: str, added: NDArray[np.float64]) -> tuple[Page, Places]:
    """The bounds after more of an amount came in, and where the keys stand in them; keys ascend."""
    page, places = page.with_keys(keys)
    column = page.flat(_UPPER + amount, np.float64).copy()
    column[places] += added
    return page.with_column(_UPPER + amount, column), places


def _set_right(page: Page, amount: str, walked: _Walked) -> Page:
    """The bounds with what was found exactly in place of what could only be said at most."""
    if not len(walked.keys):
        return page
    places = page.places(walked.keys)
    is_there = places >= 0
    column = page.flat(_UPPER + amount, np.float64).copy()
    column[places[is_there]] = walked.amounts[is_there]
    return page.with_column(_UPPER + amount, column)


def _states_of(judged: Judged, alerts: pl.DataFrame) -> dict[str, dict[tuple[str, int], RollingState]]:
    states: dict[str, dict[tuple[str, int], RollingState]] = {}
    limits = {limit: index for index, limit in enumerate(judged.limits)}
    own = alerts.filter((pl.col("rule") == judged.rule.id) & (pl.col("rule_revision") == judged.rule.revision))
    for alert in own.sort("window_start").iter_rows(named=True):
        index = limits.get(units_of(alert["threshold"]))
        if index is None:
            continue
        start = micros(alert["window_start"])
        state = RollingState(start, alert["sequence"], is_firing=alert["transition"] == "fired")
        of_org = states.setdefault(alert["org"], {})
        known = of_org.get((alert["scope_id"], index))
        if known is None or state.is_firing or (not known.is_firing and state.start > known.start):
            of_org[alert["scope_id"], index] = state
    return states


def rolling_turn(  # noqa: PLR0913 -- what a turn is made of
    judged: Judged,
    state: RollingState,
    *,
    row: int,
    is_of_others: bool,
    transition: str,
    limit: int,
    org: str,
    scope_id: str,
    value: int,
    highest: bool,
    end: int,
    watermark: int,
    crossed: tuple[str, str, int],
) -> Turn:
    """A turn of a rolling rule; ``end`` is the last step of the window at this moment."""
    window = judged.window
    size = step_us(window)
    return Turn(
        row=row,
        is_of_others=is_of_others,
        transition=transition,
        sequence=state.sequence,
        judged=judged,
        limit=limit,
        org=org,
        scope_id=scope_id,
        start=state.start,
        end=state.start + window.steps * size,
        value=value,
        highest=highest,
        grain=grain_of(window),
        seen=tuple(range(rolling_start(window, end), end + 1, size)),
        watermark=watermark,
        crossed=crossed,
    )


def _columns(pairs: Sequence[tuple[str, str]]) -> tuple[pl.Series, pl.Series]:
    return pl.Series([org for org, _ in pairs], dtype=pl.String), pl.Series([sid for _, sid in pairs], dtype=pl.String)
