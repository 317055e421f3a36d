"""How the count agent asks the store: the partitions of a batch side by side, each over a connection of its own."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

import agents.count
from agents.count import CountAgent, _Run
from agents.metrics import Metrics
from pipeline.judging.steps import AskInForce

if TYPE_CHECKING:
    from collections.abc import Generator

#: Who waits for others that do not come gives up then.
MEET_SECONDS = 20.0


class Connection:
    """Stands in for a store."""

    def __init__(self, address: Any) -> None:
        self.address = address


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> CountAgent:
    """An agent that has a store to ask and nothing else."""
    monkeypatch.setattr(agents.count, "Store", Connection)
    wiring: Any = SimpleNamespace(store="store")
    nothing: Any = None
    metrics = Metrics(CollectorRegistry())
    return CountAgent(wiring, publisher=nothing, raw_log=nothing, metrics=metrics, should_stop=lambda: False)


async def test_each_question_under_way_has_a_connection_of_its_own_which_is_kept(agent: CountAgent) -> None:
    """A connection belongs to one thread at a time; the next questions use those that are there."""
    meeting = threading.Barrier(3)

    def asked(store: Any) -> Any:
        meeting.wait(MEET_SECONDS)
        return store

    first = await asyncio.gather(*(agent._ask(asked) for _ in range(3)))
    second = await asyncio.gather(*(agent._ask(asked) for _ in range(3)))

    assert len(set(first)) == 3
    assert set(second) == set(first)


async def test_a_partition_does_not_wait_while_another_one_is_answered(
    agent: CountAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is answered here before the questions of both have come."""
    meeting = threading.Barrier(2)
    monkeypatch.setattr(agents.count, "answer_of", lambda _step, _store: meeting.wait(MEET_SECONDS))

    def steps(partition: int) -> Generator[Any, Any, Any]:
        yield AskInForce(partition, 0)
        return partition

    runs = [_Run(partition, steps(partition)) for partition in (2, 5)]
    await agent._until_writes(runs)

    results: list[Any] = [run.result for run in runs]
    assert results == [2, 5]
