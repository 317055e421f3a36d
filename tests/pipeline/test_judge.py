"""The judge against the independent model: what must be alerted of a log, however it is cut, crashed or restored."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.alert_steps import PublishAlerts
from pipeline.alerts import alert_messages
from pipeline.block import Block
from pipeline.count import CountLimits, count, fresh
from pipeline.memory_store import MemoryStore
from schemas.alerting import InForce
from schemas.rules import Rule, RuleSet, Scope, Window
from tests.alerts_model import events_of, transitions
from tests.pipeline.batches import NOON, Event, append_time_ms, make_block, make_counted
from tests.pipeline.driving import LIMITS, steps_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.count import Step

#: Few moments around edges of minutes, hours, days, weeks and months, so that windows meet and part.
MINUTES: Final = (0, 1, 2, 4, 5, 6, 14, 59, 60, 61, 300, 360, 719, 720, 721, 1440, 7 * 1440, 10 * 1440, 31 * 1440)
FORGETFUL: Final = replace(LIMITS, windows_max=2)


def _rule(**said: Any) -> Rule:
    return Rule.model_validate(
        {"id": "r", "revision": 1, "scope": "project", "measure": "cost", "window": "day", **said}
    )


@st.composite
def rules(draw: st.DrawFn, *, name: str, revision: int) -> Rule:
    """Any rule that is allowed, with limits that small worlds reach."""
    scope = draw(st.sampled_from(list(Scope)))
    measures = [
        "cost",
        "requests",
        "failures",
        "tokens",
        "success_rate",
        "projected",
        "quantity:images",
        "input_tokens",
    ]
    measure = draw(st.sampled_from(measures + (["share"] if scope is not Scope.ORG else [])))
    windows = [w for w in Window if measure != "projected" or not (w.is_rolling or w is Window.TOTAL)]
    said: dict[str, Any] = {
        "id": name,
        "revision": revision,
        "scope": scope.value,
        "measure": measure,
        "window": draw(st.sampled_from(windows)).value,
        "org": draw(st.sampled_from(["*", "*", "acme", "z*"])),
        "match": draw(st.sampled_from(["*", "*", "*", "checkout", "c*", "key_*"])),
    }
    if measure == "success_rate":
        said["below"] = draw(
            st.lists(st.sampled_from(["0.3", "0.5", "0.75", "1"]), min_size=1, max_size=3, unique=True)
        )
        said["min_requests"] = draw(st.integers(1, 4))
    elif measure == "share":
        said["thresholds"] = draw(
            st.lists(st.sampled_from(["0.2", "0.5", "0.9", "1"]), min_size=1, max_size=3, unique=True)
        )
        said["min_requests"] = draw(st.sampled_from([None, 1, 3]))
    elif draw(st.booleans()):
        limits = ["0.000000000001", "1", "1.5", "2", "3", "4.5", "20", "1000"]
        said["thresholds"] = draw(st.lists(st.sampled_from(limits), min_size=1, max_size=4, unique=True))
    else:
        said["budget"] = draw(st.sampled_from(["2", "4", "7.5"]))
        said["percent"] = draw(st.lists(st.sampled_from([25, 50, 80, 100]), min_size=1, max_size=3, unique=True))
    return Rule.model_validate({key: value for key, value in said.items() if value is not None})


@st.composite
def judged_logs(draw: st.DrawFn) -> list[Any]:
    """Events and changes of the rules, one after the other: what stands in one partition, each identity once."""
    log: list[Any] = [draw(rule_sets(1))]
    revision = 1
    for number in range(draw(st.integers(1, 14))):
        if draw(st.integers(0, 7)) == 0:
            revision += 1
            log.append(draw(rule_sets(revision, before=log)))
        log.append(draw(counted_events(number)))
    return log


@st.composite
def counted_events(draw: st.DrawFn, number: int) -> Event:
    """An event of few orgs, projects and keys, whose cost is a few units."""
    usage = {
        "input_tokens": draw(st.sampled_from([0, 1, 4, 10, 20])),
        "images": draw(st.sampled_from([0, 0, 1, 3])),
        "reasoning_tokens": draw(st.sampled_from([0, 2])),
    }
    return Event(
        number,
        id=f"e{number}",
        org=draw(st.sampled_from(["acme", "acme", "zen"])),
        time=NOON
        + timedelta(minutes=draw(st.sampled_from(MINUTES)), microseconds=draw(st.sampled_from([0, 1, 999_999]))),
        project=draw(st.sampled_from(["checkout", "search"])),
        api_key=draw(st.sampled_from(["key_1", "key_2", "other"])),
        user=draw(st.sampled_from(["", "u1"])),
        model=draw(st.sampled_from(["", "small", "large"])),
        operation="llm.request",
        status=draw(st.sampled_from(["ok", "ok", "error"])),
        usage=tuple((name, Decimal(quantity)) for name, quantity in usage.items() if quantity),
    )


@st.composite
def rule_sets(draw: st.DrawFn, revision: int, before: Sequence[Any] = ()) -> RuleSet:
    """A set: some rules stay as they were, others change, come or go."""
    known = next((one.rules for one in reversed(before) if isinstance(one, RuleSet)), ())
    kept = [rule for rule in known if draw(st.booleans())]
    names = [name for name in ("a", "b", "c") if name not in {rule.id for rule in kept}]
    new = [draw(rules(name=name, revision=revision)) for name in names if draw(st.integers(0, 2))]
    return RuleSet(name="default", revision=revision, rules=tuple(kept + new))


def blocks_of(log: Sequence[Any], sizes: Sequence[int]) -> list[Block]:
    """The log as blocks of these sizes; a change of the rules is a block of its own."""
    blocks: list[Block] = []
    waiting: list[Event] = []
    cuts = iter(sizes)
    size = next(cuts, 1)

    def close() -> None:
        if waiting:
            blocks.append(make_block(list(waiting), offset=len(blocks)))
            waiting.clear()

    for one in log:
        if isinstance(one, RuleSet):
            close()
            body = InForce("USD", {one.name: one}).to_json().encode()
            blocks.append(Block(0, len(blocks), append_time_ms(len(blocks)), body, control=True))
            continue
        waiting.append(one)
        if len(waiting) >= size:
            close()
            size = next(cuts, 1)
    close()
    return blocks


def told(log: Sequence[Any]) -> list[dict[str, Any]]:
    """What the model says of the log."""
    entries: list[dict[str, Any]] = []
    for one in log:
        if isinstance(one, RuleSet):
            entries.append({"rules": [rule.model_dump() for rule in one.rules]})
        else:
            entries.append({"events": events_of(_priced(one))})
    return transitions(entries)


def _priced(event: Event) -> Any:
    return make_counted([event])


def published(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """What came out, in order."""
    return [
        json.loads(value)
        for step in steps
        if isinstance(step, PublishAlerts)
        for _, value in alert_messages(step.alerts)
    ]


logs_and_cuts = {"log": judged_logs(), "sizes": st.lists(st.integers(1, 6)), "runs": st.lists(st.integers(1, 4))}


def runs_of(blocks: Sequence[Block], runs: Sequence[int]) -> list[Sequence[Block]]:
    """The blocks in runs of these sizes; what is left over is one run."""
    cut: list[Sequence[Block]] = []
    at = 0
    for size in runs:
        if at < len(blocks):
            cut.append(blocks[at : at + size])
        at += size
    return [*cut, blocks[at:]] if at < len(blocks) else cut


@pytest.mark.parametrize("limits", [LIMITS, FORGETFUL], ids=["remembers", "forgets"])
@given(**logs_and_cuts)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_the_judge_says_what_the_model_says(
    limits: CountLimits, log: list[Any], sizes: list[int], runs: list[int]
) -> None:
    """Every transition with all its fields, in order, however the log is cut into blocks and the blocks into runs."""
    store, state = MemoryStore(), fresh(0, next_block=0, limits=limits)
    said: list[dict[str, Any]] = []

    for run in runs_of(blocks_of(log, sizes), runs):
        steps, state, _ = steps_of(state, run, store=store, limits=limits)
        said += published(steps)

    assert said == told(log)


@given(**logs_and_cuts, crashes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=4))
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_a_crash_between_any_two_steps_changes_no_alert(
    log: list[Any], sizes: list[int], runs: list[int], crashes: list[tuple[int, int]]
) -> None:
    """What was published before a crash is published again alike; nothing else ever is, and nothing is missing."""
    store, state = MemoryStore(), fresh(0, next_block=0, limits=LIMITS)
    said: list[dict[str, Any]] = []
    cut = runs_of(blocks_of(log, sizes), runs)

    for number, run in enumerate(cut):
        for at, steps_done in crashes:
            if at == number:
                # A worker without memory dies on a longer run, whose rows of later blocks stay in the store.
                ahead = [block for later in cut[number : number + 2] for block in later]
                said += _until_crash(steps_done, ahead, store=store)
        if any(at == number for at, _ in crashes):
            state = fresh(0, next_block=run[0].offset, limits=LIMITS)
        steps, state, _ = steps_of(state, run, store=store)
        said += published(steps)

    right = told(log)
    assert {_name(alert): alert for alert in said} == {_name(alert): alert for alert in right}
    assert all(alert in right for alert in said)
    assert [_name(alert) for alert in stored(store)] == sorted(_name(alert) for alert in right)


def _until_crash(number: int, blocks: Sequence[Block], *, store: MemoryStore) -> list[dict[str, Any]]:
    """Carries out some steps from the store's memory, and gives what was published by then."""
    run = count(fresh(0, next_block=blocks[0].offset, limits=LIMITS), blocks, limits=LIMITS)
    done: list[Step] = []
    answer: Any = None
    for _ in range(number):
        try:
            done.append(run.send(answer))
        except StopIteration:
            break
        answer = store.carry_out(done[-1])
    return published(done)


def _name(alert: dict[str, Any]) -> tuple[str, int]:
    return alert["alert_id"], alert["sequence"]


def stored(store: MemoryStore) -> list[dict[str, Any]]:
    """The transitions that the store holds, by alert id and sequence."""
    return sorted((json.loads(value) for _, value in alert_messages(store.alerts())), key=_name)
