"""The judge against the independent model: what must be alerted of a log, however it is cut, crashed or restored."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest

from pipeline.count import CountLimits, count, fresh
from pipeline.judging.alerts import alert_messages
from pipeline.judging.steps import PublishAlerts
from pipeline.memory_store import MemoryStore
from schemas.rules import RuleSet, Window
from tests.pipeline.driving import LIMITS, steps_of
from tests.pipeline.judged_logs import MEASURES, blocks_of, judged_log, runs_of, sizes_of, told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.block import Block
    from pipeline.count import Step
    from tests.pipeline.judged_logs import Log

SEEDS: Final = {"remembers": 200, "forgets": 60, "restarts": 60, "crashes": 80}
TWIN_SEEDS: Final = 40
SOAK_SEEDS: Final = 20_000
FORGETFUL: Final = replace(LIMITS, windows_max=2)


def published(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """What came out, in order."""
    return [
        json.loads(value)
        for step in steps
        if isinstance(step, PublishAlerts)
        for _, value in alert_messages(step.alerts)
    ]


def judged(
    seed: int, *, limits: CountLimits, store: MemoryStore, restarts: bool = False, log: Log | None = None
) -> list[dict[str, Any]]:
    """What is published for a log, that of the seed, cut by the seed; with ``restarts`` each run begins anew."""
    said: list[dict[str, Any]] = []
    state = fresh(0, next_block=0, limits=limits)
    for run in runs_of(blocks_of(log or judged_log(seed), sizes_of(seed)), sizes_of(-seed)):
        if restarts:
            state = fresh(0, next_block=run[0].offset, limits=limits)
        steps, state, _ = steps_of(state, run, store=store, limits=limits)
        said += published(steps)
    return said


@pytest.mark.parametrize("how", ["remembers", "forgets", "restarts"])
def test_the_judge_says_what_the_model_says(how: str) -> None:
    """Every transition with all its fields, in order, however the log is cut into blocks and the blocks into runs."""
    limits = FORGETFUL if how == "forgets" else LIMITS
    met: Counter[str] = Counter()

    for seed in range(SEEDS[how]):
        right = told(judged_log(seed))
        met.update(f"{alert['transition']} {alert['measure']}" for alert in right)
        met.update(f"{alert['transition']} {alert['window']['kind']}" for alert in right)
        assert judged(seed, limits=limits, store=MemoryStore(), restarts=how == "restarts") == right, f"seed {seed}"

    if how != "remembers":
        return
    wanted = [f"fired {what}" for what in (*MEASURES, *Window)] + [
        f"superseded {what}" for what in (*MEASURES, *Window)
    ]
    wanted += ["retracted cost"]
    wanted += [f"resolved {what}" for what in (*MEASURES, *Window) if what != "projected" and what in _ROLLING]
    assert [what for what in wanted if not met[what]] == []


_ROLLING: Final = {*MEASURES, *(window for window in Window if window.is_rolling)}


@pytest.mark.soak
def test_the_judge_says_what_the_model_says_for_a_whole_night() -> None:
    """The same with longer logs and more rules."""
    for seed in range(10_000, 10_000 + SOAK_SEEDS):
        assert judged(seed, limits=LIMITS, store=MemoryStore()) == told(judged_log(seed)), f"seed {seed}"


def test_rules_that_look_at_the_same_sum_of_the_same_windows_are_each_judged() -> None:
    """What is found out for one of them, as what a window holds at the end of a run, hides nothing from the others."""
    for seed in range(TWIN_SEEDS):
        log = [with_twins(one) if isinstance(one, RuleSet) else one for one in judged_log(seed)]
        assert judged(seed, log=log, limits=LIMITS, store=MemoryStore()) == told(log), f"seed {seed}"


def with_twins(rules: RuleSet) -> RuleSet:
    """The set, with another rule beside each that says the same."""
    twins = [rule.model_copy(update={"id": f"{rule.id}-again"}) for rule in rules.rules]
    return rules.model_copy(update={"rules": (*rules.rules, *twins)})


def test_a_crash_between_any_two_steps_changes_no_alert() -> None:
    """What was published before a crash is published again alike; nothing else ever is, and nothing is missing."""
    crashes = 0
    for seed in range(SEEDS["crashes"]):
        rng = Random(f"crashes {seed}")
        store, state = MemoryStore(), fresh(0, next_block=0, limits=LIMITS)
        cut = runs_of(blocks_of(judged_log(seed), sizes_of(seed)), sizes_of(-seed))
        said: list[dict[str, Any]] = []
        for number, run in enumerate(cut):
            if rng.random() < 0.4:
                # A worker without memory dies on a longer run, whose rows of later blocks stay in the store.
                ahead = [block for later in cut[number : number + rng.randint(1, 3)] for block in later]
                steps, is_dead = until_crash(rng.randint(1, 40), ahead, store=store)
                said += published(steps)
                crashes += is_dead
                state = fresh(0, next_block=run[0].offset, limits=LIMITS)
            steps, state, _ = steps_of(state, run, store=store)
            said += published(steps)

        right = told(judged_log(seed))
        assert {_name(alert): alert for alert in said} == {_name(alert): alert for alert in right}, f"seed {seed}"
        assert all(alert in right for alert in said), f"seed {seed}"
        assert stored(store) == sorted(right, key=_name), f"seed {seed}"
    assert crashes > SEEDS["crashes"] // 2


def until_crash(number: int, blocks: Sequence[Block], *, store: MemoryStore) -> tuple[list[Step], bool]:
    """Carries out some steps from the store's memory: those that were done, and whether there were more to do."""
    run = count(fresh(0, next_block=blocks[0].offset, limits=LIMITS), blocks, limits=LIMITS)
    done: list[Step] = []
    answer: Any = None
    for _ in range(number):
        try:
            done.append(run.send(answer))
        except StopIteration:
            return done, False
        answer = store.carry_out(done[-1])
    return done, True


def _name(alert: dict[str, Any]) -> tuple[str, int]:
    return alert["alert_id"], alert["sequence"]


def stored(store: MemoryStore) -> list[dict[str, Any]]:
    """The transitions that the store holds, by alert id and sequence."""
    return sorted((json.loads(value) for _, value in alert_messages(store.alerts())), key=_name)
