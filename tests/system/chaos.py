"""A run under faults: load on real servers and real workers, blows from a seeded list, and a verdict at the end."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from tests.processes import broker_process, store_process
from tests.system.alerting import EDITED_RULES, RULES, check_alerts
from tests.system.events import EventStream
from tests.system.installation import SESSION_SECONDS, WORKER, Fleet, Installation, Worker, wait_until
from tests.system.oracle import Differences, Expected, differences, expect
from tests.system.planted import INSERT_BEGUN, INSERT_ENDED, INSERT_GIVEN_UP, PUBLISH_AWAITED, PUBLISH_BEGUN
from tests.system.prices import BOOK
from tests.system.sending import Load
from tests.system.views import appended, read_views

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.processes import ServerProcess

PARTITIONS: Final = 4
DRAIN_SECONDS: Final = 240
#: How long a blow may wait for what it is aimed at: one of many, and one that has to hit. How often that may miss.
AIM_SECONDS: Final = 5.0
AIM_TO_HIT_SECONDS: Final = 60.0
BLOWS_MAX: Final = 10
#: After that long everything that a killed worker sent to the store is written.
SETTLE_SECONDS: Final = 0.5
STORE_AWAY_SECONDS: Final = 2.0


class Fault(Enum):
    """What happens to the installation."""

    WORKER_KILLED = "SIGKILL to a worker"
    WORKER_TERMINATED = "SIGTERM to a worker"
    WORKER_PAUSED = "SIGSTOP of a worker beyond its session"
    STORE_KILLED = "SIGKILL to the store"
    BROKER_RESTARTED = "broker restarted"


class Aim(Enum):
    """What a blow is to find under way, and what is counted as its hits."""

    STORED = "blocks stored, not committed"
    COMMITTED = "blocks committed, not stored"  # no worker without a planted bug has any
    INSERTS = "inserts given up"  # likewise
    ALERTS = "alerts stored, not published"  # likewise: no other worker says so


@dataclass(frozen=True)
class Plan:
    """How much load, how many workers, which faults."""

    seed: int
    workers: int
    events: int  # at least
    events_per_second: float
    faults: dict[Fault, int] = field(default_factory=dict)
    aim: Aim = Aim.STORED
    is_repeated: bool = False  # each blow is repeated until it hits, within limits
    entry: tuple[str, ...] = WORKER
    has_rules: bool = True  # without them nothing stumbles over facts that a planted bug lost

    def schedule(self, generator: random.Random) -> list[Fault]:
        """The faults in the order of this seed."""
        listed = [fault for fault, times in self.faults.items() for _ in range(times)]
        generator.shuffle(listed)
        return listed


@dataclass
class Verdict:
    """What came out, and what proves that the faults bit."""

    seed: int
    differences: Differences
    expected: Expected
    facts: int
    aborted: int
    alerts: dict[str, int] = field(default_factory=dict)  # by transition
    drain: str = ""
    audit: str = ""
    blows: list[Fault] = field(default_factory=list)
    aim: Aim = Aim.STORED
    hits: list[int] = field(default_factory=list)  # by kill: how much of what it was aimed at it found
    replays: int = 0
    restored: int = 0
    taken_back: int = 0  # partitions restored to another block than their first
    exit_codes: list[int] = field(default_factory=list)
    unasked_ends: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        sent, bitten = self.expected, sum(count > 0 for count in self.hits)
        kinds = {fault.value: self.blows.count(fault) for fault in Fault if fault in self.blows}
        lines = {
            "seed": f"{self.seed}, {self.seconds:.0f} s",
            "events sent": f"{sent.events}: {len(sent.refused)} to refuse, {sent.repeats} repeats, {sent.late} late",
            "records aborted": self.aborted,
            "facts": self.facts,
            "alerts": self.alerts,
            "faults": kinds,
            "kills that hit work in flight": f"{bitten} of {len(self.hits)}",
            self.aim.value: self.hits,
            "events replayed": self.replays,
            "partitions restored": f"{self.restored}, {self.taken_back} of them to a block in the middle",
            "exit codes of workers told to stop": self.exit_codes,
            "workers that ended by themselves": self.unasked_ends,
            "drain": self.drain or "ok",
            "audit": self.audit or "ok",
            "differences": self.differences or "none",
        }
        return "\n".join(f"{name}: {value}" for name, value in lines.items())


class Run:
    """One installation on servers of its own, under one plan; leaving the ``with`` stops everything."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._folder = folder
        self._broker = broker_process(folder / "broker")
        self._store = store_process(folder / "store")
        self._blows: list[Fault] = []
        self._hits: list[int] = []
        self._exit_codes: list[int] = []

    def verdict(self) -> Verdict:
        """Runs the plan to its end and compares what is there with what must be."""
        started = time.monotonic()
        bootstrap = self._broker.wait_until_ready()["bootstrap"]
        installation = Installation(self._folder, bootstrap, self._store.wait_until_ready()["url"])
        installation.set_up(catalog=BOOK, partitions=PARTITIONS)
        if self._plan.has_rules:
            installation.apply(RULES)
        records = iter(EventStream(random.Random(self._plan.seed), now=lambda: datetime.now(UTC)))
        load = Load(
            bootstrap, installation.topics.events, partitions=PARTITIONS, records=records, seed=self._plan.seed
        )  # fmt: skip
        with load, Fleet(installation, self._plan.workers, entry=self._plan.entry) as fleet:
            fleet.start()
            load.start(events_per_second=self._plan.events_per_second)
            _wait_for_progress(installation, fleet)
            faults = self._plan.schedule(self._random)
            for fault in faults[: len(faults) // 2]:
                self._strike(fault, installation, fleet)
            if self._plan.has_rules:
                installation.apply(EDITED_RULES)
            for fault in faults[len(faults) // 2 :]:
                self._strike(fault, installation, fleet)
            self._wait_for_load(load, fleet)
            load.stop()
            drain = self._drain(installation, fleet)
            self._exit_codes += fleet.stop()
            verdict = self._judge(installation, load, fleet)
        verdict.drain = drain
        verdict.audit = _why(installation.tally("audit"))
        verdict.seconds = time.monotonic() - started
        return verdict

    def _wait_for_load(self, load: Load, fleet: Fleet) -> None:
        def enough() -> bool:
            fleet.tend()
            return load.events >= self._plan.events or not load.running

        wait_until(enough, what=f"{self._plan.events} events are sent", seconds=900)

    def _drain(self, installation: Installation, fleet: Fleet) -> str:
        """Drains while the fleet is looked after: a worker that ends by itself must not be missed for it."""
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(installation.tally, "drain", "--timeout", str(DRAIN_SECONDS))
            while not answer.done():
                fleet.tend()
                time.sleep(0.2)
            return _why(answer.result())

    def _judge(self, installation: Installation, load: Load, fleet: Fleet) -> Verdict:
        topics = installation.topics
        expected = expect(load.sent, appended(installation.bootstrap, topics.events))
        views = read_views(
            installation.store_url, bootstrap=installation.bootstrap, rejected_topic=topics.rejected
        )  # fmt: skip
        counted, restored = fleet.lines("batch_counted"), fleet.lines("partition_restored")
        found = differences(expected, views, topic=topics.events)
        alerts = check_alerts(
            found, bootstrap=installation.bootstrap, store_url=installation.store_url, topics=topics
        )  # fmt: skip
        lost = set(load.sent) - expected.numbers
        for number in sorted(lost):
            found.add("the log: missing", f"record {number} was acknowledged and is not in the raw topic")
        return Verdict(
            seed=self._plan.seed,
            differences=found,
            expected=expected,
            facts=len(views.facts),
            alerts=dict(Counter(alert["transition"] for alert in alerts)),
            aborted=load.aborted,
            blows=self._blows,
            aim=self._plan.aim,
            hits=self._hits,
            replays=sum(line["replays"] for line in counted),
            restored=len(restored),
            taken_back=sum(line["before_block"] > 0 for line in restored),
            exit_codes=self._exit_codes,
            unasked_ends=fleet.unasked_ends,
        )

    # The blows. Each ends when counting goes on, so that they hit a system at work.

    def _strike(self, fault: Fault, installation: Installation, fleet: Fleet) -> None:
        for _ in range(BLOWS_MAX if self._plan.is_repeated else 1):
            fleet.tend()
            self._blow(fault, installation, fleet)
            self._blows.append(fault)
            _wait_for_progress(installation, fleet)
            if self._plan.aim is Aim.INSERTS:  # known only now
                self._hits.append(len(fleet.lines(INSERT_GIVEN_UP)) - sum(self._hits))
            time.sleep(self._random.uniform(0.0, 2.0))
            if self._plan.is_repeated and self._hits[-1]:
                return

    def _blow(self, fault: Fault, installation: Installation, fleet: Fleet) -> None:
        worker = self._random.choice(fleet.live)
        match fault:
            case Fault.WORKER_KILLED:
                self._kill(worker, installation, fleet)
            case Fault.WORKER_TERMINATED:
                self._exit_codes.append(fleet.terminate(worker))
            case Fault.WORKER_PAUSED:
                _pause(worker)
            case Fault.STORE_KILLED:
                if self._plan.aim is Aim.INSERTS:
                    self._take_aim(lambda: _inserts_under_way(fleet))
                self._store.kill()
                time.sleep(STORE_AWAY_SECONDS)
                self._store = store_process(self._folder / "store", port=_port(installation.store_url))
                self._store.wait_until_ready()
            case Fault.BROKER_RESTARTED:
                self._broker.stop()
                self._broker = broker_process(self._folder / "broker", port=_port(f"//{installation.bootstrap}"))
                self._broker.wait_until_ready()

    def _kill(self, worker: Worker, installation: Installation, fleet: Fleet) -> None:
        """Waits a little for work in flight; the hits are counted after the kill, when nobody goes on for the dead."""

        def in_flight() -> int:
            return _in_flight(worker, installation, self._plan.aim)

        self._take_aim(in_flight)
        worker.server.kill()
        time.sleep(SETTLE_SECONDS)
        self._hits.append(in_flight())
        fleet.kill(worker)

    def _take_aim(self, under_way: Callable[[], int]) -> None:
        deadline = time.monotonic() + (AIM_TO_HIT_SECONDS if self._plan.is_repeated else AIM_SECONDS)
        while not under_way() and time.monotonic() < deadline:
            time.sleep(self._random.uniform(0.0, 0.1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._store, self._broker):
            _end(server)


def _pause(worker: Worker) -> None:
    """Longer than its session, so that others take over and its late writes and commits come from the past."""
    worker.wait_until_ready()
    given = len(worker.lines("partitions_assigned"))
    worker.signal(signal.SIGSTOP)
    time.sleep(SESSION_SECONDS + 2)
    worker.signal(signal.SIGCONT)
    wait_until(
        lambda: worker.exit_code is not None or len(worker.lines("partitions_assigned")) > given,
        what="the paused worker was thrown out of the group and joined it again",
    )


def _in_flight(worker: Worker, installation: Installation, aim: Aim) -> int:
    if aim is Aim.ALERTS:
        return len(worker.lines(PUBLISH_AWAITED)) - len(worker.lines(PUBLISH_BEGUN))
    own = worker.priced_partitions(installation)
    sign = -1 if aim is Aim.COMMITTED else 1
    return sum(max(0, sign * blocks) for at, blocks in installation.stored_beyond_commit().items() if at in own)


def _inserts_under_way(fleet: Fleet) -> int:
    over = len(fleet.lines(INSERT_ENDED)) + len(fleet.lines(INSERT_GIVEN_UP))
    return len(fleet.lines(INSERT_BEGUN)) - over


def _wait_for_progress(installation: Installation, fleet: Fleet) -> None:
    """Until every partition of the raw topic was committed beyond where it was, so that nobody stands still."""
    topic = installation.topics.events
    before = installation.committed(topic)

    def moved() -> bool:
        fleet.tend()
        now = installation.committed(topic)
        return all(now[partition] > offset for partition, offset in before.items())

    wait_until(moved, what=f"commits go on beyond {before} in every partition")


def _end(server: ServerProcess) -> None:
    if server.process.poll() is None:
        server.kill()


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _why(answer: Any) -> str:
    """How a command failed; nothing when it succeeded."""
    if answer.returncode == 0:
        return ""
    return f"exit {answer.returncode}: {answer.stderr.strip()[-500:]} {answer.stdout.strip()[-1500:]}"
