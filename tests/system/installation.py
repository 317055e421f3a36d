"""An installation as its operator sees it: addresses, the ``tally`` command, and workers that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.topics import Topics
from tests.processes import ROOT, STOP_SECONDS_MAX, ServerProcess
from tests.system.views import rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

SESSION_SECONDS: Final = 6.0
COMMAND_SECONDS_MAX: Final = 300.0
WAIT_SECONDS_MAX: Final = 240.0
WORKER: Final = ("-m", "tally", "worker")


@dataclass(frozen=True)
class Installation:
    """Where one installation lives. Nothing of it is shared with another test but the two servers."""

    folder: Path
    bootstrap: str
    store_url: str
    prefix: str = ""
    app_id: str = "tallyhouse"
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def topics(self) -> Topics:
        """The topic names."""
        return Topics(self.prefix)

    @property
    def environment(self) -> dict[str, str]:
        """The settings of every command and worker of this installation."""
        return {
            "TALLY_KAFKA_BOOTSTRAP": self.bootstrap,
            "TALLY_STORE_URL": self.store_url,
            "TALLY_TOPIC_PREFIX": self.prefix,
            "TALLY_APP_ID": self.app_id,
            "TALLY_STATE_DIR": str(self.folder / "state"),
            "TALLY_METRICS_PORT": "0",
            "TALLY_SESSION_TIMEOUT_SECONDS": f"{SESSION_SECONDS:g}",
            "POLARS_MAX_THREADS": "1",
            **self.settings,
        }

    def tally(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "tally", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment},  # noqa: TID251 -- handed on, not read
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )

    def done(self, *arguments: str) -> str:
        """Runs a command that must succeed; hands back what it printed."""
        answer = self.tally(*arguments)
        assert answer.returncode == 0, f"tally {' '.join(arguments)} exits {answer.returncode}: {answer.stderr}"
        return answer.stdout

    def set_up(self, *, catalog: str | None = None, partitions: int = 4) -> None:
        """Topics, tables and, when given, prices."""
        self.done("migrate", "--partitions", str(partitions))
        if catalog is not None:
            self.apply(catalog)

    def apply(self, catalog: str) -> None:
        """Puts prices or rules into force."""
        path = self.folder / "catalog.yaml"
        path.write_text(catalog, encoding="utf-8")
        self.done("catalog", "apply", str(path))

    def committed(self, topic: str) -> dict[int, int]:
        """The group's committed offsets by partition; 0 where nothing was committed yet. Joins no group."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while True:
            consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.app_id, "log_level": 2})
            try:
                numbers = consumer.list_topics(topic, timeout=30).topics[topic].partitions
                places = consumer.committed([TopicPartition(topic, number) for number in numbers], timeout=30)
                return {place.partition: max(0, place.offset) for place in places}
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)  # a broker that has just started knows its groups a moment later
            finally:
                consumer.close()

    def newest_blocks(self) -> dict[int, int]:
        """The highest block of ``usage.priced`` that left a fact, by partition."""
        sql = "SELECT block_partition, max(block) FROM facts GROUP BY block_partition"
        return {int(partition): int(block) for partition, block in rows(self.store_url, sql)}

    def stored_beyond_commit(self) -> dict[int, int]:
        """How many blocks of each partition are stored and not committed yet; negative: committed and not stored."""
        committed = self.committed(self.topics.priced)
        return {partition: block + 1 - committed[partition] for partition, block in self.newest_blocks().items()}


class Worker:
    """One ``tally worker`` process, or another entry that stands in for it."""

    def __init__(self, installation: Installation, name: str, *, entry: tuple[str, ...] = WORKER) -> None:
        self.name = name
        self.server = ServerProcess(
            *entry, log=installation.folder / f"{name}.log", environment=installation.environment
        )
        self.ready: dict[str, Any] | None = None

    def wait_until_ready(self) -> dict[str, Any]:
        """Its ready line; may be asked again."""
        if self.ready is None:
            self.ready = self.server.wait_until_ready()
        return self.ready

    def wait_until_ended(self) -> int:
        """Its exit code, once it has one; a worker that does not end is killed and fails."""
        try:
            return self.server.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{self.name} does not end: {self.server.stderr()[-3_000:]}") from error
        finally:
            self.server.kill()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.server.process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal and does not wait."""
        self.server.process.send_signal(number)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The lines that it logged of one kind."""
        found = []
        for line in self.server.stderr().splitlines():
            if line.startswith("{") and f'"event": "{event}"' in line:
                try:
                    found.append(json.loads(line))
                except ValueError:  # half a line: it was killed while writing
                    continue
        return found

    def priced_partitions(self, installation: Installation) -> set[int]:
        """The partitions of ``usage.priced`` that it was given last."""
        assigned = self.lines("partitions_assigned")
        names = assigned[-1]["partitions"] if assigned else []
        of_priced = (name.rpartition("/") for name in names)
        return {int(number) for topic, _, number in of_priced if topic == installation.topics.priced}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.kill()


class Fleet:
    """Workers under a supervisor: one that ends is replaced. Start and use it from one thread that stays alive."""

    def __init__(self, installation: Installation, size: int, *, entry: tuple[str, ...] = WORKER) -> None:
        self._installation = installation
        self._entry = entry
        self._size = size
        self.all: list[Worker] = []
        self.live: list[Worker] = []
        self.unasked_ends: list[str] = []

    def start(self) -> None:
        """All of them, and waits until each is a member of the group."""
        self.live = [self._new() for _ in range(self._size)]
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Until each live worker has been a member of the group once."""
        for worker in self.live:
            worker.wait_until_ready()

    def kill(self, worker: Worker) -> None:
        """SIGKILL; its successor starts at once."""
        worker.server.kill()
        self._replace(worker)

    def terminate(self, worker: Worker) -> int:
        """SIGTERM to a worker that is at work; hands back the exit code; its successor starts then."""
        worker.wait_until_ready()
        code = worker.server.stop()
        self._replace(worker)
        return code

    def tend(self) -> None:
        """Replaces those that ended by themselves and notes why."""
        for worker in list(self.live):
            if worker.exit_code is not None:
                tail = " | ".join(worker.server.stderr().splitlines()[-3:])
                self.unasked_ends.append(f"{worker.name} ended with {worker.exit_code}: {tail}")
                worker.server.kill()  # closes what is left of it
                self._replace(worker)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The lines of one kind of all workers that ever lived."""
        return [line for worker in self.all for line in worker.lines(event)]

    def stop(self) -> list[int]:
        """SIGTERM to all once they are at work; hands back their exit codes."""
        self.wait_until_ready()
        live, self.live = self.live, []
        for worker in live:
            worker.signal(signal.SIGTERM)
        return [worker.wait_until_ended() for worker in live]

    def _new(self) -> Worker:
        worker = Worker(self._installation, f"worker-{len(self.all)}", entry=self._entry)
        self.all.append(worker)
        return worker

    def _replace(self, worker: Worker) -> None:
        self.live[self.live.index(worker)] = self._new()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.live:
            worker.server.kill()


def wait_until(condition: Callable[[], bool], *, what: str, seconds: float = WAIT_SECONDS_MAX) -> None:
    """Looks again and again; fails with what it waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
