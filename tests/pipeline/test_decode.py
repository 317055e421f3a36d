"""What becomes of a record: each reason of the contract, what is accepted, and what comes out."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from pipeline.decode import DecodedBatch, Limits, decode
from schemas.frames import EVENTS, USAGE
from schemas.rejects import Reason, Reject
from tests.pipeline.event_examples import (
    BATCH,
    RECEIVED_MS,
    STRUCTURED,
    compact,
    make_binary_record,
    make_data,
    make_event,
    make_record,
)
from tests.schemas.test_secrets import SECRETS

if TYPE_CHECKING:
    from schemas.records import RawRecord

SECRET = "sk-proj-abcdefghijklmnop1234"  # noqa: S105 -- shaped like one, and none
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


def decoded(*records: RawRecord, **limits: int) -> DecodedBatch:
    """What the records hold."""
    return decode(records, limits=Limits(**limits))


def refused(record: RawRecord, **limits: int) -> Reject:
    """The one refusal of a record that holds nothing else."""
    batch = decoded(record, **limits)
    assert batch.events.is_empty()
    (reject,) = batch.rejects
    return reject


def reason_for(value: Any, headers: Any = ()) -> Reason:
    """Why a record with this value is refused."""
    return refused(make_record(value, headers=headers)).reason


def with_data(**changes: Any) -> dict[str, Any]:
    """An event that is ordinary but for these fields of data."""
    return make_event(data=make_data(**changes))


def with_text(text: str) -> bytes:
    """An ordinary event with this JSON text in the place of its usage."""
    return compact(with_data(usage="@")).replace(b'"@"', text.encode())


def quantities(value: Any) -> list[Decimal]:
    """The quantities of an event that is accepted."""
    batch = decoded(make_record(value))
    assert batch.rejects == []
    return batch.usage["quantity"].to_list()


# --- what is accepted ---------------------------------------------------------------------------------------------


def test_an_ordinary_event_becomes_one_row() -> None:
    """Every field of the contract's example has its column, and times are instants in UTC."""
    batch = decoded(make_record(make_event(), offset=7))

    assert batch.rejects == []
    assert batch.events.to_dicts() == [
        {
            "partition": 0,
            "offset": 7,
            "index": 0,
            "of": 1,
            "received_at": datetime(2026, 3, 1, 12, 5, tzinfo=UTC),
            "org": "acme",
            "source": "/gateway/eu-1",
            "id": "req-7f3a",
            "time": datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC),
            "operation": "llm.request",
            "project": "checkout",
            "api_key": "key_42",
            "environment": "production",
            "user": "u_9",
            "provider": "openai",
            "model": "gpt-4o-mini",
            "variant": "",
            "status": "ok",
            "tags": "",
        }
    ]
    assert batch.usage.to_dicts() == [
        {"row": 0, "meter": "input_tokens", "quantity": Decimal(1200)},
        {"row": 0, "meter": "cache_read_tokens", "quantity": Decimal(800)},
        {"row": 0, "meter": "output_tokens", "quantity": Decimal(310)},
    ]


@pytest.mark.parametrize(
    "records",
    [
        [],
        [make_record(None)],
        [make_record(make_event())],
        [make_record(make_event()), make_record([make_event(), {}])],
    ],
    ids=["none", "only a bad one", "only a good one", "a mixture"],
)
def test_frames_have_exactly_their_columns_and_types(records: list[RawRecord]) -> None:
    """Also when there is nothing in them, so that no stage after this one needs to ask."""
    batch = decode(records, limits=Limits())

    assert dict(batch.events.schema) == EVENTS
    assert dict(batch.usage.schema) == USAGE


@pytest.mark.parametrize("absent", [..., None, ""])
@pytest.mark.parametrize("name", ["environment", "user", "provider", "model"])
def test_an_optional_id_that_is_absent_null_or_empty_is_the_same(name: str, absent: Any) -> None:
    """They become the empty string, so that they fall into one lane."""
    batch = decoded(make_record(with_data(**{name: absent})))

    assert batch.events[name].to_list() == [""]


@pytest.mark.parametrize("absent", [..., None])
def test_status_usage_and_tags_may_be_absent_or_null(absent: Any) -> None:
    """The event is then counted as successful, with nothing but its implied request."""
    batch = decoded(make_record(with_data(status=absent, usage=absent, tags=absent)))

    assert batch.events.select("status", "tags").row(0) == ("ok", "")
    assert batch.usage.is_empty()


def test_a_failed_event_is_accepted() -> None:
    """It is counted, and billed or not by the price."""
    batch = decoded(make_record(make_event()), make_record(with_data(status="error"), offset=1))

    assert batch.events["status"].to_list() == ["ok", "error"]


def test_tags_are_compact_json_with_sorted_names() -> None:
    """Equal tags in another order are equal content."""
    one = decoded(make_record(with_data(tags={"b": "2", "a": "é\n"})))
    two = decoded(make_record(with_data(tags={"a": "é\n", "b": "2"})))

    assert one.events["tags"].to_list() == ['{"a":"é\\n","b":"2"}'] == two.events["tags"].to_list()


@pytest.mark.parametrize(
    ("variant", "text"),
    [
        ({"service_tier": "flex", "batch": True}, '{"batch":true,"service_tier":"flex"}'),
        ({"batch": True, "speed": "", "region": None, "service_tier": "flex"}, '{"batch":true,"service_tier":"flex"}'),
        ({"region": "eu", "speed": "fast"}, '{"region":"eu","speed":"fast"}'),
        ({"batch": False, "speed": None, "region": ""}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_a_variant_is_compact_json_of_what_it_says(variant: Any, text: str) -> None:
    """With sorted keys; null, "", false and an absent key say the same, so equal variants are equal content."""
    batch = decoded(make_record(with_data(variant=variant)), make_record(make_event(), offset=1))

    assert batch.events["variant"].to_list() == [text, ""]


def test_extension_attributes_are_ignored_whatever_they_hold() -> None:
    """Tracing, SDKs and gateways may add what they like outside of data."""
    event = {"traceparent": "00-1-2-01", "dataschema": 5, "ext": {"deep": ["\ud800", SECRET]}} | make_event()

    assert decoded(make_record(event)).events.height == 1


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("1200", "1200"),
        ("1200.0", "1200"),
        ('"1200"', "1200"),
        ('"007.50"', "7.5"),
        ("0.1", "0.1"),
        ("1e3", "1000"),
        ("1E-9", "0.000000001"),
        ("12.5e-1", "1.25"),
        ("-0", "0"),
        ("-0.0e7", "0"),
        ("0e999999999999", "0"),
        ("1.50000000000000000", "1.5"),
        ("12345678901234.123456789", "12345678901234.123456789"),
        ("1000000000000000", "1000000000000000"),
        ("1e15", "1000000000000000"),
        ("999999999999999.999999999", "999999999999999.999999999"),
        ("0.000000001", "0.000000001"),
    ],
)
def test_a_quantity_is_kept_exactly(text: str, quantity: str) -> None:
    """By value, whatever way of writing it the producer's JSON library has."""
    assert quantities(with_text(f'{{"amount": {text}}}')) == [Decimal(quantity)]


def test_quantities_of_all_kinds_stand_side_by_side() -> None:
    """One event with a fraction does not change its neighbours' whole numbers."""
    batch = decoded(
        make_record(with_text('{"a": 1, "b": "0.5", "c": 2.25}')), make_record(with_text('{"d": 900719925474099}'))
    )

    assert batch.usage.rows() == [
        (0, "a", Decimal(1)),
        (0, "b", Decimal("0.5")),
        (0, "c", Decimal("2.25")),
        (1, "d", Decimal(900719925474099)),
    ]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-03-01T12:00:00Z", "2026-03-01T12:00:00+00:00"),
        ("2026-03-01t12:00:00z", "2026-03-01T12:00:00+00:00"),
        ("2026-03-01T12:00:00.1234569Z", "2026-03-01T12:00:00.123456+00:00"),
        ("2026-03-01T12:00:00.9999999999Z", "2026-03-01T12:00:00.999999+00:00"),
        ("2026-03-01T14:30:00+02:30", "2026-03-01T12:00:00+00:00"),
        ("2026-02-28T12:01:00.5-23:59", "2026-03-01T12:00:00.500000+00:00"),
        ("2026-03-01T12:00:00-00:00", "2026-03-01T12:00:00+00:00"),
    ],
)
def test_a_time_is_an_instant_cut_at_the_microsecond(text: str, instant: str) -> None:
    """Digits beyond are cut, never rounded; offsets are converted."""
    batch = decoded(make_record(make_event(time=text)))

    assert batch.events["time"].to_list() == [datetime.fromisoformat(instant)]


@pytest.mark.parametrize("year", ["0001", "9999"])
def test_the_first_and_last_year_can_be_backfilled(year: str) -> None:
    """With limits raised for it, any instant of the years 1 to 9999 is accepted."""
    record = make_record(make_event(time=f"{year}-01-01T00:00:00Z"))

    batch = decoded(record, max_age_days=4_000_000, max_ahead_seconds=400_000_000_000)

    assert batch.events["time"].dt.year().to_list() == [int(year)]


def test_limits_are_included() -> None:
    """Exactly five minutes ahead and exactly 35 days behind are still accepted."""
    times = ["2026-03-01T12:10:00.000000Z", "2026-01-25T12:05:00Z"]

    assert decoded(*[make_record(make_event(time=time)) for time in times]).events.height == 2


# --- vocabularies -------------------------------------------------------------------------------------------------


OPENAI_USAGE: dict[str, Any] = {
    "prompt_tokens": 2000,
    "completion_tokens": 310,
    "total_tokens": 2310,
    "prompt_tokens_details": {"cached_tokens": 800, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 64},
}


def test_a_usage_object_of_another_system_is_translated() -> None:
    """The cached tokens are taken out of the prompt, which includes them; the total is only checked."""
    batch = decoded(make_record(with_data(vocabulary="openai", usage=OPENAI_USAGE)))

    assert {row["meter"]: row["quantity"] for row in batch.usage.to_dicts()} == {
        "input_tokens": Decimal(1200),
        "cache_read_tokens": Decimal(800),
        "output_tokens": Decimal(310),
        "reasoning_tokens": Decimal(64),
    }


def test_quantities_of_another_system_may_be_strings_and_fractions() -> None:
    """As without a vocabulary."""
    batch = decoded(
        make_record(with_data(vocabulary="openai", usage={"prompt_tokens": "10", "completion_tokens": 2.5}))
    )

    assert batch.usage.rows() == [(0, "input_tokens", Decimal(10)), (0, "output_tokens", Decimal("2.5"))]


@pytest.mark.parametrize("absent", [..., None])
def test_without_a_vocabulary_the_names_are_ours(absent: Any) -> None:
    """And nothing is translated, whatever the names look like."""
    batch = decoded(make_record(with_data(vocabulary=absent, usage={"prompt_tokens": 5, "total_tokens": 9})))

    assert batch.usage.rows() == [(0, "prompt_tokens", Decimal(5)), (0, "total_tokens", Decimal(9))]


@pytest.mark.parametrize("usage", [..., None, {}])
def test_a_vocabulary_needs_no_usage(usage: Any) -> None:
    """A failed attempt has none."""
    batch = decoded(make_record(with_data(vocabulary="gemini", usage=usage)))

    assert (batch.events.height, batch.usage.height) == (1, 0)


@pytest.mark.parametrize("vocabulary", ["", "OpenAI", "xai", "tallyhouse", 5, True, [], {"name": "openai"}])
def test_a_vocabulary_that_nobody_knows_is_bad_type(vocabulary: Any) -> None:
    """The refusal lists those that there are."""
    reject = refused(make_record(with_data(vocabulary=vocabulary, usage=OPENAI_USAGE)))

    assert reject.reason is Reason.BAD_TYPE
    assert "data.vocabulary must be one of otel_genai, openai, anthropic, litellm, langfuse, gemini" in reject.detail


@pytest.mark.parametrize(
    ("usage", "detail"),
    [
        (
            OPENAI_USAGE | {"prompt_tokens": 700, "total_tokens": 1010},
            (
                "data.usage.prompt_tokens_details.cached_tokens is 800, more than the 700 of prompt_tokens,"
                " which includes it"
            ),
        ),
        (
            OPENAI_USAGE | {"total_tokens": 2311},
            (
                "data.usage.total_tokens is 2311, but the counts make 2310;"
                " they are not what the vocabulary openai says, or the total is wrong: then leave it out"
            ),
        ),
        (
            OPENAI_USAGE | {"prompt_tokens": -1},
            (
                "data.usage.prompt_tokens is -1; a quantity is a number or a decimal string,"
                " 0 to 1e15, with at most 9 decimals"
            ),
        ),
        (
            OPENAI_USAGE | {"prompt_tokens": "a few"},
            (
                "data.usage.prompt_tokens is 'a few'; a quantity is a number or a decimal string,"
                " 0 to 1e15, with at most 9 decimals"
            ),
        ),
        (
            OPENAI_USAGE | {"cache_read_input_tokens": 800},
            "data.usage.cache_read_input_tokens is no name of the vocabulary openai, but one of anthropic",
        ),
        (
            OPENAI_USAGE | {"Größe": 3},
            (
                "data.usage['Gr\\xf6\\xdfe'] is no name of the vocabulary openai,"
                " and none that a quantity beside it can have"
            ),
        ),
        ({f"q{i}": i for i in range(65)}, "data.usage has 65 quantities; at most 64 are allowed"),
        (
            {"details": {f"q{i}": 1 for i in range(65)}},
            "data.usage makes 65 quantities; at most 64 are allowed",
        ),
    ],
)
def test_a_usage_object_that_contradicts_itself_is_bad_quantity(usage: dict[str, Any], detail: str) -> None:
    """With a sentence that names both sides, so that the producer finds which of them is wrong."""
    reject = refused(make_record(with_data(vocabulary="openai", usage=usage)))

    assert (reject.reason, reject.detail) == (Reason.BAD_QUANTITY, detail)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 5, "prompt_tokens_details": {"note": SECRET}},
        {"prompt_tokens": 5, "prompt_tokens_details": {SECRET: 1}},
        {"prompt_tokens": 5, "cost_details": [{"key": SECRET}]},
    ],
)
def test_a_secret_anywhere_in_a_usage_object_is_refused(usage: dict[str, Any]) -> None:
    """Also in members that are left out."""
    assert reason_for(with_data(vocabulary="openai", usage=usage)) is Reason.RAW_SECRET


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 5, f"x {SECRET}": 1},
        {"prompt_tokens": 5, "details": {f"x-{SECRET}": 1}},
        {"prompt_tokens": 5, f"x-{SECRET}": -1},
        {"prompt_tokens": f"x-{SECRET}"},
    ],
)
def test_what_looks_like_a_secret_in_a_refused_usage_object_is_masked(usage: dict[str, Any]) -> None:
    """It does not begin like one, so it is refused for another reason; the sentence still does not repeat it."""
    reject = refused(make_record(with_data(vocabulary="openai", usage=usage)))

    assert reject.reason is Reason.BAD_QUANTITY
    assert "abcdefgh" not in reject.detail


def test_a_repeated_name_in_a_nested_object_is_a_duplicate_key() -> None:
    """Which of both counts was meant cannot be known."""
    text = '{"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1, "cached_tokens": 2}}'
    value = compact(with_data(vocabulary="openai", usage="@")).replace(b'"@"', text.encode())

    assert reason_for(value) is Reason.DUPLICATE_KEY


# --- modes --------------------------------------------------------------------------------------------------------


def test_all_three_modes_say_the_same() -> None:
    """An event is the same content, whichever way it was carried."""
    event = make_event()
    structured, batch, binary = (
        decoded(record).events.drop("offset")
        for record in (
            make_record(event, headers=STRUCTURED),
            make_record([event], headers=BATCH),
            make_binary_record(event["data"], **{name: text for name, text in event.items() if name != "data"}),
        )
    )

    assert structured.equals(batch)
    assert structured.equals(binary)


def test_a_batch_keeps_the_order_of_its_events() -> None:
    """Each has its index and knows how many there were."""
    batch = decoded(make_record([make_event(id=name) for name in "abc"]), make_record(make_event(id="d"), offset=1))

    assert batch.events.select("offset", "index", "of", "id").rows() == [
        (0, 0, 3, "a"),
        (0, 1, 3, "b"),
        (0, 2, 3, "c"),
        (1, 0, 1, "d"),
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"5", Reason.NOT_CLOUDEVENT),
        (b"[]", Reason.NOT_CLOUDEVENT),
        (b'{"specversion":"1.0"}', Reason.MISSING_FIELD),
        (compact(make_event())[:-1] + b',"id":"again"}', Reason.DUPLICATE_KEY),
        (compact(with_data(usage={"a": -1})), Reason.BAD_QUANTITY),
    ],
)
def test_a_bad_event_in_a_batch_is_refused_alone(bad: bytes, reason: Reason) -> None:
    """Neighbours are never harmed, and the refusal names the event's place."""
    good = compact(make_event())

    batch = decoded(make_record(b"[" + b",".join([good, bad, good]) + b"]"))

    assert batch.events["index"].to_list() == [0, 2]
    assert [(reject.reason, reject.index, reject.of) for reject in batch.rejects] == [(reason, 1, 3)]


def test_a_batch_element_that_nests_too_deep_makes_the_record_unreadable() -> None:
    """Depth is judged on the record's bytes, before anything in it is told apart."""
    deep = compact({"ext": json.loads("[" * 15 + "]" * 15)} | make_event())

    reject = refused(make_record(b"[" + compact(make_event()) + b"," + deep + b"]"))

    assert (reject.reason, reject.index, reject.of) == (Reason.TOO_DEEP, 0, 1)


@pytest.mark.parametrize(
    ("content_type", "value", "reason"),
    [
        (b"application/cloudevents+json", [make_event()], Reason.NOT_CLOUDEVENT),
        (b"application/cloudevents-batch+json", make_event(), Reason.NOT_CLOUDEVENT),
        (b"application/cloudevents-batch+json", [], Reason.NOT_CLOUDEVENT),
        (b"application/cloudevents+avro", make_event(), Reason.NOT_CLOUDEVENT),
        (b"application/json", make_event(), Reason.NOT_CLOUDEVENT),
        (b"application/json", b'{"a":1,"a":2}', Reason.DUPLICATE_KEY),
        (b"application/cloudevents+json", b'[{"a":1,"a":2}]', Reason.DUPLICATE_KEY),
        (b"application/cloudevents+avro", b"\x00Obj", Reason.NOT_JSON),
    ],
)
def test_the_content_type_decides_the_mode(content_type: bytes, value: Any, reason: Reason) -> None:
    """What does not fit the mode that the header names is no event in it."""
    assert reason_for(value, [("content-type", content_type)]) is reason


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/cloudevents+json; charset=utf-8",
        b"Application/CloudEvents+JSON",
        b" application/cloudevents+json ",
    ],
)
def test_a_content_type_is_compared_as_media_types_are(content_type: bytes) -> None:
    """Parameters, case and blanks around it do not matter."""
    assert decoded(make_record(make_event(), headers=[("content-type", content_type)])).events.height == 1


def test_headers_may_be_a_list() -> None:
    """As some clients hand them out."""
    record = make_record(make_event(), headers=STRUCTURED)
    as_lists: Any = [list(STRUCTURED), list(STRUCTURED)]

    assert decoded(*[record._replace(headers=headers) for headers in as_lists]).events.height == 2


def test_binary_mode_needs_no_content_type() -> None:
    """A ce_specversion header is enough to know that the value is data."""
    record = make_binary_record(make_data())
    without = record._replace(headers=record.headers[1:])

    assert decoded(without).events.equals(decoded(record).events)


@pytest.mark.parametrize(
    ("header", "value", "reason"),
    [
        ("ce_specversion", ..., Reason.NOT_CLOUDEVENT),
        ("ce_specversion", b"0.3", Reason.NOT_CLOUDEVENT),
        ("ce_subject", ..., Reason.MISSING_FIELD),
        ("ce_subject", None, Reason.MISSING_FIELD),
        ("ce_subject", b"\xff", Reason.BAD_TYPE),
        ("ce_subject", b"", Reason.BAD_ID),
        ("ce_subject", b"two\nlines", Reason.BAD_ID),
        ("ce_id", SECRET.encode(), Reason.RAW_SECRET),
        ("ce_time", b"yesterday", Reason.BAD_TIME),
    ],
)
def test_headers_of_binary_mode_are_judged_like_attributes(header: str, value: Any, reason: Reason) -> None:
    """A header that is missing or null is a missing attribute; bytes that are no UTF-8 are no string."""
    record = make_binary_record(make_data())
    headers = [(name, text) for name, text in record.headers if name != header]
    if value is not ...:
        headers.append((header, value))

    assert refused(record._replace(headers=tuple(headers))).reason is reason


def test_an_attribute_header_that_occurs_twice_is_a_repeated_name() -> None:
    """Which of both the producer meant cannot be known."""
    record = make_binary_record(make_data())

    reject = refused(record._replace(headers=(*record.headers, ("ce_id", b"other"))))

    assert (reject.reason, reject.id, reject.org) == (Reason.DUPLICATE_KEY, "", "acme")


def test_a_stray_data_header_is_an_extension_attribute() -> None:
    """In binary mode data is the value and nothing else."""
    record = make_binary_record(make_data())

    batch = decoded(record._replace(headers=(*record.headers, ("ce_data", b"{}"), ("ce_data", b"5"))))

    assert batch.events["project"].to_list() == ["checkout"]


@pytest.mark.parametrize(("value", "reason"), [(b"null", Reason.MISSING_FIELD), (b"[]", Reason.BAD_TYPE)])
def test_the_value_of_binary_mode_is_data(value: bytes, reason: Reason) -> None:
    """So what is wrong with it is wrong with data."""
    assert refused(make_binary_record(value)).reason is reason


# --- reasons, in their order ----------------------------------------------------------------------------------------


def test_a_value_of_one_mebibyte_is_the_largest() -> None:
    """One byte more is too_large, whatever it is."""
    fits = compact(make_event()).ljust(1024 * 1024)

    assert decoded(make_record(fits)).events.height == 1
    assert reason_for(fits + b" ") is Reason.TOO_LARGE
    assert reason_for(b"[" * (1024 * 1024 + 1)) is Reason.TOO_LARGE


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 17,
        b"[" * (1024 * 1024),
        b'{"a":' * 17,
        b"]" * 5 + b"[" * 17,
        b'"[[[" ' + b"[" * 17,
        b'"\\"' + b'"' + b"[" * 17,
        b"[" * 100_000 + b"]" * 100_000,
        compact(make_event())[:-1] + b',"ext":' + b"[" * 16 + b"]" * 16 + b"}",
    ],
    ids=["17", "a mebibyte", "objects", "after stray closers", "after a string", "after an escape", "100000", "in ext"],
)
def test_brackets_deeper_than_16_are_too_deep(value: bytes) -> None:
    """Judged on the bytes, JSON or not, before a parser could run out of stack."""
    assert reason_for(value) is Reason.TOO_DEEP


def test_brackets_in_strings_and_side_by_side_are_not_deep() -> None:
    """Depth 16 is allowed, the outermost bracket being 1."""
    event = {"ext": json.loads("[" * 15 + "]" * 15), "wide": [[]] * 50, "text": "[{" * 50 + '"' + "[" * 50}

    assert decoded(make_record(event | make_event())).events.height == 1


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"  ",
        b"{",
        b"hello",
        b"\xef\xbb\xbf" + compact(make_event()),
        compact(make_event()).decode().encode("utf-16"),
        compact(make_event(id="\xff")).replace(b"\\u00ff", b"\xff"),
        compact(make_event(id="@")).replace(b"@", b"\xed\xa0\x80"),
        compact(make_event()) + b"x",
        compact(make_event()) + compact(make_event()),
        compact(make_event())[:-1] + b",}",
        b"[" + compact(make_event()) + b",]",
        with_text("NaN"),
        with_text('{"a": Infinity}'),
        with_text('{"a": -Infinity}'),
        with_text('{"a": 01}'),
        with_text('{"a": +1}'),
        with_text('{"a": .5}'),
        with_text('{"a": 1_000}'),
        with_text('{"a": "tab\there"}'),
        with_text("{'a': 1}"),
        compact(make_event())[:-1] + b',"ext":nan}',
    ],
)
def test_what_is_no_strict_json_in_utf8_is_not_json(value: bytes | None) -> None:
    """No value, a byte order mark, bare NaN and trailing garbage among them."""
    assert reason_for(value) is Reason.NOT_JSON


@pytest.mark.parametrize(
    "text",
    [
        b'"id":"req-7f3a"',
        b'"i\\u0064":"other"',
        b'"ext":{"a":1,"a":1}',
        b'"ext":[{"a":[{"b":1,"\\u0062":2}]}]',
        b'"":1,"":1',
        b'"\\ud800":1,"\\ud800":1',
    ],
)
def test_a_repeated_name_at_any_depth_is_a_duplicate_key(text: bytes) -> None:
    """Parsers differ in which value they keep; names are compared after unescaping, extensions included."""
    assert reason_for(compact(make_event())[:-1] + b"," + text + b"}") is Reason.DUPLICATE_KEY


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":1}', '{"a":1,"\\u0061":2}', '{"a":{"b":1,"b":1}}', '{"requests":1,"requests":1}']
)
def test_a_repeated_name_of_a_quantity_is_a_duplicate_key(text: str) -> None:
    """Adding both, or keeping one, would both be guesses about money."""
    assert reason_for(with_text(text)) is Reason.DUPLICATE_KEY


@pytest.mark.parametrize("repeated", ["variant", "tags", "user", "project", "usage", "status"])
def test_a_repeated_field_of_data_is_a_duplicate_key(repeated: str) -> None:
    """Also when one of both is null or absent in meaning."""
    data = compact(make_data(tags={"a": "b"}, variant={"batch": True}))

    value = compact(make_event(data="@")).replace(b'"@"', data[:-1] + f',"{repeated}":null}}'.encode())

    assert reason_for(value) is Reason.DUPLICATE_KEY


def test_the_same_name_in_different_objects_is_fine() -> None:
    """A tag may be called like a field."""
    assert decoded(make_record(with_data(tags={"id": "id", "project": "project"}))).events.height == 1


@pytest.mark.parametrize(
    "value",
    [
        5,
        "text",
        True,
        b"null",
        [],
        {},
        make_event(specversion=...),
        make_event(specversion=None),
        make_event(specversion=1.0),
        make_event(specversion="1.0.1"),
        make_event(specversion="0.3", id=...),
    ],
)
def test_what_does_not_call_itself_cloudevents_1_0_is_not_cloudevent(value: Any) -> None:
    """Before any field is asked for."""
    assert reason_for(value) is Reason.NOT_CLOUDEVENT


def test_a_batch_holds_at_most_a_thousand_events() -> None:
    """One more and the record is refused as a whole, with one refusal."""
    thousand = [make_event(id=f"e{i}") for i in range(1000)]

    assert decoded(make_record(thousand)).events.height == 1000
    reject = refused(make_record([*thousand, 5]))
    assert (reject.reason, reject.index, reject.of) == (Reason.TOO_MANY_EVENTS, 0, 1)


def test_a_batch_that_is_refused_as_a_whole_is_judged_as_a_whole() -> None:
    """Of the reasons that apply to the record the earliest counts, so a repeated name comes before their number."""
    assert reason_for(b"[" + b",".join([b"5"] * 1000 + [b'{"a":1,"a":2}']) + b"]") is Reason.DUPLICATE_KEY


@pytest.mark.parametrize("nothing", [..., None])
@pytest.mark.parametrize("name", ["id", "source", "subject", "type", "time", "data"])
def test_an_attribute_that_is_missing_or_null_is_a_missing_field(name: str, nothing: Any) -> None:
    """Nothing is invented for the producer, an id or a time least of all."""
    reject = refused(make_record(make_event(**{name: nothing})))

    assert (reject.reason, reject.detail) == (Reason.MISSING_FIELD, f"{name} is missing")


@pytest.mark.parametrize("nothing", [..., None])
@pytest.mark.parametrize("name", ["project", "api_key"])
def test_a_required_field_of_data_that_is_missing_is_a_missing_field(name: str, nothing: Any) -> None:
    """Without it the event cannot be billed to anyone."""
    reject = refused(make_record(with_data(**{name: nothing})))

    assert (reject.reason, reject.detail) == (Reason.MISSING_FIELD, f"data.{name} is missing")


@pytest.mark.parametrize(
    "event",
    [
        *[make_event(**{name: 5}) for name in ("id", "source", "subject", "type", "time", "data")],
        make_event(data=[]),
        make_event(data="text"),
        make_event(data=True),
        *[with_data(**{name: 5}) for name in ("project", "api_key", "environment", "user", "provider", "model")],
        *[with_data(**{name: 5}) for name in ("status", "usage", "tags")],
        *[with_data(**{name: ""}) for name in ("status", "usage", "tags")],
        *[with_data(**{name: []}) for name in ("status", "usage", "tags")],
        *[with_data(**{name: False}) for name in ("status", "usage", "tags")],
        *[with_data(variant=other) for other in ("", "flex", 5)],
        *[with_data(variant={key: 5}) for key in ("service_tier", "batch", "speed", "region")],
        *[with_data(variant={"batch": other}) for other in ("true", "", 0)],
        with_data(variant={"speed": True}),
        with_data(variant={"speed": "\ud800"}),
        with_data(status="OK"),
        with_data(tags={"a": 1}),
        with_data(tags={"a": None}),
        with_data(tags={"a": ["b"]}),
        with_data(tags={f"t{i}": "" for i in range(17)}),
        with_data(tags={"a": "x" * 129}),
        with_data(tags={"x" * 129: "a"}),
        make_event(id="\ud800"),
        make_event(time="\udfff"),
        with_data(model="\ud800"),
        with_data(tags={"a": "\ud83d"}),
        with_data(tags={"\ud83d": "a"}),
        with_data(usage={"\ud83d": 1}),
        with_data(usage={"a": "\ud83d"}),
        with_data(other={"deep": ["\ud83d"]}),
    ],
)
def test_a_wrong_type_a_value_outside_its_list_or_half_a_surrogate_pair_is_bad_type(event: dict[str, Any]) -> None:
    """A quantity of the wrong type is not among them: that is bad_quantity."""
    assert reason_for(event) is Reason.BAD_TYPE


def test_tags_up_to_their_limits_are_accepted() -> None:
    """Sixteen pairs of 128 characters, counted as characters and not as bytes, the empty string among them."""
    tags = {f"{i:02d}" + "é" * 126: "😀" * 128 for i in range(15)} | {"": ""}

    assert decoded(make_record(with_data(tags=tags))).events["tags"].str.json_decode().len() == 1


@pytest.mark.parametrize("bad", ["", "a b", "a" * 129, "é", "tab\t", "line\n", "x\x00", 'quote"', "a,b", "back\\slash"])
@pytest.mark.parametrize("name", ["id", "source", "subject", "type", "project", "api_key"])
def test_an_id_outside_its_alphabet_is_bad_id(name: str, bad: str) -> None:
    """1 to 128 of letters, digits and a few signs, so that ids survive URLs, files and topics."""
    attribute = name in {"id", "source", "subject", "type"}

    assert reason_for(make_event(**{name: bad}) if attribute else with_data(**{name: bad})) is Reason.BAD_ID


@pytest.mark.parametrize("name", ["environment", "user", "provider", "model"])
def test_an_optional_id_that_is_given_is_judged_like_any_other(name: str) -> None:
    """Only the empty string means that there is none."""
    assert reason_for(with_data(**{name: " "})) is Reason.BAD_ID


@pytest.mark.parametrize("key", ["service_tier", "speed", "region"])
def test_a_value_of_a_variant_is_judged_like_any_id(key: str) -> None:
    """Only the empty string means that there is none."""
    assert reason_for(with_data(variant={key: " "})) is Reason.BAD_ID
    assert reason_for(with_data(variant={key: "x" * 129})) is Reason.BAD_ID


def test_every_character_of_an_id_is_accepted() -> None:
    """The whole alphabet, up to 128 characters."""
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/@~?#%+-"
    name = alphabet.ljust(128, "x")

    batch = decoded(make_record(make_event(id=name, subject=alphabet)))

    assert batch.events.select("id", "org").row(0) == (name, alphabet)


@pytest.mark.parametrize(
    "event",
    [
        *[make_event(**{name: SECRET}) for name in ("id", "source", "subject", "type")],
        *[with_data(**{name: SECRET}) for name in ("project", "api_key", "environment", "user", "provider", "model")],
        with_data(variant={"region": SECRET}),
        with_data(variant={SECRET: "a"}),
        with_data(tags={"a": SECRET}),
        with_data(tags={SECRET: "a"}),
        with_data(tags={"authorization": f"Bearer {JWT}"}),
        with_data(usage={"sk_live_key": 1}),
        with_data(usage={"a": SECRET}),
        with_data(prompt={"deep": [1, SECRET]}),
        with_data(**{SECRET: 1}),
    ],
)
def test_a_string_that_begins_like_a_secret_is_refused_and_shown_nowhere(event: dict[str, Any]) -> None:
    """Anywhere in data, names included, and in every id."""
    reject = refused(make_record(event))

    assert reject.reason is Reason.RAW_SECRET
    shown = repr(reject)
    assert SECRET[:12] not in shown
    assert JWT[:12] not in shown


def test_a_secret_inside_the_name_of_a_bad_quantity_is_masked() -> None:
    """The name does not begin like one, so the event is refused for its quantity."""
    reject = refused(make_record(with_data(usage={"my_sk_live_key12345": -1})))

    assert reject.reason is Reason.BAD_QUANTITY
    assert "key12345" not in reject.detail + reject.payload_prefix


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("name", ["id", "source", "subject", "type"])
def test_every_shape_of_a_secret_is_found_in_ids(name: str, secret: str) -> None:
    """None of them has a character that an id may not have."""
    assert reason_for(make_event(**{name: secret})) is Reason.RAW_SECRET


def test_a_secret_in_escapes_is_shown_nowhere_either() -> None:
    """A reader of the refusal could undo the escapes as well as anyone."""
    value = compact(with_data(api_key="@")).replace(b"@", b"\\u0073k\\u002dproj-abcdefghijklmnop1234")

    reject = refused(make_record(value))

    assert reject.reason is Reason.RAW_SECRET
    assert "abcdefgh" not in reject.payload_prefix


@pytest.mark.parametrize(
    "time",
    [
        "",
        "2026-03-01",
        "2026-03-01T12:00:00",
        "2026-03-01 12:00:00Z",
        "2026-03-01T12:00Z",
        "2026-03-01T12:00:60Z",
        "2026-03-01T24:00:00Z",
        "2026-03-01T12:00:00,5Z",
        "2026-03-01T12:00:00.Z",
        "2026-03-01T12:00:00+0100",
        "2026-03-01T12:00:00+24:00",
        "2026-03-01T12:00:00+01:60",
        "2026-02-29T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "2026-00-01T12:00:00Z",
        "2026-03-00T12:00:00Z",
        " 2026-03-01T12:00:00Z",
        "2026-03-01T12:00:00Z\n",
        "2026-03-01T12:00:00−01:00",
        "２026-03-01T12:00:00Z",
        "2026-W09-7T12:00:00Z",
        "1772366700",
        "0000-06-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
    ],
)
def test_what_is_no_rfc_3339_instant_of_the_years_1_to_9999_is_bad_time(time: str) -> None:
    """Judged before how far it lies away."""
    assert reason_for(make_event(time=time)) is Reason.BAD_TIME


@pytest.mark.parametrize(
    ("time", "reason"),
    [
        ("2026-03-01T12:10:00.000001Z", Reason.TIME_IN_FUTURE),
        ("2026-01-25T12:04:59.999999Z", Reason.TIME_TOO_OLD),
        ("9999-12-31T23:59:59Z", Reason.TIME_IN_FUTURE),
        ("0001-01-01T00:00:00-00:01", Reason.TIME_TOO_OLD),
    ],
)
def test_a_time_too_far_from_the_brokers_is_refused(time: str, reason: Reason) -> None:
    """More than five minutes ahead or 35 days behind: no clock of ours is asked."""
    assert reason_for(make_event(time=time)) is reason


def test_limits_can_be_raised_for_a_backfill() -> None:
    """And lowered, to the second and to the day."""
    old, future = (
        make_record(make_event(time="2020-03-01T12:00:00Z")),
        make_record(make_event(time="2026-03-01T13:00:00Z")),
    )

    assert decoded(old, max_age_days=4000).events.height == 1
    assert decoded(future, max_ahead_seconds=3300).events.height == 1
    assert refused(future, max_ahead_seconds=3299).reason is Reason.TIME_IN_FUTURE


def test_a_producers_clock_on_the_record_stops_nobody() -> None:
    """A topic without LogAppendTime may hold any timestamp; events are refused, the worker goes on."""
    batch = decoded(
        make_record(make_event(), received_ms=-1),
        make_record(make_event(), received_ms=2**62),
        make_record(None, received_ms=2**62),
    )

    assert [reject.reason for reject in batch.rejects] == [Reason.TIME_IN_FUTURE, Reason.TIME_TOO_OLD, Reason.NOT_JSON]


@pytest.mark.parametrize("name", ["prompt", "Project", "tag", "", "usage ", "input_tokens"])
def test_a_field_that_nobody_knows_is_an_unknown_field(name: str) -> None:
    """A misspelt field would silently lose what it says."""
    assert reason_for(with_data(**{name: None})) is Reason.UNKNOWN_FIELD


def test_a_key_that_a_variant_does_not_have_is_an_unknown_field() -> None:
    """The keys are a closed list, because prices are selected by them; anything else belongs into tags."""
    reject = refused(make_record(with_data(variant={"tier": None})))

    assert reject.reason is Reason.UNKNOWN_FIELD
    assert reject.detail == (
        "data.variant.'tier' is no key of a variant; the keys are service_tier, batch, speed, region"
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"a": -1}',
        '{"a": -0.000000001}',
        '{"a": 1000000000000001}',
        '{"a": 1000000000000000.000000001}',
        '{"a": 99999999999999999999999999}',
        '{"a": 1e16}',
        '{"a": 1e400}',
        '{"a": 1e99999999999999999999999999}',
        '{"a": 1e-10}',
        '{"a": 1e-99999999999999999999999999}',
        '{"a": 0.1234567891}',
        '{"a": "1e3"}',
        '{"a": "-0"}',
        '{"a": "+1"}',
        '{"a": " 1"}',
        '{"a": "1\\n"}',
        '{"a": ""}',
        '{"a": "."}',
        '{"a": "1."}',
        '{"a": ".5"}',
        '{"a": "１"}',
        '{"a": "1_000"}',
        '{"a": "NaN"}',
        '{"a": "0.1234567891"}',
        '{"a": null}',
        '{"a": true}',
        '{"a": [1]}',
        '{"a": {}}',
        '{"": 1}',
        '{"A": 1}',
        '{"1a": 1}',
        '{"a-b": 1}',
        '{"a ": 1}',
        '{"é": 1}',
        '{"requests": 1}',
        '{"input_context_tokens": 1}',
        "{" + f'"{"a" * 65}": 1' + "}",
        "{" + ",".join(f'"a{i}": 1' for i in range(65)) + "}",
    ],
)
def test_what_is_no_quantity_is_bad_quantity(text: str) -> None:
    """Wrong types, names, reserved names and numbers beyond the limits; never rounded, never cut."""
    assert reason_for(with_text(text)) is Reason.BAD_QUANTITY


def test_64_quantities_with_names_of_64_characters_are_accepted() -> None:
    """The limits themselves are inside."""
    usage = {f"a{i:063d}": i for i in range(64)}

    assert len(quantities(with_data(usage=usage))) == 64


ORDER = [
    (Reason.DUPLICATE_KEY, lambda event: compact(event)[:-1] + b',"ext":{"a":1,"a":1}}'),
    (Reason.NOT_CLOUDEVENT, {"specversion": "2.0"}),
    (Reason.MISSING_FIELD, {"type": None}),
    (Reason.BAD_TYPE, {"data.status": "maybe"}),
    (Reason.BAD_ID, {"data.project": "a b"}),
    (Reason.RAW_SECRET, {"data.api_key": SECRET}),
    (Reason.BAD_TIME, {"time": "noon"}),
    (Reason.TIME_IN_FUTURE, {"time": "2030-01-01T00:00:00Z"}),
    (Reason.UNKNOWN_FIELD, {"data.other": 1}),
    (Reason.BAD_QUANTITY, {"data.usage": {"a": -1}}),
]


@pytest.mark.parametrize("first", range(len(ORDER)), ids=[reason.value for reason, _ in ORDER])
def test_of_several_reasons_the_first_of_the_list_counts(first: int) -> None:
    """Each is found with every later one in the same event: all fields are asked for one reason, then for the next."""
    event = make_event()
    for _, change in reversed(ORDER[first:]):
        if isinstance(change, dict):
            ((path, value),) = change.items()
            target = event["data"] if path.startswith("data.") else event
            target[path.removeprefix("data.")] = value
    change = ORDER[first][1]

    assert reason_for(change(event) if callable(change) else event) is ORDER[first][0]


# --- what a refusal tells -------------------------------------------------------------------------------------------


def test_a_refusal_carries_where_it_stood_and_what_it_was() -> None:
    """Coordinates, the broker's time, the digest of the value and its beginning."""
    value = compact(make_event(time="noon"))

    reject = refused(make_record(value, offset=9))

    assert reject == Reject(
        reason=Reason.BAD_TIME,
        detail="time is 'noon'; it must be RFC 3339 with a zone, such as \"2026-03-01T12:00:00.123Z\","
        " in the years 1 to 9999",
        topic="usage.events",
        partition=0,
        offset=9,
        index=0,
        of=1,
        received_at=datetime(2026, 3, 1, 12, 5, tzinfo=UTC),
        org="acme",
        id="req-7f3a",
        payload_sha256=hashlib.sha256(value).hexdigest(),
        payload_prefix=value.decode()[:256],
    )


def test_a_record_without_a_value_has_the_digest_of_nothing() -> None:
    """So that the field is a digest always."""
    reject = refused(make_record(None))

    assert (reject.payload_sha256, reject.payload_prefix) == (hashlib.sha256(b"").hexdigest(), "")


@pytest.mark.parametrize("bad", ["a b", "", 5, None, SECRET])
def test_an_org_that_is_no_valid_id_is_not_repeated(bad: Any) -> None:
    """Nobody can be told that something of theirs was refused when it is not known who they are."""
    reject = refused(make_record(make_event(subject=bad)))

    assert (reject.org, reject.id) == ("", "req-7f3a")


def test_an_org_that_is_given_twice_is_not_readable() -> None:
    """With two answers there is none; the id, given once, is."""
    reject = refused(make_record(compact(make_event())[:-1] + b',"subject":"other"}'))

    assert (reject.org, reject.id) == ("", "req-7f3a")


@pytest.mark.parametrize("length", range(230, 262))
def test_a_secret_across_the_end_of_the_prefix_is_masked(length: int) -> None:
    """Whether or not enough of it would be shown to be recognised there."""
    value = (b'"' + b"." * length + b'"' + SECRET.encode() + b" ").ljust(9000, b"z")

    prefix = refused(make_record(value)).payload_prefix

    assert len(prefix) <= 256
    assert "sk-p" not in prefix


def test_a_prefix_of_bytes_that_are_no_text_is_still_text() -> None:
    """What can't be decoded is replaced."""
    assert refused(make_record(b"\xff\xfe{")).payload_prefix == "\ufffd\ufffd{"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{" * 1024 * 1024, Reason.TOO_DEEP),
        (b"[]" * 512 * 1024, Reason.NOT_JSON),
        (b'"' + b'\\"' * 500_000, Reason.NOT_JSON),
        (b"[" + b"{}," * 300_000 + b"{}]", Reason.TOO_MANY_EVENTS),
        (with_text("[" + "1," * 500_000 + "1]"), Reason.BAD_TYPE),
        (with_text('{"a":' + "9" * 1_000_000 + "}"), Reason.BAD_QUANTITY),
        (with_text('{"a":1e' + "9" * 1_000_000 + "}"), Reason.BAD_QUANTITY),
        (with_text("{" + ",".join(f'"a{i}":1' for i in range(80_000)) + "}"), Reason.BAD_QUANTITY),
        (compact(make_event(id="sk-" * 300_000)), Reason.BAD_ID),
        (compact(with_data(other=["sk-a"] * 100_000)), Reason.UNKNOWN_FIELD),
        (b"[" + b",".join([b'{"specversion":"1.0","pad":"' + b"x" * 900 + b'"}'] * 1000) + b"]", Reason.MISSING_FIELD),
    ],
    ids=[
        "braces",
        "brackets",
        "escapes",
        "events",
        "numbers",
        "digits",
        "exponent",
        "names",
        "id",
        "strings",
        "bad ones",
    ],
)
def test_a_hostile_mebibyte_is_decided(value: bytes, reason: Reason) -> None:
    """Time grows with the length of the value alone, for each refusal and for all refusals of a batch together."""
    assert {reject.reason for reject in decoded(make_record(value)).rejects} == {reason}


@pytest.mark.parametrize(
    "event",
    [
        make_event(id="x" * 100_000),
        make_event(time="x" * 100_000),
        with_data(**{"x" * 100_000: 1}),
        with_data(tags={"x" * 100_000: 1}),
        with_data(usage={"x" * 100_000: 1}),
        with_data(usage={"a": "9" * 100_000}),
        with_data(status="é" * 100_000),
    ],
)
def test_a_detail_never_repeats_long_input(event: dict[str, Any]) -> None:
    """A refusal stays small, whatever was sent."""
    assert len(refused(make_record(event)).detail) < 600


def test_a_detail_masks_secrets_in_what_it_shows() -> None:
    """A secret in the middle of a bad id is no raw_secret, and is not shown either."""
    reject = refused(make_record(with_data(project=f"key {SECRET} !")))

    assert reject.reason is Reason.BAD_ID
    assert "[redacted]" in reject.detail
    assert SECRET[3:] not in reject.detail + reject.payload_prefix


def test_rejects_come_in_the_order_of_the_records() -> None:
    """Like events do, across partitions and modes."""
    records = [
        make_record([{}, make_event(id="a"), 5], offset=3)._replace(partition=1),
        make_record(None, offset=8),
        make_binary_record(b"null")._replace(offset=4, partition=1),
        make_record(make_event(id="b"), offset=9),
    ]

    batch = decode(records, limits=Limits())

    assert [(r.partition, r.offset, r.index) for r in batch.rejects] == [(1, 3, 0), (1, 3, 2), (0, 8, 0), (1, 4, 0)]
    assert batch.events.select("partition", "offset", "index", "id").rows() == [(1, 3, 1, "a"), (0, 9, 0, "b")]


def test_one_bad_record_changes_nothing_for_its_neighbours() -> None:
    """The good events of a batch are the same rows whether or not bad ones stand between them."""
    good = [make_record(make_event(id=f"e{i}"), offset=2 * i) for i in range(600)]
    bad = [
        make_record(value, offset=2 * i + 1) for i, value in enumerate([None, b"[" * 99, b'"\\ud800"', b"\xff"] * 150)
    ]
    mixed = [record for pair in zip(good, bad, strict=True) for record in pair]

    alone, among = decode(good, limits=Limits()), decode(mixed, limits=Limits())

    assert among.events.equals(alone.events)
    assert among.usage.equals(alone.usage)
    assert len(among.rejects) == 600


def test_received_at_is_the_brokers_time() -> None:
    """Of the record, for good and bad alike."""
    batch = decoded(make_record(make_event(), received_ms=RECEIVED_MS + 1))

    assert batch.events["received_at"].dtype == pl.Datetime("us", "UTC")
    assert batch.events["received_at"].to_list() == [datetime(2026, 3, 1, 12, 5, 0, 1000, tzinfo=UTC)]
