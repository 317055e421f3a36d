"""Writes ``docs/schemas``: JSON Schemas and the AsyncAPI 3 document of all topics, from the models in this package.

python -m schemas.generate           writes the files
python -m schemas.generate --check   exits 1 when a file is not what the models say
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from schemas.event import BATCH_EVENTS_MAX, CONTENT_TYPE_BATCH, CONTENT_TYPE_EVENT, UsageData, UsageEvent
from schemas.price_book import PriceBook
from schemas.published import Alert, RejectedEvent
from schemas.rules import RuleSet, Scope, alert_id
from schemas.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

FOLDER: Final = Path(__file__).parents[1] / "docs" / "schemas"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_FORMAT: Final = "application/schema+json;version=draft-2020-12"
ASYNCAPI: Final = "asyncapi.json"

EVENT_EXAMPLE: Final[dict[str, Any]] = {
    "specversion": "1.0",
    "id": "req-7f3a",
    "source": "/gateway/eu-1",
    "type": "llm.request",
    "subject": "acme",
    "time": "2026-03-01T12:00:00.123Z",
    "data": {
        "project": "checkout",
        "api_key": "key_42",
        "environment": "production",
        "user": "u_9",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "status": "ok",
        "usage": {"input_tokens": 1200, "cache_read_tokens": 800, "output_tokens": 310},
    },
}
#: The same usage as OpenAI's chat completions say it.
VOCABULARY_EXAMPLE: Final[dict[str, Any]] = EVENT_EXAMPLE["data"] | {
    "vocabulary": "openai",
    "usage": {
        "prompt_tokens": 2000,
        "completion_tokens": 310,
        "total_tokens": 2310,
        "prompt_tokens_details": {"cached_tokens": 800, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
}
REJECTED_EXAMPLE: Final[dict[str, Any]] = {
    "reason": "missing_field",
    "detail": "data.api_key is missing",
    "topic": "usage.events",
    "partition": 2,
    "offset": 4711,
    "index": 0,
    "received_at": "2026-03-01T12:00:01.000000Z",
    "org": "acme",
    "id": "req-7f3b",
    "payload_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "payload_prefix": '{"specversion":"1.0","id":"req-7f3b",',
}
ALERT_EXAMPLE: Final[dict[str, Any]] = {
    "schema": "tally.alert.v1",
    "alert_id": alert_id(
        org="acme",
        rule="project-day-budget",
        rule_revision=3,
        scope=Scope.PROJECT,
        scope_id="checkout",
        window_start=datetime(2026, 3, 1, tzinfo=UTC),
        threshold=Decimal(50),
    ),
    "sequence": 1,
    "transition": "fired",
    "rule": "project-day-budget",
    "rule_revision": 3,
    "org": "acme",
    "scope": {"kind": "project", "id": "checkout"},
    "measure": "cost",
    "unit": "USD",
    "window": {"kind": "day", "start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"},
    "threshold": "50",
    "percent": None,
    "budget": None,
    "value": "50.000125000000",
    "highest": True,
    "crossed_by": {"source": "/gateway/eu-1", "id": "req-7f3a", "time": "2026-03-01T17:03:11.250000Z"},
    "top": [{"kind": "api_key", "id": "key_42", "value": "31.900000000000"}],
    "completeness": {"unpriced": 0, "watermark": "2026-03-01T17:03:11.250000Z"},
}
PRICE_BOOK_EXAMPLE: Final[dict[str, Any]] = {
    "name": "standard",
    "revision": 1,
    "currency": "USD",
    "prices": [{"operation": "lookup", "meter": "requests", "name": "lookups", "price": "0.0415", "bill": "success"}],
}
RULE_SET_EXAMPLE: Final[dict[str, Any]] = {
    "name": "default",
    "revision": 1,
    "rules": [
        {
            "id": "project-day-budget",
            "revision": 1,
            "scope": "project",
            "measure": "cost",
            "window": "day",
            "thresholds": ["50", "100"],
        }
    ],
}

#: Where an event's attributes stand in binary mode (CloudEvents Kafka binding 1.0.2, section 3.2).
ATTRIBUTE_HEADERS: Final = ("specversion", "id", "source", "subject", "type", "time")


def documents() -> dict[str, dict[str, Any]]:
    """Every generated document by its file name."""
    event = partial(_schema, UsageEvent, "usage-event")
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        "usage-event.schema.json": lambda: event() | {"examples": [EVENT_EXAMPLE]},
        "usage-event-batch.schema.json": _batch_schema,
        "usage-data.schema.json": lambda: (
            _schema(UsageData, "usage-data") | {"examples": [EVENT_EXAMPLE["data"], VOCABULARY_EXAMPLE]}
        ),
        "usage-rejected.schema.json": lambda: (
            _schema(RejectedEvent, "usage-rejected") | {"examples": [REJECTED_EXAMPLE]}
        ),
        "usage-alert.schema.json": lambda: _schema(Alert, "usage-alert") | {"examples": [ALERT_EXAMPLE]},
        "price-book.schema.json": lambda: _schema(PriceBook, "price-book") | {"examples": [PRICE_BOOK_EXAMPLE]},
        "rule-set.schema.json": lambda: _schema(RuleSet, "rule-set") | {"examples": [RULE_SET_EXAMPLE]},
        ASYNCAPI: _asyncapi,
    }
    return {name: make() for name, make in makers.items()}


def rendered(document: dict[str, Any]) -> str:
    """The document as it stands in its file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None, *, folder: Path = FOLDER) -> int:
    """Writes the files, or compares them with ``--check``; answers with the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is out of date")
    check = parser.parse_args(arguments).check
    texts = {folder / name: rendered(document) for name, document in documents().items()}
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
    extra = [path for path in folder.glob("*.json") if path not in texts]
    if check:
        if stale or extra:
            names = ", ".join(sorted(path.name for path in [*stale, *extra]))
            sys.stderr.write(f"docs/schemas differs from the models in {names}: run python -m schemas.generate.\n")
        return 1 if stale or extra else 0
    folder.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.write_text(texts[path], "utf-8")
    for path in extra:
        path.unlink()
    return 0


def _schema(model: type[BaseModel], name: str) -> dict[str, Any]:
    return {"$schema": DIALECT, "$id": f"{name}.schema.json"} | model.model_json_schema(by_alias=True)


def _batch_schema() -> dict[str, Any]:
    return {
        "$schema": DIALECT,
        "$id": "usage-event-batch.schema.json",
        "title": "UsageEventBatch",
        "description": "Events in one record. A bad one is refused alone; an empty batch is refused as a whole.",
        "type": "array",
        "items": {"$ref": "usage-event.schema.json"},
        "minItems": 1,
        "maxItems": BATCH_EVENTS_MAX,
        "examples": [[EVENT_EXAMPLE]],
    }


def _asyncapi() -> dict[str, Any]:
    channels = _channels()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tallyhouse",
            "version": "1.0.0",
            "description": "Usage events in, priced facts, refusals and alerts out. The topics of one installation;"
            " `TALLY_TOPIC_PREFIX` stands before every address.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {
            name: {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}
            for name, (action, channel, summary) in _OPERATIONS.items()
        },
        "components": {"messages": _messages()},
    }


#: Seen from Tallyhouse, as AsyncAPI 3 wants it: it receives events and sends the rest.
_OPERATIONS: Final = {
    "receiveEvents": ("receive", "events", "Services send what was used."),
    "sendPriced": ("send", "priced", "Validated, priced events, one immutable block a message."),
    "sendRejected": ("send", "rejected", "Every bad event and every conflict."),
    "sendAlerts": ("send", "alerts", "Transitions of alerts, for downstream billing."),
    "sendAlertStates": ("send", "alerts_state", "The latest transition of every alert, for consumers that begin."),
    "sendCatalog": ("send", "catalog", "Price books and rules as applied."),
}


def _channels() -> dict[str, Any]:
    topics = Topics()
    rows = {
        "events": (topics.events, ("usageEvent", "usageEventBatch", "usageEventBinary"), ["delete"]),
        "priced": (topics.priced, ("pricedBlock", "controlBlock"), ["delete"]),
        "rejected": (topics.rejected, ("rejectedEvent",), ["delete"]),
        "alerts": (topics.alerts, ("alert",), ["delete"]),
        "alerts_state": (topics.alerts_state, ("alert",), ["compact"]),
        "catalog": (topics.catalog, ("priceBook", "ruleSet"), ["compact"]),
    }
    return {
        name: {
            "address": address,
            "description": " ".join((getattr(Topics, name).__doc__ or "").split()),
            "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in messages},
            "bindings": {
                "kafka": {
                    "topic": address,
                    "topicConfiguration": {"cleanup.policy": cleanup},
                    "bindingVersion": "0.5.0",
                }
            },
        }
        for name, (address, messages, cleanup) in rows.items()
    }


def _messages() -> dict[str, Any]:
    headers = {f"ce_{name}": {"type": "string"} for name in ATTRIBUTE_HEADERS}
    binary_headers = {
        "type": "object",
        "required": list(headers),
        "properties": headers | {"content-type": {"type": "string", "description": "None of CloudEvents."}},
    }
    binary_example = {f"ce_{name}": EVENT_EXAMPLE[name] for name in ATTRIBUTE_HEADERS}
    return {
        "usageEvent": _message(
            "A usage event in structured mode", "usage-event", EVENT_EXAMPLE, content_type=CONTENT_TYPE_EVENT
        ),
        "usageEventBatch": _message(
            "Usage events in batch mode", "usage-event-batch", [EVENT_EXAMPLE], content_type=CONTENT_TYPE_BATCH
        ),
        "usageEventBinary": {
            "title": "A usage event in binary mode",
            "summary": "The attributes are headers, the value is data.",
            "contentType": "application/json",
            "headers": binary_headers,
            "payload": _payload("usage-data"),
            "examples": [{"headers": binary_example, "payload": EVENT_EXAMPLE["data"]}],
        },
        "pricedBlock": {
            "title": "A block of priced events",
            "summary": "An Arrow IPC stream, bodies compressed with zstd. It may repeat events after a crash: of an"
            " identity (org, source, id) readers keep the first in the partition.",
            "contentType": "application/vnd.apache.arrow.stream",
        },
        "controlBlock": {
            "title": "A control block",
            "summary": "The revision of the catalog that is in force from here on; the header `control` marks it.",
            "contentType": "application/json",
            "headers": {
                "type": "object",
                "required": ["control"],
                "properties": {"control": {"type": "string", "const": "catalog"}},
            },
        },
        "rejectedEvent": _message(
            "A refused event", "usage-rejected", REJECTED_EXAMPLE, key="topic/partition/offset/index"
        ),
        "alert": _message("A transition of an alert", "usage-alert", ALERT_EXAMPLE, key="The alert id."),
        "priceBook": _message("A price book as applied", "price-book", PRICE_BOOK_EXAMPLE, key="The book's name."),
        "ruleSet": _message("A rule set as applied", "rule-set", RULE_SET_EXAMPLE, key="The set's name."),
    }


def _message(
    title: str, schema: str, example: object, *, content_type: str = "application/json", key: str = ""
) -> dict[str, Any]:
    message: dict[str, Any] = {
        "title": title,
        "contentType": content_type,
        "payload": _payload(schema),
        "examples": [{"payload": example}],
    }
    if key:
        message["bindings"] = {"kafka": {"key": {"type": "string", "description": key}, "bindingVersion": "0.5.0"}}
    return message


def _payload(schema: str) -> dict[str, Any]:
    return {"schemaFormat": SCHEMA_FORMAT, "schema": {"$ref": f"./{schema}.schema.json"}}


if __name__ == "__main__":
    sys.exit(main())
