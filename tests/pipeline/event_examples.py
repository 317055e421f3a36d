"""Examples of events and records for tests and benchmarks: ordinary unless a test says otherwise."""

from __future__ import annotations

import json
import random
from typing import Any, Final

from schemas.records import RawRecord

TOPIC: Final = "usage.events"
#: When the broker took every example: 2026-03-01T12:05:00Z.
RECEIVED_MS: Final = 1_772_366_700_000
TIME: Final = "2026-03-01T12:00:00.123Z"
STRUCTURED: Final = (("content-type", b"application/cloudevents+json"),)
BATCH: Final = (("content-type", b"application/cloudevents-batch+json"),)


def make_data(**changes: Any) -> dict[str, Any]:
    """The ``data`` of an ordinary event; a change to ... (Ellipsis) takes the field away."""
    data = {
        "project": "checkout",
        "api_key": "key_42",
        "environment": "production",
        "user": "u_9",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "status": "ok",
        "usage": {"input_tokens": 1200, "cache_read_tokens": 800, "output_tokens": 310},
    }
    return _changed(data, changes)


def make_event(**changes: Any) -> dict[str, Any]:
    """An ordinary event; a change to ... (Ellipsis) takes the attribute away."""
    event = {
        "specversion": "1.0",
        "id": "req-7f3a",
        "source": "/gateway/eu-1",
        "type": "llm.request",
        "subject": "acme",
        "time": TIME,
        "data": make_data(),
    }
    return _changed(event, changes)


def make_record(value: Any, *, headers: Any = (), offset: int = 0, received_ms: int = RECEIVED_MS) -> RawRecord:
    """A record of partition 0; what is not bytes or None is written as JSON."""
    if value is not None and not isinstance(value, bytes):
        value = json.dumps(value).encode()
    return RawRecord(TOPIC, 0, offset, received_ms, value, tuple(headers))


def make_binary_record(data: Any, **attributes: Any) -> RawRecord:
    """An event in binary mode: attributes as ``ce_*`` headers; a change to ... takes one away, bytes go as they are."""
    event = make_event(data=..., **attributes)
    headers = [("content-type", b"application/json")]
    headers += [(f"ce_{name}", value if isinstance(value, bytes) else value.encode()) for name, value in event.items()]
    return make_record(data, headers=headers)


def ordinary_events(count: int, *, seed: int = 1) -> list[dict[str, Any]]:
    """Different events of a few hundred orgs as gateways send them; the same for the same seed."""
    chance = random.Random(seed)
    return [
        make_event(
            id=f"req-{chance.getrandbits(64):016x}",
            source=f"/gateway/eu-{chance.randrange(3)}",
            subject=f"org-{chance.randrange(200)}",
            time=f"2026-03-01T12:{chance.randrange(5):02d}:{chance.randrange(60):02d}.{chance.randrange(1000):03d}Z",
            data=make_data(
                project=f"proj-{chance.randrange(500)}",
                api_key=f"key_{chance.randrange(2000)}",
                user=f"u_{chance.randrange(5000)}",
                usage={
                    "input_tokens": chance.randrange(5000),
                    "cache_read_tokens": chance.randrange(3000),
                    "output_tokens": chance.randrange(2000),
                },
            ),
        )
        for _ in range(count)
    ]


def compact(value: Any) -> bytes:
    """JSON without white space."""
    return json.dumps(value, separators=(",", ":")).encode()


def _changed(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = fields | changes
    return {name: value for name, value in merged.items() if value is not ...}
