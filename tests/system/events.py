"""A seeded stream of realistic usage events, and of everything that producers get wrong.

What is sent is known exactly: each ``Record`` carries the ``Item`` of every event in it, either what a reader of the
contract must find there or the reason for which it must be refused.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
STRUCTURED: Final = ("content-type", b"application/cloudevents+json; charset=UTF-8")
BATCH: Final = ("content-type", b"application/cloudevents-batch+json")

#: Of a thousand events so many are …
DUPLICATES, CONFLICTS, LATE, BAD = 20, 4, 10, 10
#: Of a thousand records so many can't be read as a whole.
BAD_RECORDS: Final = 3

Headers = tuple[tuple[str, bytes], ...]

#: What some requests were besides their model, in the order in which producers write it.
VARIANTS: Final = (
    (("batch", True),),
    (("region", "eu"),),
    (("service_tier", "flex"), ("region", "eu")),
    (("region", "us"), ("batch", True)),
)
OPTIONAL: Final = ("environment", "user", "provider", "model")


@dataclass(frozen=True, slots=True)
class Event:
    """A valid event by its content. ``usage`` is (name, quantity) pairs; an absent optional id is ``""``."""

    org: str
    source: str
    id: str
    operation: str
    time: datetime
    project: str
    api_key: str
    environment: str
    user: str
    provider: str
    model: str
    status: str
    usage: tuple[tuple[str, Decimal], ...]
    tags: tuple[tuple[str, str], ...] = ()
    variant: tuple[tuple[str, str | bool], ...] = ()

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes two events one."""
        return self.org, self.source, self.id


@dataclass(frozen=True, slots=True)
class Item:
    """One place in a record: a valid event, or the reason of its refusal with the org and id that can be read."""

    event: Event | None
    reason: str = ""
    org: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What goes to Kafka, and what it holds."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    items: tuple[Item, ...]


class EventStream:
    """Endless records from one seed. ``now`` is asked for each event, so that times look like those of services."""

    def __init__(self, generator: random.Random, *, now: Callable[[], datetime]) -> None:
        self._random = generator
        self._now = now
        self._recent: list[Event] = []  # the last few hundred
        self._remembered: list[Event] = []  # a sample of everything, for repeats that come much later
        self._made = 0
        self._bad_ways = itertools.cycle(_BAD_EVENTS.items())  # in turn, so that none is left out
        self._bad_record_ways = itertools.cycle(_BAD_RECORDS)

    def __iter__(self) -> Iterator[Record]:
        while True:
            yield self._record()

    def _record(self) -> Record:
        if self._chance(BAD_RECORDS):
            return self._bad_record()
        mode = self._random.random()
        if mode < 0.15:
            return self._batch_record()
        item, text = self._item()
        if mode < 0.40 and item.event is not None:
            return self._binary_record(item.event)
        headers = (STRUCTURED,) if self._random.random() < 0.5 else ()
        return Record(self._key(item), text.encode(), headers, (item,))

    def _batch_record(self) -> Record:
        pairs = [self._item() for _ in range(self._random.choice((1, 2, 3, 5, 8, 20)))]
        if len(pairs) > 2 and self._chance(100):  # a client that puts one event twice into one batch
            first = pairs[0][0].event
            if first is not None:
                pairs.append((Item(first), self._text(first)))
        headers = (BATCH,) if self._random.random() < 0.5 else ()
        value = "[" + ",".join(text for _, text in pairs) + "]"
        return Record(self._key(pairs[0][0]), value.encode(), headers, tuple(item for item, _ in pairs))

    def _binary_record(self, event: Event) -> Record:
        attributes = {"specversion": "1.0", "id": event.id, "source": event.source, "type": event.operation}
        attributes |= {"subject": event.org, "time": self._time(event.time)}
        headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
        if self._random.random() < 0.7:
            headers.append(("content-type", b"application/json"))
        self._random.shuffle(headers)
        return Record(self._key(Item(event)), self._data(event).encode(), tuple(headers), (Item(event),))

    def _key(self, item: Item) -> bytes | None:
        return item.event.org.encode() if item.event is not None and self._random.random() < 0.5 else None

    def _item(self) -> tuple[Item, str]:
        if self._chance(BAD):
            return self._bad_item()
        if self._recent and self._chance(DUPLICATES):
            event = self._earlier()
        elif self._recent and self._chance(CONFLICTS):
            event = self._changed(self._earlier())
        else:
            event = self._event()
            self._remember(event)
        return Item(event), self._text(event)

    def _earlier(self) -> Event:
        return self._random.choice(self._recent if self._random.random() < 0.6 else self._remembered)

    def _remember(self, event: Event) -> None:
        self._recent.append(event)
        if len(self._recent) > 300:
            del self._recent[:100]
        if len(self._remembered) < 5_000:
            self._remembered.append(event)
        elif self._random.random() < 0.05:
            self._remembered[self._random.randrange(5_000)] = event

    def _changed(self, event: Event) -> Event:
        """The same identity with other content, each field in turn."""
        match self._random.randrange(6):
            case 0:
                return replace(event, time=event.time + timedelta(microseconds=1))
            case 1:
                return replace(event, status="error" if event.status == "ok" else "ok")
            case 2:
                return replace(event, project=f"{event.project}-b")
            case 3:
                return replace(event, variant=(*event.variant, ("speed", "slow")))
            case 4:
                return replace(event, usage=(*event.usage, ("retries", Decimal(self._random.randint(1, 5)))))
            case _:
                return replace(event, time=event.time - timedelta(hours=2))

    def _event(self) -> Event:
        random = self._random
        self._made += 1
        org = f"org-{min(int(random.paretovariate(0.8)), 40)}"
        project = f"project-{random.randint(1, 4)}"
        operation, provider, model, usage = self._operation()
        return Event(
            org=org,
            source=f"/gateway/eu-{random.randint(1, 3)}",
            id=f"req-{self._made:07d}-{random.getrandbits(48):012x}",
            operation=operation,
            time=self._event_time(),
            project=project,
            api_key=f"key_{org}_{project}_{random.randint(1, 3)}",
            environment=random.choice(("production", "production", "staging", "")),
            user=random.choice(("", f"u_{random.randint(1, 50)}")),
            provider=provider,
            model=model,
            status="error" if random.random() < 0.05 else "ok",
            usage=usage,
            tags=(("team", random.choice(("search", "risk"))),) if random.random() < 0.1 else (),
            variant=random.choice(VARIANTS) if operation == "llm.request" and random.random() < 0.3 else (),
        )

    def _event_time(self) -> datetime:
        now = self._now()
        if not self._chance(LATE):
            return now - timedelta(milliseconds=self._random.randint(0, 90_000))
        return now - timedelta(microseconds=self._random.randint(3_700_000_000, 30 * 86_400_000_000))

    def _operation(self) -> tuple[str, str, str, tuple[tuple[str, Decimal], ...]]:
        random = self._random
        tokens = [("input_tokens", random.randint(1, 4_000)), ("output_tokens", random.randint(0, 900))]
        match random.choices(range(6), weights=(50, 15, 15, 10, 6, 4))[0]:
            case 0:
                tokens.append(("cache_read_tokens", random.randint(0, 2_000)))
                if random.random() < 0.2:
                    tokens.append(("reasoning_tokens", random.randint(1, 100)))
                return "llm.request", "openai", "gpt-4o-mini", _quantities(tokens)
            case 1:  # beyond 200,000 tokens of context the whole request costs more
                tokens[0] = ("input_tokens", random.choice((1_500, 200_000, 200_001, 350_000)))
                provider = random.choice(("anthropic", "anthropic", "anthropic.claude"))
                return "llm.request", provider, "claude-sonnet-4-5", _quantities(tokens)
            case 2:
                return "lookup", "", "", ()
            case 3:
                pages = Decimal(random.randint(1, 10**12)) / Decimal(10**9)
                return "report_job", "", "", (("pages", pages), ("latency_ms", Decimal(random.randint(1, 9_000))))
            case 4:
                return "webhook_delivery", "", "", ()
            case _:  # nobody has a price for it yet
                return "llm.request", "mistral", f"model-{random.randint(1, 3)}", _quantities(tokens)

    # How producers write it: everything below changes the bytes and never the content.

    def _text(self, event: Event, *, extra: tuple[tuple[str, str], ...] = ()) -> str:
        fields = [("specversion", '"1.0"'), ("id", json.dumps(event.id)), ("source", json.dumps(event.source))]
        fields += [("type", json.dumps(event.operation)), ("subject", json.dumps(event.org))]
        fields += [("time", json.dumps(self._time(event.time))), ("data", self._data(event)), *extra]
        if self._random.random() < 0.1:
            fields.append(("traceparent", '"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"'))
        return self._object(fields)

    def _data(self, event: Event, *, extra: tuple[tuple[str, str], ...] = ()) -> str:
        fields = [("project", json.dumps(event.project)), ("api_key", json.dumps(event.api_key))]
        for name in OPTIONAL:
            value = getattr(event, name)
            if value or self._random.random() < 0.2:
                fields.append((name, json.dumps(value) if value else self._random.choice(('""', "null"))))
        if event.status != "ok" or self._random.random() < 0.5:
            fields.append(("status", json.dumps(event.status)))
        if event.usage or self._random.random() < 0.3:
            fields.append(("usage", self._object([(name, self._number(value)) for name, value in event.usage])))
        if event.variant or self._random.random() < 0.1:
            fields.append(("variant", self._variant(event)))
        if event.tags:
            fields.append(("tags", json.dumps(dict(event.tags))))
        return self._object([*fields, *extra])

    def _variant(self, event: Event) -> str:
        if not event.variant and self._random.random() < 0.3:
            return "null"
        said = [(key, json.dumps(value)) for key, value in event.variant]
        absent = (("batch", ("false", "null")), ("speed", ('""', "null")))
        keys = {key for key, _ in said}
        said += [
            (key, self._random.choice(ways)) for key, ways in absent if key not in keys and self._random.random() < 0.3
        ]
        return self._object(said)

    def _object(self, fields: list[tuple[str, str]]) -> str:
        if self._random.random() < 0.2:
            self._random.shuffle(fields)
        gap = self._random.choice(("", "", "", " "))
        return "{" + f",{gap}".join(f"{json.dumps(name)}:{gap}{text}" for name, text in fields) + "}"

    def _number(self, quantity: Decimal) -> str:
        plain = f"{quantity:f}"
        choice = self._random.random()
        if choice < 0.6:
            return plain
        if choice < 0.8:
            return f'"{plain}"'
        return f"{plain}.000" if "." not in plain else f"{plain}0"

    def _time(self, time: datetime) -> str:
        if self._random.random() < 0.1:
            east = time + timedelta(hours=2)
            return f"{east:%Y-%m-%dT%H:%M:%S.%f}+02:00"
        return f"{time:%Y-%m-%dT%H:%M:%S.%f}Z" if self._random.random() < 0.8 else f"{time:%Y-%m-%dt%H:%M:%S.%f}789z"

    # What producers get wrong.

    def _bad_item(self) -> tuple[Item, str]:
        event = self._event()
        reason, make = next(self._bad_ways)
        text = make(self, event)
        if self._random.random() < 0.3:
            self._remember(event)  # mended and sent again under the same id some day: then it counts
        readable = {"org": event.org, "id": event.id} if text.startswith("{") else {}
        return Item(None, reason, **readable), text

    def _bad_record(self) -> Record:
        """Records that can't be read as a whole, in turn."""
        reason, make = next(self._bad_record_ways)
        good = self._text(self._event())
        value, headers = make(self, good)
        return Record(None, value, headers, (Item(None, reason),))

    def _chance(self, of_a_thousand: int) -> bool:
        return self._random.random() * 1_000 < of_a_thousand


def _quantities(tokens: list[tuple[str, int]]) -> tuple[tuple[str, Decimal], ...]:
    return tuple((name, Decimal(count)) for name, count in tokens)


def _without(text: str, name: str) -> str:
    fields = json.loads(text)
    del fields[name]
    return json.dumps(fields)


def _with_data(text: str, **changes: object) -> str:
    event = json.loads(text)
    event["data"] |= changes
    return json.dumps(event)


def _bad_events() -> dict[str, Callable[[EventStream, Event], str]]:
    """One way to earn each reason that a single event can have; all of them leave the org and the id readable."""
    text = EventStream._text

    return {
        "duplicate_key": lambda stream, event: text(stream, event)[:-1] + ',"time":"2026-01-01T00:00:00Z"}',
        "not_cloudevent": lambda stream, event: text(stream, event).replace('"1.0"', '"0.3"', 1),
        "missing_field": lambda stream, event: _without(text(stream, event), "time"),
        "bad_type": lambda stream, event: _with_data(text(stream, event), status="pending"),
        "bad_id": lambda stream, event: _with_data(text(stream, event), project="no spaces please"),
        "raw_secret": lambda stream, event: _with_data(text(stream, event), api_key="sk-proj-0aB1cD2eF3gH4iJ5kL6mN7oP"),
        "bad_time": lambda stream, event: json.dumps(json.loads(text(stream, event)) | {"time": "2026-02-30T00:00Z"}),
        "time_in_future": lambda stream, event: text(stream, replace(event, time=stream._now() + timedelta(hours=2))),
        "time_too_old": lambda stream, event: text(stream, replace(event, time=stream._now() - timedelta(days=40))),
        "unknown_field": lambda stream, event: _with_data(text(stream, event), prompt="hello"),
        "bad_quantity": lambda stream, event: _with_data(text(stream, event), usage={"input_tokens": -1}),
    }


_BAD_EVENTS: Final = _bad_events()
_BAD_RECORDS: Final[tuple[tuple[str, Callable[[EventStream, str], tuple[bytes | None, Headers]]], ...]] = (
    ("not_json", lambda stream, good: (good.encode()[: stream._random.randint(1, len(good) - 1)], ())),
    ("not_json", lambda _stream, _good: (None, ())),
    ("not_json", lambda _, good: (b"\xef\xbb\xbf" + good.encode(), (STRUCTURED,))),
    ("not_json", lambda _, good: (good.encode().replace(b"gateway", b"gate\xffay"), ())),
    ("not_cloudevent", lambda _stream, _good: (b"[]", ())),
    ("not_cloudevent", lambda _, good: (f"[{good}]".encode(), (STRUCTURED,))),
    (
        "too_deep",
        lambda _, good: (good.encode().replace(b'"data":', b'"nested":' + b"[" * 20 + b"]" * 20 + b',"data":'), ()),
    ),
    ("too_many_events", lambda _, good: (f"[{','.join([good] * 1_001)}]".encode(), (BATCH,))),
    ("too_large", lambda _, good: (good.encode() + b" " * (1024 * 1024), ())),
)
#: Every reason of the contract that this stream gives producers cause for; a conflict is found when counting.
REASONS: Final = frozenset(_BAD_EVENTS) | {"not_json", "not_cloudevent", "too_deep", "too_many_events", "too_large"}
