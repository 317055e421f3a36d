"""The price side: workers that do around ``route`` what ``agents/price.py`` does, in any weather.

    chunks of usage.events → price under the revision in force → blocks, in order per partition, each awaited → ack

What comes of it is a log. Nothing on the count side is ever looked at here, so every interleaving of both sides is one
of the count side with a log that grows: the two are simulated one after the other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.simulator.bugs import Bug
from tests.simulator.faults import CALM, Fate, Weather
from tests.simulator.group import Group
from tests.simulator.world import PARTITIONS, RAW_PARTITIONS, Log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from tests.simulator.setting import Setting
    from tests.simulator.world import Record, Routed, World

TICKS_MAX = 2_000
#: How often events are restated for planted bugs that need it, and rules edited, besides what the weather brings.
RESTATED_PER_TICK = 0.15
EDITED_PER_TICK = 0.05


@dataclass
class _Chunk:
    raw_partition: int
    end: int
    records: list[Record]
    generation: int
    seeks: int


@dataclass
class _PriceWorker:
    """One worker process, as far as pricing goes."""

    pricing: Pricing
    name: str
    generation: int = 0
    seeks: int = 0
    position: dict[int, int] = field(default_factory=dict)
    held: list[_Chunk] = field(default_factory=list)
    acked: dict[int, int] = field(default_factory=dict)
    task: Iterator[None] | None = None
    asleep: int = 0

    def join(self) -> None:
        """Learns of the current generation, and reads on from what is committed."""
        group = self.pricing.group
        self.generation = group.generation
        self.position = {partition: group.committed.get(partition, 0) for partition in group.owned_by(self.name)}
        self.acked = {}

    def seek(self) -> None:
        """Back to the committed offsets within the living process: what was not acked is read again."""
        committed = self.pricing.group.committed
        self.seeks += 1
        self.held = []
        self.acked = {}
        self.position = {partition: committed.get(partition, 0) for partition in self.position}

    def abort(self) -> None:
        """The batch in work is cancelled, the process lives on."""
        self.task = None
        self.seek()

    def step(self) -> None:
        """One thing that a worker does."""
        rng = self.pricing.rng
        if self.acked and rng.random() < 0.3:
            self._commit()  # the transport commits by itself, whatever is being worked off
        elif self.task is not None:
            if next(self.task, "over") == "over":
                self.task = None
        elif self.held and rng.random() < 0.6:
            # What an older generation delivered comes again, here or elsewhere.
            chunks = [chunk for chunk in self.held if chunk.generation == self.generation]
            self.held = []
            self.task = self._work(chunks)
        else:
            self._fetch()

    def _fetch(self) -> None:
        pricing = self.pricing
        open_ = [p for p, position in self.position.items() if position < len(pricing.world.raw[p])]
        if not open_:
            if self.generation != pricing.group.generation:
                self.join()
            return
        partition = pricing.rng.choice(open_)
        start = self.position[partition]
        end = min(start + pricing.rng.randint(1, 3), len(pricing.world.raw[partition]))
        records = pricing.world.raw[partition][start:end]
        self.held.append(_Chunk(partition, end, records, self.generation, self.seeks))
        self.position[partition] = end

    def _work(self, chunks: list[_Chunk]) -> Iterator[None]:
        pricing, bug = self.pricing, self.pricing.bug
        if bug is Bug.ACK_BEFORE_SENT:
            self._ack(chunks)
        revision = pricing.revision
        waiting: dict[int, deque[Routed]] = {}
        for routed in pricing.route(chunks, revision):
            waiting.setdefault(routed[0], deque()).append(routed)
        while waiting:
            yield
            partition = pricing.rng.choice(list(waiting))  # partitions go side by side, each in its own order
            is_heard = pricing.send(self.name, waiting[partition][0], revision)
            if bug is Bug.SENDS_PAST_UNRESOLVED and not is_heard and len(waiting[partition]) > 1:
                waiting[partition].rotate(-1)
            elif is_heard or bug is Bug.TIMEOUT_TAKEN_AS_SENT:
                waiting[partition].popleft()
            if not waiting[partition]:
                del waiting[partition]
        yield
        if bug is not Bug.ACK_BEFORE_SENT:
            self._ack(chunks)

    def _ack(self, chunks: list[_Chunk]) -> None:
        for chunk in chunks:
            if (chunk.generation, chunk.seeks) == (self.generation, self.seeks):
                self.acked[chunk.raw_partition] = chunk.end

    def _commit(self) -> None:
        group = self.pricing.group
        partition, position = self.acked.popitem()
        if not group.commit(self.name, self.generation, partition, position):
            self.join()


class Pricing:
    """One schedule of the price side."""

    def __init__(self, world: World, rng: Random, *, setting: Setting, trace: list[str] | None = None) -> None:
        self.world = world
        self.rng = rng
        self.bug = setting.bug
        self._restates = setting.bug is not None and setting.bug.is_in_corrections
        self.log = Log()
        self.group = Group(RAW_PARTITIONS, takes_commits_of_zombies=setting.zombies_may_commit)
        self.revision = 1
        self.counts = {"price_crashes": 0, "late_sends": 0, "restatements": 0}
        self._weather = CALM if setting.is_calm else Weather.drawn(rng)
        self._late: list[tuple[Routed, int, str]] = []
        self._trace = trace
        self._named = 0
        self._announced = 0
        self._workers = [self._new() for _ in range(1 if setting.is_calm else rng.choice((1, 2, 3)))]

    def run(self) -> Log:
        """The log that came of it, complete and checked."""
        self._rebalance()
        if self.rng.random() < 0.8:
            self._announce()
        for _ in range(self.rng.randint(5, 60)):
            self._tick()
        self._weather = CALM
        if self.group.takes_commits_of_zombies:
            self._weather = replace(CALM, rebalance=0.02)  # else a commit that went back would stay there
        for worker in self._workers:
            worker.asleep = min(worker.asleep, 3)
        for _ in range(TICKS_MAX):
            if self._is_done():
                break
            self._tick()
        assert self._is_done(), "the price side does not come to an end"
        if self.bug is not Bug.ROUTED_BY_RAW_PARTITION:
            self.log.check(self.world.raw)
        return self.log

    def route(self, chunks: list[_Chunk], revision: int) -> list[Routed]:
        """The blocks of some chunks."""
        if self.bug is Bug.ROUTED_BY_RAW_PARTITION:
            return [
                routed
                for chunk in chunks
                for routed in self.world.route(chunk.records, revision=revision, to_partition=chunk.raw_partition)
            ]
        in_order = sorted(chunks, key=lambda chunk: chunk.raw_partition)
        records = [record for chunk in in_order for record in chunk.records]
        return self.world.route(records, revision=revision) if records else []

    def send(self, name: str, routed: Routed, revision: int) -> bool:
        """Sends one block and says whether the sender heard that it is in the log."""
        fate = self._weather.fate(self.rng)
        if fate in (Fate.DONE, Fate.UNHEARD):
            self._append(routed, revision)
        if fate in (Fate.LATE, Fate.HALF):
            self._late.append((routed, revision, ""))
        if self._trace is not None:
            places = [f"{e.partition}/{e.offset}/{e.index}" for e in routed[1]]
            self._trace.append(f"{name} sends {places} to {routed[0]}: {fate.value}")
        return fate.is_heard

    def _append(self, routed: Routed, revision: int, run: str = "") -> None:
        partition, events, message = routed
        self.log.append(partition, events, message, revision=revision, hole=self.rng.random() < 0.2, run=run)

    def _tick(self) -> None:
        rng = self.rng
        if self._late and rng.random() < 0.15:
            self._append(*self._late.pop(rng.randrange(len(self._late))))
            self.counts["late_sends"] += 1
            self._note("a block that had timed out reaches the log")
            return
        if self._restates and self._weather is not CALM and rng.random() < RESTATED_PER_TICK:
            self._restate()
            return
        if len(self.world.controls) > 1 and rng.random() < EDITED_PER_TICK:
            self._announce()
            return
        worker = rng.choice(self._workers)
        if worker.asleep:
            worker.asleep -= 1
        elif rng.random() < self._weather.trouble:
            self._trouble(worker)
        else:
            worker.step()

    def _trouble(self, worker: _PriceWorker) -> None:
        match self._weather.which(self.rng):
            case "crash":
                self._crash(worker)
            case "pause":
                worker.asleep = self.rng.randint(5, 40)
                self._rebalance(without=worker)
            case "rebalance":
                self._rebalance()
            case "revision":
                self._apply_catalog()
            case "restate":
                self._restate()
            case "seek":
                worker.seek()
            case "abort":
                worker.abort()

    def _apply_catalog(self) -> None:
        """A new revision is in force, and a control block in every partition of the log says so."""
        self.revision = 3 - self.revision
        self._announce()
        self._note(f"revision {self.revision} is applied")

    def _announce(self) -> None:
        """What is in force now, in every partition; now and then what was in force before comes once more."""
        controls = self.world.controls
        said = controls[min(self._announced, len(controls) - 1)]
        if self._announced and self.rng.random() < 0.2:
            said = self.rng.choice(controls[: self._announced])
        else:
            self._announced += 1
        for partition in range(PARTITIONS):
            self.log.append_control(partition, said, hole=self.rng.random() < 0.5)
        self._note(f"control blocks say {said.to_json()}")

    def _restate(self) -> None:
        """A part of a run of `tally reprice`: events that were counted, were not yet, or say something else.

        Some of its blocks are produced twice.
        """
        rng = self.rng
        revision, run = rng.choice((1, 2, 3)), rng.choice(("run-1", "run-2", "run-3"))
        events = [event for records in self.world.raw for record in records for event in record]
        drawn = sorted(rng.sample(events, min(len(events), rng.randint(1, 3))), key=lambda event: event.coordinates)
        said = tuple(replace(event, user="other") if rng.random() < 0.1 else event for event in drawn)
        for routed in self.world.route([said], revision=revision):
            self._append(routed, revision, run)
            if rng.random() < (0.8 if self._restates else 0.3):
                self._late.append((routed, revision, run))
        self.counts["restatements"] += 1
        self._note(f"{run} restates {[event.coordinates for event in said]} by revision {revision}")

    def _crash(self, worker: _PriceWorker) -> None:
        self.counts["price_crashes"] += 1
        self._note(f"{worker.name} crashes")
        self._workers[self._workers.index(worker)] = self._new()
        self._rebalance()

    def _rebalance(self, *, without: _PriceWorker | None = None) -> None:
        """The group goes on with the others; a worker that sleeps or works on is told when it asks."""
        members = [worker for worker in self._workers if worker is not without] or self._workers
        self.group.rebalance([worker.name for worker in members], self.rng)
        for worker in members:
            if not worker.asleep and self.rng.random() < 0.7:
                worker.join()
        self._note(f"rebalance: {self.group.owners}")

    def _new(self) -> _PriceWorker:
        self._named += 1
        return _PriceWorker(self, f"price-{self._named}")

    def _is_done(self) -> bool:
        committed = self.group.committed
        return (
            not self._late
            and not any(worker.task is not None or worker.held or worker.asleep for worker in self._workers)
            and all(committed.get(p, 0) == len(records) for p, records in enumerate(self.world.raw))
        )

    def _note(self, text: str) -> None:
        if self._trace is not None:
            self._trace.append(text)
