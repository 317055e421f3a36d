"""The fast path says what the scalar specification says, for any record at all."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.decode import Decoded, Limits, decode, decode_one
from pipeline.decoding.columns import read_columns
from pipeline.decoding.frames import part_of
from schemas.records import RawRecords
from schemas.rejects import Reject
from schemas.variants import VARIANT_KEYS
from schemas.vocabularies import VOCABULARIES
from tests.pipeline.event_examples import (
    BATCH,
    STRUCTURED,
    TIME,
    compact,
    make_binary_record,
    make_data,
    make_event,
    make_record,
    ordinary_events,
)
from tests.schemas.test_vocabularies import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.records import RawRecord

LIMITS = Limits()


def assert_paths_agree(records: Sequence[RawRecord]) -> None:
    """Events, quantities and refusals of both paths are equal, in the same order and with the same types."""
    outcomes = [outcome for record in records for outcome in decode_one(record, limits=LIMITS)]
    accepted = [outcome for outcome in outcomes if isinstance(outcome, Decoded)]
    expected = part_of(accepted, np.zeros(len(accepted), np.int64))

    batch = decode(in_columns(records), limits=LIMITS)

    assert batch.rejects == [outcome for outcome in outcomes if isinstance(outcome, Reject)]
    assert_frame_equal(batch.events, expected.events)
    assert_frame_equal(batch.usage, expected.usage)


def in_columns(records: Sequence[RawRecord]) -> RawRecords:
    """The records as the price agent hands them over."""
    return RawRecords(records[0].topic, *(list(column) for column in list(zip(*records, strict=True))[1:]))


# --- values: valid ones, wrong ones and hostile ones ----------------------------------------------------------------

HOSTILE_TEXTS = st.sampled_from(
    [
        "",
        " ",
        "a b",
        "é",
        "😀",
        "\ud800",
        "\x00",
        "line\nbreak",
        'quo"te',
        "back\\slash",
        "sk-proj-abcdefghijklmnop1234",
        "sk-without-any-digit-at-all-here",
        "sk_live_1",
        "Bearer sk_live_1",
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY",
        "rk_live_1",
        "sk_test_1",
        "xoxb-1",
        "gho_1",
        "github_pat_1",
        "AKIA",
        "ghp_",
        "github.com",
        "eyJh.eyJz.x",
        "d41d8cd98f00b204e9800998ecf8427e",
        "x" * 128,
        "x" * 129,
        "requests",
        "ok",
        "error",
        "1.0",
        "1200",
        "0.000000001",
    ]
)
IDS = st.one_of(st.from_regex(r"\A[A-Za-z0-9._:/@~?#%+-]{1,20}\Z"), HOSTILE_TEXTS, st.text(max_size=6))
TIMES = st.one_of(
    st.sampled_from(
        [
            TIME,
            "2026-03-01T12:00:00Z",
            "2026-03-01T12:00:00+00:00",
            "2026-03-01t14:30:00.123456789z",
            "2026-03-01T14:30:00.5+02:30",
            "2026-03-01T12:10:00Z",
            "2026-03-01T12:10:00.000001Z",
            "2026-01-25T12:05:00Z",
            "2026-01-25T12:04:59.999999Z",
            "2026-02-29T12:00:00Z",
            "2024-02-29T12:00:00Z",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00-00:01",
            "9999-12-31T23:59:59-00:01",
            "2026-03-01T12:00:00\u0600Z",
        ]
    ),
    st.from_regex(
        r"\A20[0-9]{2}-[01][0-9]-[0-3][0-9][Tt][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{0,9})?([Zz]|[+-][0-2][0-9]:[0-6][0-9])\Z"
    ),
    HOSTILE_TEXTS,
)
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), HOSTILE_TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HOSTILE_TEXTS, inner, max_size=3),
    max_leaves=6,
)
QUANTITIES = st.one_of(
    st.integers(0, 10**15),
    st.integers(-(10**20), 10**20),
    st.decimals(0, 10**6, allow_nan=False).map(str),
    st.floats(0, 1e6),
    st.sampled_from(["1", "1.50", "007", "-0", "1e3", ".5", "1.", "1000000000000000.000000001", "１"]),
    JSON_VALUES,
)
USAGE_NAMES = st.from_regex(r"\A[a-z][a-z0-9_]{0,8}\Z")
USAGE = st.dictionaries(st.one_of(USAGE_NAMES, HOSTILE_TEXTS), QUANTITIES, max_size=5)
VARIANTS = st.dictionaries(
    st.sampled_from([*VARIANT_KEYS, "tier"]),
    st.one_of(st.booleans(), st.none(), st.sampled_from(["", "flex", "eu"]), HOSTILE_TEXTS),
    max_size=4,
)
TAGS = st.dictionaries(HOSTILE_TEXTS | st.text(max_size=4), HOSTILE_TEXTS | st.text(max_size=4), max_size=4)


@st.composite
def changed(draw: st.DrawFn, fields: dict[str, Any], changes: dict[str, st.SearchStrategy[Any]]) -> dict[str, Any]:
    """The fields with up to two of them changed, taken away, or set to any JSON: one wrong thing at a time is best."""
    new = dict(fields)
    for name in draw(st.lists(st.sampled_from(sorted(changes)), max_size=2)):
        kind = draw(st.sampled_from(["sensible", "sensible", "sensible", "any", "absent"]))
        if kind == "absent":
            new.pop(name, None)
        else:
            new[name] = draw(JSON_VALUES if kind == "any" else changes[name])
    return new


@st.composite
def foreign_data(draw: st.DrawFn) -> dict[str, Any]:
    """``data`` with another system's usage object, as its documents show it or with something odd in it."""
    shown = draw(st.sampled_from(EXAMPLES))
    usage = dict(shown.usage)
    for name in draw(st.lists(st.sampled_from(sorted(usage)) | HOSTILE_TEXTS | USAGE_NAMES, max_size=2)):
        usage[name] = draw(QUANTITIES | st.sampled_from([None, {"cached_tokens": 1}, {"text": "sk_live_1"}, ["a", {}]]))
    vocabulary = draw(st.sampled_from([shown.vocabulary] * 6 + ["openai", "tallyhouse", "", None, 5]))
    spare: dict[str, Any] = draw(st.sampled_from([{}, {}, {"user": None}, {"tags": {"a": "b"}}, {"status": "error"}]))
    return make_data(vocabulary=vocabulary, usage=usage, **spare)


DATA = changed(
    make_data(),
    {
        **dict.fromkeys(("project", "api_key", "environment", "user", "provider", "model"), IDS),
        "status": st.sampled_from(["ok", "error", ""]),
        "usage": USAGE,
        "vocabulary": st.sampled_from([*VOCABULARIES, None, ""]),
        "variant": VARIANTS,
        "tags": TAGS,
        "other": JSON_VALUES,
    },
)
EVENTS = st.builds(
    lambda attributes, data: attributes | ({"data": data} if data is not None else {}),
    changed(
        make_event(data=...),
        {
            **dict.fromkeys(("id", "source", "subject", "type"), IDS),
            "time": TIMES,
            "specversion": st.sampled_from(["1.0", "0.3"]),
            "datacontenttype": st.just("application/json"),
            "traceparent": HOSTILE_TEXTS,
            "ext": JSON_VALUES,
        },
    ),
    st.one_of(DATA, DATA, DATA, DATA, foreign_data(), foreign_data(), st.none(), JSON_VALUES),
)
ORDINARY = st.sampled_from(ordinary_events(20))


def written(event: Any, *, ascii_only: bool, spaced: bool) -> bytes:
    """JSON as one of the ways of writing it; what is no UTF-8 is kept as broken bytes."""
    separators = (" , ", "\t:\r\n") if spaced else (",", ":")
    return json.dumps(event, ensure_ascii=ascii_only, separators=separators).encode("utf-8", "surrogatepass")


# --- bytes: pieces that change what a parser sees -------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\t", b"\n", b"\x0b", b"\x00", b"\xff", b"\xc3\xa9"),
        *(b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"null", b"NaN", b"Infinity", b"-", b"0", b"1e3", b".5"),
        *(b"\\u0069", b"\\ud83d\\ude00", b"\\ud800", b"\\/", b'\\"', b"\\x", b"1" * 400, b"1e99999999999999999999"),
        *(
            b'"id":"x",',
            b'"id":null,',
            b'"\\u0069d":"x",',
            b'"user":null,',
            b'"user":"",',
            b'"vocabulary":"openai",',
            b'"vocabulary":null,',
            b'"prompt_tokens":1,',
            b'"cached_tokens":1,',
            b'"usage":{},',
            b'"tags":{},',
            b'"variant":{},',
        ),
        *(
            b'"usage":{"a":1,"a":2},',
            b'"usage":{"a":1,"b":"2.5"},',
            b'"tags":{"a":"b","a":"b"},',
            b'"variant":{"batch":true,"batch":true},',
            b'"status":"error",',
        ),
        *(b'"ext":1,', b'"ext":"x",', b'"ext":{"a":{"a":"a"}},', b'"ext":{"a":1,"a":1},', b'"traceparent":"0",'),
        *(b'"datacontenttype":"a","datacontenttype":"a",', b'"ext":' + b"[" * 15 + b"]" * 15 + b",", b"[" * 20),
    ]
)
BOUNDARY = re.compile(rb"[{,]")


@st.composite
def mutated(draw: st.DrawFn, value: bytes) -> bytes:
    """The bytes with up to two pieces put in, most often where a name may begin, or in the place of others."""
    for _ in range(draw(st.sampled_from([0, 1, 1, 2]))):
        boundaries = st.sampled_from([found.end() for found in BOUNDARY.finditer(value)] or [0])
        at = draw(st.one_of(boundaries, boundaries, boundaries, st.integers(0, len(value))))
        gone = draw(st.sampled_from([0, 0, 0, 0, 1, 8]))
        value = value[:at] + draw(PIECES) + value[at + gone :]
    return value


@st.composite
def records(draw: st.DrawFn) -> RawRecord:
    """A record in any mode, ordinary or not."""
    style = {"ascii_only": draw(st.booleans()), "spaced": draw(st.booleans())}
    event = draw(ORDINARY | EVENTS)
    kind = draw(st.sampled_from(["structured", "structured", "batch", "binary"]))
    if kind == "binary":
        texts = {name: text for name, text in event.items() if isinstance(text, str) and name != "data"}
        attributes = {name: text.encode("utf-8", "surrogatepass") for name, text in texts.items()}
        record = make_binary_record(draw(mutated(written(event.get("data"), **style))), **attributes)
        more: Any = st.sampled_from([*record.headers, ("ce_id", None), ("ce_data", b"1"), ("ce_ext", b"\xff")])
        headers = [*record.headers, *draw(st.lists(more, max_size=1))]
        return record._replace(headers=tuple(headers[draw(st.sampled_from([0, 0, 0, 1, 2])) :]))
    tree = [event, *draw(st.lists(ORDINARY | EVENTS | JSON_VALUES, max_size=3))] if kind == "batch" else event
    value = draw(mutated(written(tree, **style)))
    headers = draw(st.sampled_from([(), (), STRUCTURED, BATCH, (("content-type", b"application/json"),)]))
    return make_record(value, headers=headers)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(records(), min_size=1, max_size=6))
def test_both_paths_agree_on_any_records(some: list[RawRecord]) -> None:
    """Valid, mutated and hostile ones, in all modes, side by side in one batch."""
    assert_paths_agree([record._replace(offset=offset) for offset, record in enumerate(some)])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(records(), min_size=1, max_size=6))
def test_records_in_columns_are_the_records(some: list[RawRecord]) -> None:
    """One by one, in slices, and decoded."""
    some = [record._replace(offset=offset, partition=offset % 3) for offset, record in enumerate(some)]
    columns = in_columns(some)

    assert list(columns) == some
    assert columns[1:] == some[1:]
    assert_frame_equal(decode(columns, limits=LIMITS).events, decode(some, limits=LIMITS).events)


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("id", "source", "subject", "type"), HOSTILE_TEXTS),
    **dict.fromkeys(("project", "api_key", "environment", "user", "provider", "model"), HOSTILE_TEXTS),
    "time": TIMES,
    "status": HOSTILE_TEXTS,
    "usage": st.dictionaries(HOSTILE_TEXTS, st.just(1), min_size=1, max_size=2)
    | st.dictionaries(st.sampled_from("abc"), QUANTITIES, min_size=1, max_size=2),
    "variant": st.dictionaries(st.sampled_from(VARIANT_KEYS), HOSTILE_TEXTS | st.booleans(), min_size=1, max_size=2),
    "tags": st.dictionaries(HOSTILE_TEXTS, HOSTILE_TEXTS, min_size=1, max_size=2),
    "ext": st.integers(14, 15).map(lambda depth: json.loads("[" * depth + "]" * depth)),
}


@st.composite
def with_one_odd_value(draw: st.DrawFn) -> Any:
    """An ordinary event in which one value is odd, and often still allowed."""
    name = draw(st.sampled_from(sorted(FIELDS)))
    value = draw(FIELDS[name])
    data = make_data()
    return make_event(data=data | {name: value}) if name in {*data, "variant", "tags"} else make_event(**{name: value})


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(with_one_odd_value(), min_size=5, max_size=30), st.booleans())
def test_both_paths_agree_on_one_odd_value(events: list[Any], in_batches: bool) -> None:  # noqa: FBT001
    """Every check of the fast path alone decides about some of these."""
    trees = [events[at : at + 3] for at in range(0, len(events), 3)] if in_batches else events

    assert_paths_agree([make_record(tree, offset=offset) for offset, tree in enumerate(trees)])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
@example(b"")
@example(b"\x00")
def test_both_paths_agree_on_any_bytes(value: bytes) -> None:
    """Garbage is refused for the same reason and with the same sentence."""
    assert_paths_agree([make_record(value), make_record(b"[" + value + b"]"), make_record(value, headers=BATCH)])


@settings(max_examples=20, deadline=None)
@given(st.data(), st.integers(200, 700))
def test_a_bad_event_anywhere_in_a_long_batch_is_found(data: st.DataObject, count: int) -> None:
    """Slices of the fast path are cut somewhere in it, and neighbours of a bad event are looked at with it."""
    some = [make_record(compact(event), offset=offset) for offset, event in enumerate(ordinary_events(count))]
    for place in data.draw(st.lists(st.integers(0, count - 1), max_size=4)):
        some[place] = data.draw(records())._replace(offset=place)

    assert_paths_agree(some)


def test_ordinary_events_take_the_fast_path() -> None:
    """In all modes, with offsets, fractions, tags, nulls, escapes and extensions: nothing is left."""
    event = make_event()
    attributes = {name: text for name, text in event.items() if name != "data"}
    ordinary = [
        make_record(event),
        make_record(event, headers=STRUCTURED),
        make_record([event, event]),
        make_record([event], headers=BATCH),
        make_binary_record(event["data"], **attributes),
        make_record(make_event(time="2026-03-01T12:00:00.123456+00:00")),
        make_record(make_event(data=make_data(usage={"seconds": "12.5", "gb": 0.25, "n": 3}))),
        make_record(make_event(data=make_data(tags={"team": "é", "path": "a\\b"}, status="error"))),
        make_record(make_event(data=make_data(variant={"service_tier": "flex", "batch": True}))),
        make_record(make_event(data=make_data(variant={"region": "", "batch": False, "speed": None}))),
        make_record(make_event(data=make_data(user=None, model="", usage=None))),
        make_record({"datacontenttype": "application/json", "traceparent": "00-1", "ext": {"a": [1]}} | event),
        make_record(compact(event).replace(b"/", b"\\/")),
    ]

    part, left = read_columns(ordinary, limits=LIMITS)

    assert left.indexes == {}
    assert part.events.height == len(ordinary) + 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data(), st.booleans())
def test_both_paths_agree_on_usage_objects_of_other_systems(data: st.DataObject, in_batches: bool) -> None:  # noqa: FBT001
    """Translated, refused, odd, with repeated names and between ordinary events."""
    events = [
        data.draw(mutated(compact(make_event(data=data.draw(foreign_data())))) | ORDINARY.map(compact))
        for _ in range(data.draw(st.integers(1, 8)))
    ]

    assert_paths_agree([make_record(b"[" + b",".join(events) + b"]" if in_batches else event) for event in events])


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_usage_objects_of_other_systems_take_the_fast_path(example: Any) -> None:
    """In all modes: whoever pastes them is not slower than who translates, but for the translation itself."""
    usage = {name: value for name, value in example.usage.items() if name != "seconds"}
    data = make_data(vocabulary=example.vocabulary, usage=usage)
    attributes = {name: text for name, text in make_event().items() if name != "data"}
    event = make_event(data=data)
    some = [make_record(event), make_record([event, make_event(), event]), make_binary_record(data, **attributes)]

    part, left = read_columns(some, limits=LIMITS)

    assert left.indexes == {}
    assert part.events.height == 5
    assert_paths_agree(some)


def test_a_vocabulary_of_null_is_none_and_takes_the_fast_path() -> None:
    """Typed clients write all fields of an event, those without a value too."""
    record = make_record(make_event(data=make_data(vocabulary=None)))

    part, left = read_columns([record], limits=LIMITS)

    assert left.indexes == {}
    assert part.usage.equals(read_columns([make_record(make_event())], limits=LIMITS)[0].usage)


def test_a_bad_neighbour_does_not_take_others_off_the_fast_path() -> None:
    """So that one broken producer cannot slow everyone down."""
    good = [make_record(event, offset=offset) for offset, event in enumerate(ordinary_events(300))]
    bad = [b"\xff", compact(make_event(id="a\nb")), compact(make_event(time="\u0600" * 10)), compact(make_event())[:-1]]
    some = [make_record(value) for value in bad]

    part, left = read_columns([*good[:150], *some, *good[150:]], limits=LIMITS)

    assert part.events.height == 300
    assert sorted(left.indexes) == [150, 151, 152, 153]
