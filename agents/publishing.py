"""Producing what others rely on: every message is awaited, in order per partition, before anything is acked."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024


class Publisher:
    """An idempotent producer whose messages are acknowledged by all replicas before ``send`` returns."""

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        self._kafka = kafka
        self._producer: Any = None
        self._restarting = asyncio.Lock()

    async def start(self) -> None:
        """Connects; raises aiokafka's errors when the broker is away."""
        producer = AIOKafkaProducer(
            **self._kafka,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=1024 * 1024,
            max_request_size=MESSAGE_BYTES_MAX,
            request_timeout_ms=30_000,
        )
        await producer.start()
        self._producer = producer

    async def stop(self) -> None:
        """Closes the connection; safe to repeat."""
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None

    @property
    def producer(self) -> Any:
        """The connected producer."""
        assert self._producer is not None, "publish after start"  # noqa: S101 -- a programmer's mistake
        return self._producer

    @asynccontextmanager
    async def _fresh_after_failure(self) -> AsyncIterator[AIOKafkaProducer]:
        """The producer, replaced by a new one when a send fails.

        An idempotent producer that lost its place (an expired batch, a broker restored from older data) would fail
        for ever.
        """
        producer = self.producer
        try:
            yield producer
        except KafkaError:
            async with self._restarting:
                if self._producer is producer:
                    self._producer = None
                    await producer.stop()
                    await self.start()
            raise

    async def partition_count(self, topic: str) -> int:
        """How many partitions a topic has."""
        return len(await self.producer.partitions_for(topic))

    async def send_in_order(
        self, topic: str, messages: Sequence[tuple[int, bytes]], *, retry: Callable[[Callable[[], Any]], Any]
    ) -> None:
        """Sends (partition, value) messages: those of one partition one after the other, each acknowledged first.

        A message whose fate is unknown is sent again before the next one of its partition may go, so that the order
        in the log is the order given; it may then stand there twice.
        """
        by_partition: dict[int, list[bytes]] = {}
        for partition, value in messages:
            by_partition.setdefault(partition, []).append(value)

        async def one_partition(partition: int, values: list[bytes]) -> None:
            for value in values:

                async def send(value: bytes = value) -> None:
                    async with self._fresh_after_failure() as producer:
                        await producer.send_and_wait(topic, value=value, partition=partition)

                await retry(send)

        await asyncio.gather(*(one_partition(partition, values) for partition, values in by_partition.items()))

    async def send_keyed(
        self, topic: str, messages: Sequence[tuple[str, bytes]], *, retry: Callable[[Callable[[], Any]], Any]
    ) -> None:
        """Sends (key, value) messages and returns when all are acknowledged; all again if any was not."""

        async def send() -> None:
            async with self._fresh_after_failure() as producer:
                sent = [await producer.send(topic, key=key.encode(), value=value) for key, value in messages]
                await asyncio.gather(*sent)

        if messages:
            await retry(send)
