"""The benchmark's events: about 350 bytes, up to 5,000 keys by Pareto's law, three quantities, two hours."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

from confluent_kafka import Producer

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS: Final = 5_000
ORGS: Final = 50
PROJECTS: Final = 200
MODELS: Final = ("gpt-4o-mini", "gpt-4o", "claude-sonnet-4-5", "gemini-2.5-flash")

BOOK: Final = "price_book: bench\ncurrency: USD\nprices:\n" + "".join(
    f'  - {{operation: llm.request, model: {model}, meter: {meter}, price: "{price}", per: 1000000}}\n'
    for model, price_in in zip(MODELS, ("0.15", "2.5", "3", "0.3"), strict=True)
    for meter, price in (("input_tokens", price_in), ("cache_read_tokens", "0.075"), ("output_tokens", "10"))
)

#: Every key and project fires several times while the load lasts.
RULES: Final = """
rule_set: bench-rules
rules:
  - {id: key-hour, scope: api_key, measure: requests, window: hour, thresholds: [1, 10, 20, 50, 100, 200, 500, 1000]}
  - {id: project-5m, scope: project, measure: requests, window: 5m, thresholds: [100, 500, 1000, 2000, 5000]}
  - {id: project-day, scope: project, measure: cost, window: day, thresholds: ["1", "5", "10", "20", "50"]}
"""


def events(count: int, *, seed: int = 1, span_seconds: float | None = 7_200.0) -> Iterator[bytes]:
    """Structured CloudEvents; ids are unique, times lie in the last ``span_seconds``; None is now, event by event."""
    rng = random.Random(seed)  # noqa: S311 -- a load, no secret
    now = time.time()
    for number in range(count):
        key = min(int(rng.paretovariate(0.9)), KEYS - 1)
        happened = time.time() if span_seconds is None else now - rng.random() * span_seconds
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(happened))
        yield (
            f'{{"specversion":"1.0","id":"req-{seed:x}-{number:08x}","source":"/gateway/eu-{key % 3}",'
            f'"type":"llm.request","subject":"org_{key % ORGS}","time":"{stamp}.{int(happened * 1000) % 1000:03d}Z",'
            f'"data":{{"project":"project_{key % PROJECTS}","api_key":"key_{key}","environment":"production",'
            f'"user":"u_{key % 1000}","provider":"any","model":"{MODELS[key % len(MODELS)]}","status":"ok","usage":'
            f'{{"input_tokens":{rng.randint(1, 4000)},"cache_read_tokens":{rng.randint(0, 2000)},'
            f'"output_tokens":{rng.randint(1, 900)}}}}}}}'
        ).encode()


def prefill(bootstrap: str, topic: str, count: int, *, seed: int = 1) -> float:
    """Produces the events, spread over the partitions; gives the mean size in bytes when all are acknowledged."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 50, "acks": "all", "queue.buffering.max.messages": 2_000_000}
    )
    size = 0
    for number, event in enumerate(events(count, seed=seed)):
        producer.produce(topic, event)
        size += len(event)
        if number % 5_000 == 0:
            producer.poll(0)
    producer.flush()
    return size / count
