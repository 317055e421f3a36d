"""From an event to its alert, seen from outside: the moment it is handed to the producer, the moment a reader has it.

Between the two stand three clocks of the broker, so that one sees where the time goes, and whether the load or the
reader are what is slow:

    sent → raw record appended → block of priced events appended → alert appended to usage.alerts → read
    (load)                 (price agent)                     (count agent)                   (reader)

All of it is on one machine, so the clocks are one. Kafka's are whole milliseconds, cut off.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import psutil
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from bench.load import events

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from clickhouse.client import Store

SEED: Final = 3
#: While the first events of the load come in, memory is filled; their alerts are measured apart.
WARM_SECONDS: Final = 5.0
GIVE_UP_SECONDS: Final = 90.0
STAGES: Final = ("sent to appended", "appended to priced", "priced to alerted", "alerted to read")
SHARES: Final = (0.5, 0.9, 0.99, 1.0)


class Read(NamedTuple):
    """A message of ``usage.alerts``, when it was read, and when the broker took it (Unix seconds)."""

    read_at: float
    appended_at: float
    value: bytes


class Reader:
    """Reads ``usage.alerts`` from its end on, in a thread; nothing is parsed while it reads."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "bench-alerts", "enable.auto.commit": False, "log_level": 2}
        )
        partitions = self._consumer.list_topics(topic, timeout=30).topics[topic].partitions
        self._consumer.assign([TopicPartition(topic, partition, OFFSET_END) for partition in partitions])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.read: list[Read] = []

    def _run(self) -> None:
        while not self._stop.is_set():
            messages = self._consumer.consume(1_000, timeout=0.1)
            now = time.time()
            self.read += [
                Read(now, message.timestamp()[1] / 1e3, message.value()) for message in messages if not message.error()
            ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()


@dataclass
class Sent:
    """When each event was handed to the producer (Unix seconds), by its number."""

    at: list[float] = field(default_factory=list)
    behind_seconds: float = 0.0  # at most, behind its own schedule

    @property
    def per_second(self) -> float:
        """The rate that was reached."""
        return (len(self.at) - 1) / (self.at[-1] - self.at[0])


def send(bootstrap: str, topic: str, *, seconds: int, rate: int) -> Sent:
    """Sends events of the moment at a steady rate; returns when Kafka has acknowledged all."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 5, "acks": "all", "queue.buffering.max.messages": 2_000_000}
    )
    sent = Sent()
    load = events(seconds * rate, seed=SEED, span_seconds=None)
    began = time.monotonic()
    while len(sent.at) < seconds * rate:
        due = min(int((time.monotonic() - began) * rate), seconds * rate)
        for event in islice(load, due - len(sent.at)):
            producer.produce(topic, event)
            sent.at.append(time.time())
        producer.poll(0)
        sent.behind_seconds = max(sent.behind_seconds, time.monotonic() - began - len(sent.at) / rate)
        time.sleep(0.005)
    producer.flush()
    return sent


def measure(bootstrap: str, store: Store, *, seconds: int, rate: int, topics: tuple[str, str]) -> dict[str, Any]:
    """The seconds from an event to its alert, for all alerts that the load causes, and by stage.

    ``topics`` are those of the events and of the alerts. Workers must be at work, and rules in force.
    """
    base = _counted(store)
    with Reader(bootstrap, topics[1]) as reader:
        load_before = psutil.getloadavg()[0]
        psutil.cpu_times_percent()  # from now on
        began = time.time()
        client_before = time.process_time()
        sent = send(bootstrap, topics[0], seconds=seconds, rate=rate)
        client_seconds = time.process_time() - client_before
        idle = psutil.cpu_times_percent().idle
        counted = _wait(store, base, len(sent.at))
        caused = _caused(store)
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while len(_first_readings(reader.read)) < len(caused) and time.monotonic() < deadline:
            time.sleep(0.2)
    stages = _stages(sent, _first_readings(reader.read), caused)
    warm = stages[:, 0] - began < WARM_SECONDS
    return {
        "events_per_second": rate,
        "events_per_second_reached": sent.per_second,
        "events": len(sent.at),
        "counted": counted,
        "alerts": len(caused),
        "alerts_read": len(stages),
        "from_sent_to_read": _quantiles(stages[:, -1] - stages[:, 0]),
        "after_warming_up": _quantiles((stages[:, -1] - stages[:, 0])[~warm]),
        "by_stage": {
            name: _quantiles(stages[~warm, place + 1] - stages[~warm, place]) for place, name in enumerate(STAGES)
        },
        "client_cores": client_seconds / seconds,
        "sender_behind_seconds_max": sent.behind_seconds,
        "machine_idle_percent": idle,
        "load_1m_before": load_before,
    }


def shown(figures: Mapping[str, Any]) -> str:
    """The figures as lines to print."""
    stages = "".join(f"\n  {name}: {_words(seconds)}" for name, seconds in figures["by_stage"].items())
    return (
        f"{figures['events_per_second']:,} events/s wanted, {figures['events_per_second_reached']:,.0f} reached; "
        f"{figures['counted']:,} of {figures['events']:,} events counted, "
        f"{figures['alerts_read']:,} of {figures['alerts']:,} alerts read\n"
        f"from the sender's hands to the reader of an alert: {_words(figures['from_sent_to_read'])}\n"
        f"the same by events sent after {WARM_SECONDS:g} s: {_words(figures['after_warming_up'])}{stages}\n"
        f"by the workers' histogram {figures['histogram_p50_seconds']:.2f} s (p50), "
        f"{figures['histogram_p99_seconds']:.2f} s (p99) from appended to alerted\n"
        f"the machine was idle for {figures['machine_idle_percent']:.0f} % of that time, load average "
        f"{figures['load_1m_before']:.1f} before; sending and reading took {figures['client_cores']:.2f} of a core, "
        f"and the sender was at most {figures['sender_behind_seconds_max']:.2f} s behind its schedule"
    )


def _words(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.2f} s ({name})" for name, value in seconds.items())


def _quantiles(seconds: NDArray[np.float64]) -> dict[str, float]:
    if not len(seconds):
        return {}
    values = np.quantile(seconds, SHARES, method="inverted_cdf").tolist()
    return {"max" if share == 1 else f"p{share * 100:g}": value for share, value in zip(SHARES, values, strict=True)}


def _counted(store: Store) -> int:
    return int(store.rows("SELECT sum(requests) AS counted FROM totals_hourly")[0]["counted"])


def _wait(store: Store, base: int, events_sent: int) -> int:
    """Until all is counted, or for a while."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while (counted := _counted(store) - base) < events_sent and time.monotonic() < deadline:
        time.sleep(0.5)
    return counted


def _caused(store: Store) -> dict[tuple[str, int], tuple[int, float, float]]:
    """The alerts of the load: by whose event, when that was appended, and when its block was."""
    rows = store.rows(_CAUSED, {"prefix": f"req-{SEED:x}-"})
    return {
        (row["alert_id"], row["sequence"]): (
            int(row["crossed_id"].rpartition("-")[2], 16), row["appended_us"] / 1e6, row["priced_us"] / 1e6
        )
        for row in rows
    }  # fmt: skip


def _first_readings(read: list[Read]) -> dict[tuple[str, int], Read]:
    first: dict[tuple[str, int], Read] = {}
    for one in read:
        alert = json.loads(one.value)
        first.setdefault((alert["alert_id"], alert["sequence"]), one)
    return first


def _stages(
    sent: Sent, read: Mapping[tuple[str, int], Read], caused: Mapping[tuple[str, int], tuple[int, float, float]]
) -> NDArray[np.float64]:
    """A row for each alert that was read: sent, appended, priced, alerted, read (Unix seconds)."""
    rows = [
        (sent.at[number], appended, priced, read[name].appended_at, read[name].read_at)
        for name, (number, appended, priced) in caused.items()
        if name in read
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, len(STAGES) + 1)


_CAUSED: Final = """
SELECT
    alert_id,
    sequence,
    crossed_id,
    toUnixTimestamp64Micro(facts.received_at) AS appended_us,
    toUnixTimestamp64Micro(alerts.recorded_at) AS priced_us
FROM alerts
INNER JOIN (SELECT org, source, id, received_at FROM facts WHERE startsWith(id, {prefix:String})) AS facts
    ON facts.org = alerts.org AND facts.source = alerts.crossed_source AND facts.id = alerts.crossed_id
WHERE startsWith(crossed_id, {prefix:String})
"""
