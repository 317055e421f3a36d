"""Waiting for servers: a store or a broker that is away is waited for, with back-off, for as long as the worker lives.

An insert that failed is repeated as it is: its outcome is unknown, and writing it twice changes nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import structlog
from aiokafka.errors import KafkaError
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential

from schemas.errors import ServerUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tenacity import RetryCallState

    from agents.metrics import Metrics

Answer = TypeVar("Answer")

log = structlog.get_logger()


async def until_done(
    action: Callable[[], Awaitable[Answer]], *, what: str, should_stop: Callable[[], bool], metrics: Metrics
) -> Answer:
    """Repeats ``action`` while a server is away; gives up, raising its last error, only when the worker stops."""

    def note(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        metrics.store_retries.inc()
        log.warning("server_away", what=what, error=str(error), attempt=state.attempt_number)

    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type((ServerUnavailable, KafkaError, OSError)),
        wait=wait_exponential(multiplier=0.1, max=5),
        stop=lambda _state: should_stop(),
        before_sleep=note,
        sleep=asyncio.sleep,
        reraise=True,
    ):
        with attempt:
            return await action()
    raise AssertionError("unreachable: the loop returns or raises")
