"""Logs that make rules fire, resolve and end, by seed: events that bunch, jump and come late, and edits of rules."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any, Final

from pipeline.block import Block
from schemas.alerting import InForce
from schemas.rules import Rule, RuleSet, Scope, Window
from tests.alerts_model import events_of, transitions
from tests.pipeline.batches import NOON, Event, append_time_ms, make_block, make_counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MEASURES: Final = (
    "cost", "requests", "failures", "tokens", "success_rate", "projected", "quantity:images", "input_tokens", "share",
)  # fmt: skip
#: How far an org's clock goes on between two events, in microseconds: within a step, to the next, far away.
JUMPS_US: Final = tuple(
    round(minutes * 60_000_000) for minutes in (0, 0, 0.01, 0.3, 0.5, 1, 1, 2, 4, 6, 16, 61, 361, 1441, 11_000, 45_000)
)
#: How far an event may be late.
LATE_US: Final = tuple(minutes * 60_000_000 for minutes in (1, 3, 10, 59, 300, 1441, 20_000))
RULE_IDS: Final = ("a", "b", "c", "d", "e", "f")


@dataclass(frozen=True)
class Restated:
    """A correction block: events that stand before it, at the prices of another revision."""

    run: str
    revision: int
    events: tuple[Event, ...]


Entry = Event | RuleSet | Restated
Log = list[Entry]


def judged_log(seed: int, *, events: int = 30, rules: int = 5, edits: float = 0.06) -> Log:
    """The log of a seed: what stands in one partition, each identity once."""
    rng = Random(f"judged {seed}")
    revision = 1
    in_force = RuleSet(revision=1, rules=drawn_rules(rng, (), revision, rules))
    clocks: dict[str, int] = {}
    calm = rng.random() < 0.5
    restates = rng.random() < 0.5
    log: Log = [in_force]
    for number in range(rng.randint(1, events)):
        if rng.random() < edits:
            revision += 1
            kept = tuple(rule for rule in in_force.rules if rng.random() < 0.6)
            in_force = RuleSet(revision=revision, rules=drawn_rules(rng, kept, revision, rules))
            log.append(in_force)
        log.append(_event(rng, number, clocks, calm=calm))
        counted = [one for one in log if isinstance(one, Event)]
        if restates and rng.random() < 0.1:
            some = tuple(one for one in counted if rng.random() < 0.5)
            log += [Restated(f"run {number}", rng.choice((1, 2, 4, 4)), some)] if some else []
    return log


def drawn_rules(rng: Random, kept: tuple[Rule, ...], revision: int, most: int) -> tuple[Rule, ...]:
    """Those that are kept and some new ones of this revision, ``most`` in all."""
    free = [name for name in RULE_IDS if name not in {rule.id for rule in kept}]
    new = rng.sample(free, rng.randint(0, max(0, min(len(free), most - len(kept)))))
    return (*kept, *(_rule(rng, name, revision) for name in new))


def _rule(rng: Random, name: str, revision: int) -> Rule:
    """Any rule that is allowed, with limits that small worlds reach."""
    scope = rng.choice(list(Scope))
    measure = (
        "cost"
        if rng.random() < 0.15
        else rng.choice([measure for measure in MEASURES if measure != "share" or scope is not Scope.ORG])
    )
    windows = [w for w in Window if measure != "projected" or not (w.is_rolling or w is Window.TOTAL)]
    window = rng.choice(windows)
    said: dict[str, Any] = {
        "id": name,
        "revision": revision,
        "scope": scope.value,
        "measure": measure,
        "window": window.value,
        "org": rng.choice(["*", "*", "*", "acme", "z*"]),
        "match": rng.choice(["*", "*", "*", "*", "checkout", "c*", "key_*"]),
    }
    if measure == "success_rate":
        said |= {"below": _some(rng, ["0.3", "0.5", "0.75", "1"]), "min_requests": rng.randint(1, 4)}
    elif measure == "share":
        said["thresholds"] = _some(rng, ["0.2", "0.5", "0.7", "0.9", "1"])
        if rng.random() < 0.5:
            said["min_requests"] = rng.randint(1, 3)
    elif rng.random() < 0.7:
        said["thresholds"] = _some(rng, ["0.000000000001", "1", "1.5", "2", "3", "4.5", "10", "20", "60"])
    else:
        said |= {"budget": rng.choice(["2", "4", "7.5"]), "percent": _some(rng, [25, 50, 80, 100])}
    return Rule.model_validate(said)


def _some(rng: Random, values: Sequence[Any]) -> list[Any]:
    return rng.sample(list(values), rng.randint(1, 3))


def _event(rng: Random, number: int, clocks: dict[str, int], *, calm: bool) -> Event:
    org = rng.choice(["acme", "acme", "acme", "zen"])
    clocks[org] = clocks.get(org, 0) + rng.choice(JUMPS_US[:9] if calm else JUMPS_US)
    late = rng.choice(LATE_US) if rng.random() < 0.15 else 0
    usage = {
        "input_tokens": rng.choice([0, 1, 4, 10, 20]),
        "images": rng.choice([0, 0, 1, 3]),
        "reasoning_tokens": rng.choice([0, 2]),
    }
    return Event(
        number,
        id=f"e{number}",
        org=org,
        time=NOON + timedelta(microseconds=clocks[org] - late),
        project=rng.choice(["checkout", "search"]),
        api_key=rng.choice(["key_1", "key_2", "other"]),
        user=rng.choice(["", "u1"]),
        model=rng.choice(["", "small", "large"]),
        status=rng.choice(["ok", "ok", "error"]),
        usage=tuple((name, Decimal(quantity)) for name, quantity in usage.items() if quantity),
    )


def sizes_of(seed: int) -> list[int]:
    """How large the blocks are, and, from another seed, how many blocks a run has."""
    rng = Random(f"sizes {seed}")
    most = rng.choice((1, 3, 12))
    return [rng.randint(1, most) for _ in range(60)]


def blocks_of(log: Iterable[Entry], sizes: Sequence[int]) -> list[Block]:
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
        if isinstance(one, Restated):
            close()
            # Those that restate write in the order in which they find the facts, which is not that of the raw log.
            found = Random(one.run).sample(one.events, len(one.events))
            blocks.append(make_block(found, offset=len(blocks), revision=one.revision, run=one.run))
            continue
        waiting.append(one)
        if len(waiting) >= size:
            close()
            size = next(cuts, 1)
    close()
    return blocks


def told(log: Iterable[Entry]) -> list[dict[str, Any]]:
    """What the model says of the log."""
    entries: list[dict[str, Any]] = []
    figures: dict[str, tuple[Any, Any]] = {}
    for one in log:
        if isinstance(one, RuleSet):
            entries.append({"rules": [rule.model_dump() for rule in one.rules]})
            continue
        revision = one.revision if isinstance(one, Restated) else 1
        events = events_of(make_counted(one.events if isinstance(one, Restated) else [one], revision=revision))
        # A correction that leaves the figures as they are is none.
        changed = [event for event in events if figures.get(event["id"]) != (event["cost"], event["pricing"])]
        figures |= {event["id"]: (event["cost"], event["pricing"]) for event in events}
        entries.append({"corrections" if isinstance(one, Restated) else "events": changed})
    return transitions(entries)


def runs_of(blocks: Sequence[Block], sizes: Sequence[int]) -> list[Sequence[Block]]:
    """The blocks in runs of these sizes; what is left over is one run."""
    cut: list[Sequence[Block]] = []
    at = 0
    for size in sizes:
        if at < len(blocks):
            cut.append(blocks[at : at + size])
        at += size
    return [*cut, blocks[at:]] if at < len(blocks) else cut
