"""Facts for tests: say the interesting field, the rest is ordinary; counted with the project's own fold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
import pyarrow as pa

from clickhouse.corrections import insert_corrections, states_before
from clickhouse.counting import arrow_table, insert_facts, insert_totals
from pipeline.block import Block, encode_block
from pipeline.correct import correct, fold_corrections
from pipeline.fold import fold
from pipeline.identities import Identities, identity_hashes
from pipeline.lanes import NO_LANES
from schemas.correction import Correction
from schemas.counted import COUNTED_EVENTS, REPEATS
from schemas.frames import KINDS, LINES, PricedBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clickhouse.client import Store
    from pipeline.correct import Corrected

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
RAW = "usage.events"


class Line(NamedTuple):
    """One named quantity of a fact; without a cost it has no price."""

    meter: str = "input_tokens"
    quantity: str = "1000"
    cost: str | None = "0.5"
    name: str | None = None  # the meter's own
    state: str | None = None  # billed, or unpriced without a cost

    def kind(self) -> tuple[str, str, str, str]:
        """Its row of KINDS, without the number."""
        if self.cost is None:
            return (self.meter, "", "", self.state or "unpriced")
        return (self.meter, self.meter if self.name is None else self.name, "standard@1:0", self.state or "billed")


def fact(*lines: Line, **said: Any) -> dict[str, Any]:
    """One counted event. Its cost and pricing follow from its lines unless they are said."""
    costs = [Decimal(line.cost) for line in lines if line.cost is not None]
    unpriced = not costs or any(line.kind()[3] == "unpriced" for line in lines)
    cost = sum(costs, Decimal(0)) if costs else None
    ordinary = {
        "partition": 0,
        "offset": 0,
        "index": 0,
        "of": 1,
        "org": "acme",
        "source": "/gateway",
        "time": NOON,
        "operation": "llm.request",
        "project": "checkout",
        "api_key": "key_1",
        "environment": "",
        "user": "",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "variant": "",
        "status": "ok",
        "tags": "",
        "cost": cost,
        "pricing": "unpriced" if unpriced else "priced" if cost else "free",
        "topic": RAW,
        "block_partition": 0,
        "lines": lines,
    }
    whole = {**ordinary, **said}
    return {
        "id": f"{whole['partition']}-{whole['offset']}-{whole['index']}",
        "received_at": whole["time"] + timedelta(seconds=1),
        **whole,
    }


def batch_of(facts: Sequence[dict[str, Any]], *, block: int) -> PricedBatch:
    """The facts as one block of ``usage.priced``."""
    kinds = sorted({line.kind() for row in facts for line in row["lines"]})
    placed = [{"block": block, "recorded_at": NOON, **row} for row in facts]
    lines = [
        {"row": at, "kind": kinds.index(line.kind()), "quantity": Decimal(line.quantity), "cost": _decimal(line.cost)}
        for at, row in enumerate(facts)
        for line in row["lines"]
    ]
    return PricedBatch(
        events=pl.DataFrame([{name: row[name] for name in COUNTED_EVENTS} for row in placed], schema=COUNTED_EVENTS),
        lines=pl.DataFrame(lines, schema=LINES),
        kinds=pl.DataFrame([(at, *kind) for at, kind in enumerate(kinds)], schema=KINDS, orient="row"),
    )


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


class Counted:
    """A store into which facts are counted block by block, as the worker does it; remembers totals by itself."""

    def __init__(self, store: Store, *, url: str) -> None:
        self.store = store
        self.url = url
        self.block = 0
        self.offset = 0
        self._totals = NO_LANES

    def count(self, *facts: dict[str, Any], with_totals: bool = True, numbered: bool = True) -> None:
        """One block with these facts, at the next raw offsets unless they have their own."""
        rows = []
        for row in facts:
            rows.append({**row, "offset": self.offset, "id": f"id-{self.offset}"} if numbered else row)
            self.offset += numbered
        batch = batch_of(rows, block=self.block)
        insert_facts(self.store, batch, identity_hashes(batch.events))
        if with_totals:
            folded = fold(batch, before=self._totals, version=self.block, block_partition=rows[0]["block_partition"])
            insert_totals(self.store, folded)
            self._totals = self._totals.with_rows(folded)
        self.block += 1

    def correct(
        self, *facts: dict[str, Any], at: datetime = NOON, run: str = "run-1", with_totals: bool = True
    ) -> Corrected:
        """One correction block with these facts as they should be; they say offset and id of those counted before."""
        value = encode_block(batch_of(facts, block=self.block), topic=RAW)
        header = Correction(run=run, books="standard@2", reason="tested", requested_at="2026-03-01T12:00:00Z")
        block = Block(0, self.block, int(at.timestamp() * 1000), value, correction=header.to_header())
        steps = correct([block], partition=0, before=self.block, identities=Identities(limit=0))
        answer: Any = None
        while True:
            try:
                asked = steps.send(answer)
            except StopIteration as stop:
                corrected: Corrected = stop.value
                break
            answer = states_before(
                self.store, partition=0, before=self.block, hashes=asked.hashes, orgs=asked.orgs, times=asked.times
            )
        insert_corrections(self.store, corrected.corrections)
        if with_totals and corrected.corrections.height:
            folded = fold_corrections(corrected.corrections, before=self._totals, version=self.block)
            insert_totals(self.store, folded)
            self._totals = self._totals.with_rows(folded)
        self.block += 1
        return corrected

    def repeat(self, *rows: dict[str, Any]) -> None:
        """Rows of ``duplicates_rows``."""
        ordinary = {
            "kind": "duplicate",
            "org": "acme",
            "source": "/gateway",
            "id": "id-0",
            "time": NOON,
            "topic": RAW,
            "partition": 0,
            "index": 0,
            "of": 1,
            "received_at": NOON + timedelta(seconds=2),
            "first_topic": RAW,
            "first_partition": 0,
            "first_offset": 0,
            "first_index": 0,
            "block_partition": 0,
            "block": 0,
            "recorded_at": NOON,
        }
        frame = pl.DataFrame([{**ordinary, **row} for row in rows], schema=REPEATS)
        self.store.insert("duplicates_rows", arrow_table(frame))

    def refuse(self, *rows: dict[str, Any]) -> None:
        """Rows of ``rejected_rows``."""
        ordinary = {
            "reason": "bad_time",
            "detail": "The time is no instant.",
            "topic": RAW,
            "partition": 0,
            "index": 0,
            "of": 1,
            "received_at": NOON,
            "org": "acme",
            "id": "",
            "payload_sha256": "0" * 64,
            "payload_prefix": "{",
        }
        schema = pa.schema(
            [
                *((name, pa.string()) for name in ("reason", "detail", "topic")),
                ("partition", pa.int32()),
                ("offset", pa.int64()),
                ("index", pa.int32()),
                ("of", pa.int32()),
                ("received_at", pa.timestamp("us", "UTC")),
                *((name, pa.string()) for name in ("org", "id", "payload_sha256", "payload_prefix")),
            ]
        )
        self.store.insert("rejected_rows", pa.Table.from_pylist([{**ordinary, **row} for row in rows], schema=schema))

    def alert(self, *rows: dict[str, Any]) -> None:
        """Rows of ``alerts_rows``: ordinary, a project's cost has reached 50 dollars of a day."""
        ordinary = {
            "alert_id": "a" * 32,
            "sequence": 1,
            "transition": "fired",
            "rule": "budget",
            "rule_revision": 1,
            "org": "acme",
            "scope": "project",
            "scope_id": "checkout",
            "measure": "cost",
            "unit": "USD",
            "window": "day",
            "window_start": NOON.replace(hour=0),
            "window_end": NOON.replace(hour=0) + timedelta(days=1),
            "threshold": Decimal(50),
            "percent": None,
            "budget": None,
            "value": Decimal("50.000125"),
            "highest": True,
            "crossed_source": "/gateway",
            "crossed_id": "id-0",
            "crossed_time": NOON,
            "top_kinds": ["api_key"],
            "top_ids": ["key_42"],
            "top_values": [Decimal("31.9")],
            "unpriced": 0,
            "watermark": NOON,
            "method": "",
            "block_partition": 0,
            "block": 0,
            "recorded_at": NOON,
        }
        decimals, instants = pa.decimal128(38, 12), pa.timestamp("us", "UTC")
        types = {
            **dict.fromkeys(("sequence", "rule_revision"), pa.uint32()),
            **dict.fromkeys(("window_start", "window_end", "crossed_time", "watermark", "recorded_at"), instants),
            **dict.fromkeys(("threshold", "percent", "budget", "value"), decimals),
            **dict.fromkeys(("top_kinds", "top_ids"), pa.list_(pa.string())),
            "highest": pa.bool_(),
            "top_values": pa.list_(decimals),
            "block_partition": pa.int32(),
            **dict.fromkeys(("unpriced", "block"), pa.uint64()),
        }
        schema = pa.schema([(name, types.get(name, pa.string())) for name in ordinary])
        self.store.insert("alerts_rows", pa.Table.from_pylist([{**ordinary, **row} for row in rows], schema=schema))
