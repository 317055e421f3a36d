"""The same job in stock Faust, as its documentation shows it: an agent that takes one event at a time.

Sums are kept in dictionaries and written to ClickHouse every 10,000 events; nothing survives a restart.
``python -m bench.peer_faust BOOTSTRAP TOPIC STORE COUNT``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import defaultdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import faust
import polars as pl

from bench.load import BOOK
from bench.peer_polars import METERS, TABLES
from clickhouse.client import Store, parse_store_url
from pipeline.catalog import load_catalog_file

FLUSH_EVENTS = 10_000


async def run(bootstrap: str, topic: str, store_url: str, count: int) -> None:
    """Runs the app until ``count`` events are stored."""
    store = Store(parse_store_url(store_url))
    for table in TABLES:
        store.command(table)
    book = load_catalog_file(BOOK, filename="bench").price_book
    assert book is not None  # noqa: S101 -- the benchmark's own book
    prices = {(price.model, price.meter): float(price.price) / float(price.per) for price in book.prices}
    app = faust.App(
        f"peer-faust-{time.time()}",
        broker=f"kafka://{bootstrap}",
        store="memory://",
        web_enabled=False,
        autodiscover=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        datadir=str(Path(mkdtemp())),
        consumer_auto_offset_reset="earliest",
    )
    events = app.topic(topic, value_serializer="json")
    done = asyncio.Event()
    sums: dict[tuple[str, str, str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    rows: list[dict[str, Any]] = []
    seen = 0

    def flush() -> None:
        facts = pl.DataFrame(rows)
        totals = pl.DataFrame(
            [(*key, int(value[0]), value[1]) for key, value in sums.items()],
            schema={"org": pl.String, "project": pl.String, "api_key": pl.String, "hour": pl.String}
            | {"requests": pl.UInt64, "cost": pl.Float64},
            orient="row",
        )
        store.insert("peer_facts", facts.to_arrow(compat_level=pl.CompatLevel.oldest()))
        store.insert("peer_totals", totals.to_arrow(compat_level=pl.CompatLevel.oldest()))
        rows.clear()
        sums.clear()

    @app.agent(events)  # type: ignore[untyped-decorator]
    async def counts(stream: Any) -> None:  # noqa: ANN401 -- faust has no types
        nonlocal seen
        async for event in stream:
            data = event["data"]
            usage = data["usage"]
            cost = sum(usage[meter] * prices[data["model"], meter] for meter in METERS)
            total = sums[event["subject"], data["project"], data["api_key"], event["time"][:13]]
            total[0] += 1
            total[1] += cost
            names = ("project", "api_key", "user", "model", "status")
            rows.append(
                {"org": event["subject"], "id": event["id"], "time": event["time"]}
                | {name: data[name] for name in names}
                | {meter: usage[meter] for meter in METERS}
                | {"cost": cost}
            )
            seen += 1
            if len(rows) >= FLUSH_EVENTS or seen >= count:
                flush()
            if seen >= count:
                done.set()

    app.finalize()
    await app.start()
    print("ready", flush=True)  # noqa: T201
    await done.wait()
    print("done", flush=True)  # noqa: T201
    await app.stop()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
