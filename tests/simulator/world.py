"""A small world: raw events that meet each other again, the limits they are counted under, and what must come of them.

Everything costly is remembered per world and shared by its schedules: encoded blocks, and the transcripts of counting.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pytest

from pipeline import correct as correct_module
from pipeline import count as count_module
from pipeline.block import Block, decode_blocks
from pipeline.count import CountLimits
from pipeline.identities import identity_hashes
from pipeline.route import route
from schemas.alerting import InForce
from schemas.rules import RuleSet
from tests.pipeline.batches import NOON, TOPIC, Event, LogBlock, append_time_ms, header_of, make_batch
from tests.pipeline.judged_logs import drawn_rules
from tests.pipeline.oracle import Books, expected
from tests.simulator.alerting import AlertTruth
from tests.simulator.faults import Wrong

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import polars as pl
    from numpy.typing import NDArray

    from schemas.frames import PricedBatch
    from schemas.rules import Rule

RAW_PARTITIONS: Final = 2
PARTITIONS: Final = 2
WIDE: Final = 1 << 20
ORGS: Final = ("acme", "acme", "zen")  # of both partitions
#: How many worlds have no rules, how often those of the others are edited at most, and how many rules there are.
WITHOUT_RULES: Final = 0.4
EDITS_MAX: Final = 6
RULES_MAX: Final = 3
#: In worlds that are to be full of alerts, all of which have rules.
MANY_RULES: Final = 8

Record = tuple[Event, ...]
Routed = tuple[int, Record, bytes]  # partition, events, message


@dataclass
class World:
    """What does not change between the schedules of one world."""

    seed: int
    raw: list[list[Record]]  # by raw partition
    limits: CountLimits
    hashes_collide: bool
    block_bytes_max: int
    controls: list[InForce]  # what control blocks say, one after the other; the first alone where there are no rules
    _routed: dict[tuple[Record, int, int | None], list[Routed]] = field(default_factory=dict)
    _decoded: dict[tuple[int, ...], tuple[Sequence[Block], PricedBatch]] = field(default_factory=dict)

    def route(self, records: Sequence[Record], *, revision: int, to_partition: int | None = None) -> list[Routed]:
        """The blocks of these records, by the real stage; ``to_partition`` sends all of them there (a planted bug)."""
        events = tuple(event for record in records for event in record)
        key = (events, revision, to_partition)
        if key not in self._routed:
            batch = make_batch(events, revision=revision)
            partitions = PARTITIONS if to_partition is None else 1
            messages = route(batch, partitions=partitions, topic=TOPIC, block_bytes_max=self.block_bytes_max)
            by_place = {event.coordinates[1:]: event for event in events}
            self._routed[key] = [
                (partition if to_partition is None else to_partition, _events_in(message, by_place), message)
                for partition, message in messages
            ]
        return self._routed[key]

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The stages as this world wants them: with hashes of one bit, or as they are; restores without slack."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(count_module, "RESTORE_SLACK", timedelta(0))
            patch.setattr(count_module, "decode_blocks", self._decode)
            for module in (count_module, correct_module) if self.hashes_collide else ():
                patch.setattr(module, "identity_hashes", _one_bit)
            yield

    def _decode(self, blocks: Sequence[Block]) -> PricedBatch:
        """``decode_blocks``, once for the same blocks."""
        key = tuple(map(id, blocks))
        if key not in self._decoded:
            self._decoded[key] = (blocks, decode_blocks(blocks))  # what is known by its id must stay alive
        return self._decoded[key][1]


@dataclass
class Log:
    """``usage.priced`` as the price workers left it, and what must come of it."""

    plain: list[LogBlock] = field(default_factory=list)
    blocks: dict[int, list[Block]] = field(default_factory=dict)

    controls: dict[tuple[int, int], InForce] = field(default_factory=dict)  # by partition and offset

    def append(self, partition: int, events: Record, value: bytes, *, revision: int, hole: bool, run: str = "") -> None:
        """One more block; ``hole`` leaves an offset out before it, as the marker of a transaction does.

        With a ``run`` it is a correction.
        """
        offset = self._append(partition, value, hole=hole, control=False, correction=header_of(run, revision))
        self.plain.append(LogBlock(partition, offset, events, revision, run))

    def append_control(self, partition: int, said: InForce, *, hole: bool) -> None:
        """A control block."""
        offset = self._append(partition, said.to_json().encode(), hole=hole, control=True)
        self.plain.append(LogBlock(partition, offset, ()))
        self.controls[partition, offset] = said

    def _append(
        self, partition: int, value: bytes, *, hole: bool, control: bool, correction: bytes | None = None
    ) -> int:
        own = self.blocks.setdefault(partition, [])
        offset = own[-1].offset + 1 + hole if own else 0
        own.append(Block(partition, offset, append_time_ms(offset), value, control=control, correction=correction))
        return offset

    def check(self, raw: Sequence[Sequence[Record]]) -> None:
        """Every raw event is in the log, and the first copies of one raw partition's events stand in raw order."""
        first: dict[tuple[str, int, int, int], int] = {}
        for place, block in enumerate(self.plain):
            for row, event in enumerate(() if block.run else block.events):
                first.setdefault(event.coordinates, place * 1_000 + row)
        for records in raw:
            events = [event for record in records for event in record]
            missing = [event.coordinates for event in events if event.coordinates not in first]
            if missing:
                raise Wrong(f"never reached usage.priced: {missing}")
            for identity in {(event.org, event.source, event.id) for event in events}:
                own = [first[e.coordinates] for e in events if (e.org, e.source, e.id) == identity]
                if own != sorted(own):
                    raise Wrong(f"copies of {identity} overtook each other in usage.priced")

    def books(self, horizon: timedelta) -> Truth:
        """What must come of it."""
        return Truth(self, horizon)


class Truth:
    """What the oracle says of a log: the books at the end, every total as of every block, and every alert."""

    def __init__(self, log: Log, horizon: timedelta) -> None:
        self.books: Books = expected(log.plain, horizon=horizon)
        self.alerts = AlertTruth(log.plain, log.controls, books=self.books)
        self._as_of: dict[int, list[tuple[int, dict[Any, Any]]]] = {}
        for partition in range(PARTITIONS):
            own = [block for block in log.plain if block.partition == partition]
            self._as_of[partition] = [
                (own[end - 1].offset, expected(own[:end], horizon=horizon).totals) for end in range(1, len(own) + 1)
            ]

    def total(self, partition: int, lane: tuple[Any, ...], version: int) -> Any:
        """The total of a lane after the blocks up to ``version``; None when nothing of it was counted by then."""
        known = [totals for offset, totals in self._as_of[partition] if offset <= version]
        return known[-1].get(lane) if known else None


def make_world(seed: int, *, is_full_of_alerts: bool = False) -> World:
    """The world of a seed; a planted bug may want it to be full of alerts."""
    rng = Random(f"world {seed}")
    horizon = timedelta(seconds=rng.choice((20, 20, 1_000_000)))
    limits = CountLimits(
        horizon=horizon,
        identities_max=rng.choice((1, 3, 1_000_000)),
        totals_rows_max=rng.choice((0, 2, 1_000_000)),
        windows_max=rng.choice((0, 3, 1_000_000)),
    )
    return World(
        seed=seed,
        raw=_raw(rng),
        limits=limits,
        hashes_collide=rng.random() < 0.4,
        block_bytes_max=rng.choice((1, WIDE, WIDE)),
        controls=_controls(Random(f"rules {seed}"), is_full_of_alerts=is_full_of_alerts),
    )


def _controls(rng: Random, *, is_full_of_alerts: bool) -> list[InForce]:
    """Rules and their edits: some are kept, others go, change or come."""
    if rng.random() < WITHOUT_RULES and not is_full_of_alerts:
        return [InForce("USD")]
    rules: tuple[Rule, ...] = ()
    controls = []
    for revision in range(1, EDITS_MAX + 1):
        kept = tuple(rule for rule in rules if rng.random() < 0.6)
        rules = drawn_rules(rng, kept, revision, MANY_RULES if is_full_of_alerts else RULES_MAX)
        rule_set = RuleSet(revision=revision, rules=rules)
        controls.append(InForce("USD", {rule_set.name: rule_set}))
    return controls


def _raw(rng: Random) -> list[list[Record]]:
    """Few identities, each several times: as copies, as conflicts, soon and long after, in either raw partition."""
    prototypes = [
        Event(
            org=rng.choice(ORGS),
            id=name,
            time=NOON - timedelta(minutes=rng.choice((5, 65))),
            usage=(("input_tokens", Decimal(rng.randint(1, 9))), *((("images", Decimal(1)),) if name == "b" else ())),
        )
        for name in "abcd"
    ]
    raw: list[list[Record]] = []
    for partition in range(RAW_PARTITIONS):
        clock = rng.choice((0, 0, 40))
        records: list[Record] = []
        for offset in range(rng.randint(2, 5)):
            clock += rng.choice((0, 1, 5, 30))
            of = rng.choice((1, 1, 1, 2))
            placed = Event(partition=partition, offset=offset, of=of, received_at=NOON + timedelta(seconds=clock))
            records.append(tuple(_event(rng, prototypes, replace(placed, index=index)) for index in range(of)))
        raw.append(records)
    return raw


def _event(rng: Random, prototypes: Sequence[Event], placed: Event) -> Event:
    said = rng.choice(prototypes)
    event = replace(placed, org=said.org, id=said.id, time=said.time, usage=said.usage)
    drawn = rng.random()
    if drawn < 0.2:
        return replace(event, status="error")
    if drawn < 0.45:
        return replace(event, time=event.time - timedelta(hours=1))
    return event


def _events_in(message: bytes, by_place: dict[tuple[int, int, int], Event]) -> Record:
    with pa.ipc.open_stream(message) as reader:
        columns = reader.read_all().select(["partition", "offset", "index"]).to_pydict()
    return tuple(by_place[row] for row in zip(*columns.values(), strict=True))


def _one_bit(events: pl.DataFrame) -> NDArray[np.uint64]:
    return identity_hashes(events) % np.uint64(2)
