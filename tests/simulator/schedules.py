"""Schedules by seed: a world, a price side, a count side; which were run, what they met, which went wrong."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from schemas.errors import TallyError
from tests.simulator.counting import Counting
from tests.simulator.memo import Memo
from tests.simulator.planted import planted_in_stages
from tests.simulator.pricing import Pricing
from tests.simulator.setting import PLAIN
from tests.simulator.world import make_world

if TYPE_CHECKING:
    from tests.simulator.setting import Setting
    from tests.simulator.world import Log, World


@dataclass
class Tally:
    """What a number of schedules came to."""

    schedules: int = 0
    price_schedules: int = 0
    runs_counted: int = 0
    met: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Takes in what other schedules came to."""
        self.schedules += other.schedules
        self.price_schedules += other.price_schedules
        self.runs_counted += other.runs_counted
        self.met.update(other.met)
        self.failures += other.failures


def run_schedules(first: int, count: int, setting: Setting = PLAIN) -> Tally:
    """Runs schedules ``first`` to ``first + count - 1``; with a bug planted it stops at the first that finds it."""
    tally = Tally()
    for number in range(first // setting.per_log, (first + count - 1) // setting.per_log + 1):
        start, end = number * setting.per_log, (number + 1) * setting.per_log
        _run_world(number, range(max(first, start), min(first + count, end)), setting, tally)
        if setting.bug is not None and tally.failures:
            break
    return tally


def trace_of(seed: int, setting: Setting = PLAIN) -> list[str]:
    """Runs one schedule again and says what happened, line by line; the last line is what went wrong, if anything."""
    number = seed // setting.per_log
    world = _world(number, setting)
    trace = [f"schedule {seed} of world {number}: {world.limits}, hashes collide: {world.hashes_collide}"]
    trace += [f"raw {event}" for records in world.raw for record in records for event in record]
    tally = Tally()
    _run_world(number, range(seed, seed + 1), setting, tally, trace=trace)
    return [*trace, *(what for _, what in tally.failures)]


def _world(number: int, setting: Setting) -> World:
    return make_world(number, is_full_of_alerts=setting.bug is not None and setting.bug.is_in_unpublished_alerts)


def _run_world(number: int, seeds: range, setting: Setting, tally: Tally, *, trace: list[str] | None = None) -> None:
    """Some schedules of one world, added to the tally."""
    world = _world(number, setting)
    with ExitStack() as stack:
        stack.enter_context(world.in_force())
        stack.enter_context(planted_in_stages(setting.bug))
        log = _priced(world, seeds, setting, tally, trace=trace)
        if log is None:
            return
        memo, truth = Memo(world.limits, remembers=setting.remembers), log.books(world.limits.horizon)
        stack.enter_context(memo.in_force())
        for seed in seeds:
            counting = Counting(
                log,
                truth,
                memo,
                Random(f"counting {seed}"),
                setting=setting,
                trace=trace,
            )
            tally.schedules += 1
            try:
                counting.run()
            except (AssertionError, TallyError) as wrong:  # a worker that ends by itself is a finding too
                tally.failures.append((seed, f"{type(wrong).__name__}: {wrong}"))
                if setting.bug is not None:
                    break
            tally.met.update(counting.counts)
        tally.runs_counted += memo.runs_counted


def _priced(world: World, seeds: range, setting: Setting, tally: Tally, *, trace: list[str] | None) -> Log | None:
    """The log of the last of some schedules of the price side; None when one of them went wrong."""
    log = None
    for nth in range(setting.pricings_per_log):
        rng = Random(f"pricing {world.seed} {nth}")
        own_trace: list[str] | None = None if trace is None else []
        pricing = Pricing(
            world,
            rng,
            setting=setting,
            trace=own_trace,
        )
        tally.price_schedules += 1
        wrong = None
        try:
            log = pricing.run()
        except AssertionError as error:
            wrong = error
        if trace is not None and own_trace and (wrong or nth == setting.pricings_per_log - 1):
            trace += own_trace
        if wrong is not None:
            tally.failures.append((seeds.start, f"price side {nth}: {wrong}"))
            return None
        tally.met.update(pricing.counts)
    return log
