"""What judging costs: the count stage with rules and without, in one process and one run, on a store that is empty.

100,000 active keys in 50 orgs, 10 rules over five scopes, calendar and rolling. CPU time, not wall clock: other work on
the machine disturbs it less; and every block is counted without rules and with them, one after the other, so that what
disturbs nevertheless weighs on both. ``python -m bench.judging`` prints the figures as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import psutil

from pipeline.block import Block, encode_block
from pipeline.count import AskIdentities, AskKnown, AskTotals, CountLimits, IdentitiesAnswer, count, fresh
from pipeline.judging.steps import AskAlerts, AskInForce, AskLastFacts, AskNewest, AskSums, InsertAlerts
from schemas.alerting import ALERTS, LAST_FACTS, NEWEST, WINDOW_SUMS, InForce
from schemas.counted import KNOWN, TOTALS
from schemas.frames import KINDS, LINES, PRICED_EVENTS, PricedBatch
from schemas.rules import Rule, RuleSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.count import PartitionState, Step
    from pipeline.judging.memory import JudgeMemory
    from pipeline.judging.page import Page

KEYS: Final = 100_000
ORGS: Final = 50
BATCH_EVENTS: Final = 20_000
#: What a partition gets in a quarter of a second when 20,000 events/s come in for four.
SMALL_BATCH_EVENTS: Final = 1_250
#: Runs until every key was met and memory is warm, and runs that are measured; each is a minute of event time.
WARM_RUNS: Final = 15
MEASURED_RUNS: Final = 15
#: Events are late as in life: most by seconds, so that a block lies in two minutes; one in a hundred by up to an hour.
LATE_SECONDS: Final = 10.0
VERY_LATE_SHARE: Final = 0.01
VERY_LATE_SECONDS: Final = 3_600.0
START: Final = datetime(2026, 3, 2, 12, tzinfo=UTC)
#: High enough that few windows come near, as in life; the last one of each list is crossed by some.
RULES: Final[tuple[dict[str, Any], ...]] = (
    {"id": "key-day", "scope": "api_key", "measure": "cost", "window": "day", "thresholds": ["50", "100"]},
    {"id": "key-1h", "scope": "api_key", "measure": "requests", "window": "1h", "thresholds": ["30"]},
    {"id": "key-24h", "scope": "api_key", "measure": "cost", "window": "24h", "thresholds": ["20"]},
    {"id": "project-day", "scope": "project", "measure": "cost", "window": "day", "thresholds": ["50", "500"]},
    {"id": "project-errors", "scope": "project", "measure": "failures", "window": "15m", "thresholds": ["1000"]},
    {"id": "org-month", "scope": "org", "measure": "cost", "window": "month", "budget": "9000", "percent": [50, 100]},
    {"id": "org-total", "scope": "org", "measure": "requests", "window": "total", "thresholds": ["1000000"]},
    {"id": "model-day", "scope": "model", "measure": "tokens", "window": "day", "thresholds": ["1000000000"]},
    {"id": "model-5m", "scope": "model", "measure": "requests", "window": "5m", "thresholds": ["100000"]},
    {"id": "user-week", "scope": "user", "measure": "cost", "window": "week", "thresholds": ["1000"]},
)
NO_ROWS: Final[dict[type, Any]] = {
    AskKnown: KNOWN,
    AskTotals: TOTALS,
    AskNewest: NEWEST,
    AskSums: WINDOW_SUMS,
    AskAlerts: ALERTS,
    AskLastFacts: LAST_FACTS,
}
LIMITS: Final = CountLimits(horizon=timedelta(days=35), totals_rows_max=2_000_000)


def blocks(runs: int, *, size: int = BATCH_EVENTS, seed: int = 1) -> Iterator[Block]:
    """One block of ``size`` events per run, at the same rate of arrivals; ids are unique, keys equally likely."""
    span = timedelta(minutes=1) * size / BATCH_EVENTS
    rng = np.random.default_rng(seed)
    kinds = pl.DataFrame(
        [
            (0, "input_tokens", "input_tokens", "bench@1:0", "billed"),
            (1, "output_tokens", "out", "bench@1:1", "billed"),
        ],
        schema=KINDS,
        orient="row",
    )
    for number in range(runs):
        began = START + span * number
        keys = rng.integers(0, KEYS, size)
        tokens = rng.integers(1, 4_000, (size, 2))
        arrived = np.sort(rng.random(size) * span.total_seconds())
        late = rng.exponential(LATE_SECONDS, size)
        late += (rng.random(size) < VERY_LATE_SHARE) * rng.random(size) * VERY_LATE_SECONDS
        places = pl.int_range(size, eager=True)
        events = pl.DataFrame(
            {
                **dict.fromkeys(PRICED_EVENTS, ""),
                "partition": 0,
                "offset": places + number * size,
                "index": 0,
                "of": 1,
                "received_at": began + span,
                "org": _named("org_", keys % ORGS),
                "source": "/gateway",
                "id": _named(f"req-{number}-", np.arange(size)),
                "time": pl.Series(((arrived - late) * 1e6).astype(np.int64)).cast(pl.Duration("us")) + began,
                "operation": "llm.request",
                "project": _named("project_", keys % 500),
                "api_key": _named("key_", keys),
                "user": _named("u_", keys % 10_000),
                "provider": "any",
                "model": _named("model_", keys % 7),
                "status": np.where(rng.random(size) < 0.02, "error", "ok"),
                "cost": pl.Series(tokens.sum(axis=1)).cast(pl.Decimal(38, 12)) / 100_000,
                "pricing": "priced",
            }
        )
        lines = pl.DataFrame(
            {
                "row": np.repeat(np.arange(size), 2),
                "kind": np.tile([0, 1], size),
                "quantity": tokens.reshape(-1),
                "cost": tokens.reshape(-1) // 1_000,
            }
        )
        batch = PricedBatch(
            events.select(pl.col(name).cast(dtype) for name, dtype in PRICED_EVENTS.items()),
            lines.select(pl.col(name).cast(dtype) for name, dtype in LINES.items()),
            kinds,
        )
        yield Block(0, number, int((began + span).timestamp() * 1000), encode_block(batch, topic="usage.events"))


def _named(prefix: str, numbers: Any) -> pl.Series:  # noqa: ANN401 -- an array of integers
    return prefix + pl.Series(numbers).cast(pl.String)


class Empty:
    """A store without rows, in which some rules are in force; counts what it was asked and told."""

    def __init__(self, rules: Sequence[dict[str, Any]]) -> None:
        parsed = tuple(Rule.model_validate({**rule, "revision": 1}) for rule in rules)
        self._in_force = InForce("USD", {"bench": RuleSet(name="bench", revision=1, rules=parsed)})
        self.questions = 0
        self.alerts = 0

    def answer(self, step: Step) -> Any:  # noqa: ANN401 -- by the question
        """What an empty store says."""
        self.questions += isinstance(step, AskSums)
        self.alerts += step.alerts.height if isinstance(step, InsertAlerts) else 0
        if isinstance(step, AskInForce):
            return self._in_force
        if isinstance(step, AskIdentities):
            return IdentitiesAnswer(np.empty(0, dtype=np.uint64), 0)
        schema = NO_ROWS.get(type(step))
        return None if schema is None else pl.DataFrame(schema=schema)


def counted(state: PartitionState, block: Block, store: Empty) -> PartitionState:
    """One block, carried out to the end."""
    steps = count(state, [block], limits=LIMITS)
    said: Any = None
    while True:
        try:
            said = store.answer(steps.send(said))
        except StopIteration as stop:
            state, _ = stop.value
            return state


@dataclass
class Measured:
    """One stage that counts by some rules, and the CPU time it took for the warm runs."""

    store: Empty
    state: PartitionState
    events: int = 0
    cpu_seconds: float = 0.0

    def count(self, block: Block, *, events: int, is_warm: bool) -> None:
        """Counts the next block, of so many events."""
        began = time.process_time()
        self.state = counted(self.state, block, self.store)
        self.cpu_seconds += (time.process_time() - began) * is_warm
        self.events += events * is_warm

    def figures(self) -> dict[str, float]:
        """CPU per event, how many windows and steps are remembered, and the memory of their columns."""
        return {
            "cpu_us_per_event": self.cpu_seconds / self.events * 1e6,
            "totals": self.state.totals.height,
            "windows": self.state.judged.windows,
            "questions": self.store.questions,
            "alerts": self.store.alerts,
            "windows_mib": sum(map(_bytes, _pages(self.state.judged))) / 2**20,
            "process_mib": psutil.Process().memory_info().rss / 2**20,
        }


def measured(*cases: Sequence[dict[str, Any]], size: int = BATCH_EVENTS) -> list[dict[str, float]]:
    """The figures of each list of rules; all count the same blocks in turn, and as many events whatever the size."""
    stages = [Measured(Empty(rules), fresh(0, next_block=0, limits=LIMITS)) for rules in cases]
    more = BATCH_EVENTS // size
    for number, block in enumerate(blocks((WARM_RUNS + MEASURED_RUNS) * more, size=size)):
        for stage in stages:
            stage.count(block, events=size, is_warm=number >= WARM_RUNS * more)
    return [stage.figures() for stage in stages]


def _pages(judged: JudgeMemory) -> list[Page]:
    rolling = [page for own in judged.rolling.values() for page in (*own.steps.values(), *own.bounds.values())]
    return [*judged.pages.values(), *rolling]


def _bytes(page: Page) -> int:
    return page.keys.nbytes + sum(column.nbytes for column in page.columns.values())


def main() -> None:
    """All of it: three rules alone for memory, then none and ten, and none with small blocks."""
    figures: dict[str, Any] = {"keys": KEYS, "events": (WARM_RUNS + MEASURED_RUNS) * BATCH_EVENTS}
    (figures["3 rules"],) = measured(RULES[:3])
    figures["no rules"], figures["10 rules"] = measured((), RULES)
    figures["10 rules / no rules"] = figures["10 rules"]["cpu_us_per_event"] / figures["no rules"]["cpu_us_per_event"]
    (figures["no rules, small blocks"],) = measured((), size=SMALL_BATCH_EVENTS)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
