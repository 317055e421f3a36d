"""The load: records to Kafka at a steady rate, in a thread, through whatever happens to the broker meanwhile."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

from confluent_kafka import KafkaException, Producer

from tests.system.views import NUMBER_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from tests.system.events import Record

DELIVERY_SECONDS_MAX: Final = 300
#: Of a thousand records so many go through a transaction, every other one of which is aborted.
TRANSACTIONAL: Final = 2
RECORDS_PER_TRANSACTION: Final = 3


class Load:
    """Sends records of a stream to random partitions until told to stop, and remembers each by its number."""

    def __init__(self, bootstrap: str, topic: str, *, partitions: int, records: Iterator[Record], seed: int) -> None:
        self._topic = topic
        self._partitions = partitions
        self._records = records
        self._random = random.Random(seed)
        options = {
            "bootstrap.servers": bootstrap,
            "message.timeout.ms": DELIVERY_SECONDS_MAX * 1000,
            "message.max.bytes": 4 * 1024 * 1024,
            "acks": "all",
            # Not idempotent: after a restart of the broker, librdkafka's state machine for that sometimes sends nothing
            # any more until all has timed out. A record that stands in the log twice is one more repeat to be found.
            "enable.idempotence": False,
            "linger.ms": 5,
            "log_level": 2,
        }
        self._producer = Producer(options)
        self._transactional = Producer(
            {
                **options,
                "enable.idempotence": True,
                "transactional.id": f"tests-{topic}",
                "message.timeout.ms": 60_000,
                "transaction.timeout.ms": 60_000,
            }
        )
        self._transactional.init_transactions(60)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.sent: dict[int, Record] = {}  # acknowledged or still under way; aborted ones are left out
        self.aborted = 0
        self.events = 0
        self.failed: list[str] = []

    def start(self, *, events_per_second: float) -> None:
        """Begins to send."""
        self._thread = threading.Thread(target=self._run, args=(events_per_second,), daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """False once the thread has ended; ``stop`` says why."""
        return self._thread is not None and self._thread.is_alive()

    def send(self, events: int) -> None:
        """Sends at least so many events as fast as it goes, here and now."""
        until = self.events + events
        while self.events < until:
            self._send_next()

    def stop(self) -> None:
        """Ends the thread and waits until Kafka has acknowledged everything."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(DELIVERY_SECONDS_MAX)
            assert not self._thread.is_alive(), "the load does not end"
        left = self._producer.flush(DELIVERY_SECONDS_MAX)
        assert self._error is None, f"the load broke: {self._error!r}"
        assert not left, f"{left} records were never acknowledged"
        assert not self.failed, f"{len(self.failed)} records were refused by Kafka, the first: {self.failed[0]}"

    def _run(self, events_per_second: float) -> None:
        started = time.monotonic()
        try:
            while not self._stop.is_set():
                ahead = self.events / events_per_second - (time.monotonic() - started)
                if ahead > 0:
                    self._producer.poll(0)
                    self._stop.wait(min(ahead, 0.1))
                else:
                    self._send_next()
        except BaseException as error:  # noqa: BLE001 -- told to the test by stop()
            self._error = error

    def _send_next(self) -> None:
        if self._random.random() * 1_000 < TRANSACTIONAL:
            self._send_transaction()
            return
        number = len(self.sent) + self.aborted
        self.sent[number] = record = next(self._records)
        self.events += len(record.items)
        self._produce(self._producer, number, record)

    def _send_transaction(self) -> None:
        """Commits or aborts a few records. Whatever happens to the broker, the transaction ends in one of the two."""
        abort = self._random.random() < 0.5
        first = len(self.sent) + self.aborted
        records = [next(self._records) for _ in range(RECORDS_PER_TRANSACTION)]
        self._transactional.begin_transaction()
        for number, record in enumerate(records, first):
            self._produce(self._transactional, number, record)
        if abort or not self._finish(self._transactional.commit_transaction):
            while not self._finish(self._transactional.abort_transaction):
                pass
            self.aborted += len(records)
            return
        self.sent |= dict(enumerate(records, first))
        self.events += sum(len(record.items) for record in records)

    def _finish(self, end: Any) -> bool:
        """True when it is done, False when the transaction has to be aborted."""
        while True:
            try:
                end(60)
            except KafkaException as error:
                if error.args[0].retriable():
                    continue
                if error.args[0].txn_requires_abort():
                    return False
                raise
            return True

    def _produce(self, producer: Any, number: int, record: Record) -> None:
        headers = [*record.headers, (NUMBER_HEADER, str(number).encode())]
        while True:
            try:
                producer.produce(
                    self._topic,
                    value=record.value,
                    key=record.key,
                    headers=headers,
                    partition=self._random.randrange(self._partitions),
                    on_delivery=self._delivered,
                )
            except BufferError:
                producer.poll(0.1)
                continue
            producer.poll(0)
            return

    def _delivered(self, error: Any, _message: Any) -> None:
        if error is not None and error.name() != "_PURGE_QUEUE":  # what an abort takes back
            self.failed.append(str(error))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)
        if kind is not None:
            self._producer.purge()
