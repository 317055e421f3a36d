"""The same job by hand: confluent-kafka and polars. JSON in, prices joined, facts and hourly sums into ClickHouse.

Fast and short, and nothing in it is exact: a restart counts twice, a repeat counts twice, prices are floats' cousins,
a bad record stops it. It bounds what plumbing may cost. ``python -m bench.peer_polars BOOTSTRAP TOPIC STORE COUNT``.
"""

from __future__ import annotations

import sys
import time

import polars as pl
from confluent_kafka import Consumer

from bench.load import BOOK
from clickhouse.client import Store, parse_store_url
from pipeline.catalog import load_catalog_file

TABLES = (
    """CREATE TABLE IF NOT EXISTS peer_facts (org String, id String, time String, project String, api_key String,
    user String, model String, status String, input_tokens Int64, cache_read_tokens Int64, output_tokens Int64,
    cost Float64) ENGINE = MergeTree ORDER BY (org, time)""",
    """CREATE TABLE IF NOT EXISTS peer_totals (org String, project String, api_key String, hour String,
    requests UInt64, cost Float64) ENGINE = SummingMergeTree ORDER BY (org, project, api_key, hour)""",
)
METERS = ("input_tokens", "cache_read_tokens", "output_tokens")
DATA = pl.Struct(
    dict.fromkeys(("project", "api_key", "user", "model", "status"), pl.String)
    | {"usage": pl.Struct(dict.fromkeys(METERS, pl.Int64))}
)
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "subject": pl.String,
    "id": pl.String,
    "time": pl.String,
    "data": DATA,
}


def prices() -> pl.DataFrame:
    """One row per model, one column per meter."""
    book = load_catalog_file(BOOK, filename="bench").price_book
    assert book is not None  # noqa: S101 -- the benchmark's own book
    rows = {(price.model, price.meter): float(price.price) / float(price.per) for price in book.prices}
    models = sorted({model for model, _ in rows})
    return pl.DataFrame({"model": models} | {f"p_{meter}": [rows[m, meter] for m in models] for meter in METERS})


def main(bootstrap: str, topic: str, store_url: str, count: int) -> None:
    """Reads until ``count`` events are stored; prints when it is ready and when it is done."""
    store = Store(parse_store_url(store_url))
    for table in TABLES:
        store.command(table)
    book = prices()
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"peer{time.time()}", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    stored = 0
    held: list[bytes] = []
    print("ready", flush=True)  # noqa: T201
    while stored < count:
        held += [message.value() for message in consumer.consume(10_000, timeout=0.2) if message.error() is None]
        if len(held) < min(50_000, count - stored):
            continue
        frame = pl.read_ndjson(b"\n".join(held), schema=SCHEMA).unnest("data").unnest("usage").join(book, on="model")
        frame = frame.with_columns(cost=sum(pl.col(meter) * pl.col(f"p_{meter}") for meter in METERS))
        facts = frame.rename({"subject": "org"}).drop([f"p_{meter}" for meter in METERS])
        sums = facts.group_by("org", "project", "api_key", pl.col("time").str.slice(0, 13).alias("hour")).agg(
            pl.len().cast(pl.UInt64).alias("requests"), pl.col("cost").sum()
        )
        store.insert("peer_facts", facts.to_arrow(compat_level=pl.CompatLevel.oldest()))
        store.insert("peer_totals", sums.to_arrow(compat_level=pl.CompatLevel.oldest()))
        consumer.commit(asynchronous=True)
        stored += len(held)
        held = []
    print("done", flush=True)  # noqa: T201
    consumer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
