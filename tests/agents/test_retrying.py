"""Waiting for servers: what is waited for, and for how long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka.errors import KafkaConnectionError
from prometheus_client import CollectorRegistry

from agents.metrics import Metrics
from agents.retrying import until_done
from schemas.errors import BrokerUnavailable, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@pytest.fixture
def metrics() -> Metrics:
    """A registry of one's own."""
    return Metrics(CollectorRegistry())


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were taken, in seconds, instead of taking them."""
    taken: list[float] = []

    async def sleep(seconds: float) -> None:
        taken.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return taken


def failing(*errors: Exception) -> Callable[[], Awaitable[str]]:
    """An action that raises these in turn and then succeeds."""
    left = list(errors)

    async def action() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return action


def never() -> bool:
    """The worker goes on."""
    return False


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("away"), BrokerUnavailable("away"), KafkaConnectionError("away"), ConnectionResetError("away")],
    ids=lambda error: type(error).__name__,
)
async def test_a_server_that_is_away_is_waited_for(error: Exception, metrics: Metrics, pauses: list[float]) -> None:
    """The action is repeated as it is until it succeeds; each repetition is counted."""
    answer = await until_done(failing(*[error] * 7), what="store", should_stop=never, metrics=metrics)

    assert answer == "done"
    assert metrics.store_retries._value.get() == 7
    assert len(pauses) == 7


async def test_the_pauses_grow_up_to_five_seconds(metrics: Metrics, pauses: list[float]) -> None:
    """A server that comes back is not overrun, and not kept waiting for long."""
    await until_done(failing(*[OSError("away")] * 12), what="store", should_stop=never, metrics=metrics)

    assert pauses == sorted(pauses)
    assert pauses[0] <= 0.2
    assert pauses[-1] == 5.0


@pytest.mark.parametrize("error", [StoreRefused("no such table"), ValueError("a bug")])
async def test_what_repeating_does_not_mend_is_raised_at_once(
    error: Exception, metrics: Metrics, pauses: list[float]
) -> None:
    """A refusal or a mistake of ours ends the worker with its own words."""
    with pytest.raises(type(error), match=str(error)):
        await until_done(failing(error), what="store", should_stop=never, metrics=metrics)

    assert pauses == []


async def test_a_worker_that_stops_gives_up_with_the_last_error(metrics: Metrics, pauses: list[float]) -> None:
    """So that SIGTERM is not held up by a store that does not come back; nothing is acked then."""
    with pytest.raises(StoreUnavailable, match="still away"):
        await until_done(
            failing(StoreUnavailable("still away")), what="store", should_stop=lambda: True, metrics=metrics
        )

    assert pauses == []
