"""``tally send``: lines of NDJSON as records of ``usage.events``, each as it is, acknowledged by all replicas.

A broken line is sent like any other: the pipeline refuses it visibly, with its coordinates. Records are put into
batches by hand, one open batch per partition, because that costs a tenth of sending them one by one.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.partitioner import murmur2

from schemas.errors import BrokerUnavailable, WrongUse
from schemas.topics import MIB
from tally.kafka import (
    admin,
    client_settings,
    close,
    missing_topic,
    partitions,
    run,
    start,
)
from tally.output import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from aiokafka.producer.message_accumulator import BatchBuilder

    from tally.settings import Settings

READ_BYTES: Final = MIB
SLOW_READ_BYTES: Final = 32 * 1024  # half of what a pipe holds
BATCH_BYTES: Final = 256 * 1024
#: Batches that wait for their acknowledgement, per partition; memory is bounded by this times the batch size.
BATCHES_IN_FLIGHT: Final = 4
#: A broker that is away is waited for this much longer than at the start: a partition may be getting a new leader.
PATIENCE: Final = 3
#: A paced sender sends this often, so that a rate of 10,000 a second is a steady stream and not one heap a second.
TICK_SECONDS: Final = 0.05
#: What a record batch of one record needs beside its value: 61 bytes of head, varints, the key.
RECORD_OVERHEAD_BYTES: Final = 256
KEY_CHARACTERS_MAX: Final = 128  # of an org (contract of the event)
KEYS_REMEMBERED: Final = 100_000


def send(settings: Settings, source: Path | None, *, by_org: bool = True, rate: float | None = None) -> int:
    """Sends every line of the file (None: standard input) and hands back how many, once all are acknowledged.

    ``rate`` is records per second; None sends as fast as the broker takes them. Lines without anything but white
    space are skipped. With ``by_org`` the key is the org (``subject``) when it can be read, else there is none.

    Raises:
        WrongUse: no such file, no topic, or a line that the topic is too small for; the lines before it were sent.
        BrokerUnavailable: Kafka is away; the sentence says how many records are known to be in the log.
    """
    if rate is not None and rate <= 0:
        raise WrongUse("--rate must be above 0 records per second.")
    with _opened(source) as (lines, size), _progress(size, lines.name) as progress:
        return run(settings, _send(settings, lines, by_org=by_org, rate=rate, progress=progress))


async def _send(settings: Settings, lines: _Lines, *, by_org: bool, rate: float | None, progress: _Progress) -> int:
    topic = settings.topics.events
    async with admin(settings) as client:
        numbers = (await partitions(client, [topic]))[topic]
        if not numbers:
            raise missing_topic(settings, topic)
        lines.bytes_max = await _record_bytes_max(client, topic)
    patience_seconds = PATIENCE * settings.connect_seconds
    producer = AIOKafkaProducer(
        **client_settings(settings),
        acks="all",
        enable_idempotence=True,
        max_batch_size=BATCH_BYTES,
        request_timeout_ms=int(patience_seconds * 1000),
    )
    await start(producer, settings)
    outbox = _Outbox(producer, topic, numbers, by_org=by_org, patience_seconds=patience_seconds)
    try:
        await _send_all(lines, outbox, rate=rate, progress=progress)
    except kafka_errors.MessageSizeTooLargeError as error:
        raise WrongUse(
            f"The topic {topic} refuses a record of {lines.name} as too large after {counted(outbox.sent, 'record')} "
            "had been acknowledged: correct max.message.bytes with `tally migrate`, or split the line."
        ) from error
    except (kafka_errors.KafkaError, TimeoutError) as error:
        raise BrokerUnavailable(
            f"Kafka at {settings.kafka_bootstrap} stopped answering ({type(error).__name__}) after "
            f"{counted(outbox.sent, 'record')} of {lines.name} had been acknowledged: "
            "send it again when Kafka is back, a repeat is not counted "
            "twice."
        ) from error
    finally:
        await close(producer)
    return outbox.sent


async def _send_all(lines: _Lines, outbox: _Outbox, *, rate: float | None, progress: _Progress) -> None:
    pace = None if rate is None else _Pace(rate)
    while (chunk := await lines.next_chunk()) is not None:
        if pace is None:
            await outbox.put(chunk)
        else:
            for part in pace.parts(chunk):
                await outbox.put(part)
                await outbox.submit_all()
                await pace.wait()
        if lines.input_is_slow:  # a pipe: what is there goes out now, not when a batch is full
            await outbox.submit_all()
        progress.advance(lines.bytes_read)
    await outbox.finish()
    if lines.too_large is not None:
        raise WrongUse(
            f"Line {lines.too_large} of {lines.name} is larger than the {lines.bytes_max} bytes that the topic takes: "
            f"{counted(outbox.sent, 'record')} before it went out; remove the line and send what follows it."
        )


async def _record_bytes_max(client: Any, topic: str) -> int:  # noqa: ANN401 -- aiokafka has no types
    """The largest value that a record of the topic may have, with some room for its key."""
    answers = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    for answer in answers:
        for resource in answer.to_object()["resources"]:
            for entry in resource["config_entries"]:
                if entry["config_names"] == "max.message.bytes":
                    return int(entry["config_value"]) - RECORD_OVERHEAD_BYTES
    return 2 * MIB  # a user who may write but not describe: the broker judges


class _Lines:
    """A stream cut into lists of lines; holds at most one read and one unfinished line."""

    def __init__(self, descriptor: int, name: str, *, may_block: bool) -> None:
        self.name = name
        self.bytes_max = MIB
        self.bytes_read = 0
        self.input_is_slow = False
        self.too_large: int | None = None  # the number of the line that ended the reading
        self._descriptor = descriptor
        self._may_block = may_block
        self._rest = b""
        self._handed_out = 0
        self._ended = False

    async def next_chunk(self) -> list[bytes] | None:
        """The next lines without their ends, empty ones left out; None at the end, or before a line too large."""
        if self._ended:
            return None
        read = await self._read()
        self.bytes_read += len(read)
        self.input_is_slow = len(read) < SLOW_READ_BYTES
        self._ended = not read
        lines = (self._rest + read).split(b"\n")
        self._rest = b"" if self._ended else lines.pop()
        lines = self._up_to_too_large(lines)
        self._handed_out += len(lines)
        return [line.removesuffix(b"\r") for line in lines if line and not line.isspace()]

    def _up_to_too_large(self, lines: list[bytes]) -> list[bytes]:
        sizes = [*map(len, lines), len(self._rest)]
        if max(sizes) <= self.bytes_max:
            return lines
        place = next(place for place, size in enumerate(sizes) if size > self.bytes_max)
        self.too_large = self._handed_out + place + 1
        self._ended = True
        return lines[:place]

    async def _read(self) -> bytes:
        """The next bytes, b"" at the end. A pipe is read in a thread that an interrupt does not have to wait for."""
        if not self._may_block:
            return os.read(self._descriptor, READ_BYTES)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()

        def settle(read: bytes) -> None:
            if not answer.done():
                answer.set_result(read)

        def work() -> None:
            read = os.read(self._descriptor, READ_BYTES)
            with suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(settle, read)

        threading.Thread(target=work, daemon=True).start()
        return await answer


class _Outbox:
    """One open batch per partition, and the acknowledgements that are still out."""

    def __init__(
        self, producer: AIOKafkaProducer, topic: str, numbers: list[int], *, by_org: bool, patience_seconds: float
    ) -> None:
        self.sent = 0  # acknowledged
        self._patience_seconds = patience_seconds
        self._producer = producer
        self._topic = topic
        self._numbers = numbers
        self._open: dict[int, BatchBuilder] = {}
        self._in_flight: list[tuple[asyncio.Future[Any], int]] = []
        self._partition_of: dict[bytes, int] = {}
        self._by_org = by_org
        self._next_keyless = 0

    async def put(self, lines: list[bytes]) -> None:
        """Puts lines into the batches of their partitions; full ones go out, and waiting for them is the brake."""
        now_ms = int(time.time() * 1000)  # the broker puts its own time in its place (LogAppendTime)
        for line in lines:
            key = _org_of(line) if self._by_org else None
            number = self._partition(key)
            batch = self._open.get(number)
            if batch is None:
                batch = self._open[number] = self._producer.create_batch()
            if batch.append(timestamp=now_ms, key=key, value=line) is None:
                await self._submit(number)
                if key is None:  # records without a key fill one batch after the other, as Kafka's own producer does
                    number = self._partition(None)
                batch = self._open.setdefault(number, self._producer.create_batch())
                if batch.append(timestamp=now_ms, key=key, value=line) is None:
                    await self._submit(number)
                    batch = self._open[number] = self._producer.create_batch()
                    batch.append(timestamp=now_ms, key=key, value=line)

    def _partition(self, key: bytes | None) -> int:
        if key is None:
            return self._numbers[self._next_keyless % len(self._numbers)]
        number = self._partition_of.get(key)
        if number is None:
            if len(self._partition_of) >= KEYS_REMEMBERED:
                self._partition_of.clear()
            number = self._numbers[(murmur2(key) & 0x7FFFFFFF) % len(self._numbers)]
            self._partition_of[key] = number
        return number

    async def _submit(self, number: int) -> None:
        batch = self._open.pop(number)
        self._next_keyless += 1
        count = batch.record_count()
        future = await self._producer.send_batch(batch, self._topic, partition=number)
        self._in_flight.append((future, count))
        if len(self._in_flight) > BATCHES_IN_FLIGHT * len(self._numbers):
            await self._acknowledged(1)

    async def submit_all(self) -> None:
        """Sends what is there, full or not."""
        for number in list(self._open):
            await self._submit(number)

    async def finish(self) -> None:
        """Sends what is left and waits until everything is acknowledged."""
        await self.submit_all()
        await self._acknowledged(len(self._in_flight))

    async def _acknowledged(self, count: int) -> None:
        for future, records in self._in_flight[:count]:
            # An idempotent producer of aiokafka never gives up by itself.
            async with asyncio.timeout(self._patience_seconds):
                await future
            self.sent += records
        del self._in_flight[:count]


class _Head(msgspec.Struct):
    subject: str


_HEAD: Final = msgspec.json.Decoder(_Head | list[_Head])


def _org_of(line: bytes) -> bytes | None:
    """The org of an event, or of the first event of a batch; None when it can't be read."""
    try:
        head = _HEAD.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(head, list):
        if not head:
            return None
        head = head[0]
    return head.subject.encode() if len(head.subject) <= KEY_CHARACTERS_MAX else None


class _Pace:
    """So many records a second, measured from the start, so that a slow moment is caught up with."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._started = time.monotonic()
        self._given = 0

    def parts(self, lines: list[bytes]) -> Iterator[list[bytes]]:
        size = max(1, int(self._rate * TICK_SECONDS))
        for first in range(0, len(lines), size):
            part = lines[first : first + size]
            self._given += len(part)
            yield part

    async def wait(self) -> None:
        due = self._started + self._given / self._rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))


@contextmanager
def _opened(source: Path | None) -> Iterator[tuple[_Lines, int | None]]:
    """The lines of the file or of standard input, and the size in bytes when it is known."""
    if source is None:
        yield _Lines(sys.stdin.fileno(), "standard input", may_block=True), None
        return
    try:
        stream = source.open("rb", buffering=0)
        size = source.stat().st_size if source.is_file() else None
    except OSError as error:
        raise WrongUse(f"{source} can't be read ({error.strerror}): name a file of one JSON event per line.") from error
    with stream:
        yield _Lines(stream.fileno(), str(source), may_block=size is None), size


class _Progress:
    """A bar on a terminal, nothing elsewhere."""

    def advance(self, _bytes_read: int) -> None:
        """Moves the bar to this many bytes."""


def _progress(size: int | None, name: str) -> AbstractContextManager[_Progress]:
    if size is None or not sys.stderr.isatty():
        return nullcontext(_Progress())
    return _bar(size, name)


@contextmanager
def _bar(size: int, name: str) -> Iterator[_Progress]:
    from rich.console import Console  # noqa: PLC0415 -- only where a person looks
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as shown:
        task = shown.add_task(f"sending {name}", total=size)

        class Bar(_Progress):
            def advance(self, bytes_read: int) -> None:
                shown.update(task, completed=bytes_read)

        yield Bar()
