"""What must be alerted of a log, by the independent model, and how a row or a message is held against it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline.judging.alerts import alert_messages
from tests.alerts_model import events_of, transitions_by_entry
from tests.pipeline.batches import make_counted
from tests.simulator.faults import Wrong

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import polars as pl

    from schemas.alerting import InForce
    from schemas.rules import RuleSet
    from tests.pipeline.batches import Event, LogBlock
    from tests.pipeline.oracle import Books, Coordinates

#: Alert id and sequence.
Name = tuple[str, int]
#: A transition as readers of ``usage.alerts`` get it, with the partition and the block that it belongs to.
Transition = tuple[dict[str, Any], int, int]


class AlertTruth:
    """Every transition that the model says of a log, by name."""

    def __init__(
        self,
        log: Sequence[LogBlock],
        controls: Mapping[tuple[int, int], InForce],
        *,
        books: Books,
    ) -> None:
        self.by_name: dict[Name, Transition] = {}
        for partition in {block.partition for block in log}:
            own = [block for block in log if block.partition == partition]
            for block, said in zip(own, transitions_by_entry(_entries(own, controls, books)), strict=True):
                for alert in said:
                    self.by_name[alert["alert_id"], alert["sequence"]] = alert, partition, block.offset

    def check(self, transition: Transition, *, where: str) -> None:
        """Nothing may ever be stored or published that is not one of them, field by field."""
        alert, partition, block = transition
        right = self.by_name.get((alert["alert_id"], alert["sequence"]))
        if right != transition:
            raise Wrong(f"{where} of block {partition}/{block}: {alert}, and is {right}")

    def check_all(self, names: Collection[Name], *, where: str) -> None:
        """At the end all of them are there; what is there was looked at when it came."""
        missing = [self.by_name[name] for name in self.by_name if name not in names]
        if missing:
            raise Wrong(f"{where}: missing {missing}")


def transitions_in(alerts: pl.DataFrame) -> list[Transition]:
    """The transitions of ALERTS."""
    places = alerts.select("block_partition", "block").rows()
    return [(json.loads(value), *place) for (_, value), place in zip(alert_messages(alerts), places, strict=True)]


def _entries(
    log: Iterable[LogBlock], controls: Mapping[tuple[int, int], InForce], books: Books
) -> list[dict[str, Any]]:
    """A partition as the model reads it: of each block what counted or was corrected there, or the rules after it."""
    entries: list[dict[str, Any]] = []
    seen: set[Coordinates] = set()
    in_force: dict[str, RuleSet] = {}
    for block in log:
        control = controls.get((block.partition, block.offset))
        if control is not None:
            for name, announced in control.rule_sets.items():
                if name not in in_force or announced.revision > in_force[name].revision:
                    in_force[name] = announced
            rules = [rule.model_dump() for name in sorted(in_force) for rule in in_force[name].rules]
            entries.append({"rules": rules})
            continue
        if block.run:
            corrected = [event for event in block.events if (event.coordinates, block.offset) in books.corrections]
            corrected.sort(key=lambda event: event.coordinates)  # the last one stands behind what fires
            said = events_of(make_counted(corrected, revision=block.revision)) if corrected else []
            entries.append({"corrections": said})
            continue
        counted: list[Event] = []
        for event in block.events:
            if event.coordinates in books.facts and event.coordinates not in seen:
                seen.add(event.coordinates)
                counted.append(event)
        entries.append({"events": events_of(make_counted(counted, revision=block.revision)) if counted else []})
    return entries
